#pragma once
/* What attend_tensor.cu and its dispatch have to agree on: sizes in shared memory and in the
 * workspace, and which tiles of a sequence there are. C reads these functions as they are, the
 * kernel as constants. */
#include "params.h"
#include "tensor_params.h"

#ifdef __cplusplus
#define SHARED __host__ __device__ constexpr
#else
#define SHARED static inline
#endif

/* The case that a kernel is compiled for; sizes of rows and scales in bytes. */
typedef struct tensor_case {
    uint head_dim, rows, warps, tile, stages, merge_warps;
    uint key_row, value_row, key_scale, value_scale;
    uint has_means, has_original; /* has_original: there are means or staged pages */
    uint key_taps, value_taps;    /* the codes have three taps */
    uint staged_bytes;            /* of a buffer for a staged tile */
    uint mask_bytes;              /* of a tile's part of a mask that all rows share */
} tensor_case;

enum { MAX_STAGED_WORDS = 256 /* bits of the tiles of a block's share of a head */,
       MEAN_PADDING = 16 /* bytes that are copied behind a mean's levels: its scale first */ };

SHARED uint tensor_mean_bytes(const tensor_case *c)
{
    return c->has_means ? c->head_dim + MEAN_PADDING : 0;
}

/* A tile of keys, or of values: codes, scales, mean. A stage of a ring has both, and a mask. */
SHARED uint tensor_key_bytes(const tensor_case *c)
{
    return c->tile * (c->key_row + c->key_scale) + tensor_mean_bytes(c);
}

SHARED uint tensor_value_bytes(const tensor_case *c)
{
    return c->tile * (c->value_row + c->value_scale) + tensor_mean_bytes(c);
}

SHARED uint tensor_stage_bytes(const tensor_case *c)
{
    return tensor_key_bytes(c) + tensor_value_bytes(c) + c->mask_bytes;
}

/* Coordinates of a row of sums: of whole fragments. */
SHARED uint tensor_padded_dim(const tensor_case *c)
{
    return c->head_dim == 64 && !c->value_taps ? 64 : (c->head_dim + 127) / 128 * 128;
}

/* Floats of a partial result's row: sums in the rows' domain, the row's ref, total and largest
 * logit, sums in the original domain. */
SHARED uint tensor_part_row(const tensor_case *c)
{
    return tensor_padded_dim(c) + 4 + (c->has_original ? c->head_dim : 0);
}

/* struct workplace, at most. */
SHARED uint tensor_workplace_bytes(const tensor_case *c)
{
    uint sets = c->rows <= 4 ? 1 : c->rows / 4, steps = (c->head_dim + 31) / 32;
    uint fragments = ((c->key_taps ? 3 : 2) + (c->has_means ? 1 : 0)) * steps * sets * 256;
    uint of_rows = (3 * c->warps + 12) * c->rows * 4;
    return (c->warps * (c->stages + 1) + 2) * 8 + fragments + of_rows + c->rows * 8 +
           (c->has_original ? (MAX_STAGED_WORDS + c->tile * c->rows) * 4 : 8) + 64;
}

/* Shared memory of a block: rings, queries as they come (two segments'), rows of floats to work
 * in, rows in the original domain, a staged tile, merge buffers, the workplace. */
SHARED uint tensor_local_bytes(const tensor_case *c)
{
    uint row = c->head_dim * 4;
    return c->warps * c->stages * tensor_stage_bytes(c) + 2 * c->rows * row + c->rows * 2 * row +
           (c->has_original ? c->rows * row : 0) + c->staged_bytes +
           c->merge_warps * c->rows * (tensor_padded_dim(c) + 4) * 4 +
           tensor_workplace_bytes(c);
}

/* The tokens that query i of a sequence's n_queries sees. */
SHARED void tensor_sight(const tensor_params *p, uint length, uint n_queries, uint i, uint *low,
                         uint *high)
{
    ulong position = p->has_lengths
                         ? p->first_position + length - (length < n_queries ? length : n_queries)
                         : p->position;
    ulong at = position + i;
    *low = 0;
    *high = length;
    if (p->causal)
        *high = at < p->first_position ? 0
                : at - p->first_position < length ? (uint)(at - p->first_position) + 1
                                                  : length;
    if (p->window && at >= p->window && at - p->window >= p->first_position) {
        ulong first = at - p->window - p->first_position + 1;
        *low = first < length ? (uint)first : length;
    }
}

/* The tiles that some of its queries see. */
SHARED void tensor_tiles(const tensor_params *p, uint length, uint n_queries, uint tile, uint *first,
                         uint *n)
{
    uint low = 0, high = 0, unused = 0;
    tensor_sight(p, length, n_queries, 0, &low, &unused);
    tensor_sight(p, length, n_queries, n_queries - 1, &unused, &high);
    *first = (p->skipped + low) / tile;
    uint end = (uint)(((ulong)p->skipped + high + tile - 1) / tile);
    *n = end > *first ? end - *first : 1;
    if (end <= *first)
        *first = 0; /* nothing is seen, of a tile that is there */
}

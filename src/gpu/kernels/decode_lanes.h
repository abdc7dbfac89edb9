#pragma once
/* A row by dim / 32 items side by side, its *lanes*: each has four pieces of eight values in
 * registers, lanes taking turns, so that their loads and stores lie side by side. For
 * Sylvester's matrices. The sums are those of hadamard, in its order: within pieces, between
 * lanes, between an item's pieces. */
#include "number.h"
#include "hadamard.h"
#include "stream.h"

enum {
    LANE_VALUES = 32,
    /* Floats in local memory: stream.h's table, and pairs a, b of tq4; then those of
     * lanes_butterfly. */
    LANES_TABLE = TABLE_FLOATS + 32
};

INLINE uint row_lanes(const format_params *f)
{
    return f->head_dim / LANE_VALUES;
}

INLINE void lanes_table(const format_params *f, LOCAL float *table, uint item, uint n_items)
{
    table_load(f, table, item, n_items);
    for (uint i = item; i < 32; i += n_items)
        table[TABLE_FLOATS + i] = i & 1 ? TRELLIS_B[2][i / 2] : TRELLIS_A[2][i / 2];
    BARRIER(n_items);
}

/* Both halves of a level that a nibble of tq4 takes part in. */
INLINE void pair_load(LOCAL const float *pairs, uint nibble, float *a, float *b)
{
#if defined(__CUDACC__)
    float2 pair = ((const float2 *)pairs)[nibble];
    *a = pair.x;
    *b = pair.y;
#else
    *a = pairs[2 * nibble];
    *b = pairs[2 * nibble + 1];
#endif
}

/* values_load, with one look-up a value for tq4 and none for tq8, whose windows are levels. */
INLINE void piece_load(const format_params *f, GLOBAL const uchar *codes, uint chunk,
                       LOCAL const float *table, float *x)
{
    if (f->kind == KIND_TRELLIS && f->bits == 4 && f->words) {
        uint word = stream_word(f, codes, chunk), next = stream_word(f, codes, chunk + 1);
        float a, unused;
        UNROLL for (uint j = 0; j < 8; j++)
        {
            pair_load(table + TABLE_FLOATS, word >> 4 * j & 15, &a, &x[j]);
            if (j > 0)
                x[j - 1] += a;
        }
        pair_load(table + TABLE_FLOATS, next & 15, &a, &unused);
        x[7] += a;
    } else if (f->kind == KIND_TRELLIS && f->bits == 8 && f->words) {
        UNROLL for (uint j = 0; j < 2; j++)
        {
            uint word = stream_word(f, codes, 2 * chunk + j);
            UNROLL for (uint k = 0; k < 4; k++)
                x[4 * j + k] = (float)((int)(word << (24 - 8 * k)) >> 24);
        }
    } else {
        values_load(f, codes, chunk, table, x);
    }
}

INLINE void lane_butterflies(float *x, uint h)
{
    UNROLL for (uint k = 0; k < LANE_VALUES / 2; k++)
    {
        uint i = (k & ~(h - 1)) * 2 + (k & (h - 1));
        float low = x[i], high = x[i + h];
        x[i] = low + high;
        x[i + h] = low - high;
    }
}

/* Of the values of this item and item ^ mask; memory has room for 8 floats of each item. */
INLINE void lanes_butterfly(float *x, uint mask, LOCAL float *memory, uint item, uint n_items)
{
    float sign = item & mask ? -1.0f : 1.0f; /* high - low is low + -1 high */
#ifdef HAS_WARPS
    UNROLL for (uint i = 0; i < LANE_VALUES; i++)
        x[i] = fmaf(sign, x[i], __shfl_xor_sync(~0u, x[i], mask));
#else
    for (uint at = 0; at < LANE_VALUES; at += 8) {
        for (uint i = 0; i < 8; i++)
            memory[i * n_items + item] = x[at + i];
        BARRIER(n_items);
        for (uint i = 0; i < 8; i++)
            x[at + i] = sign * x[at + i] + memory[i * n_items + (item ^ mask)];
        BARRIER(n_items);
    }
#endif
}

INLINE void lanes_hadamard(float *x, uint lanes, LOCAL float *memory, uint item, uint n_items)
{
    lane_butterflies(x, 1);
    lane_butterflies(x, 2);
    lane_butterflies(x, 4);
    UNROLL for (uint mask = 1; mask < lanes; mask *= 2)
        lanes_butterfly(x, mask, memory, item, n_items);
    lane_butterflies(x, 8);
    lane_butterflies(x, 16);
}

/* Values in the original domain, balanced still: of pieces lane, lane + lanes and so on. sign, 1
 * or -1, goes with the first scale. */
INLINE void lanes_decode(const format_params *f, PARAM const rotation_params *r,
                         GLOBAL const uchar *codes, GLOBAL const uchar *scales, float sign,
                         LOCAL const float *table, LOCAL float *memory, uint item, uint n_items,
                         float *x)
{
    uint lanes = row_lanes(f), lane = item % lanes;
    bool is_mlx = f->kind == KIND_MLX;
    float scale = sign * scale_load(f, scales, 0);
    UNROLL for (uint c = 0; c < LANE_VALUES / 8; c++)
        piece_load(f, codes, lane + lanes * c, table, x + 8 * c);
    if (is_mlx || !r->active) {
        UNROLL for (uint c = 0; c < LANE_VALUES / 8; c++)
        {
            uint block = (lane + lanes * c) / 32;
            float of_block = is_mlx && block ? scale_load(f, scales, block) : scale;
            UNROLL for (uint j = 0; j < 8; j++)
                x[8 * c + j] *= of_block;
        }
    }
    if (!r->active)
        return;
    lanes_hadamard(x, lanes, memory, item, n_items);
    float factor = is_mlx ? r->inverse_root : scale * r->inverse_root;
    UNROLL for (uint i = 0; i < LANE_VALUES; i++)
        x[i] *= factor;
    if (r->has_signs)
        UNROLL for (uint i = 0; i < LANE_VALUES; i++)
            x[i] = flipped(r, (lane + lanes * (i / 8)) * 8 + i % 8, x[i]);
}

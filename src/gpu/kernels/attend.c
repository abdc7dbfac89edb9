/* Attention on rows: partial results over ranges of tokens (split-KV). */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "mlx_table.h"
#include "stream.h"
#include "format_constants.h"
#include "place.h"

/* Query rows that share one decoding of the keys and values; tokens of a tile,
 * one for each item. A partial result is ROWS x (dim + 2) floats. */
#ifndef ROWS
#define ROWS 4
#endif
enum { TILE = 128 };

INLINE format_params key_format(PARAM const attend_params *p)
{
    format_params f = p->keys.format;
#ifdef KEY_BITS
    SET_CONSTANTS(f, KEY);
#endif
    return f;
}

INLINE format_params value_format(PARAM const attend_params *p)
{
    format_params f = p->values.format;
#ifdef VALUE_BITS
    SET_CONSTANTS(f, VALUE);
#endif
    return f;
}

/* Blocks of values that have a scale of their own. */
INLINE uint scale_blocks(const format_params *f)
{
    return f->kind == KIND_MLX && f->head_dim > 256 ? f->head_dim / 256 : 1;
}

INLINE uint max_of(uint a, uint b)
{
    return a > b ? a : b;
}

/* A scale that no encoder writes counts as 0. */
INLINE float safe_scale(const format_params *f, GLOBAL const uchar *scales, uint block)
{
    float scale = scale_load(f, scales, block);
    bool is_negated = f->kind == KIND_MLX && f->head_dim > 256 && f->block_factor < 0;
    float size = is_negated ? -scale : scale;
    return size > 0 && size < INFINITY ? scale : 0;
}

/* Plain numbers have no scales, and no buffer for them. */
INLINE GLOBAL const uchar *scales_at(const format_params *f, GLOBAL const uchar *scales,
                                     PARAM const operand_params *o, uint sequence, uint head,
                                     place at)
{
    if (f->kind == KIND_PLAIN)
        return scales;
    return scales + scale_offset(o, sequence, head, at);
}

INLINE float softcapped(PARAM const attend_params *p, float logit)
{
    return p->softcap > 0 ? p->softcap * tanhf(logit / p->softcap) : logit;
}

/* group_x is the split, group_y the KV head and the block of its query rows,
 * group_z the sequence. In local memory: the tables, ROWS queries (128 floats at
 * least), weights (8 * TILE floats at least), and 18 * ROWS floats more. */
KERNEL8(attend_split, attend_params, const float, queries, const uchar, key_codes, const uchar,
        key_scales, const uchar, value_codes, const uchar, value_scales, const uint, pages,
        const uint, lengths, float, partials)
{
    format_params kf = key_format(p), vf = value_format(p);
    uint key_dim = kf.head_dim, dim = vf.head_dim, value_blocks = scale_blocks(&vf);
    LOCAL float *key_table = (LOCAL float *)local_memory;
    LOCAL float *value_table = key_table + TABLE_FLOATS;
    LOCAL float *q = value_table + TABLE_FLOATS;          /* [key_dim][ROWS] */
    LOCAL float *weights = q + max_of(ROWS * key_dim, TILE); /* [value_blocks][TILE][ROWS] */
    LOCAL float *parts = weights + max_of(value_blocks * ROWS, 8) * TILE; /* [16][ROWS] */
    LOCAL float *state = parts + 16 * ROWS;               /* [2][ROWS]: max, correction */
    uint rows = p->n_queries * p->group, blocks = (rows + ROWS - 1) / ROWS;
    uint head = group_y / blocks, first_row = group_y % blocks * ROWS, sequence = group_z;
    uint length = p->has_lengths ? lengths[sequence] : p->n_tokens;
    length = length < p->n_tokens ? length : p->n_tokens;
    /* With lengths, the queries are the sequence's last positions. */
    ulong position = p->has_lengths
                         ? p->first_position + length - (length < p->n_queries ? length : p->n_queries)
                         : p->position;
    /* By this sequence's length: its bits are the same alone and beside others. */
    uint tiles = (length + TILE - 1) / TILE;
    uint per_split = (tiles + p->n_splits - 1) / p->n_splits * TILE;
    uint begin = group_x * per_split, end = begin + per_split < length ? begin + per_split : length;

    table_load(&kf, key_table, item, n_items);
    table_load(&vf, value_table, item, n_items);
    for (uint k = item; k < ROWS * key_dim; k += n_items) {
        uint r = first_row + k % ROWS, d = k / ROWS;
        r = r < rows ? r : rows - 1;
        ulong row = ((ulong)sequence * p->n_queries + r / p->group) * p->n_heads +
                    head * p->group + r % p->group;
        q[k] = queries[row * key_dim + d] * p->scale;
    }
    for (uint k = item; k < 2 * ROWS; k += n_items)
        state[k] = -INFINITY;
    float acc[ROWS][8], sum[ROWS];
    UNROLL for (uint r = 0; r < ROWS; r++)
    {
        sum[r] = 0;
        UNROLL for (uint j = 0; j < 8; j++)
            acc[r][j] = 0;
    }
    uint chunks = dim / 8, subsets = n_items / chunks;
    uint chunk = item % chunks, subset = item / chunks;
    BARRIER(n_items);

    for (uint tile = begin; tile < end; tile += TILE) {
        /* scores: a token each */
        for (uint t = item; t < TILE; t += n_items) {
            uint token = tile + t;
            float logit[ROWS];
            UNROLL for (uint r = 0; r < ROWS; r++)
                logit[r] = 0;
            if (token < end) {
                place at = token_place(&p->places, pages, sequence, token);
                GLOBAL const uchar *codes = key_codes + code_offset(&p->keys, sequence, head, at);
                GLOBAL const uchar *scales =
                    scales_at(&kf, key_scales, &p->keys, sequence, head, at);
                for (uint c = 0; c < key_dim / 8;) {
                    float block[ROWS];
                    UNROLL for (uint r = 0; r < ROWS; r++)
                        block[r] = 0;
                    uint block_end = c + 32 < key_dim / 8 ? c + 32 : key_dim / 8;
                    float scale = safe_scale(&kf, scales, c / 32);
                    for (; c < block_end; c++) {
                        float x[8];
                        values_load(&kf, codes, c, key_table, x);
                        UNROLL for (uint j = 0; j < 8; j++)
                            UNROLL for (uint r = 0; r < ROWS; r++)
                                block[r] = fmaf(x[j], q[(c * 8 + j) * ROWS + r], block[r]);
                    }
                    UNROLL for (uint r = 0; r < ROWS; r++)
                        logit[r] = fmaf(block[r], scale, logit[r]);
                }
            }
            ulong token_position = p->first_position + token;
            UNROLL for (uint r = 0; r < ROWS; r++)
            {
                ulong at = position + (first_row + r) / p->group;
                bool is_before = p->window && at >= p->window && token_position <= at - p->window;
                bool is_seen = token < end && first_row + r < rows && !is_before &&
                               (!p->causal || token_position <= at);
                weights[t * ROWS + r] = is_seen ? softcapped(p, logit[r]) : -INFINITY;
            }
        }
        BARRIER(n_items);
        /* the new maximum of each row, and what it makes of the old sums */
        for (uint k = item; k < 16 * ROWS; k += n_items) {
            float largest = -INFINITY;
            for (uint t = k / ROWS; t < TILE; t += 16) {
                float logit = weights[t * ROWS + k % ROWS];
                largest = logit > largest ? logit : largest;
            }
            parts[k] = largest;
        }
        BARRIER(n_items);
        for (uint r = item; r < ROWS; r += n_items) {
            float largest = state[r];
            for (uint k = 0; k < 16; k++)
                largest = parts[k * ROWS + r] > largest ? parts[k * ROWS + r] : largest;
            state[ROWS + r] = largest > -INFINITY ? expf(state[r] - largest) : 1;
            state[r] = largest;
        }
        BARRIER(n_items);
        /* weights, times the scales of the values */
        UNROLL for (uint r = 0; r < ROWS; r++)
        {
            sum[r] *= state[ROWS + r];
            UNROLL for (uint j = 0; j < 8; j++)
                acc[r][j] *= state[ROWS + r];
        }
        for (uint t = item; t < TILE; t += n_items) {
            uint token = tile + t < end ? tile + t : end - 1;
            place at = token_place(&p->places, pages, sequence, token);
            GLOBAL const uchar *scales =
                scales_at(&vf, value_scales, &p->values, sequence, head, at);
            float weight[ROWS];
            UNROLL for (uint r = 0; r < ROWS; r++)
            {
                float logit = weights[t * ROWS + r];
                weight[r] = logit > -INFINITY ? expf(logit - state[r]) : 0;
                sum[r] += weight[r];
            }
            for (uint b = 0; b < value_blocks; b++) {
                float scale = safe_scale(&vf, scales, b);
                UNROLL for (uint r = 0; r < ROWS; r++)
                    weights[(b * TILE + t) * ROWS + r] = weight[r] * scale;
            }
        }
        BARRIER(n_items);
        /* values: eight each, of every subsets-th token */
        uint n = end - tile < TILE ? end - tile : TILE;
        LOCAL const float *weight = weights + (value_blocks > 1 ? chunk / 32 * TILE * ROWS : 0);
        for (uint t = subset; t < n && subset < subsets; t += subsets) {
            place at = token_place(&p->places, pages, sequence, tile + t);
            float x[8];
            values_load(&vf, value_codes + code_offset(&p->values, sequence, head, at), chunk,
                        value_table, x);
            UNROLL for (uint r = 0; r < ROWS; r++)
            {
                /* Plain numbers that are not seen may be anything, NaN too. */
                float w = weight[t * ROWS + r];
                if (vf.kind != KIND_PLAIN || w != 0)
                    UNROLL for (uint j = 0; j < 8; j++)
                        acc[r][j] = fmaf(w, x[j], acc[r][j]);
            }
        }
        BARRIER(n_items);
    }

    /* Add up what items have, a row at a time. */
    GLOBAL float *partial = partials + (((ulong)group_z * p->n_kv_heads * blocks + group_y) *
                                            p->n_splits + group_x) * (ROWS * (dim + 2));
    LOCAL float *shared = weights;
    UNROLL for (uint r = 0; r < ROWS; r++)
    {
        if (subset < subsets)
            UNROLL for (uint j = 0; j < 8; j++)
                shared[item * 8 + j] = acc[r][j]; /* [subset][chunk][8] */
        q[item] = sum[r];
        BARRIER(n_items);
        for (uint d = item; d < dim; d += n_items) {
            float total = 0;
            for (uint k = 0; k < subsets; k++)
                total += shared[k * dim + d];
            partial[r * (dim + 2) + d] = total;
        }
        if (item == 0) {
            float total = 0;
            for (uint k = 0; k < n_items; k++)
                total += q[k];
            partial[r * (dim + 2) + dim] = state[r];
            partial[r * (dim + 2) + dim + 1] = total;
        }
        BARRIER(n_items);
    }
}

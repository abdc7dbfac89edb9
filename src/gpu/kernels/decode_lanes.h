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
    bool has_own = f->kind == KIND_TRELLIS && f->words && (f->bits == 4 || f->bits == 8);
    if (!has_own)
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

/* Pieces lane, lane + lanes and so on, by values_load, but with one look-up a value for tq4 and
 * none for tq8, whose windows are levels. */
INLINE void pieces_load(const format_params *f, GLOBAL const uchar *codes, uint lane, uint lanes,
                        LOCAL const float *table, float *x)
{
    GLOBAL const uint *words = (GLOBAL const uint *)codes;
    if (f->kind == KIND_TRELLIS && f->bits == 4 && f->words) {
        uint word[4], next[4], last = lane + 3 * lanes + 1;
        words += lane;
        UNROLL for (uint c = 0; c < 4; c++)
            word[c] = words[lanes * c];
        UNROLL for (uint c = 0; c < 3; c++)
            next[c] = words[lanes * c + 1];
        next[3] = ((GLOBAL const uint *)codes)[last < 4 * lanes ? last : 0];
        UNROLL for (uint c = 0; c < 4; c++)
        {
            float a, unused;
            UNROLL for (uint j = 0; j < 8; j++)
            {
                pair_load(table + TABLE_FLOATS, word[c] >> 4 * j & 15, &a, &x[8 * c + j]);
                if (j > 0)
                    x[8 * c + j - 1] += a;
            }
            pair_load(table + TABLE_FLOATS, next[c] & 15, &a, &unused);
            x[8 * c + 7] += a;
        }
    } else if (f->kind == KIND_TRELLIS && f->bits == 8 && f->words) {
        uint word[8];
        words += 2 * lane;
        UNROLL for (uint c = 0; c < 8; c++)
            word[c] = words[c / 2 * 2 * lanes + c % 2];
        UNROLL for (uint c = 0; c < 8; c++)
        {
            UNROLL for (uint k = 0; k < 4; k++)
                x[4 * c + k] = (float)((int)(word[c] << (24 - 8 * k)) >> 24);
        }
    } else {
        UNROLL for (uint c = 0; c < 4; c++)
            values_load(f, codes, lane + lanes * c, table, x + 8 * c);
    }
}

/* The same pieces to an array of numbers. */
INLINE void pieces_store(GLOBAL uchar *to, uint type, uint wide, uint lane, uint lanes,
                         const float *x)
{
    if (wide && type == TYPE_F16) {
        to += 16 * lane;
        UNROLL for (uint c = 0; c < 4; c++)
            words_store(to + 16 * lanes * c, f16_pair(x[8 * c], x[8 * c + 1]),
                        f16_pair(x[8 * c + 2], x[8 * c + 3]), f16_pair(x[8 * c + 4], x[8 * c + 5]),
                        f16_pair(x[8 * c + 6], x[8 * c + 7]));
    } else if (wide && type == TYPE_BF16) {
        to += 16 * lane;
        UNROLL for (uint c = 0; c < 4; c++)
            words_store(to + 16 * lanes * c, bf16_pair(x[8 * c], x[8 * c + 1]),
                        bf16_pair(x[8 * c + 2], x[8 * c + 3]),
                        bf16_pair(x[8 * c + 4], x[8 * c + 5]),
                        bf16_pair(x[8 * c + 6], x[8 * c + 7]));
    } else {
        UNROLL for (uint c = 0; c < 4; c++)
            numbers_store(to, type, 8 * (lane + lanes * c), wide, x + 8 * c);
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
    pieces_load(f, codes, lane, lanes, table, x);
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

#pragma once
/* Staged tiles, which wait to be sealed: plain numbers of 16 bits in the original domain, read
 * where they lie. There are few of them, mostly one a head, so that the time of one is what
 * counts: all warps of a block share it, WARP_TOKENS tokens each, and multiply in floats. With
 * STAGED 2 the copy engine brings a warp's part of the first one while the sealed tiles are at
 * work. */
#include "tensor_fetch.h"
#include "tensor_tile.h"

enum { WARP_TOKENS = TILE / WARPS, TOKEN_LANES = 32 / WARP_TOKENS,
       TOKEN_PIECES = (D / 8 + TOKEN_LANES - 1) / TOKEN_LANES /* of 8 numbers, a lane */ };

/* Marks the staged ones of a block's tiles first to first + n - 1 of a head. Ends without a
 * barrier. */
INLINE void staged_mark(const tensor_params *p, const uint *pages, const segment *s, uint first,
                        uint n, workplace *b, uint warp, uint lane)
{
    for (uint word = warp; word < (n + 31) / 32 && word < MAX_STAGED_WORDS; word += WARPS) {
        uint i = 32 * word + lane;
        uint entry = i < n ? entry_at(p, pages, s, (s->first_tile + first + i) * TILE) : 0;
        bool is_staged;
        page_of(p, entry, &is_staged);
        uint bits = __ballot_sync(~0u, is_staged);
        if (lane == 0)
            b->staged[word] = bits;
    }
}

/* The first staged one of a block's n tiles of a head from tile `from` on; n or more for none. */
INLINE uint staged_next(const workplace *b, uint from, uint n)
{
    for (uint tile = from; tile < n; tile += 32 - tile % 32) {
        uint bits = b->staged[tile / 32] >> tile % 32;
        if (bits)
            return tile + __ffs(bits) - 1;
    }
    return n;
}

/* A number of 16 bits, finite. */
INLINE float staged_number(uint type, uint half)
{
    return finite_input(type == TYPE_F16 ? f16_to_float((ushort)half) : as_float(half << 16));
}

INLINE void staged_two(uint type, uint word, float *x)
{
    x[0] = staged_number(type, word & 0xFFFF);
    x[1] = staged_number(type, word >> 16);
}

/* Base-2 logits of the lane's token for all rows; lanes that share a token have the same. */
INLINE void staged_scores(bytes row, uint type, const float *original, uint sub, float *y)
{
    UNROLL for (int r = 0; r < ROWS; r++) y[r] = 0;
    UNROLL for (int j = 0; j < TOKEN_PIECES; j++)
    {
        uint d = 8 * (sub + TOKEN_LANES * j);
        if (D % (8 * TOKEN_LANES) && d >= D)
            continue;
        uint4 four = *(const uint4 *)(row + 2 * d);
        float x[8];
        staged_two(type, four.x, x), staged_two(type, four.y, x + 2);
        staged_two(type, four.z, x + 4), staged_two(type, four.w, x + 6);
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int i = 0; i < 8; i += 4)
            {
                float4 q = *(const float4 *)(original + r * D + d + i);
                y[r] = fmaf(q.x, x[i], y[r]);
                y[r] = fmaf(q.y, x[i + 1], y[r]);
                y[r] = fmaf(q.z, x[i + 2], y[r]);
                y[r] = fmaf(q.w, x[i + 3], y[r]);
            }
    }
    UNROLL for (int o = 1; o < TOKEN_LANES; o *= 2)
        UNROLL for (int r = 0; r < ROWS; r++) y[r] += shuffle_xor(y[r], o);
}

/* Logits to weights, which are floats and may be large: a ref moves only where what was there
 * before no longer counts, because moving it costs integer sums their last bits. */
INLINE void staged_weights(const float *y, uint lane, progress *w, float *e)
{
    float ref[ROWS], of_lane[LANE_ROWS];
    uint c = lane % 4;
    rows_gather(w->ref, ref);
    UNROLL for (int r = 0; r < ROWS; r++)
    {
        float most = y[r];
        UNROLL for (int o = TOKEN_LANES; o < 32; o *= 2) most = fmaxf(most, shuffle_xor(most, o));
        ref[r] = most > ref[r] + 40 ? ceilf(most) : ref[r];
        UNROLL for (int k = 0; k < LANE_ROWS; k++)
            if (row_number(k, c) == r) {
                of_lane[k] = ref[r];
                if (STATE)
                    w->largest[k] = fmaxf(w->largest[k], most);
            }
    }
    refs_set(of_lane, w);
    UNROLL for (int r = 0; r < ROWS; r++)
    {
        float sum = e[r] = power2(y[r] + (WEIGHT_BITS - ref[r]));
        UNROLL for (int o = TOKEN_LANES; o < 32; o *= 2) sum += shuffle_xor(sum, o);
        /* one of the lanes that have the row counts it: their sums are added up in the end */
        UNROLL for (int k = 0; k < LANE_ROWS; k++)
            if (lane < (SETS == 1 ? 2 : 4) && row_number(k, c) == r)
                w->sum[k] += sum;
    }
}

/* Weights times values. rows: of the warp's first token; weights: [WARP_TOKENS][ROWS]. */
INLINE void staged_values(bytes rows, ulong stride, uint type, const float (*weights)[ROWS], uint lane,
                          progress *w)
{
    UNROLL for (int t = 0; t < WARP_TOKENS; t++)
        UNROLL for (int j = 0; j < LANE_WORDS; j++)
        {
            float x[4] = {};
            if (has_word(j, lane)) {
                uint2 two = *(const uint2 *)(rows + t * stride + 8 * lane_word(j, lane));
                staged_two(type, two.x, x), staged_two(type, two.y, x + 2);
            }
            UNROLL for (int k = 0; k < LANE_ROWS; k++)
            {
                float weight = weights[t][row_number(k, lane % 4)];
                UNROLL for (int i = 0; i < 4; i++)
                    w->original[ORIGINAL ? k : 0][4 * j + i] =
                        fmaf(weight, x[i], w->original[ORIGINAL ? k : 0][4 * j + i]);
            }
        }
}

INLINE bytes staged_row(const staged_params *o, bytes base, uint page, uint head, uint slot)
{
    return base + page * o->page + head * o->head + slot * o->row;
}

/* A warp's rows of a staged tile, which begins `at` slots behind the first tile's first. */
struct staged_rows {
    bytes keys, values;
    ulong key_stride, value_stride;
};

INLINE staged_rows staged_find(const tensor_params *p, const segment *s, const uint *pages, bytes keys,
                               bytes values, uint at, uint warp)
{
    bool unused;
    uint entry, slot = slot_of(p, at, &entry) + warp * WARP_TOKENS,
                page = page_of(p, entry_at(p, pages, s, at), &unused);
    return {staged_row(&p->staged_keys, keys, page, s->head, slot),
            staged_row(&p->staged_values, values, page, s->head, slot), p->staged_keys.row,
            p->staged_values.row};
}

/* STAGED 2: to `part`, [2][WARP_TOKENS][D] of 16 bits, which is the warp's; there rows stand one
 * behind the other, as they do in memory. */
enum { STAGED_PART = 4 * WARP_TOKENS * D /* bytes */, STAGED_BY_ENGINE = STAGED == 2 && HAS_ENGINE };

INLINE void staged_fetch(const staged_rows *rows, uchar *part, ulong *barrier)
{
    if (!is_elected())
        return;
    barrier_expect(barrier, STAGED_PART);
    engine_copy(part, rows->keys, STAGED_PART / 2, barrier);
    engine_copy(part + STAGED_PART / 2, rows->values, STAGED_PART / 2, barrier);
}

INLINE staged_rows staged_fetched(const uchar *part)
{
    return {part, part + STAGED_PART / 2, 2 * D, 2 * D};
}

/* at: as above; original: the queries. */
INLINE void staged_attend(const tensor_params *p, const segment *s, workplace *b,
                          const staged_rows *rows, uint at, const uchar *mask,
                          const float *original, uint warp, uint lane, progress *w)
{
    uint mine = warp * WARP_TOKENS, local = lane / TOKEN_LANES, token = at - p->skipped + mine + local;
    float (*weights)[ROWS] = b->staged_weights + mine;
    float y[ROWS], e[ROWS];
    staged_scores(rows->keys + local * rows->key_stride, p->staged_keys.type, original,
                  lane % TOKEN_LANES, y);
    UNROLL for (int r = 0; r < ROWS; r++)
    {
        if (SOFTCAP)
            y[r] = softcapped(p, y[r]);
        bool is_seen = token >= b->low[r] && token < b->high[r];
        if (SLOPES || MASK)
            y[r] = logit_add(b, r, token, MASK && is_seen ? mask_read(b, mask, r, token, s->length) : 0, y[r]);
        y[r] = is_seen ? y[r] : -INFINITY;
    }
    staged_weights(y, lane, w, e);
    __syncwarp(); /* all have read the last tile's */
    UNROLL for (int r = 0; r < ROWS; r++)
        if (lane % TOKEN_LANES == 0)
            weights[local][r] = e[r];
    __syncwarp();
    staged_values(rows->values, rows->value_stride, p->staged_values.type, weights, lane, w);
}

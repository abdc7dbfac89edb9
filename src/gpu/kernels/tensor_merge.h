#pragma once
/* What a warp knows of a head is added up: over the block's warps in shared memory, then
 * over the blocks that share the head in memory, by the last of them. */
#include "tensor_staged.h"

/* A merge buffer's row has the lanes' (r) values of a coordinate in their pieces side by side.
 * With three taps a piece has 8 coordinates of either half of the row. Places that are no
 * coordinate's are those of D and more. */
INLINE uint place_coordinate(uint place)
{
    uint chunk = place / CHUNK, r = place % 8, at = place % CHUNK / 8;
    if (values_case::FORM == TAPS) {
        uint first = chunk * 64 + 8 * r;
        return first < D / 2 ? at / 8 * (D / 2) + first + at % 8 : D;
    }
    return chunk * CHUNK + r * VALUE_WIDTH + at;
}

INLINE uint coordinate_place(uint d)
{
    if (values_case::FORM == TAPS) {
        uint is_upper = d >= D / 2, i = d - is_upper * (D / 2);
        return i / 64 * CHUNK + (8 * is_upper + i % 8) * 8 + i % 64 / 8;
    }
    return d / CHUNK * CHUNK + d % CHUNK % VALUE_WIDTH * 8 + d % CHUNK / VALUE_WIDTH;
}

/* Where a lane's coordinate of a tile stands, but for its r, and how far behind it that of
 * M's row r + 8. */
INLINE constexpr uint tile_place(int tile)
{
    if (values_case::FORM == TAPS)
        return tile / CHUNK_TILES * CHUNK + 8 * (tile % CHUNK_TILES);
    return tile / CHUNK_TILES * CHUNK +
           8 * coordinate_of(values_case::FORM, tile % CHUNK_TILES / 4, tile % 4);
}
enum { ROW_8_PLACE = values_case::FORM == PAIRS || values_case::FORM == TAPS ? 64 : values_case::FORM == WINDOWS ? 16 : 32 };

/* Of an extra sum: of the coordinate before a lane's first (PAIRS: the two before; TAPS: of one of
 * the two behind its last of either half). */
INLINE uint extra_coordinate(int extra, uint is_8, uint r)
{
    int chunk = extra / EXTRA_OF_CHUNK;
    if (values_case::FORM == TAPS) {
        uint first = chunk * 64 + 8 * r;
        return first < D / 2 ? (is_8 * (D / 2) + first + 8 + extra % 2) % D : D;
    }
    uint at = chunk * CHUNK + r * VALUE_WIDTH;
    return at >= D ? D : (at + D - values_case::SHIFT + is_8) % D;
}

/* Adds to the buffer of a warp, or begins it. factors: to the block's refs. */
INLINE void sum_store(float *merge, int j, uint row, uint is_8, uint r, float sum, bool adds)
{
    float *to = merge + row * MERGE_STRIDE;
    if (j < TILES) {
        to += tile_place(j) + r + is_8 * ROW_8_PLACE;
        *to = adds ? *to + sum : sum;
    } else if (!is_8 || values_case::FORM == PAIRS || values_case::FORM == TAPS) {
        uint d = extra_coordinate(j - TILES, is_8, r);
        if (d < D)
            to[coordinate_place(d)] += sum;
    }
}

INLINE void sums_store(const progress *w, const float *factors, float *merge, bool adds, uint lane)
{
    uint r = lane / 4, c = lane % 4;
    UNROLL for (int j = 0; j < SUMS; j++)
    {
        if (j == TILES)
            __syncwarp();
        UNROLL for (int k = 0; k < LANE_ROWS; k++)
        {
            uint row = row_number(k, c);
            if (SETS == 1) {
                /* Lanes c < 2 have the high digits' sums, the others the low ones': each gets
                 * both for one of the two rows of M. */
                bool is_first = c < 2;
                int give = is_first ? w->sums[0][j][2 + k] : w->sums[0][j][k];
                int keep = is_first ? w->sums[0][j][k] : w->sums[0][j][2 + k];
                int taken = __shfl_xor_sync(~0u, give, 2);
                float sum = fmaf((float)(is_first ? keep : taken), 256, (float)(is_first ? taken : keep));
                sum_store(merge, j, row, !is_first, r, sum * factors[k], adds);
                continue;
            }
            UNROLL for (int is_8 = 0; is_8 < 2; is_8++)
            {
                int high = w->sums[k / 2][j][2 * is_8 + k % 2],
                    low = w->sums[(k / 2 + HIGH_SETS) % SETS][j][2 * is_8 + k % 2];
                sum_store(merge, j, row, is_8, r, fmaf((float)high, 256, (float)low) * factors[k], adds);
            }
        }
    }
}

/* The block's sums of a head: in its merge buffers, and the rows' refs and totals in b. */
INLINE void warps_merge(progress *w, workplace *b, float *merge, uint warp, uint lane)
{
    uint c = lane % 4;
    float factors[LANE_ROWS];
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        UNROLL for (int o = SETS == 1 ? 2 : 4; o < 32; o *= 2)
        {
            w->sum[k] += shuffle_xor(w->sum[k], o);
            if (STATE)
                w->largest[k] = fmaxf(w->largest[k], shuffle_xor(w->largest[k], o));
        }
        if (lane < (SETS == 1 ? 2 : 4)) {
            b->ref[warp][row_number(k, c)] = w->ref[k];
            b->sum[warp][row_number(k, c)] = w->sum[k];
            b->largest[warp][row_number(k, c)] = w->largest[k];
        }
    }
    __syncthreads();
    if (warp == 0 && lane < ROWS) {
        float ref = REF_BEGIN, sum = 0, largest = -INFINITY;
        UNROLL for (int k = 0; k < WARPS; k++) ref = fmaxf(ref, b->ref[k][lane]);
        UNROLL for (int k = 0; k < WARPS; k++)
        {
            sum += b->sum[k][lane] * power2(b->ref[k][lane] - ref);
            largest = fmaxf(largest, b->largest[k][lane]);
        }
        b->total_ref[lane] = ref, b->total[lane] = sum, b->total_largest[lane] = largest;
    }
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        float ref = REF_BEGIN;
        UNROLL for (int i = 0; i < WARPS; i++) ref = fmaxf(ref, b->ref[i][row_number(k, c)]);
        factors[k] = power2(w->ref[k] - ref);
    }
    UNROLL for (uint first = 0; first < WARPS; first += MERGE_WARPS)
    {
        if (warp >= first && warp < first + MERGE_WARPS)
            sums_store(w, factors, merge + (warp - first) * ROWS * MERGE_STRIDE, first > 0, lane);
        __syncthreads();
    }
}

/* Warps' sums in the original domain, in merge buffers once more, added up: to `sums`, [ROWS][D].
 * Begins and ends with a barrier. */
INLINE void originals_merge(const progress *w, const workplace *b, float *merge, float *sums,
                            uint n_rows, uint thread)
{
    uint warp = thread / 32, lane = thread % 32;
    __syncthreads();
    UNROLL for (uint first = 0; first < WARPS; first += MERGE_WARPS)
    {
        if (warp >= first && warp < first + MERGE_WARPS)
            UNROLL for (int k = 0; k < LANE_ROWS; k++)
            {
                uint row = row_number(k, lane % 4);
                float factor = power2(b->ref[warp][row] - b->total_ref[row]);
                UNROLL for (int j = 0; j < LANE_WORDS; j++)
                {
                    const float *x = w->original[ORIGINAL ? k : 0] + 4 * j;
                    float4 *to = (float4 *)(merge + ((warp - first) * ROWS + row) * MERGE_STRIDE +
                                            4 * lane_word(j, lane));
                    if (!has_word(j, lane))
                        continue;
                    float4 sum = first ? *to : make_float4(0, 0, 0, 0);
                    *to = make_float4(fmaf(x[0], factor, sum.x), fmaf(x[1], factor, sum.y),
                                      fmaf(x[2], factor, sum.z), fmaf(x[3], factor, sum.w));
                }
            }
        __syncthreads();
    }
    for (uint i = thread; i < n_rows * D; i += THREADS) {
        float sum = 0;
        UNROLL for (int k = 0; k < MERGE_WARPS; k++) sum += merge[(k * ROWS + i / D) * MERGE_STRIDE + i % D];
        sums[i] = sum;
    }
    __syncthreads();
}

/* A block's part of a head in memory: rows of sums in the rows' domain, ref, total and largest
 * logit, sums in the original domain. */
enum { PART_ROW = tensor_part_row(&CASE), PART = ROWS * PART_ROW };

INLINE float2 merged_pair(const float *merge, uint row, uint place)
{
    float2 sum = make_float2(0, 0);
    UNROLL for (int k = 0; k < MERGE_WARPS; k++)
    {
        float2 x = *(const float2 *)(merge + (k * ROWS + row) * MERGE_STRIDE + place);
        sum.x += x.x, sum.y += x.y;
    }
    return sum;
}

INLINE void pair_place(float *x, uint row, uint place, float2 sum)
{
    uint d = place_coordinate(place), next = place_coordinate(place + 1);
    if (d < D)
        x[2 * D * row + d] = sum.x;
    if (next < D)
        x[2 * D * row + next] = sum.y;
}

/* Adds up the parts of blocks first to first + n - 1, 16 at a time in flight. */
INLINE void parts_merge(const float *partials, uint first, uint n, uint n_rows, workplace *b,
                        float *x, float *original, uint thread)
{
    enum { AT_ONCE = 16, PAIRS_OF_ROW = (PADDED + (ORIGINAL ? D : 0)) / 2 };
    for (uint i = thread; i < n_rows * PAIRS_OF_ROW; i += THREADS) {
        uint row = i / PAIRS_OF_ROW, place = i % PAIRS_OF_ROW * 2;
        uint offset = place < PADDED ? place : place + 4;
        const float *from = partials + (ulong)2 * first * PART + row * PART_ROW;
        float2 sum = make_float2(0, 0);
        float ref = REF_BEGIN, total = 0, largest = -INFINITY;
        for (uint k0 = 0; k0 < n; k0 += AT_ONCE) {
            float2 v[AT_ONCE];
            float4 s[AT_ONCE];
            UNROLL for (int k = 0; k < AT_ONCE; k++)
            {
                /* the first block's part is its last, the others' their first */
                const float *part = from + ((ulong)2 * (k0 + k) + (k0 + k == 0)) * PART;
                bool has = k0 + k < n;
                v[k] = has ? __ldcg((const float2 *)(part + offset)) : make_float2(0, 0);
                s[k] = has ? __ldcg((const float4 *)(part + PADDED))
                           : make_float4(REF_BEGIN, 0, -INFINITY, 0);
            }
            float old = ref;
            UNROLL for (int k = 0; k < AT_ONCE; k++) ref = fmaxf(ref, s[k].x);
            float factor = power2(old - ref);
            sum.x *= factor, sum.y *= factor, total *= factor;
            UNROLL for (int k = 0; k < AT_ONCE; k++)
            {
                factor = power2(s[k].x - ref);
                sum.x = fmaf(v[k].x, factor, sum.x), sum.y = fmaf(v[k].y, factor, sum.y);
                total = fmaf(s[k].y, factor, total);
                largest = fmaxf(largest, s[k].z);
            }
        }
        if (place < PADDED)
            pair_place(x, row, place, sum);
        else
            *(float2 *)(original + row * D + place - PADDED) = sum;
        if (place == 0)
            b->total_ref[row] = ref, b->total[row] = total, b->total_largest[row] = largest;
    }
}

/* A row of the result, by a warp: divided, out of the values' domain, stored. */
INLINE void row_finish(const tensor_params *p, const segment *s, uint r, const workplace *b,
                       const float *sinks, float *x, const float *original, uchar *out,
                       float *state, uint lane)
{
    ulong row = query_row(p, s, r);
    float ref = b->total_ref[r], sum = b->total[r] * (1.0f / 16384), rescale = 1;
    float sink = p->has_sinks ? sinks[row % p->n_heads] * 1.44269504f : -INFINITY;
    if (sink > ref) {
        rescale = power2(ref - sink);
        sum *= rescale;
        ref = sink;
    }
    if (sink > -INFINITY)
        sum += power2(sink - ref);
    float v[LANE_VALUES];
    row_load(x, v, lane);
    row_rotate(&p->out_rotation, v, x, lane);
    row_flip(&p->out_rotation, v, lane);
    float factor = p->out_rotation.active ? p->out_rotation.inverse_root : 1;
    float weight = sum > 0 ? rescale * (1.0f / 16384) / sum : 0;
    factor *= weight * p->value_unit;
    uchar *to = out + row * (D * (p->out_type == TYPE_F32 ? 4 : 2));
    UNROLL for (int k = 0; k < LANE_VALUES; k++)
        if (D % 32 == 0 || 32 * k + lane < D)
            number_store(to, p->out_type, 32 * k + lane,
                         ORIGINAL ? fmaf(v[k], factor, original[32 * k + lane] * weight)
                                  : v[k] * factor);
    if (STATE && lane == 0) {
        float largest = fmaxf(b->total_largest[r], sink);
        state[2 * row] = largest * 0.69314718f;
        state[2 * row + 1] = sum > 0 ? sum * power2(ref - largest) : 0;
    }
}

#pragma once
/* A block's shared memory; queries, from what the caller has to B fragments of digits. */
#include "tensor_list.h"
#include "hadamard.h"

/* What a block has in shared memory, behind the rings. */
struct workplace {
    ulong barriers[WARPS * STAGES + 2]; /* rings, then queries */
    uint fragments[STEPS * SETS * 64];  /* [step][set][lane][2] */
    float ref[WARPS][ROWS], sum[WARPS][ROWS], largest[WARPS][ROWS];
    float total_ref[ROWS], total[ROWS], total_largest[ROWS];
    float row_scale[ROWS]; /* of integer scores, to base-2 logits */
    uint low[ROWS], high[ROWS]; /* tokens that a row sees */
    uint is_last;
};
enum { MERGE_STRIDE = PADDED + 4 };
enum { CODE_TILE = TILE * (keys_case::ROW + values_case::ROW),
       SCALES_AT = CODE_TILE, VALUE_SCALES_AT = SCALES_AT + TILE * keys_case::SCALE,
       STAGE = VALUE_SCALES_AT + TILE * values_case::SCALE, VALUES_AT = TILE * keys_case::ROW };

/* [2][DIGITS] bytes of a row: high digits, low digits; both with the last four of the row
 * in front, because the row is a circle. */
enum { DIGITS = D + 16, FRONT = 4 };

INLINE uint query_bytes(const tensor_params *p)
{
    return D * (p->query_type == TYPE_F32 ? 4 : 2);
}

/* Warp 0 fetches a segment's queries. They come by the copy engine, too: ordinary loads
 * would wait behind the rows, 5 us and more. */
INLINE void queries_fetch(const tensor_params *p, const segment *s, bytes queries, uchar *to,
                          ulong *barrier, uint lane)
{
    uint n = rows_of(p, s->block), size = query_bytes(p);
    if (!HAS_ENGINE)
        return;
    if (lane == 0)
        barrier_expect(barrier, n * size);
    __syncwarp();
    if (lane < n)
        engine_copy(to + lane * size, queries + query_row(p, s, lane) * size, size, barrier);
}

INLINE float warp_max(float x)
{
    UNROLL for (int o = 1; o < 32; o *= 2) x = fmaxf(x, shuffle_xor(x, o));
    return x;
}

/* ---- rows in registers: value k of a lane is coordinate 32 k + lane ---- */
enum { LANE_VALUES = (D + 31) / 32, IS_POWER_OF_2 = (D & (D - 1)) == 0 };

INLINE void row_load(const float *x, float *v, uint lane)
{
    UNROLL for (int k = 0; k < LANE_VALUES; k++)
        v[k] = D % 32 == 0 || 32 * k + lane < D ? x[32 * k + lane] : 0;
}

INLINE void row_flip(const rotation_params *r, float *v, uint lane)
{
    if (r->has_signs)
        UNROLL for (int k = 0; k < LANE_VALUES; k++)
            if (r->signs[k / 2] >> (k % 2 * 32 + lane) & 1)
                v[k] = -v[k];
}

/* The Hadamard transform without its factor. x: [2 D] floats to work in. */
INLINE void row_rotate(const rotation_params *r, float *v, float *x, uint lane)
{
    if (!r->active)
        return;
    if (!IS_POWER_OF_2) {
        __syncwarp();
        UNROLL for (int k = 0; k < LANE_VALUES; k++)
            if (32 * k + lane < D)
                x[32 * k + lane] = v[k];
        __syncwarp();
        hadamard(x, x + D, D, r, lane, 32, 32);
        row_load(x, v, lane);
        __syncwarp();
        return;
    }
    UNROLL for (int h = 1; h < 32; h *= 2)
        UNROLL for (int k = 0; k < LANE_VALUES; k++)
        {
            float other = shuffle_xor(v[k], h);
            v[k] = lane & h ? other - v[k] : v[k] + other;
        }
    UNROLL for (int h = 1; h < LANE_VALUES; h *= 2)
        UNROLL for (int k = 0; k < LANE_VALUES; k++)
            if ((k & h) == 0) {
                float low = v[k], high = v[k + h < LANE_VALUES ? k + h : k];
                v[k] = low + high;
                v[k + h < LANE_VALUES ? k + h : k] = low - high;
            }
}

/* A row, as its warp has it: to the rows' domain, then to 16 bits, which are left as digits
 * in x, [2 D] floats. */
INLINE void query_prepare(const tensor_params *p, const segment *s, uint r, bytes raw,
                          const float *balances, float *x, workplace *b, uint lane)
{
    float v[LANE_VALUES], largest = 0;
    UNROLL for (int k = 0; k < LANE_VALUES; k++)
    {
        uint d = 32 * k + lane;
        v[k] = D % 32 == 0 || d < D ? finite_input(number_load(raw, p->query_type, d)) : 0;
        if (BALANCES && (D % 32 == 0 || d < D))
            v[k] /= balances[(ulong)s->head * D + d];
    }
    row_flip(&p->query_rotation, v, lane);
    row_rotate(&p->query_rotation, v, x, lane);
    UNROLL for (int k = 0; k < LANE_VALUES; k++) largest = fmaxf(largest, fabsf(v[k]));
    largest = warp_max(largest);
    float inverse = largest > 0 ? 32512 / largest : 0;
    uchar *digits = (uchar *)x;
    UNROLL for (int k = 0; k < LANE_VALUES; k++)
    {
        uint d = 32 * k + lane;
        int n = __float2int_rn(v[k] * inverse);
        uchar high = (uchar)((n + 128) >> 8), low = (uchar)n;
        if (D % 32 == 0 || d < D) {
            digits[FRONT + d] = high;
            digits[DIGITS + FRONT + d] = low;
            if (d >= D - FRONT) {
                digits[FRONT + d - D] = high;
                digits[DIGITS + FRONT + d - D] = low;
            }
        }
    }
    if (lane == 0) {
        float factor = p->query_rotation.active ? p->query_rotation.inverse_root : 1;
        b->row_scale[r] = largest * (1.0f / 32512) * factor * p->key_unit * p->scale * 1.44269504f;
        sight(p, s->length, (s->block * ROWS + r) / p->group, &b->low[r], &b->high[r]);
    }
}

/* Digits of the coordinates whose values meet four nibbles of a lane's piece (half 0 or 1 of
 * the word of a step); w: digits from coordinate 0 on. */
INLINE uint four_digits(const uint *w, uint step, uint half, uint c)
{
    typedef keys_case F;
    uint piece = step / PIECE_STEPS, inner = step % PIECE_STEPS;
    uint word = F::SUMMANDS == 1 ? inner : inner / 2;
    bool is_shifted = F::IS_SHIFTED && step % 2;
    uint at = (D % 64 ? 8 * (4 * piece + c) : D / 4 * c) / 4;
    if (F::FORM == PAIRS) {
        w += at + word / 2 * 4 + 2 * half;
        uint a = is_shifted ? __funnelshift_r(w[-1], w[0], 16) : w[0];
        uint b = is_shifted ? __funnelshift_r(w[0], w[1], 16) : w[1];
        return prmt(a, b, word % 2 ? 0x7531 : 0x6420);
    }
    w += at + 2 * word;
    if (D % 32 && 4 * (at + 2 * word) >= D)
        return 0;
    if (F::FORM == WINDOWS)
        return prmt(w[0], w[1], half ? 0x7362 : 0x5140);
    return is_shifted ? __funnelshift_r(w[(int)half - 1], w[half], 24) : w[half];
}

/* Digits to B fragments: entry (step, set, lane) is two words. Column n of a set is the
 * lane's r: with one set, columns 0-3 have the rows' high digits, 4-7 the low ones. */
INLINE void fragments_make(const float *x, workplace *b, uint n_rows, uint thread)
{
    for (uint i = thread; i < STEPS * SETS * 32; i += THREADS) {
        uint lane = i % 32, set = i / 32 % SETS, step = i / 32 / SETS, r = lane / 4, c = lane % 4;
        bool is_low = SETS == 1 ? r >= 4 : set >= HIGH_SETS;
        uint row = SETS == 1 ? r % 4 : set % HIGH_SETS * 8 + r;
        bool is_used = row < n_rows;
        const uint *w = (const uint *)((bytes)(x + 2 * D * row) +
                                       (is_low ? DIGITS : 0) + FRONT);
        uint2 two = {is_used ? four_digits(w, step, 0, c) : 0, is_used ? four_digits(w, step, 1, c) : 0};
        *(uint2 *)(b->fragments + 2 * i) = two;
    }
}

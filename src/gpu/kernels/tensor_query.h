#pragma once
/* A block's shared memory; queries, from what the caller has to B fragments of digits. */
#include "tensor_list.h"
#include "hadamard.h"

/* What a block has in shared memory, behind the rings. */
struct workplace {
    ulong barriers[WARPS * (STAGES + 1) + 2]; /* rings, then queries, then staged tiles */
    uint fragments[STEPS * SETS * 64];  /* [step][set][lane][2] */
    float ref[WARPS][ROWS], sum[WARPS][ROWS], largest[WARPS][ROWS];
    float total_ref[ROWS], total[ROWS], total_largest[ROWS];
    /* Of integer scores, to base-2 logits: of codes, and of means. */
    float row_scale[ROWS], mean_scale[ROWS];
    float slope[ROWS], mask_slope[ROWS]; /* in base 2 */
    uint low[ROWS], high[ROWS]; /* tokens that a row sees */
    int position[ROWS];         /* of the row's query, counted from the first token */
    ulong mask_at[ROWS];        /* element of the mask for the first token */
    uint staged[STAGED ? MAX_STAGED_WORDS : 1]; /* bits: tiles of the share of this head */
    float staged_weights[STAGED ? TILE : 1][ROWS];
    uint is_last;
};
enum { MERGE_STRIDE = PADDED + 4, STAGE = tensor_stage_bytes(&CASE), SCALES_AT = TILE * keys_case::ROW,
       MEAN_AT = SCALES_AT + TILE * keys_case::SCALE, VALUES_AT = tensor_key_bytes(&CASE),
       VALUE_SCALES_AT = VALUES_AT + TILE * values_case::ROW,
       VALUE_MEAN_AT = VALUE_SCALES_AT + TILE * values_case::SCALE,
       MASK_AT = VALUES_AT + tensor_value_bytes(&CASE) };
static_assert(sizeof(workplace) <= tensor_workplace_bytes(&CASE), "tensor_sizes.h counts all of it");

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
    uint n = rows_of(p, s), size = query_bytes(p);
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

INLINE float row_largest(const float *v)
{
    float largest = 0;
    UNROLL for (int k = 0; k < LANE_VALUES; k++) largest = fmaxf(largest, fabsf(v[k]));
    return warp_max(largest);
}

/* A row as 16-bit integers, whose largest is 32512, in two digits. */
INLINE void digits_make(const float *v, float largest, uchar *digits, uint lane)
{
    float inverse = largest > 0 ? 32512 / largest : 0;
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
}

#define LOG2_E 1.44269504f

/* What a row's logits take beside the product of query and key, but for the mask. Rows that a
 * block has too many of are as its last one: nothing that they read is missing. */
INLINE void row_terms_set(const tensor_params *p, const segment *s, uint r, const float *slopes,
                          const float *mask_slopes, workplace *b)
{
    uint n = s->block * ROWS + min_of(r, rows_of(p, s) - 1), query = n / p->group, head = s->head * p->group + n % p->group;
    tensor_sight(p, s->length, s->n_queries, query, &b->low[r], &b->high[r]);
    if (SLOPES) {
        ulong position = p->has_lengths ? s->length - min_of(s->length, s->n_queries)
                                        : p->position - p->first_position;
        position += query;
        b->position[r] = (int)position;
        b->slope[r] = slopes[head] * LOG2_E;
    }
    if (MASK) {
        b->mask_slope[r] = (p->has_mask_slopes ? mask_slopes[head] : 1) * LOG2_E;
        b->mask_at[r] = (s->first_query + query) * p->mask_row + head * p->mask_head;
    }
}

/* A row, as its warp has it: to the rows' domain, then to 16 bits, which are left as digits
 * in x, [2 D] floats; and behind them those of the row as it is, which is left in `original`,
 * too, times what makes products with keys base-2 logits. */
INLINE void query_prepare(const tensor_params *p, const segment *s, uint r, bytes raw,
                          const float *balances, float *x, float *original, workplace *b, uint lane)
{
    float v[LANE_VALUES], o[LANE_VALUES], logit_scale = p->scale * LOG2_E;
    UNROLL for (int k = 0; k < LANE_VALUES; k++)
    {
        uint d = 32 * k + lane;
        v[k] = D % 32 == 0 || d < D ? finite_input(number_load(raw, p->query_type, d)) : 0;
        o[k] = v[k];
        if (STAGED && (D % 32 == 0 || d < D))
            original[d] = o[k] * logit_scale;
        if (BALANCES && (D % 32 == 0 || d < D))
            v[k] /= balances[(ulong)s->head * D + d];
    }
    row_flip(&p->query_rotation, v, lane);
    row_rotate(&p->query_rotation, v, x, lane);
    float largest = row_largest(v), largest_original = MEANS ? row_largest(o) : 0;
    digits_make(v, largest, (uchar *)x, lane);
    if (MEANS)
        digits_make(o, largest_original, (uchar *)x + 2 * DIGITS, lane);
    if (lane == 0) {
        float factor = p->query_rotation.active ? p->query_rotation.inverse_root : 1;
        b->row_scale[r] = largest * (1.0f / 32512) * factor * p->key_unit * logit_scale;
        b->mean_scale[r] = largest_original * (1.0f / 32512) * logit_scale;
    }
}

/* Digits of the coordinates whose values meet four nibbles, or bytes, of a lane's piece (half 0
 * or 1 of the word of a step); w: digits from coordinate 0 on. */
template <class F> INLINE uint four_digits(const uint *w, uint step, uint half, uint c)
{
    enum { PIECE_STEPS = F::OCTETS * F::SUMMANDS };
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

/* The same where keys have three taps; digits: from coordinate 0 on. A symbol takes part in the
 * levels of its coordinate and of the next two. */
INLINE uint four_digits_of_taps(bytes digits, uint step, uint half, uint c)
{
    uint piece = step / PIECE_STEPS, word = step % PIECE_STEPS / 3, tap = step % 3, four = 0;
    for (uint i = 0; i < 4; i++) {
        uint d = key_symbol((4 * piece + c) * LANE_UNITS, word, 4 * half + i);
        if (d < D)
            four |= (uint)digits[d + tap < D ? d + tap : d + tap - D] << 8 * i;
    }
    return four;
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
        bytes digits = (bytes)(x + 2 * D * row) + (is_low ? DIGITS : 0) + FRONT;
        uint2 two = {0, 0};
        if (is_used && step < KEY_STEPS && keys_case::FORM == TAPS) {
            two.x = four_digits_of_taps(digits, step, 0, c);
            two.y = four_digits_of_taps(digits, step, 1, c);
        } else if (is_used && step < KEY_STEPS) {
            const uint *w = (const uint *)digits;
            two.x = four_digits<keys_case>(w, step, 0, c);
            two.y = four_digits<keys_case>(w, step, 1, c);
        } else if (is_used) {
            const uint *w = (const uint *)(digits + 2 * DIGITS);
            two.x = four_digits<mean_case>(w, step - KEY_STEPS, 0, c);
            two.y = four_digits<mean_case>(w, step - KEY_STEPS, 1, c);
        }
        *(uint2 *)(b->fragments + 2 * i) = two;
    }
}

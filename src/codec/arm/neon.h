/* What the tables with and without dot product share; the includer defines
 * TARGET. Four lanes; nothing is fused. */
#include <arm_neon.h>

#define HAS_HADAMARD
#include "codec/generic.h"

/* ---- rotation ---- */

/* Butterflies of distance 1 and 2 in a vector. */
TARGET static inline float32x4_t butterflies_in_vector(float32x4_t x)
{
    const uint32x4_t sign_1 = {0, 0x80000000, 0, 0x80000000};
    const uint32x4_t sign_2 = {0, 0, 0x80000000, 0x80000000};
    float32x4_t flipped = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), sign_1));
    x = vaddq_f32(vrev64q_f32(x), flipped);
    flipped = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), sign_2));
    return vaddq_f32(vextq_f32(x, x, 2), flipped);
}

TARGET static inline void pair_pass(float *x, unsigned n, unsigned h)
{
    for (unsigned i = 0; i < n; i += 2 * h)
        for (unsigned j = i; j < i + h; j += 4) {
            float32x4_t a = vld1q_f32(x + j), b = vld1q_f32(x + j + h);
            vst1q_f32(x + j, vaddq_f32(a, b));
            vst1q_f32(x + j + h, vsubq_f32(a, b));
        }
}

TARGET static inline void quad_pass(float *x, unsigned n, unsigned h)
{
    for (unsigned i = 0; i < n; i += 4 * h)
        for (unsigned j = i; j < i + h; j += 4) {
            float32x4_t a = vld1q_f32(x + j), b = vld1q_f32(x + j + h);
            float32x4_t c = vld1q_f32(x + j + 2 * h), d = vld1q_f32(x + j + 3 * h);
            float32x4_t p = vaddq_f32(a, b), q = vsubq_f32(a, b);
            float32x4_t r = vaddq_f32(c, d), s = vsubq_f32(c, d);
            vst1q_f32(x + j, vaddq_f32(p, r));
            vst1q_f32(x + j + h, vaddq_f32(q, s));
            vst1q_f32(x + j + 2 * h, vsubq_f32(p, r));
            vst1q_f32(x + j + 3 * h, vsubq_f32(q, s));
        }
}

TARGET static void hadamard(float *x, const rotation *r, int transposed, float factor)
{
    unsigned n = r->head_dim, block = n / r->order, h = 4;
    for (unsigned i = 0; i < n; i += 4)
        vst1q_f32(x + i, butterflies_in_vector(vld1q_f32(x + i)));
    for (; 4 * h <= block; h *= 4)
        quad_pass(x, n, h);
    if (2 * h <= block)
        pair_pass(x, n, h);
    if (r->order > 1)
        outer_factor(x, r->order, block, transposed ? r->outer_transposed : r->outer);
    if (factor != 1)
        scale_row(x, n, factor);
}

/* ---- sums ---- */

TARGET static inline float sum_16_lanes(const float32x4_t *lane)
{
    float32x4_t four = vaddq_f32(vaddq_f32(lane[0], lane[2]), vaddq_f32(lane[1], lane[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

TARGET static void moments(const float *x, unsigned n, float *sum_of_squares, float *peak)
{
    float32x4_t lane[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    float32x4_t largest = vdupq_n_f32(0);
    for (unsigned i = 0; i < n; i += 16)
        for (unsigned j = 0; j < 4; j++) {
            float32x4_t v = vld1q_f32(x + i + 4 * j);
            lane[j] = vaddq_f32(lane[j], vmulq_f32(v, v));
            largest = vmaxq_f32(largest, vabsq_f32(v));
        }
    *sum_of_squares = sum_16_lanes(lane);
    *peak = vmaxvq_f32(largest);
}

/* 16 levels as floats. */
TARGET static inline void sixteen_levels(const int8_t *levels, float32x4_t *v)
{
    int8x16_t bytes = vld1q_s8(levels);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    v[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
    v[1] = vcvtq_f32_s32(vmovl_high_s16(low));
    v[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
    v[3] = vcvtq_f32_s32(vmovl_high_s16(high));
}

TARGET static inline int32x4_t squares(int32x4_t sum, int8x16_t v);

TARGET static void project_levels(const float *x, const int8_t *levels, unsigned n,
                                  float *xl, int32_t *ll)
{
    float32x4_t lane[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    int32x4_t sum = vdupq_n_s32(0);
    for (unsigned i = 0; i < n; i += 16) {
        float32x4_t v[4];
        sixteen_levels(levels + i, v);
        sum = squares(sum, vld1q_s8(levels + i));
        for (unsigned j = 0; j < 4; j++)
            lane[j] = vaddq_f32(lane[j], vmulq_f32(vld1q_f32(x + i + 4 * j), v[j]));
    }
    *xl = sum_16_lanes(lane);
    *ll = vaddvq_s32(sum);
}

/* ---- quantisation ---- */

TARGET static inline int16x8_t rounded_8(const float *x, float gain)
{
    int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), gain));
    int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), gain));
    return vqmovn_high_s32(vqmovn_s32(a), b);
}

TARGET static void quantize(const float *x, unsigned n, float gain, int limit, int16_t *t)
{
    int16x8_t most = vdupq_n_s16((int16_t)limit), least = vdupq_n_s16((int16_t)-limit);
    for (unsigned i = 0; i < n; i += 8)
        vst1q_s16(t + i, vmaxq_s16(vminq_s16(rounded_8(x + i, gain), most), least));
}

/* Counts and edges by the upper byte of the magnitude, see lloyd_code. */
TARGET static void lloyd_index(const float *x, unsigned n, float gain,
                               const lloyd_code *code, uint8_t *index, int32_t *tv,
                               int32_t *vv)
{
    const uint8x16_t value_low = vld1q_u8(code->value_low);
    const uint8x16_t value_high = vld1q_u8(code->value_high);
    int32x4_t sum_tv = vdupq_n_s32(0), sum_vv = sum_tv;
    const uint8x16_t count = vld1q_u8(code->count), edge = vld1q_u8(code->edge);
    const uint8x16_t half = vdupq_n_u8((uint8_t)(1 << (code->bits - 1)));
    for (unsigned i = 0; i < n; i += 16) {
        int16x8_t t0 = rounded_8(x + i, gain), t1 = rounded_8(x + i + 8, gain);
        uint16x8_t most = vdupq_n_u16(0x0FFF);
        uint16x8_t m0 = vminq_u16(vreinterpretq_u16_s16(vqabsq_s16(t0)), most);
        uint16x8_t m1 = vminq_u16(vreinterpretq_u16_s16(vqabsq_s16(t1)), most);
        uint8x16_t bucket = vshrn_high_n_u16(vshrn_n_u16(m0, 8), m1, 8);
        uint8x16_t rest = vmovn_high_u16(vmovn_u16(m0), m1);
        uint8x16_t reached = vcgeq_u8(rest, vqtbl1q_u8(edge, bucket));
        uint8x16_t above = vsubq_u8(vqtbl1q_u8(count, bucket), reached);
        uint8x16_t low = vqtbl1q_u8(value_low, above), high = vqtbl1q_u8(value_high, above);
        int16x8_t v0 = vreinterpretq_s16_u8(vzip1q_u8(low, high));
        int16x8_t v1 = vreinterpretq_s16_u8(vzip2q_u8(low, high));
        sum_vv = vmlal_s16(sum_vv, vget_low_s16(v0), vget_low_s16(v0));
        sum_vv = vmlal_high_s16(sum_vv, v0, v0);
        sum_vv = vmlal_s16(sum_vv, vget_low_s16(v1), vget_low_s16(v1));
        sum_vv = vmlal_high_s16(sum_vv, v1, v1);
        v0 = vbslq_s16(vcltzq_s16(t0), vnegq_s16(v0), v0);
        v1 = vbslq_s16(vcltzq_s16(t1), vnegq_s16(v1), v1);
        sum_tv = vmlal_s16(sum_tv, vget_low_s16(t0), vget_low_s16(v0));
        sum_tv = vmlal_high_s16(sum_tv, t0, v0);
        sum_tv = vmlal_s16(sum_tv, vget_low_s16(t1), vget_low_s16(v1));
        sum_tv = vmlal_high_s16(sum_tv, t1, v1);
        uint8x8_t negative_0 = vmovn_u16(vcltzq_s16(t0));
        uint8x16_t negative = vmovn_high_u16(negative_0, vcltzq_s16(t1));
        vst1q_u8(index + i, vaddq_u8(veorq_u8(above, negative), half));
    }
    *tv = vaddvq_s32(sum_tv);
    *vv = vaddvq_s32(sum_vv);
}

TARGET static void pack_nibbles(const uint8_t *index, unsigned n, uint8_t *codes)
{
    for (unsigned i = 0; i < n; i += 16) {
        uint8x8x2_t pairs = vld2_u8(index + i);
        uint8x8_t low = vand_u8(pairs.val[0], vdup_n_u8(15));
        vst1_u8(codes + i / 2, vorr_u8(low, vshl_n_u8(pairs.val[1], 4)));
    }
}

/* ---- the trellis ---- */

#define LANES 4
typedef int32x4_t vec;
#define vec_load vld1q_s32
#define vec_store vst1q_s32
#define vec_set1 vdupq_n_s32
#define vec_add vaddq_s32
#define vec_sub vsubq_s32
#define vec_and vandq_s32
#define vec_min vminq_s32
#define vec_least vminvq_s32
#define vec_repeat_4 vld1q_s32
TARGET static inline vec vec_operand(vec v)
{
    return v;
}
TARGET static inline vec vec_multiply_add(vec x, vec y, vec sum)
{
    return vmlaq_s32(sum, x, y);
}
TARGET static inline vec vec_times_16(vec v)
{
    return vshlq_n_s32(v, 4);
}
TARGET static inline void vec_store_bytes(uint8_t *p, vec v)
{
    uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(v));
    uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    vst1_lane_u32((uint32_t *)(void *)p, vreinterpret_u32_u8(bytes), 0);
}

#include "codec/viterbi_vector.h"

/* ---- codes and values ---- */

TARGET static inline int8x16_t look_up(uint8x16_t window, int8x16_t a, int8x16_t b)
{
    uint8x16_t low = vandq_u8(window, vdupq_n_u8(15));
    return vaddq_s8(vqtbl1q_s8(a, vshrq_n_u8(window, 4)), vqtbl1q_s8(b, low));
}

/* 8 windows: two bytes that hold each, shifted into the upper of them. */
TARGET static inline uint8x8_t windows_8(const uint8_t *codes, uint8x16_t shuffle,
                                         uint16x8_t multiplier)
{
    uint8x16_t pairs = vqtbl1q_u8(vld1q_u8(codes), shuffle);
    uint16x8_t shifted = vmulq_u16(vreinterpretq_u16_u8(pairs), multiplier);
    return vshrn_n_u16(shifted, 8);
}

/* Symbols 4 b + r of 16 bytes b of the low plane, r = 0 to 3; high has their third bits
 * at bits 2, 3, 6 and 7. */
TARGET static inline uint8x16x4_t plane_symbols(uint8x16_t low, uint8x16_t high)
{
    const uint8x16_t two = vdupq_n_u8(0x33), third = vdupq_n_u8(0x44), nibble = vdupq_n_u8(15);
    uint8x16_t even = vorrq_u8(vandq_u8(low, two), vandq_u8(high, third));
    uint8x16_t odd = vorrq_u8(vandq_u8(vshrq_n_u8(low, 2), two),
                              vandq_u8(vshrq_n_u8(high, 1), third));
    return (uint8x16x4_t){{vandq_u8(even, nibble), vandq_u8(odd, nibble), vshrq_n_u8(even, 4),
                           vshrq_n_u8(odd, 4)}};
}

TARGET static inline int8x16_t taps_sum(const int8x16_t *tap, uint8x16_t own, uint8x16_t before,
                                        uint8x16_t first)
{
    int8x16_t sum = vaddq_s8(vqtbl1q_s8(tap[0], own), vqtbl1q_s8(tap[1], before));
    return vaddq_s8(sum, vqtbl1q_s8(tap[2], first));
}

/* Levels of 64 values, the last of `before` coming before the first of them. */
TARGET static inline void store_symbol_levels(const int8x16_t *tap, uint8x16x4_t u,
                                              uint8x16x4_t before, int8_t *out)
{
    uint8x16_t second = vextq_u8(before.val[2], u.val[2], 15);
    uint8x16_t third = vextq_u8(before.val[3], u.val[3], 15);
    int8x16x4_t level = {{taps_sum(tap, u.val[0], third, second),
                          taps_sum(tap, u.val[1], u.val[0], third),
                          taps_sum(tap, u.val[2], u.val[1], u.val[0]),
                          taps_sum(tap, u.val[3], u.val[2], u.val[1])}};
    vst4q_s8(out, level);
}

/* Three taps. The row is copied, so that 16 bytes can be read before and behind it, and
 * levels are written behind the halves of the row. */
TARGET static void plane_levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    enum { ROOM = 16, HALF = MAX_DIM / 2 };
    const unsigned n = p->head_dim, part = n / 8;
    uint8_t padded[ROOM + 3 * MAX_DIM / 8 + ROOM] = {0};
    int8_t level[2][HALF + 64];
    int8x16_t tap[3] = {vld1q_s8(p->taps[0]), vld1q_s8(p->taps[1]), vld1q_s8(p->taps[2])};
    memcpy(padded + ROOM, codes, 3 * part);
    const uint8_t *first = padded + ROOM, *second = first + part, *high = second + part;
    uint8x16_t last = vld1q_u8(high + part - 16);
    uint8x16x4_t end = plane_symbols(vld1q_u8(second + part - 16), last);
    uint8x16x4_t middle = plane_symbols(vld1q_u8(first + part - 16), vshlq_n_u8(last, 2));
    for (unsigned c = 0; c < part; c += 16) {
        uint8x16_t h = vld1q_u8(high + c);
        uint8x16x4_t u = plane_symbols(vld1q_u8(first + c), vshlq_n_u8(h, 2));
        store_symbol_levels(tap, u, end, level[0] + 4 * c);
        end = u;
        u = plane_symbols(vld1q_u8(second + c), h);
        store_symbol_levels(tap, u, middle, level[1] + 4 * c);
        middle = u;
    }
    memcpy(out, level[0], n / 2);
    memcpy(out + n / 2, level[1], n / 2);
}

TARGET static void levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    if (p->is_planes) {
        plane_levels(codes, p, out);
        return;
    }
    uint8_t padded[MAX_DIM + CODE_PADDING];
    codes_pad(codes, p, padded);
    int8x16_t a = vld1q_s8(p->a), b = vld1q_s8(p->b);
    uint8x16_t shuffle = vld1q_u8(p->shuffle);
    uint16x8_t multiplier = vld1q_u16(p->multiplier);
    for (unsigned i = 0; i < p->head_dim; i += 16) {
        const uint8_t *at = padded + i / 8 * p->bits;
        uint8x16_t window = vcombine_u8(windows_8(at, shuffle, multiplier),
                                        windows_8(at + p->bits, shuffle, multiplier));
        vst1q_s8(out + i, look_up(window, a, b));
    }
}

TARGET static void scale_levels(const int8_t *in, unsigned n, float scale, float *dst)
{
    for (unsigned i = 0; i < n; i += 16) {
        float32x4_t v[4];
        sixteen_levels(in + i, v);
        for (unsigned j = 0; j < 4; j++)
            vst1q_f32(dst + i + 4 * j, vmulq_n_f32(v[j], scale));
    }
}

/* 16 floats are the 64 bytes of a four-register table. */
TARGET static void lloyd_values(const int8_t *index, unsigned n, const lloyd_code *code,
                                float scale, float *dst)
{
    uint8x16x4_t table;
    for (unsigned j = 0; j < 4; j++)
        table.val[j] = vreinterpretq_u8_f32(vmulq_n_f32(vld1q_f32(code->values + 4 * j), scale));
    const uint32x4_t byte = vdupq_n_u32(0x03020100);
    for (unsigned i = 0; i < n; i += 16) {
        uint8x16_t k = vandq_u8(vreinterpretq_u8_s8(vld1q_s8(index + i)), vdupq_n_u8(15));
        uint16x8_t low = vmovl_u8(vget_low_u8(k)), high = vmovl_high_u8(k);
        uint32x4_t wide[4] = {vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low),
                              vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)};
        for (unsigned j = 0; j < 4; j++) {
            /* byte 4 * index + 0 .. 3 of the table */
            uint32x4_t at = vaddq_u32(vmulq_n_u32(wide[j], 0x04040404), byte);
            uint8x16_t v = vqtbl4q_u8(table, vreinterpretq_u8_u32(at));
            vst1q_f32(dst + i + 4 * j, vreinterpretq_f32_u8(v));
        }
    }
}

#define NEON_KERNELS(table_name)                                               \
    {                                                                          \
        .name = table_name, .hadamard = hadamard, .moments = moments,          \
        .quantize = quantize, .viterbi = viterbi, .levels = levels,            \
        .scale_levels = scale_levels, .project_levels = project_levels,        \
        .lloyd_index = lloyd_index, .lloyd_values = lloyd_values,              \
        .pack_nibbles = pack_nibbles, .mlx_encode = mlx_encode,                \
        .mlx_decode = mlx_decode,                                              \
    }

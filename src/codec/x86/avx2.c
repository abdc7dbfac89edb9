/* AVX2 and FMA; fused only where the result is the same. */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define HAS_HADAMARD
#include "codec/generic.h"
#include "codec/x86/avx2.h"
#include "codec/x86/avx2_planes.h"

/* ---- rotation ---- */

/* Butterflies of distance 1, 2 and, where blocks have 8 values, 4 inside a
 * vector: x times +-1 plus the other half, which a fused multiply-add rounds
 * exactly as an addition. */
TARGET static inline __m256 butterflies_in_vector(__m256 x, int has_8)
{
    const __m256 sign_1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 sign_2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 sign_4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    x = _mm256_fmadd_ps(x, sign_1, _mm256_permute_ps(x, 0xB1));
    x = _mm256_fmadd_ps(x, sign_2, _mm256_permute_ps(x, 0x4E));
    if (has_8)
        x = _mm256_fmadd_ps(x, sign_4, _mm256_permute2f128_ps(x, x, 1));
    return x;
}

TARGET static inline void pair(__m256 *a, __m256 *b)
{
    __m256 low = *a, high = *b;
    *a = _mm256_add_ps(low, high);
    *b = _mm256_sub_ps(low, high);
}

/* All distances up to 32 of 64 values, in registers. */
TARGET static inline void butterflies_64(float *x)
{
    __m256 v[8];
    for (int i = 0; i < 8; i++)
        v[i] = butterflies_in_vector(_mm256_loadu_ps(x + 8 * i), 1);
    for (int h = 1; h < 8; h *= 2)
        for (int i = 0; i < 8; i++)
            if (!(i & h))
                pair(v + i, v + i + h);
    for (int i = 0; i < 8; i++)
        _mm256_storeu_ps(x + 8 * i, v[i]);
}

/* Distance h of at least 8, times factor; the compiler drops a factor of 1. */
TARGET static inline __attribute__((always_inline)) void
pair_pass(float *x, unsigned n, unsigned h, const float factor)
{
    __m256 f = _mm256_set1_ps(factor);
    for (unsigned i = 0; i < n; i += 2 * h)
        for (unsigned j = i; j < i + h; j += 8) {
            __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + h);
            pair(&a, &b);
            _mm256_storeu_ps(x + j, _mm256_mul_ps(a, f));
            _mm256_storeu_ps(x + j + h, _mm256_mul_ps(b, f));
        }
}

TARGET void avx2_hadamard(float *x, const rotation *r, int transposed, float factor)
{
    unsigned n = r->head_dim, block = n / r->order, h = 8;
    if (block >= 64) {
        for (unsigned i = 0; i < n; i += 64)
            butterflies_64(x + i);
        h = 64;
    } else {
        for (unsigned i = 0; i < n; i += 8)
            _mm256_storeu_ps(x + i, butterflies_in_vector(_mm256_loadu_ps(x + i), block >= 8));
    }
    int scaled = 0; /* the last pass over a power of two scales as well */
    for (; 2 * h <= block; h *= 2) {
        scaled = r->order == 1 && 4 * h > block && factor != 1;
        if (scaled)
            pair_pass(x, n, h, factor);
        else
            pair_pass(x, n, h, 1);
    }
    if (r->order > 1)
        outer_factor(x, r->order, block, transposed ? r->outer_transposed : r->outer);
    if (!scaled && factor != 1)
        scale_row(x, n, factor);
}

/* ---- sums ---- */

TARGET static inline float sum_16_lanes(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

TARGET void avx2_moments(const float *x, unsigned n, float *sum_of_squares, float *peak)
{
    const __m256 sign = _mm256_set1_ps(-0.f);
    __m256 low = _mm256_setzero_ps(), high = low, largest = low;
    for (unsigned i = 0; i < n; i += 16) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        low = _mm256_add_ps(low, _mm256_mul_ps(a, a));
        high = _mm256_add_ps(high, _mm256_mul_ps(b, b));
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, a));
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, b));
    }
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    *peak = _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
    *sum_of_squares = sum_16_lanes(low, high);
}

TARGET static inline int32_t sum_lanes(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

TARGET static inline __m256 eight_levels(const int8_t *levels)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)levels)));
}

TARGET void avx2_project_levels(const float *x, const int8_t *levels, unsigned n,
                                  float *xl, int32_t *ll)
{
    __m256 low = _mm256_setzero_ps(), high = low;
    __m256i square = _mm256_setzero_si256();
    for (unsigned i = 0; i < n; i += 16) {
        __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(levels + i)));
        square = _mm256_add_epi32(square, _mm256_madd_epi16(wide, wide));
        low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(x + i), eight_levels(levels + i)));
        high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(x + i + 8),
                                                 eight_levels(levels + i + 8)));
    }
    *ll = sum_lanes(square);
    *xl = sum_16_lanes(low, high);
}

/* ---- quantisation ---- */

TARGET static inline __m256i both_halves(const uint8_t *table)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
}

/* 16 values to int16, saturating; groups of 4 come out as 0 2 1 3. */
TARGET static inline __m256i rounded_16(const float *x, __m256 gain)
{
    __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), gain));
    __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), gain));
    return _mm256_packs_epi32(a, b);
}

TARGET void avx2_quantize(const float *x, unsigned n, float gain, int limit, int16_t *t)
{
    __m256 g = _mm256_set1_ps(gain);
    __m256i most = _mm256_set1_epi16((short)limit), least = _mm256_set1_epi16((short)-limit);
    for (unsigned i = 0; i < n; i += 16) {
        __m256i v = _mm256_permute4x64_epi64(rounded_16(x + i, g), 0xD8);
        v = _mm256_max_epi16(_mm256_min_epi16(v, most), least);
        _mm256_storeu_si256((__m256i *)(t + i), v);
    }
}

/* Indices of 32 values as rounded_16 has them. Packing works on 128-bit halves:
 * groups of 4 are put in order at the end. */
TARGET static inline __m256i lloyd_32(__m256i t0, __m256i t1, const lloyd_code *code,
                                      __m256i *tv, __m256i *vv)
{
    const __m256i most = _mm256_set1_epi16(0x0FFF), low_byte = _mm256_set1_epi16(0xFF);
    __m256i a0 = _mm256_abs_epi16(t0), a1 = _mm256_abs_epi16(t1);
    __m256i m0 = _mm256_min_epu16(a0, most), m1 = _mm256_min_epu16(a1, most);
    __m256i bucket = _mm256_packus_epi16(_mm256_srli_epi16(m0, 8), _mm256_srli_epi16(m1, 8));
    __m256i rest = _mm256_packus_epi16(_mm256_and_si256(m0, low_byte),
                                       _mm256_and_si256(m1, low_byte));
    __m256i edge = _mm256_shuffle_epi8(both_halves(code->edge), bucket);
    __m256i reached = _mm256_cmpeq_epi8(_mm256_max_epu8(rest, edge), rest);
    __m256i above = _mm256_sub_epi8(_mm256_shuffle_epi8(both_halves(code->count), bucket), reached);
    __m256i low = _mm256_shuffle_epi8(both_halves(code->value_low), above);
    __m256i high = _mm256_shuffle_epi8(both_halves(code->value_high), above);
    __m256i v0 = _mm256_unpacklo_epi8(low, high), v1 = _mm256_unpackhi_epi8(low, high);
    /* -32768 has no magnitude in 16 bits, but the product of two negatives has */
    __m256i s0 = _mm256_sign_epi16(v0, t0), s1 = _mm256_sign_epi16(v1, t1);
    *tv = _mm256_add_epi32(*tv, _mm256_add_epi32(_mm256_madd_epi16(t0, s0),
                                                 _mm256_madd_epi16(t1, s1)));
    *vv = _mm256_add_epi32(*vv, _mm256_add_epi32(_mm256_madd_epi16(v0, v0),
                                                 _mm256_madd_epi16(v1, v1)));
    /* half + above, or half - 1 - above for negative t */
    __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), _mm256_packs_epi16(t0, t1));
    above = _mm256_xor_si256(above, negative);
    above = _mm256_add_epi8(above, _mm256_set1_epi8((char)(1 << (code->bits - 1))));
    return _mm256_permutevar8x32_epi32(above, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

TARGET void avx2_lloyd_index(const float *x, unsigned n, float gain,
                             const lloyd_code *code, uint8_t *index, int32_t *tv,
                             int32_t *vv)
{
    __m256 g = _mm256_set1_ps(gain);
    __m256i sum_tv = _mm256_setzero_si256(), sum_vv = sum_tv;
    unsigned i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i k = lloyd_32(rounded_16(x + i, g), rounded_16(x + i + 16, g), code, &sum_tv,
                             &sum_vv);
        _mm256_storeu_si256((__m256i *)(index + i), k);
    }
    *tv = sum_lanes(sum_tv);
    *vv = sum_lanes(sum_vv);
    if (i < n) { /* 16 left: the other half is not looked at */
        __m256i t = rounded_16(x + i, g), zero = _mm256_setzero_si256();
        sum_tv = sum_vv = zero;
        __m256i k = lloyd_32(t, zero, code, &sum_tv, &sum_vv);
        _mm_storeu_si128((__m128i *)(index + i), _mm256_castsi256_si128(k));
        int least = code->value_low[0] | code->value_high[0] << 8;
        *tv += sum_lanes(sum_tv);
        *vv += sum_lanes(sum_vv) - 16 * least * least;
    }
}

TARGET void avx2_pack_nibbles(const uint8_t *index, unsigned n, uint8_t *codes)
{
    const __m128i nibble = _mm_set1_epi8(15), places = _mm_set1_epi16(0x1001);
    for (unsigned i = 0; i < n; i += 16) {
        __m128i k = _mm_and_si128(_mm_loadu_si128((const __m128i *)(index + i)), nibble);
        k = _mm_maddubs_epi16(k, places); /* even + 16 * odd */
        _mm_storel_epi64((__m128i *)(codes + i / 2), _mm_packus_epi16(k, k));
    }
}

/* ---- the trellis ---- */

#define LANES 8
typedef __m256i vec;
TARGET static inline vec vec_load(const int32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
TARGET static inline void vec_store(int32_t *p, vec v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}
/* The upper half of each lane is 0, so that madd multiplies the lower. */
TARGET static inline vec vec_operand(vec v)
{
    return _mm256_blend_epi16(v, _mm256_setzero_si256(), 0xAA);
}
TARGET static inline vec vec_times_16(vec v)
{
    return _mm256_slli_epi32(v, 4);
}
TARGET static inline void vec_store_bytes(uint8_t *p, vec v)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}
TARGET static inline vec vec_multiply_add(vec x, vec y, vec sum)
{
    return _mm256_add_epi32(_mm256_madd_epi16(x, y), sum);
}
TARGET static inline vec vec_set1(int32_t i)
{
    return _mm256_set1_epi32(i);
}
TARGET static inline vec vec_repeat_4(const int32_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}
TARGET static inline int32_t vec_least(vec v)
{
    __m128i x = _mm_min_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    x = _mm_min_epi32(x, _mm_shuffle_epi32(x, 0x4E));
    return _mm_cvtsi128_si32(_mm_min_epi32(x, _mm_shuffle_epi32(x, 0xB1)));
}
#define vec_add _mm256_add_epi32
#define vec_sub _mm256_sub_epi32
#define vec_and _mm256_and_si256
#define vec_min _mm256_min_epi32

#include "codec/viterbi_vector.h"

/* ---- codes and values ---- */

/* A row whose windows wrap: behind its last byte comes its first. Where it is
 * shorter than a vector, a padded copy stands in. */
typedef struct cyclic_row {
    const uint8_t *codes;
    unsigned bytes;
    __m128i first, last; /* 16 bytes */
} cyclic_row;

/* 16 bytes from `at` on. */
TARGET static inline __m128i sixteen_bytes(const cyclic_row *r, unsigned at)
{
    if (at + 16 <= r->bytes)
        return _mm_loadu_si128((const __m128i *)(r->codes + at));
    const int left = (int)r->bytes - (int)at;
    return _mm_or_si128(_mm_shuffle_epi8(r->last, plane_bytes(sliding_index(left - 16))),
                        _mm_shuffle_epi8(r->first, plane_bytes(sliding_index(left))));
}

/* 8 windows into 16-bit lanes, twice: two bytes that hold each window, shifted so
 * that it fills the upper byte. */
TARGET static inline __m256i windows_16(__m128i low, __m128i high, __m256i shuffle,
                                        __m256i multiplier)
{
    __m256i pairs = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), shuffle);
    return _mm256_srli_epi16(_mm256_mullo_epi16(pairs, multiplier), 8);
}

TARGET static inline __m128i look_up(__m128i window, __m128i a, __m128i b)
{
    const __m128i nibble = _mm_set1_epi8(15);
    __m128i high = _mm_and_si128(_mm_srli_epi16(window, 4), nibble);
    return _mm_add_epi8(_mm_shuffle_epi8(a, high),
                        _mm_shuffle_epi8(b, _mm_and_si128(window, nibble)));
}

TARGET static inline __m128i table_16(const int8_t *table)
{
    return _mm_loadu_si128((const __m128i *)table);
}

/* 4 bits: a window is a nibble and the next one, so 32 values need no more than
 * their 16 bytes and the byte after, which at the end is the first. */
TARGET static inline void levels_4_bits(const uint8_t *codes, const stream_plan *p,
                                             int8_t *out)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i a = _mm256_broadcastsi128_si256(table_16(p->a));
    __m256i b = _mm256_broadcastsi128_si256(table_16(p->b));
    const uint8_t *end = codes + p->head_dim / 2;
    __m128i first_byte = _mm_cvtsi32_si128(codes[0]);
    for (; codes < end; codes += 16, out += 32) {
        __m128i here = _mm_loadu_si128((const __m128i *)codes);
        __m128i after = codes + 16 < end ? _mm_cvtsi32_si128(codes[16]) : first_byte;
        __m128i next = _mm_alignr_epi8(after, here, 1), odd_here = _mm_srli_epi16(here, 4);
        /* even values above, odd values below, each with its follower */
        __m256i first = _mm256_and_si256(_mm256_set_m128i(odd_here, here), nibble);
        __m256i second = _mm256_and_si256(_mm256_set_m128i(next, odd_here), nibble);
        __m256i level = _mm256_add_epi8(_mm256_shuffle_epi8(b, first),
                                        _mm256_shuffle_epi8(a, second));
        __m128i even = _mm256_castsi256_si128(level), odd = _mm256_extracti128_si256(level, 1);
        _mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi8(even, odd));
        _mm_storeu_si128((__m128i *)(out + 16), _mm_unpackhi_epi8(even, odd));
    }
}

/* Levels 4 b + r of 16 bytes b, r = 0 to 3, in natural order. */
TARGET static inline void store_in_order(__m128i r0, __m128i r1, __m128i r2, __m128i r3,
                                         int8_t *out)
{
    __m128i a = _mm_unpacklo_epi8(r0, r1), b = _mm_unpacklo_epi8(r2, r3);
    __m128i c = _mm_unpackhi_epi8(r0, r1), d = _mm_unpackhi_epi8(r2, r3);
    _mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi16(a, b));
    _mm_storeu_si128((__m128i *)(out + 16), _mm_unpackhi_epi16(a, b));
    _mm_storeu_si128((__m128i *)(out + 32), _mm_unpacklo_epi16(c, d));
    _mm_storeu_si128((__m128i *)(out + 48), _mm_unpackhi_epi16(c, d));
}

TARGET static inline plane_symbols lanes_symbols(const uint8_t *codes, unsigned part,
                                                 plane_lanes l)
{
    return symbols_of(
        _mm256_set_m128i(plane_bytes(codes + l.high), plane_bytes(codes + l.low)),
        _mm256_set_m128i(third_bits(codes, part, l.high), third_bits(codes, part, l.low)));
}

/* Levels of a vector, where they belong. */
TARGET static inline void store_lanes(const plane_tables *t, const plane_symbols *u,
                                      const plane_symbols *before, plane_lanes l, int8_t *out)
{
    plane_symbols b = symbols_before(u, before);
    __m256i v[4];
    symbol_levels(t, u, &b, v);
    store_in_order(_mm256_extracti128_si256(v[0], 1), _mm256_extracti128_si256(v[1], 1),
                   _mm256_extracti128_si256(v[2], 1), _mm256_extracti128_si256(v[3], 1),
                   out + 4 * l.high);
    store_in_order(_mm256_castsi256_si128(v[0]), _mm256_castsi256_si128(v[1]),
                   _mm256_castsi256_si128(v[2]), _mm256_castsi256_si128(v[3]), out + 4 * l.low);
}

/* Three taps. The last vector comes first: what comes before the first is its end. Where it
 * overlaps what is before it, it does not know what came before its first byte; others
 * write over that. */
TARGET static inline __attribute__((always_inline)) void
lane_levels(const uint8_t *codes, const stream_plan *p, const unsigned part, int8_t *out)
{
    const unsigned whole = part / 16;
    plane_tables t = plane_tables_of(p);
    plane_lanes l = plane_lanes_of(part, whole);
    plane_symbols before = lanes_symbols(codes, part, l);
    if (part % 16)
        store_lanes(&t, &before, &before, l, out);
    for (unsigned i = 0; i < whole; i++) {
        l = plane_lanes_of(part, i);
        plane_symbols u = lanes_symbols(codes, part, l);
        store_lanes(&t, &u, &before, l, out);
        before = u;
    }
}

#include "codec/x86/plane_sizes.h"

TARGET void avx2_levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    if (p->is_planes) {
        plane_levels(codes, p, out);
        return;
    }
    if (p->bits == 4 && p->head_dim % 32 == 0) {
        levels_4_bits(codes, p, out);
        return;
    }
    uint8_t padded[MAX_DIM + CODE_PADDING];
    if (p->bits == 8) { /* windows are levels */
        memcpy(out, codes, p->head_dim);
        return;
    }
    cyclic_row r = {.codes = codes, .bytes = p->head_dim * p->bits / 8};
    if (r.bytes < 16) {
        codes_pad(codes, p, padded);
        r.codes = padded;
        r.bytes += CODE_PADDING;
    }
    r.first = _mm_loadu_si128((const __m128i *)r.codes);
    r.last = _mm_loadu_si128((const __m128i *)(r.codes + r.bytes - 16));
    __m128i a = table_16(p->a), b = table_16(p->b);
    __m256i shuffle = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p->shuffle));
    __m256i multiplier =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p->multiplier));
    for (unsigned i = 0; i < p->head_dim; i += 16) {
        unsigned byte = i / 8 * p->bits;
        __m256i lanes = windows_16(sixteen_bytes(&r, byte), sixteen_bytes(&r, byte + p->bits),
                                   shuffle, multiplier);
        __m128i window = _mm_packus_epi16(_mm256_castsi256_si128(lanes),
                                          _mm256_extracti128_si256(lanes, 1));
        _mm_storeu_si128((__m128i *)(out + i), look_up(window, a, b));
    }
}

TARGET void avx2_scale_levels(const int8_t *in, unsigned n, float scale, float *dst)
{
    __m256 s = _mm256_set1_ps(scale);
    for (unsigned i = 0; i < n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_mul_ps(eight_levels(in + i), s));
}

TARGET void avx2_lloyd_values(const int8_t *index, unsigned n, const lloyd_code *code,
                                float scale, float *dst)
{
    __m256 s = _mm256_set1_ps(scale);
    __m256 low = _mm256_mul_ps(_mm256_loadu_ps(code->values), s);
    __m256 high = _mm256_mul_ps(_mm256_loadu_ps(code->values + 8), s);
    for (unsigned i = 0; i < n; i += 8) {
        __m256i k = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(index + i)));
        __m256 a = _mm256_permutevar8x32_ps(low, k), b = _mm256_permutevar8x32_ps(high, k);
        __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(k, 28));
        _mm256_storeu_ps(dst + i, _mm256_blendv_ps(a, b, is_high));
    }
}

const codec_kernels codec_avx2 = {
    .name = "avx2",
    .hadamard = avx2_hadamard,
    .moments = avx2_moments,
    .quantize = avx2_quantize,
    .viterbi = viterbi,
    .levels = avx2_levels,
    .scale_levels = avx2_scale_levels,
    .project_levels = avx2_project_levels,
    .lloyd_index = avx2_lloyd_index,
    .pack_nibbles = avx2_pack_nibbles,
    .lloyd_values = avx2_lloyd_values,
    .mlx_encode = mlx_encode,
    .mlx_decode = mlx_decode,
};
#else
typedef int not_for_this_processor;
#endif

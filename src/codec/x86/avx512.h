/* What the tables with and without VBMI share; the includer defines TARGET. */
#include <immintrin.h>

#define HAS_HADAMARD
#include "codec/generic.h"
#include "codec/x86/avx2.h"

/* ---- rotation ---- */

/* Butterflies inside a vector, of distance 1, 2 and, in blocks that have them,
 * 4 and 8: x times +-1 plus the other half, fused, which rounds as an addition
 * does. */
TARGET static inline __m512 butterflies_in_vector(__m512 x, unsigned block)
{
    const __m512 one = _mm512_set1_ps(1), minus = _mm512_set1_ps(-1);
    x = _mm512_fmadd_ps(x, _mm512_mask_blend_ps(0xAAAA, one, minus), _mm512_permute_ps(x, 0xB1));
    x = _mm512_fmadd_ps(x, _mm512_mask_blend_ps(0xCCCC, one, minus), _mm512_permute_ps(x, 0x4E));
    if (block >= 8)
        x = _mm512_fmadd_ps(x, _mm512_mask_blend_ps(0xF0F0, one, minus),
                            _mm512_shuffle_f32x4(x, x, 0xB1));
    if (block >= 16)
        x = _mm512_fmadd_ps(x, _mm512_mask_blend_ps(0xFF00, one, minus),
                            _mm512_shuffle_f32x4(x, x, 0x4E));
    return x;
}

TARGET static inline void pair(__m512 *a, __m512 *b)
{
    __m512 low = *a, high = *b;
    *a = _mm512_add_ps(low, high);
    *b = _mm512_sub_ps(low, high);
}

/* All distances up to 64 of 128 values, in registers, times factor. */
TARGET static inline void butterflies_128(float *x, float factor)
{
    __m512 v[8], f = _mm512_set1_ps(factor);
    for (int i = 0; i < 8; i++)
        v[i] = butterflies_in_vector(_mm512_loadu_ps(x + 16 * i), 128);
    for (int h = 1; h < 8; h *= 2)
        for (int i = 0; i < 8; i++)
            if (!(i & h))
                pair(v + i, v + i + h);
    for (int i = 0; i < 8; i++)
        _mm512_storeu_ps(x + 16 * i, _mm512_mul_ps(v[i], f));
}

TARGET static inline void pair_pass(float *x, unsigned n, unsigned h)
{
    for (unsigned i = 0; i < n; i += 2 * h)
        for (unsigned j = i; j < i + h; j += 16) {
            __m512 a = _mm512_loadu_ps(x + j), b = _mm512_loadu_ps(x + j + h);
            pair(&a, &b);
            _mm512_storeu_ps(x + j, a);
            _mm512_storeu_ps(x + j + h, b);
        }
}

TARGET static void hadamard(float *x, const rotation *r, int transposed, float factor)
{
    unsigned n = r->head_dim, block = n / r->order, h = 16;
    if (n == 128 && r->order == 1) {
        butterflies_128(x, factor);
        return;
    }
    if (block >= 128) {
        for (unsigned i = 0; i < n; i += 128)
            butterflies_128(x + i, 1);
        h = 128;
    } else {
        for (unsigned i = 0; i < n; i += 16)
            _mm512_storeu_ps(x + i, butterflies_in_vector(_mm512_loadu_ps(x + i), block));
    }
    for (; 2 * h <= block; h *= 2)
        pair_pass(x, n, h);
    if (r->order > 1)
        outer_factor(x, r->order, block, transposed ? r->outer_transposed : r->outer);
    if (factor != 1)
        scale_row(x, n, factor);
}

/* ---- values ---- */

TARGET static inline __m512i sixteen(const int8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}

TARGET static void scale_levels(const int8_t *in, unsigned n, float scale, float *dst)
{
    __m512 s = _mm512_set1_ps(scale);
    for (unsigned i = 0; i < n; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_mul_ps(_mm512_cvtepi32_ps(sixteen(in + i)), s));
}

TARGET static void lloyd_values(const int8_t *index, unsigned n, const lloyd_code *code,
                                float scale, float *dst)
{
    __m512 values = _mm512_mul_ps(_mm512_loadu_ps(code->values), _mm512_set1_ps(scale));
    for (unsigned i = 0; i < n; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_permutexvar_ps(sixteen(index + i), values));
}

/* ---- the trellis ---- */

#define LANES 16
typedef __m512i vec;
TARGET static inline vec vec_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}
TARGET static inline void vec_store(int32_t *p, vec v)
{
    _mm512_storeu_si512(p, v);
}
/* The upper half of each lane is 0, so that a pair's product is the lower's. */
TARGET static inline vec vec_operand(vec v)
{
    return _mm512_and_si512(v, _mm512_set1_epi32(0xFFFF));
}
TARGET static inline vec vec_multiply_add(vec x, vec y, vec sum)
{
    return _mm512_add_epi32(_mm512_madd_epi16(x, y), sum);
}
TARGET static inline vec vec_times_16(vec v)
{
    return _mm512_slli_epi32(v, 4);
}
TARGET static inline void vec_store_bytes(uint8_t *p, vec v)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v));
}
TARGET static inline vec vec_set1(int32_t i)
{
    return _mm512_set1_epi32(i);
}
TARGET static inline vec vec_repeat_4(const int32_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}
TARGET static inline vec vec_repeat_8(const int32_t *p)
{
    return _mm512_broadcast_i32x8(_mm256_loadu_si256((const __m256i *)p));
}
/* v[i] has rows 2 i and 2 i + 1, then columns. */
TARGET static inline void vec_transpose_8(vec *v)
{
    const __m512i low = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
    /* columns 0 to 3, then 4 to 7, of rows 0 to 3 and of rows 4 to 7 */
    __m512i a = _mm512_permutex2var_epi32(v[0], low, v[1]);
    __m512i b = _mm512_permutex2var_epi32(v[0], high, v[1]);
    __m512i c = _mm512_permutex2var_epi32(v[2], low, v[3]);
    __m512i d = _mm512_permutex2var_epi32(v[2], high, v[3]);
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    v[0] = _mm512_permutex2var_epi64(a, first, c);
    v[1] = _mm512_permutex2var_epi64(a, second, c);
    v[2] = _mm512_permutex2var_epi64(b, first, d);
    v[3] = _mm512_permutex2var_epi64(b, second, d);
}
#define vec_least _mm512_reduce_min_epi32
#define vec_add _mm512_add_epi32
#define vec_sub _mm512_sub_epi32
#define vec_and _mm512_and_si512
#define vec_min _mm512_min_epi32

#define AVX512_KERNELS(table_name, levels_kernel)                              \
    {                                                                          \
        .name = table_name, .hadamard = hadamard, .moments = avx2_moments,     \
        .quantize = avx2_quantize, .viterbi = viterbi,                         \
        .levels = levels_kernel, .scale_levels = scale_levels,                 \
        .project_levels = avx2_project_levels,                                 \
        .lloyd_index = avx2_lloyd_index, .pack_nibbles = avx2_pack_nibbles,    \
        .lloyd_values = lloyd_values, .mlx_encode = mlx_encode,                \
        .mlx_decode = mlx_decode,                                              \
    }

/* Softmax, weights, floats and half precision in vectors of 16 floats; the includer
 * defines TARGET and INLINE and has included attend/generic.h. */
#include <immintrin.h>

/* ---- softmax ---- */

/* As exp_negative. */
INLINE __m512 exp_16(__m512 x)
{
    /* far enough for vscalefps to give 0, also for minus infinity */
    x = _mm512_max_ps(x, _mm512_set1_ps(-200));
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(t, n), p = _mm512_set1_ps(1.5403530e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812910e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

/* The sums of two vectors. */
INLINE void two_sums(__m512 a, __m512 b, float *sum_a, float *sum_b)
{
    __m256 a8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m256 b8 = _mm256_add_ps(_mm512_castps512_ps256(b), _mm512_extractf32x8_ps(b, 1));
    __m128 a4 = _mm_add_ps(_mm256_castps256_ps128(a8), _mm256_extractf128_ps(a8, 1));
    __m128 b4 = _mm_add_ps(_mm256_castps256_ps128(b8), _mm256_extractf128_ps(b8, 1));
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a4, b4), _mm_unpackhi_ps(a4, b4));
    ab = _mm_add_ps(ab, _mm_movehl_ps(ab, ab));
    *sum_a = _mm_cvtss_f32(ab);
    *sum_b = _mm_cvtss_f32(_mm_shuffle_ps(ab, ab, 1));
}

TARGET static float softmax(const float *logit, const float *scale, uint64_t where,
                            softmax_state *s, float *e, float *p, float *peak, float *chosen)
{
    __m512 l[4];
    for (int i = 0; i < 4; i++)
        l[i] = _mm512_loadu_ps(logit + 16 * i);
    float largest = _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(l[0], l[1]), _mm512_max_ps(l[2], l[3])));
    *peak = *chosen = 0;
    if (largest == -INFINITY) {
        if (e)
            memset(e, 0, TILE * sizeof *e);
        memset(p, 0, TILE * sizeof *p);
        return 1;
    }
    float rescale = 1;
    if (largest > s->max) {
        rescale = exp_negative(s->max - largest);
        s->max = largest;
    }
    __m512 max = _mm512_set1_ps(s->max), sum = _mm512_setzero_ps(), mass = sum, most = sum,
           some = sum;
    for (int i = 0; i < 4; i++) {
        __m512 power = exp_16(_mm512_sub_ps(l[i], max));
        __m512 product = _mm512_mul_ps(power, _mm512_loadu_ps(scale + 16 * i));
        if (e)
            _mm512_storeu_ps(e + 16 * i, power);
        _mm512_storeu_ps(p + 16 * i, product);
        sum = _mm512_add_ps(sum, power);
        mass = _mm512_add_ps(mass, product);
        most = _mm512_max_ps(most, product);
        some = _mm512_mask_add_ps(some, (__mmask16)(where >> 16 * i), some, power);
    }
    *peak = _mm512_reduce_max_ps(most);
    float tile_sum, tile_mass;
    two_sums(sum, mass, &tile_sum, &tile_mass);
    if (where)
        *chosen = _mm512_reduce_add_ps(some);
    s->sum = s->sum * rescale + tile_sum;
    s->mass = s->mass * rescale + tile_mass;
    s->bias *= rescale;
    return rescale;
}

TARGET static void add_where(uint64_t where, float add, float *logit)
{
    for (int i = 0; i < TILE; i += 16) {
        __m512 x = _mm512_loadu_ps(logit + i);
        x = _mm512_mask_add_ps(x, (__mmask16)(where >> i), x, _mm512_set1_ps(add));
        _mm512_storeu_ps(logit + i, x);
    }
}

TARGET static void logits(const int32_t *score, float unit, const float *scale, uint64_t where,
                          float add, float *logit)
{
    for (int i = 0; i < TILE; i += 16) {
        __m512 x = _mm512_cvtepi32_ps(_mm512_loadu_si512(score + i));
        x = _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(unit)), _mm512_loadu_ps(scale + i));
        x = _mm512_mask_add_ps(x, (__mmask16)(where >> i), x, _mm512_set1_ps(add));
        _mm512_storeu_ps(logit + i, x);
    }
}

TARGET static float sum_where(uint64_t where, const float *x)
{
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < TILE; i += 16)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps((__mmask16)(where >> i), x + i));
    return _mm512_reduce_add_ps(sum);
}

TARGET static int32_t weights(const float *p, float gain, uint16_t *weight)
{
    __m512 g = _mm512_set1_ps(gain);
    __m512i excess = _mm512_setzero_si512();
    for (int t = 0; t < TILE; t += 16) {
        __m512i w = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(p + t), g));
        __m512i upper = _mm512_and_si512(_mm512_add_epi32(w, _mm512_set1_epi32(64)),
                                         _mm512_set1_epi32(~127));
        excess = _mm512_add_epi32(excess, _mm512_sub_epi32(upper, w));
        _mm256_storeu_si256((__m256i *)(weight + t), _mm512_cvtepi32_epi16(w));
    }
    return _mm512_reduce_add_epi32(excess);
}

/* ---- floats ---- */

/* ---- halves ---- */

TARGET static float scales(const uint8_t *half, uint64_t *signs, float *scale)
{
    __m512 largest = _mm512_setzero_ps();
    uint64_t sign = 0;
    for (int t = 0; t < TILE; t += 16) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(half + 2 * t));
        sign |= (uint64_t)_mm256_movepi16_mask(h) << t;
        if (signs)
            h = _mm256_and_si256(h, _mm256_set1_epi16(0x7FFF));
        h = _mm256_maskz_mov_epi16(_mm256_cmplt_epu16_mask(h, _mm256_set1_epi16(0x7C00)), h);
        __m512 x = _mm512_cvtph_ps(h);
        _mm512_storeu_ps(scale + t, x);
        largest = _mm512_max_ps(largest, x);
    }
    if (signs)
        *signs = sign;
    return _mm512_reduce_max_ps(largest);
}

TARGET static int halves(const uint8_t *half, unsigned n, float *x)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7FFF), infinite = _mm256_set1_epi16(0x7C00);
    unsigned not_finite = 0;
    for (unsigned i = 0; i < n; i += 16) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(half + 2 * i));
        not_finite |= _mm256_cmpge_epu16_mask(_mm256_and_si256(h, magnitude), infinite);
        _mm512_storeu_ps(x + i, _mm512_cvtph_ps(h));
    }
    return !not_finite;
}

/* ---- plain rows ---- */

typedef __m512 vec;
enum { LANES = 16 };

INLINE unsigned most_vectors(const unsigned n)
{
    (void)n;
    return 4;
}

INLINE vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

INLINE vec vec_all(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

INLINE void vec_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}

INLINE vec vec_halves(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE vec vec_bytes(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

INLINE vec vec_multiply_add(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE int vec_has_nan(vec v)
{
    return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0;
}

/* In each quarter the sums of that quarter of 4 vectors: two halves of it, then
 * the two lanes that are left. */
INLINE vec sums_in_quarters(const vec *v)
{
    vec x = _mm512_add_ps(_mm512_mask_blend_ps(0xCCCC, v[0], v[1]),
                          _mm512_shuffle_ps(v[0], v[1], 0x4E));
    vec y = _mm512_add_ps(_mm512_mask_blend_ps(0xCCCC, v[2], v[3]),
                          _mm512_shuffle_ps(v[2], v[3], 0x4E));
    return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xDD));
}

/* The quarters likewise. */
INLINE vec vec_sums(const vec *v)
{
    vec a = sums_in_quarters(v), b = sums_in_quarters(v + 4);
    vec c = sums_in_quarters(v + 8), d = sums_in_quarters(v + 12);
    vec x = _mm512_add_ps(_mm512_mask_blend_ps(0xFF00, a, b), _mm512_shuffle_f32x4(a, b, 0x4E));
    vec y = _mm512_add_ps(_mm512_mask_blend_ps(0xFF00, c, d), _mm512_shuffle_f32x4(c, d, 0x4E));
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xDD));
}

#include "attend/x86/plain.h"

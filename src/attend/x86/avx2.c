/*
 * AVX2. vpmaddubsw saturates on 8-bit levels and would leave weights 7 bits;
 * vpmaddwd on 16 bits does as many products for the same multiplications (one
 * instruction a 16 instead of two a 32), exactly. So everything is wide here.
 *
 * Counts for one token and query head, head_dim 128: 8 vpmaddwd + 8 vpaddd for
 * the score, 2.6 to add up its lanes, 8 + 8 for the value; 4 + 4 vpmovsxbw that
 * 4 query heads share.
 *
 * avx2_levels.h has the tiles.
 */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define HAS_SOFTMAX
#define HAS_HALVES
#define HAS_PLAIN_KERNELS
#define HAS_ORDER
#define HAS_PACKED_QUERY
#include "attend/generic.h"

#define INLINE TARGET static inline __attribute__((always_inline))
#include "attend/x86/avx2_levels.h"

INLINE __m256i widened(const int8_t *levels)
{
    return _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)levels));
}

/* ---- scores ---- */

INLINE __m256i sum_of_dwords(const __m256i *v)
{
    __m256i x = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]),
                                 _mm256_unpackhi_epi32(v[0], v[1]));
    __m256i y = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]),
                                 _mm256_unpackhi_epi32(v[2], v[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y));
}

/* The sums of 8 vectors. */
INLINE __m256i sums_of_8(const __m256i *v)
{
    __m256i a = sum_of_dwords(v), b = sum_of_dwords(v + 4);
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}

/* n rows x 8 / n tokens at a time. */
INLINE void score_rows(const tile_plan *p, const int8_t *tile, const uint8_t *packed,
                       const unsigned n, int32_t (*score)[TILE])
{
    const unsigned tokens = 8 / n, dim = p->head_dim;
    size_t row = packed_query_bytes(dim);
    for (unsigned t = 0; t < TILE; t += tokens, tile += tokens * dim) {
        __m256i sum[8];
        int32_t total[8];
        for (unsigned k = 0; k < 8; k++)
            sum[k] = _mm256_setzero_si256();
        for (unsigned i = 0; i < dim; i += 16) {
            __m256i query[4];
            for (unsigned r = 0; r < n; r++)
                query[r] = _mm256_load_si256((const __m256i *)(packed + r * row + 2 * i));
            for (unsigned k = 0; k < tokens; k++) {
                __m256i key = widened(tile + k * dim + i);
                for (unsigned r = 0; r < n; r++)
                    sum[r * tokens + k] = _mm256_add_epi32(sum[r * tokens + k],
                                                           _mm256_madd_epi16(key, query[r]));
            }
        }
        _mm256_storeu_si256((__m256i *)total, sums_of_8(sum));
        for (unsigned r = 0; r < n; r++)
            memcpy(score[r] + t, total + r * tokens, tokens * sizeof *total);
    }
}

TARGET static void scores(const tile_plan *p, const int8_t *tile, const uint8_t *packed,
                          unsigned n, int wide, int32_t (*score)[TILE])
{
    size_t row = packed_query_bytes(p->head_dim);
    (void)wide;
    for (; n >= 4; n -= 4, packed += 4 * row, score += 4)
        score_rows(p, tile, packed, 4, score);
    for (; n >= 2; n -= 2, packed += 2 * row, score += 2)
        score_rows(p, tile, packed, 2, score);
    if (n)
        score_rows(p, tile, packed, 1, score);
}

/* ---- accumulation ---- */

/* n rows, v vectors of 8 values. */
INLINE void accumulate_block(const int8_t *tile, unsigned dim, const uint16_t (*weight)[TILE],
                             const float *unit, const unsigned n, const unsigned v,
                             float *const *out, unsigned first)
{
    __m256i sum[4][4];
    for (unsigned r = 0; r < n; r++)
        for (unsigned j = 0; j < v; j++)
            sum[r][j] = _mm256_setzero_si256();
    for (unsigned t = 0; t < TILE; t += 2) {
        __m256i value[4];
        for (unsigned j = 0; j < v; j++)
            value[j] = widened(tile + t * dim + 2 * (first + 8 * j));
        for (unsigned r = 0; r < n; r++) {
            int32_t two_weights;
            memcpy(&two_weights, weight[r] + t, sizeof two_weights);
            __m256i w = _mm256_set1_epi32(two_weights);
            for (unsigned j = 0; j < v; j++)
                sum[r][j] = _mm256_add_epi32(sum[r][j], _mm256_madd_epi16(value[j], w));
        }
    }
    for (unsigned r = 0; r < n; r++)
        for (unsigned j = 0; j < v; j++) {
            float *o = out[r] + first + 8 * j;
            __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][j]),
                                           _mm256_set1_ps(unit[r]));
            _mm256_storeu_ps(o, _mm256_add_ps(_mm256_loadu_ps(o), product));
        }
}

INLINE void accumulate_rows(const tile_plan *p, const int8_t *tile,
                            const uint16_t (*weight)[TILE], const float *unit,
                            const unsigned n, float *const *out)
{
    for (unsigned i = 0; i < p->head_dim; i += 16)
        accumulate_block(tile, p->head_dim, weight, unit, n, 2, out, i);
}

TARGET static void accumulate(const tile_plan *p, const int8_t *tile,
                              const uint16_t (*weight)[TILE], const float *unit, unsigned n,
                              int wide, float *const *out)
{
    (void)wide;
    for (; n >= 4; n -= 4, weight += 4, unit += 4, out += 4)
        accumulate_rows(p, tile, weight, unit, 4, out);
    if (n == 3)
        accumulate_rows(p, tile, weight, unit, 3, out);
    else if (n == 2)
        accumulate_rows(p, tile, weight, unit, 2, out);
    else if (n == 1)
        accumulate_rows(p, tile, weight, unit, 1, out);
}

/* ---- softmax ---- */

/* As exp_negative. */
INLINE __m256 exp_8(__m256 x)
{
    __m256 is_normal = _mm256_cmp_ps(x, _mm256_set1_ps(-87), _CMP_GT_OQ);
    __m256 t = _mm256_mul_ps(_mm256_max_ps(x, _mm256_set1_ps(-87)), _mm256_set1_ps(1.44269504f));
    __m256 n = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 f = _mm256_sub_ps(t, n), p = _mm256_set1_ps(1.5403530e-4f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.33335581e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.61812910e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.55041087e-2f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.40226507e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.93147181e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1));
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return _mm256_and_ps(is_normal, _mm256_mul_ps(p, power));
}

INLINE float largest_of_8(__m256 x)
{
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}

INLINE float sum_of_8(__m256 x)
{
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}

/* All ones where the token's bit is set, for 8 tokens. */
INLINE __m256 lanes_of(uint64_t where)
{
    __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i byte = _mm256_set1_epi32((int)(where & 255));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(byte, bit), bit));
}

TARGET static float softmax(const float *logit, const float *scale, uint64_t where,
                            softmax_state *s, float *e, float *p, float *peak, float *chosen)
{
    __m256 most = _mm256_loadu_ps(logit);
    for (int t = 8; t < TILE; t += 8)
        most = _mm256_max_ps(most, _mm256_loadu_ps(logit + t));
    float largest = largest_of_8(most), rescale = 1;
    *peak = *chosen = 0;
    if (largest == -INFINITY) {
        if (e)
            memset(e, 0, TILE * sizeof *e);
        memset(p, 0, TILE * sizeof *p);
        return 1;
    }
    if (largest > s->max) {
        rescale = exp_negative(s->max - largest);
        s->max = largest;
    }
    __m256 max = _mm256_set1_ps(s->max), sum = _mm256_setzero_ps(), mass = sum, some = sum;
    most = sum;
    for (int t = 0; t < TILE; t += 8) {
        __m256 power = exp_8(_mm256_sub_ps(_mm256_loadu_ps(logit + t), max));
        __m256 product = _mm256_mul_ps(power, _mm256_loadu_ps(scale + t));
        if (e)
            _mm256_storeu_ps(e + t, power);
        _mm256_storeu_ps(p + t, product);
        sum = _mm256_add_ps(sum, power);
        mass = _mm256_add_ps(mass, product);
        most = _mm256_max_ps(most, product);
        if (where)
            some = _mm256_add_ps(some, _mm256_and_ps(power, lanes_of(where >> t)));
    }
    *chosen = where ? sum_of_8(some) : 0;
    *peak = largest_of_8(most);
    s->sum = s->sum * rescale + sum_of_8(sum);
    s->mass = s->mass * rescale + sum_of_8(mass);
    s->bias *= rescale;
    return rescale;
}

TARGET static void add_where(uint64_t where, float add, float *logit)
{
    for (int t = 0; t < TILE; t += 8, where >>= 8) {
        __m256 x = _mm256_loadu_ps(logit + t);
        __m256 sum = _mm256_add_ps(x, _mm256_set1_ps(add));
        _mm256_storeu_ps(logit + t, _mm256_blendv_ps(x, sum, lanes_of(where)));
    }
}

TARGET static void logits(const int32_t *score, float unit, const float *scale, uint64_t where,
                          float add, float *logit)
{
    for (int t = 0; t < TILE; t += 8) {
        __m256 x = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(score + t)));
        x = _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(unit)), _mm256_loadu_ps(scale + t));
        _mm256_storeu_ps(logit + t, x);
    }
    if (where)
        add_where(where, add, logit);
}

TARGET static float sum_where(uint64_t where, const float *x)
{
    __m256 sum = _mm256_setzero_ps();
    for (int t = 0; t < TILE; t += 8, where >>= 8)
        sum = _mm256_add_ps(sum, _mm256_and_ps(_mm256_loadu_ps(x + t), lanes_of(where)));
    return sum_of_8(sum);
}

TARGET static int32_t weights(const float *p, float gain, uint16_t *weight)
{
    __m256 g = _mm256_set1_ps(gain);
    __m256i excess = _mm256_setzero_si256();
    for (int t = 0; t < TILE; t += 16) {
        __m256i w[2];
        for (int i = 0; i < 2; i++) {
            w[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p + t + 8 * i), g));
            __m256i upper = _mm256_and_si256(_mm256_add_epi32(w[i], _mm256_set1_epi32(64)),
                                             _mm256_set1_epi32(~127));
            excess = _mm256_add_epi32(excess, _mm256_sub_epi32(upper, w[i]));
        }
        __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(w[0], w[1]), 0xD8);
        _mm256_storeu_si256((__m256i *)(weight + t), words);
    }
    int32_t lane[8], total = 0;
    _mm256_storeu_si256((__m256i *)lane, excess);
    for (int i = 0; i < 8; i++)
        total += lane[i];
    return total;
}

/* ---- floats ---- */

/* ---- halves ---- */

TARGET static float scales(const uint8_t *half, uint64_t *signs, float *scale)
{
    const __m128i value = _mm_set1_epi16(signs ? 0x7FFF : -1);
    __m256 largest = _mm256_setzero_ps();
    uint64_t sign = 0;
    for (int t = 0; t < TILE; t += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(half + 2 * t));
        uint64_t eight = (unsigned)_mm_movemask_epi8(_mm_packs_epi16(h, h)) & 255;
        sign |= eight << t;
        h = _mm_and_si128(h, value);
        /* as signed numbers: negative scales are negative, infinity the least
         * that is too large */
        __m128i fits = _mm_and_si128(_mm_cmpgt_epi16(_mm_set1_epi16(0x7C00), h),
                                     _mm_cmpgt_epi16(h, _mm_set1_epi16(-1)));
        __m256 x = _mm256_cvtph_ps(_mm_and_si128(h, fits));
        _mm256_storeu_ps(scale + t, x);
        largest = _mm256_max_ps(largest, x);
    }
    if (signs)
        *signs = sign;
    return largest_of_8(largest);
}

TARGET static int halves(const uint8_t *half, unsigned n, float *x)
{
    const __m128i magnitude = _mm_set1_epi16(0x7FFF), largest = _mm_set1_epi16(0x7BFF);
    __m128i not_finite = _mm_setzero_si128();
    for (unsigned i = 0; i < n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(half + 2 * i));
        __m128i odd = _mm_cmpgt_epi16(_mm_and_si128(h, magnitude), largest);
        not_finite = _mm_or_si128(not_finite, odd);
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(h));
    }
    return !_mm_movemask_epi8(not_finite);
}

/* ---- plain rows ---- */

typedef __m256 vec;
enum { LANES = 8 };

/* Enough chains to hide their latency, as far as 16 registers go. */
INLINE unsigned most_vectors(const unsigned n)
{
    return n > 2 ? 2 : 4;
}

INLINE vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

INLINE vec vec_all(float x)
{
    return _mm256_set1_ps(x);
}

INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

INLINE void vec_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}

INLINE vec vec_halves(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE vec vec_bytes(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

INLINE vec vec_multiply_add(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

INLINE int vec_has_nan(vec v)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0;
}

/* In each half the sums of that half of 4 vectors: two halves of it, then the two
 * lanes that are left. */
INLINE vec sums_in_halves(const vec *v)
{
    vec x = _mm256_add_ps(_mm256_blend_ps(v[0], v[1], 0xCC), _mm256_shuffle_ps(v[0], v[1], 0x4E));
    vec y = _mm256_add_ps(_mm256_blend_ps(v[2], v[3], 0xCC), _mm256_shuffle_ps(v[2], v[3], 0x4E));
    return _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x88), _mm256_shuffle_ps(x, y, 0xDD));
}

INLINE vec vec_sums(const vec *v)
{
    vec a = sums_in_halves(v), b = sums_in_halves(v + 4);
    return _mm256_add_ps(_mm256_blend_ps(a, b, 0xF0), _mm256_permute2f128_ps(a, b, 0x21));
}

#include "attend/x86/plain.h"

const attend_kernels attend_avx2 = {
    .name = "avx2",
    .expand_keys = expand_keys,
    .expand_values = expand_values,
    .scores = scores,
    .accumulate = accumulate,
    .half_scores = half_scores,
    .half_accumulate = half_accumulate,
    GENERIC_ATTEND_KERNELS,
};
#else
typedef int not_for_this_processor;
#endif

/* AVX-512 with VBMI and VNNI: windows by vpmultishiftqb, which cuts 8 of them
 * at any bit out of 64, and the search's multiply-add in one instruction. */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET                                                                 \
    __attribute__((target(                                                     \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma")))
#include "codec/x86/avx512.h"

TARGET static inline vec vec_multiply_add(vec x, vec y, vec sum)
{
    return _mm512_dpwssd_epi32(sum, x, y);
}

#include "codec/viterbi_vector.h"

/* ---- codes ---- */

TARGET static inline __m512i table_64(const int8_t *table)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
}

TARGET static inline __m512i look_up(__m512i window, __m512i a, __m512i b)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i high = _mm512_and_si512(_mm512_srli_epi16(window, 4), nibble);
    return _mm512_add_epi8(_mm512_shuffle_epi8(a, high),
                           _mm512_shuffle_epi8(b, _mm512_and_si512(window, nibble)));
}

/* Where the 8 groups of 64 windows begin, relative to the first, as the
 * indices of their 8 bytes each; and the windows' bits there. */
typedef struct cut {
    __m512i bytes, bits;
    unsigned first_byte;
} cut;

TARGET static inline cut cut_of(const window_group *g)
{
    uint64_t begin[8], bits[8];
    for (int i = 0; i < 8; i++) {
        begin[i] = (uint64_t)(g[i].first_byte - g[0].first_byte) * 0x0101010101010101u;
        memcpy(&bits[i], g[i].bit_offset, sizeof bits[i]);
    }
    cut c = {.first_byte = g[0].first_byte};
    c.bytes = _mm512_add_epi8(_mm512_loadu_si512(begin), _mm512_set1_epi64(0x0706050403020100));
    c.bits = _mm512_loadu_si512(bits);
    return c;
}

/* A group's windows span at most 7 steps and 8 bits: over 7 bits a value, with
 * two rates, that can be more than the 64 bits of a lane. */
TARGET static void levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    if (p->low_bits == 7 && p->mixed) {
        avx2_levels(codes, p, out);
        return;
    }
    uint8_t padded[MAX_DIM + CODE_PADDING];
    codes_pad(codes, p, padded);
    cut cuts[2] = {cut_of(p->groups), cut_of(p->groups + 8)};
    __m512i a = table_64(p->a[0]), b = table_64(p->b[0]);
    __m512i a_high = table_64(p->a[p->mixed]), b_high = table_64(p->b[p->mixed]);
    for (unsigned i = 0; i < p->head_dim; i += 64) {
        unsigned k = i % PATTERN, left = p->head_dim - i;
        __mmask64 wanted = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        const cut *c = &cuts[k / 64];
        __m512i bytes = _mm512_loadu_si512(padded + i / PATTERN * p->rate + c->first_byte);
        __m512i window = _mm512_multishift_epi64_epi8(
            c->bits, _mm512_permutexvar_epi8(c->bytes, bytes));
        __m512i level = look_up(window, a, b);
        if (p->mixed) {
            __mmask64 high = _mm512_movepi8_mask(_mm512_loadu_si512(p->is_high + k));
            level = _mm512_mask_mov_epi8(level, high, look_up(window, a_high, b_high));
        }
        _mm512_mask_storeu_epi8(out + i, wanted, level);
    }
}

const codec_kernels codec_avx512vbmi = {
    .name = "avx512vbmi",
    .hadamard = hadamard,
    .moments = avx2_moments,
    .quantize = avx2_quantize,
    .viterbi = viterbi,
    .levels = levels,
    .scale_levels = scale_levels,
    .project_levels = avx2_project_levels,
    .lloyd_index = avx2_lloyd_index,
    .lloyd_values = lloyd_values,
    .project = avx2_project,
    .mlx_encode = mlx_encode,
    .mlx_decode = mlx_decode,
};
#else
typedef int not_for_this_processor;
#endif

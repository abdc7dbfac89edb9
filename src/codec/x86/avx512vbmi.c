/* AVX-512 with VBMI: windows by vpmultishiftqb, which cuts 8 of them at any bit
 * out of 64. (VNNI's multiply-add was tried in the search: on Sapphire Rapids 15%
 * slower than a multiplication and an addition.) */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET                                                                 \
    __attribute__((target(                                                     \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma")))
#include "codec/x86/avx512.h"

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

/* The 64 bytes of codes from first on, of which there may be fewer; behind the
 * last comes the first again. */
TARGET static inline __m512i bytes_from(const uint8_t *codes, unsigned first, unsigned size)
{
    unsigned left = size - first;
    if (left >= 64)
        return _mm512_loadu_si512(codes + first);
    __m512i bytes = _mm512_maskz_loadu_epi8(((__mmask64)1 << left) - 1, codes + first);
    return _mm512_mask_mov_epi8(bytes, (__mmask64)1 << left, _mm512_set1_epi8((char)codes[0]));
}

TARGET static void levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    unsigned size = p->head_dim * p->bits / 8;
    if (p->bits == 4 && p->head_dim % 32 == 0) {
        avx2_levels(codes, p, out);
        return;
    }
    __m512i a = table_64(p->a), b = table_64(p->b);
    __m512i group_bytes = _mm512_loadu_si512(p->group_bytes);
    __m512i group_bits = _mm512_loadu_si512(p->group_bits);
    for (unsigned i = 0; i < p->head_dim; i += 64) {
        unsigned left = p->head_dim - i;
        __mmask64 wanted = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        __m512i lanes = _mm512_permutexvar_epi8(group_bytes,
                                                bytes_from(codes, i / 8 * p->bits, size));
        __m512i window = _mm512_multishift_epi64_epi8(group_bits, lanes);
        _mm512_mask_storeu_epi8(out + i, wanted, look_up(window, a, b));
    }
}

const codec_kernels codec_avx512vbmi = AVX512_KERNELS("avx512vbmi", levels);
#else
typedef int not_for_this_processor;
#endif

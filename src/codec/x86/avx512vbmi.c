/* AVX-512 with VBMI: windows by vpmultishiftqb, which cuts 8 of them at any bit
 * out of 64. (VNNI's multiply-add was tried in the search: on Sapphire Rapids 15%
 * slower than a multiplication and an addition.) */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET                                                                 \
    __attribute__((target(                                                     \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma")))
#include "codec/x86/avx2_planes.h"
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

/* ---- three taps ----
 *
 * vpermb looks up two symbols at once: a nibble of the low plane, and their third bits
 * above it. What a pair adds to its own levels and what to those of the pair behind it
 * are two tables each (stream_plan). */

/* Lanes: first pairs of the bytes of plane_lanes, then second pairs. */
TARGET static inline __m512i lanes_pairs(const uint8_t *codes, unsigned part, plane_lanes l)
{
    __m256i low = _mm256_set_m128i(plane_bytes(codes + l.high), plane_bytes(codes + l.low));
    __m256i third =
        _mm256_set_m128i(third_bits(codes, part, l.high), third_bits(codes, part, l.low));
    __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_srli_epi16(low, 4), 1);
    __m512i thirds = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_slli_epi16(third, 2)),
                                        _mm256_srli_epi16(third, 2), 1);
    /* bits 0 to 3 of both, the rest of thirds; vpermb reads up to bit 5 */
    return _mm512_ternarylogic_epi64(_mm512_set1_epi8(15), both, thirds, 0xCA);
}

/* Levels of a vector behind `before`, where they belong. */
TARGET static inline void store_pair_levels(const stream_plan *p, __m512i pairs, __m512i before,
                                            plane_lanes l, int8_t *out)
{
    /* the pairs before first pairs are second ones, a byte earlier */
    __m512i behind = _mm512_shuffle_i64x2(pairs, pairs, 0x4E);
    __m512i earlier =
        _mm512_permutex2var_epi64(before, _mm512_setr_epi64(6, 7, 12, 13, 0, 0, 0, 0), pairs);
    behind = _mm512_mask_alignr_epi8(behind, 0xFFFFFFFF, behind, earlier, 15);
    __m512i odd = _mm512_add_epi8(
        _mm512_permutexvar_epi8(pairs, _mm512_loadu_si512(p->pairs[0])),
        _mm512_permutexvar_epi8(behind, _mm512_loadu_si512(p->pairs[1])));
    __m512i even = _mm512_add_epi8(
        _mm512_permutexvar_epi8(pairs, _mm512_loadu_si512(p->pairs[2])),
        _mm512_permutexvar_epi8(behind, _mm512_loadu_si512(p->pairs[3])));
    /* words of first and second levels, then those of third and fourth between */
    __m512i low = _mm512_unpacklo_epi8(even, odd), high = _mm512_unpackhi_epi8(even, odd);
    const __m512i order = _mm512_setr_epi32(
        0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006,
        0x00170007, 0x00300020, 0x00310021, 0x00320022, 0x00330023, 0x00340024, 0x00350025,
        0x00360026, 0x00370027);
    const __m512i upper = _mm512_add_epi16(order, _mm512_set1_epi16(8));
    _mm512_storeu_si512(out + 4 * l.high, _mm512_permutex2var_epi16(low, upper, high));
    _mm512_storeu_si512(out + 4 * l.low, _mm512_permutex2var_epi16(low, order, high));
}

/* As avx2.c's. */
TARGET static inline __attribute__((always_inline)) void
lane_levels(const uint8_t *codes, const stream_plan *p, const unsigned part, int8_t *out)
{
    const unsigned whole = part / 16;
    plane_lanes l = plane_lanes_of(part, whole);
    __m512i before = lanes_pairs(codes, part, l);
    if (part % 16)
        store_pair_levels(p, before, before, l, out);
    for (unsigned i = 0; i < whole; i++) {
        l = plane_lanes_of(part, i);
        __m512i pairs = lanes_pairs(codes, part, l);
        store_pair_levels(p, pairs, before, l, out);
        before = pairs;
    }
}

#include "codec/x86/plane_sizes.h"

TARGET static void levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    unsigned size = p->head_dim * p->bits / 8;
    if (p->is_planes) {
        plane_levels(codes, p, out);
        return;
    }
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

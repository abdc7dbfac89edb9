/* Three taps on AVX2: levels from planes, 32 bytes of the low plane at a time, which
 * are 128 values. The includer defines TARGET.
 *
 * Every second symbol has its own nibble: even ones are bits 0, 1 and 4, 5 of the low
 * plane's bytes and the high plane's bits shifted between. vpshufb looks at bits 0 to 3
 * and 7, so that the nibble above, which is below 8, need not be masked away. */
#ifndef TQKV_CODEC_X86_AVX2_PLANES_H
#define TQKV_CODEC_X86_AVX2_PLANES_H

#include <immintrin.h>

#include "codec/plan.h"

typedef struct plane_tables {
    __m256i tap[3];
} plane_tables;

TARGET static inline plane_tables plane_tables_of(const stream_plan *p)
{
    plane_tables t;
    for (int j = 0; j < 3; j++)
        t.tap[j] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p->taps[j]));
    return t;
}

/* Symbols 4 b + r of byte b, r = 0 to 3; low nibbles count. */
typedef struct plane_symbols {
    __m256i r[4];
} plane_symbols;

/* high: for each byte of low, third bits at bits 2, 3, 6 and 7. */
TARGET static inline plane_symbols symbols_of(__m256i low, __m256i high)
{
    const __m256i two = _mm256_set1_epi8(0x33), third = _mm256_set1_epi8(0x44);
    __m256i even = _mm256_or_si256(_mm256_and_si256(low, two), _mm256_and_si256(high, third));
    __m256i odd = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 2), two),
                                  _mm256_and_si256(_mm256_srli_epi16(high, 1), third));
    return (plane_symbols){
        {even, odd, _mm256_srli_epi16(even, 4), _mm256_srli_epi16(odd, 4)}};
}

TARGET static inline __m256i taps_sum(const plane_tables *t, __m256i own, __m256i before,
                                      __m256i first)
{
    __m256i sum = _mm256_add_epi8(_mm256_shuffle_epi8(t->tap[0], own),
                                  _mm256_shuffle_epi8(t->tap[1], before));
    return _mm256_add_epi8(sum, _mm256_shuffle_epi8(t->tap[2], first));
}

/* Levels of the symbols u; of `before` the last bytes of both halves count, which come
 * before the first ones of u's. */
TARGET static inline void symbol_levels(const plane_tables *t, const plane_symbols *u,
                                        const plane_symbols *before, __m256i *level)
{
    __m256i second = _mm256_alignr_epi8(u->r[2], before->r[2], 15);
    __m256i third = _mm256_alignr_epi8(u->r[3], before->r[3], 15);
    level[0] = taps_sum(t, u->r[0], third, second);
    level[1] = taps_sum(t, u->r[1], u->r[0], third);
    level[2] = taps_sum(t, u->r[2], u->r[1], u->r[0]);
    level[3] = taps_sum(t, u->r[3], u->r[2], u->r[1]);
}

TARGET static inline __m128i plane_bytes(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

#endif

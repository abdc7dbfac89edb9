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

/* Levels of the symbols u; of `before` the last bytes of both lanes count, which come
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

/* For vectors that follow each other: what comes before the lanes of u, the vector behind
 * `before`: the upper lane of that, and the lower one of u. */
TARGET static inline plane_symbols symbols_before(const plane_symbols *u,
                                                  const plane_symbols *before)
{
    plane_symbols b = *u;
    for (int r = 2; r < 4; r++)
        b.r[r] = _mm256_permute2x128_si256(before->r[r], u->r[r], 0x21);
    return b;
}

TARGET static inline __m128i plane_bytes(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* For pshufb: from byte 16 - n on, 16 - n numbers without a byte, then 0 to 15, then
 * numbers without a byte again. */
TARGET static inline const uint8_t *sliding_index(int n)
{
    static const uint8_t index[] = {
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128};
    return index + 16 - n;
}

/* The third bits of 16 bytes of the low plane, of which `part` are a half, from byte at
 * on, at bits 2, 3, 6 and 7. Where the halves meet among them, they are the high plane's
 * last bytes and its first ones. part is at least 8. */
TARGET static inline __m128i third_bits(const uint8_t *codes, unsigned part, unsigned at)
{
    const uint8_t *high = codes + 2 * part;
    if (at >= part)
        return plane_bytes(high + at - part);
    if (at + 16 <= part)
        return _mm_slli_epi16(plane_bytes(high + at), 2);
    const int n = (int)(part - at); /* bytes of the first half */
    __m128i last = plane_bytes(high + part - 16), first;
    first = part < 16 ? _mm_shuffle_epi8(last, plane_bytes(sliding_index((int)part - 16)))
                      : plane_bytes(high);
    last = _mm_shuffle_epi8(last, plane_bytes(sliding_index(n - 16)));
    first = _mm_shuffle_epi8(first, plane_bytes(sliding_index(n)));
    return _mm_or_si128(_mm_slli_epi16(last, 2), first);
}

/* What a vector of a row has in its lanes: 16 bytes of the low plane from here on. The
 * last vector ends with the row; a row that is shorter than a vector has its first bytes
 * in one lane and its last in the other. */
typedef struct plane_lanes {
    unsigned low, high;
} plane_lanes;

TARGET static inline plane_lanes plane_lanes_of(unsigned part, unsigned vector)
{
    const unsigned at = 32 * (vector + 1) <= 2 * part ? 32 * vector : 2 * part - 32;
    return part < 16 ? (plane_lanes){0, 2 * part - 16} : (plane_lanes){at, at + 16};
}

#endif

/*
 * The order of values in a tile: as they come out of codes, every second of 32 with
 * nibbles, every fourth of 64 with planes. Queries are packed in it, and sums are
 * brought back from it. Comes behind avx512vbmi_levels.h.
 */
#include <immintrin.h>

/* Stores 32 even and odd values in turn. */
INLINE void store_in_turn(__m512 even, __m512 odd, float *out)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    _mm512_storeu_ps(out, _mm512_permutex2var_ps(even, low, odd));
    _mm512_storeu_ps(out + 16, _mm512_permutex2var_ps(even, high, odd));
}

/* Every fourth of 16, 32 or 48 values, four times. */
INLINE void store_left(const float *row, unsigned left, float *out)
{
    const __m512i of_16 = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i of_32 = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19,
                                            27);
    __m512 a = _mm512_loadu_ps(row);
    if (left == 48) {
        for (unsigned k = 0; k < 48; k++)
            out[k] = row[k % 4 * 12 + k / 4];
        return;
    }
    if (left == 16) {
        _mm512_storeu_ps(out, _mm512_permutexvar_ps(of_16, a));
        return;
    }
    __m512 b = _mm512_loadu_ps(row + 16);
    __m512i upper = _mm512_add_epi32(of_32, _mm512_set1_epi32(4));
    _mm512_storeu_ps(out, _mm512_permutex2var_ps(a, of_32, b));
    _mm512_storeu_ps(out + 16, _mm512_permutex2var_ps(a, upper, b));
}

/* The tile's order undone: every second value of 32, or every fourth of 64. */
TARGET static void natural_order(const tile_plan *p, const float *row, float *out)
{
    if (is_nibbles(p)) {
        for (unsigned i = 0; i < p->head_dim; i += 32)
            store_in_turn(_mm512_loadu_ps(row + i), _mm512_loadu_ps(row + i + 16), out + i);
    } else if (is_planes(p)) {
        unsigned i = 0, left = p->head_dim % 64;
        for (; i + 64 <= p->head_dim; i += 64) {
            float half[2][32];
            for (unsigned r = 0; r < 2; r++)
                store_in_turn(_mm512_loadu_ps(row + i + 16 * r),
                              _mm512_loadu_ps(row + i + 16 * r + 32), half[r]);
            for (unsigned k = 0; k < 32; k += 16)
                store_in_turn(_mm512_loadu_ps(half[0] + k), _mm512_loadu_ps(half[1] + k),
                              out + i + 2 * k);
        }
        if (left)
            store_left(row + i, left, out + i);
    } else {
        memcpy(out, row, p->head_dim * sizeof *out);
    }
}

/* Every fourth digit of 64, from the first, then from the second, ... */
TARGET static void into_plane_order(unsigned dim, uint8_t *digit)
{
    const __m512i order = _mm512_setr_epi32(
        0x0C080400, 0x1C181410, 0x2C282420, 0x3C383430, 0x0D090501, 0x1D191511, 0x2D292521,
        0x3D393531, 0x0E0A0602, 0x1E1A1612, 0x2E2A2622, 0x3E3A3632, 0x0F0B0703, 0x1F1B1713,
        0x2F2B2723, 0x3F3B3733);
    const __m512i order_32 = _mm512_castsi256_si512(
        _mm256_setr_epi32(0x0C080400, 0x1C181410, 0x0D090501, 0x1D191511, 0x0E0A0602, 0x1E1A1612,
                          0x0F0B0703, 0x1F1B1713));
    const __m512i order_16 = _mm512_castsi128_si512(
        _mm_setr_epi32(0x0C080400, 0x0D090501, 0x0E0A0602, 0x0F0B0703));
    const __m512i order_48 = _mm512_setr_epi32(
        0x0C080400, 0x1C181410, 0x2C282420, 0x0D090501, 0x1D191511, 0x2D292521, 0x0E0A0602,
        0x1E1A1612, 0x2E2A2622, 0x0F0B0703, 0x1F1B1713, 0x2F2B2723, 0, 0, 0, 0);
    for (; dim >= 64; dim -= 64, digit += 64)
        _mm512_storeu_si512(digit, _mm512_permutexvar_epi8(order, _mm512_loadu_si512(digit)));
    __mmask64 left = ((__mmask64)1 << dim) - 1;
    __m512i rest = _mm512_maskz_loadu_epi8(left, digit);
    rest = _mm512_permutexvar_epi8(dim == 48 ? order_48 : dim == 32 ? order_32 : order_16,
                                   rest);
    _mm512_mask_storeu_epi8(digit, left, rest);
}

/* A packed query is its upper digits, its lower ones (from -64 to 63), and 128
 * times the sum of each. */
TARGET static void pack_query(const tile_plan *p, const int16_t *query, uint8_t *packed)
{
    /* 16 even values, then 16 odd ones */
    const __m256i nibble_order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24,
                                                  26, 28, 30, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19,
                                                  21, 23, 25, 27, 29, 31);
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i upper_sum = _mm512_setzero_si512(), lower_sum = upper_sum;
    for (unsigned i = 0; i < p->head_dim; i += 32) {
        __mmask32 have = p->head_dim - i >= 32 ? 0xFFFFFFFF : 0xFFFF;
        __m512i q = _mm512_maskz_loadu_epi16(have, query + i);
        __m512i upper = _mm512_srai_epi16(_mm512_add_epi16(q, _mm512_set1_epi16(64)), 7);
        __m512i lower = _mm512_sub_epi16(q, _mm512_slli_epi16(upper, 7));
        upper_sum = _mm512_add_epi32(upper_sum, _mm512_madd_epi16(upper, ones));
        lower_sum = _mm512_add_epi32(lower_sum, _mm512_madd_epi16(lower, ones));
        __m256i up = _mm512_cvtepi16_epi8(upper), down = _mm512_cvtepi16_epi8(lower);
        if (is_nibbles(p)) {
            up = _mm256_permutexvar_epi8(nibble_order, up);
            down = _mm256_permutexvar_epi8(nibble_order, down);
        }
        _mm256_mask_storeu_epi8(packed + i, have, up);
        _mm256_mask_storeu_epi8(packed + p->head_dim + i, have, down);
    }
    if (is_planes(p)) {
        into_plane_order(p->head_dim, packed);
        into_plane_order(p->head_dim, packed + p->head_dim);
    }
    int32_t sum[2] = {128 * _mm512_reduce_add_epi32(upper_sum),
                      128 * _mm512_reduce_add_epi32(lower_sum)};
    memcpy(packed + 2 * p->head_dim, sum, sizeof sum);
}

/*
 * Tiles on AVX2, from codes. The includer defines TARGET and INLINE.
 *
 * Tile of keys: rows of levels. Tile of values: for each pair of tokens, their
 * levels in turn. Values are in the order in which they come out of codes: at 4
 * bits each 64 are 32 even ones, then 32 odd ones; with three taps each 128 are
 * every fourth one, four times. Unpacking turns each 32 of a tile of values.
 */
#include <immintrin.h>

#include "attend/kernels.h"
#include "codec/x86/avx2_planes.h"

/* ---- expansion ---- */

INLINE int is_nibbles(const tile_plan *p)
{
    return p->source == TILE_STREAM && p->stream.bits == 4 && p->head_dim % 64 == 0;
}

INLINE __m256i in_halves(const int8_t *table)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
}

/* 64 values of a row from its byte `at` on: with the stream's bytes x and each
 * one's follower n, the windows of even values are x, those of odd ones
 * x >> 4 | n << 4. Scalar codes look up b alone. */
INLINE void nibble_levels(const tile_plan *p, const uint8_t *row, unsigned at, int is_trellis,
                          __m256i *even, __m256i *odd)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i a = in_halves(p->stream.a), b = in_halves(p->stream.b);
    __m256i x = _mm256_loadu_si256((const __m256i *)(row + at));
    __m256i low = _mm256_and_si256(x, nibble);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
    *even = _mm256_shuffle_epi8(b, low);
    *odd = _mm256_shuffle_epi8(b, high);
    if (!is_trellis)
        return;
    __m256i n;
    if (2 * at + 64 < p->head_dim) {
        n = _mm256_loadu_si256((const __m256i *)(row + at + 1));
    } else { /* behind the last byte comes the first */
        __m256i first = _mm256_castsi128_si256(_mm_cvtsi32_si128(row[0]));
        n = _mm256_alignr_epi8(_mm256_permute2x128_si256(x, first, 0x21), x, 1);
    }
    *even = _mm256_add_epi8(*even, _mm256_shuffle_epi8(a, high));
    *odd = _mm256_add_epi8(*odd, _mm256_shuffle_epi8(a, _mm256_and_si256(n, nibble)));
}

/* Three taps. One way for rows of 128, 256, ... values: vectors are 32 bytes of the low
 * plane; another for those of 64: a vector is two rows. */
INLINE int is_planes(const tile_plan *p)
{
    return p->source == TILE_STREAM && p->stream.is_planes &&
           (p->head_dim == 64 || p->head_dim % 128 == 0);
}

/* Symbols of byte 32 * c of the low plane and those behind it; they follow each other over
 * all vectors, and behind the last vector comes the first. */
INLINE plane_symbols row_symbols(const uint8_t *row, unsigned part, unsigned c)
{
    unsigned at = 32 * c;
    return symbols_of(_mm256_loadu_si256((const __m256i *)(row + at)),
                      _mm256_set_m128i(third_bits(row, part, at + 16), third_bits(row, part, at)));
}

/* Two rows of 64 values: lanes are rows, whose ends meet. */
INLINE void two_row_levels(const plane_tables *t, const uint8_t *a, const uint8_t *b,
                           __m256i *level)
{
    const __m256i turns = _mm256_setr_epi64x(2, 0, 2, 0);
    __m256i low = _mm256_set_m128i(plane_bytes(b), plane_bytes(a));
    __m256i high = _mm256_set_m128i(_mm_loadl_epi64((const __m128i *)(b + 16)),
                                    _mm_loadl_epi64((const __m128i *)(a + 16)));
    high = _mm256_sllv_epi64(_mm256_unpacklo_epi64(high, high), turns);
    plane_symbols u = symbols_of(low, high);
    symbol_levels(t, &u, &u, level);
}

INLINE void expand_keys_64(const tile_plan *p, const uint8_t *const *rows,
                           const uint8_t *const *ahead, int8_t *tile)
{
    plane_tables tables = plane_tables_of(&p->stream);
    for (unsigned t = 0; t < TILE; t += 2, tile += 128) {
        __m256i v[4];
        prefetch_row(ahead[t], p->code_bytes);
        prefetch_row(ahead[t + 1], p->code_bytes);
        two_row_levels(&tables, rows[t], rows[t + 1], v);
        for (unsigned r = 0; r < 4; r++) {
            _mm_store_si128((__m128i *)(tile + 16 * r), _mm256_castsi256_si128(v[r]));
            _mm_store_si128((__m128i *)(tile + 64 + 16 * r), _mm256_extracti128_si256(v[r], 1));
        }
    }
}

/* 16 * vectors bytes are a half of the low plane: a row becomes 4 * vectors vectors. */
INLINE void row_levels(const plane_tables *tables, const uint8_t *row, const unsigned vectors,
                       int8_t *out)
{
    plane_symbols before = row_symbols(row, 16 * vectors, vectors - 1);
    for (unsigned c = 0; c < vectors; c++, out += 128) {
        __m256i v[4];
        plane_symbols u = row_symbols(row, 16 * vectors, c), b = symbols_before(&u, &before);
        symbol_levels(tables, &u, &b, v);
        before = u;
        for (unsigned r = 0; r < 4; r++)
            _mm256_store_si256((__m256i *)(out + 32 * r), v[r]);
    }
}

INLINE void expand_keys_128(const tile_plan *p, const uint8_t *const *rows,
                            const uint8_t *const *ahead, const unsigned vectors, int8_t *tile)
{
    plane_tables tables = plane_tables_of(&p->stream);
    for (unsigned t = 0; t < TILE; t++, tile += 128 * vectors) {
        prefetch_row(ahead[t], p->code_bytes);
        row_levels(&tables, rows[t], vectors, tile);
    }
}

INLINE void expand_plane_keys(const tile_plan *p, const uint8_t *const *rows,
                              const uint8_t *const *ahead, int8_t *tile)
{
    if (p->head_dim == 64)
        expand_keys_64(p, rows, ahead, tile);
    else if (p->head_dim == 128)
        expand_keys_128(p, rows, ahead, 1, tile);
    else if (p->head_dim == 256)
        expand_keys_128(p, rows, ahead, 2, tile);
    else
        expand_keys_128(p, rows, ahead, p->head_dim / 128, tile);
}

INLINE void expand_nibble_keys(const tile_plan *p, const uint8_t *const *rows,
                               const uint8_t *const *ahead, int is_trellis, int8_t *tile)
{
    for (unsigned t = 0; t < TILE; t++) {
        prefetch_row(ahead[t], p->code_bytes);
        for (unsigned at = 0; 2 * at < p->head_dim; at += 32, tile += 64) {
            __m256i even, odd;
            nibble_levels(p, rows[t], at, is_trellis, &even, &odd);
            _mm256_store_si256((__m256i *)tile, even);
            _mm256_store_si256((__m256i *)(tile + 32), odd);
        }
    }
}

TARGET static void expand_keys(const tile_plan *p, const uint8_t *const *rows,
                               const uint8_t *const *ahead, int8_t *tile)
{
    if (is_planes(p))
        expand_plane_keys(p, rows, ahead, tile);
    else if (!is_nibbles(p))
        expand_rows(p, rows, ahead, tile);
    else if (p->stream.a[0])
        expand_nibble_keys(p, rows, ahead, 1, tile);
    else
        expand_nibble_keys(p, rows, ahead, 0, tile);
}

/* Bytes of two tokens in turn. */
INLINE void store_pairs(__m256i a, __m256i b, int8_t *tile)
{
    _mm256_store_si256((__m256i *)tile, _mm256_unpacklo_epi8(a, b));
    _mm256_store_si256((__m256i *)(tile + 32), _mm256_unpackhi_epi8(a, b));
}

INLINE void expand_nibble_values(const tile_plan *p, const uint8_t *const *rows,
                                 const uint8_t *const *ahead, int is_trellis, int8_t *tile)
{
    for (unsigned t = 0; t < TILE; t += 2) {
        prefetch_row(ahead[t], p->code_bytes);
        prefetch_row(ahead[t + 1], p->code_bytes);
        for (unsigned at = 0; 2 * at < p->head_dim; at += 32, tile += 128) {
            __m256i even[2], odd[2];
            nibble_levels(p, rows[t], at, is_trellis, &even[0], &odd[0]);
            nibble_levels(p, rows[t + 1], at, is_trellis, &even[1], &odd[1]);
            store_pairs(even[0], even[1], tile);
            store_pairs(odd[0], odd[1], tile + 64);
        }
    }
}

/* 4 rows of 64 values: two pairs. */
INLINE void expand_values_64(const tile_plan *p, const uint8_t *const *rows,
                             const uint8_t *const *ahead, int8_t *tile)
{
    plane_tables tables = plane_tables_of(&p->stream);
    for (unsigned t = 0; t < TILE; t += 4, tile += 256) {
        __m256i a[4], b[4];
        for (unsigned i = t; i < t + 4; i++)
            prefetch_row(ahead[i], p->code_bytes);
        two_row_levels(&tables, rows[t], rows[t + 2], a);
        two_row_levels(&tables, rows[t + 1], rows[t + 3], b);
        for (unsigned r = 0; r < 4; r++) {
            __m256i low = _mm256_unpacklo_epi8(a[r], b[r]), high = _mm256_unpackhi_epi8(a[r], b[r]);
            __m256i *first = (__m256i *)(tile + 32 * r), *second = (__m256i *)(tile + 128 + 32 * r);
            _mm256_store_si256(first, _mm256_permute2x128_si256(low, high, 0x20));
            _mm256_store_si256(second, _mm256_permute2x128_si256(low, high, 0x31));
        }
    }
}

/* The first row of a pair goes through memory, because both do not fit into registers. */
INLINE void expand_values_128(const tile_plan *p, const uint8_t *const *rows,
                              const uint8_t *const *ahead, const unsigned vectors, int8_t *tile)
{
    plane_tables tables = plane_tables_of(&p->stream);
    __m256i pair[2][MAX_DIM / 32];
    for (unsigned t = 0; t < TILE; t += 2) {
        for (unsigned i = 0; i < 2; i++) {
            prefetch_row(ahead[t + i], p->code_bytes);
            row_levels(&tables, rows[t + i], vectors, (int8_t *)pair[i]);
        }
        for (unsigned r = 0; r < 4 * vectors; r++, tile += 64)
            store_pairs(pair[0][r], pair[1][r], tile);
    }
}

INLINE void expand_plane_values(const tile_plan *p, const uint8_t *const *rows,
                                const uint8_t *const *ahead, int8_t *tile)
{
    if (p->head_dim == 64)
        expand_values_64(p, rows, ahead, tile);
    else if (p->head_dim == 128)
        expand_values_128(p, rows, ahead, 1, tile);
    else if (p->head_dim == 256)
        expand_values_128(p, rows, ahead, 2, tile);
    else
        expand_values_128(p, rows, ahead, p->head_dim / 128, tile);
}

TARGET static void expand_row_values(const tile_plan *p, const uint8_t *const *rows,
                                     const uint8_t *const *ahead, int8_t *tile)
{
    int8_t pair[2][MAX_DIM];
    for (unsigned t = 0; t < TILE; t += 2, tile += 2 * p->head_dim) {
        for (unsigned i = 0; i < 2; i++) {
            prefetch_row(ahead[t + i], p->code_bytes);
            tile_row_levels(p, rows[t + i], pair[i]);
        }
        for (unsigned i = 0; i < p->head_dim; i += 16) {
            __m128i a = _mm_loadu_si128((const __m128i *)(pair[0] + i));
            __m128i b = _mm_loadu_si128((const __m128i *)(pair[1] + i));
            _mm_store_si128((__m128i *)(tile + 2 * i), _mm_unpacklo_epi8(a, b));
            _mm_store_si128((__m128i *)(tile + 2 * i + 16), _mm_unpackhi_epi8(a, b));
        }
    }
}

TARGET static void expand_values(const tile_plan *p, const uint8_t *const *rows,
                                 const uint8_t *const *ahead, int8_t *tile)
{
    if (is_planes(p))
        expand_plane_values(p, rows, ahead, tile);
    else if (!is_nibbles(p))
        expand_row_values(p, rows, ahead, tile);
    else if (p->stream.a[0])
        expand_nibble_values(p, rows, ahead, 1, tile);
    else
        expand_nibble_values(p, rows, ahead, 0, tile);
}

/* The order of a tile: of each `all` values every step-th one, from the first, then from
 * the second, ... */
typedef struct value_order {
    unsigned all, step;
} value_order;

INLINE value_order order_of(const tile_plan *p)
{
    if (is_planes(p))
        return (value_order){p->head_dim == 64 ? 64 : 128, 4};
    return is_nibbles(p) ? (value_order){64, 2} : (value_order){16, 1};
}

/* 4 values that are step apart, from each of row's step sequences, size apart. */
INLINE void store_in_turn(const float *row, unsigned size, unsigned step, float *out)
{
    __m128 a = _mm_loadu_ps(row), b = _mm_loadu_ps(row + size);
    if (step == 2) {
        _mm_storeu_ps(out, _mm_unpacklo_ps(a, b));
        _mm_storeu_ps(out + 4, _mm_unpackhi_ps(a, b));
        return;
    }
    __m128 c = _mm_loadu_ps(row + 2 * size), d = _mm_loadu_ps(row + 3 * size);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, a);
    _mm_storeu_ps(out + 4, b);
    _mm_storeu_ps(out + 8, c);
    _mm_storeu_ps(out + 12, d);
}

TARGET static void natural_order(const tile_plan *p, const float *row, float *out)
{
    /* unpacking makes of 4 groups of 8 the first, third, second and fourth */
    static const uint8_t turned[] = {0, 16, 8, 24}, straight[] = {0, 8};
    value_order o = order_of(p);
    const unsigned size = o.all / o.step;
    const uint8_t *group = size == 32 ? turned : straight;
    if (o.step == 1) {
        memcpy(out, row, p->head_dim * sizeof *out);
        return;
    }
    for (unsigned i = 0; i < p->head_dim; i += o.all)
        for (unsigned j = 0; j < size; j += 4)
            store_in_turn(row + i + j, size, o.step, out + i + o.step * (group[j / 8] + j % 8));
}

/* 8 numbers that are step apart, from each of the first step ones: to step sequences, size
 * apart. */
INLINE void pack_in_turn(const int16_t *from, unsigned size, unsigned step, int16_t *to)
{
    const __m128i twos = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m128i fours = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const __m128i *in = (const __m128i *)from;
    __m128i v[4];
    for (unsigned i = 0; i < step; i++)
        v[i] = _mm_shuffle_epi8(_mm_loadu_si128(in + i), step == 2 ? twos : fours);
    if (step == 2) {
        _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi64(v[0], v[1]));
        _mm_storeu_si128((__m128i *)(to + size), _mm_unpackhi_epi64(v[0], v[1]));
        return;
    }
    __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpacklo_epi32(v[2], v[3]);
    __m128i c = _mm_unpackhi_epi32(v[0], v[1]), d = _mm_unpackhi_epi32(v[2], v[3]);
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi64(a, b));
    _mm_storeu_si128((__m128i *)(to + size), _mm_unpackhi_epi64(a, b));
    _mm_storeu_si128((__m128i *)(to + 2 * size), _mm_unpacklo_epi64(c, d));
    _mm_storeu_si128((__m128i *)(to + 3 * size), _mm_unpackhi_epi64(c, d));
}

TARGET static void pack_query(const tile_plan *p, const int16_t *query, uint8_t *packed)
{
    int16_t *to = (int16_t *)packed;
    value_order o = order_of(p);
    const unsigned size = o.all / o.step;
    if (o.step == 1) {
        memcpy(packed, query, p->head_dim * sizeof *query);
        return;
    }
    for (unsigned i = 0; i < p->head_dim; i += o.all)
        for (unsigned j = 0; j < size; j += 8)
            pack_in_turn(query + i + o.step * j, size, o.step, to + i + j);
}

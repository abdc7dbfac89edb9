/*
 * AVX-512 with VBMI and VNNI.
 *
 * 512-bit instructions beside loads and stores for one token of one KV head,
 * head_dim 128, 4 bits (of the trellis; scalar codes in brackets):
 *   levels of a key     3 blends, palignr, shift, 4 vpermb, 2 adds    11 (6)
 *   levels of a value   the same and a vpermb to interleave           12 (7)
 *   each query head     2 vpdpbusd for the score, 2 for the value,
 *                       0.6 to add up lanes, 1.6 for the softmax       6
 *
 * A tile of keys is vectors of 4 tokens x 16 values [token / 4][value / 16], one
 * of values likewise; avx512vbmi_levels.h says which tokens and how.
 */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET                                                                 \
    __attribute__((target(                                                     \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma,f16c")))
#define HAS_TILES
#define HAS_ORDER
#define HAS_PACKED_QUERY
#define HAS_SOFTMAX
#define HAS_HALVES
#define HAS_PLAIN_KERNELS
#include "attend/generic.h"

#define INLINE TARGET static inline __attribute__((always_inline))
#include "attend/x86/avx512_float.h"
#include "attend/x86/avx512vbmi_levels.h"
#include "attend/x86/avx512vbmi_order.h"

/* ---- expansion ---- */

INLINE void prefetch_four(const tile_plan *p, const uint8_t *const *ahead, unsigned s)
{
    for (unsigned i = 4 * s; i < 4 * s + 4; i++)
        prefetch_row(ahead[i], p->code_bytes);
}

INLINE void expand_feed(const tile_plan *p, const uint8_t *const *rows,
                        const uint8_t *const *ahead, int is_key, const feed_kind kind,
                        const unsigned dim, int8_t *tile)
{
    level_tables t = tables_of(p, is_key);
    for (unsigned s = 0; s < TILE / 4; s++) {
        feed d;
        unsigned i = 0;
        prefetch_four(p, ahead, s);
        feed_start(&d, p, four_of(rows, s, is_key), kind, is_key, 0, dim);
        for (; i + 32 <= dim; i += 32, tile += 128) {
            __m512i v[2];
            feed_32(&d, &t, p, kind, is_key, i / 32, dim, v);
            _mm512_store_si512(tile, v[0]);
            _mm512_store_si512(tile + 64, v[1]);
        }
        if (i < dim && kind != NIBBLES && kind != TRELLIS_NIBBLES) {
            _mm512_store_si512(tile, feed_16(&d, &t, p, kind, is_key, i / 16));
            tile += 64;
        }
    }
}

/* mlx5 and mlx6: up to 64 levels are one vpermb. */
TARGET static void byte_levels(const tile_plan *p, const uint8_t *row, int8_t *out)
{
    __m512i table = _mm512_loadu_si512(p->byte_levels);
    for (unsigned i = 0; i < p->head_dim; i += 16) {
        __m128i index = _mm_loadu_si128((const __m128i *)(row + i));
        __m512i level = _mm512_permutexvar_epi8(_mm512_castsi128_si512(index), table);
        _mm_storeu_si128((__m128i *)(out + i), _mm512_castsi512_si128(level));
    }
}

/* Rows whose bytes or windows lie too oddly become levels one by one. */
TARGET static void expand_by_rows(const tile_plan *p, const uint8_t *const *rows,
                                  const uint8_t *const *ahead, int is_key, int8_t *tile)
{
    int8_t levels[4][MAX_DIM];
    for (unsigned s = 0; s < TILE / 4; s++) {
        feed d = {.f = four_of(rows, s, is_key)};
        prefetch_four(p, ahead, s);
        for (unsigned i = 0; i < 4; i++) {
            if (p->source == TILE_BYTES)
                byte_levels(p, d.f.row[i], levels[i]);
            else
                tile_row_levels(p, d.f.row[i], levels[i]);
            d.f.row[i] = (const uint8_t *)levels[i];
        }
        for (unsigned u = 0; u < p->head_dim / 16; u++, tile += 64)
            _mm512_store_si512(tile, feed_16(&d, NULL, p, LEVELS, is_key, u));
    }
}

INLINE void expand(const tile_plan *p, const uint8_t *const *rows, const uint8_t *const *ahead,
                   int is_key, int8_t *tile)
{
    switch (feed_of(p)) {
    case NIBBLES:
        expand_feed(p, rows, ahead, is_key, NIBBLES, p->head_dim, tile);
        break;
    case TRELLIS_NIBBLES:
        expand_feed(p, rows, ahead, is_key, TRELLIS_NIBBLES, p->head_dim, tile);
        break;
    case LEVELS:
        expand_feed(p, rows, ahead, is_key, LEVELS, p->head_dim, tile);
        break;
    case PLANES:
        expand_feed(p, rows, ahead, is_key, PLANES, p->head_dim, tile);
        break;
    case WINDOWS:
        expand_feed(p, rows, ahead, is_key, WINDOWS, p->head_dim, tile);
        break;
    default:
        expand_by_rows(p, rows, ahead, is_key, tile);
    }
}

TARGET static void expand_keys(const tile_plan *p, const uint8_t *const *rows,
                               const uint8_t *const *ahead, int8_t *tile)
{
    expand(p, rows, ahead, 1, tile);
}

TARGET static void expand_values(const tile_plan *p, const uint8_t *const *rows,
                                 const uint8_t *const *ahead, int8_t *tile)
{
    expand(p, rows, ahead, 0, tile);
}

/* ---- scores ---- */

typedef struct digits {
    const uint8_t *digit;
    int32_t excess;
} digits;

INLINE digits digits_of(const tile_plan *p, const uint8_t *packed, unsigned r, int lower)
{
    const uint8_t *query = packed + r * packed_query_bytes(p->head_dim);
    digits d = {.digit = query + (lower ? p->head_dim : 0)};
    memcpy(&d.excess, query + 2 * p->head_dim + 4 * (unsigned)lower, sizeof d.excess);
    return d;
}

/* Adds the 4 dwords of each lane: dword j of lane L is from vector j. */
INLINE __m512i sum_of_dwords(const __m512i *v)
{
    __m512i x = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]),
                                 _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i y = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]),
                                 _mm512_unpackhi_epi32(v[2], v[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
}

/* 16 tokens, n rows of digits. */
INLINE void score_16(const int8_t *tile, unsigned dim, const digits *d, const unsigned n,
                     __m512i *score)
{
    __m512i sum[4][4];
    for (unsigned r = 0; r < n; r++)
        for (unsigned j = 0; j < 4; j++)
            sum[r][j] = _mm512_setzero_si512();
    for (unsigned i = 0; i < dim; i += 16) {
        __m512i key[4];
        for (unsigned j = 0; j < 4; j++)
            key[j] = _mm512_load_si512(tile + 4 * (j * dim + i));
        for (unsigned r = 0; r < n; r++) {
            __m512i query = in_lanes(d[r].digit + i);
            for (unsigned j = 0; j < 4; j++)
                sum[r][j] = dot_4(sum[r][j], key[j], query);
        }
    }
    for (unsigned r = 0; r < n; r++)
        score[r] = _mm512_sub_epi32(sum_of_dwords(sum[r]), _mm512_set1_epi32(d[r].excess));
}

/* Scores of 16 tokens from those of their queries' digits. */
INLINE void store_scores(const __m512i *s, const unsigned n, int wide, unsigned t,
                         int32_t (*score)[TILE])
{
    if (!wide) {
        for (unsigned r = 0; r < n; r++)
            _mm512_storeu_si512(score[r] + t, _mm512_slli_epi32(s[r], 7));
        return;
    }
    for (unsigned r = 0; r + 1 < n; r += 2)
        _mm512_storeu_si512(score[r / 2] + t,
                            _mm512_add_epi32(_mm512_slli_epi32(s[r], 7), s[r + 1]));
}

/* n rows of digits from a tile. */
INLINE void score_tile(const tile_plan *p, const int8_t *tile, const digits *d, const unsigned n,
                       int wide, int32_t (*score)[TILE])
{
    for (unsigned t = 0; t < TILE; t += 16) {
        __m512i s[4];
        score_16(tile + t * p->head_dim, p->head_dim, d, n, s);
        store_scores(s, n, wide, t, score);
    }
}

/* Kernels take up to 4 rows of digits at once: as many rows, or half if wide. */
INLINE unsigned next_digits(unsigned left, int wide)
{
    unsigned n = wide ? 2 * left : left;
    return n < 4 ? n : 4;
}

INLINE void query_digits(const tile_plan *p, const uint8_t *packed, unsigned n, int wide,
                         digits *d)
{
    for (unsigned r = 0; r < n; r++)
        d[r] = wide ? digits_of(p, packed, r / 2, r % 2) : digits_of(p, packed, r, 0);
}

TARGET static void scores(const tile_plan *p, const int8_t *tile, const uint8_t *packed,
                          unsigned n, int wide, int32_t (*score)[TILE])
{
    for (unsigned done = 0; done < n;) {
        unsigned m = next_digits(n - done, wide);
        digits d[4];
        query_digits(p, packed + done * packed_query_bytes(p->head_dim), m, wide, d);
        switch (m) {
        case 1:
            score_tile(p, tile, d, 1, wide, score + done);
            break;
        case 2:
            score_tile(p, tile, d, 2, wide, score + done);
            break;
        case 3:
            score_tile(p, tile, d, 3, wide, score + done);
            break;
        default:
            score_tile(p, tile, d, 4, wide, score + done);
        }
        done += wide ? m / 2 : m;
    }
}

/* Up to so many rows of digits from codes at once: levels cost more than products
 * with them, so that both digits of 4 queries go together. */
enum { MOST_DIGITS = 8 };

/* Products of 32 values of 8 tokens with n rows of digits. */
INLINE void score_32(feed *one, feed *two, const level_tables *tables, const tile_plan *p,
                     const digits *d, const unsigned n, const feed_kind kind, unsigned c,
                     const unsigned dim, __m512i (*sum)[4], unsigned j)
{
    __m512i v[2], w[2];
    feed_32(one, tables, p, kind, 1, c, dim, v);
    feed_32(two, tables, p, kind, 1, c, dim, w);
    for (unsigned r = 0; r < n; r++)
        for (unsigned half = 0; half < 2; half++) {
            __m512i q = in_lanes(d[r].digit + 32 * c + 16 * half);
            sum[r][j] = dot_4(sum[r][j], v[half], q);
            sum[r][j + 1] = dot_4(sum[r][j + 1], w[half], q);
        }
}

/* The same from codes: 8 tokens at a time share what is loaded of the queries. Planes know
 * by the number of 32 values where these are. */
INLINE void score_feed(const tile_plan *p, const uint8_t *const *rows,
                       const uint8_t *const *ahead, const digits *d, const unsigned n, int wide,
                       const feed_kind kind, const unsigned dim, int32_t (*score)[TILE])
{
    level_tables tables = tables_of(p, 1);
    for (unsigned t = 0; t < TILE; t += 16) {
        __m512i sum[MOST_DIGITS][4], s[MOST_DIGITS];
        for (unsigned j = 0; j < 4; j += 2) {
            feed one, two;
            prefetch_four(p, ahead, t / 4 + j);
            prefetch_four(p, ahead, t / 4 + j + 1);
            feed_start(&one, p, four_of(rows, t / 4 + j, 1), kind, 1, 0, dim);
            feed_start(&two, p, four_of(rows, t / 4 + j + 1, 1), kind, 1, 0, dim);
            for (unsigned r = 0; r < n; r++)
                sum[r][j] = sum[r][j + 1] = _mm512_setzero_si512();
            if (kind == PLANES) {
#pragma GCC unroll 6
                for (unsigned c = 0; c < dim / 32; c++)
                    score_32(&one, &two, &tables, p, d, n, kind, c, dim, sum, j);
            } else {
                for (unsigned c = 0; c < dim / 32; c++)
                    score_32(&one, &two, &tables, p, d, n, kind, c, dim, sum, j);
            }
        }
        for (unsigned r = 0; r < n; r++)
            s[r] = _mm512_sub_epi32(sum_of_dwords(sum[r]), _mm512_set1_epi32(d[r].excess));
        store_scores(s, n, wide, t, score);
    }
}

typedef void score_function(const tile_plan *p, const uint8_t *const *rows,
                            const uint8_t *const *ahead, const digits *d, unsigned n, int wide,
                            int32_t (*score)[TILE]);

#define SCORE_CODES(name, kind, dim)                                                             \
    TARGET static void score_##name(const tile_plan *p, const uint8_t *const *rows,              \
                                    const uint8_t *const *ahead, const digits *d, unsigned n,    \
                                    int wide, int32_t (*score)[TILE])                            \
    {                                                                                            \
        if (n == 1)                                                                              \
            score_feed(p, rows, ahead, d, 1, wide, kind, dim, score);                            \
        else if (n == 2)                                                                         \
            score_feed(p, rows, ahead, d, 2, wide, kind, dim, score);                            \
        else if (n == 3)                                                                         \
            score_feed(p, rows, ahead, d, 3, wide, kind, dim, score);                            \
        else if (n == 4)                                                                         \
            score_feed(p, rows, ahead, d, 4, wide, kind, dim, score);                            \
        else if (n == 6)                                                                         \
            score_feed(p, rows, ahead, d, 6, wide, kind, dim, score);                            \
        else                                                                                     \
            score_feed(p, rows, ahead, d, 8, wide, kind, dim, score);                            \
    }
SCORE_CODES(nibbles_128, NIBBLES, 128)
SCORE_CODES(nibbles, NIBBLES, p->head_dim)
SCORE_CODES(trellis_nibbles_128, TRELLIS_NIBBLES, 128)
SCORE_CODES(trellis_nibbles, TRELLIS_NIBBLES, p->head_dim)
SCORE_CODES(planes_64, PLANES, 64)
SCORE_CODES(planes_96, PLANES, 96)
SCORE_CODES(planes_128, PLANES, 128)
SCORE_CODES(planes_192, PLANES, 192)
SCORE_CODES(planes, PLANES, p->head_dim)
SCORE_CODES(levels, LEVELS, p->head_dim)
SCORE_CODES(windows, WINDOWS, p->head_dim)

/* Known loop lengths: for the head_dim that most models have; and for planes, where the
 * size decides how chunks find their third bits, for more. */
INLINE unsigned known_dim(const tile_plan *p)
{
    if (p->head_dim == 128)
        return 1;
    if (!p->stream.is_planes)
        return 0;
    return p->head_dim == 64 ? 2 : p->head_dim == 96 ? 3 : p->head_dim == 192 ? 4 : 0;
}

TARGET static int score_codes(const tile_plan *p, const uint8_t *const *rows,
                              const uint8_t *const *ahead, const uint8_t *packed, unsigned n,
                              int wide, int32_t (*score)[TILE])
{
    static score_function *const functions[][5] = {
        [NIBBLES] = {score_nibbles, score_nibbles_128},
        [TRELLIS_NIBBLES] = {score_trellis_nibbles, score_trellis_nibbles_128},
        [PLANES] = {score_planes, score_planes_128, score_planes_64, score_planes_96,
                    score_planes_192},
        [LEVELS] = {score_levels, score_levels},
        [WINDOWS] = {score_windows, score_windows},
    };
    int kind = feed_of(p);
    if (kind < 0 || p->head_dim % 32)
        return 0;
    for (unsigned done = 0; done < n;) {
        unsigned m = n - done < 4 ? n - done : 4;
        m = wide ? 2 * m : m;
        digits d[MOST_DIGITS];
        query_digits(p, packed + done * packed_query_bytes(p->head_dim), m, wide, d);
        functions[kind][known_dim(p)](p, rows, ahead, d, m, wide, score + done);
        done += wide ? m / 2 : m;
    }
    return 1;
}

/* ---- accumulation ---- */

/* 64 weights' upper digits, or lower ones (bits 0 to 6, the upper then not
 * rounded). */
INLINE void pack_digits(const uint16_t *weight, int wide, uint8_t (*digit)[TILE])
{
    const __m512i half = _mm512_set1_epi16(wide ? 0 : 64);
    for (unsigned t = 0; t < TILE; t += 32) {
        __m512i w = _mm512_loadu_si512(weight + t);
        __m512i upper = _mm512_srli_epi16(_mm512_add_epi16(w, half), 7);
        _mm256_storeu_si256((__m256i *)(digit[0] + t), _mm512_cvtepi16_epi8(upper));
        if (wide)
            _mm256_storeu_si256((__m256i *)(digit[1] + t),
                                _mm512_cvtepi16_epi8(_mm512_and_si512(w, _mm512_set1_epi16(127))));
    }
}

INLINE void weight_digits(const uint16_t (*weight)[TILE], unsigned n, int wide,
                          uint8_t (*digit)[TILE])
{
    for (unsigned r = 0; r < n; r += wide ? 2 : 1)
        pack_digits(weight[wide ? r / 2 : r], wide, digit + r);
}

INLINE void add_product(float *out, __m512i sum, float unit)
{
    __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(unit));
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), product));
}

/* n rows of digits x v vectors of 16 values, added to out from value i on. */
INLINE void add_sums(__m512i (*sum)[4], const float *unit, const unsigned n, const unsigned v,
                     int wide, float *const *out, unsigned i)
{
    if (!wide) {
        for (unsigned r = 0; r < n; r++)
            for (unsigned j = 0; j < v; j++)
                add_product(out[r] + i + 16 * j, _mm512_slli_epi32(sum[r][j], 7), unit[r]);
        return;
    }
    for (unsigned r = 0; r + 1 < n; r += 2)
        for (unsigned j = 0; j < v; j++)
            add_product(out[r / 2] + i + 16 * j,
                        _mm512_add_epi32(_mm512_slli_epi32(sum[r][j], 7), sum[r + 1][j]),
                        unit[r / 2]);
}

/* 4 tokens from t on. */
INLINE void accumulate_4(__m512i (*sum)[4], const __m512i *value, const uint8_t (*digit)[TILE],
                         const unsigned n, const unsigned v, unsigned t)
{
    for (unsigned r = 0; r < n; r++) {
        int32_t four_weights;
        memcpy(&four_weights, digit[r] + t, sizeof four_weights);
        __m512i w = _mm512_set1_epi32(four_weights);
        for (unsigned j = 0; j < v; j++)
            sum[r][j] = dot_4(sum[r][j], w, value[j]);
    }
}

INLINE void clear_sums(__m512i (*sum)[4], const unsigned n, const unsigned v)
{
    for (unsigned r = 0; r < n; r++)
        for (unsigned j = 0; j < v; j++)
            sum[r][j] = _mm512_setzero_si512();
}

INLINE void accumulate_block(const int8_t *tile, unsigned dim, const uint8_t (*digit)[TILE],
                             const float *unit, const unsigned n, const unsigned v, int wide,
                             float *const *out, unsigned i)
{
    __m512i sum[4][4];
    clear_sums(sum, n, v);
    for (unsigned t = 0; t < TILE; t += 4) {
        __m512i value[4];
        for (unsigned j = 0; j < v; j++)
            value[j] = _mm512_load_si512(tile + t * dim + 4 * i + 64 * j);
        accumulate_4(sum, value, digit, n, v, t);
    }
    add_sums(sum, unit, n, v, wide, out, i);
}

INLINE void accumulate_tile(const tile_plan *p, const int8_t *tile, const uint8_t (*digit)[TILE],
                            const float *unit, const unsigned n, int wide, float *const *out)
{
    unsigned i = 0;
    for (; i + 64 <= p->head_dim; i += 64)
        accumulate_block(tile, p->head_dim, digit, unit, n, 4, wide, out, i);
    for (; i < p->head_dim; i += 16)
        accumulate_block(tile, p->head_dim, digit, unit, n, 1, wide, out, i);
}

TARGET static void accumulate(const tile_plan *p, const int8_t *tile,
                              const uint16_t (*weight)[TILE], const float *unit, unsigned n,
                              int wide, float *const *out)
{
    for (unsigned done = 0; done < n;) {
        unsigned m = next_digits(n - done, wide);
        uint8_t digit[4][TILE];
        const uint8_t(*d)[TILE] = (const uint8_t(*)[TILE])digit;
        weight_digits(weight + done, m, wide, digit);
        switch (m) {
        case 1:
            accumulate_tile(p, tile, d, unit + done, 1, wide, out + done);
            break;
        case 2:
            accumulate_tile(p, tile, d, unit + done, 2, wide, out + done);
            break;
        case 3:
            accumulate_tile(p, tile, d, unit + done, 3, wide, out + done);
            break;
        default:
            accumulate_tile(p, tile, d, unit + done, 4, wide, out + done);
        }
        done += wide ? m / 2 : m;
    }
}

/* The same from codes: 32 * chunks values of all tokens, then the next ones. */
INLINE void accumulate_pass(const tile_plan *p, const uint8_t *const *rows,
                            const uint8_t *const *ahead, const level_tables *tables,
                            const uint8_t (*digit)[TILE], const float *unit, const unsigned n,
                            int wide, const feed_kind kind, const unsigned dim,
                            const unsigned chunks, float *const *out, unsigned i)
{
    __m512i sum[4][4];
    clear_sums(sum, n, 2 * chunks);
    for (unsigned s = 0; s < TILE / 4; s++) {
        __m512i value[4];
        feed d;
        if (i == 0)
            prefetch_four(p, ahead, s);
        feed_start(&d, p, four_of(rows, s, 0), kind, 0, i / 32, dim);
        for (unsigned c = 0; c < chunks; c++)
            feed_32(&d, tables, p, kind, 0, i / 32 + c, dim, value + 2 * c);
        accumulate_4(sum, value, digit, n, 2 * chunks, 4 * s);
    }
    add_sums(sum, unit, n, 2 * chunks, wide, out, i);
}

INLINE void accumulate_feed(const tile_plan *p, const uint8_t *const *rows,
                            const uint8_t *const *ahead, const uint8_t (*digit)[TILE],
                            const float *unit, const unsigned n, int wide, const feed_kind kind,
                            const unsigned dim, float *const *out)
{
    level_tables tables = tables_of(p, 0);
    unsigned i = 0;
    for (; i + 64 <= dim; i += 64)
        accumulate_pass(p, rows, ahead, &tables, digit, unit, n, wide, kind, dim, 2, out, i);
    if (i < dim)
        accumulate_pass(p, rows, ahead, &tables, digit, unit, n, wide, kind, dim, 1, out, i);
}

typedef void accumulate_function(const tile_plan *p, const uint8_t *const *rows,
                                 const uint8_t *const *ahead, const uint8_t (*digit)[TILE],
                                 const float *unit, unsigned n, int wide, float *const *out);

#define ACCUMULATE_CODES(name, kind, dim)                                                        \
    TARGET static void accumulate_##name(                                                        \
        const tile_plan *p, const uint8_t *const *rows, const uint8_t *const *ahead,             \
        const uint8_t (*digit)[TILE], const float *unit, unsigned n, int wide,                   \
        float *const *out)                                                                       \
    {                                                                                            \
        if (n == 1)                                                                              \
            accumulate_feed(p, rows, ahead, digit, unit, 1, wide, kind, dim, out);               \
        else if (n == 2)                                                                         \
            accumulate_feed(p, rows, ahead, digit, unit, 2, wide, kind, dim, out);               \
        else if (n == 3)                                                                         \
            accumulate_feed(p, rows, ahead, digit, unit, 3, wide, kind, dim, out);               \
        else                                                                                     \
            accumulate_feed(p, rows, ahead, digit, unit, 4, wide, kind, dim, out);               \
    }
ACCUMULATE_CODES(nibbles_128, NIBBLES, 128)
ACCUMULATE_CODES(nibbles, NIBBLES, p->head_dim)
ACCUMULATE_CODES(trellis_nibbles_128, TRELLIS_NIBBLES, 128)
ACCUMULATE_CODES(trellis_nibbles, TRELLIS_NIBBLES, p->head_dim)
ACCUMULATE_CODES(planes_64, PLANES, 64)
ACCUMULATE_CODES(planes_96, PLANES, 96)
ACCUMULATE_CODES(planes_128, PLANES, 128)
ACCUMULATE_CODES(planes_192, PLANES, 192)
ACCUMULATE_CODES(planes, PLANES, p->head_dim)
ACCUMULATE_CODES(levels, LEVELS, p->head_dim)
ACCUMULATE_CODES(windows, WINDOWS, p->head_dim)

TARGET static int accumulate_codes(const tile_plan *p, const uint8_t *const *rows,
                                   const uint8_t *const *ahead, const uint16_t (*weight)[TILE],
                                   const float *unit, unsigned n, int wide, float *const *out)
{
    static accumulate_function *const functions[][5] = {
        [NIBBLES] = {accumulate_nibbles, accumulate_nibbles_128},
        [TRELLIS_NIBBLES] = {accumulate_trellis_nibbles, accumulate_trellis_nibbles_128},
        [PLANES] = {accumulate_planes, accumulate_planes_128, accumulate_planes_64,
                    accumulate_planes_96, accumulate_planes_192},
        [LEVELS] = {accumulate_levels, accumulate_levels},
        [WINDOWS] = {accumulate_windows, accumulate_windows},
    };
    int kind = feed_of(p);
    if (kind < 0 || p->head_dim % 32)
        return 0;
    for (unsigned done = 0; done < n;) {
        unsigned m = next_digits(n - done, wide);
        uint8_t digit[4][TILE];
        weight_digits(weight + done, m, wide, digit);
        functions[kind][known_dim(p)](p, rows, ahead, (const uint8_t(*)[TILE])digit, unit + done,
                                      m, wide, out + done);
        done += wide ? m / 2 : m;
    }
    return 1;
}

const attend_kernels attend_avx512vbmi = {
    .name = "avx512vbmi",
    .narrow = NARROW_SCORES | NARROW_WEIGHTS,
    .expand_keys = expand_keys,
    .expand_values = expand_values,
    .scores = scores,
    .accumulate = accumulate,
    .score_codes = score_codes,
    .accumulate_codes = accumulate_codes,
    .half_scores = half_scores,
    .half_accumulate = half_accumulate,
    GENERIC_ATTEND_KERNELS,
};
#else
typedef int not_for_this_processor;
#endif

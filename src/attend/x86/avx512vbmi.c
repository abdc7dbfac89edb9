/*
 * AVX-512 with VBMI and VNNI.
 *
 * Counts for one token of one KV head, head_dim 128, 4 bits, 512-bit
 * instructions beside loads and stores:
 *   expand keys    3 blends + palignr + shift + 4 vpermb + 2 adds a 64 bytes of
 *                  codes of 4 tokens, 4 of them                        11
 *   expand values  the same and 1 vpermb                               12
 *   for each query head: 2 vpdpbusd for the score, 2 for the value      4
 *   logits and softmax                                                  2
 *
 * Tile of keys: vectors of 4 tokens x 16 values, tokens 16b + j + {0, 4, 8, 12}
 * in the lanes of vector [b][j][value / 16], levels + 128 (vpdpbusd wants one
 * operand unsigned; 128 * sum(query) is taken off again). Tile of values:
 * vector [token / 4][value / 16], each dword one value of 4 tokens.
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
#include "attend/generic.h"

#define INLINE TARGET static inline __attribute__((always_inline))

/* ---- expansion ---- */

/* How far ahead of the row at hand memory is asked for, in bytes. */
enum { AHEAD = 4096 };

INLINE void prefetch_rows(const uint8_t *const *rows, size_t bytes)
{
    for (unsigned t = 0; t < 4; t++)
        for (size_t b = 0; b < bytes; b += 64)
            _mm_prefetch((const char *)rows[t] + AHEAD + b, _MM_HINT_T0);
}

/* 16 bytes of 4 rows, a lane each. */
INLINE __m512i four_rows(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d)
{
    __m512i y = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)a));
    y = _mm512_mask_broadcast_i32x4(y, 0x00F0, _mm_loadu_si128((const __m128i *)b));
    y = _mm512_mask_broadcast_i32x4(y, 0x0F00, _mm_loadu_si128((const __m128i *)c));
    return _mm512_mask_broadcast_i32x4(y, 0xF000, _mm_loadu_si128((const __m128i *)d));
}

INLINE __m512i table_64(const int8_t *table)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
}

/* Byte 16 lane + i to byte 4 i + lane. */
INLINE __m512i by_value(__m512i y)
{
    const __m512i order = _mm512_setr_epi32(
        0x30201000, 0x31211101, 0x32221202, 0x33231303, 0x34241404, 0x35251505, 0x36261606,
        0x37271707, 0x38281808, 0x39291909, 0x3A2A1A0A, 0x3B2B1B0B, 0x3C2C1C0C, 0x3D2D1D0D,
        0x3E2E1E0E, 0x3F2F1F0F);
    return _mm512_permutexvar_epi8(order, y);
}

/* The 4 tokens of one call of an expansion, whichever they are. */
typedef struct four {
    const uint8_t *row[4];
} four;

INLINE __m512i chunk_of(const four *f, size_t at)
{
    return four_rows(f->row[0] + at, f->row[1] + at, f->row[2] + at, f->row[3] + at);
}

/* 4 bits: with the stream's bytes x and each one's follower n, the windows of
 * even values are x, those of odd ones x >> 4 | n << 4. The tile's order is 16
 * even values, then the 16 odd ones between. vpermb ignores an index's upper
 * bits, so that no nibble has to be masked. */
INLINE void expand_nibbles(const tile_plan *p, const four *f, int is_key, int is_trellis,
                           int8_t *tile)
{
    unsigned chunks = p->head_dim / 32;
    __m512i a = table_64(p->stream.a[0]), b = table_64(p->stream.b[0]);
    if (is_key)
        b = _mm512_xor_si512(b, _mm512_set1_epi8(-128));
    __m512i first = chunk_of(f, 0), x = is_key ? first : by_value(first), here = first;
    for (unsigned c = 0; c < chunks; c++, tile += 128) {
        __m512i after = c + 1 < chunks ? chunk_of(f, 16 * (c + 1)) : first;
        __m512i y = is_key ? after : by_value(after);
        __m512i high = _mm512_srli_epi16(x, 4);
        __m512i even = _mm512_permutexvar_epi8(x, b), odd = _mm512_permutexvar_epi8(high, b);
        if (is_trellis) { /* scalar codes have no a */
            __m512i n = is_key ? _mm512_alignr_epi8(after, here, 1) : _mm512_alignr_epi32(y, x, 1);
            even = _mm512_add_epi8(even, _mm512_permutexvar_epi8(high, a));
            odd = _mm512_add_epi8(odd, _mm512_permutexvar_epi8(n, a));
        }
        _mm512_store_si512(tile, even);
        _mm512_store_si512(tile + 64, odd);
        here = after;
        x = y;
    }
}

/* Rows that are levels already. */
INLINE void expand_levels(const tile_plan *p, const four *f, int is_key, int8_t *tile)
{
    for (unsigned i = 0; i < p->head_dim; i += 16, tile += 64) {
        __m512i y = chunk_of(f, i);
        y = is_key ? _mm512_xor_si512(y, _mm512_set1_epi8(-128)) : by_value(y);
        _mm512_store_si512(tile, y);
    }
}

INLINE __m512i in_lanes(const uint8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}

INLINE __m512i look_up(__m512i window, __m512i a, __m512i b)
{
    return _mm512_add_epi8(_mm512_permutexvar_epi8(_mm512_srli_epi16(window, 4), a),
                           _mm512_permutexvar_epi8(window, b));
}

INLINE __mmask64 in_four(unsigned bits)
{
    return (uint64_t)bits * 0x0001000100010001u;
}

/* Any other rate. */
INLINE void expand_windows(const tile_plan *p, const four *f, int is_key, int is_mixed,
                           int8_t *tile)
{
    __m512i chunk[MAX_DIM / 16];
    unsigned last = p->n_chunks - 1;
    for (unsigned c = 0; c < last; c++)
        chunk[c] = chunk_of(f, 16 * c);
    chunk[last] = chunk_of(f, p->code_bytes - 16);
    __m512i a = table_64(p->stream.a[0]), b = table_64(p->stream.b[0]);
    __m512i a_high = table_64(p->stream.a[is_mixed]), b_high = table_64(p->stream.b[is_mixed]);
    if (is_key) {
        b = _mm512_xor_si512(b, _mm512_set1_epi8(-128));
        b_high = _mm512_xor_si512(b_high, _mm512_set1_epi8(-128));
    }
    for (unsigned i = 0; i < p->head_dim; i += 16, tile += 64) {
        const window_16 *w = &p->windows[i / 16];
        __m512i y = _mm512_shuffle_epi8(chunk[w->chunk[0]], in_lanes(w->shuffle[0]));
        if (w->has_second)
            y = _mm512_or_si512(y, _mm512_shuffle_epi8(chunk[w->chunk[1]],
                                                       in_lanes(w->shuffle[1])));
        __m512i window = _mm512_multishift_epi64_epi8(in_lanes(w->bits), y);
        __m512i level = look_up(window, a, b);
        if (is_mixed)
            level = _mm512_mask_mov_epi8(level, in_four(w->is_high),
                                         look_up(window, a_high, b_high));
        _mm512_store_si512(tile, is_key ? level : by_value(level));
    }
}

typedef enum expansion { NIBBLES, TRELLIS_NIBBLES, LEVELS, WINDOWS, MIXED_WINDOWS } expansion;

INLINE void expand_tile(const tile_plan *p, const uint8_t *const *rows, int is_key,
                        expansion how, size_t bytes, int8_t *tile)
{
    for (unsigned s = 0; s < TILE / 4; s++) {
        unsigned first = is_key ? s / 4 * 16 + s % 4 : 4 * s, step = is_key ? 4 : 1;
        four f = {{rows[first], rows[first + step], rows[first + 2 * step],
                   rows[first + 3 * step]}};
        prefetch_rows(rows + 4 * s, bytes);
        if (how == NIBBLES || how == TRELLIS_NIBBLES)
            expand_nibbles(p, &f, is_key, how == TRELLIS_NIBBLES, tile);
        else if (how == LEVELS)
            expand_levels(p, &f, is_key, tile);
        else
            expand_windows(p, &f, is_key, how == MIXED_WINDOWS, tile);
        tile += 4 * p->head_dim;
    }
}

INLINE int is_nibbles(const tile_plan *p)
{
    return p->source == TILE_STREAM && p->stream.rate == 64 && p->head_dim % 32 == 0;
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
TARGET static void expand_by_rows(const tile_plan *p, const uint8_t *const *rows, int is_key,
                                  int8_t *tile)
{
    int8_t levels[4][MAX_DIM];
    for (unsigned s = 0; s < TILE / 4; s++) {
        unsigned first = is_key ? s / 4 * 16 + s % 4 : 4 * s, step = is_key ? 4 : 1;
        four f;
        for (unsigned i = 0; i < 4; i++) {
            if (p->source == TILE_BYTES)
                byte_levels(p, rows[first + i * step], levels[i]);
            else
                tile_row_levels(p, rows[first + i * step], levels[i]);
            f.row[i] = (const uint8_t *)levels[i];
        }
        expand_levels(p, &f, is_key, tile + s * 4 * p->head_dim);
    }
}

INLINE void expand(const tile_plan *p, const uint8_t *const *rows, int is_key, int8_t *tile)
{
    if (is_nibbles(p) && p->stream.a[0][0])
        expand_tile(p, rows, is_key, TRELLIS_NIBBLES, p->code_bytes, tile);
    else if (is_nibbles(p))
        expand_tile(p, rows, is_key, NIBBLES, p->code_bytes, tile);
    else if (p->source == TILE_STREAM && p->stream.rate == 128)
        expand_tile(p, rows, is_key, LEVELS, p->code_bytes, tile);
    else if (p->has_windows && p->stream.mixed)
        expand_tile(p, rows, is_key, MIXED_WINDOWS, p->code_bytes, tile);
    else if (p->has_windows)
        expand_tile(p, rows, is_key, WINDOWS, p->code_bytes, tile);
    else
        expand_by_rows(p, rows, is_key, tile);
}

TARGET static void expand_keys(const tile_plan *p, const uint8_t *const *rows, int8_t *tile)
{
    expand(p, rows, 1, tile);
}

TARGET static void expand_values(const tile_plan *p, const uint8_t *const *rows, int8_t *tile)
{
    expand(p, rows, 0, tile);
}

/* The value at place i of the tile's order. */
INLINE unsigned value_at(const tile_plan *p, unsigned i)
{
    return is_nibbles(p) ? i / 32 * 32 + i % 16 * 2 + i / 16 % 2 : i;
}

TARGET static void natural_order(const tile_plan *p, const float *row, float *out)
{
    for (unsigned i = 0; i < p->head_dim; i++)
        out[value_at(p, i)] = row[i];
}

/* ---- scores ---- */

/* A packed query is its upper digits, its lower ones (from -64 to 63), and 128
 * times the sum of each. */
TARGET static void pack_query(const tile_plan *p, const int16_t *query, uint8_t *packed)
{
    int32_t sum[2] = {0};
    for (unsigned i = 0; i < p->head_dim; i++) {
        int q = query[value_at(p, i)], upper = upper_digit(q), lower = q - 128 * upper;
        packed[i] = (uint8_t)upper;
        packed[p->head_dim + i] = (uint8_t)lower;
        sum[0] += 128 * upper;
        sum[1] += 128 * lower;
    }
    memcpy(packed + 2 * p->head_dim, sum, sizeof sum);
}

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
                sum[r][j] = _mm512_dpbusd_epi32(sum[r][j], key[j], query);
        }
    }
    for (unsigned r = 0; r < n; r++)
        score[r] = _mm512_sub_epi32(sum_of_dwords(sum[r]), _mm512_set1_epi32(d[r].excess));
}

INLINE void score_narrow(const tile_plan *p, const int8_t *tile, const uint8_t *packed,
                         const unsigned n, int32_t (*score)[TILE])
{
    digits d[4];
    for (unsigned r = 0; r < n; r++)
        d[r] = digits_of(p, packed, r, 0);
    for (unsigned t = 0; t < TILE; t += 16) {
        __m512i s[4];
        score_16(tile + t * p->head_dim, p->head_dim, d, n, s);
        for (unsigned r = 0; r < n; r++)
            _mm512_storeu_si512(score[r] + t, _mm512_slli_epi32(s[r], 7));
    }
}

INLINE void score_wide(const tile_plan *p, const int8_t *tile, const uint8_t *packed,
                       const unsigned n, int32_t (*score)[TILE])
{
    digits d[4];
    for (unsigned r = 0; r < 2 * n; r++)
        d[r] = digits_of(p, packed, r / 2, r % 2);
    for (unsigned t = 0; t < TILE; t += 16) {
        __m512i s[4];
        score_16(tile + t * p->head_dim, p->head_dim, d, 2 * n, s);
        for (unsigned r = 0; r < n; r++)
            _mm512_storeu_si512(score[r] + t, _mm512_add_epi32(_mm512_slli_epi32(s[2 * r], 7),
                                                               s[2 * r + 1]));
    }
}

TARGET static void scores(const tile_plan *p, const int8_t *tile, const uint8_t *packed,
                          unsigned n, int wide, int32_t (*score)[TILE])
{
    size_t row = packed_query_bytes(p->head_dim);
    if (wide) {
        for (; n >= 2; n -= 2, packed += 2 * row, score += 2)
            score_wide(p, tile, packed, 2, score);
        if (n)
            score_wide(p, tile, packed, 1, score);
        return;
    }
    for (; n >= 4; n -= 4, packed += 4 * row, score += 4)
        score_narrow(p, tile, packed, 4, score);
    if (n == 3)
        score_narrow(p, tile, packed, 3, score);
    else if (n == 2)
        score_narrow(p, tile, packed, 2, score);
    else if (n == 1)
        score_narrow(p, tile, packed, 1, score);
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

INLINE void add_product(float *out, __m512i sum, float unit)
{
    __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(unit));
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), product));
}

/* n rows of digits, v vectors of 16 values. */
INLINE void accumulate_block(const int8_t *tile, unsigned dim, const uint8_t (*digit)[TILE],
                             const float *unit, const unsigned n, const unsigned v, int wide,
                             float *const *out, unsigned first)
{
    __m512i sum[4][4];
    for (unsigned r = 0; r < n; r++)
        for (unsigned j = 0; j < v; j++)
            sum[r][j] = _mm512_setzero_si512();
    for (unsigned t = 0; t < TILE; t += 4) {
        __m512i value[4];
        for (unsigned j = 0; j < v; j++)
            value[j] = _mm512_load_si512(tile + t * dim + 4 * first + 64 * j);
        for (unsigned r = 0; r < n; r++) {
            int32_t four_weights;
            memcpy(&four_weights, digit[r] + t, sizeof four_weights);
            __m512i w = _mm512_set1_epi32(four_weights);
            for (unsigned j = 0; j < v; j++)
                sum[r][j] = _mm512_dpbusd_epi32(sum[r][j], w, value[j]);
        }
    }
    for (unsigned r = 0; r < n; r += wide ? 2 : 1)
        for (unsigned j = 0; j < v; j++) {
            __m512i total = _mm512_slli_epi32(sum[r][j], 7);
            if (wide)
                total = _mm512_add_epi32(total, sum[r + 1][j]);
            unsigned row = wide ? r / 2 : r;
            add_product(out[row] + first + 16 * j, total, unit[row]);
        }
}

INLINE void accumulate_rows(const tile_plan *p, const int8_t *tile,
                            const uint16_t (*weight)[TILE], const float *unit,
                            const unsigned rows, int wide, float *const *out)
{
    uint8_t digit[4][TILE];
    unsigned n = wide ? 2 * rows : rows, i = 0;
    for (unsigned r = 0; r < rows; r++)
        pack_digits(weight[r], wide, digit + (wide ? 2 * r : r));
    for (; i + 64 <= p->head_dim; i += 64)
        accumulate_block(tile, p->head_dim, (const uint8_t(*)[TILE])digit, unit, n, 4, wide, out,
                         i);
    for (; i < p->head_dim; i += 16)
        accumulate_block(tile, p->head_dim, (const uint8_t(*)[TILE])digit, unit, n, 1, wide, out,
                         i);
}

TARGET static void accumulate(const tile_plan *p, const int8_t *tile,
                              const uint16_t (*weight)[TILE], const float *unit, unsigned n,
                              int wide, float *const *out)
{
    if (wide) {
        for (; n >= 2; n -= 2, weight += 2, unit += 2, out += 2)
            accumulate_rows(p, tile, weight, unit, 2, 1, out);
        if (n)
            accumulate_rows(p, tile, weight, unit, 1, 1, out);
        return;
    }
    for (; n >= 4; n -= 4, weight += 4, unit += 4, out += 4)
        accumulate_rows(p, tile, weight, unit, 4, 0, out);
    if (n == 3)
        accumulate_rows(p, tile, weight, unit, 3, 0, out);
    else if (n == 2)
        accumulate_rows(p, tile, weight, unit, 2, 0, out);
    else if (n == 1)
        accumulate_rows(p, tile, weight, unit, 1, 0, out);
}

/* ---- softmax ---- */

/* As exp_negative. */
INLINE __m512 exp_16(__m512 x)
{
    __mmask16 is_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87), _CMP_NGT_UQ);
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(t, n), p = _mm512_set1_ps(1.5403530e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812910e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
    return _mm512_maskz_mov_ps((__mmask16)~is_zero, _mm512_scalef_ps(p, n));
}

TARGET static float softmax(const float *logit, const float *scale, softmax_state *s, float *p,
                            float *peak)
{
    __m512 l[4];
    for (int i = 0; i < 4; i++)
        l[i] = _mm512_loadu_ps(logit + 16 * i);
    float largest = _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(l[0], l[1]), _mm512_max_ps(l[2], l[3])));
    *peak = 0;
    if (largest == -INFINITY) {
        memset(p, 0, TILE * sizeof *p);
        return 1;
    }
    float rescale = 1;
    if (largest > s->max) {
        rescale = exp_negative(s->max - largest);
        s->max = largest;
    }
    __m512 max = _mm512_set1_ps(s->max), sum = _mm512_setzero_ps(), mass = sum, most = sum;
    for (int i = 0; i < 4; i++) {
        __m512 e = exp_16(_mm512_sub_ps(l[i], max));
        __m512 product = _mm512_mul_ps(e, _mm512_loadu_ps(scale + 16 * i));
        _mm512_storeu_ps(p + 16 * i, product);
        sum = _mm512_add_ps(sum, e);
        mass = _mm512_add_ps(mass, product);
        most = _mm512_max_ps(most, product);
    }
    *peak = _mm512_reduce_max_ps(most);
    s->sum = s->sum * rescale + _mm512_reduce_add_ps(sum);
    s->mass = s->mass * rescale + _mm512_reduce_add_ps(mass);
    s->bias *= rescale;
    return rescale;
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

/* ---- halves ---- */

TARGET static float scales(const uint16_t *half, float *scale)
{
    __m512 largest = _mm512_setzero_ps();
    for (int t = 0; t < TILE; t += 16) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(half + t));
        h = _mm256_maskz_mov_epi16(_mm256_cmplt_epu16_mask(h, _mm256_set1_epi16(0x7C00)), h);
        __m512 x = _mm512_cvtph_ps(h);
        _mm512_storeu_ps(scale + t, x);
        largest = _mm512_max_ps(largest, x);
    }
    return _mm512_reduce_max_ps(largest);
}

TARGET static void halves(const uint8_t *half, unsigned n, float *x)
{
    for (unsigned i = 0; i < n; i += 16)
        _mm512_storeu_ps(x + i, _mm512_cvtph_ps(_mm256_loadu_si256(
                                    (const __m256i *)(half + 2 * i))));
}

const attend_kernels attend_avx512vbmi = {
    .name = "avx512vbmi",
    .narrow = NARROW_SCORES | NARROW_WEIGHTS,
    .expand_keys = expand_keys,
    .expand_values = expand_values,
    .scores = scores,
    .accumulate = accumulate,
    GENERIC_ATTEND_KERNELS,
};
#else
typedef int not_for_this_processor;
#endif

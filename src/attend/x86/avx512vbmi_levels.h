/*
 * Levels of 4 tokens x 16 values in a vector, from codes: what expansion stores
 * and the kernels without a tile use at once. The includer defines TARGET
 * and INLINE.
 *
 * 16 bytes of a row lie in each lane. Keys get levels + 128, because vpdpbusd
 * wants one operand unsigned and a query is not; values get each dword's 4 bytes
 * from 4 tokens.
 */
#include <immintrin.h>

#include "attend/kernels.h"
#include "codec/x86/avx2_planes.h"

/* vpdpbusd. As an intrinsic, gcc 12 moves its sums between registers with each
 * use, a third of all instructions. */
INLINE __m512i dot_4(__m512i sum, __m512i is_unsigned, __m512i is_signed)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(is_unsigned), "v"(is_signed));
    return sum;
}

typedef struct four {
    const uint8_t *row[4];
} four;

/* Tokens of a tile's s-th vector: of keys 16b + j + {0, 4, 8, 12}, s = 4b + j,
 * so that 4 vectors' lanes add up to 16 tokens in order; of values 4s to 4s + 3. */
INLINE four four_of(const uint8_t *const *rows, unsigned s, int is_key)
{
    unsigned first = is_key ? s / 4 * 16 + s % 4 : 4 * s, step = is_key ? 4 : 1;
    return (four){{rows[first], rows[first + step], rows[first + 2 * step],
                   rows[first + 3 * step]}};
}

INLINE __m512i chunk_of(const four *f, size_t at)
{
    __m512i y = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(f->row[0] + at)));
    y = _mm512_mask_broadcast_i32x4(y, 0x00F0, _mm_loadu_si128((const __m128i *)(f->row[1] + at)));
    y = _mm512_mask_broadcast_i32x4(y, 0x0F00, _mm_loadu_si128((const __m128i *)(f->row[2] + at)));
    return _mm512_mask_broadcast_i32x4(y, 0xF000,
                                       _mm_loadu_si128((const __m128i *)(f->row[3] + at)));
}

INLINE __m512i in_lanes(const void *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
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

/* How a format's levels come about: */
typedef enum feed_kind {
    NIBBLES,         /* 4 bits, scalar */
    TRELLIS_NIBBLES, /* 4 bits, trellis */
    LEVELS,          /* bytes that are levels */
    PLANES,          /* three taps */
    WINDOWS          /* any other number of bits */
} feed_kind;

typedef struct level_tables {
    __m512i a, b;
    __m512i pairs[4]; /* PLANES: as in stream_plan */
} level_tables;

/* vpermb looks up 64 bytes, so that of a nibble with anything above it, a table
 * of 16 four times over needs no masking. */
INLINE level_tables tables_of(const tile_plan *p, int is_key)
{
    __m512i offset = _mm512_set1_epi8(is_key ? -128 : 0);
    level_tables t;
    t.a = in_lanes(p->stream.a);
    t.b = _mm512_xor_si512(in_lanes(p->stream.b), offset);
    for (unsigned i = 0; i < 4; i++)
        t.pairs[i] = _mm512_loadu_si512(p->stream.pairs[i]);
    t.pairs[0] = _mm512_xor_si512(t.pairs[0], offset);
    t.pairs[2] = _mm512_xor_si512(t.pairs[2], offset);
    return t;
}

/* 4 tokens' codes on their way to levels. */
typedef struct feed {
    four f;
    __m512i here, x;             /* TRELLIS_NIBBLES: the chunk at hand; by value */
    __m512i chunk[MAX_DIM / 16]; /* windows */
    __m512i first, second;       /* PLANES: pairs of symbols of the chunk at hand */
    __m512i end_first, end_second; /* and of the one that ends with the row */
} feed;

/* ---- three taps ----
 *
 * A nibble of the low plane and the third bits of its two symbols above it are a pair,
 * which one vpermb looks up. A chunk has 16 first pairs of bytes and 16 second ones;
 * levels are sums over a pair and the pair before it. Whole chunks of the low plane
 * follow each other; what is left, 4, 8 or 12 bytes, is the end of a chunk that ends
 * with the plane. */

INLINE int is_planes(const tile_plan *p)
{
    return p->source == TILE_STREAM && p->stream.is_planes && p->head_dim >= 64;
}

INLINE __m512i pair_of(__m512i nibble, __m512i third)
{
    return _mm512_ternarylogic_epi64(_mm512_set1_epi8(15), nibble, third, 0xCA);
}

/* Where the halves of the low plane, part bytes each, meet behind n bytes of a chunk:
 * third bits for the bytes before, and for those behind. */
INLINE void split_thirds(const feed *d, const unsigned part, unsigned n, __m512i *before,
                         __m512i *behind)
{
    __m512i last = chunk_of(&d->f, 3 * part - 16), first;
    first = part < 16 ? _mm512_shuffle_epi8(last, in_lanes(sliding_index((int)part - 16)))
                      : chunk_of(&d->f, 2 * part);
    *before = _mm512_shuffle_epi8(last, in_lanes(sliding_index((int)n - 16)));
    *behind = _mm512_shuffle_epi8(first, in_lanes(sliding_index((int)n)));
}

/* Third bits for the chunk from byte at of the low plane on: bits 4 and 5 of *first are
 * those of first pairs, of *second of second ones. */
INLINE void chunk_thirds(const feed *d, const unsigned part, unsigned at, __m512i *first,
                         __m512i *second)
{
    if (at + 16 <= part) {
        *second = chunk_of(&d->f, 2 * part + at);
        *first = _mm512_rol_epi64(*second, 4);
    } else if (at >= part) {
        __m512i h = chunk_of(&d->f, part + at);
        *second = _mm512_ror_epi64(h, 2);
        *first = _mm512_rol_epi64(h, 2);
    } else if (part == 8) { /* the same 8 bytes for both halves */
        __m512i h = chunk_of(&d->f, 8);
        h = _mm512_unpackhi_epi64(h, h);
        *second = _mm512_mask_ror_epi64(h, 0xAA, h, 2);
        *first = _mm512_rolv_epi64(h, _mm512_setr_epi64(4, 2, 4, 2, 4, 2, 4, 2));
    } else {
        __m512i before, behind;
        split_thirds(d, part, part - at, &before, &behind);
        *second = _mm512_or_si512(before, _mm512_ror_epi64(behind, 2));
        *first = _mm512_or_si512(_mm512_rol_epi64(before, 4), _mm512_rol_epi64(behind, 2));
    }
}

/* The chunk from byte at on; of values by value. */
INLINE void load_pairs(feed *d, const unsigned part, unsigned at, int is_key)
{
    __m512i x = chunk_of(&d->f, at), first, second;
    chunk_thirds(d, part, at, &first, &second);
    d->first = pair_of(x, first);
    d->second = pair_of(_mm512_srli_epi16(x, 4), second);
    if (!is_key) {
        d->first = by_value(d->first);
        d->second = by_value(d->second);
    }
}

/* Levels of the symbols of own and of those behind them; `behind` are the pairs before. */
INLINE void pair_levels(const level_tables *t, __m512i own, __m512i behind, __m512i *v)
{
    v[0] = _mm512_add_epi8(_mm512_permutexvar_epi8(own, t->pairs[2]),
                           _mm512_permutexvar_epi8(behind, t->pairs[3]));
    v[1] = _mm512_add_epi8(_mm512_permutexvar_epi8(own, t->pairs[0]),
                           _mm512_permutexvar_epi8(behind, t->pairs[1]));
}

/* The second pairs, a byte later; the first of them from the end of last. */
INLINE __m512i pairs_behind(__m512i second, __m512i last, int is_key)
{
    return is_key ? _mm512_alignr_epi8(second, last, 15) : _mm512_alignr_epi32(second, last, 15);
}

/* v: every fourth of the 64 values of chunk c / 2 from value 2 * (c % 2) on, and from the
 * next. */
INLINE void plane_levels(feed *d, const level_tables *t, int is_key, unsigned c,
                         const unsigned dim, __m512i *v)
{
    if (c % 2 == 0) {
        __m512i last = d->second;
        load_pairs(d, dim / 8, 8 * c, is_key);
        pair_levels(t, d->first, pairs_behind(d->second, last, is_key), v);
    } else {
        pair_levels(t, d->second, d->first, v);
    }
}

/* Ready for chunk first / 2, or for what is left. */
INLINE void planes_start(feed *d, unsigned first, int is_key, const unsigned dim)
{
    int is_inside = first && 32 * first < dim / 64 * 64;
    load_pairs(d, dim / 8, is_inside ? 8 * first - 16 : dim / 4 - 16, is_key);
    d->end_first = d->first;
    d->end_second = d->second;
}

/* Levels of the chunk that ends with the row, of which the last 4, 8 or 12 bytes are left;
 * they know what comes before them. */
INLINE void end_levels(const feed *d, const level_tables *t, int is_key, __m512i *level)
{
    __m512i behind = pairs_behind(d->end_second, d->end_second, is_key);
    pair_levels(t, d->end_first, behind, level);
    pair_levels(t, d->end_second, d->end_first, level + 2);
}

/* Every fourth of the 32 values that are left, four times. */
INLINE void left_32(const feed *d, const level_tables *t, int is_key, __m512i *v)
{
    __m512i l[4];
    end_levels(d, t, is_key, l);
    v[0] = is_key ? _mm512_unpackhi_epi64(l[0], l[1]) : _mm512_shuffle_i64x2(l[0], l[1], 0xEE);
    v[1] = is_key ? _mm512_unpackhi_epi64(l[2], l[3]) : _mm512_shuffle_i64x2(l[2], l[3], 0xEE);
}

/* The same of 16. */
INLINE __m512i left_16(const feed *d, const level_tables *t, int is_key)
{
    __m512i l[4];
    end_levels(d, t, is_key, l);
    if (is_key)
        return _mm512_unpackhi_epi64(_mm512_unpackhi_epi32(l[0], l[1]),
                                     _mm512_unpackhi_epi32(l[2], l[3]));
    return _mm512_shuffle_i64x2(_mm512_shuffle_i64x2(l[0], l[1], 0xFF),
                                _mm512_shuffle_i64x2(l[2], l[3], 0xFF), 0x88);
}

/* The same of 48, the first 32 and then 16; by dwords of a token, or of values. */
INLINE void left_48(const feed *d, const level_tables *t, int is_key, __m512i *v)
{
    static const uint8_t of_two[3][4] = {{1, 2, 3, 17}, {2, 3, 17, 18}, {3, 17, 18, 19}};
    static const uint8_t lanes_of_two[3][8] = {
        {2, 3, 4, 5, 6, 7, 10, 11}, {4, 5, 6, 7, 10, 11, 12, 13}, {6, 7, 10, 11, 12, 13, 14, 15}};
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    __m512i l[4];
    end_levels(d, t, is_key, l);
    for (unsigned i = 0; i < 3; i++) {
        const __m128i *bytes = (const __m128i *)(is_key ? of_two[i] : lanes_of_two[i]);
        __m512i dwords = _mm512_broadcast_i32x4(_mm_cvtepu8_epi32(_mm_loadu_si32(bytes)));
        v[i] = is_key ? _mm512_permutex2var_epi32(l[i], _mm512_add_epi32(dwords, lane), l[i + 1])
                      : _mm512_permutex2var_epi64(l[i], _mm512_cvtepu8_epi64(_mm_loadl_epi64(bytes)),
                                                  l[i + 1]);
    }
}

/* Ready for the values from 32 * first on, in PLANES for those that begin a chunk. */
INLINE void feed_start(feed *d, const tile_plan *p, four f, const feed_kind kind, int is_key,
                       unsigned first, const unsigned dim)
{
    d->f = f;
    if (kind == PLANES)
        planes_start(d, first, is_key, dim);
    if (kind == TRELLIS_NIBBLES) {
        d->here = chunk_of(&f, 16 * first);
        d->x = is_key ? d->here : by_value(d->here);
    } else if (kind == WINDOWS) {
        unsigned last = p->n_chunks - 1;
        for (unsigned c = 0; c < last; c++)
            d->chunk[c] = chunk_of(&f, 16 * c);
        d->chunk[last] = chunk_of(&f, p->code_bytes - 16);
    }
}

/* With the stream's bytes x and each one's follower n, the windows of even
 * values are x, those of odd ones x >> 4 | n << 4. v[0] is 16 even values, v[1]
 * the odd ones between. */
INLINE void nibble_levels(feed *d, const level_tables *t, const feed_kind kind, int is_key,
                          unsigned c, const unsigned dim, __m512i *v)
{
    if (kind == NIBBLES) {
        __m512i x = chunk_of(&d->f, 16 * c);
        x = is_key ? x : by_value(x);
        v[0] = _mm512_permutexvar_epi8(x, t->b);
        v[1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(x, 4), t->b);
        return;
    }
    __m512i after = chunk_of(&d->f, 32 * (c + 1) < dim ? 16 * (c + 1) : 0);
    __m512i y = is_key ? after : by_value(after);
    __m512i n = is_key ? _mm512_alignr_epi8(after, d->here, 1) : _mm512_alignr_epi32(y, d->x, 1);
    __m512i high = _mm512_srli_epi16(d->x, 4);
    v[0] = _mm512_add_epi8(_mm512_permutexvar_epi8(d->x, t->b),
                           _mm512_permutexvar_epi8(high, t->a));
    v[1] = _mm512_add_epi8(_mm512_permutexvar_epi8(high, t->b), _mm512_permutexvar_epi8(n, t->a));
    d->here = after;
    d->x = y;
}

INLINE __m512i look_up(__m512i window, __m512i a, __m512i b)
{
    return _mm512_add_epi8(_mm512_permutexvar_epi8(_mm512_srli_epi16(window, 4), a),
                           _mm512_permutexvar_epi8(window, b));
}

INLINE __m512i window_levels(const feed *d, const level_tables *t, const window_16 *w,
                             int is_key)
{
    __m512i y = _mm512_shuffle_epi8(d->chunk[w->chunk[0]], in_lanes(w->shuffle[0]));
    if (w->has_second)
        y = _mm512_or_si512(y, _mm512_shuffle_epi8(d->chunk[w->chunk[1]],
                                                   in_lanes(w->shuffle[1])));
    __m512i window = _mm512_multishift_epi64_epi8(in_lanes(w->bits), y);
    __m512i level = look_up(window, t->a, t->b);
    return is_key ? level : by_value(level);
}

/* The 16 values from 16 * u on; not for nibbles, and for planes only the last. */
INLINE __m512i feed_16(const feed *d, const level_tables *t, const tile_plan *p,
                       const feed_kind kind, int is_key, unsigned u)
{
    if (kind == PLANES && u % 4 == 0)
        return left_16(d, t, is_key);
    if (kind == PLANES) {
        __m512i v[3];
        left_48(d, t, is_key, v);
        return v[2];
    }
    if (kind != LEVELS)
        return window_levels(d, t, &p->windows[u], is_key);
    __m512i y = chunk_of(&d->f, 16 * u);
    return is_key ? _mm512_xor_si512(y, _mm512_set1_epi8(-128)) : by_value(y);
}

/* The 32 values from 32 * c on, in the tile's order; in ascending c. */
INLINE void feed_32(feed *d, const level_tables *t, const tile_plan *p, const feed_kind kind,
                    int is_key, unsigned c, const unsigned dim, __m512i *v)
{
    if (kind == PLANES && 32 * c >= dim / 64 * 64) {
        __m512i three[3];
        if (dim % 64 == 32) {
            left_32(d, t, is_key, v);
        } else {
            left_48(d, t, is_key, three);
            v[0] = three[0];
            v[1] = three[1];
        }
        return;
    }
    if (kind == PLANES) {
        plane_levels(d, t, is_key, c, dim, v);
        return;
    }
    if (kind == NIBBLES || kind == TRELLIS_NIBBLES) {
        nibble_levels(d, t, kind, is_key, c, dim, v);
        return;
    }
    v[0] = feed_16(d, t, p, kind, is_key, 2 * c);
    v[1] = feed_16(d, t, p, kind, is_key, 2 * c + 1);
}

INLINE int is_nibbles(const tile_plan *p)
{
    return p->source == TILE_STREAM && p->stream.bits == 4 && p->head_dim % 32 == 0;
}

/* How the plan's levels are fed; -1 for row by row. */
INLINE int feed_of(const tile_plan *p)
{
    if (is_nibbles(p))
        return p->stream.a[0] ? TRELLIS_NIBBLES : NIBBLES; /* scalar codes have no a */
    if (is_planes(p))
        return PLANES;
    if (p->source == TILE_STREAM && p->stream.bits == 8)
        return LEVELS;
    return p->has_windows ? WINDOWS : -1;
}

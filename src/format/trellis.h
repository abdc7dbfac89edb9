/* Additive trellis codes: tables and shapes (doc/format.md, section 2). */
#ifndef TQKV_FORMAT_TRELLIS_H
#define TQKV_FORMAT_TRELLIS_H

#include <stdint.h>

/* The level of a value is a sum of entries, from -128 to 127. A value of 3 bits
 * has three taps: with u(i) its own 3 bits, its symbol, the level is
 * taps[0][u(i)] + taps[1][u(i - 1)] + taps[2][u(i - 2)]. Any other number of
 * bits has windows of 8 bits: the level of w is a[w >> 4] + b[w & 15]. */
typedef struct trellis_table {
    union {
        struct {
            int8_t a[16], b[16];
        };
        int8_t taps[3][8];
    };
} trellis_table;

/* Whether trellis codes of so many bits have three taps and lie in planes. */
static inline int trellis_has_taps(unsigned bits)
{
    return bits == 3;
}

/* Nodes of the trellis: what two neighbouring windows share. With three taps
 * a window is the 9 bits u(i), u(i - 1), u(i - 2), u(i) on top. */
static inline unsigned trellis_nodes(unsigned bits)
{
    return (trellis_has_taps(bits) ? 512u : 256u) >> bits;
}

static inline int trellis_level(const trellis_table *t, unsigned bits, unsigned window)
{
    if (trellis_has_taps(bits))
        return t->taps[0][window >> 6] + t->taps[1][window >> 3 & 7] + t->taps[2][window & 7];
    return t->a[window >> 4] + t->b[window & 15];
}

/* Three taps: where the third bit of symbol i is in the high plane. Byte c of it
 * serves bytes c of both halves of the low plane, so that low and high bits of
 * every second symbol come together by one shift (doc/quality.md). */
static inline unsigned trellis_high_bit(unsigned i, unsigned head_dim)
{
    unsigned half = head_dim / 2, j = i % half;
    return 4 * (j / 2) + j % 2 + (i < half ? 0 : 2);
}

/* The table of 2 to 8 bits a value. */
const trellis_table *trellis_table_of(unsigned bits);

#endif

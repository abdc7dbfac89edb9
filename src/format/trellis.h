/* Additive trellis codes: tables and the pattern of rates (doc/format.md). */
#ifndef TQKV_FORMAT_TRELLIS_H
#define TQKV_FORMAT_TRELLIS_H

#include <stdint.h>

/* level of window w = a[w >> 4] + b[w & 15], from -128 to 127. */
typedef struct trellis_table {
    int8_t a[16], b[16];
} trellis_table;

/* The table of 2 to 8 bits a value. */
const trellis_table *trellis_table_of(unsigned bits);

/* First bit of value i's window in a row of the given rate (in sixteenths of
 * a bit): Bresenham's pattern, so that any two rows of a rate agree, and both
 * neighbouring rates are spread evenly. */
static inline unsigned trellis_offset(unsigned rate, unsigned i)
{
    return i * rate >> 4;
}

/* Bits from value i's window to the next: floor(rate) or one more. They are
 * new in the next window, which is why that one's table follows them. */
static inline unsigned trellis_step(unsigned rate, unsigned i)
{
    return trellis_offset(rate, i + 1) - trellis_offset(rate, i);
}

/* New bits in value i's window since the one before, around the row: the rate
 * of its table. The pattern has a period of 16, of which head_dim is a
 * multiple. */
static inline unsigned trellis_bits(unsigned rate, unsigned i)
{
    return trellis_step(rate, (i + 15) % 16);
}

#endif

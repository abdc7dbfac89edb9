/* The bits of a half-precision scale that are not its own (tqkv_rows): of
 * `bits`, the highest is the sign, the others are the lowest of the mantissa. */
#ifndef TQKV_FORMAT_SPARE_H
#define TQKV_FORMAT_SPARE_H

#include "tqkv.h"

enum { MAX_SPARE_BITS = 8 };

static inline int spare_allowed(const tqkv_format *f, unsigned bits)
{
    int has_halves = f->codebook && f->codebook != TQKV_CODEBOOK_MLX;
    return bits == 0 || (bits <= MAX_SPARE_BITS && has_halves);
}

/* How many centres rows can tell apart. */
static inline unsigned spare_numbers(const tqkv_rows *rows)
{
    return rows->centres ? 256 : 1u << rows->spare_bits;
}

static inline uint16_t spare_low(unsigned bits)
{
    return bits ? (uint16_t)((1u << (bits - 1)) - 1) : 0;
}

static inline uint16_t spare_mask(unsigned bits)
{
    return bits ? (uint16_t)(0x8000 | spare_low(bits)) : 0;
}

static inline unsigned spare_number(uint16_t half, unsigned bits)
{
    return bits ? (half & spare_low(bits)) | (unsigned)(half >> 15) << (bits - 1) : 0;
}

static inline uint16_t spare_bits_of(unsigned number, unsigned bits)
{
    return bits ? (uint16_t)((number & spare_low(bits)) | number >> (bits - 1) << 15) : 0;
}

/* The nearest scale that leaves the bits free; half is a finite scale. */
static inline uint16_t spare_round(uint16_t half, unsigned bits)
{
    const unsigned low = spare_low(bits), largest = 0x7BFF;
    unsigned rounded = (half + (low + 1) / 2) & ~low;
    return (uint16_t)(bits == 0 ? half : rounded > largest ? largest & ~low : rounded);
}

#endif

/* Sizes that follow from a checked format. */
#ifndef TQKV_FORMAT_FORMAT_H
#define TQKV_FORMAT_FORMAT_H

#include "tqkv.h"

/* Where head_dim is over 256, mlx keeps a norm for each block of 256. */
static inline unsigned mlx_norms_per_position(unsigned head_dim)
{
    return head_dim > 256 ? head_dim / 256 : 1;
}

static inline size_t mlx_code_bytes(unsigned bits, unsigned head_dim)
{
    return bits == 4 ? head_dim / 2 : head_dim;
}

/* In files, bits are in sixteenths (doc/format.md). What is no whole number of bits becomes
 * 0, which no format has. */
static inline uint16_t format_stored_bits(const tqkv_format *f)
{
    return (uint16_t)(16 * f->bits);
}

static inline uint16_t format_bits_from(uint64_t stored)
{
    return (uint16_t)(stored % 16 ? 0 : stored / 16);
}

/* These expect a format that tqkv_format_check accepts. */
size_t format_code_bytes(const tqkv_format *format);
size_t format_scale_bytes(const tqkv_format *format);

#endif

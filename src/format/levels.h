/* Scalar codebooks as integers, which attention multiplies. */
#ifndef TQKV_FORMAT_LEVELS_H
#define TQKV_FORMAT_LEVELS_H

#include "tqkv.h"

/* Levels to a unit of value that round the centroids of N(0,1) with the least mean squared
 * error, of all that keep the largest within 127: .0003, .0011 and .0032 rms for lm2 to lm4,
 * .0032, .0058 and .0069 for mlx4 to mlx6 (tests/test_attend.c searches for better ones). */
static inline float levels_per_unit(unsigned codebook, unsigned bits)
{
    static const float lloyd[] = {66.2148f, 40.92529f, 38.21357f};
    static const float mlx[] = {38.21357f, 36.15995f, 31.30082f};
    return codebook == TQKV_CODEBOOK_MLX ? mlx[bits - 4] : lloyd[bits - 2];
}

#endif

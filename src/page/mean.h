/* A mean's bytes: head_dim signed levels, then a half-precision scale. */
#ifndef TQKV_PAGE_MEAN_H
#define TQKV_PAGE_MEAN_H

#include "common/f16.h"

enum { MEAN_SCALE_BYTES = 2 };

static inline size_t mean_bytes(uint32_t head_dim)
{
    return (size_t)head_dim + MEAN_SCALE_BYTES;
}

/* Which of n_means a row's number names: two bits of `numbers`; those that are not there
 * count as the last. */
static inline uint32_t mean_number(const uint8_t *numbers, size_t row, uint32_t n_means)
{
    uint32_t number = numbers[row / 4] >> row % 4 * 2 & 3;
    return number < n_means ? number : n_means - 1;
}

/* What levels are multiplied with. A scale that sealing does not write (negative, infinite,
 * NaN) counts as 0. */
static inline float mean_scale(const uint8_t *mean, uint32_t head_dim)
{
    uint16_t half = (uint16_t)(mean[head_dim] | mean[head_dim + 1] << 8);
    return half < 0x7C00 ? f16_to_f32(half) : 0;
}

/* A mean as floats: level times scale, exactly rounded. */
static inline void mean_to_floats(const uint8_t *mean, uint32_t head_dim, float *x)
{
    float scale = mean_scale(mean, head_dim);
    for (uint32_t i = 0; i < head_dim; i++)
        x[i] = (float)(int8_t)mean[i] * scale;
}

#endif

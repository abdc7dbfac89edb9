/* A mean's bytes: head_dim signed levels, then a half-precision scale. */
#ifndef TQKV_PAGE_MEAN_H
#define TQKV_PAGE_MEAN_H

#include "common/f16.h"

enum { MEAN_SCALE_BYTES = 2 };

static inline size_t mean_bytes(uint32_t head_dim)
{
    return (size_t)head_dim + MEAN_SCALE_BYTES;
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

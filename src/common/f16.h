/* Half precision by integer arithmetic: the same bits on every processor and
 * in every rounding mode. */
#ifndef TQKV_COMMON_F16_H
#define TQKV_COMMON_F16_H

#include <stdint.h>
#include <string.h>

#define F16_MAX 65504.0f

static inline uint32_t f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 0x1F, mantissa = half & 0x3FF;
    if (exponent == 0) /* zero and subnormals: mantissa * 2^-24, exact */
        return f32_from_bits(f32_bits((float)mantissa * 0x1p-24f) | sign);
    if (exponent == 31)
        return f32_from_bits(sign | 0x7F800000 | mantissa << 13);
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* To nearest, ties to even; overflow to infinity, NaN stays a NaN. */
static inline uint16_t f16_from_f32(float x)
{
    uint32_t bits = f32_bits(x), sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits >= 0x7F800000)
        return (uint16_t)(sign | 0x7C00 | (bits > 0x7F800000 ? 0x200 : 0));
    if (bits >= 0x477FF000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7C00);
    if (bits >= 0x38800000) { /* normal: rebias, then round 13 bits away */
        bits -= 112u << 23;
        return (uint16_t)(sign | (bits + 0xFFF + (bits >> 13 & 1)) >> 13);
    }
    if (bits < 0x33000000) /* under half of the smallest subnormal */
        return (uint16_t)sign;
    uint32_t shift = 126 - (bits >> 23); /* 14 to 24 */
    uint32_t mantissa = (bits & 0x7FFFFF) | 0x800000;
    uint32_t half = 1u << (shift - 1), odd = mantissa >> shift & 1;
    return (uint16_t)(sign | (mantissa + half - 1 + odd) >> shift);
}

static inline float bf16_to_f32(uint16_t x)
{
    return f32_from_bits((uint32_t)x << 16);
}

#endif

#include <string.h>

#include "common/f16.h"
#include "tqkv.h"

static uint16_t bf16_from_f32(float x)
{
    uint32_t bits = f32_bits(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

tqkv_status tqkv_to_f32(const void *src, tqkv_type type, size_t n, float *dst)
{
    const uint8_t *bytes = src;
    if (type != TQKV_F32 && type != TQKV_F16 && type != TQKV_BF16)
        return TQKV_ERROR_ARGUMENT;
    if (n == 0)
        return TQKV_OK;
    if (n > PTRDIFF_MAX / sizeof(float))
        return TQKV_ERROR_OVERFLOW;
    if (!src || !dst)
        return TQKV_ERROR_ARGUMENT;
    if (type == TQKV_F32) {
        memmove(dst, src, n * sizeof *dst);
        return TQKV_OK;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, sizeof half);
        dst[i] = type == TQKV_F16 ? f16_to_f32(half) : bf16_to_f32(half);
    }
    return TQKV_OK;
}

tqkv_status tqkv_from_f32(const float *src, size_t n, void *dst, tqkv_type type)
{
    uint8_t *bytes = dst;
    if (type != TQKV_F32 && type != TQKV_F16 && type != TQKV_BF16)
        return TQKV_ERROR_ARGUMENT;
    if (n == 0)
        return TQKV_OK;
    if (n > PTRDIFF_MAX / sizeof(float))
        return TQKV_ERROR_OVERFLOW;
    if (!src || !dst)
        return TQKV_ERROR_ARGUMENT;
    if (type == TQKV_F32) {
        memmove(dst, src, n * sizeof *src);
        return TQKV_OK;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half = type == TQKV_F16 ? f16_from_f32(src[i]) : bf16_from_f32(src[i]);
        memcpy(bytes + 2 * i, &half, sizeof half);
    }
    return TQKV_OK;
}

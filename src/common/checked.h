/* Size arithmetic that says when it overflows. */
#ifndef TQKV_COMMON_CHECKED_H
#define TQKV_COMMON_CHECKED_H

#include <stddef.h>
#include <stdint.h>

static inline int size_multiply(size_t a, size_t b, size_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

static inline int size_add(size_t a, size_t b, size_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

#endif

/* cmocka, and what the unit tests share. */
#ifndef TQKV_TESTS_TEST_H
#define TQKV_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tqkv.h"

/* splitmix64 */
static inline uint64_t test_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline float test_gaussian(uint64_t *state)
{
    double u = ((double)(test_random(state) >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(test_random(state) >> 11) + 0.5) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static inline float *test_rows(uint64_t seed, size_t n)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = test_gaussian(&seed);
    return x;
}

static inline tqkv_format test_format(const char *name, uint32_t head_dim)
{
    tqkv_format f;
    assert_int_equal(tqkv_format_parse(name, head_dim, &f), TQKV_OK);
    return f;
}

/* Encodes n rows into fresh memory that the caller frees. */
static inline uint8_t *test_encode(const tqkv_format *f, const float *balance, const float *x,
                                   size_t n, tqkv_rows *rows)
{
    size_t bytes;
    assert_int_equal(tqkv_format_row_bytes(f, &bytes), TQKV_OK);
    uint8_t *memory = calloc(n, bytes);
    assert_non_null(memory);
    assert_int_equal(tqkv_rows_at(f, memory, 0, rows), TQKV_OK);
    assert_int_equal(tqkv_encode(f, balance, x, TQKV_F32, 0, n, rows), TQKV_OK);
    return memory;
}

/* Mean squared error over mean square. */
static inline double test_error(const float *x, const float *y, size_t n)
{
    double error = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        square += (double)x[i] * x[i];
    }
    return error / square;
}

static const unsigned test_dims[] = {16,  32,  48,  64,  80,  96,  112, 128,  144, 160, 192,
                                     224, 256, 288, 320, 384, 448, 512, 576,  640, 768, 896,
                                     1024};
enum { TEST_N_DIMS = sizeof test_dims / sizeof *test_dims };

static const char *const test_names[] = {
    "tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8", "lm2", "lm3", "lm4"};
enum { TEST_N_NAMES = sizeof test_names / sizeof *test_names };

#endif

/* Reproducible Gaussian rows to measure with. */
#ifndef TQKV_COMMAND_SAMPLE_H
#define TQKV_COMMAND_SAMPLE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* splitmix64 and Box-Muller; enough for measuring errors and times. */
static inline double sample_uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

static inline void sample_gaussian(uint64_t *state, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double radius = sqrt(-2 * log(sample_uniform(state)));
        x[i] = (float)(radius * cos(6.283185307179586 * sample_uniform(state)));
    }
}

#endif

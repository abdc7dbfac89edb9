/* How far arrays are from each other. */
#ifndef TQKV_COMMAND_ERROR_H
#define TQKV_COMMAND_ERROR_H

#include <math.h>
#include <stddef.h>

/* |y - x| / |x| */
static inline double relative_error(const float *x, const float *y, size_t n)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        size += (double)x[i] * x[i];
    }
    return size > 0 ? sqrt(error / size) : error > 0 ? INFINITY : 0;
}

#endif

#pragma once
#include "mlx_table.h"
#include "real.h"
/* A row in the reference's layout. */

/* The number of midpoints below v; v on a midpoint goes down. */
INLINE uint mlx_nearest(uint bits, real v)
{
    uint index = 0;
    for (uint step = 1u << (bits - 1); step; step /= 2) {
        uint low = index + step - 1;
        real sum = real_add(real_from(mlx_centroid(bits, low)),
                            real_from(mlx_centroid(bits, low + 1)));
        if (real_greater(v, real_mul(sum, real_from(0.5f))))
            index += step;
    }
    return index;
}

INLINE void norm_store(GLOBAL uchar *p, float norm)
{
    uint bits = as_uint(norm);
    for (uint i = 0; i < 4; i++)
        p[i] = (uchar)(bits >> 8 * i);
}

/* x[dim], which is overwritten, has room for 17 numbers a block of 256 behind it.
 * All items of the group take part. */
INLINE void mlx_row_encode(LOCAL real *x, uint dim, uint bits, GLOBAL uchar *codes,
                           GLOBAL uchar *norms, uint item, uint n_items)
{
    uint block = dim > 256 ? 256 : dim, n_blocks = dim / block;
    LOCAL real *lanes = x + dim;
    LOCAL real *inverse = lanes + 16 * n_blocks;
    for (uint h = 1; h < dim; h *= 2) {
        for (uint k = item; k < dim / 2; k += n_items) {
            uint i = (k & ~(h - 1)) * 2 + (k & (h - 1));
            real low = x[i], high = x[i + h];
            x[i] = real_add(low, high);
            x[i + h] = real_sub(low, high);
        }
        BARRIER(n_items);
    }
    real root = real_sqrt(real_from((float)dim));
    for (uint i = item; i < dim; i += n_items)
        x[i] = real_div(x[i], root);
    BARRIER(n_items);
    for (uint k = item; k < 16 * n_blocks; k += n_items) {
        real sum = real_from(0);
        for (uint i = k / 16 * block + k % 16; i < (k / 16 + 1) * block; i += 16)
            sum = real_add(sum, real_mul(x[i], x[i]));
        lanes[k] = sum;
    }
    BARRIER(n_items);
    for (uint b = item; b < n_blocks; b += n_items) {
        real sum = real_from(0);
        for (uint j = 0; j < 16; j++)
            sum = real_add(sum, lanes[16 * b + j]);
        real norm = real_sqrt(dim > 256 ? real_div(sum, real_from((float)block)) : sum);
        real unit = dim > 256 ? norm : real_div(norm, root);
        bool is_zero = !real_greater(norm, real_from(1e-10f));
        inverse[b] = is_zero ? real_from(0) : real_div(real_from(1), unit);
        norm_store(norms + 4 * b, is_zero ? 0 : real_to_float(norm));
    }
    BARRIER(n_items);
    for (uint i = item; i < dim / 2; i += n_items) {
        uint b = 2 * i / block;
        uint low = mlx_nearest(bits, real_mul(x[2 * i], inverse[b]));
        uint high = mlx_nearest(bits, real_mul(x[2 * i + 1], inverse[b]));
        if (bits == 4) {
            codes[i] = (uchar)(low | high << 4);
        } else {
            codes[2 * i] = (uchar)low;
            codes[2 * i + 1] = (uchar)high;
        }
    }
}

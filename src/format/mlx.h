/* The codebooks of mlx-native's kernels, number for number. */
#ifndef TQKV_FORMAT_MLX_H
#define TQKV_FORMAT_MLX_H

/* Ascending centroids of 4, 5, 6 or 8 bits; null for other bits. */
const float *mlx_codebook(unsigned bits);

/* The number of midpoints below v, by branchless binary search: v on a
 * midpoint goes down, NaN to the lowest centroid. */
static inline unsigned mlx_nearest(const float *codebook, unsigned bits, double v)
{
    unsigned index = 0;
    for (unsigned step = 1u << (bits - 1); step; step /= 2) {
        unsigned low = index + step - 1;
        double midpoint = ((double)codebook[low] + codebook[low + 1]) / 2;
        index += v > midpoint ? step : 0;
    }
    return index;
}

#endif

/* The reference's kernels: one position by the parameters of
 * tq_dequantize_kv.metal, ranges of positions, and the round trip without a packed
 * buffer. */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "mlx_table.h"

/* Where 1 / sqrt(head_dim) belongs, and where not: see the reference. */
INLINE float mlx_scale(float norm, uint head_dim, float scale_factor)
{
    if (head_dim > 256)
        return norm / scale_factor;
    if (head_dim & (head_dim - 1))
        return norm * (1 / sqrtf((float)head_dim));
    float inverse_root = 1; /* to nearest: exact, but for the square root of 2 */
    for (; head_dim >= 4; head_dim /= 4)
        inverse_root *= 0.5f;
    return norm * (head_dim == 2 ? inverse_root * 0.70710678f : inverse_root);
}

/* One group for each KV head. */
KERNEL4(tq_dequantize_kv, tq_dequantize_kv_params, const uchar, packed, const float, norms,
        float, dst, uchar, unused)
{
    uint head = group_x, dim = p->head_dim;
    if (head >= p->num_kv_heads)
        return;
    ulong slot = (ulong)head * p->cache_capacity + p->read_pos;
    GLOBAL const uchar *codes = packed + slot * (dim / 2);
    GLOBAL const float *norm = norms + slot * p->norms_per_pos;
    for (uint i = item; i < dim; i += n_items) {
        uint block = dim > 256 ? i / 256 : 0;
        block = block < p->norms_per_pos ? block : p->norms_per_pos - 1;
        uint nibble = (uint)codes[i / 2] >> i % 2 * 4 & 15u;
        dst[(ulong)head * dim + i] = MLX_4[nibble] * mlx_scale(norm[block], dim, p->scale_factor_d512);
    }
}

KERNEL4(tq_dequantize_hb_kv, tq_dequantize_hb_kv_params, const uchar, packed, const float, norms,
        float, dst, uchar, unused)
{
    uint head = group_x, dim = p->head_dim;
    if (head >= p->num_kv_heads)
        return;
    ulong slot = (ulong)head * p->cache_capacity + p->read_pos;
    GLOBAL const uchar *codes = packed + slot * dim;
    GLOBAL const float *norm = norms + slot * p->norms_per_pos;
    for (uint i = item; i < dim; i += n_items) {
        uint block = dim > 256 ? i / 256 : 0;
        block = block < p->norms_per_pos ? block : p->norms_per_pos - 1;
        dst[(ulong)head * dim + i] = mlx_centroid(p->codebook_bits, codes[i]) *
                              mlx_scale(norm[block], dim, p->scale_factor_d512);
    }
}

INLINE ulong mlx_slot(PARAM const mlx_range_params *p, uint head, uint position)
{
    ulong place = (ulong)p->first + position;
    place = place < p->cache_capacity ? place : place - p->cache_capacity;
    return (ulong)head * p->cache_capacity + place;
}

/* group_y is the head; an item takes 16 bytes of results at a time, 4 or 8 values. */
KERNEL4(mlx_dequantize_range, mlx_range_params, const uchar, packed, const float, norms,
        uchar, dst, uchar, unused)
{
    LOCAL float *centroids = (LOCAL float *)local_memory;
#ifdef MLX_BITS
    uint dim = MLX_DIM, bits = MLX_BITS, each = MLX_EACH;
#else
    uint dim = p->head_dim, bits = p->bits, each = p->dst_type == TYPE_F32 ? 4 : 8;
#endif
    uint chunks = dim / each, mask = (1u << bits) - 1;
    for (uint i = item; i < 1u << bits; i += n_items)
        centroids[i] = mlx_centroid(bits, i);
    BARRIER(n_items);
    ulong n = (ulong)p->n_positions * chunks;
    for (uint round = 0; round < 4; round++) {
        ulong at = ((ulong)group_x * 4 + round) * n_items + item;
        if (at >= n)
            return;
        uint position = (uint)(at / chunks), chunk = (uint)(at % chunks), low, high = 0;
        ulong slot = mlx_slot(p, group_y, position);
        GLOBAL const uchar *codes =
            packed + slot * (bits == 4 ? dim / 2 : dim) + chunk * each * (bits == 4 ? 4 : 8) / 8;
        if (bits == 4 && each == 4) {
            low = p->words ? *(GLOBAL const ushort *)codes : codes[0] | (uint)codes[1] << 8;
        } else {
            low = word_load(codes, p->words);
            if (bits > 4 && each == 8)
                high = word_load(codes + 4, p->words);
        }
        float x[8], scale = mlx_scale(norms[slot * p->norms_per_pos +
                                            (dim > 256 ? chunk * each / 256 : 0)], dim,
                                      p->scale_factor_d512);
        UNROLL for (uint j = 0; j < 8; j++)
        {
            uint code = bits == 4 ? low >> 4 * j : j < 4 ? low >> 8 * j : high >> 8 * (j - 4);
            x[j] = centroids[code & mask] * scale;
        }
        ulong to = ((ulong)position * p->num_kv_heads + group_y) * dim + chunk * each;
        if (each == 8)
            numbers_store(dst, p->dst_type, to, p->wide, x);
        else if (p->wide)
            words_store(dst + 4 * to, as_uint(x[0]), as_uint(x[1]), as_uint(x[2]),
                        as_uint(x[3]));
        else
            for (uint j = 0; j < 4; j++)
                ((GLOBAL float *)dst)[to + j] = x[j];
    }
}

/* A float is above a midpoint if it is above the largest float that is not. */
INLINE float requantized(uint bits, float v, LOCAL const float *thresholds,
                         LOCAL const float *centroids)
{
    uint index = 0;
    UNROLL for (uint step = 1u << (bits - 1); step; step /= 2)
        index += v > thresholds[index + step - 1] ? step : 0;
    return centroids[index];
}

KERNEL2(requantize_to_f32_hb, requantize_params, const float, src, float, dst)
{
    LOCAL float *centroids = (LOCAL float *)local_memory;
    LOCAL float *thresholds = centroids + 256;
#ifdef REQUANTIZE_BITS
    uint bits = REQUANTIZE_BITS;
#else
    uint bits = p->bits;
#endif
    uint n_centroids = 1u << bits;
    for (uint i = item; i < n_centroids; i += n_items) {
        centroids[i] = mlx_centroid(bits, i);
        if (i > 0)
            thresholds[i - 1] = bits == 4   ? MLX_ABOVE_4[i - 1]
                                : bits == 5 ? MLX_ABOVE_5[i - 1]
                                : bits == 6 ? MLX_ABOVE_6[i - 1]
                                               : MLX_ABOVE_8[i - 1];
    }
    BARRIER(n_items);
    for (uint round = 0; round < 4; round++) {
        ulong at = ((((ulong)group_y * 65535 + group_x) * 4 + round) * n_items + item) * 4;
        if (at >= p->n)
            return;
        if (p->wide && at + 4 <= p->n) {
            uint w[4];
            words_load((GLOBAL const uchar *)(src + at), w);
            UNROLL for (uint j = 0; j < 4; j++)
                w[j] = as_uint(requantized(bits, as_float(w[j]), thresholds, centroids));
            words_store((GLOBAL uchar *)(dst + at), w[0], w[1], w[2], w[3]);
        } else {
            for (uint j = 0; j < 4 && at + j < p->n; j++)
                dst[at + j] = requantized(bits, src[at + j], thresholds, centroids);
        }
    }
}

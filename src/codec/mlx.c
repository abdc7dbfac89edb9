/* The reference's own calls: whole caches of heads in the mlx layout. */
#include <math.h>
#include <string.h>

#include "codec/kernels.h"
#include "common/checked.h"
#include "format/format.h"
#include "format/mlx.h"

static tqkv_status check_shape(const tqkv_mlx_shape *s)
{
    if (!s)
        return TQKV_ERROR_ARGUMENT;
    if (s->bits != 4 && s->bits != 5 && s->bits != 6 && s->bits != 8)
        return TQKV_ERROR_BITS;
    if (s->n_kv_heads == 0 || s->head_dim == 0)
        return TQKV_OK;
    if (s->head_dim & (s->head_dim - 1))
        return TQKV_ERROR_HEAD_DIM_POWER;
    if (s->head_dim < 16 || s->head_dim > TQKV_MAX_HEAD_DIM)
        return TQKV_ERROR_HEAD_DIM_RANGE;
    return TQKV_OK;
}

static int is_empty(const tqkv_mlx_shape *s)
{
    return s->n_kv_heads == 0 || s->head_dim == 0;
}

tqkv_status tqkv_mlx_sizes(const tqkv_mlx_shape *s, size_t *packed_bytes,
                           size_t *n_norms)
{
    tqkv_status status = check_shape(s);
    if (status != TQKV_OK)
        return status;
    if (!packed_bytes || !n_norms)
        return TQKV_ERROR_ARGUMENT;
    size_t rows, packed, norms, norm_bytes;
    if (!size_multiply(s->n_kv_heads, s->capacity, &rows) ||
        !size_multiply(rows, mlx_code_bytes(s->bits, s->head_dim), &packed) ||
        !size_multiply(rows, mlx_norms_per_position(s->head_dim), &norms) ||
        !size_multiply(norms, sizeof(float), &norm_bytes))
        return TQKV_ERROR_OVERFLOW;
    *packed_bytes = packed;
    *n_norms = norms;
    return TQKV_OK;
}

/* Shape, positions and sizes of a call that is not empty. */
static tqkv_status check_positions(const tqkv_mlx_shape *s, size_t first,
                                   size_t n_positions, size_t *n_elements)
{
    size_t packed, norms, last;
    tqkv_status status = tqkv_mlx_sizes(s, &packed, &norms);
    if (status != TQKV_OK)
        return status;
    if (n_positions > s->capacity)
        return TQKV_ERROR_ARGUMENT;
    if (!size_add(first, n_positions, &last) ||
        !size_multiply(s->n_kv_heads, s->head_dim, n_elements) ||
        !size_multiply(*n_elements, n_positions, n_elements) ||
        *n_elements > PTRDIFF_MAX / sizeof(float))
        return TQKV_ERROR_OVERFLOW;
    return TQKV_OK;
}

tqkv_status tqkv_mlx_encode(const tqkv_mlx_shape *s, const float *src, size_t first,
                            size_t n_positions, uint8_t *packed, float *norms)
{
    size_t n_elements;
    tqkv_status status = check_shape(s);
    if (status != TQKV_OK || is_empty(s))
        return status;
    status = check_positions(s, first, n_positions, &n_elements);
    if (status != TQKV_OK || n_positions == 0)
        return status;
    if (!src || !packed || !norms)
        return TQKV_ERROR_ARGUMENT;
    const codec_kernels *k = codec_kernels_get();
    const float *codebook = mlx_codebook(s->bits);
    size_t code_bytes = mlx_code_bytes(s->bits, s->head_dim);
    size_t per_position = mlx_norms_per_position(s->head_dim);
    for (size_t p = 0; p < n_positions; p++)
        for (size_t h = 0; h < s->n_kv_heads; h++) {
            size_t slot = h * s->capacity + (first + p) % s->capacity;
            k->mlx_encode(src + (p * s->n_kv_heads + h) * s->head_dim, s->head_dim,
                          s->bits, codebook, packed + slot * code_bytes,
                          norms + slot * per_position);
        }
    return TQKV_OK;
}

tqkv_status tqkv_mlx_decode(const tqkv_mlx_shape *s, const uint8_t *packed,
                            const float *norms, size_t first, size_t n_positions,
                            float scale_factor_d512, float *dst, size_t dst_elements)
{
    size_t n_elements;
    tqkv_status status = check_shape(s);
    if (status != TQKV_OK || is_empty(s))
        return status;
    status = check_positions(s, first, n_positions, &n_elements);
    if (status != TQKV_OK)
        return status;
    if (!isfinite(scale_factor_d512) || scale_factor_d512 == 0)
        return TQKV_ERROR_ARGUMENT;
    if (dst_elements < n_elements)
        return TQKV_ERROR_BUFFER;
    if (n_positions == 0)
        return TQKV_OK;
    if (!packed || !norms || !dst)
        return TQKV_ERROR_ARGUMENT;
    const codec_kernels *k = codec_kernels_get();
    const float *codebook = mlx_codebook(s->bits);
    size_t code_bytes = mlx_code_bytes(s->bits, s->head_dim);
    size_t per_position = mlx_norms_per_position(s->head_dim);
    for (size_t p = 0; p < n_positions; p++)
        for (size_t h = 0; h < s->n_kv_heads; h++) {
            size_t slot = h * s->capacity + (first + p) % s->capacity;
            k->mlx_decode(packed + slot * code_bytes, norms + slot * per_position,
                          s->head_dim, s->bits, codebook, scale_factor_d512,
                          dst + (p * s->n_kv_heads + h) * s->head_dim);
        }
    return TQKV_OK;
}

tqkv_status tqkv_mlx_requantize(uint32_t bits, const float *src, size_t n, float *dst)
{
    const float *codebook = mlx_codebook(bits);
    if (!codebook)
        return TQKV_ERROR_BITS;
    if (n == 0)
        return TQKV_OK;
    if (n > PTRDIFF_MAX / sizeof(float))
        return TQKV_ERROR_OVERFLOW;
    if (!src || !dst)
        return TQKV_ERROR_ARGUMENT;
    for (size_t i = 0; i < n; i++)
        dst[i] = codebook[mlx_nearest(codebook, bits, src[i])];
    return TQKV_OK;
}

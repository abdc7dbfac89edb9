#include "codec/row.h"

#include <string.h>

#include "common/checked.h"
#include "format/format.h"
#include "format/mlx.h"
#include "format/profile.h"

static tqkv_status check_extent(size_t stride, size_t n_rows, size_t row)
{
    size_t extent;
    if (n_rows > 1 && stride < row)
        return TQKV_ERROR_BUFFER;
    if (!size_multiply(n_rows, stride, &extent) || !size_add(extent, row, &extent) ||
        extent > PTRDIFF_MAX)
        return TQKV_ERROR_OVERFLOW;
    return TQKV_OK;
}

static tqkv_status check_rows(const row_codec *c, const tqkv_rows *rows,
                              size_t n_rows)
{
    if (!rows)
        return TQKV_ERROR_ARGUMENT;
    if (n_rows == 0)
        return TQKV_OK;
    if (!rows->codes || !rows->scales)
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = check_extent(rows->code_stride, n_rows, c->code_bytes);
    if (status == TQKV_OK)
        status = check_extent(rows->scale_stride, n_rows, c->scale_bytes);
    return status;
}

tqkv_status row_codec_init(row_codec *c, const tqkv_format *format, const float *balance,
                           const tqkv_rows *rows, size_t n_rows)
{
    tqkv_status status = tqkv_format_check(format);
    if (status != TQKV_OK)
        return status;
    c->format = *format;
    c->code_bytes = format_code_bytes(format);
    c->scale_bytes = format_scale_bytes(format);
    status = check_rows(c, rows, n_rows);
    if (status == TQKV_OK && balance && !balance_is_valid(balance, format->head_dim))
        status = TQKV_ERROR_PROFILE;
    if (status != TQKV_OK)
        return status;
    c->kernels = codec_kernels_get();
    rotation_init(&c->rotation, format->head_dim, format->rotation);
    c->lloyd = format->codebook == TQKV_CODEBOOK_LLOYD_MAX ? lloyd_code_of(format->bits) : NULL;
    c->mlx_codebook = format->codebook == TQKV_CODEBOOK_MLX ? mlx_codebook(format->bits) : NULL;
    if (!c->mlx_codebook)
        stream_plan_init(&c->stream, format);
    return TQKV_OK;
}

void balance_row(const float *balance, unsigned n, float *x)
{
    for (unsigned i = 0; balance && i < n; i++)
        x[i] *= balance[i];
}

void unbalance_row(const float *balance, unsigned n, float *x)
{
    for (unsigned i = 0; balance && i < n; i++)
        x[i] /= balance[i];
}

tqkv_status row_extent(const tqkv_format *format, size_t stride_elements,
                       size_t n_rows, size_t element, size_t *stride)
{
    size_t elements = stride_elements ? stride_elements : format->head_dim;
    if (!size_multiply(elements, element, stride))
        return TQKV_ERROR_OVERFLOW;
    return check_extent(*stride, n_rows, format->head_dim * element);
}

void rotate_row(const codec_kernels *k, const rotation *r, float *x)
{
    if (!r->active)
        return;
    if (r->has_signs)
        flip_signs(r, x);
    k->hadamard(x, r, 0, r->inverse_root);
}

void unrotate_row(const codec_kernels *k, const rotation *r, float factor, float *x)
{
    k->hadamard(x, r, 1, factor);
    if (r->has_signs)
        flip_signs(r, x);
}

void flip_signs(const rotation *r, float *x)
{
    for (unsigned i = 0; i < r->head_dim; i++)
        x[i] = r->signs[i / 64] >> i % 64 & 1 ? -x[i] : x[i];
}

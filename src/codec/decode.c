#include <string.h>

#include "codec/row.h"
#include "common/f16.h"

static void decode_mlx(const row_codec *c, const uint8_t *codes,
                       const uint8_t *scale, tqkv_domain domain, float *dst)
{
    float norms[MAX_DIM / 256];
    memcpy(norms, scale, c->scale_bytes);
    c->kernels->mlx_decode(codes, norms, c->format.head_dim, c->format.bits,
                           c->mlx_codebook, 1, dst);
    if (domain == TQKV_ORIGINAL)
        unrotate_row(c->kernels, &c->rotation, c->rotation.inverse_root, dst);
}

/* The scale is applied after the inverse rotation, whose sums of levels are
 * then exact. */
static void decode_stream(const row_codec *c, const uint8_t *codes, uint16_t half,
                          tqkv_domain domain, float *dst)
{
    int8_t levels[MAX_DIM];
    unsigned n = c->format.head_dim;
    int rotated = domain == TQKV_ORIGINAL && c->rotation.active;
    float scale = f16_to_f32(half);
    float first = rotated ? 1 : scale;
    c->kernels->levels(codes, &c->stream, levels);
    if (c->lloyd)
        c->kernels->lloyd_values(levels, n, c->lloyd, first, dst);
    else
        c->kernels->scale_levels(levels, n, first, dst);
    if (rotated)
        unrotate_row(c->kernels, &c->rotation, scale * c->rotation.inverse_root, dst);
}

void row_decode(const row_codec *c, const uint8_t *codes, const uint8_t *scale, tqkv_domain domain,
                float *x)
{
    if (c->mlx_codebook)
        decode_mlx(c, codes, scale, domain, x);
    else
        decode_stream(c, codes, (uint16_t)(scale[0] | scale[1] << 8), domain, x);
}

tqkv_status tqkv_decode(const tqkv_format *format, const float *balance, const tqkv_rows *rows,
                        size_t n_rows, tqkv_domain domain, float *dst, size_t dst_stride)
{
    row_codec c;
    tqkv_status status = row_codec_init(&c, format, balance, rows, n_rows);
    if (status != TQKV_OK)
        return status;
    if (domain != TQKV_ORIGINAL && domain != TQKV_ROTATED)
        return TQKV_ERROR_ARGUMENT;
    size_t stride;
    status = row_extent(format, dst_stride, n_rows, sizeof *dst, &stride);
    if (status != TQKV_OK || n_rows == 0)
        return status;
    if (!dst)
        return TQKV_ERROR_ARGUMENT;
    for (size_t r = 0; r < n_rows; r++) {
        float *x = dst + r * (stride / sizeof *dst);
        row_decode(&c, rows->codes + r * rows->code_stride, rows->scales + r * rows->scale_stride,
                   domain, x);
        if (domain == TQKV_ORIGINAL)
            unbalance_row(balance, format->head_dim, x);
    }
    return TQKV_OK;
}

tqkv_status tqkv_rotate(const tqkv_format *format, const float *src,
                        size_t src_stride, size_t n_rows, float *dst,
                        size_t dst_stride)
{
    row_codec c;
    size_t in, out;
    tqkv_status status = tqkv_format_check(format);
    if (status == TQKV_OK)
        status = row_extent(format, src_stride, n_rows, sizeof *src, &in);
    if (status == TQKV_OK)
        status = row_extent(format, dst_stride, n_rows, sizeof *dst, &out);
    if (status != TQKV_OK || n_rows == 0)
        return status;
    if (!src || !dst)
        return TQKV_ERROR_ARGUMENT;
    c.kernels = codec_kernels_get();
    rotation_init(&c.rotation, format->head_dim, format->rotation);
    for (size_t r = 0; r < n_rows; r++) {
        float *x = dst + r * (out / sizeof *dst);
        memmove(x, src + r * (in / sizeof *src), format->head_dim * sizeof *x);
        rotate_row(c.kernels, &c.rotation, x);
    }
    return TQKV_OK;
}

#include "format/format.h"

#include <stdio.h>
#include <string.h>

enum { MIN_HEAD_DIM = 16, HEAD_DIM_STEP = 16 };

static tqkv_status check_head_dim(uint32_t head_dim)
{
    if (head_dim < MIN_HEAD_DIM || head_dim > TQKV_MAX_HEAD_DIM)
        return TQKV_ERROR_HEAD_DIM_RANGE;
    if (head_dim % HEAD_DIM_STEP)
        return TQKV_ERROR_HEAD_DIM_STEP;
    uint32_t odd = head_dim;
    while (odd % 2 == 0)
        odd /= 2;
    return odd > 9 ? TQKV_ERROR_HEAD_DIM_ODD : TQKV_OK;
}

static tqkv_status check_mlx(const tqkv_format *f)
{
    if (f->bits != 4 && f->bits != 5 && f->bits != 6 && f->bits != 8)
        return TQKV_ERROR_BITS;
    if (f->head_dim & (f->head_dim - 1))
        return TQKV_ERROR_HEAD_DIM_POWER;
    if (f->layout != TQKV_LAYOUT_SPLIT || f->rotation != TQKV_ROTATION_HADAMARD)
        return TQKV_ERROR_FORMAT;
    return TQKV_OK;
}

tqkv_status tqkv_format_check(const tqkv_format *f)
{
    if (!f)
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = check_head_dim(f->head_dim);
    if (status != TQKV_OK)
        return status;
    if (f->reserved)
        return TQKV_ERROR_FORMAT;
    if (f->codebook == TQKV_CODEBOOK_MLX)
        return check_mlx(f);
    if (f->layout != TQKV_LAYOUT_ROW ||
        f->rotation > TQKV_ROTATION_SIGNED_HADAMARD)
        return TQKV_ERROR_FORMAT;
    if (f->codebook == TQKV_CODEBOOK_TRELLIS)
        return f->bits >= 2 && f->bits <= 8 ? TQKV_OK : TQKV_ERROR_FORMAT;
    if (f->codebook == TQKV_CODEBOOK_LLOYD_MAX)
        return f->bits >= 2 && f->bits <= 4 ? TQKV_OK : TQKV_ERROR_FORMAT;
    return TQKV_ERROR_FORMAT;
}

tqkv_status tqkv_format_parse(const char *name, uint32_t head_dim,
                              tqkv_format *format)
{
    static const struct {
        const char *prefix;
        uint8_t codebook, layout;
    } families[] = {
        {"tq", TQKV_CODEBOOK_TRELLIS, TQKV_LAYOUT_ROW},
        {"lm", TQKV_CODEBOOK_LLOYD_MAX, TQKV_LAYOUT_ROW},
        {"mlx", TQKV_CODEBOOK_MLX, TQKV_LAYOUT_SPLIT},
    };
    if (!name || !format)
        return TQKV_ERROR_ARGUMENT;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        size_t length = strlen(families[i].prefix);
        if (strncmp(name, families[i].prefix, length))
            continue;
        tqkv_format f = {.codebook = families[i].codebook,
                         .layout = families[i].layout,
                         .rotation = TQKV_ROTATION_HADAMARD};
        const char *rest = name + length;
        if (*rest < '2' || *rest > '8')
            return TQKV_ERROR_FORMAT_NAME;
        f.bits = (uint16_t)(*rest++ - '0');
        if (!strcmp(rest, "s"))
            f.rotation = TQKV_ROTATION_SIGNED_HADAMARD;
        else if (!strcmp(rest, "n"))
            f.rotation = TQKV_ROTATION_NONE;
        else if (*rest)
            return TQKV_ERROR_FORMAT_NAME;
        tqkv_status status = check_head_dim(head_dim);
        if (status != TQKV_OK)
            return status;
        f.head_dim = (uint16_t)head_dim;
        status = tqkv_format_check(&f);
        if (status == TQKV_ERROR_FORMAT || status == TQKV_ERROR_BITS)
            return TQKV_ERROR_FORMAT_NAME;
        if (status == TQKV_OK)
            *format = f;
        return status;
    }
    return TQKV_ERROR_FORMAT_NAME;
}

tqkv_status tqkv_format_name(const tqkv_format *f, char *name, size_t size)
{
    static const char *const prefix[] = {"", "tq", "lm", "mlx"};
    static const char *const suffix[] = {"n", "", "s"};
    char text[TQKV_FORMAT_NAME_SIZE];
    tqkv_status status = tqkv_format_check(f);
    if (status != TQKV_OK)
        return status;
    if (!name)
        return TQKV_ERROR_ARGUMENT;
    int length = snprintf(text, sizeof text, "%s%u%s", prefix[f->codebook], (unsigned)f->bits,
                          suffix[f->rotation]);
    if ((size_t)length >= size)
        return TQKV_ERROR_BUFFER;
    memcpy(name, text, (size_t)length + 1);
    return TQKV_OK;
}

size_t format_code_bytes(const tqkv_format *f)
{
    if (f->codebook == TQKV_CODEBOOK_MLX)
        return mlx_code_bytes(f->bits, f->head_dim);
    return f->head_dim * (size_t)f->bits / 8;
}

size_t format_scale_bytes(const tqkv_format *f)
{
    if (f->codebook == TQKV_CODEBOOK_MLX)
        return mlx_norms_per_position(f->head_dim) * sizeof(float);
    return sizeof(uint16_t);
}

tqkv_status tqkv_format_code_bytes(const tqkv_format *f, size_t *bytes)
{
    tqkv_status status = tqkv_format_check(f);
    if (status == TQKV_OK && !bytes)
        status = TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        *bytes = format_code_bytes(f);
    return status;
}

tqkv_status tqkv_format_scale_bytes(const tqkv_format *f, size_t *bytes)
{
    tqkv_status status = tqkv_format_check(f);
    if (status == TQKV_OK && !bytes)
        status = TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        *bytes = format_scale_bytes(f);
    return status;
}

tqkv_status tqkv_format_row_bytes(const tqkv_format *f, size_t *bytes)
{
    tqkv_status status = tqkv_format_check(f);
    if (status == TQKV_OK && !bytes)
        status = TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        *bytes = format_code_bytes(f) + format_scale_bytes(f);
    return status;
}

tqkv_status tqkv_rows_at(const tqkv_format *f, void *base, size_t stride, tqkv_rows *rows)
{
    tqkv_status status = tqkv_format_check(f);
    if (status != TQKV_OK)
        return status;
    if (!base || !rows)
        return TQKV_ERROR_ARGUMENT;
    size_t codes = format_code_bytes(f), row = codes + format_scale_bytes(f);
    if (stride == 0)
        stride = row;
    if (stride < row)
        return TQKV_ERROR_BUFFER;
    uint8_t *bytes = base;
    rows->codes = bytes;
    rows->scales = bytes + codes;
    rows->code_stride = rows->scale_stride = stride;
    return TQKV_OK;
}

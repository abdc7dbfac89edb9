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
    if (f->rate != 64 && f->rate != 80 && f->rate != 96 && f->rate != 128)
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
        return f->rate >= 32 && f->rate <= 128 ? TQKV_OK : TQKV_ERROR_FORMAT;
    if (f->codebook == TQKV_CODEBOOK_LLOYD_MAX)
        return f->rate == 32 || f->rate == 48 || f->rate == 64
                   ? TQKV_OK
                   : TQKV_ERROR_FORMAT;
    return TQKV_ERROR_FORMAT;
}

/* Reads "4", "4.25" ... as sixteenths; returns where it stopped, or null if
 * there is no such number. Four decimals reach every sixteenth. */
static const char *parse_rate(const char *text, uint16_t *rate)
{
    if (*text < '2' || *text > '8')
        return NULL;
    unsigned ten_thousandths = (unsigned)(*text++ - '0') * 10000;
    if (*text == '.') {
        unsigned weight = 1000, digits = 0;
        for (text++; *text >= '0' && *text <= '9'; text++, digits++) {
            ten_thousandths += (unsigned)(*text - '0') * weight;
            if (!weight && *text != '0')
                return NULL;
            weight /= 10;
        }
        if (!digits)
            return NULL;
    }
    if (ten_thousandths % 625)
        return NULL;
    *rate = (uint16_t)(ten_thousandths / 625);
    return text;
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
        const char *rest = parse_rate(name + length, &f.rate);
        if (!rest)
            return TQKV_ERROR_FORMAT_NAME;
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
    int length = snprintf(text, sizeof text, "%s%u", prefix[f->codebook],
                          f->rate / 16u);
    if (f->rate % 16) {
        char decimals[5];
        snprintf(decimals, sizeof decimals, "%04u", f->rate % 16u * 625);
        for (int end = 3; end > 0 && decimals[end] == '0'; end--)
            decimals[end] = 0;
        length += snprintf(text + length, sizeof text - (size_t)length, ".%s",
                           decimals);
    }
    length += snprintf(text + length, sizeof text - (size_t)length, "%s",
                       suffix[f->rotation]);
    if ((size_t)length >= size)
        return TQKV_ERROR_BUFFER;
    memcpy(name, text, (size_t)length + 1);
    return TQKV_OK;
}

size_t format_code_bytes(const tqkv_format *f)
{
    if (f->codebook == TQKV_CODEBOOK_MLX)
        return mlx_code_bytes(f->rate / 16u, f->head_dim);
    return (f->head_dim / 16u * f->rate + 7) / 8;
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

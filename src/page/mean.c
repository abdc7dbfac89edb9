#include <math.h>
#include <string.h>

#include "common/f16.h"
#include "format/format.h"
#include "page/page.h"

enum { LARGEST_LEVEL = 127 };

/* The scale makes the largest magnitude the largest level; where rounding it to f16
 * makes it too small for that, or where it is f16's largest, levels are clamped. */
void mean_write(const float *x, uint32_t n, uint8_t *mean)
{
    float peak = 0;
    for (uint32_t i = 0; i < n; i++)
        peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
    float wanted = peak / LARGEST_LEVEL;
    uint16_t half = f16_from_f32(wanted > F16_MAX ? F16_MAX : wanted);
    float scale = f16_to_f32(half);
    for (uint32_t i = 0; i < n; i++) {
        float level = half ? rintf(x[i] / scale) : 0;
        level = level > LARGEST_LEVEL ? LARGEST_LEVEL : level;
        mean[i] = (uint8_t)(int8_t)(level < -LARGEST_LEVEL ? -LARGEST_LEVEL : level);
    }
    mean[n] = (uint8_t)half;
    mean[n + 1] = (uint8_t)(half >> 8);
}

/* ---- choices ---- */

static uint8_t *sign_byte(const tqkv_format *f, uint8_t *scale)
{
    return scale + (f->codebook == TQKV_CODEBOOK_MLX ? sizeof(float) : sizeof(uint16_t)) - 1;
}

int scale_has_sign(const tqkv_format *f, const uint8_t *scale)
{
    return *sign_byte(f, (uint8_t *)scale) >> 7;
}

void scale_set_sign(const tqkv_format *f, uint8_t *scale, int sign)
{
    uint8_t *byte = sign_byte(f, scale);
    *byte = (uint8_t)((*byte & 0x7F) | sign << 7);
}

int page_choice(const tqkv_page *p, size_t row)
{
    if (!p->n_means || !scale_has_sign(&p->format, p->rows.scales + row * p->rows.scale_stride))
        return NO_MEAN;
    if (p->n_means == 1)
        return 0;
    return (int)mean_number(p->numbers, row, p->n_means);
}

void page_choose(const tqkv_page *p, size_t row, int number)
{
    uint8_t *scale = p->rows.scales + row * p->rows.scale_stride;
    if (!p->n_means)
        return;
    scale_set_sign(&p->format, scale, number != NO_MEAN);
    if (p->n_means > 1) {
        unsigned shift = row % 4 * 2, bits = number == NO_MEAN ? 0 : (unsigned)number;
        p->numbers[row / 4] = (uint8_t)((p->numbers[row / 4] & ~(3u << shift)) | bits << shift);
    }
}

/* Inside a page: means and choices. */
#ifndef TQKV_PAGE_PAGE_H
#define TQKV_PAGE_PAGE_H

#include "codec/row.h"
#include "tqkv_page.h"

enum { MEAN_SCALE_BYTES = 2, NUMBER_BYTES = TQKV_PAGE_TOKENS / 4, NO_MEAN = -1 };

static inline size_t mean_bytes(uint32_t head_dim)
{
    return (size_t)head_dim + MEAN_SCALE_BYTES;
}

static inline uint8_t *page_mean(const tqkv_page *p, unsigned number)
{
    return p->means + number * mean_bytes(p->format.head_dim);
}

/* ---- page.c ---- */

/* What is wrong with the page, or TQKV_OK. */
tqkv_status page_check(const tqkv_page *page);

/* ---- mean.c ---- */

/* A mean as floats: level times scale, exactly rounded. */
void mean_read(const uint8_t *mean, uint32_t head_dim, float *x);

/* Rounds x, finite, to a mean's bytes. */
void mean_write(const float *x, uint32_t head_dim, uint8_t *mean);

/* The number of the mean that a row has chosen, or NO_MEAN; numbers that the page does
 * not have count as its last. */
int page_choice(const tqkv_page *page, size_t row);

/* Marks the row, whose scale and codes are there, as having chosen a mean or none. */
void page_choose(const tqkv_page *page, size_t row, int number);

/* The sign of a row's scale (the first norm's, for mlx). */
int scale_has_sign(const tqkv_format *f, const uint8_t *scale);
void scale_set_sign(const tqkv_format *f, uint8_t *scale, int sign);

#endif

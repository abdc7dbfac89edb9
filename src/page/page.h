/* Inside a page: means and choices. */
#ifndef TQKV_PAGE_PAGE_H
#define TQKV_PAGE_PAGE_H

#include "codec/row.h"
#include "page/mean.h"
#include "tqkv_page.h"

enum { NUMBER_BYTES = TQKV_PAGE_TOKENS / 4, NO_MEAN = -1 };

static inline uint8_t *page_mean(const tqkv_page *p, unsigned number)
{
    return p->means + number * mean_bytes(p->format.head_dim);
}

/* The first n rows, 1 to 64, as tqkv_page_seal takes them. */
static inline uint64_t page_first_rows(size_t n)
{
    return ~(uint64_t)0 >> (TQKV_PAGE_TOKENS - n);
}

/* ---- page.c ---- */

/* What is wrong with the page, or TQKV_OK. */
tqkv_status page_check(const tqkv_page *page);

/* ---- mean.c ---- */

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

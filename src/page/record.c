/* Rows on the move from page to page. */
#include <string.h>

#include "format/format.h"
#include "page/page.h"

tqkv_status tqkv_page_record_bytes(const tqkv_format *format, int has_mean, size_t *bytes)
{
    tqkv_status status = tqkv_format_check(format);
    if (status != TQKV_OK)
        return status;
    if (!bytes)
        return TQKV_ERROR_ARGUMENT;
    *bytes = format_code_bytes(format) + format_scale_bytes(format) +
             (has_mean ? mean_bytes(format->head_dim) : 0);
    return TQKV_OK;
}

static tqkv_status check_page(const tqkv_page *page)
{
    row_codec c;
    tqkv_status status = page_check(page);
    return status == TQKV_OK
               ? row_codec_init(&c, &page->format, NULL, &page->rows, TQKV_PAGE_TOKENS)
               : status;
}

static tqkv_status check(const tqkv_page *page, size_t row, const void *record)
{
    tqkv_status status = check_page(page);
    if (status == TQKV_OK && (row >= TQKV_PAGE_TOKENS || !record))
        status = TQKV_ERROR_ARGUMENT;
    return status;
}

static uint8_t *codes_of(const tqkv_page *p, size_t row)
{
    return p->rows.codes + row * p->rows.code_stride;
}

static uint8_t *scale_of(const tqkv_page *p, size_t row)
{
    return p->rows.scales + row * p->rows.scale_stride;
}

tqkv_status tqkv_page_export(const tqkv_page *page, size_t row, void *record, size_t size)
{
    size_t needed;
    tqkv_status status = check(page, row, record);
    if (status == TQKV_OK)
        status = tqkv_page_record_bytes(&page->format, page->n_means > 0, &needed);
    if (status != TQKV_OK)
        return status;
    if (size < needed)
        return TQKV_ERROR_BUFFER;
    uint8_t *to = record;
    size_t codes = format_code_bytes(&page->format), scale = format_scale_bytes(&page->format);
    memcpy(to, codes_of(page, row), codes);
    memcpy(to + codes, scale_of(page, row), scale);
    if (page->n_means) {
        int number = page_choice(page, row);
        memcpy(to + codes + scale, page_mean(page, number == NO_MEAN ? 0 : (unsigned)number),
               mean_bytes(page->format.head_dim));
    }
    return TQKV_OK;
}

/* ---- importing ---- */

/* Bit m: some row other than this one has chosen mean m. */
static unsigned chosen_by_others(const tqkv_page *p, size_t row)
{
    unsigned chosen = 0;
    for (size_t r = 0; r < TQKV_PAGE_TOKENS; r++) {
        int number = r == row ? NO_MEAN : page_choice(p, r);
        chosen |= number == NO_MEAN ? 0 : 1u << number;
    }
    return chosen;
}

/* Where the mean is or can be put, or NO_MEAN. The first one is left to its page as
 * long as there is another place. */
static int place_for(const tqkv_page *p, size_t row, const uint8_t *mean)
{
    static const uint8_t zeros[MAX_DIM + MEAN_SCALE_BYTES];
    size_t bytes = mean_bytes(p->format.head_dim);
    for (unsigned m = 0; m < p->n_means; m++)
        if (!memcmp(page_mean(p, m), mean, bytes))
            return (int)m;
    unsigned chosen = chosen_by_others(p, row);
    if (p->n_means && !(chosen & 1) && !memcmp(p->means, zeros, bytes))
        return 0;
    for (unsigned m = p->n_means; m-- > 0;)
        if (!(chosen >> m & 1))
            return (int)m;
    return NO_MEAN;
}

/* The first mean, which rows that are written later are coded against, where it is not
 * there yet. */
static void adopt_mean(const tqkv_page *p, size_t row, const uint8_t *mean)
{
    static const uint8_t zeros[MAX_DIM + MEAN_SCALE_BYTES];
    size_t bytes = mean_bytes(p->format.head_dim);
    if (!(chosen_by_others(p, row) & 1) && !memcmp(p->means, zeros, bytes))
        memcpy(p->means, mean, bytes);
}

tqkv_status tqkv_page_import(const tqkv_page *page, size_t row, const void *record, size_t size)
{
    tqkv_status status = check(page, row, record);
    if (status != TQKV_OK)
        return status;
    const tqkv_format *f = &page->format;
    size_t codes = format_code_bytes(f), scale = format_scale_bytes(f);
    size_t mean = mean_bytes(f->head_dim);
    int has_mean = size == codes + scale + mean;
    if (!has_mean && size != codes + scale)
        return TQKV_ERROR_ARGUMENT;
    const uint8_t *from = record, *from_mean = from + codes + scale;
    int sign = scale_has_sign(f, from + codes), number = NO_MEAN;
    if (sign && !has_mean)
        return TQKV_ERROR_CORRUPT;
    if (sign) {
        number = place_for(page, row, from_mean);
        if (number == NO_MEAN)
            return TQKV_ERROR_BUFFER;
        memcpy(page_mean(page, (unsigned)number), from_mean, mean);
    } else if (has_mean && page->n_means) {
        adopt_mean(page, row, from_mean);
    }
    memcpy(codes_of(page, row), from, codes);
    memcpy(scale_of(page, row), from + codes, scale);
    page_choose(page, row, number);
    return TQKV_OK;
}

tqkv_status tqkv_page_copy(const tqkv_page *from, const tqkv_page *to)
{
    tqkv_status status = check_page(from);
    if (status == TQKV_OK)
        status = check_page(to);
    if (status != TQKV_OK)
        return status;
    const tqkv_format *a = &from->format, *b = &to->format;
    if (a->bits != b->bits || a->head_dim != b->head_dim || a->codebook != b->codebook ||
        a->rotation != b->rotation)
        return TQKV_ERROR_FORMAT;
    if (to->n_means < from->n_means)
        return TQKV_ERROR_BUFFER;
    size_t mean = mean_bytes(a->head_dim);
    if (to->n_means)
        memset(to->means, 0, to->n_means * mean);
    if (from->n_means)
        memcpy(to->means, from->means, from->n_means * mean);
    for (size_t r = 0; r < TQKV_PAGE_TOKENS; r++) {
        memcpy(codes_of(to, r), codes_of(from, r), format_code_bytes(a));
        memcpy(scale_of(to, r), scale_of(from, r), format_scale_bytes(a));
        page_choose(to, r, page_choice(from, r));
    }
    return TQKV_OK;
}

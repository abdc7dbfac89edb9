/*
 * tqkv - pages: rows that share a mean
 *
 * Neighbouring keys have much in common, and so have neighbouring values. A page
 * keeps that once: it holds the rows of 64 consecutive positions of one KV head,
 * keys or values, and their mean. A page begins *staged*: plain numbers, usually
 * f16, that its owner collects. When it is full, or when the owner wants it, it is
 * *sealed*: the mean is taken and rounded to 8 bits a value, and each row becomes
 * the codes either of itself or of its remainder, itself minus the mean, whichever
 * is smaller. The sign of the row's scale says which: that is the row's *choice*.
 *
 * Why rows have a choice: a row far from the others, such as the value of a prompt's
 * first token, which is nearly 0 and is attended by half of all weight, would
 * carry an error as large as the mean. doc/quality.md has the figures.
 *
 * A balance (tqkv.h) may stretch the values of keys: what is coded is then
 * balance[i] * row[i] or balance[i] * (row[i] - mean[i]). Means are never balanced.
 * The same balance has to be given to every call for a page.
 *
 *   tqkv_page page;
 *   tqkv_page_bytes(&tq4, 1, &bytes);             4354 bytes at head_dim 128
 *   tqkv_page_at(&tq4, 1, malloc(bytes), &page);
 *   tqkv_page_seal(&page, NULL, keys, TQKV_F16, 0, ~0ull);
 *   tqkv_page_read(&page, NULL, 0, 64, TQKV_ORIGINAL, decoded, 0);
 *
 * tqkv_attend reads sealed pages, and staged ones beside them, where they lie
 * (tqkv_attention.h); tqkv_cache.h fills them.
 *
 * The conventions of tqkv.h hold. A page's bytes are the caller's: a const page may
 * be read by many threads; different rows of a page with no more than one mean may be
 * written by tqkv_page_write in different threads, not imported. Sealing gives the same
 * bytes on every processor; doc/format.md, section 10, specifies them.
 */
#ifndef TQKV_PAGE_H
#define TQKV_PAGE_H

#include "tqkv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TQKV_PAGE_TOKENS = 64, /* rows of a page */
    TQKV_MAX_MEANS = 4     /* means of a page */
};

/* One KV head's page of keys or of values: where its parts lie. Fill it with
 * tqkv_page_at, or by hand where an engine lays out its memory itself. */
typedef struct tqkv_page {
    tqkv_format format;
    tqkv_rows rows; /* 64 of them */
    /* n_means means, head_dim + 2 bytes each, one after the other: head_dim signed
     * bytes, then a half-precision scale that all of them are multiplied with. A scale
     * that is negative, infinite or NaN counts as 0. */
    uint8_t *means;
    /* 0: rows have no choice, and the page is rows and nothing else. 1: what sealing
     * needs. 2 to TQKV_MAX_MEANS: room for rows that are imported from other pages. */
    uint32_t n_means;
    /* [16], null unless n_means is more than 1: which mean a row's choice means, two
     * bits a row, row 0 in the lowest bits of byte 0. 0 where a row does without. */
    uint8_t *numbers;
} tqkv_page;

/* Bytes of a page whose parts lie one after the other without gaps: 64 rows of codes,
 * 64 scales, n_means means and, if n_means is more than 1, the 16 bytes of numbers.
 * At n_means 1: 64 row_bytes + head_dim + 2. n_means: 0 to TQKV_MAX_MEANS. */
TQKV_API tqkv_status tqkv_page_bytes(const tqkv_format *format, uint32_t n_means, size_t *bytes);

/* A page whose parts lie so from base on. base needs no alignment, is not read, and
 * stays the caller's. A page of zero bytes is a page of rows that are 0. */
TQKV_API tqkv_status tqkv_page_at(const tqkv_format *format, uint32_t n_means, void *base,
                                  tqkv_page *page);

/* Seals the rows that are there: bit r of `present` is set if row r is, and ~0 says that the
 * page is full. (~0ull >> (64 - n) says that the
 * first n are, 1 to 64). Row r is head_dim values of the given type, r * src_stride elements behind
 * src (0: head_dim); those that are not there are not read. Takes the mean of the rows that
 * are there and makes codes of each. All other rows, further means and numbers become zero
 * bytes. balance is [head_dim], finite and positive (TQKV_ERROR_PROFILE otherwise), or null
 * for 1.
 *
 * Every input has a defined result, as in tqkv_encode. src and the page must not
 * overlap. `present` of 0: TQKV_ERROR_ARGUMENT. */
TQKV_API tqkv_status tqkv_page_seal(const tqkv_page *page, const float *balance, const void *src,
                                    tqkv_type type, size_t src_stride, uint64_t present);

/* Makes one row of a sealed page from head_dim values: codes of itself or of what is left
 * when one of the page's means is subtracted, whichever is smaller. The means stay as
 * they are. For tokens that follow a rollback, and for cells that are used again. */
TQKV_API tqkv_status tqkv_page_write(const tqkv_page *page, const float *balance, size_t row,
                                     const void *src, tqkv_type type);

/* Decodes rows first to first + n_rows - 1 to f32, dst_stride elements from row to row (0:
 * head_dim). TQKV_ORIGINAL gives rows as they were sealed: rotation, balance and mean
 * are undone. TQKV_ROTATED gives what is coded, rotated and balanced, without the mean. */
TQKV_API tqkv_status tqkv_page_read(const tqkv_page *page, const float *balance, size_t first,
                                    size_t n_rows, tqkv_domain domain, float *dst,
                                    size_t dst_stride);

/* ---- rows on the move ---- */

/* A *record* is one row on its own: its codes, its scale with the choice and, unless the
 * page has no means, the mean (head_dim + 2 bytes) that the row has chosen, or the page's
 * first if it has chosen none. It has no header: who sends it says what format it has, and
 * guards it against damage. */
TQKV_API tqkv_status tqkv_page_record_bytes(const tqkv_format *format, int has_mean,
                                            size_t *bytes);

/* Writes the record of a row of the page into record[size]; TQKV_ERROR_BUFFER if size is
 * less than tqkv_page_record_bytes says, with a mean if the page has any. */
TQKV_API tqkv_status tqkv_page_export(const tqkv_page *page, size_t row, void *record,
                                      size_t size);

/* Makes a row of the page from a record of exactly size bytes, of a page with means or of one
 * without. The row decodes to the same numbers as where it comes from, to the bit: nothing is
 * quantised a second time. Its mean is looked for among the page's; otherwise it takes the
 * place of one that no other row has chosen; where there is none, the result is
 * TQKV_ERROR_BUFFER, and the caller writes the decoded row with tqkv_page_write or moves
 * the page to one with more means (tqkv_page_copy). A record whose row has chosen none
 * leaves its mean behind only where the page's first mean is all zero bytes, so that a
 * page with one mean whose rows are imported one by one into zero bytes becomes the same
 * page; of a page with several, means may change their order.
 *
 * Records may come from anywhere: of any bytes some row is made, but for a row with
 * a choice and no mean (TQKV_ERROR_CORRUPT). */
TQKV_API tqkv_status tqkv_page_import(const tqkv_page *page, size_t row, const void *record,
                                      size_t size);

/* Copies all rows, means and choices to a page of the same format that has as many means or
 * more. The pages must not overlap. */
TQKV_API tqkv_status tqkv_page_copy(const tqkv_page *from, const tqkv_page *to);

#ifdef __cplusplus
}
#endif

#endif /* TQKV_PAGE_H */

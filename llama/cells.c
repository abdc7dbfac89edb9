#include "cells.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "reserve.h"

/* ---- life ---- */

static size_t places(const cells *c)
{
    return (size_t)c->n_streams * c->n_heads * c->n_pages;
}

/* What tells rows of one configuration from those of another. */
static uint64_t tag_of(const cells *c, uint64_t profile_id)
{
    char text[128], name[TQKV_FORMAT_NAME_SIZE] = "";
    tqkv_format_name(&c->format, name, sizeof name);
    int n = snprintf(text, sizeof text, "tqkv page rows 2 %s %u %s %016llx", name, c->head_dim,
                     c->is_key ? "keys" : "values",
                     c->balances ? (unsigned long long)profile_id : 0ull);
    return XXH64(text, (size_t)n, 0);
}

static const char *set_format(cells *c)
{
    tqkv_format f;
    if (tqkv_format_parse(c->settings->formats[c->is_key], c->head_dim, &f) != TQKV_OK)
        return "the format asked for does not exist for its head size";
    c->format = f;
    tqkv_format_code_bytes(&f, &c->code_bytes);
    c->block_bytes = PAGE * (c->code_bytes + sizeof(uint16_t));
    c->mean_bytes = c->head_dim + sizeof(uint16_t);
    tqkv_page_bytes(&f, TQKV_MAX_MEANS, &c->mixed_bytes);
    return NULL;
}

static int allocate(cells *c)
{
    size_t n = cells_pages(c);
    c->blocks = reserve_memory(places(c) * c->block_bytes);
    c->means = reserve_memory(places(c) * c->mean_bytes);
    c->pages = calloc(n, sizeof *c->pages);
    c->table = calloc(n, sizeof *c->table);
    c->staged = calloc(n, sizeof *c->staged);
    c->n_staged = calloc(c->n_streams, sizeof *c->n_staged);
    c->clock = calloc(c->n_streams, sizeof *c->clock);
    for (size_t i = 0; c->table && i < n; i++)
        c->table[i] = (uint32_t)(i % c->n_pages);
    return c->blocks && c->means && c->pages && c->table && c->staged && c->n_staged && c->clock;
}

const char *cells_learn(cells *c, uint32_t head_dim, uint32_t n_heads, float *balances,
                        uint64_t profile_id)
{
    if (c->n_heads) {
        free(balances);
        return c->head_dim == head_dim && c->n_heads == n_heads
                   ? NULL
                   : "attention reads it with two head sizes";
    }
    if (!head_dim || !n_heads || (size_t)head_dim * n_heads != c->row_values) {
        free(balances);
        return "attention reads other heads than its rows have";
    }
    c->head_dim = head_dim;
    const char *problem = set_format(c);
    if (problem) {
        free(balances);
        return problem;
    }
    c->n_heads = n_heads;
    c->n_pages = (c->n_cells + PAGE - 1) / PAGE;
    c->balances = balances;
    c->tag = tag_of(c, profile_id);
    if (allocate(c))
        return NULL;
    cells_free(c);
    return "there is no memory for its codes";
}

void cells_free(cells *c)
{
    if (c->n_heads) {
        reserve_free(c->blocks, places(c) * c->block_bytes);
        reserve_free(c->means, places(c) * c->mean_bytes);
        reserve_free(c->mixed, places(c) * c->mixed_bytes);
    }
    free(c->balances);
    free(c->pages);
    free(c->table);
    free(c->staged);
    free(c->n_staged);
    free(c->clock);
    free(c->slots);
    free(c->half);
    c->half = NULL;
    c->has_half = 0;
    c->blocks = c->means = c->mixed = NULL;
    c->balances = NULL;
    c->pages = NULL;
    c->table = c->staged = c->n_staged = c->clock = c->slots = NULL;
    c->n_slots = c->max_slots = c->n_foreign = 0;
    c->n_heads = 0;
}

void cells_clear(cells *c)
{
    if (!c->n_heads)
        return;
    for (size_t s = 0; s < c->n_streams; s++) {
        while (c->n_staged[s])
            cells_release(c, s * c->n_pages + c->staged[s * c->n_pages]);
        c->clock[s] = 0;
    }
    memset(c->pages, 0, cells_pages(c) * sizeof *c->pages);
    for (size_t i = 0; i < cells_pages(c); i++)
        c->table[i] = (uint32_t)(i % c->n_pages);
    reserve_zero(c->blocks, places(c) * c->block_bytes);
    reserve_zero(c->means, places(c) * c->mean_bytes);
    if (c->mixed)
        reserve_zero(c->mixed, places(c) * c->mixed_bytes);
    c->n_slots = c->n_foreign = 0;
    c->has_half = 0;
}

/* Two pages, since a token may be taken back over the border of the newest; where the cells
 * of several sequences lie in one stream more are being written at a time. */
uint32_t cells_quota(const cells *c)
{
    uint64_t quota = (c->n_streams > 1 ? 2u : 4u) + (uint64_t)c->settings->recent_pages;
    return quota < c->n_pages ? (uint32_t)quota : c->n_pages;
}

/* Before heads are known, as if each had 64 values. */
size_t cells_bytes(const cells *c)
{
    if (c->is_plain)
        return c->nominal_bytes;
    cells guess = *c;
    if (!c->n_heads) {
        guess.head_dim = c->row_values % 64 ? c->row_values : 64;
        guess.n_heads = c->row_values / guess.head_dim;
        guess.n_pages = (c->n_cells + PAGE - 1) / PAGE;
        if (guess.head_dim > TQKV_MAX_HEAD_DIM || set_format(&guess))
            return c->nominal_bytes;
    }
    return places(&guess) * (guess.block_bytes + guess.mean_bytes) +
           (size_t)c->n_streams * cells_quota(&guess) * PAGE * c->row_bytes;
}

/* ---- pages of codes ---- */

tqkv_page cells_codes(const cells *c, size_t page, uint32_t head)
{
    size_t at = cells_place(c, page / c->n_pages, head) + page % c->n_pages;
    tqkv_page p;
    if (c->pages[page].is_mixed) {
        tqkv_page_at(&c->format, TQKV_MAX_MEANS, c->mixed + at * c->mixed_bytes, &p);
        return p;
    }
    tqkv_page_at(&c->format, 1, c->blocks + at * c->block_bytes, &p);
    p.means = c->means + at * c->mean_bytes;
    return p;
}

int cells_mix(cells *c, size_t page)
{
    if (c->pages[page].is_mixed)
        return 1;
    if (!c->mixed && !(c->mixed = reserve_memory(places(c) * c->mixed_bytes)))
        return 0;
    for (uint32_t h = 0; h < c->n_heads; h++) {
        tqkv_page from = cells_codes(c, page, h), to;
        c->pages[page].is_mixed = 1;
        to = cells_codes(c, page, h);
        tqkv_page_copy(&from, &to);
        c->pages[page].is_mixed = 0;
    }
    c->pages[page].is_mixed = 1;
    if (!c->pages[page].is_staged)
        c->table[page] = cells_code_entry(c, page);
    return 1;
}

/* ---- staging ---- */

void cells_decode(const cells *c, size_t page, unsigned row, uint8_t *to)
{
    float values[TQKV_MAX_HEAD_DIM];
    for (uint32_t h = 0; h < c->n_heads; h++) {
        tqkv_page p = cells_codes(c, page, h);
        tqkv_page_read(&p, cells_balance(c, h), row, 1, TQKV_ORIGINAL, values, 0);
        tqkv_from_f32(values, c->head_dim, to + (size_t)h * c->head_dim * 2, TQKV_F16);
    }
}

static void decode_rows(const cells *c, size_t page, uint64_t rows)
{
    for (; rows; rows &= rows - 1)
        cells_decode(c, page, (unsigned)__builtin_ctzll(rows),
                     cells_nominal(c, cells_first_slot(c, page) + (size_t)__builtin_ctzll(rows)));
}

int cells_stage(cells *c, size_t page, uint64_t keep)
{
    cell_page *p = &c->pages[page];
    size_t stream = page / c->n_pages;
    if (p->is_staged)
        return 1;
    if (!reserve_open(cells_nominal(c, cells_first_slot(c, page)),
                      cells_rows_in(c, page) * c->row_bytes))
        return 0;
    p->coded = p->written & keep & ~p->foreign;
    decode_rows(c, page, p->coded);
    p->is_staged = 1;
    p->is_open = 1;
    p->is_stale = p->coded != p->written;
    p->stamp = ++c->clock[stream];
    c->staged[stream * c->n_pages + c->n_staged[stream]++] = (uint32_t)(page % c->n_pages);
    c->table[page] = cells_staged_entry(c, page);
    return 1;
}

void cells_note(cells *c, size_t page, unsigned row)
{
    cell_page *p = &c->pages[page];
    uint64_t bit = (uint64_t)1 << row;
    if (row == 0 && p->stamp != c->clock[page / c->n_pages])
        p->stamp = ++c->clock[page / c->n_pages];
    c->n_foreign -= p->foreign >> row & 1;
    p->written |= bit;
    p->coded &= ~bit;
    p->foreign &= ~bit;
    p->is_stale = 1;
    p->is_open = row + 1 != cells_rows_in(c, page);
}

int cells_reserve_slots(cells *c, size_t n)
{
    if (n > c->max_slots) {
        uint32_t *slots = realloc(c->slots, n * sizeof *slots);
        if (!slots)
            return 0;
        c->slots = slots;
        c->max_slots = n;
    }
    c->n_slots = n;
    return 1;
}

/* ---- sealing ---- */

static uint64_t fresh_rows(const cell_page *p)
{
    return p->written & ~p->coded & ~p->foreign;
}

int cells_seal_begin(cells *c, size_t page)
{
    cell_page *p = &c->pages[page];
    if (!p->coded)
        p->is_mixed = 0;
    return !p->coded || !fresh_rows(p) || cells_mix(c, page);
}

/* Codes for the rows that are new, beside those of rows that have some. */
static void add_fresh(cells *c, size_t page, uint32_t head, const void *rows, uint64_t fresh)
{
    uint8_t bytes[PAGE * (TQKV_MAX_HEAD_DIM + 4) + TQKV_MAX_HEAD_DIM + 2];
    uint8_t record[3 * TQKV_MAX_HEAD_DIM];
    tqkv_page own, whole = cells_codes(c, page, head);
    tqkv_page_at(&c->format, 1, bytes, &own);
    tqkv_page_seal(&own, cells_balance(c, head), rows, TQKV_F16, c->row_values, fresh);
    for (uint64_t left = fresh; left; left &= left - 1) /* they hold on to no mean */
        memset(whole.rows.scales + (size_t)__builtin_ctzll(left) * whole.rows.scale_stride, 0, 2);
    for (uint64_t left = fresh; left; left &= left - 1) {
        size_t row = (size_t)__builtin_ctzll(left), size;
        tqkv_page_record_bytes(&c->format, 1, &size);
        tqkv_page_export(&own, row, record, size);
        if (tqkv_page_import(&whole, row, record, size) != TQKV_OK)
            tqkv_page_write(&whole, cells_balance(c, head), row,
                            (const uint8_t *)rows + row * c->row_bytes, TQKV_F16);
    }
}

void cells_seal_head(cells *c, size_t page, uint32_t head)
{
    const cell_page *p = &c->pages[page];
    uint64_t fresh = fresh_rows(p);
    const uint8_t *rows = cells_nominal(c, cells_first_slot(c, page)) +
                          (size_t)head * c->head_dim * 2;
    if (!fresh)
        return;
    if (p->coded) {
        add_fresh(c, page, head, rows, fresh);
        return;
    }
    tqkv_page whole = cells_codes(c, page, head);
    tqkv_page_seal(&whole, cells_balance(c, head), rows, TQKV_F16, c->row_values, fresh);
}

void cells_seal_end(cells *c, size_t page)
{
    c->pages[page].is_stale = 0;
}

int cells_seal(cells *c, size_t page)
{
    if (!cells_seal_begin(c, page))
        return 0;
    for (uint32_t h = 0; h < c->n_heads; h++)
        cells_seal_head(c, page, h);
    cells_seal_end(c, page);
    return 1;
}

void cells_release(cells *c, size_t page)
{
    size_t stream = page / c->n_pages;
    uint32_t *list = c->staged + stream * c->n_pages, i = 0;
    while (list[i] != page % c->n_pages)
        i++;
    list[i] = list[--c->n_staged[stream]];
    c->pages[page].is_staged = 0;
    c->pages[page].is_open = 0;
    c->pages[page].coded = 0;
    c->table[page] = cells_code_entry(c, page);
    reserve_close(cells_nominal(c, cells_first_slot(c, page)),
                  cells_rows_in(c, page) * c->row_bytes);
}

size_t cells_oldest(const cells *c, size_t stream)
{
    const uint32_t *list = c->staged + stream * c->n_pages;
    const cell_page *pages = c->pages + stream * c->n_pages;
    uint32_t oldest = list[0];
    for (uint32_t i = 1; i < c->n_staged[stream]; i++)
        if (pages[list[i]].stamp < pages[oldest].stamp)
            oldest = list[i];
    return stream * c->n_pages + oldest;
}

int cells_make_plain(cells *c)
{
    if (c->is_plain)
        return 1;
    if (!reserve_open(c->nominal, c->nominal_bytes))
        return 0;
    for (size_t p = 0; c->n_heads && p < cells_pages(c); p++) {
        if (!c->pages[p].is_staged)
            decode_rows(c, p, c->pages[p].written & ~c->pages[p].foreign);
        for (uint64_t left = c->pages[p].foreign; left; left &= left - 1)
            cells_put_foreign(c, cells_nominal(c, cells_first_slot(c, p) +
                                                      (size_t)__builtin_ctzll(left)));
    }
    cells_free(c);
    c->is_plain = 1;
    return 1;
}

/* ---- attention's view ---- */

static tqkv_strides strides(size_t codes, size_t scales, size_t means, size_t numbers)
{
    return (tqkv_strides){.codes = codes, .scales = scales, .means = means, .numbers = numbers};
}

tqkv_operand cells_sealed_operand(const cells *c, size_t stream)
{
    size_t first = cells_place(c, stream, 0), b = c->block_bytes, m = c->mean_bytes;
    uint8_t *codes = c->blocks + first * b;
    return (tqkv_operand){
        .format = c->format,
        .rows = {.codes = codes, .scales = codes + PAGE * c->code_bytes,
                 .code_stride = c->code_bytes, .scale_stride = sizeof(uint16_t)},
        .means = c->means + first * m, .n_means = 1,
        .head = strides(b * c->n_pages, b * c->n_pages, m * c->n_pages, 0),
        .page = strides(b, b, m, 0), .balances = c->balances};
}

tqkv_operand cells_staged_operand(const cells *c, size_t stream)
{
    return (tqkv_operand){
        .format = {.head_dim = (uint16_t)c->head_dim}, .type = TQKV_F16,
        .rows = {.codes = cells_nominal(c, stream * c->n_cells), .code_stride = c->row_bytes},
        .head = strides((size_t)c->head_dim * 2, 0, 0, 0),
        .page = strides(PAGE * c->row_bytes, 0, 0, 0)};
}

tqkv_operand cells_mixed_operand(const cells *c, size_t stream)
{
    tqkv_page p;
    size_t n = c->mixed_bytes, heads = n * c->n_pages;
    tqkv_page_at(&c->format, TQKV_MAX_MEANS, c->mixed + cells_place(c, stream, 0) * n, &p);
    return (tqkv_operand){.format = c->format, .rows = p.rows, .means = p.means,
                          .numbers = p.numbers, .n_means = p.n_means,
                          .head = strides(heads, heads, heads, heads),
                          .page = strides(n, n, n, n)};
}

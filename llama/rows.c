/*
 * Rows as programs save and load them.
 *
 * llama.cpp saves caches as bytes of their tensors: of rows that are staged, the f16 numbers
 * that it believes in. A row of codes travels as itself in the bytes of its f16 numbers, head
 * by head, so that nothing is quantised a second time:
 *
 *   8 bytes   a tag: four f16 NaN, which say format and balances in their low bits
 *   then      the record (tqkv_page.h): codes, scale, mean
 *
 * Where a record is larger than that (tq8, whose mean would not fit), two rows side by side
 * that share their mean carry half of it each, and a row without such a neighbour travels as
 * the f16 numbers that it decodes to. A program without tqkv reads NaN, and shows it; tqkv
 * tells rows of another format by their tag, and attention that sees one fails.
 */
#include "cells.h"

#include <stdlib.h>
#include <string.h>

enum { TAG_BYTES = 8, SCALE_BYTES = 2, MAX_RECORD = 3 * TQKV_MAX_HEAD_DIM };

/* How a row travels; the codes' kinds stand in the tag. */
typedef enum row_kind { ROW_WHOLE, ROW_FIRST, ROW_SECOND, ROW_F16, ROW_FOREIGN } row_kind;

/* ---- tags ---- */

static void put_tag(const cells *c, row_kind kind, uint8_t *to)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned bits = (unsigned)(c->tag >> 9 * i & 0x1FF);
        bits = i == 0 ? bits | 1 : i == 3 ? (bits & ~3u) | (unsigned)kind : bits;
        to[2 * i] = (uint8_t)bits;
        to[2 * i + 1] = (uint8_t)(0x7E | bits >> 8);
    }
}

void cells_put_foreign(const cells *c, uint8_t *row)
{
    static const uint8_t tag[TAG_BYTES] = {1, 0x7E, 0, 0x7E, 0, 0x7E, 0, 0x7E};
    for (uint32_t h = 0; h < c->n_heads; h++)
        memcpy(row + (size_t)h * c->head_dim * 2, tag, sizeof tag);
}

/* A NaN that arithmetic made is 0x7E00 or 0xFE00 in ggml and in tqkv; the first half of a tag
 * has bit 0 set. */
static row_kind kind_of_tag(const cells *c, const uint8_t *row)
{
    uint8_t own[TAG_BYTES];
    for (row_kind kind = ROW_WHOLE; kind <= ROW_SECOND; kind++) {
        put_tag(c, kind, own);
        if (!memcmp(row, own, sizeof own))
            return kind;
    }
    int is_tag = (row[0] & 1) != 0;
    for (unsigned i = 0; i < 4; i++)
        is_tag &= (row[2 * i + 1] & 0xFE) == 0x7E;
    return is_tag ? ROW_FOREIGN : ROW_F16;
}

/* The same for all heads of a row, or foreign where they differ. */
static row_kind kind_of_row(const cells *c, const uint8_t *row)
{
    row_kind kind = kind_of_tag(c, row);
    for (uint32_t h = 1; h < c->n_heads; h++) {
        row_kind other = kind_of_tag(c, row + (size_t)h * c->head_dim * 2);
        if (other != kind)
            return ROW_FOREIGN;
    }
    return kind;
}

/* ---- sizes ---- */

static size_t row_codes(const cells *c)
{
    return c->code_bytes + SCALE_BYTES;
}

static size_t first_half(const cells *c)
{
    return (c->mean_bytes + 1) / 2;
}

static int fits(const cells *c, size_t mean)
{
    return TAG_BYTES + row_codes(c) + mean <= 2 * (size_t)c->head_dim;
}

/* ---- saving ---- */

static int has_row(const cells *c, size_t slot)
{
    return c->pages[cells_page_of(c, slot)].written >> cells_row_of(c, slot) & 1;
}

static int is_foreign(const cells *c, size_t slot)
{
    return c->pages[cells_page_of(c, slot)].foreign >> cells_row_of(c, slot) & 1;
}

/* Whether codes say what the row is: of a complete page also while it is staged. */
static int is_coded(const cells *c, size_t slot)
{
    const cell_page *p = &c->pages[cells_page_of(c, slot)];
    unsigned row = cells_row_of(c, slot);
    if (!has_row(c, slot) || is_foreign(c, slot))
        return 0;
    return !p->is_staged || p->coded >> row & 1 || (!p->is_open && !p->is_stale);
}

static void export_row(const cells *c, size_t slot, uint32_t head, uint8_t record[MAX_RECORD])
{
    tqkv_page p = cells_codes(c, cells_page_of(c, slot), head);
    tqkv_page_export(&p, cells_row_of(c, slot), record, MAX_RECORD);
}

static int share_means(const cells *c, size_t slot, size_t other)
{
    uint8_t a[MAX_RECORD], b[MAX_RECORD];
    if (cells_page_of(c, slot) != cells_page_of(c, other) || !is_coded(c, other))
        return 0;
    for (uint32_t h = 0; h < c->n_heads; h++) {
        export_row(c, slot, h, a);
        export_row(c, other, h, b);
        if (memcmp(a + row_codes(c), b + row_codes(c), c->mean_bytes))
            return 0;
    }
    return 1;
}

/* How a slot's row leaves; `before` is how the one before it did, end where the rows that are
 * asked for end. */
static row_kind kind_to_save(const cells *c, size_t slot, size_t end, row_kind before)
{
    if (before == ROW_FIRST)
        return ROW_SECOND;
    if (is_foreign(c, slot))
        return ROW_FOREIGN;
    if (!is_coded(c, slot))
        return ROW_F16;
    if (fits(c, c->mean_bytes))
        return ROW_WHOLE;
    return fits(c, first_half(c)) && slot + 1 < end && share_means(c, slot, slot + 1) ? ROW_FIRST
                                                                                     : ROW_F16;
}

static void save_codes(const cells *c, size_t slot, row_kind kind, uint8_t *to)
{
    uint8_t record[MAX_RECORD];
    size_t skip = kind == ROW_SECOND ? first_half(c) : 0;
    size_t n = kind == ROW_FIRST ? first_half(c) : c->mean_bytes - skip;
    for (uint32_t h = 0; h < c->n_heads; h++, to += (size_t)c->head_dim * 2) {
        export_row(c, slot, h, record);
        put_tag(c, kind, to);
        memcpy(to + TAG_BYTES, record, row_codes(c));
        memcpy(to + TAG_BYTES + row_codes(c), record + row_codes(c) + skip, n);
    }
}

static void save_f16(const cells *c, size_t slot, uint8_t *to)
{
    size_t page = cells_page_of(c, slot);
    if (has_row(c, slot) && c->pages[page].is_staged)
        memcpy(to, cells_nominal(c, slot), c->row_bytes);
    else if (has_row(c, slot))
        cells_decode(c, page, cells_row_of(c, slot), to);
}

/* Whole rows. */
static void save_rows(const cells *c, size_t slot, size_t end, uint8_t *to)
{
    row_kind kind = ROW_F16;
    for (; slot < end; slot++, to += c->row_bytes) {
        kind = kind_to_save(c, slot, end, kind);
        memset(to, 0, c->row_bytes);
        if (kind == ROW_F16)
            save_f16(c, slot, to);
        else if (kind == ROW_FOREIGN)
            cells_put_foreign(c, to);
        else
            save_codes(c, slot, kind, to);
    }
}

/* ---- loading ---- */

/* Pages of which no row stays begin anew; others lose what the new rows will replace. */
static void make_room(cells *c, size_t page, uint64_t rows)
{
    cell_page *p = &c->pages[page];
    c->n_foreign -= (size_t)__builtin_popcountll(p->foreign & rows);
    p->foreign &= ~rows;
    p->written &= ~rows;
    p->coded &= ~rows;
    if (!p->written && p->is_staged)
        cells_release(c, page);
    for (uint32_t h = 0; h < c->n_heads; h++) {
        if (!p->written)
            p->is_mixed = 0;
        tqkv_page codes = cells_codes(c, page, h);
        for (size_t r = 0; r < PAGE; r++)
            if (!p->written || rows >> r & 1) {
                memset(codes.rows.codes + r * codes.rows.code_stride, 0, c->code_bytes);
                memset(codes.rows.scales + r * codes.rows.scale_stride, 0, SCALE_BYTES);
            }
        if (!p->written)
            memset(codes.means, 0, c->mean_bytes);
    }
    if (!p->written)
        c->table[page] = cells_code_entry(c, page);
}

/* A record becomes a row of its page, which may become mixed for it. */
static int import_row(cells *c, size_t page, unsigned row, uint32_t head, const uint8_t *record)
{
    size_t size = row_codes(c) + c->mean_bytes;
    tqkv_page to = cells_codes(c, page, head);
    tqkv_status status = tqkv_page_import(&to, row, record, size);
    if (status == TQKV_ERROR_BUFFER && !c->pages[page].is_mixed) {
        if (!cells_mix(c, page))
            return 0;
        to = cells_codes(c, page, head);
        status = tqkv_page_import(&to, row, record, size);
    }
    if (status != TQKV_ERROR_BUFFER)
        return 1;
    /* More than four means in one page: through its numbers. */
    uint8_t bytes[PAGE * (TQKV_MAX_HEAD_DIM + 4) + TQKV_MAX_HEAD_DIM + 2] = {0};
    float values[TQKV_MAX_HEAD_DIM];
    tqkv_page own;
    tqkv_page_at(&c->format, 1, bytes, &own);
    tqkv_page_import(&own, 0, record, size);
    tqkv_page_read(&own, cells_balance(c, head), 0, 1, TQKV_ORIGINAL, values, 0);
    tqkv_page_write(&to, cells_balance(c, head), row, values, TQKV_F32);
    return 1;
}

/* Rows of one call. */
typedef struct loading {
    size_t first, end; /* slots */
    const uint8_t *data;
    const uint8_t *before; /* a first half that ended the call before, or null */
} loading;

static const uint8_t *row_data(const cells *c, const loading *l, size_t slot)
{
    return l->data + (slot - l->first) * c->row_bytes;
}

/* The row that has the other half of a row's mean, or null. */
static const uint8_t *other_half(const cells *c, const loading *l, size_t slot, row_kind kind)
{
    if (kind == ROW_SECOND && slot == l->first)
        return l->before;
    size_t other = kind == ROW_FIRST ? slot + 1 : slot - 1;
    if (other >= l->end)
        return NULL;
    row_kind wanted = kind == ROW_FIRST ? ROW_SECOND : ROW_FIRST;
    return kind_of_row(c, row_data(c, l, other)) == wanted ? row_data(c, l, other) : NULL;
}

/* A head's record, from its row and, unless it is whole, from that with the other half. */
static void gather_record(const cells *c, uint32_t head, row_kind kind, const uint8_t *data,
                          const uint8_t *other, uint8_t record[MAX_RECORD])
{
    size_t n = row_codes(c), at = (size_t)head * c->head_dim * 2 + TAG_BYTES, half = first_half(c);
    memcpy(record, data + at, n);
    if (kind == ROW_WHOLE) {
        memcpy(record + n, data + at + n, c->mean_bytes);
        return;
    }
    const uint8_t *first = kind == ROW_FIRST ? data : other, *second = kind == ROW_FIRST ? other : data;
    memcpy(record + n, first + at + n, half);
    memcpy(record + n + half, second + at + n, c->mean_bytes - half);
}

static int load_codes(cells *c, size_t slot, row_kind kind, const uint8_t *data,
                      const uint8_t *other)
{
    uint8_t record[MAX_RECORD];
    size_t page = cells_page_of(c, slot);
    uint64_t bit = (uint64_t)1 << cells_row_of(c, slot);
    for (uint32_t h = 0; h < c->n_heads; h++) {
        gather_record(c, h, kind, data, other, record);
        if (!import_row(c, page, cells_row_of(c, slot), h, record))
            return 0;
    }
    c->pages[page].written |= bit;
    if (c->pages[page].is_staged) {
        c->pages[page].coded |= bit;
        cells_decode(c, page, cells_row_of(c, slot), cells_nominal(c, slot));
    }
    return 1;
}

static int load_f16(cells *c, size_t slot, const uint8_t *data)
{
    size_t page = cells_page_of(c, slot);
    if (!cells_stage(c, page, ~(uint64_t)0))
        return 0;
    memcpy(cells_nominal(c, slot), data, c->row_bytes);
    cells_note(c, page, cells_row_of(c, slot));
    return 1;
}

static void load_foreign(cells *c, size_t slot)
{
    cell_page *p = &c->pages[cells_page_of(c, slot)];
    uint64_t bit = (uint64_t)1 << cells_row_of(c, slot);
    p->written |= bit;
    p->foreign |= bit;
    c->n_foreign++;
}

/* Older staged pages become codes, until no more are left than may be. */
static int trim(cells *c, size_t stream)
{
    while (c->n_staged[stream] > cells_quota(c)) {
        size_t page = cells_oldest(c, stream);
        if (c->pages[page].is_stale && !cells_seal(c, page))
            return 0;
        cells_release(c, page);
    }
    return 1;
}

static int load_row(cells *c, const loading *l, size_t slot)
{
    const uint8_t *data = row_data(c, l, slot), *other = NULL;
    row_kind kind = kind_of_row(c, data);
    if (kind == ROW_F16)
        return load_f16(c, slot, data);
    if (kind == ROW_FIRST || kind == ROW_SECOND)
        other = other_half(c, l, slot, kind);
    if (kind == ROW_WHOLE || other)
        return load_codes(c, slot, kind, data, other);
    load_foreign(c, slot);
    return 1;
}

static int load_all(cells *c, const loading *l)
{
    for (size_t slot = l->first; slot < l->end;) {
        size_t page = cells_page_of(c, slot), first = cells_row_of(c, slot);
        size_t end = cells_first_slot(c, page) + cells_rows_in(c, page);
        end = end < l->end ? end : l->end;
        size_t n = end - slot;
        make_room(c, page, (n == PAGE ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1) << first);
        for (; slot < end; slot++)
            if (!load_row(c, l, slot))
                return 0;
        if (!trim(c, page / c->n_pages))
            return 0;
    }
    return 1;
}

/* llama.cpp loads a tensor's rows in the order in which they were saved, but perhaps in other
 * calls, where the cells are other ones: two halves may come apart. The first waits. */
static int load_rows(cells *c, size_t first, size_t end, const uint8_t *data)
{
    loading l = {first, end, data, NULL};
    if (c->has_half && kind_of_row(c, data) == ROW_SECOND) {
        uint8_t *half = c->half;
        uint64_t bit = (uint64_t)1 << cells_row_of(c, c->half_slot);
        cell_page *p = &c->pages[cells_page_of(c, c->half_slot)];
        l.before = half;
        if (p->foreign & bit) {
            p->foreign &= ~bit;
            c->n_foreign--;
            if (!load_codes(c, c->half_slot, ROW_FIRST, half, data))
                return 0;
        }
    }
    int ok = load_all(c, &l);
    const uint8_t *last = data + (end - 1 - first) * c->row_bytes;
    c->has_half = kind_of_row(c, last) == ROW_FIRST;
    if (!c->has_half)
        return ok;
    c->half_slot = end - 1;
    if (!c->half)
        c->half = malloc(c->row_bytes);
    c->has_half = c->half != NULL;
    if (c->has_half)
        memcpy(c->half, last, c->row_bytes);
    return ok;
}

/* ---- bytes ---- */

/* Bytes of less than a row, through the whole of it. */
static int part_of_row(cells *c, size_t offset, uint8_t *out, const uint8_t *in, size_t size)
{
    size_t slot = offset / c->row_bytes, at = offset % c->row_bytes;
    uint8_t *row = malloc(c->row_bytes);
    int ok = row != NULL;
    if (ok)
        save_rows(c, slot, slot + 1, row);
    if (ok && out)
        memcpy(out, row + at, size);
    if (ok && in) {
        memcpy(row + at, in, size);
        ok = load_rows(c, slot, slot + 1, row);
    }
    free(row);
    return ok;
}

/* Divides bytes into parts of rows and whole rows; either out or in is null. */
static int each_part(cells *c, size_t offset, uint8_t *out, const uint8_t *in, size_t size)
{
    while (size) {
        size_t at = offset % c->row_bytes, rows = at ? 0 : size / c->row_bytes;
        size_t n = rows ? rows * c->row_bytes : c->row_bytes - at;
        n = n < size ? n : size;
        size_t slot = offset / c->row_bytes;
        int ok = 1;
        if (!rows)
            ok = part_of_row(c, offset, out, in, n);
        else if (out)
            save_rows(c, slot, slot + rows, out);
        else
            ok = load_rows(c, slot, slot + rows, in);
        if (!ok)
            return 0;
        offset += n;
        size -= n;
        out = out ? out + n : NULL;
        in = in ? in + n : NULL;
    }
    return 1;
}

void cells_get(const cells *c, size_t offset, void *data, size_t size)
{
    if (c->is_plain)
        memcpy(data, c->nominal + offset, size);
    else if (!c->n_heads || !each_part((cells *)c, offset, data, NULL, size))
        memset(data, 0, size); /* nothing was ever stored */
}

const char *cells_set(cells *c, size_t offset, const void *data, size_t size)
{
    if (c->is_plain) {
        memcpy(c->nominal + offset, data, size);
        return NULL;
    }
    if (!c->n_heads)
        return "a state is loaded before any attention was seen";
    return each_part(c, offset, NULL, data, size) ? NULL : "there is no memory for its rows";
}

/* ---- streams ---- */

static void copy_codes(const cells *from, size_t page, cells *to, size_t into)
{
    for (uint32_t h = 0; h < from->n_heads; h++) {
        tqkv_page a = cells_codes(from, page, h), b = cells_codes(to, into, h);
        if (a.n_means > 1) {
            memcpy(b.rows.codes, a.rows.codes, from->mixed_bytes);
            continue;
        }
        memcpy(b.rows.codes, a.rows.codes, from->block_bytes);
        memcpy(b.means, a.means, from->mean_bytes);
    }
}

static int copy_page(const cells *from, size_t page, cells *to, size_t into)
{
    const cell_page *p = &from->pages[page];
    cell_page *q = &to->pages[into];
    if (p->is_mixed && !to->mixed && !cells_mix(to, into))
        return 0;
    q->written = 0; /* nothing of it is decoded */
    if (p->is_staged && !cells_stage(to, into, 0))
        return 0;
    *q = *p;
    to->table[into] = p->is_staged ? cells_staged_entry(to, into) : cells_code_entry(to, into);
    copy_codes(from, page, to, into);
    if (p->is_staged)
        memcpy(cells_nominal(to, cells_first_slot(to, into)),
               cells_nominal(from, cells_first_slot(from, page)),
               cells_rows_in(from, page) * from->row_bytes);
    to->n_foreign += (size_t)__builtin_popcountll(p->foreign);
    return 1;
}

int cells_copy_stream(const cells *from, size_t stream, cells *to, size_t into)
{
    size_t n = from->n_pages;
    for (size_t p = 0; p < n; p++) {
        cell_page *q = &to->pages[into * n + p];
        to->n_foreign -= (size_t)__builtin_popcountll(q->foreign);
        q->foreign = 0;
        if (q->is_staged)
            cells_release(to, into * n + p);
        if ((q->written || from->pages[stream * n + p].written) &&
            !copy_page(from, stream * n + p, to, into * n + p))
            return 0;
    }
    to->clock[into] = from->clock[stream];
    return 1;
}

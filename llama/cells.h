/*
 * One cache tensor: f16 to llama.cpp, pages of codes in memory.
 *
 * llama.cpp's cache tensor is [n_streams][n_cells] rows; a *cell* holds the row of one token,
 * keys or values of all KV heads. Its f16 rows exist as addresses only (`nominal`), with
 * memory behind some of them. 64 consecutive cells of a stream are a *page* (tqkv_page.h):
 *
 *   empty    no cell was ever written, or all were cleared
 *   staged   the rows are f16 numbers at their nominal place
 *   sealed   the rows are codes, and nothing backs their nominal place (a staged page may
 *            have codes beside: cells_seal makes them, cells_release leaves it sealed)
 *
 * A page is staged by the first row that is stored into it. It is *open* until the row of its
 * last cell is stored, and again when an earlier row is stored anew; otherwise it is
 * *complete*. Queries read open pages as they are staged, and complete ones by a rule of
 * places (attend.c). The f16 rows of complete pages stay for a while, so that tokens can be
 * taken back and stored anew without loss; when a stream has more than `quota` staged
 * pages, the one that was begun first is sealed, open or not, and its memory given back.
 *
 * A sealed page in which rows are stored again is staged once more. The rows that stay are
 * still codes then (`coded`): what is staged of them is what the codes decode to, and sealing
 * leaves their codes alone. The new rows get a mean of their own: the page is *mixed*, with
 * up to 4 means. Rows that come from saved states are codes, too, and make mixed pages where
 * rows of several pages come together.
 *
 * A tensor that something other than tqkv's operations works on goes back to f16 as a whole:
 * it is *plain* (cells_make_plain).
 *
 * One thread at a time calls what is declared here, except where it says otherwise.
 */
#ifndef TQKV_LLAMA_CELLS_H
#define TQKV_LLAMA_CELLS_H

#include "ggml_abi.h"
#include "settings.h"
#include "tqkv_attention.h"

enum { PAGE = TQKV_PAGE_TOKENS };

typedef struct cell_page {
    uint64_t written; /* cells with a row, a bit each */
    uint64_t coded;   /* staged page: rows whose codes count, not what is staged of them */
    uint64_t foreign; /* cells whose row, from a saved state, is of another format */
    uint32_t stamp;   /* of when the page was begun: later ones have larger stamps */
    uint8_t is_staged, is_open, is_mixed;
    uint8_t is_stale; /* staged page: its codes are not of all its rows */
} cell_page;

typedef struct cells {
    char name[GG_MAX_NAME];
    int is_key, layer, is_plain;
    /* Of the whole buffer: */
    const settings *settings;
    int *has_warned; /* that some of its cells became plain */
    uint8_t *nominal;
    size_t nominal_bytes, row_bytes;
    uint32_t row_values, n_cells, n_streams, n_pages; /* cells and pages of one stream */
    /* Known from the first attention on: before it, n_heads is 0. */
    uint32_t head_dim, n_heads;
    tqkv_format format;
    size_t code_bytes, block_bytes, mean_bytes, mixed_bytes;
    float *balances; /* of keys: [n_heads][head_dim], or null */
    uint64_t tag;    /* of format and balances, in saved rows (rows.c) */
    uint8_t *blocks; /* [stream][head][page]: codes, then scales */
    uint8_t *means;  /* [stream][head][page] */
    uint8_t *mixed;  /* [stream][head][page]: mixed pages whole; null until there is one */
    cell_page *pages;  /* [stream][page] */
    uint32_t *table;   /* [stream][page], as tqkv_tokens.pages has them */
    uint32_t *staged;  /* [stream][page]: the first n_staged[stream] are staged pages */
    uint32_t *n_staged, *clock; /* [stream]; clock: the newest stamp */
    size_t n_foreign;
    /* A row that was loaded last, of which the rest has yet to come (rows.c). */
    uint8_t *half;
    size_t half_slot;
    int has_half;
    /* The slots of the rows that were stored last, in their order: places of queries. */
    uint32_t *slots;
    size_t n_slots, max_slots;
} cells;

/* ---- places ---- */

/* A *slot* is a cell's number through all streams. */
static inline size_t cells_page_of(const cells *c, size_t slot)
{
    return slot / c->n_cells * c->n_pages + slot % c->n_cells / PAGE;
}

static inline unsigned cells_row_of(const cells *c, size_t slot)
{
    return (unsigned)(slot % c->n_cells % PAGE);
}

static inline size_t cells_first_slot(const cells *c, size_t page)
{
    return page / c->n_pages * c->n_cells + page % c->n_pages * PAGE;
}

/* Pages of all streams. */
static inline size_t cells_pages(const cells *c)
{
    return (size_t)c->n_streams * c->n_pages;
}

/* Rows of a page: 64, or fewer of a stream's last. */
static inline unsigned cells_rows_in(const cells *c, size_t page)
{
    uint32_t left = c->n_cells - (uint32_t)(page % c->n_pages) * PAGE;
    return left < PAGE ? left : PAGE;
}

static inline uint8_t *cells_nominal(const cells *c, size_t slot)
{
    return c->nominal + slot * c->row_bytes;
}

static inline const float *cells_balance(const cells *c, uint32_t head)
{
    return c->balances ? c->balances + (size_t)head * c->head_dim : NULL;
}

/* Index of a stream's and head's first page in arrays of [stream][head][page]. */
static inline size_t cells_place(const cells *c, size_t stream, uint32_t head)
{
    return (stream * c->n_heads + head) * c->n_pages;
}

/* One head's page of codes, mixed or not. */
tqkv_page cells_codes(const cells *c, size_t page, uint32_t head);

/* What a row's codes decode to, as f16 numbers of all heads. */
void cells_decode(const cells *c, size_t page, unsigned row, uint8_t *to);

/* ---- life ---- */

/* Takes the format for heads of this size; balances (may be null) is taken over, also on
 * failure. Null, or why the tensor has to be plain. */
const char *cells_learn(cells *c, uint32_t head_dim, uint32_t n_heads, float *balances,
                        uint64_t profile_id);
void cells_free(cells *c);
/* All cells become empty. */
void cells_clear(cells *c);
/* Back to f16 with all rows; 0 without memory, and all is as it was. */
int cells_make_plain(cells *c);
/* Bytes that all cells take when they are full, with the pages that may be staged. */
size_t cells_bytes(const cells *c);
/* So many staged pages a stream keeps. */
uint32_t cells_quota(const cells *c);

/* ---- staging ---- */

/* Stages a page; the rows in `keep` that have codes are decoded into it. 0 without memory. */
int cells_stage(cells *c, size_t page, uint64_t keep);
/* Says that a row was put at the nominal place of a staged page's cell. */
void cells_note(cells *c, size_t page, unsigned row);
/* Makes room for n slots, which the caller writes; 0 without memory. */
int cells_reserve_slots(cells *c, size_t n);

/* ---- sealing ---- */

/* A staged page gets codes of all its rows, and stays staged: begin, then each head, in any
 * threads, then end. 0 without memory. */
int cells_seal_begin(cells *c, size_t page);
void cells_seal_head(cells *c, size_t page, uint32_t head);
void cells_seal_end(cells *c, size_t page);
/* All of it. */
int cells_seal(cells *c, size_t page);
/* Gives back the memory of a staged page with codes of all rows. */
void cells_release(cells *c, size_t page);
/* The staged page that was begun first, of a stream that has some. */
size_t cells_oldest(const cells *c, size_t stream);
/* Turns a page with codes into a mixed one. 0 without memory. */
int cells_mix(cells *c, size_t page);

/* ---- attention's view ---- */

/* The entry of a page's table that reads its codes. */
static inline uint32_t cells_code_entry(const cells *c, size_t page)
{
    uint32_t number = (uint32_t)(page % c->n_pages);
    return c->pages[page].is_mixed ? number | TQKV_PAGE_MIXED : number;
}

static inline uint32_t cells_staged_entry(const cells *c, size_t page)
{
    return (uint32_t)(page % c->n_pages) | TQKV_PAGE_STAGED;
}

/* Sealed, staged and mixed pages of a stream as tqkv_attend has them. */
tqkv_operand cells_sealed_operand(const cells *c, size_t stream);
tqkv_operand cells_staged_operand(const cells *c, size_t stream);
tqkv_operand cells_mixed_operand(const cells *c, size_t stream);

/* ---- saved states (rows.c) ---- */

/* Bytes of the nominal tensor, as programs save and load them. */
void cells_get(const cells *c, size_t offset, void *data, size_t size);
/* Null, or what went wrong. */
const char *cells_set(cells *c, size_t offset, const void *data, size_t size);
/* A row's bytes with a tag of no format: what is left of foreign rows, whose bytes are not
 * kept. */
void cells_put_foreign(const cells *c, uint8_t *row);
/* Copies one whole stream to a stream of a tensor with the same shape and tag. 0 without
 * memory. */
int cells_copy_stream(const cells *from, size_t stream, cells *to, size_t into);

#endif

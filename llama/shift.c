/*
 * Keys that move to other positions: llama.cpp applies RoPE to them where they lie, for any
 * kind of RoPE, with a shift of 0 for cells that stay.
 *
 * ggml does that here, too, on f16 numbers at their nominal place, one layer after the other:
 * pages in which keys move are staged, all of the tensor has memory for the moment, and rows
 * that move get new codes afterwards. Rows that stay keep theirs.
 */
#include <stdlib.h>
#include <string.h>

#include "reserve.h"
#include "work.h"

static const char no_memory[] = "there is no memory to move keys to other positions";

/* ---- which rows ---- */

static uint64_t moved_rows(const step *s, size_t page)
{
    const cells *c = s->keys;
    const int32_t *by = s->node->src[1]->data;
    size_t first = cells_first_slot(c, page);
    uint64_t moved = 0;
    for (unsigned r = 0; r < cells_rows_in(c, page); r++)
        moved |= (uint64_t)(by[first + r] != 0) << r;
    return moved & c->pages[page].written & ~c->pages[page].foreign;
}

/* ---- rows that stay ---- */

/* Rows of staged pages that do not move, which RoPE may multiply with a factor: saved to
 * `rows`, or put back from it. Their number. */
static size_t each_kept(const step *s, uint8_t *rows, int is_restored)
{
    const cells *c = s->keys;
    size_t n = 0;
    for (size_t p = 0; p < cells_pages(c); p++) {
        uint64_t stay = c->pages[p].is_staged ? c->pages[p].written & ~moved_rows(s, p) : 0;
        for (; stay; stay &= stay - 1, n++) {
            uint8_t *row = cells_nominal(c, cells_first_slot(c, p) + (size_t)__builtin_ctzll(stay));
            if (rows && is_restored)
                memcpy(row, rows + n * c->row_bytes, c->row_bytes);
            else if (rows)
                memcpy(rows + n * c->row_bytes, row, c->row_bytes);
        }
    }
    return n;
}

/* ---- before and after ---- */

/* Pages that were sealed before, a byte each; null without memory. They are not begun anew:
 * the clocks stay. */
static uint8_t *stage_moved(const step *s)
{
    cells *c = s->keys;
    uint8_t *was_sealed = calloc(cells_pages(c), 1);
    for (size_t p = 0; was_sealed && p < cells_pages(c); p++) {
        uint32_t *clock = &c->clock[p / c->n_pages], before = *clock;
        if (c->pages[p].is_staged || !moved_rows(s, p))
            continue;
        was_sealed[p] = 1;
        if (!cells_stage(c, p, ~(uint64_t)0)) {
            free(was_sealed);
            return NULL;
        }
        *clock = before;
    }
    return was_sealed;
}

/* What moved is new; what was sealed is sealed again. 0 without memory. */
static int finish(const step *s, const uint8_t *was_sealed)
{
    cells *c = s->keys;
    int ok = 1;
    for (size_t p = 0; p < cells_pages(c); p++) {
        cell_page *page = &c->pages[p];
        uint64_t moved = moved_rows(s, p);
        if (page->is_staged && moved) {
            page->coded &= ~moved;
            page->is_stale = 1;
        }
        if (was_sealed[p] && cells_seal(c, p))
            cells_release(c, p);
        else if (was_sealed[p])
            ok = 0;
        else if (!page->is_staged)
            reserve_close(cells_nominal(c, cells_first_slot(c, p)),
                          cells_rows_in(c, p) * c->row_bytes);
    }
    return ok;
}

/* ---- computing ---- */

/* Computes the one node, with the others left out. */
static int compute_alone(step *s, gg_graph *graph, int (*compute)(gg_backend_t, gg_graph *),
                         gg_backend_t b, int *status)
{
    int n = gg.graph_n_nodes(graph), *ops = malloc((size_t)n * sizeof *ops);
    if (!ops)
        return 0;
    for (int i = 0; i < n; i++) {
        gg_tensor *t = gg.graph_node(graph, i);
        ops[i] = t->op;
        t->op = t == s->node ? s->op : gg.op_none;
    }
    *status = compute(b, graph);
    for (int i = 0; i < n; i++)
        gg.graph_node(graph, i)->op = ops[i];
    free(ops);
    return 1;
}

const char *shift_compute(step *s, gg_graph *graph, int (*compute)(gg_backend_t, gg_graph *),
                          gg_backend_t b, int *status)
{
    cells *c = s->keys;
    uint8_t *was_sealed = stage_moved(s);
    size_t n = each_kept(s, NULL, 0);
    uint8_t *rows = malloc(n * c->row_bytes + 1);
    int ok = was_sealed && rows && reserve_open(c->nominal, c->nominal_bytes);
    if (ok) {
        each_kept(s, rows, 0);
        ok = compute_alone(s, graph, compute, b, status);
        each_kept(s, rows, 1);
        ok = finish(s, was_sealed) && ok;
    }
    free(rows);
    free(was_sealed);
    return ok ? NULL : no_memory;
}

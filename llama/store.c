#include <string.h>

#include "work.h"

/* Rows of a batch that go to one page, one after the other. */
typedef struct run {
    size_t page, first, n; /* of the batch's rows */
    uint64_t cells;
} run;

static int64_t index_at(const gg_tensor *at, size_t i)
{
    const uint8_t *p = (const uint8_t *)at->data + i * at->nb[0];
    int64_t wide;
    int32_t narrow;
    if (at->type == GG_I32)
        return memcpy(&narrow, p, sizeof narrow), narrow;
    return memcpy(&wide, p, sizeof wide), wide;
}

/* Reads where rows go. Null, or what is wrong. */
static const char *read_slots(cells *c, const gg_tensor *at)
{
    size_t n = (size_t)at->ne[0], slots = (size_t)c->n_cells * c->n_streams;
    if (!cells_reserve_slots(c, n))
        return "out of memory";
    for (size_t i = 0; i < n; i++) {
        int64_t slot = index_at(at, i);
        if (slot < 0 || (size_t)slot >= slots) {
            c->n_slots = 0;
            return "a row is to be stored outside the cache";
        }
        c->slots[i] = (uint32_t)slot;
    }
    return NULL;
}

static run next_run(const cells *c, size_t first)
{
    run r = {.page = cells_page_of(c, c->slots[first]), .first = first};
    for (size_t i = first; i < c->n_slots && cells_page_of(c, c->slots[i]) == r.page; i++) {
        r.cells |= (uint64_t)1 << cells_row_of(c, c->slots[i]);
        r.n++;
    }
    return r;
}

/* Stages the pages that rows go to, but for what is replaced. */
static int prepare_pages(cells *c)
{
    for (size_t i = 0; i < c->n_slots;) {
        run r = next_run(c, i);
        if (!cells_stage(c, r.page, ~r.cells))
            return 0;
        for (size_t j = r.first; j < r.first + r.n; j++)
            cells_note(c, r.page, cells_row_of(c, c->slots[j]));
        i += r.n;
    }
    return 1;
}

enum { ROWS_A_TASK = 32 };

static void store_some(void *argument, size_t index)
{
    step *s = argument;
    const cells *c = s->keys;
    const gg_tensor *rows = s->node->src[0];
    size_t first = index * ROWS_A_TASK, end = first + ROWS_A_TASK;
    for (size_t i = first; i < end && i < c->n_slots; i++) {
        const float *values = (const float *)((const uint8_t *)rows->data + i * rows->nb[1]);
        tqkv_from_f32(values, c->row_values, cells_nominal(c, c->slots[i]), TQKV_F16);
        if (s->work->capture && c->is_key)
            capture_keys(s->work->capture, c, i, values);
    }
}

void store_rows(step *s)
{
    cells *c = s->keys;
    const char *problem = read_slots(c, s->node->src[1]);
    if (!problem && !prepare_pages(c))
        problem = "there is no memory for the cache's newest rows";
    if (problem) {
        s->work->failure = problem;
        return;
    }
    size_t tasks = (c->n_slots + ROWS_A_TASK - 1) / ROWS_A_TASK;
    if (tasks == 1)
        store_some(s, 0);
    else if (tasks)
        crew_run(s->crew, tasks, store_some, s);
}

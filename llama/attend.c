/*
 * Attention of a batch, page by page of its queries.
 *
 * What a query sees of a token, its f16 numbers or its codes, follows from the places of both
 * alone, so that a prompt gives the same in one batch or in many: a query reads as staged
 *
 *   - open pages;
 *   - complete pages that were begun no earlier than its own, which is the page where its own
 *     token's row is stored, or, with TQKV_RECENT, so many pages before it;
 *
 * and all others as codes. That is what decoding token by token comes to, where a page is full
 * before the next one is begun. Consecutive queries to which the same pages are staged make one
 * call of tqkv_attend; the pages of the batch are staged and sealed at the same time until the
 * last of them has been computed.
 *
 * Bounds: where more pages are open, or tokens are taken back further, than cells_quota says,
 * the pages that were begun first are codes already.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "work.h"

static const char no_memory[] = "there is no memory for attention";

/* One stream of a node. */
typedef struct stream {
    step *step;
    size_t number;       /* in the caches */
    size_t first_query;  /* among the rows that were stored last; SIZE_MAX: unknown */
    size_t n_queries;
} stream;

/* ---- which pages are staged to a query ---- */

/* The page where a query's own row lies, as a stamp: pages with earlier ones are codes. */
static uint32_t first_staged_stamp(const stream *x, size_t query)
{
    const cells *c = x->step->keys;
    uint32_t stamp = c->clock[x->number], recent = c->settings->recent_pages;
    if (x->first_query != SIZE_MAX) {
        size_t page = cells_page_of(c, c->slots[x->first_query + query]);
        if (page / c->n_pages == x->number && c->pages[page].is_staged)
            stamp = c->pages[page].stamp;
    }
    return stamp > recent ? stamp - recent : 0;
}

static int is_codes(const cell_page *p, uint32_t stamp)
{
    return !p->is_open && p->stamp < stamp;
}

/* Queries from `first` on to which the same pages are staged. */
static size_t same_view(const stream *x, size_t first, uint32_t stamp)
{
    size_t end = first + 1;
    while (end < x->n_queries && first_staged_stamp(x, end) == stamp)
        end++;
    return end - first;
}

/* Both mixed, or neither. */
static int make_alike(cells *k, cells *v, size_t page)
{
    return k->pages[page].is_mixed == v->pages[page].is_mixed ||
           cells_mix(k->pages[page].is_mixed ? v : k, page);
}

/* Where keys and values are of different kinds, after states were loaded, both become what
 * both can be. */
static int reconcile(cells *k, cells *v, size_t page)
{
    if (k->pages[page].is_staged != v->pages[page].is_staged) {
        cells *other = k->pages[page].is_staged ? v : k;
        const cell_page *p = &(other == k ? v : k)->pages[page];
        if (!cells_stage(other, page, ~(uint64_t)0))
            return 0;
        other->pages[page].is_open = p->is_open;
        other->pages[page].stamp = p->stamp;
    }
    return make_alike(k, v, page);
}

static int reconcile_stream(cells *k, cells *v, size_t number)
{
    size_t first = number * k->n_pages;
    uint32_t clock = k->clock[number] > v->clock[number] ? k->clock[number] : v->clock[number];
    k->clock[number] = v->clock[number] = clock; /* stamps are compared, and copied */
    if (!memcmp(k->table + first, v->table + first, k->n_pages * sizeof *k->table))
        return 1;
    for (size_t p = first; p < first + k->n_pages; p++)
        if (k->table[p] != v->table[p] && !reconcile(k, v, p))
            return 0;
    return 1;
}

/* The newest stamp of all queries: of older complete pages some query reads codes. */
static uint32_t newest_stamp(const stream *x)
{
    uint32_t newest = 0;
    for (size_t i = 0; i < x->n_queries; i++) {
        uint32_t stamp = first_staged_stamp(x, i);
        newest = stamp > newest ? stamp : newest;
    }
    return newest;
}

/* Pages of which some query reads codes get them. 0 without memory. */
static int seal_for(const stream *x)
{
    work *w = x->step->work;
    cells *k = x->step->keys, *v = x->step->values;
    const uint32_t *list = k->staged + x->number * k->n_pages;
    uint32_t newest = newest_stamp(x);
    for (uint32_t i = 0; i < k->n_staged[x->number]; i++) {
        size_t page = x->number * k->n_pages + list[i];
        if (!is_codes(&k->pages[page], newest))
            continue;
        if ((k->pages[page].is_stale && !work_note_seal(w, k, page)) ||
            (v->pages[page].is_stale && !work_note_seal(w, v, page)))
            return 0;
    }
    work_seal(w, x->step->crew);
    for (uint32_t i = 0; i < k->n_staged[x->number]; i++)
        if (!make_alike(k, v, x->number * k->n_pages + list[i]))
            return 0;
    return 1;
}

/* The keys' table becomes that of queries with this stamp; values' pages are of the same
 * kinds. */
static void set_table(const stream *x, uint32_t stamp)
{
    cells *c = x->step->keys;
    const uint32_t *list = c->staged + x->number * c->n_pages;
    for (uint32_t i = 0; i < c->n_staged[x->number]; i++) {
        size_t page = x->number * c->n_pages + list[i];
        int reads_codes = is_codes(&c->pages[page], stamp);
        c->table[page] = reads_codes ? cells_code_entry(c, page) : cells_staged_entry(c, page);
    }
}

/* ---- rows of other formats ---- */

static int is_seen(const gg_tensor *t, size_t index, size_t token)
{
    const gg_tensor *m = t->src[3];
    if (token >= (size_t)t->src[1]->ne[1])
        return 0;
    for (int64_t i = 0; m && i < t->src[0]->ne[1] * m->ne[2]; i++) {
        const uint8_t *row = (const uint8_t *)m->data + index % (size_t)m->ne[3] * m->nb[3] +
                             (size_t)(i % m->ne[2]) * m->nb[2] + (size_t)(i / m->ne[2]) * m->nb[1];
        uint16_t half;
        memcpy(&half, row + token * sizeof half, sizeof half);
        if (half != 0xFC00)
            return 1;
    }
    return !m;
}

static int sees_foreign(const stream *x, const cells *c, size_t index)
{
    size_t first = x->number * c->n_pages;
    for (size_t p = 0; c->n_foreign && p < c->n_pages; p++)
        for (uint64_t left = c->pages[first + p].foreign; left; left &= left - 1)
            if (is_seen(x->step->node, index, p * PAGE + (size_t)__builtin_ctzll(left)))
                return 1;
    return 0;
}

/* ---- computing ---- */

/* ALiBi's factors for the mask, as ggml has them: Press et al. (2022), arXiv:2108.12409. */
static int set_slopes(work *w, uint32_t n, float max_bias)
{
    uint32_t whole = 1;
    if (w->n_slopes < n) {
        float *slopes = realloc(w->slopes, n * sizeof *slopes);
        if (!slopes)
            return 0;
        w->slopes = slopes;
        w->n_slopes = n;
    }
    while (whole * 2 <= n)
        whole *= 2;
    float even = powf(2, -max_bias / (float)whole), odd = powf(2, -max_bias / 2 / (float)whole);
    for (uint32_t h = 0; h < n; h++)
        w->slopes[h] = h < whole ? powf(even, (float)(h + 1))
                                 : powf(odd, (float)(2 * (h - whole) + 1));
    return 1;
}

/* Attention of all queries of a stream, with its numbers: scale, largest bias, softcap. */
static tqkv_attention describe(const step *s, size_t index, const float numbers[3])
{
    const gg_tensor *t = s->node, *q = t->src[0], *m = t->src[3];
    tqkv_attention a = {
        .n_queries = (uint32_t)q->ne[1], .n_heads = (uint32_t)q->ne[2],
        .n_kv_heads = (uint32_t)t->src[1]->ne[2],
        .queries = (const uint8_t *)q->data + index * q->nb[3], .query_type = TQKV_F32,
        .query_stride = q->nb[1] / sizeof(float), .head_stride = q->nb[2] / sizeof(float),
        .scale = numbers[0], .softcap = numbers[2],
        .sinks = t->src[4] ? t->src[4]->data : NULL,
        .mask_slopes = numbers[1] > 0 ? s->work->slopes : NULL, .n_sets = 1};
    if (!m)
        return a;
    a.mask = (const uint8_t *)m->data + index % (size_t)m->ne[3] * m->nb[3];
    a.mask_type = TQKV_F16;
    a.mask_stride = m->nb[1] / sizeof(uint16_t);
    a.mask_head_stride = m->ne[2] > 1 ? m->nb[2] / sizeof(uint16_t) : 0;
    return a;
}

/* Memory for this call, which grows and stays. */
static tqkv_status reserve_workspace(work *w, const tqkv_attention *a, const tqkv_executor *e)
{
    size_t bytes;
    tqkv_status status = tqkv_attend_workspace(a, e, &bytes);
    if (status != TQKV_OK || w->workspace_size >= bytes)
        return status;
    free(w->workspace);
    w->workspace = malloc(bytes);
    w->workspace_size = w->workspace ? bytes : 0;
    return w->workspace ? TQKV_OK : TQKV_ERROR_MEMORY;
}

/* Queries first to first + n - 1, with the table as it is. */
static tqkv_status attend_some(const stream *x, const tqkv_attention *all, size_t index,
                               size_t first, size_t n, const tqkv_executor *executor)
{
    const gg_tensor *t = x->step->node;
    work *w = x->step->work;
    tqkv_attention a = *all;
    a.n_queries = (uint32_t)n;
    a.queries = (const float *)all->queries + first * all->query_stride;
    if (a.mask)
        a.mask = (const uint16_t *)all->mask + first * all->mask_stride;
    tqkv_status status = reserve_workspace(w, &a, executor);
    tqkv_partial result = {
        .out = (float *)((uint8_t *)t->data + index * t->nb[3] + first * t->nb[2])};
    return status == TQKV_OK
               ? tqkv_attend(&a, &result, executor, w->workspace, w->workspace_size)
               : status;
}

static tqkv_status attend_stream(const stream *x, size_t index, const float numbers[3],
                                 int n_threads)
{
    const cells *k = x->step->keys, *v = x->step->values;
    size_t number = x->number, bound = k->n_pages;
    tqkv_executor executor = {.n_threads = (uint32_t)n_threads, .run = crew_run,
                              .context = x->step->crew};
    tqkv_page_kind staged = {cells_staged_operand(k, number), cells_staged_operand(v, number),
                             (uint32_t)bound};
    tqkv_page_kind mixed = {.n_pages = (uint32_t)bound};
    tqkv_tokens set = {.n_tokens = (size_t)x->step->node->src[1]->ne[1],
                       .pages = k->table + number * k->n_pages, .page_size = PAGE,
                       .n_pages = (uint32_t)bound, .keys = cells_sealed_operand(k, number),
                       .values = cells_sealed_operand(v, number), .staged = &staged};
    tqkv_attention a = describe(x->step, index, numbers);
    tqkv_status status = TQKV_OK;
    if (k->mixed && v->mixed) {
        mixed.keys = cells_mixed_operand(k, number);
        mixed.values = cells_mixed_operand(v, number);
        set.mixed = &mixed;
    }
    a.sets = &set;
    for (size_t i = 0, n; i < x->n_queries && status == TQKV_OK; i += n) {
        uint32_t stamp = first_staged_stamp(x, i);
        n = same_view(x, i, stamp);
        set_table(x, stamp);
        status = attend_some(x, &a, index, i, n, &executor);
    }
    set_table(x, 0);
    return status;
}

/* ---- after it ---- */

/* Pages that were begun first leave when there are more than may be. */
static int trim(step *s, cells *c, size_t number)
{
    work *w = s->work;
    uint32_t quota = cells_quota(c);
    while (c->n_staged[number] > quota) {
        size_t page = cells_oldest(c, number);
        if (c->pages[page].is_stale && !work_note_seal(w, c, page))
            return 0;
        work_seal(w, s->crew);
        cells_release(c, page);
    }
    return 1;
}

/* ---- the operation ---- */

/* Where the stream's queries are stored, if this is what was stored last. */
static stream stream_of(step *s, size_t index)
{
    const gg_tensor *q = s->node->src[0], *k = s->node->src[1];
    size_t shared = (size_t)(q->ne[3] / k->ne[3]), n = (size_t)q->ne[1];
    stream x = {.step = s, .n_queries = n, .first_query = SIZE_MAX,
                .number = k->view_offs / (s->keys->row_bytes * s->keys->n_cells) + index / shared};
    if (s->keys->n_slots == n * (size_t)q->ne[3])
        x.first_query = index * n;
    return x;
}

static const char *attend_index(step *s, size_t index, const float numbers[3], int n_threads)
{
    stream x = stream_of(s, index);
    if (sees_foreign(&x, s->keys, index) || sees_foreign(&x, s->values, index))
        return "the cache holds rows of another format or profile, from a state that was loaded; "
               "remove them, and go on";
    if (!reconcile_stream(s->keys, s->values, x.number) || !seal_for(&x))
        return no_memory;
    tqkv_status status = attend_stream(&x, index, numbers, n_threads);
    return status == TQKV_OK ? NULL : tqkv_status_string(status);
}

void attend(step *s, int n_threads)
{
    const gg_tensor *q = s->node->src[0];
    work *w = s->work;
    float numbers[3]; /* scale, largest bias, softcap */
    memcpy(numbers, s->op_params, sizeof numbers);
    if (numbers[1] > 0 && !set_slopes(w, (uint32_t)q->ne[2], numbers[1])) {
        w->failure = no_memory;
        return;
    }
    if (w->capture)
        capture_queries(w->capture, s->keys, q);
    for (size_t i = 0; !w->failure && i < (size_t)q->ne[3]; i++) {
        const char *problem = attend_index(s, i, numbers, n_threads);
        if (problem)
            w->failure = problem;
    }
    for (size_t i = 0; !w->failure && s->is_last_reader && i < (size_t)q->ne[3]; i++) {
        stream x = stream_of(s, i);
        if (!trim(s, s->keys, x.number) || !trim(s, s->values, x.number))
            w->failure = no_memory;
    }
}

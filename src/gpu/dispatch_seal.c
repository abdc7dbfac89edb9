/* Rows into pages: staging, writing, sealing. */
#include <stdio.h>

#include "gpu/dispatch_pages.h"

/* ---- staging ---- */

static tqkv_status record_stage(pages_call *c, uint32_t first, uint32_t n_sides)
{
    const tqkv_gpu_new_rows *r = c->arguments;
    const tqkv_gpu_pages *p = c->pages;
    (void)first;
    (void)n_sides;
    stage_params s = {.from_type = r->type, .first_layer = c->first_layer,
                      .n_layers = c->n_layers, .n_kv_heads = p->n_kv_heads, .n_rows = r->n_rows,
                      .n_staged = p->staged.n_pages};
    for (int i = 0; i < 2; i++) {
        pages_side from, to;
        pages_side_from_staged(&to, p, !i);
        pages_side_from_rows(c, &from, r, !i);
        s.from_layer[i] = c->from_layer[i];
        s.from_row[i] = c->from_row[i];
        s.from_head[i] = c->from_head[i];
        s.to_layer[i] = to.from_layer;
        s.to_page[i] = to.from_page;
        s.to_head[i] = to.from_head;
        s.to_row[i] = to.from_row;
        s.to_type[i] = to.from_type;
        s.is_wide[i] = to.from_wide && from.from_wide;
        s.dim[i] = (i ? p->staged.values : p->staged.keys).format.head_dim;
        s.pieces = s.dim[i] / 8 > s.pieces ? s.dim[i] / 8 : s.pieces;
    }
    launch l = {.buffers = {r->keys, r->values, c->views[STAGED_KEYS], c->views[STAGED_KEYS + 1],
                            r->places},
                .n_buffers = 8, .n_items = ITEMS, .is_entered = 1};
    uint64_t n = product3(product3(c->n_layers, r->n_rows, 2), p->n_kv_heads, s.pieces);
    tqkv_status status = launch_set_groups(&l, c->e, n / ITEMS + (n % ITEMS != 0));
    if (status == TQKV_OK)
        status = launch_find(&l, c->e, c->registry, "stage_rows", NULL);
    return status == TQKV_OK ? launch_record(&l, c->e, &s, sizeof s) : status;
}

tqkv_status tqkv_dispatch_stage(tqkv_encoder *e, tqkv_registry *registry,
                                const tqkv_gpu_pages *pages, uint32_t first_layer,
                                uint32_t n_layers, const tqkv_gpu_new_rows *rows)
{
    pages_call c = {.e = e, .registry = registry, .pages = pages, .first_layer = first_layer,
                    .n_layers = n_layers, .arguments = rows};
    tqkv_status status = pages_begin(&c);
    if (status == TQKV_OK)
        status = pages_check(&c, 0, 1);
    if (status != TQKV_OK)
        return status;
    uint32_t dims[] = {pages->staged.keys.format.head_dim, pages->staged.values.format.head_dim};
    status = pages_check_rows(&c, rows, dims);
    if (status != TQKV_OK || !rows->n_rows)
        return status;
    return pages_record(&c, record_stage, 0, 1, 1, 3);
}

/* ---- sealing and writing ---- */

typedef struct seal_arguments {
    const tqkv_gpu_new_rows *rows; /* null: seals */
    tqkv_buffer *jobs, *count;
    uint32_t n; /* jobs or rows */
} seal_arguments;

/* Groups that share the rows of a page, where each takes one after the other. */
enum { PARTS = 8 };

/* The kernel of rows by items, where it serves this side; 0 where not. */
static uint32_t place_narrow(const pages_call *c, const format_params *f, pages_params *p,
                             launch *l)
{
    uint32_t n = narrow_items(c->e->device, f, &l->local_bytes);
    p->parts = 1;
    p->mean_at = (l->local_bytes + 3) / 4;
    if (!p->is_write)
        l->local_bytes = (p->mean_at + f->head_dim + n) * 4;
    l->n_items = n;
    return n;
}

static void place_team(pages_params *p, uint32_t first, uint32_t n_sides, launch *l)
{
    encoder_team t = encoder_team_of(first ? &p->values.format : &p->keys.format);
    encoder_team v = encoder_team_of(&p->values.format);
    if (n_sides == 2 && v.floats > t.floats)
        t = v; /* both are in this launch */
    if (t.floats)
        t.n_items = 32; /* whatever the search needs: there is one team a group */
    p->parts = p->is_write ? 1 : PARTS;
    p->lanes = l->n_items = t.n_items;
    p->team_floats = t.floats;
    p->mean_at = (t.local_bytes + 3) / 4 + 64; /* sums, which mlx's team does not count */
    l->local_bytes = (p->mean_at + p->keys.format.head_dim + p->values.format.head_dim + t.n_items) * 4;
}

static tqkv_status record_rows(pages_call *c, uint32_t first, uint32_t n_sides)
{
    static const char *const kernels[] = {NULL, "pages_trellis", "pages_lloyd", "pages_mlx"};
    const seal_arguments *a = c->arguments;
    const tqkv_gpu_pages *p = c->pages;
    const tqkv_gpu_operand *o = first ? &p->values : &p->keys;
    int is_write = a->rows != NULL;
    pages_params s = {.keys = pages_side_of(p, 1), .values = pages_side_of(p, 0),
                      .first_layer = c->first_layer, .n_layers = c->n_layers,
                      .n_kv_heads = p->n_kv_heads, .first_side = first, .n_sides = n_sides,
                      .n_pages = p->n_pages, .n_staged = p->staged.n_pages, .n_jobs = a->n,
                      .has_count = a->count != NULL, .is_write = (uint)is_write};
    for (int i = 0; i < 2; i++) {
        pages_side *side = i ? &s.values : &s.keys;
        if (is_write)
            pages_side_from_rows(c, side, a->rows, !i);
        else
            pages_side_from_staged(side, p, !i);
    }
    operand_rotation_set(&s.rotation, o, 0);
    launch l = {.buffers = {is_write ? a->rows->keys : c->views[STAGED_KEYS],
                            is_write ? a->rows->values : c->views[STAGED_KEYS + 1], c->views[0],
                            c->views[1], c->views[2], c->views[3], c->views[4], c->views[5],
                            p->keys.balances, is_write ? a->rows->places : a->jobs, a->count},
                .n_buffers = 12, .is_entered = 1};
    char options[64];
    const char *kernel = kernels[o->format.codebook];
    uint32_t narrow = place_narrow(c, first ? &s.values.format : &s.keys.format, &s, &l);
    if (narrow)
        kernel = is_write ? "write_narrow" : "seal_narrow";
    else
        place_team(&s, first, n_sides, &l);
    snprintf(options, sizeof options, "PAGE_DIM=%u GROUP_SIZE=%u", o->format.head_dim, l.n_items);
    uint64_t n = product3(product3(a->n, c->n_layers, n_sides), p->n_kv_heads, s.parts);
    if (narrow && is_write)
        n = n / narrow + (n % narrow != 0);
    tqkv_status status = launch_set_groups(&l, c->e, n);
    if (status == TQKV_OK)
        status = launch_find(&l, c->e, c->registry, kernel, narrow ? options : NULL);
    return status == TQKV_OK ? launch_record(&l, c->e, &s, sizeof s) : status;
}

/* One launch, unless keys and values differ, or go by different kernels. */
static tqkv_status record_all(pages_call *c, int is_staged)
{
    uint32_t bytes;
    format_params k, v;
    format_params_set(&k, &c->pages->keys.format, 0, 1);
    format_params_set(&v, &c->pages->values.format, 0, 1);
    int is_one = pages_are_one_launch(c->pages) &&
                 narrow_items(c->e->device, &k, &bytes) == narrow_items(c->e->device, &v, &bytes);
    return pages_record(c, record_rows, 1, is_staged, is_one, 3);
}

tqkv_status tqkv_dispatch_write(tqkv_encoder *e, tqkv_registry *registry,
                                const tqkv_gpu_pages *pages, uint32_t first_layer,
                                uint32_t n_layers, const tqkv_gpu_new_rows *rows)
{
    seal_arguments a = {.rows = rows};
    pages_call c = {.e = e, .registry = registry, .pages = pages, .first_layer = first_layer,
                    .n_layers = n_layers, .arguments = &a};
    tqkv_status status = pages_begin(&c);
    if (status == TQKV_OK)
        status = pages_check(&c, 1, 0);
    if (status != TQKV_OK)
        return status;
    uint32_t dims[] = {pages->keys.format.head_dim, pages->values.format.head_dim};
    status = pages_check_rows(&c, rows, dims);
    if (status != TQKV_OK || !rows->n_rows)
        return status;
    a.n = rows->n_rows;
    return record_all(&c, 0);
}

tqkv_status tqkv_dispatch_seal(tqkv_encoder *e, tqkv_registry *registry,
                               const tqkv_gpu_pages *pages, tqkv_buffer *jobs, tqkv_buffer *count,
                               uint32_t max_jobs)
{
    seal_arguments a = {.jobs = jobs, .count = count, .n = max_jobs};
    pages_call c = {.e = e, .registry = registry, .pages = pages,
                    .n_layers = pages ? pages->n_layers : 0, .arguments = &a};
    tqkv_status status = pages_begin(&c);
    if (status == TQKV_OK)
        status = pages_check(&c, 1, 1);
    if (status != TQKV_OK || !max_jobs)
        return status;
    status = dispatch_check_buffer(e, jobs, 0, max_jobs * 16ull, 4, "jobs");
    if (status == TQKV_OK && count)
        status = dispatch_check_buffer(e, count, 0, 4, 4, "count");
    return status == TQKV_OK ? record_all(&c, 1) : status;
}

/* Pages as plain numbers. */
#include <stdio.h>

#include "gpu/dispatch_pages.h"

typedef struct read_arguments {
    tqkv_buffer *numbers, *keys, *values;
    uint32_t n;
    tqkv_type type;
    size_t row, head; /* bytes */
} read_arguments;

static tqkv_status check_target(pages_call *c, const read_arguments *a, int is_key)
{
    tqkv_buffer *b = is_key ? a->keys : a->values;
    const tqkv_format *f = is_key ? &c->pages->keys.format : &c->pages->values.format;
    size_t row = f->head_dim * type_size(a->type);
    uint32_t heads = c->pages->n_kv_heads;
    if (!b)
        return TQKV_OK;
    if (a->row < row || (heads > 1 && a->head < row))
        return FAILED(c->e, TQKV_ERROR_BUFFER, "numbers: rows overlap");
    uint64_t end = sum2(product3((uint64_t)a->n * TQKV_PAGE_TOKENS - 1, a->row, 1),
                        product3(heads - 1, a->head, 1));
    return dispatch_check_buffer(c->e, b, 0, sum2(end, row), type_size(a->type),
                                 is_key ? "numbers of keys" : "numbers of values");
}

/* How many rows a group reads: a page's, if lanes of items share each (kernels/decode_lanes.h). */
static uint32_t place_lanes(const tqkv_device *d, const read_params *p, const format_params *f, launch *l)
{
    enum { LANE_ITEMS = 64 }; /* a page's preparation serves four rounds of rows of 128 */
    uint32_t dim = f->head_dim;
    if (!rows_have_lanes(d, dim, &p->rotation)) {
        l->n_items = dim / 8 < 32 ? dim / 8 : 32;
        l->local_bytes = (256 + 4 * dim) * (uint32_t)sizeof(float);
        return 1;
    }
    l->n_items = LANE_ITEMS;
    l->local_bytes = (256 + 32 + 2 * dim + 8 * l->n_items) * (uint32_t)sizeof(float);
    return TQKV_PAGE_TOKENS;
}

static tqkv_status record_read(pages_call *c, uint32_t first, uint32_t n_sides)
{
    const read_arguments *a = c->arguments;
    const tqkv_gpu_pages *p = c->pages;
    const tqkv_gpu_operand *o = first ? &p->values : &p->keys;
    read_params r = {.keys = pages_side_of(p, 1), .values = pages_side_of(p, 0),
                     .to_row = a->row, .to_head = a->head, .layer = c->first_layer,
                     .n_kv_heads = p->n_kv_heads, .first_side = first, .n_sides = n_sides,
                     .n_pages = p->n_pages, .n_staged = p->staged.n_pages, .n_numbers = a->n,
                     .to_type = a->type};
    for (int i = 0; i < 2 && p->staged.n_pages; i++)
        pages_side_from_staged(i ? &r.values : &r.keys, p, !i);
    const format_params *f = first ? &r.values.format : &r.keys.format;
    char options[192] = "";
    operand_rotation_set(&r.rotation, o, 1);
    r.to_wide = (a->row | a->head) % 16 == 0 && (!a->keys || buffer_is_aligned(a->keys, 0, 16)) &&
                (!a->values || buffer_is_aligned(a->values, 0, 16));
    launch l = {.buffers = {c->views[0], c->views[1], c->views[2], c->views[3], c->views[4],
                            c->views[5], c->views[STAGED_KEYS], c->views[STAGED_KEYS + 1],
                            p->keys.balances, a->numbers, a->keys, a->values},
                .n_buffers = 12, .is_entered = 1};
    uint32_t rows = place_lanes(c->e->device, &r, f, &l);
    if (n_sides == 1 || !memcmp(&r.keys.format, &r.values.format, sizeof r.keys.format)) {
        size_t length = format_options(options, sizeof options, "FORMAT", f);
        snprintf(options + length, sizeof options - length, "GROUP_SIZE=%u MIN_GROUPS=16",
                 l.n_items);
    }
    uint64_t n = product3(product3(a->n, TQKV_PAGE_TOKENS / rows, 1), p->n_kv_heads, n_sides);
    tqkv_status status = launch_set_groups(&l, c->e, n);
    if (status == TQKV_OK)
        status = launch_find(&l, c->e, c->registry, rows > 1 ? "read_pages_lanes" : "read_pages",
                             rows > 1 ? options : NULL);
    return status == TQKV_OK ? launch_record(&l, c->e, &r, sizeof r) : status;
}

tqkv_status tqkv_dispatch_read(tqkv_encoder *e, tqkv_registry *registry,
                               const tqkv_gpu_pages *pages, uint32_t layer,
                               tqkv_buffer *page_numbers, uint32_t n_numbers, tqkv_buffer *keys,
                               tqkv_buffer *values, tqkv_type type, size_t row_stride,
                               size_t head_stride)
{
    read_arguments a = {.numbers = page_numbers, .keys = keys, .values = values, .n = n_numbers,
                        .type = type};
    pages_call c = {.e = e, .registry = registry, .pages = pages, .first_layer = layer,
                    .n_layers = 1, .arguments = &a};
    tqkv_status status = pages_begin(&c);
    if (status == TQKV_OK)
        status = pages_check(&c, 1, pages && pages->staged.n_pages);
    if (status != TQKV_OK)
        return status;
    if (!is_type(type) || (!keys && !values))
        return FAILED(e, TQKV_ERROR_ARGUMENT, "numbers: nowhere to put them, or of no type");
    if (row_stride > SIZE_MAX / 4 || head_stride > SIZE_MAX / 4)
        return FAILED(e, TQKV_ERROR_OVERFLOW, "numbers: rows are too far apart");
    a.row = row_stride * type_size(type);
    a.head = head_stride * type_size(type);
    if (n_numbers == 0)
        return TQKV_OK;
    status = check_target(&c, &a, 1);
    if (status == TQKV_OK)
        status = check_target(&c, &a, 0);
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, page_numbers, 0, n_numbers * 4ull, 4, "page numbers");
    if (status != TQKV_OK)
        return status;
    return pages_record(&c, record_read, 1, pages->staged.n_pages != 0, pages_are_one_launch(pages),
                        (keys != NULL) | (unsigned)(values != NULL) << 1);
}

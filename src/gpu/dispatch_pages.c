/* Pages on devices: laying them out, filling, sealing and reading them. */
#include "gpu/dispatch_pages.h"

#include <math.h>
#include <stdio.h>

#include "format/format.h"
#include "page/mean.h"

/* ---- layouts ---- */

tqkv_status tqkv_gpu_page_bytes(const tqkv_format *format, size_t *bytes)
{
    tqkv_status status = tqkv_page_bytes(format, 1, bytes);
    if (status == TQKV_OK)
        *bytes = (*bytes + 15) / 16 * 16;
    return status;
}

/* Room for a page of all heads from `offset` on, each head's `block` bytes. */
static tqkv_status check_layout(tqkv_buffer *b, size_t offset, size_t block, uint32_t n_kv_heads,
                                const tqkv_gpu_operand *operand)
{
    uint64_t page = product3(n_kv_heads, block, 1);
    if (!operand || n_kv_heads == 0)
        return device_failed(b->device, TQKV_ERROR_ARGUMENT, "pages: an argument is null or 0");
    if (offset > b->bytes || page > b->bytes - offset)
        return device_failed(b->device, TQKV_ERROR_BUFFER,
                             "pages: one of %llu bytes at %zu, in a buffer of %zu",
                             (unsigned long long)page, offset, b->bytes);
    return TQKV_OK;
}

tqkv_status tqkv_gpu_pages_at(const tqkv_format *format, tqkv_buffer *buffer, size_t offset,
                              uint32_t n_kv_heads, tqkv_gpu_operand *operand)
{
    size_t block;
    tqkv_status status = handle_check(buffer, HANDLE_BUFFER);
    if (status != TQKV_OK)
        return status;
    status = tqkv_gpu_page_bytes(format, &block);
    if (status != TQKV_OK)
        return device_failed(buffer->device, status, "pages: %s", tqkv_status_string(status));
    status = check_layout(buffer, offset, block, n_kv_heads, operand);
    if (status != TQKV_OK)
        return status;
    size_t code = format_code_bytes(format), scale = format_scale_bytes(format);
    size_t page = block * n_kv_heads;
    *operand = (tqkv_gpu_operand){
        .format = *format,
        .rows = {.codes = buffer, .scales = buffer, .code_offset = offset,
                 .scale_offset = offset + TQKV_PAGE_TOKENS * code, .code_stride = code,
                 .scale_stride = scale},
        .head = {block, block, block}, .page = {page, page, page}, .means = buffer,
        .mean_offset = offset + TQKV_PAGE_TOKENS * (code + scale)};
    return TQKV_OK;
}

tqkv_status tqkv_gpu_staged_at(uint32_t head_dim, tqkv_type type, tqkv_buffer *buffer,
                               size_t offset, uint32_t n_kv_heads, tqkv_gpu_operand *operand)
{
    tqkv_status status = handle_check(buffer, HANDLE_BUFFER);
    if (status != TQKV_OK)
        return status;
    tqkv_gpu_operand o = {.format = {.head_dim = (uint16_t)head_dim}, .type = (uint8_t)type};
    if (head_dim > TQKV_GPU_MAX_HEAD_DIM || !is_type(type) || !operand_format_is_good(&o))
        return device_failed(buffer->device, TQKV_ERROR_FORMAT,
                             "staged pages: a head_dim of %u, type %d", head_dim, (int)type);
    size_t row = head_dim * type_size(type), block = TQKV_PAGE_TOKENS * row;
    status = check_layout(buffer, offset, block, n_kv_heads, operand);
    if (status != TQKV_OK)
        return status;
    if (!buffer_is_aligned(buffer, offset, type_size(type)))
        return device_failed(buffer->device, TQKV_ERROR_ARGUMENT,
                             "staged pages do not begin at a multiple of %zu bytes",
                             type_size(type));
    o.rows = (tqkv_gpu_rows){.codes = buffer, .code_offset = offset, .code_stride = row};
    o.head.codes = block;
    o.page.codes = block * n_kv_heads;
    *operand = o;
    return TQKV_OK;
}

/* ---- checks ---- */

/* Distances between what is alike, in units of whatever the sum is in. */
typedef struct steps {
    uint64_t n_layers, layer, n_pages, page, n_rows, row, n_heads, head;
} steps;

/* From the first to the end of the last of `each`. */
static uint64_t extent_of(const steps *s, uint64_t each)
{
    uint64_t end = sum2(product3(s->n_layers - 1, s->layer, 1), product3(s->n_pages - 1, s->page, 1));
    end = sum2(end, product3(s->n_rows - 1, s->row, 1));
    return sum2(sum2(end, product3(s->n_heads - 1, s->head, 1)), each);
}

static tqkv_status check_part(pages_call *c, tqkv_buffer *b, size_t offset, const steps *s,
                              size_t each, size_t alignment, const char *what)
{
    if (s->n_rows > 1 && s->row < each)
        return FAILED(c->e, TQKV_ERROR_BUFFER, "%s: rows overlap", what);
    if (s->row > UINT32_MAX)
        return FAILED(c->e, TQKV_ERROR_OVERFLOW, "%s: rows are too far apart", what);
    if ((s->layer | s->page | s->row | s->head) % alignment)
        return FAILED(c->e, TQKV_ERROR_ARGUMENT, "%s: strides are no multiples of %zu bytes", what,
                      alignment);
    return dispatch_check_buffer(c->e, b, offset, extent_of(s, each), alignment, what);
}

static tqkv_status check_sealed_side(pages_call *c, const tqkv_gpu_operand *o, int is_key)
{
    const tqkv_gpu_pages *p = c->pages;
    const tqkv_gpu_rows *r = &o->rows;
    if (!o->format.codebook || !operand_format_is_good(o))
        return FAILED(c->e, TQKV_ERROR_FORMAT, "sealed pages: not a format of codes");
    if (is_key && !balances_are_good(o))
        return FAILED(c->e, TQKV_ERROR_PROFILE, "balances stretch keys before their rotation");
    if (o->is_rotated && o->means)
        return FAILED(c->e, TQKV_ERROR_ARGUMENT, "means are in the original domain, rows are not");
    if (!isfinite(o->scale_factor_d512))
        return FAILED(c->e, TQKV_ERROR_ARGUMENT, "scale_factor_d512 is no number");
    steps s = {p->n_layers, o->layer.codes, p->n_pages, o->page.codes, TQKV_PAGE_TOKENS,
               r->code_stride, p->n_kv_heads, o->head.codes};
    tqkv_status status = check_part(c, r->codes, r->code_offset, &s, format_code_bytes(&o->format),
                                    1, is_key ? "keys" : "values");
    s = (steps){p->n_layers, o->layer.scales, p->n_pages, o->page.scales, TQKV_PAGE_TOKENS,
                r->scale_stride, p->n_kv_heads, o->head.scales};
    if (status == TQKV_OK)
        status = check_part(c, r->scales, r->scale_offset, &s, format_scale_bytes(&o->format), 1,
                            is_key ? "scales of keys" : "scales of values");
    s = (steps){p->n_layers, o->layer.means, p->n_pages, o->page.means, 1, 0, p->n_kv_heads,
                o->head.means};
    if (status == TQKV_OK && o->means)
        status = check_part(c, o->means, o->mean_offset, &s, mean_bytes(o->format.head_dim), 1,
                            is_key ? "means of keys" : "means of values");
    if (status == TQKV_OK && is_key && o->balances)
        status = dispatch_check_buffer(
            c->e, o->balances, 0,
            product3((uint64_t)p->n_layers * p->n_kv_heads, o->format.head_dim, 4), 4, "balances");
    return status;
}

static tqkv_status check_staged_side(pages_call *c, const tqkv_gpu_operand *o, int is_key)
{
    const tqkv_gpu_pages *p = c->pages;
    if (o->format.codebook || !operand_format_is_good(o))
        return FAILED(c->e, TQKV_ERROR_FORMAT, "staged pages: not plain numbers");
    size_t size = type_size(o->type);
    steps s = {p->n_layers, o->layer.codes, p->staged.n_pages, o->page.codes, TQKV_PAGE_TOKENS,
               o->rows.code_stride, p->n_kv_heads, o->head.codes};
    return check_part(c, o->rows.codes, o->rows.code_offset, &s, o->format.head_dim * size, size,
                      is_key ? "staged keys" : "staged values");
}

tqkv_status pages_check(pages_call *c, int is_sealed, int is_staged)
{
    const tqkv_gpu_pages *p = c->pages;
    if (!p || !p->n_layers || !p->n_kv_heads)
        return FAILED(c->e, TQKV_ERROR_ARGUMENT, "no pages, or of no layers or heads");
    if (!c->n_layers || c->first_layer >= p->n_layers ||
        c->n_layers > p->n_layers - c->first_layer)
        return FAILED(c->e, TQKV_ERROR_ARGUMENT, "layers %u and following: there are %u",
                      c->first_layer, p->n_layers);
    if ((is_sealed && (!p->n_pages || p->n_pages > TQKV_PAGE_STAGED)) ||
        (is_staged && (!p->staged.n_pages || p->staged.n_pages > TQKV_PAGE_STAGED)))
        return FAILED(c->e, TQKV_ERROR_ARGUMENT, "no pages, or more than can be numbered");
    tqkv_status status = TQKV_OK;
    for (int i = 0; i < 2 && status == TQKV_OK; i++) {
        const tqkv_gpu_operand *o = i ? &p->values : &p->keys;
        const tqkv_gpu_operand *staged = i ? &p->staged.values : &p->staged.keys;
        if (is_sealed)
            status = check_sealed_side(c, o, !i);
        if (status == TQKV_OK && is_staged)
            status = check_staged_side(c, staged, !i);
        if (status == TQKV_OK && is_sealed && is_staged &&
            staged->format.head_dim != o->format.head_dim)
            status = FAILED(c->e, TQKV_ERROR_FORMAT, "staged and sealed rows differ in head_dim");
    }
    return status;
}

/* Strides of new rows in elements, layer, row and head. */
static void strides_of(const pages_call *c, const tqkv_gpu_new_rows *r, int is_key, uint32_t dim,
                       size_t *stride)
{
    stride[0] = is_key ? r->key_layer_stride : r->value_layer_stride;
    stride[1] = is_key ? r->key_row_stride : r->value_row_stride;
    stride[2] = is_key ? r->key_head_stride : r->value_head_stride;
    if (stride[0] | stride[1] | stride[2])
        return;
    stride[2] = dim;
    stride[1] = (size_t)product3(c->pages->n_kv_heads, dim, 1);
    stride[0] = (size_t)product3(stride[1], r->n_rows, 1);
}

tqkv_status pages_check_rows(pages_call *c, const tqkv_gpu_new_rows *r, const uint32_t *dims)
{
    if (!r || !is_type(r->type))
        return FAILED(c->e, TQKV_ERROR_ARGUMENT, "new rows: none, or of no type");
    size_t size = type_size(r->type);
    tqkv_status status = TQKV_OK;
    for (int i = 0; i < 2 && r->n_rows && status == TQKV_OK; i++) {
        size_t stride[3];
        strides_of(c, r, !i, dims[i], stride);
        steps s = {c->n_layers, stride[0], 1, 0, r->n_rows, stride[1], c->pages->n_kv_heads,
                   stride[2]};
        uint64_t end = product3(extent_of(&s, dims[i]), size, 1);
        if (stride[1] > UINT32_MAX / size)
            status = FAILED(c->e, TQKV_ERROR_OVERFLOW, "new rows are too far apart");
        else
            status = dispatch_check_buffer(c->e, i ? r->values : r->keys, 0, end, size,
                                           i ? "new values" : "new keys");
        c->from_layer[i] = stride[0] * size;
        c->from_row[i] = stride[1] * size;
        c->from_head[i] = stride[2] * size;
    }
    if (status == TQKV_OK && r->n_rows)
        status = dispatch_check_buffer(c->e, r->places, 0, r->n_rows * 4ull, 4, "places");
    return status;
}

/* ---- what kernels get ---- */

static int is_wide(const tqkv_buffer *b, size_t offset, size_t strides)
{
    return b && strides % 16 == 0 && buffer_is_aligned(b, offset, 16);
}

pages_side pages_side_of(const tqkv_gpu_pages *p, int is_key)
{
    const tqkv_gpu_operand *o = is_key ? &p->keys : &p->values;
    const tqkv_gpu_rows *r = &o->rows;
    pages_side s = {
        .code_layer = o->layer.codes, .code_page = o->page.codes, .code_head = o->head.codes,
        .scale_layer = o->layer.scales, .scale_page = o->page.scales, .scale_head = o->head.scales,
        .code_row = (uint)r->code_stride, .scale_row = (uint)r->scale_stride,
        .has_balance = is_key && o->balances};
    if (o->means) {
        s.mean_layer = o->layer.means;
        s.mean_page = o->page.means;
        s.mean_head = o->head.means;
        s.has_mean = 1;
    }
    format_params_set(&s.format, &o->format, 0, o->scale_factor_d512 != 0 ? o->scale_factor_d512 : 1);
    s.format.words = (uint)rows_have_words(&s.format, r->codes, r->code_offset,
                                           r->code_stride | o->layer.codes | o->page.codes |
                                               o->head.codes);
    return s;
}

void pages_side_from_staged(pages_side *s, const tqkv_gpu_pages *p, int is_key)
{
    const tqkv_gpu_operand *o = is_key ? &p->staged.keys : &p->staged.values;
    s->from_layer = o->layer.codes;
    s->from_page = o->page.codes;
    s->from_head = o->head.codes;
    s->from_row = (uint)o->rows.code_stride;
    s->from_type = o->type;
    s->from_wide = (uint)is_wide(o->rows.codes, o->rows.code_offset,
                                 o->layer.codes | o->page.codes | o->head.codes |
                                     o->rows.code_stride);
}

void pages_side_from_rows(pages_call *c, pages_side *s, const tqkv_gpu_new_rows *r, int is_key)
{
    s->from_layer = c->from_layer[!is_key];
    s->from_page = 0;
    s->from_head = c->from_head[!is_key];
    s->from_row = (uint)c->from_row[!is_key];
    s->from_type = r->type;
    s->from_wide = (uint)is_wide(is_key ? r->keys : r->values, 0,
                                 s->from_layer | s->from_head | s->from_row);
}

static tqkv_status view_at(tqkv_buffer *b, size_t offset, tqkv_buffer **view)
{
    return b ? tqkv_buffer_view(b, offset, b->bytes - offset, view) : TQKV_OK;
}

static tqkv_status pages_views(pages_call *c, int is_sealed, int is_staged)
{
    const tqkv_gpu_pages *p = c->pages;
    tqkv_status status = TQKV_OK;
    for (int i = 0; i < 2 && status == TQKV_OK; i++) {
        const tqkv_gpu_operand *o = i ? &p->values : &p->keys;
        const tqkv_gpu_rows *staged = i ? &p->staged.values.rows : &p->staged.keys.rows;
        if (is_sealed)
            status = view_at(o->rows.codes, o->rows.code_offset, &c->views[3 * i]);
        if (status == TQKV_OK && is_sealed)
            status = view_at(o->rows.scales, o->rows.scale_offset, &c->views[3 * i + 1]);
        if (status == TQKV_OK && is_sealed)
            status = view_at(o->means, o->mean_offset, &c->views[3 * i + 2]);
        if (status == TQKV_OK && is_staged)
            status = view_at(staged->codes, staged->code_offset, &c->views[STAGED_KEYS + i]);
    }
    return status == TQKV_OK ? status : FAILED(c->e, status, "out of host memory");
}

tqkv_status pages_begin(pages_call *c)
{
    tqkv_status status = handle_check(c->e, HANDLE_ENCODER);
    return status == TQKV_OK ? dispatch_check(c->e, c->registry, c->e->device) : status;
}

int pages_are_one_launch(const tqkv_gpu_pages *p)
{
    const tqkv_format *k = &p->keys.format, *v = &p->values.format;
    return k->codebook == v->codebook && k->head_dim == v->head_dim &&
           k->rotation == v->rotation && !p->keys.is_rotated == !p->values.is_rotated;
}

tqkv_status pages_record(pages_call *c, pages_recorder record, int is_sealed, int is_staged,
                         int is_one, unsigned sides)
{
    tqkv_status status = encoder_enter(c->e);
    if (status != TQKV_OK)
        return status;
    size_t recorded = c->e->list.n;
    status = pages_views(c, is_sealed, is_staged);
    if (status == TQKV_OK && is_one && sides == 3) {
        status = record(c, 0, 2);
    } else {
        for (uint32_t i = 0; i < 2 && status == TQKV_OK; i++)
            if (sides >> i & 1)
                status = record(c, i, 1);
    }
    for (int i = 0; i < PAGES_VIEWS; i++)
        tqkv_buffer_free(c->views[i]);
    if (status != TQKV_OK)
        encoder_truncate(c->e, recorded);
    return encoder_leave(c->e, status);
}

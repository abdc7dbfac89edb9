#include "gpu/dispatch_cache.h"

#include <math.h>

#include "format/format.h"
#include "page/mean.h"

int operand_format_is_good(const tqkv_gpu_operand *o)
{
    const tqkv_format *f = &o->format;
    if (f->codebook == 0)
        return is_type(o->type) && f->head_dim >= 8 && f->head_dim % 8 == 0 &&
               f->head_dim <= TQKV_GPU_MAX_HEAD_DIM;
    return tqkv_format_check(f) == TQKV_OK && f->head_dim <= TQKV_GPU_MAX_HEAD_DIM;
}

int balances_are_good(const tqkv_gpu_operand *keys)
{
    return !keys->balances || !keys->is_rotated;
}

static uint64_t count_slots(const tqkv_gpu_attention *a)
{
    return a->capacity ? a->capacity : sum2(a->first_slot, a->n_tokens);
}

/* The last byte of a part of an operand. */
static tqkv_status check_part(tqkv_encoder *e, const tqkv_gpu_attention *a, tqkv_buffer *buffer,
                              size_t offset, size_t row, size_t head, size_t page,
                              size_t sequence, size_t bytes, size_t alignment, const char *what)
{
    uint64_t slots = a->pages ? a->page_size : count_slots(a);
    if (a->n_tokens == 0)
        return dispatch_check_buffer(e, buffer, offset, 0, 1, what);
    uint64_t end = sum2(product3(slots - 1, row, 1), product3(a->n_kv_heads - 1, head, 1));
    end = sum2(end, a->pages ? product3(a->n_pages - 1, page, 1)
                             : product3(a->n_sequences - 1, sequence, 1));
    if (alignment > 1 && (row | head | (a->pages ? page : sequence)) % alignment)
        return FAILED(e, TQKV_ERROR_ARGUMENT, "%s: strides are no multiples of %zu", what,
                      alignment);
    return dispatch_check_buffer(e, buffer, offset, sum2(end, bytes), alignment, what);
}

static tqkv_status check_operand(tqkv_encoder *e, const tqkv_gpu_attention *a,
                                 const tqkv_gpu_operand *o, int is_key)
{
    const tqkv_gpu_rows *r = &o->rows;
    int is_plain = o->format.codebook == 0;
    size_t code = is_plain ? o->format.head_dim * type_size(o->type) : format_code_bytes(&o->format);
    tqkv_status status =
        check_part(e, a, r->codes, r->code_offset, r->code_stride, o->head.codes, o->page.codes,
                   o->sequence.codes, code, is_plain ? type_size(o->type) : 1,
                   is_key ? "keys" : "values");
    if (status == TQKV_OK && !is_plain)
        status = check_part(e, a, r->scales, r->scale_offset, r->scale_stride, o->head.scales,
                            o->page.scales, o->sequence.scales, format_scale_bytes(&o->format), 1,
                            is_key ? "scales of keys" : "scales of values");
    if (status == TQKV_OK && o->balances)
        status = dispatch_check_buffer(e, o->balances, 0,
                                       product3(a->n_kv_heads, o->format.head_dim, 4), 4,
                                       "balances");
    float factor = o->scale_factor_d512;
    if (status == TQKV_OK && !isfinite(factor))
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "scale_factor_d512 is %g", (double)factor);
    return status;
}

/* Means lie in pages of 64 rows; mean_bytes of each are read. */
static tqkv_status check_means(tqkv_encoder *e, const tqkv_gpu_attention *a,
                               const tqkv_gpu_operand *o, int is_key)
{
    if (!o->means)
        return TQKV_OK;
    if (!o->format.codebook || !a->pages || a->page_size != TQKV_PAGE_TOKENS ||
        a->capacity % TQKV_PAGE_TOKENS)
        return FAILED(e, TQKV_ERROR_ARGUMENT, "means are those of pages of %d rows of codes",
                      TQKV_PAGE_TOKENS);
    return check_part(e, a, o->means, o->mean_offset, 0, o->head.means, o->page.means, 0,
                      mean_bytes(o->format.head_dim), 1, is_key ? "means of keys" : "means of values");
}

static tqkv_status check_staged_operand(tqkv_encoder *e, const tqkv_gpu_attention *a,
                                        const tqkv_gpu_operand *o, uint32_t head_dim, int is_key)
{
    const tqkv_gpu_rows *r = &o->rows;
    if (o->format.codebook || !is_type(o->type) || o->format.head_dim != head_dim)
        return FAILED(e, TQKV_ERROR_FORMAT, "staged pages are plain numbers, as many a row as in "
                      "codes");
    size_t size = type_size(o->type);
    uint64_t end = sum2(product3(TQKV_PAGE_TOKENS - 1, r->code_stride, 1),
                        product3(a->n_kv_heads - 1, o->head.codes, 1));
    end = sum2(end, product3(a->staged->n_pages - 1, o->page.codes, 1));
    if ((r->code_stride | o->head.codes | o->page.codes) % size)
        return FAILED(e, TQKV_ERROR_ARGUMENT, "staged pages: strides are no multiples of %zu", size);
    return dispatch_check_buffer(e, r->codes, r->code_offset, sum2(end, head_dim * size), size,
                                 is_key ? "staged keys" : "staged values");
}

static tqkv_status check_staged(tqkv_encoder *e, const tqkv_gpu_attention *a)
{
    if (!a->staged)
        return TQKV_OK;
    if (!a->pages || a->page_size != TQKV_PAGE_TOKENS || !a->staged->n_pages ||
        a->capacity % TQKV_PAGE_TOKENS || a->n_pages >= TQKV_PAGE_STAGED)
        return FAILED(e, TQKV_ERROR_ARGUMENT, "staged pages stand among pages of %d rows",
                      TQKV_PAGE_TOKENS);
    if (a->keys.is_rotated || a->values.is_rotated)
        return FAILED(e, TQKV_ERROR_ARGUMENT, "staged pages are in the original domain, queries are "
                      "not");
    tqkv_status status =
        check_staged_operand(e, a, &a->staged->keys, a->keys.format.head_dim, 1);
    return status == TQKV_OK
               ? check_staged_operand(e, a, &a->staged->values, a->values.format.head_dim, 0)
               : status;
}

static tqkv_status check_places(tqkv_encoder *e, const tqkv_gpu_attention *a)
{
    if (a->capacity && (a->n_tokens > a->capacity || a->first_slot >= a->capacity))
        return FAILED(e, TQKV_ERROR_ARGUMENT, "a ring of %u slots does not hold %u tokens from "
                      "slot %llu on", a->capacity, a->n_tokens,
                      (unsigned long long)a->first_slot);
    if (!a->pages)
        return TQKV_OK;
    if (!a->page_size || !a->n_pages)
        return FAILED(e, TQKV_ERROR_ARGUMENT, "pages of no tokens, or no pages");
    if (a->n_tokens && (count_slots(a) - 1) / a->page_size >= a->pages_stride)
        return FAILED(e, TQKV_ERROR_BUFFER, "%u pages a sequence do not hold its slots",
                      a->pages_stride);
    return dispatch_check_buffer(e, a->pages, 0, product3(a->n_sequences, a->pages_stride, 4), 4,
                                 "pages");
}

tqkv_status cache_check(tqkv_encoder *e, const tqkv_gpu_attention *a)
{
    tqkv_status status = check_places(e, a);
    if (status == TQKV_OK)
        status = check_operand(e, a, &a->keys, 1);
    if (status == TQKV_OK)
        status = check_operand(e, a, &a->values, 0);
    if (status == TQKV_OK && cache_has_means(a) && (a->keys.is_rotated || a->values.is_rotated))
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "means are in the original domain, queries are not");
    if (status == TQKV_OK)
        status = check_means(e, a, &a->keys, 1);
    if (status == TQKV_OK)
        status = check_means(e, a, &a->values, 0);
    if (status == TQKV_OK)
        status = check_staged(e, a);
    if (status == TQKV_OK && a->lengths)
        status = dispatch_check_buffer(e, a->lengths, 0, a->n_sequences * 4ull, 4, "lengths");
    return status;
}

operand_params operand_of(const tqkv_gpu_attention *a, const tqkv_gpu_operand *o)
{
    const tqkv_gpu_rows *r = &o->rows;
    int paged = a->pages != NULL;
    operand_params p = {
        r->code_stride, r->scale_stride, o->head.codes, o->head.scales,
        o->page.codes, o->page.scales,
        paged ? 0 : o->sequence.codes, paged ? 0 : o->sequence.scales,
        o->head.means, o->page.means, {0}};
    format_params_set(&p.format, &o->format, o->type,
                      o->scale_factor_d512 != 0 ? o->scale_factor_d512 : 1);
    p.format.words = (uint)rows_have_words(&p.format, r->codes, r->code_offset,
                                           r->code_stride | o->head.codes |
                                               (paged ? o->page.codes : o->sequence.codes));
    return p;
}

place_params places_of(const tqkv_gpu_attention *a)
{
    return (place_params){a->first_slot, a->capacity, a->pages ? a->page_size : 0,
                          a->pages_stride, a->n_pages, a->staged ? a->staged->n_pages : 0, 0};
}

void operand_rotation_set(rotation_params *p, const tqkv_gpu_operand *o, int inverse)
{
    rotation_params_set(p, &o->format, inverse);
    if (o->is_rotated)
        p->active = p->has_signs = 0;
}

static tqkv_status view_from(tqkv_buffer *b, size_t offset, tqkv_buffer **view)
{
    if (!b || offset >= b->bytes)
        return TQKV_OK; /* nothing there is read */
    return tqkv_buffer_view(b, offset, b->bytes - offset, view);
}

tqkv_status cache_views(const tqkv_gpu_attention *a, uint64_t first, tqkv_buffer **views)
{
    const tqkv_gpu_operand *operands[] = {&a->keys, &a->values};
    tqkv_status status = TQKV_OK;
    for (int i = 0; status == TQKV_OK && i < CACHE_VIEWS; i++) {
        const tqkv_gpu_operand *o = operands[i / 2];
        const tqkv_gpu_rows *r = &o->rows;
        if (i % 2 == 0)
            status = view_from(r->codes, r->code_offset + (size_t)first * r->code_stride, &views[i]);
        else if (o->format.codebook)
            status = view_from(r->scales, r->scale_offset + (size_t)first * r->scale_stride,
                               &views[i]);
    }
    return status;
}

int cache_has_means(const tqkv_gpu_attention *a)
{
    return a->keys.means || a->values.means;
}

staged_params staged_of(const tqkv_gpu_operand *o)
{
    return (staged_params){o->rows.code_stride, o->head.codes, o->page.codes, o->type, 0};
}

tqkv_status page_views(const tqkv_gpu_attention *a, tqkv_buffer **views)
{
    const tqkv_gpu_operand *operands[] = {&a->keys, &a->values};
    tqkv_status status = TQKV_OK;
    for (int i = 0; status == TQKV_OK && i < 2; i++)
        status = view_from(operands[i]->means, operands[i]->mean_offset, &views[i]);
    for (int i = 0; status == TQKV_OK && a->staged && i < 2; i++) {
        const tqkv_gpu_rows *r = i ? &a->staged->values.rows : &a->staged->keys.rows;
        status = view_from(r->codes, r->code_offset, &views[2 + i]);
    }
    return status;
}

void views_free(tqkv_buffer **views, int n)
{
    for (int i = 0; i < n; i++)
        tqkv_buffer_free(views[i]);
}

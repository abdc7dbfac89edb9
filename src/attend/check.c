#include "attend/check.h"

#include <math.h>

#include "common/checked.h"
#include "format/format.h"
#include "format/spare.h"

/* Positions are differences of signed numbers. */
#define LARGEST_POSITION ((uint64_t)1 << 62)
/* Together with the largest query and key it keeps logits finite. */
#define LARGEST_FACTOR 0x1p20f
#define LARGEST_SINK 1e37f

int check_is_float(const tqkv_format *f)
{
    return !f->codebook ||
           (f->codebook == TQKV_CODEBOOK_MLX && (f->rate == 128 || f->head_dim > 256));
}

static tqkv_status check_type(unsigned type)
{
    return type == TQKV_F32 || type == TQKV_F16 || type == TQKV_BF16 ? TQKV_OK
                                                                      : TQKV_ERROR_ARGUMENT;
}

static tqkv_status check_format(const tqkv_operand *o)
{
    const tqkv_format *f = &o->format;
    if (f->codebook)
        return tqkv_format_check(f);
    if (f->head_dim < 16 || f->head_dim > TQKV_MAX_HEAD_DIM)
        return TQKV_ERROR_HEAD_DIM_RANGE;
    if (f->head_dim % 16)
        return TQKV_ERROR_HEAD_DIM_STEP;
    if (f->rate || f->layout || f->rotation || f->reserved)
        return TQKV_ERROR_FORMAT;
    return check_type(o->type);
}

static tqkv_status check_set(const tqkv_attention *a, const tqkv_tokens *set)
{
    tqkv_status status = check_format(&set->keys);
    if (status == TQKV_OK)
        status = check_format(&set->values);
    if (status != TQKV_OK)
        return status;
    if (set->keys.format.head_dim != a->sets[0].keys.format.head_dim ||
        set->values.format.head_dim != a->sets[0].values.format.head_dim)
        return TQKV_ERROR_ARGUMENT;
    if (set->position > LARGEST_POSITION || set->n_tokens > LARGEST_POSITION)
        return TQKV_ERROR_ARGUMENT;
    if (set->capacity && (set->first_slot >= set->capacity || set->n_tokens > set->capacity))
        return TQKV_ERROR_ARGUMENT;
    if (set->pages && (set->page_size < 16 || set->page_size > 256))
        return TQKV_ERROR_ARGUMENT;
    for (uint32_t h = 0; set->keys.profiles && h < a->n_kv_heads; h++)
        if (set->keys.profiles[h].n_centres < 1 || set->keys.profiles[h].n_centres > 256)
            return TQKV_ERROR_ARGUMENT;
    return TQKV_OK;
}

static int is_factor(float x)
{
    return fabsf(x) <= LARGEST_FACTOR; /* false for NaN */
}

tqkv_status check_shape(const tqkv_attention *a)
{
    size_t tokens = 0;
    if (!a || !a->sets || !a->n_sets)
        return TQKV_ERROR_ARGUMENT;
    if (!a->n_kv_heads || a->n_heads % a->n_kv_heads)
        return TQKV_ERROR_ARGUMENT;
    if (!is_factor(a->scale) || !is_factor(a->softcap) || a->softcap < 0)
        return TQKV_ERROR_ARGUMENT;
    if (a->position > LARGEST_POSITION)
        return TQKV_ERROR_ARGUMENT;
    for (size_t i = 0; i < a->n_sets; i++) {
        tqkv_status status = check_set(a, &a->sets[i]);
        if (status != TQKV_OK)
            return status;
        if (!size_add(tokens, a->sets[i].n_tokens, &tokens) || tokens > SIZE_MAX / 2)
            return TQKV_ERROR_OVERFLOW;
    }
    return check_type(a->query_type);
}

/* ---- data ---- */

/* Whether rows of `row` bytes at these strides stay within the address space. */
static int fits(size_t row, size_t stride, size_t rows, size_t head_stride, size_t heads,
                size_t page_stride, size_t pages)
{
    size_t a, b, c;
    return size_multiply(stride, rows, &a) && size_multiply(head_stride, heads, &b) &&
           size_multiply(page_stride, pages, &c) && size_add(a, b, &a) && size_add(a, c, &a) &&
           size_add(a, row, &a) && a <= PTRDIFF_MAX;
}

/* The same of numbers of `element` bytes, n by n_outer rows of them; strides are in elements,
 * and count only where there is more than one row. */
static int elements_fit(size_t element, size_t row, size_t stride, size_t n, size_t outer_stride,
                        size_t n_outer)
{
    return (!n || !n_outer) ||
           ((n == 1 || size_multiply(stride, element, &stride)) &&
            (n_outer == 1 || size_multiply(outer_stride, element, &outer_stride)) &&
            size_multiply(row, element, &row) &&
            fits(row, n == 1 ? 0 : stride, n - 1, n_outer == 1 ? 0 : outer_stride, n_outer - 1, 0,
                 0));
}

static tqkv_status check_extent(const tqkv_attention *a, const tqkv_tokens *set,
                                const tqkv_operand *o)
{
    const tqkv_rows *r = &o->rows;
    size_t codes, slots, scales = 0, pages = 0;
    if (o->format.codebook) {
        codes = format_code_bytes(&o->format);
        scales = format_scale_bytes(&o->format);
    } else {
        codes = (size_t)o->format.head_dim * (o->type == TQKV_F32 ? 4 : 2);
    }
    if (!r->codes || (scales && !r->scales) || !spare_allowed(&o->format, r->spare_bits))
        return TQKV_ERROR_ARGUMENT;
    if (!size_add(set->first_slot, set->n_tokens, &slots))
        return TQKV_ERROR_OVERFLOW;
    if (set->capacity)
        slots = set->capacity;
    if (set->pages) {
        slots = set->page_size;
        pages = set->n_pages;
    }
    if (!fits(codes, r->code_stride, slots, o->head.codes, a->n_kv_heads, o->page.codes, pages) ||
        !fits(scales, r->scale_stride, slots, o->head.scales, a->n_kv_heads, o->page.scales,
              pages) ||
        !fits(1, r->centre_stride, slots, o->head.centres, a->n_kv_heads, o->page.centres, pages) ||
        (o->means && !elements_fit(sizeof *o->means, o->format.head_dim, o->mean_page_stride,
                                   pages, o->mean_head_stride, a->n_kv_heads)))
        return TQKV_ERROR_OVERFLOW;
    return TQKV_OK;
}

/* Queries, outputs and mask. */
static tqkv_status check_rows(const tqkv_attention *a)
{
    size_t key_dim = a->sets[0].keys.format.head_dim, value_dim = a->sets[0].values.format.head_dim;
    size_t head_stride = a->head_stride ? a->head_stride : key_dim, tokens = 0, row, out;
    if (!size_multiply(a->n_heads, key_dim, &row) || !size_multiply(a->n_heads, value_dim, &out))
        return TQKV_ERROR_OVERFLOW;
    if (!elements_fit(a->query_type == TQKV_F32 ? 4 : 2, key_dim,
                      a->query_stride ? a->query_stride : row, a->n_queries, head_stride,
                      a->n_heads) ||
        !elements_fit(sizeof(float), out, out, a->n_queries, 0, 1))
        return TQKV_ERROR_OVERFLOW;
    for (size_t i = 0; i < a->n_sets; i++)
        tokens += a->sets[i].n_tokens; /* checked not to overflow */
    if (a->mask && !elements_fit(a->mask_type == TQKV_F32 ? 4 : 2, tokens, a->mask_stride,
                                 a->n_queries, a->mask_head_stride, a->n_heads))
        return TQKV_ERROR_OVERFLOW;
    return TQKV_OK;
}

/* The pages of slots [first, end). */
static int are_pages(const tqkv_tokens *set, size_t first, size_t end)
{
    for (size_t i = first / set->page_size; i * set->page_size < end; i++)
        if (set->pages[i] >= set->n_pages)
            return 0;
    return 1;
}

static tqkv_status check_pages(const tqkv_tokens *set)
{
    size_t end = set->first_slot + set->n_tokens; /* checked not to overflow */
    size_t wrapped = 0;
    if (set->capacity && end > set->capacity) {
        wrapped = end - set->capacity;
        end = set->capacity;
    }
    return are_pages(set, set->first_slot, end) && are_pages(set, 0, wrapped)
               ? TQKV_OK
               : TQKV_ERROR_ARGUMENT;
}

static tqkv_status check_profiles(const tqkv_attention *a, const tqkv_operand *o)
{
    for (uint32_t h = 0; o->profiles && h < a->n_kv_heads; h++) {
        const tqkv_key_profile *p = &o->profiles[h];
        if (p->head_dim != o->format.head_dim)
            return TQKV_ERROR_PROFILE;
        if (!p->balance || !p->centres || p->n_centres > spare_numbers(&o->rows))
            return TQKV_ERROR_ARGUMENT;
    }
    return TQKV_OK;
}

static tqkv_status check_numbers(const float *x, uint32_t n, float limit, int may_be_absent)
{
    for (uint32_t i = 0; x && i < n; i++)
        if (!(fabsf(x[i]) <= limit) && !(may_be_absent && x[i] == -INFINITY))
            return TQKV_ERROR_ARGUMENT;
    return TQKV_OK;
}

tqkv_status check_data(const tqkv_attention *a)
{
    if (a->n_queries && a->n_heads && !a->queries)
        return TQKV_ERROR_ARGUMENT;
    if (a->mask && a->mask_type != TQKV_F16 && a->mask_type != TQKV_F32)
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = check_rows(a);
    if (status != TQKV_OK)
        return status;
    status = check_numbers(a->slopes, a->n_heads, LARGEST_FACTOR, 0);
    for (uint32_t h = 0; status == TQKV_OK && a->mask_slopes && h < a->n_heads; h++)
        if (!(a->mask_slopes[h] >= 0 && a->mask_slopes[h] <= LARGEST_FACTOR))
            status = TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        status = check_numbers(a->sinks, a->n_heads, LARGEST_SINK, 1);
    for (size_t i = 0; status == TQKV_OK && i < a->n_sets; i++) {
        const tqkv_tokens *set = &a->sets[i];
        if (!set->n_tokens)
            continue;
        if (set->values.profiles || set->values.means || (set->keys.means && !set->pages))
            return TQKV_ERROR_ARGUMENT;
        status = check_extent(a, set, &set->keys);
        if (status == TQKV_OK)
            status = check_extent(a, set, &set->values);
        if (status == TQKV_OK && set->pages)
            status = check_pages(set);
        if (status == TQKV_OK)
            status = check_profiles(a, &set->keys);
    }
    return status;
}

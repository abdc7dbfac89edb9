#include "attend/check.h"

#include <math.h>

#include "common/checked.h"
#include "format/format.h"
#include "page/page.h"

/* Positions are differences of signed numbers. */
#define LARGEST_POSITION ((uint64_t)1 << 62)
/* Together with the largest query and key it keeps logits finite. */
#define LARGEST_FACTOR 0x1p20f
#define LARGEST_SINK 1e37f

int check_is_float(const tqkv_format *f)
{
    return !f->codebook ||
           (f->codebook == TQKV_CODEBOOK_MLX && (f->bits == 8 || f->head_dim > 256));
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
    if (f->bits || f->layout || f->rotation || f->reserved)
        return TQKV_ERROR_FORMAT;
    return check_type(o->type);
}

/* Pages of one more kind: of the sets' head_dims, and plain, or of the others' format. */
static tqkv_status check_kind(const tqkv_tokens *set, const tqkv_page_kind *kind, int is_plain)
{
    const tqkv_operand *mine[] = {&kind->keys, &kind->values};
    const tqkv_operand *others[] = {&set->keys, &set->values};
    for (int i = 0; i < 2; i++) {
        const tqkv_format *f = &mine[i]->format, *g = &others[i]->format;
        tqkv_status status = check_format(mine[i]);
        if (status != TQKV_OK)
            return status;
        if (f->head_dim != g->head_dim || (f->codebook == 0) != is_plain)
            return TQKV_ERROR_ARGUMENT;
        if (is_plain && !g->codebook && mine[i]->type != others[i]->type)
            return TQKV_ERROR_ARGUMENT;
        if (mine[i]->balances) /* the set's are meant */
            return TQKV_ERROR_ARGUMENT;
        if (!is_plain && (f->bits != g->bits || f->codebook != g->codebook ||
                          f->rotation != g->rotation ||
                          (mine[i]->means == NULL) != (others[i]->means == NULL)))
            return TQKV_ERROR_FORMAT;
    }
    return TQKV_OK;
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
    if (set->staged)
        status = check_kind(set, set->staged, 1);
    if (status == TQKV_OK && set->mixed)
        status = check_kind(set, set->mixed, 0);
    return status;
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

/* Means lie in pages of codes. */
static tqkv_status check_means(const tqkv_attention *a, const tqkv_tokens *set,
                               const tqkv_operand *o, size_t n_pages)
{
    size_t bytes = o->n_means * mean_bytes(o->format.head_dim);
    if (!o->means)
        return o->n_means || o->numbers ? TQKV_ERROR_ARGUMENT : TQKV_OK;
    if (!set->pages || set->page_size != TQKV_PAGE_TOKENS || !o->format.codebook || !o->n_means ||
        o->n_means > TQKV_MAX_MEANS || (o->n_means > 1 && !o->numbers))
        return TQKV_ERROR_ARGUMENT;
    int fit = fits(bytes, 0, 0, o->head.means, a->n_kv_heads, o->page.means, n_pages) &&
              fits(NUMBER_BYTES, 0, 0, o->head.numbers, a->n_kv_heads, o->page.numbers, n_pages);
    return fit ? TQKV_OK : TQKV_ERROR_OVERFLOW;
}

/* n_pages: that the operand's pages are numbered below, if there are pages. */
static tqkv_status check_extent(const tqkv_attention *a, const tqkv_tokens *set,
                                const tqkv_operand *o, size_t n_pages)
{
    const tqkv_rows *r = &o->rows;
    size_t codes, slots, scales = 0, pages = 0;
    if (o->format.codebook) {
        codes = format_code_bytes(&o->format);
        scales = format_scale_bytes(&o->format);
    } else {
        codes = (size_t)o->format.head_dim * (o->type == TQKV_F32 ? 4 : 2);
    }
    if (!r->codes || (scales && !r->scales))
        return TQKV_ERROR_ARGUMENT;
    if (!size_add(set->first_slot, set->n_tokens, &slots))
        return TQKV_ERROR_OVERFLOW;
    if (set->capacity)
        slots = set->capacity;
    if (set->pages) {
        slots = set->page_size;
        pages = n_pages;
    }
    if (!fits(codes, r->code_stride, slots, o->head.codes, a->n_kv_heads, o->page.codes, pages) ||
        !fits(scales, r->scale_stride, slots, o->head.scales, a->n_kv_heads, o->page.scales,
              pages))
        return TQKV_ERROR_OVERFLOW;
    return check_means(a, set, o, pages);
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
    for (size_t i = first / set->page_size; i * set->page_size < end; i++) {
        uint32_t entry = set->pages[i], number = entry & ~(TQKV_PAGE_STAGED | TQKV_PAGE_MIXED);
        uint32_t n_pages = set->n_pages;
        if (entry & TQKV_PAGE_STAGED)
            n_pages = set->staged && !(entry & TQKV_PAGE_MIXED) ? set->staged->n_pages : 0;
        else if (entry & TQKV_PAGE_MIXED)
            n_pages = set->mixed ? set->mixed->n_pages : 0;
        if (number >= n_pages)
            return 0;
    }
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

static tqkv_status check_numbers(const float *x, uint32_t n, float limit, int may_be_absent)
{
    for (uint32_t i = 0; x && i < n; i++)
        if (!(fabsf(x[i]) <= limit) && !(may_be_absent && x[i] == -INFINITY))
            return TQKV_ERROR_ARGUMENT;
    return TQKV_OK;
}

static tqkv_status check_operands(const tqkv_attention *a, const tqkv_tokens *set,
                                  const tqkv_operand *keys, const tqkv_operand *values,
                                  uint32_t n_pages)
{
    if (values->balances || (keys->balances && !keys->format.codebook))
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = check_extent(a, set, keys, n_pages);
    return status == TQKV_OK ? check_extent(a, set, values, n_pages) : status;
}

static tqkv_status check_tokens(const tqkv_attention *a, const tqkv_tokens *set)
{
    const tqkv_page_kind *kinds[] = {set->staged, set->mixed};
    if ((set->staged || set->mixed) && !set->pages)
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = check_operands(a, set, &set->keys, &set->values, set->n_pages);
    for (int i = 0; i < 2; i++)
        if (status == TQKV_OK && kinds[i])
            status = check_operands(a, set, &kinds[i]->keys, &kinds[i]->values, kinds[i]->n_pages);
    return status == TQKV_OK && set->pages ? check_pages(set) : status;
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
        status = check_tokens(a, set);
    }
    return status;
}

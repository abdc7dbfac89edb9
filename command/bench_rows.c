#include "bench_rows.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "command.h"
#include "sample.h"

enum { PAGE = TQKV_PAGE_TOKENS, DISTINCT = 8 /* pages of different content */ };

void *bench_allocate(size_t bytes)
{
    enum { LARGE = 1 << 21 };
    bytes = (bytes + LARGE - 1) & ~(size_t)(LARGE - 1);
    void *memory = aligned_alloc(LARGE, bytes);
    if (!memory) {
        failed("out of memory (%zu bytes)", bytes);
        return NULL;
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

tqkv_status bench_rows_parse(bench_rows *r, const char *name, uint32_t head_dim)
{
    char format[TQKV_FORMAT_NAME_SIZE];
    const char *plus = strchr(name, '+');
    size_t length = plus ? (size_t)(plus - name) : strlen(name);
    memset(r, 0, sizeof *r);
    if (!strcmp(name, "f16")) {
        r->is_half = 1;
        r->format.head_dim = (uint16_t)head_dim;
        return TQKV_OK;
    }
    r->n_staged = plus && !strcmp(plus, "+staged");
    r->has_means = r->n_staged || (plus && !strcmp(plus, "+means"));
    if (length >= sizeof format || (plus && !r->has_means))
        return TQKV_ERROR_FORMAT_NAME;
    memcpy(format, name, length);
    format[length] = 0;
    return tqkv_format_parse(format, head_dim, &r->format);
}

/* Gaussian rows; around a mean of their own where they have one, so that what is coded is
 * as large with means as without. */
static void sample_page(uint64_t *seed, float *x, size_t head_dim, int has_mean)
{
    float mean[TQKV_MAX_HEAD_DIM];
    sample_gaussian(seed, mean, head_dim);
    sample_gaussian(seed, x, PAGE * head_dim);
    for (size_t i = 0; has_mean && i < PAGE * head_dim; i++)
        x[i] += mean[i % head_dim];
}

/* Sizes of one head's page. */
typedef struct page_sizes {
    size_t code, scale, page, mean;
} page_sizes;

static page_sizes sizes_of(const bench_rows *r)
{
    page_sizes s = {.code = 2u * r->format.head_dim, .mean = r->format.head_dim + 2u};
    if (!r->is_half) {
        tqkv_format_code_bytes(&r->format, &s.code);
        tqkv_format_scale_bytes(&r->format, &s.scale);
    }
    s.page = (PAGE * (s.code + s.scale) + 63) / 64 * 64;
    return s;
}

static void fill_page(const bench_rows *r, const page_sizes *s, const float *x, uint8_t *at,
                      uint8_t *mean)
{
    tqkv_page page = {.format = r->format, .means = mean, .n_means = mean != NULL,
                      .rows = {.codes = at, .scales = at + PAGE * s->code,
                               .code_stride = s->code, .scale_stride = s->scale}};
    if (r->is_half)
        tqkv_from_f32(x, PAGE * (size_t)r->format.head_dim, at, TQKV_F16);
    else
        tqkv_page_seal(&page, NULL, x, TQKV_F32, 0, ~(uint64_t)0);
}

/* Keys or values: all heads' pages and, apart from them, means. */
static int make_operand(bench_rows *r, int which, uint32_t n_heads, tqkv_operand *o)
{
    page_sizes s = sizes_of(r);
    size_t head = r->n_pages * s.page, means = r->n_pages * s.mean, dim = r->format.head_dim;
    uint64_t seed = (uint64_t)which + 1;
    float *x = allocate(PAGE, dim * sizeof *x);
    r->memory[which] = bench_allocate(n_heads * head);
    r->means[which] = r->has_means ? bench_allocate(n_heads * means) : NULL;
    r->staged[which] = r->n_staged ? bench_allocate(n_heads * PAGE * 2 * dim) : NULL;
    int ok = x && r->memory[which] && (!r->has_means || r->means[which]) &&
             (!r->n_staged || r->staged[which]);
    for (size_t i = 0; ok && i < n_heads * r->n_pages; i++) {
        size_t page = i % r->n_pages;
        uint8_t *at = r->memory[which] + i * s.page;
        uint8_t *mean = r->has_means ? r->means[which] + i * s.mean : NULL;
        if (page >= DISTINCT) {
            memcpy(at, at - DISTINCT * s.page, s.page);
            if (mean)
                memcpy(mean, mean - DISTINCT * s.mean, s.mean);
            continue;
        }
        sample_page(&seed, x, dim, r->has_means);
        fill_page(r, &s, x, at, mean);
        if (page == 0 && r->n_staged)
            tqkv_from_f32(x, PAGE * dim, r->staged[which] + i / r->n_pages * PAGE * 2 * dim,
                          TQKV_F16);
    }
    free(x);
    *o = (tqkv_operand){
        .format = r->format, .type = TQKV_F16, .means = r->means[which],
        .n_means = r->has_means ? 1 : 0,
        .rows = {.codes = r->memory[which], .code_stride = s.code, .scale_stride = s.scale},
        .head = {head, head, means, 0}, .page = {s.page, s.page, s.mean, 0}};
    if (ok && !r->is_half)
        o->rows.scales = r->memory[which] + PAGE * s.code;
    r->row_bytes = (double)(s.code + s.scale) + (r->has_means ? (double)s.mean / PAGE : 0);
    return ok;
}

static tqkv_operand staged_operand(const bench_rows *r, int which)
{
    size_t row = 2u * r->format.head_dim, page = PAGE * row;
    return (tqkv_operand){.format.head_dim = r->format.head_dim, .type = TQKV_F16,
                          .rows = {.codes = r->staged[which], .code_stride = row},
                          .head = {.codes = page}};
}

int bench_rows_make(bench_rows *r, uint32_t n_heads, size_t n_tokens)
{
    r->n_pages = (n_tokens + PAGE - 1) / PAGE;
    r->set = (tqkv_tokens){.n_tokens = n_tokens, .page_size = PAGE,
                           .n_pages = (uint32_t)r->n_pages};
    r->pages = allocate(r->n_pages, sizeof *r->pages);
    if (!r->pages || !make_operand(r, 0, n_heads, &r->set.keys) ||
        !make_operand(r, 1, n_heads, &r->set.values))
        return 0;
    for (size_t i = 0; i < r->n_pages; i++)
        r->pages[i] = (uint32_t)i;
    r->set.pages = r->pages;
    if (r->n_staged) {
        r->kind = (tqkv_page_kind){staged_operand(r, 0), staged_operand(r, 1), 1};
        r->set.staged = &r->kind;
        r->pages[r->n_pages - 1] = TQKV_PAGE_STAGED;
    }
    return 1;
}

void bench_rows_free(bench_rows *r)
{
    for (int i = 0; i < 2; i++) {
        free(r->memory[i]);
        free(r->means[i]);
        free(r->staged[i]);
    }
    free(r->pages);
}

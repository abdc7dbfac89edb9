/* Cases of pages (page_case.h) as one launch of attention on a device, a sequence each. */
#ifndef TQKV_TESTS_GPU_PAGE_CASE_H
#define TQKV_TESTS_GPU_PAGE_CASE_H

#include "gpu_case.h"
#include "page_case.h"

enum { MAX_SEQUENCES = 8 };

/* Sequences that differ in tokens, queries, pages and numbers; all else, the first's. */
typedef struct page_batch {
    page_shape shapes[MAX_SEQUENCES];
    page_case cases[MAX_SEQUENCES];
    uint32_t n;
    int is_packed;   /* no gaps between the parts of pages, which then lie at any address */
    int is_portable;
    int has_lengths; /* and starts of queries, given on the device; always for several */
} page_batch;

/* One operand of the batch in host memory, before it goes to the device. */
typedef struct page_memory {
    uint8_t *bytes;
    size_t size, block; /* of a head's part of a page */
    size_t scales_at, means_at;
} page_memory;

static inline page_memory page_memory_make(const page_batch *b, const tqkv_operand *o, size_t n_pages)
{
    size_t code, scale, unit = b->is_packed ? 1 : 16;
    page_memory m = {0};
    assert_int_equal(tqkv_format_code_bytes(&o->format, &code), TQKV_OK);
    assert_int_equal(tqkv_format_scale_bytes(&o->format, &scale), TQKV_OK);
    m.scales_at = PAGE * code;
    m.means_at = m.scales_at + PAGE * scale;
    m.block = (m.means_at + o->format.head_dim + 2 + unit - 1) / unit * unit;
    m.size = n_pages * b->shapes[0].n_kv_heads * m.block;
    m.bytes = calloc(1, m.size);
    return m;
}

/* A case's pages behind `before` others. */
static inline void page_memory_fill(const page_batch *b, page_memory *m, const tqkv_operand *o,
                                    size_t n_pages, size_t before)
{
    size_t heads = b->shapes[0].n_kv_heads;
    for (size_t i = 0; i < n_pages * heads; i++) {
        uint8_t *to = m->bytes + (before * heads + i) * m->block;
        tqkv_page p = page_of(o, i / heads, i % heads), q = p;
        q.n_means = 1;
        q.numbers = NULL;
        q.rows.codes = to;
        q.rows.scales = to + m->scales_at;
        q.means = to + m->means_at;
        size_t code = 0, scale = 0;
        tqkv_format_code_bytes(&o->format, &code);
        tqkv_format_scale_bytes(&o->format, &scale);
        q.rows.code_stride = code;
        q.rows.scale_stride = scale;
        assert_int_equal(tqkv_page_copy(&p, &q), TQKV_OK);
    }
}

static inline tqkv_gpu_operand page_memory_operand(const gpu_case *g, const page_batch *b,
                                                   page_memory *m, const tqkv_operand *o,
                                                   tqkv_buffer **buffer)
{
    tqkv_gpu_operand out = {.format = o->format};
    size_t page = m->block * b->shapes[0].n_kv_heads;
    *buffer = gpu_buffer(g, m->bytes, m->size);
    free(m->bytes);
    tqkv_format_code_bytes(&o->format, &out.rows.code_stride);
    tqkv_format_scale_bytes(&o->format, &out.rows.scale_stride);
    out.rows.codes = out.rows.scales = out.means = *buffer;
    out.rows.scale_offset = m->scales_at;
    out.mean_offset = m->means_at;
    out.head = (tqkv_gpu_strides){m->block, m->block, m->block};
    out.page = (tqkv_gpu_strides){page, page, page};
    return out;
}

static inline size_t batch_pages(const page_batch *b)
{
    size_t n = 0;
    for (uint32_t i = 0; i < b->n; i++)
        n += b->cases[i].n_pages;
    return n;
}

static inline tqkv_gpu_operand batch_operand(const gpu_case *g, const page_batch *b, int is_value,
                                             tqkv_buffer **buffer)
{
    const tqkv_operand *first = is_value ? &b->cases[0].set.values : &b->cases[0].set.keys;
    page_memory m = page_memory_make(b, first, batch_pages(b));
    size_t before = 0;
    for (uint32_t i = 0; i < b->n; before += b->cases[i++].n_pages)
        page_memory_fill(b, &m, is_value ? &b->cases[i].set.values : &b->cases[i].set.keys,
                         b->cases[i].n_pages, before);
    return page_memory_operand(g, b, &m, first, buffer);
}

/* Staged pages: [page][head][64][dim] f16. */
static inline tqkv_gpu_operand batch_staged(const gpu_case *g, const page_batch *b, int is_value,
                                            tqkv_buffer **buffer)
{
    const page_shape *s = &b->shapes[0];
    size_t dim = is_value ? s->value_dim : s->key_dim, head = PAGE * dim * 2, at = 0;
    uint8_t *bytes = calloc(batch_pages(b) * s->n_kv_heads, head);
    for (uint32_t i = 0; i < b->n; i++) {
        const page_case *c = &b->cases[i];
        const tqkv_operand *o = is_value ? &c->staged.values : &c->staged.keys;
        for (size_t page = 0; page < c->n_pages; page++)
            for (uint32_t h = 0; h < s->n_kv_heads; h++, at += head)
                memcpy(bytes + at, o->rows.codes + page * o->page.codes + h * o->head.codes, head);
    }
    *buffer = gpu_buffer(g, bytes, at);
    free(bytes);
    tqkv_gpu_operand out = {.type = TQKV_F16};
    out.format.head_dim = (uint16_t)dim;
    out.rows.codes = *buffer;
    out.rows.code_stride = 2 * dim;
    out.head.codes = head;
    out.page.codes = head * s->n_kv_heads;
    return out;
}

static inline tqkv_buffer *batch_table(const gpu_case *g, const page_batch *b, uint32_t stride)
{
    uint32_t *table = calloc((size_t)b->n * stride, 4), before = 0;
    for (uint32_t i = 0; i < b->n; before += (uint32_t)b->cases[i++].n_pages)
        for (size_t k = 0; k < b->cases[i].n_pages; k++)
            table[i * stride + k] = b->cases[i].pages[k] + before; /* the kind is a high bit */
    tqkv_buffer *buffer = gpu_buffer(g, table, (size_t)b->n * stride * 4);
    free(table);
    return buffer;
}

/* Rows of width elements of all cases, one after the other. */
static inline tqkv_buffer *batch_rows(const gpu_case *g, const page_batch *b, size_t width)
{
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < b->n; i++)
        n += b->shapes[i].n_queries;
    float *x = calloc(n * width + 1, sizeof *x);
    for (uint32_t i = 0; i < b->n; at += b->shapes[i++].n_queries)
        memcpy(x + at * width, b->cases[i].queries, b->shapes[i].n_queries * width * sizeof *x);
    tqkv_buffer *buffer = gpu_buffer(g, x, (n * width + 1) * sizeof *x);
    free(x);
    return buffer;
}

/* All but buffers that belong to a test: masks, slopes and sinks are set by `also`. */
typedef void batch_change(const gpu_case *g, tqkv_gpu_attention *a, void *context);

static inline tqkv_gpu_attention batch_attention(const page_batch *b)
{
    const tqkv_attention *a = &b->cases[0].a;
    tqkv_gpu_attention ga = {
        .n_sequences = b->n, .n_heads = a->n_heads, .n_kv_heads = a->n_kv_heads,
        .query_type = TQKV_F32, .out_type = TQKV_F32, .position = a->position,
        .first_slot = b->shapes[0].first_slot, .scale = a->scale, .softcap = a->softcap,
        .causal = a->causal, .window = a->window, .page_size = PAGE,
        .is_portable = b->is_portable};
    for (uint32_t i = 0; i < b->n; i++) {
        const page_shape *s = &b->shapes[i];
        ga.n_query_rows += s->n_queries;
        ga.n_queries = s->n_queries > ga.n_queries ? s->n_queries : ga.n_queries;
        ga.n_tokens = s->n_tokens > ga.n_tokens ? (uint32_t)s->n_tokens : ga.n_tokens;
        ga.pages_stride = b->cases[i].n_pages > ga.pages_stride ? (uint32_t)b->cases[i].n_pages
                                                                : ga.pages_stride;
    }
    ga.n_pages = (uint32_t)batch_pages(b);
    if (b->shapes[0].is_ring)
        ga.capacity = (uint32_t)b->cases[0].n_pages * PAGE;
    return ga;
}

static inline void batch_take(const gpu_case *g, page_batch *b, tqkv_buffer *out,
                              tqkv_buffer *state)
{
    float *x = gpu_take(g, out), *s = gpu_take(g, state);
    size_t at = 0, vd = b->shapes[0].value_dim;
    for (uint32_t i = 0; i < b->n; i++) {
        page_case *c = &b->cases[i];
        size_t rows = (size_t)c->a.n_queries * c->a.n_heads;
        memcpy(c->out, x + at * vd, rows * vd * sizeof *x);
        for (size_t r = 0; r < rows; r++) {
            c->max[r] = s[2 * (at + r)];
            c->sum[r] = s[2 * (at + r) + 1];
        }
        at += rows;
    }
    free(x);
    free(s);
}

/* Runs all cases in one launch; results are in the cases. */
static inline void batch_run(const gpu_case *g, page_batch *b, batch_change *also, void *context)
{
    enum { OWN = 10 };
    tqkv_buffer *own[OWN] = {0};
    tqkv_gpu_attention a = batch_attention(b);
    tqkv_gpu_staged staged = {.n_pages = a.n_pages};
    uint32_t starts[MAX_SEQUENCES + 1] = {0}, lengths[MAX_SEQUENCES];
    size_t bytes, heads = a.n_heads, rows = (a.n_query_rows + 1) * heads;
    for (uint32_t i = 0; i < b->n; i++) {
        starts[i + 1] = starts[i] + b->shapes[i].n_queries;
        lengths[i] = (uint32_t)b->shapes[i].n_tokens;
    }
    a.keys = batch_operand(g, b, 0, &own[0]);
    a.values = batch_operand(g, b, 1, &own[1]);
    staged.keys = batch_staged(g, b, 0, &own[2]);
    staged.values = batch_staged(g, b, 1, &own[3]);
    a.staged = &staged;
    a.pages = own[4] = batch_table(g, b, a.pages_stride);
    a.queries = own[5] = batch_rows(g, b, heads * b->shapes[0].key_dim);
    if (b->shapes[0].has_balance)
        a.keys.balances = own[6] = gpu_buffer(g, b->cases[0].balances,
                                              (size_t)a.n_kv_heads * b->shapes[0].key_dim * 4);
    if (b->n > 1 || b->has_lengths)
        a.query_starts = own[7] = gpu_buffer(g, starts, (b->n + 1) * 4);
    if (b->n > 1 || b->has_lengths)
        a.lengths = own[8] = gpu_buffer(g, lengths, b->n * 4);
    a.out = gpu_buffer(g, NULL, rows * b->shapes[0].value_dim * 4);
    a.state = gpu_buffer(g, NULL, rows * 8);
    if (also)
        also(g, &a, context);
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &a, &bytes));
    own[9] = gpu_buffer(g, NULL, bytes);
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &a, own[9]));
    gpu_run(g);
    batch_take(g, b, a.out, a.state);
    for (int i = 0; i < OWN; i++)
        tqkv_buffer_free(own[i]);
}

static inline void batch_make(page_batch *b)
{
    for (uint32_t i = 0; i < b->n; i++) {
        page_case_make(&b->cases[i], &b->shapes[i]);
        if (i) { /* all have the first's balances */
            free(b->cases[i].balances);
            size_t n = (size_t)b->shapes[0].n_kv_heads * b->shapes[0].key_dim * sizeof(float);
            b->cases[i].balances = malloc(n);
            memcpy(b->cases[i].balances, b->cases[0].balances, n);
            if (b->shapes[0].has_balance)
                b->cases[i].set.keys.balances = b->cases[i].balances;
        }
        page_case_store(&b->cases[i], &b->shapes[i]);
    }
}

static inline void batch_free(page_batch *b)
{
    for (uint32_t i = 0; i < b->n; i++)
        page_case_free(&b->cases[i]);
}

/* Asserts each sequence's error, and the log of its sums. */
static inline void batch_check(const page_batch *b, double bound)
{
    for (uint32_t i = 0; i < b->n; i++) {
        const page_case *c = &b->cases[i];
        const page_shape *s = &b->shapes[i];
        double error = page_case_error(c);
        if (!(error <= bound))
            fail_msg("%s/%s (%u, %u), %ux%u, %u queries, %zu tokens from slot %zu, pattern %d, data "
                     "%d, sequence %u: %.2e", s->keys, s->values, s->key_dim, s->value_dim,
                     s->n_kv_heads, s->group, s->n_queries, s->n_tokens, s->first_slot, s->pattern,
                     s->data, i, error);
        double out[TQKV_MAX_HEAD_DIM], max, sum;
        for (uint32_t q = 0; q < c->a.n_queries; q++)
            for (uint32_t h = 0; h < c->a.n_heads; h++) {
                size_t row = (size_t)q * c->a.n_heads + h;
                reference_row(&c->r, q, h, out, &max, &sum);
                if (sum > 0)
                    assert_true(fabs(log(c->sum[row]) + c->max[row] - log(sum) - max) < .05);
                else
                    assert_true(c->sum[row] == 0 && c->max[row] == -INFINITY);
            }
    }
}

#endif

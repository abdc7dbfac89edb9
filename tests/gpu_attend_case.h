/* A case of attention on a device. */
#ifndef TQKV_TESTS_GPU_ATTEND_CASE_H
#define TQKV_TESTS_GPU_ATTEND_CASE_H

#include "attend_case.h"
#include "gpu_case.h"

static inline tqkv_gpu_operand operand(const gpu_case *g, const tqkv_operand *o, const uint8_t *memory,
                                size_t bytes, tqkv_buffer **buffer)
{
    const tqkv_rows *r = &o->rows;
    *buffer = gpu_buffer(g, memory, bytes ? bytes : 1);
    tqkv_gpu_operand out = {.format = o->format, .type = o->type};
    out.rows = (tqkv_gpu_rows){*buffer, r->scales ? *buffer : NULL, 0,
                               r->scales ? (size_t)(r->scales - r->codes) : 0, r->code_stride,
                               r->scale_stride};
    out.head = (tqkv_gpu_strides){o->head.codes, o->head.scales, 0};
    out.page = (tqkv_gpu_strides){o->page.codes, o->page.scales, 0};
    return out;
}

static inline size_t operand_bytes(const shape *s, const tqkv_operand *o, uint32_t dim)
{
    size_t code = dim * 4, scale = 0, rows = slots_of(s) * s->n_kv_heads;
    if (o->format.codebook) {
        tqkv_format_code_bytes(&o->format, &code);
        tqkv_format_scale_bytes(&o->format, &scale);
    } else {
        code = dim * (o->type == TQKV_F32 ? 4u : 2u);
    }
    return rows * (code + scale);
}

static inline tqkv_buffer *balances_buffer(const gpu_case *g, const shape *s, const attend_case *c)
{
    if (!c->balances)
        return NULL;
    return gpu_buffer(g, c->balances, (size_t)s->key_dim * s->n_kv_heads * sizeof(float));
}

/* Runs the case on the device; the result is in c->out, max and sum. */
static inline void run_case(const gpu_case *g, attend_case *c, const shape *s,
                            int is_portable)
{
    const tqkv_attention *a = &c->a;
    tqkv_buffer *buffers[12] = {0};
    size_t rows = (size_t)a->n_queries * a->n_heads, bytes;
    tqkv_gpu_attention ga = {
        .n_sequences = 1, .n_queries = a->n_queries, .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads, .query_type = TQKV_F32, .out_type = TQKV_F32,
        .position = a->position, .first_position = c->set.position,
        .n_tokens = (uint32_t)c->set.n_tokens, .first_slot = c->set.first_slot,
        .capacity = (uint32_t)c->set.capacity, .scale = a->scale, .softcap = a->softcap,
        .causal = a->causal, .window = a->window, .is_portable = is_portable};
    ga.keys = operand(g, &c->set.keys, c->key_memory,
                      operand_bytes(s, &c->set.keys, s->key_dim), &buffers[0]);
    ga.values = operand(g, &c->set.values, c->value_memory,
                        operand_bytes(s, &c->set.values, s->value_dim), &buffers[1]);
    ga.queries = buffers[2] = gpu_buffer(g, c->queries, rows * s->key_dim * 4);
    ga.out = gpu_buffer(g, NULL, rows * s->value_dim * 4);
    ga.state = gpu_buffer(g, NULL, rows * 8);
    ga.keys.balances = buffers[3] = balances_buffer(g, s, c);
    if (c->set.pages) {
        ga.pages = buffers[4] = gpu_buffer(g, c->pages, c->set.n_pages * 4u);
        ga.page_size = (uint32_t)c->set.page_size;
        ga.n_pages = ga.pages_stride = c->set.n_pages;
    }
    if (a->sinks)
        ga.sinks = buffers[5] = gpu_buffer(g, a->sinks, a->n_heads * 4);
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &ga, &bytes));
    buffers[6] = gpu_buffer(g, NULL, bytes);
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &ga, buffers[6]));
    gpu_run(g);
    float *out = gpu_take(g, ga.out), *state = gpu_take(g, ga.state);
    memcpy(c->out, out, rows * s->value_dim * 4);
    for (size_t i = 0; i < rows; i++) {
        c->max[i] = state[2 * i];
        c->sum[i] = state[2 * i + 1];
    }
    free(out);
    free(state);
    for (int i = 0; i < 12; i++)
        tqkv_buffer_free(buffers[i]);
}

/* Runs the case and returns its error. */
static inline double error_of_case(const gpu_case *g, attend_case *c, const shape *s,
                                   int is_portable)
{
    double worst;
    run_case(g, c, s, is_portable);
    return case_error(c, &worst);
}

/* Of the case that is nothing but its shape. */
static inline double error_of_shape(const gpu_case *g, const shape *s, int is_portable)
{
    attend_case c;
    case_make(&c, s);
    case_store(&c, s);
    double error = error_of_case(g, &c, s, is_portable);
    case_free(&c);
    return error;
}

/* Results of a case, to be compared bit for bit with those of another run. */
typedef struct results {
    float *out, *max, *sum;
    size_t rows, dim;
} results;

static inline results results_take(const attend_case *c, const shape *s)
{
    results r = {.rows = (size_t)c->a.n_queries * c->a.n_heads, .dim = s->value_dim};
    float *from[] = {c->out, c->max, c->sum}, **to[] = {&r.out, &r.max, &r.sum};
    for (int i = 0; i < 3; i++) {
        size_t bytes = r.rows * (i ? 1 : r.dim) * sizeof(float);
        *to[i] = malloc(bytes);
        memcpy(*to[i], from[i], bytes);
    }
    return r;
}

static inline int same_row(const results *r, const attend_case *c, size_t row)
{
    return !memcmp(r->out + row * r->dim, c->out + row * r->dim, r->dim * sizeof(float)) &&
           !memcmp(r->max + row, c->max + row, sizeof(float)) &&
           !memcmp(r->sum + row, c->sum + row, sizeof(float));
}

static inline void results_free(results *r)
{
    free(r->out);
    free(r->max);
    free(r->sum);
}

/* Random bytes in all rows of a head that no query sees, also behind the last token. */
static inline void spoil_unseen(const attend_case *c, const shape *s, const tqkv_operand *o,
                                size_t head, uint64_t *seed)
{
    size_t code = o->format.head_dim * (o->type == TQKV_F32 ? 4u : 2u), scale = 0;
    size_t first = c->a.window && c->a.position >= c->a.window ? c->a.position - c->a.window + 1 : 0;
    size_t end = s->is_ring ? s->n_tokens : slots_of(s) - s->first_slot;
    if (o->format.codebook) {
        tqkv_format_code_bytes(&o->format, &code);
        tqkv_format_scale_bytes(&o->format, &scale);
    }
    for (size_t t = 0; t < end; t++) {
        if (t >= first && t < c->a.position + c->a.n_queries)
            continue;
        tqkv_rows r = row_at(s, c, o, head, t);
        for (size_t i = 0; i < code; i++)
            r.codes[i] = (uint8_t)test_random(seed);
        for (size_t i = 0; i < scale; i++)
            r.scales[i] = (uint8_t)test_random(seed);
    }
}

/* What no query sees does not change a bit of their results. */
static inline void check_unseen(const gpu_case *g, const shape *s, uint64_t position,
                                uint64_t window, int is_portable)
{
    attend_case c;
    uint64_t seed = 7;
    case_make(&c, s);
    case_store(&c, s);
    c.a.causal = 1;
    c.a.position = position;
    c.a.window = window;
    run_case(g, &c, s, is_portable);
    results before = results_take(&c, s);
    for (int again = 0; again < 3; again++) {
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            spoil_unseen(&c, s, &c.set.keys, h, &seed);
            spoil_unseen(&c, s, &c.set.values, h, &seed);
        }
        run_case(g, &c, s, is_portable);
        for (size_t row = 0; row < before.rows; row++)
            if (!same_row(&before, &c, row))
                fail_msg("%s/%s, %zu tokens, query at %llu, window %llu: row %zu sees other rows",
                         s->keys, s->values, s->n_tokens, (unsigned long long)position,
                         (unsigned long long)window, row);
    }
    results_free(&before);
    case_free(&c);
}

/* Nor do the queries and heads beside it in a launch change a query's. */
static inline void check_beside(const gpu_case *g, const shape *s, int is_portable)
{
    attend_case c;
    case_make(&c, s);
    case_store(&c, s);
    c.a.causal = 1;
    size_t rows = (size_t)c.a.n_queries * c.a.n_heads;
    run_case(g, &c, s, is_portable);
    results before = results_take(&c, s);
    for (size_t kept = 0; kept < rows; kept++) {
        for (size_t i = 0; i < rows * s->key_dim; i++)
            if (i / s->key_dim != kept)
                c.queries[i] *= kept % 2 ? -8 : 1 / 8.f;
        run_case(g, &c, s, is_portable);
        if (!same_row(&before, &c, kept))
            fail_msg("%s/%s, %u queries of %u heads: row %zu depends on others", s->keys,
                     s->values, s->n_queries, c.a.n_heads, kept);
        for (size_t i = 0; i < rows * s->key_dim; i++)
            if (i / s->key_dim != kept)
                c.queries[i] /= kept % 2 ? -8 : 1 / 8.f;
    }
    results_free(&before);
    case_free(&c);
}

/* Asserts it, and names the case. */
static inline void check_error(const shape *s, double error, double bound)
{
    if (!(error <= bound))
        fail_msg("%s/%s, head_dims %u/%u, %ux%u, %u queries, %zu tokens: %.2e", s->keys, s->values,
                 s->key_dim, s->value_dim, s->n_kv_heads, s->group, s->n_queries, s->n_tokens, error);
}

#endif

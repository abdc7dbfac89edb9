/*
 * The backend under ggml's own scheduler: graphs as llama.cpp builds them, of
 * every shape and format, against the same graph on ggml's CPU with an f16
 * cache; and graphs that tqkv leaves to ggml.
 */
#include "ggml_case.h"

#include <math.h>
#include <stdio.h>

enum { MAX_VALUES = 1 << 20 };

typedef struct shape {
    const char *name, *format;
    int dim_k, dim_v, n_heads, n_kv_heads;
    int n_slots, n_kv, n_tokens, n_streams;
    float softcap, max_bias;
    int has_sinks, no_mask, window;
    double bound; /* of the error, relative to the output's size */
} shape;

/* One context: cache tensors in the CPU's memory, and a graph that stores all
 * rows and attends from the last n_tokens. */
typedef struct run {
    const shape *s;
    ggml_backend_t backend;
    ggml_backend_sched_t sched;
    struct ggml_context *cache_context, *context;
    ggml_backend_buffer_t cache_buffer;
    struct ggml_tensor *k, *v;
    struct ggml_tensor *new_k, *new_v, *at, *q, *mask, *sinks, *out;
    struct ggml_cgraph *graph;
} run;

static struct ggml_tensor *input(run *r, enum ggml_type type, int64_t a, int64_t b, int64_t c,
                                 int64_t d)
{
    struct ggml_tensor *t = ggml_new_tensor_4d(r->context, type, a, b, c, d);
    ggml_set_input(t);
    return t;
}

static struct ggml_tensor *view_of(run *r, struct ggml_tensor *cache, int dim)
{
    const shape *s = r->s;
    size_t head = ggml_row_size(cache->type, dim), row = cache->nb[1];
    struct ggml_tensor *t = ggml_view_4d(r->context, cache, dim, s->n_kv_heads, s->n_kv,
                                         s->n_streams, head, row, cache->nb[2], 0);
    return ggml_permute(r->context, t, 0, 2, 1, 3);
}

/* A graph and its tensors, without their data. */
static struct ggml_context *graph_context(void)
{
    struct ggml_init_params params = {.mem_size = 256 * ggml_tensor_overhead() +
                                                  ggml_graph_overhead(),
                                      .no_alloc = true};
    return ggml_init(params);
}

/* A cache under a name that tqkv knows, or under one that is no cache's. */
enum owner { TQKVS, GGMLS };

static void open_run(run *r, const shape *s, enum owner owner, int n_threads)
{
    struct ggml_init_params small = {.mem_size = 16 * ggml_tensor_overhead(), .no_alloc = true};
    memset(r, 0, sizeof *r);
    setenv("TQKV_KV", s->format, 1);
    r->s = s;
    r->backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    set_threads(r->backend, n_threads);
    r->cache_context = ggml_init(small);
    r->k = ggml_new_tensor_3d(r->cache_context, GGML_TYPE_F16,
                              s->dim_k * s->n_kv_heads, s->n_slots, s->n_streams);
    r->v = ggml_new_tensor_3d(r->cache_context, GGML_TYPE_F16,
                              s->dim_v * s->n_kv_heads, s->n_slots, s->n_streams);
    ggml_set_name(r->k, owner == GGMLS ? "keys" : "cache_k_l3");
    ggml_set_name(r->v, owner == GGMLS ? "values" : "cache_v_l3");
    r->cache_buffer =
        ggml_backend_alloc_ctx_tensors_from_buft(r->cache_context, ggml_backend_cpu_buffer_type());
    ggml_backend_buffer_clear(r->cache_buffer, 0);
    r->context = graph_context();
    r->sched = ggml_backend_sched_new(&r->backend, NULL, 1, 512, false, false);
}

static void close_run(run *r)
{
    ggml_backend_sched_free(r->sched);
    ggml_free(r->context);
    ggml_backend_buffer_free(r->cache_buffer);
    ggml_free(r->cache_context);
    ggml_backend_free(r->backend);
}

static void build(run *r)
{
    const shape *s = r->s;
    struct ggml_context *c = r->context;
    int64_t rows = (int64_t)s->n_kv * s->n_streams;
    r->graph = ggml_new_graph(c);
    r->new_k = input(r, GGML_TYPE_F32, r->k->ne[0], rows, 1, 1);
    r->new_v = input(r, GGML_TYPE_F32, r->v->ne[0], rows, 1, 1);
    r->at = input(r, GGML_TYPE_I64, rows, 1, 1, 1);
    r->q = input(r, GGML_TYPE_F32, s->dim_k, s->n_heads, s->n_tokens, s->n_streams);
    r->mask = s->no_mask ? NULL : input(r, GGML_TYPE_F16, s->n_kv, s->n_tokens, 1, s->n_streams);
    r->sinks = s->has_sinks ? input(r, GGML_TYPE_F32, s->n_heads, 1, 1, 1) : NULL;
    struct ggml_tensor *k = ggml_reshape_2d(c, r->k, r->k->ne[0], r->k->ne[1] * r->k->ne[2]);
    struct ggml_tensor *v = ggml_reshape_2d(c, r->v, r->v->ne[0], r->v->ne[1] * r->v->ne[2]);
    ggml_build_forward_expand(r->graph, ggml_set_rows(c, k, r->new_k, r->at));
    ggml_build_forward_expand(r->graph, ggml_set_rows(c, v, r->new_v, r->at));
    struct ggml_tensor *q = ggml_permute(c, r->q, 0, 2, 1, 3);
    r->out = ggml_flash_attn_ext(c, q, view_of(r, r->k, s->dim_k), view_of(r, r->v, s->dim_v),
                                 r->mask, 1 / sqrtf((float)s->dim_k), s->max_bias, s->softcap);
    if (r->sinks)
        ggml_flash_attn_ext_add_sinks(r->out, r->sinks);
    ggml_prec_set_acc(r->out, GGML_PREC_F32);
    ggml_set_output(r->out);
    ggml_build_forward_expand(r->graph, r->out);
}

static void fill(struct ggml_tensor *t, float *values, uint64_t seed)
{
    int64_t n = ggml_nelements(t);
    assert_true(n <= MAX_VALUES);
    for (int64_t i = 0; i < n; i++)
        values[i] = random_normal(&seed);
    ggml_backend_tensor_set(t, values, 0, (size_t)n * sizeof *values);
}

/* Query i stands at position n_kv - n_tokens + i; with ALiBi the mask holds
 * distances. */
static void fill_mask(const run *r)
{
    const shape *s = r->s;
    size_t n = (size_t)ggml_nelements(r->mask), at = 0;
    ggml_fp16_t *mask = malloc(n * sizeof *mask);
    for (int stream = 0; stream < s->n_streams; stream++)
        for (int i = 0; i < s->n_tokens; i++)
            for (int t = 0; t < s->n_kv; t++) {
                int distance = s->n_kv - s->n_tokens + i - t;
                int hidden = distance < 0 || (s->window && distance >= s->window) ||
                             (t + stream) % 7 == 3;
                float value = hidden ? -INFINITY : s->max_bias > 0 ? -(float)distance : 0;
                mask[at++] = ggml_fp32_to_fp16(value);
            }
    ggml_backend_tensor_set(r->mask, mask, 0, n * sizeof *mask);
    free(mask);
}

static enum ggml_status compute(run *r, float *out)
{
    const shape *s = r->s;
    float *values = malloc(MAX_VALUES * sizeof *values);
    ggml_backend_sched_reset(r->sched);
    if (!ggml_backend_sched_alloc_graph(r->sched, r->graph)) {
        free(values);
        return GGML_STATUS_ALLOC_FAILED;
    }
    fill(r->new_k, values, 1);
    fill(r->new_v, values, 2);
    fill(r->q, values, 3);
    if (r->sinks)
        fill(r->sinks, values, 4);
    if (r->mask)
        fill_mask(r);
    int64_t *at = (int64_t *)values;
    for (int stream = 0; stream < s->n_streams; stream++)
        for (int t = 0; t < s->n_kv; t++)
            at[stream * s->n_kv + t] = (int64_t)stream * s->n_slots + t;
    ggml_backend_tensor_set(r->at, at, 0, ggml_nbytes(r->at));
    enum ggml_status status = ggml_backend_sched_graph_compute(r->sched, r->graph);
    if (status == GGML_STATUS_SUCCESS && out)
        ggml_backend_tensor_get(r->out, out, 0, ggml_nbytes(r->out));
    free(values);
    return status;
}

static double relative_error(const float *x, const float *exact, size_t n)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)x[i] - exact[i]) * ((double)x[i] - exact[i]);
        size += (double)exact[i] * exact[i];
    }
    return sqrt(error / size);
}

static const shape shapes[] = {
#define BASE .format = "tq4", .dim_k = 64, .dim_v = 64, .n_heads = 6, .n_kv_heads = 2,           \
             .n_slots = 320, .n_kv = 256, .n_tokens = 1, .n_streams = 1, .bound = .12
    {.name = "one token", BASE},
    {.name = "tq2", BASE, .format = "tq2", .bound = .4},
    {.name = "tq3", BASE, .format = "tq3", .bound = .2},
    {.name = "tq5/tq4", BASE, .format = "tq5/tq4"},
    {.name = "tq4/tq5", BASE, .format = "tq4/tq5", .bound = .08},
    {.name = "tq6", BASE, .format = "tq6", .bound = .04},
    {.name = "tq7", BASE, .format = "tq7", .bound = .02},
    {.name = "tq8", BASE, .format = "tq8", .bound = .012},
    {.name = "lm4", BASE, .format = "lm4", .bound = .14},
    {.name = "head 16", BASE, .dim_k = 16, .dim_v = 16, .bound = .15},
    {.name = "head 80", BASE, .dim_k = 80, .dim_v = 80},
    {.name = "cells that are no whole pages", BASE, .n_slots = 200, .n_kv = 200, .n_streams = 2},
    {.name = "head 160", BASE, .dim_k = 160, .dim_v = 160},
    {.name = "head 96", BASE, .dim_k = 96, .dim_v = 96},
    {.name = "head 128", BASE, .dim_k = 128, .dim_v = 128},
    {.name = "head 256", BASE, .dim_k = 256, .dim_v = 256},
    {.name = "heads 192 and 128", BASE, .dim_k = 192, .dim_v = 128},
    {.name = "no GQA", BASE, .n_heads = 3, .n_kv_heads = 3},
    {.name = "MQA", BASE, .n_heads = 8, .n_kv_heads = 1},
    {.name = "batch", BASE, .n_tokens = 37},
    {.name = "prompt", BASE, .n_tokens = 256, .n_heads = 2, .n_kv_heads = 1},
    {.name = "odd lengths", BASE, .n_kv = 77, .n_tokens = 5},
    {.name = "streams", BASE, .n_streams = 3, .n_tokens = 2},
    {.name = "softcap", BASE, .softcap = 5},
    {.name = "ALiBi", BASE, .max_bias = 8, .n_tokens = 3},
    {.name = "ALiBi, six heads of eight", BASE, .max_bias = 8, .n_heads = 12},
    {.name = "sinks", BASE, .has_sinks = 1, .n_tokens = 3},
    {.name = "window", BASE, .window = 150, .n_tokens = 8},
    {.name = "no mask", BASE, .no_mask = 1},
    {.name = "long", BASE, .n_slots = 4096, .n_kv = 4000, .n_kv_heads = 1, .n_heads = 4},
#undef BASE
};

static void outputs_of(const shape *s, enum owner owner, int n_threads, float *out)
{
    run r;
    open_run(&r, s, owner, n_threads);
    build(&r);
    assert_int_equal(compute(&r, out), GGML_STATUS_SUCCESS);
    close_run(&r);
}

static void test_shapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        size_t n = (size_t)s->dim_v * (size_t)s->n_heads * (size_t)s->n_tokens *
                   (size_t)s->n_streams;
        float *exact = malloc(n * sizeof *exact), *one = malloc(n * sizeof *one);
        float *two = malloc(n * sizeof *two);
        outputs_of(s, GGMLS, 1, exact);
        outputs_of(s, TQKVS, 1, one);
        outputs_of(s, TQKVS, 3, two);
        double error = relative_error(one, exact, n);
        print_message("%-28s %.4f\n", s->name, error);
        assert_memory_equal(one, two, n * sizeof *one);
        assert_true(error < s->bound);
        assert_true(error > s->bound / 100); /* not ggml's own f16 */
        free(exact);
        free(one);
        free(two);
    }
}

/* A graph that is computed again, on the same memory, gives the same bytes. */
static void test_again(void **state)
{
    (void)state;
    const shape *s = &shapes[0];
    float first[384], second[384];
    run r;
    open_run(&r, s, TQKVS, 2);
    build(&r);
    assert_int_equal(compute(&r, first), GGML_STATUS_SUCCESS);
    assert_int_equal(compute(&r, second), GGML_STATUS_SUCCESS);
    assert_memory_equal(first, second, sizeof first);
    close_run(&r);
}

/* ---- moving keys ---- */

/* What llama.cpp does to shift a context: RoPE where the keys lie. */
static void test_shift(void **state)
{
    (void)state;
    shape long_one = shapes[0];
    const shape *s = &long_one;
    long_one.n_slots = 960;
    long_one.n_kv = 900; /* the first pages are no longer staged */
    float before[384];
    run r;
    open_run(&r, s, TQKVS, 2);
    build(&r);
    assert_int_equal(compute(&r, before), GGML_STATUS_SUCCESS);
    size_t bytes = ggml_nbytes(r.k);
    uint8_t *old = malloc(bytes), *new = malloc(bytes);
    ggml_backend_tensor_get(r.k, old, 0, bytes);

    struct ggml_context *c = graph_context();
    struct ggml_cgraph *graph = ggml_new_graph(c);
    struct ggml_tensor *shift = ggml_new_tensor_1d(c, GGML_TYPE_I32, s->n_slots);
    ggml_set_input(shift);
    struct ggml_tensor *k = ggml_view_3d(c, r.k, s->dim_k, s->n_kv_heads, s->n_slots,
                                         ggml_row_size(r.k->type, s->dim_k), r.k->nb[1], 0);
    struct ggml_tensor *t = ggml_rope_ext_inplace(c, k, shift, NULL, s->dim_k, 2, 0, 10000, 1, 0, 1,
                                                  32, 1);
    ggml_build_forward_expand(graph, t);
    int32_t shifts[960] = {0};
    for (int round = 0; round < 2; round++) {
        for (int i = 100; round && i < 200; i++)
            shifts[i] = -5;
        ggml_backend_sched_reset(r.sched);
        assert_true(ggml_backend_sched_alloc_graph(r.sched, graph));
        ggml_backend_tensor_set(shift, shifts, 0, sizeof shifts);
        assert_int_equal(ggml_backend_sched_graph_compute(r.sched, graph), GGML_STATUS_SUCCESS);
        ggml_backend_tensor_get(r.k, new, 0, bytes);
        for (int i = 0; i < 512; i++) {
            int same = !memcmp(old + (size_t)i * r.k->nb[1], new + (size_t)i * r.k->nb[1],
                               r.k->nb[1]);
            assert_int_equal(same, !shifts[i]);
        }
    }
    free(old);
    free(new);
    ggml_free(c);
    close_run(&r);
}

/* ---- rows of somebody else ---- */

static void test_foreign_rows(void **state)
{
    (void)state;
    const shape *s = &shapes[0];
    float first[384];
    run r;
    open_run(&r, s, TQKVS, 2);
    build(&r);
    assert_int_equal(compute(&r, first), GGML_STATUS_SUCCESS);
    /* Moved as bytes, as state files do, rows stay good. */
    size_t n = ggml_nbytes(r.v);
    uint8_t *rows = malloc(n), *other = malloc(n);
    ggml_backend_tensor_get(r.v, rows, 0, n);
    memcpy(other, rows + r.v->nb[1], r.v->nb[1]);
    ggml_backend_tensor_set(r.v, other, 300 * r.v->nb[1], r.v->nb[1]);
    assert_int_equal(ggml_backend_sched_graph_compute(r.sched, r.graph), GGML_STATUS_SUCCESS);
    /* A graph that only reads: one row of another format among 256. */
    struct ggml_context *c = r.context;
    r.context = graph_context();
    struct ggml_cgraph *graph = ggml_new_graph(r.context);
    struct ggml_tensor *q = input(&r, GGML_TYPE_F32, s->dim_k, s->n_heads, 1, 1);
    struct ggml_tensor *out = ggml_flash_attn_ext(
        r.context, ggml_permute(r.context, q, 0, 2, 1, 3), view_of(&r, r.k, s->dim_k),
        view_of(&r, r.v, s->dim_v), NULL, 1, 0, 0);
    ggml_build_forward_expand(graph, out);
    memcpy(other, rows + 9 * r.v->nb[1], r.v->nb[1]);
    for (size_t i = 0; i < r.v->nb[1]; i += 2 * (size_t)s->dim_v)
        other[i + 2] ^= 0x55; /* another tag */
    for (int foreign = 0; foreign < 2; foreign++) {
        ggml_backend_tensor_set(r.v, foreign ? other : rows + 9 * r.v->nb[1], 9 * r.v->nb[1],
                                r.v->nb[1]);
        ggml_backend_sched_reset(r.sched);
        assert_true(ggml_backend_sched_alloc_graph(r.sched, graph));
        uint64_t seed = 5;
        float values[384];
        for (int i = 0; i < 384; i++)
            values[i] = random_normal(&seed);
        ggml_backend_tensor_set(q, values, 0, sizeof values);
        assert_int_equal(ggml_backend_sched_graph_compute(r.sched, graph),
                         foreign ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS);
    }
    free(rows);
    free(other);
    ggml_free(c);
    close_run(&r);
}

/* ---- what is left to ggml ---- */

typedef struct ggml_tensor *(*other_function)(run *r);

static struct ggml_tensor *without_flash_attention(run *r)
{
    struct ggml_tensor *q = input(r, GGML_TYPE_F32, r->s->dim_k, 1, r->s->n_heads, 1);
    return ggml_mul_mat(r->context, view_of(r, r->k, r->s->dim_k), q);
}

static struct ggml_tensor *shared_rows(run *r)
{
    struct ggml_tensor *q = input(r, GGML_TYPE_F32, r->s->dim_k, 1, r->s->n_heads, 1);
    struct ggml_tensor *k = view_of(r, r->k, r->s->dim_k);
    return ggml_flash_attn_ext(r->context, q, k, k, NULL, 1, 0, 0);
}

static struct ggml_tensor *unknown_operation(run *r)
{
    return ggml_get_rows(r->context, ggml_reshape_2d(r->context, r->k, r->k->ne[0], r->k->ne[1]),
                         input(r, GGML_TYPE_I32, 4, 1, 1, 1));
}

/* Rows of ggml's whose scales are finite, and inputs that are numbers or slots. */
static void fill_bytes(struct ggml_tensor *t)
{
    uint8_t *bytes = malloc(ggml_nbytes(t));
    for (size_t i = 0; i < ggml_nbytes(t); i++)
        bytes[i] = (uint8_t)((i * 7 + i / 18) % 60);
    ggml_backend_tensor_set(t, bytes, 0, ggml_nbytes(t));
    free(bytes);
}

static void fill_inputs(struct ggml_context *c)
{
    float *values = malloc(MAX_VALUES * sizeof *values);
    for (struct ggml_tensor *t = ggml_get_first_tensor(c); t; t = ggml_get_next_tensor(c, t)) {
        const int32_t slots[] = {5, 0, 19, 2};
        if (t->op == GGML_OP_NONE && t->type == GGML_TYPE_F32)
            fill(t, values, 9);
        if (t->op == GGML_OP_NONE && t->type == GGML_TYPE_I32)
            ggml_backend_tensor_set(t, slots, 0, sizeof slots);
    }
    free(values);
}

/* The result of an operation on a cache that ggml has filled. */
static size_t result_of(enum owner owner, other_function make, uint8_t **result)
{
    run r;
    open_run(&r, &shapes[0], owner, 2);
    r.graph = ggml_new_graph(r.context);
    struct ggml_tensor *t = make(&r);
    ggml_set_output(t);
    ggml_build_forward_expand(r.graph, t);
    assert_true(ggml_backend_sched_reserve(r.sched, r.graph));
    assert_true(ggml_backend_sched_alloc_graph(r.sched, r.graph));
    fill_bytes(r.k);
    fill_bytes(r.v);
    fill_inputs(r.context);
    assert_int_equal(ggml_backend_sched_graph_compute(r.sched, r.graph), GGML_STATUS_SUCCESS);
    size_t n = ggml_nbytes(t);
    *result = malloc(n);
    ggml_backend_tensor_get(t, *result, 0, n);
    close_run(&r);
    return n;
}

/* What tqkv has not gives the same as where no tensor has a cache's name. */
static void test_left_to_ggml(void **state)
{
    const other_function others[] = {without_flash_attention, shared_rows, unknown_operation};
    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        uint8_t *ours, *ggmls;
        size_t n = result_of(TQKVS, others[i], &ours);
        assert_int_equal(result_of(GGMLS, others[i], &ggmls), n);
        assert_memory_equal(ours, ggmls, n);
        free(ours);
        free(ggmls);
    }
}

static enum ggml_status compute_other(run *r)
{
    struct ggml_context *before = r->context;
    r->context = graph_context();
    struct ggml_cgraph *graph = ggml_new_graph(r->context);
    ggml_build_forward_expand(graph, without_flash_attention(r));
    ggml_backend_sched_reset(r->sched);
    assert_true(ggml_backend_sched_alloc_graph(r->sched, graph));
    fill_inputs(r->context);
    enum ggml_status status = ggml_backend_sched_graph_compute(r->sched, graph);
    ggml_free(r->context);
    r->context = before;
    return status;
}

/* An operation that comes when rows have been stored: they become f16, and what follows is
 * ggml's. */
static void test_plain_later(void **state)
{
    float first[384], second[384], exact[384];
    const shape *s = &shapes[0];
    run r;
    (void)state;
    outputs_of(s, GGMLS, 1, exact);
    open_run(&r, s, TQKVS, 1);
    build(&r);
    assert_int_equal(compute(&r, first), GGML_STATUS_SUCCESS);
    size_t n = ggml_nbytes(r.k);
    ggml_fp16_t *rows = malloc(n), *new_rows = malloc(n);
    ggml_backend_tensor_get(r.k, rows, 0, n);
    assert_true(isnan(ggml_fp16_to_fp32(rows[0]))); /* codes */
    assert_int_equal(compute_other(&r), GGML_STATUS_SUCCESS);
    ggml_backend_tensor_get(r.k, new_rows, 0, n);
    for (size_t i = 0; i < n / 2; i++)
        assert_true(isfinite(ggml_fp16_to_fp32(new_rows[i])));
    assert_int_equal(compute(&r, second), GGML_STATUS_SUCCESS);
    assert_memory_equal(second, exact, sizeof exact);
    assert_memory_not_equal(first, exact, sizeof exact);
    free(rows);
    free(new_rows);
    close_run(&r);
}

static void test_strict(void **state)
{
    float first[384];
    run r;
    (void)state;
    setenv("TQKV_STRICT", "1", 1);
    open_run(&r, &shapes[0], TQKVS, 1);
    unsetenv("TQKV_STRICT");
    build(&r);
    assert_int_equal(compute(&r, first), GGML_STATUS_SUCCESS);
    assert_int_equal(compute_other(&r), GGML_STATUS_FAILED);
    close_run(&r);
}

/* tqkv brings no device: llama.cpp decides by devices what it may use. */
static void test_no_device(void **state)
{
    (void)state;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++)
        assert_int_equal(ggml_backend_dev_type(ggml_backend_dev_get(i)),
                         GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_t b = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    assert_string_equal(ggml_backend_name(b), "CPU");
    ggml_backend_free(b);
}

/* Random graphs of attention, whose cache is tqkv's or is left to ggml. */
static void test_random_graphs(void **state)
{
    static const char *const formats[] = {"tq2", "tq3", "tq4", "tq5/tq4", "tq8", "lm4", ""};
    uint64_t seed = 11;
    (void)state;
    for (int round = 0; round < 60; round++) {
#define PICK(n) ((int)(random_unit(&seed) * (n)))
        shape s = {.name = "random", .format = formats[PICK(7)],
                   .dim_k = 16 * (1 + PICK(18)), .dim_v = 16 * (1 + PICK(18)),
                   .n_kv_heads = 1 + PICK(4), .n_tokens = 1 + PICK(20), .n_streams = 1 + PICK(3),
                   .n_slots = 128, .window = PICK(3) ? 0 : 1 + PICK(60),
                   .softcap = PICK(3) ? 0 : 20, .has_sinks = PICK(2), .max_bias = PICK(3) ? 0 : 8};
        s.n_heads = s.n_kv_heads * (1 + PICK(5));
        s.n_kv = s.n_tokens + PICK(128 - s.n_tokens);
        run r;
        open_run(&r, &s, TQKVS, 1 + PICK(3));
        build(&r);
        assert_int_equal(compute(&r, NULL), GGML_STATUS_SUCCESS);
        close_run(&r);
    }
}

static void silent(enum ggml_log_level level, const char *text, void *data)
{
    (void)level, (void)text, (void)data;
}

static int load(void **state)
{
    (void)state;
    ggml_log_set(silent, NULL);
    return load_backends() ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_again),
        cmocka_unit_test(test_shift), cmocka_unit_test(test_foreign_rows),
        cmocka_unit_test(test_left_to_ggml), cmocka_unit_test(test_plain_later),
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_no_device), cmocka_unit_test(test_random_graphs),
    };
    return cmocka_run_group_tests(tests, load, NULL);
}

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
    out.rows = (tqkv_gpu_rows){
        *buffer, r->scales ? *buffer : NULL, r->centres ? *buffer : NULL, 0,
        r->scales ? (size_t)(r->scales - r->codes) : 0,
        r->centres ? (size_t)(r->centres - r->codes) : 0,
        r->code_stride, r->scale_stride, r->centre_stride};
    out.head = (tqkv_gpu_strides){o->head.codes, o->head.scales, o->head.centres};
    out.page = (tqkv_gpu_strides){o->page.codes, o->page.scales, o->page.centres};
    return out;
}

static inline size_t operand_bytes(const shape *s, const tqkv_operand *o, uint32_t dim, int centres)
{
    size_t code = dim * 4, scale = 0, rows = slots_of(s) * s->n_kv_heads;
    if (o->format.codebook) {
        tqkv_format_code_bytes(&o->format, &code);
        tqkv_format_scale_bytes(&o->format, &scale);
    } else {
        code = dim * (o->type == TQKV_F32 ? 4u : 2u);
    }
    return rows * (code + scale + (size_t)!!centres);
}

static inline tqkv_buffer *profiles_buffer(const gpu_case *g, const shape *s, const attend_case *c)
{
    if (!s->centres)
        return NULL;
    return gpu_buffer(g, c->profile_floats,
                      (1 + (size_t)s->centres) * s->key_dim * s->n_kv_heads * sizeof(float));
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
                      operand_bytes(s, &c->set.keys, s->key_dim, s->centres > 1), &buffers[0]);
    ga.values = operand(g, &c->set.values, c->value_memory,
                        operand_bytes(s, &c->set.values, s->value_dim, 0), &buffers[1]);
    ga.queries = buffers[2] = gpu_buffer(g, c->queries, rows * s->key_dim * 4);
    ga.out = gpu_buffer(g, NULL, rows * s->value_dim * 4);
    ga.state = gpu_buffer(g, NULL, rows * 8);
    ga.keys.profiles = buffers[3] = profiles_buffer(g, s, c);
    ga.keys.n_centres = (uint32_t)s->centres;
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

/* Asserts it, and names the case. */
static inline void check_error(const shape *s, double error, double bound)
{
    if (!(error <= bound))
        fail_msg("%s/%s, head_dims %u/%u, %ux%u, %u queries, %zu tokens: %.2e", s->keys, s->values,
                 s->key_dim, s->value_dim, s->n_kv_heads, s->group, s->n_queries, s->n_tokens, error);
}

#endif

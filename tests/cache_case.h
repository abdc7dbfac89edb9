/* What the cache's tests share: data, and attention over a cache against double
 * precision over what its rows decode to. */
#ifndef TQKV_TESTS_CACHE_CASE_H
#define TQKV_TESTS_CACHE_CASE_H

#include "cache/cache.h"
#include "reference.h"

/* ---- data ---- */

enum { TOKENS = 700, LAYERS = 3 };

/* Two like layers, one with other heads, and a window. */
static tqkv_layer layers[LAYERS];
static float *keys[LAYERS], *values[LAYERS], *queries[LAYERS];

static inline size_t key_row(int i)
{
    return (size_t)layers[i].n_kv_heads * layers[i].keys.head_dim;
}

static inline size_t value_row(int i)
{
    return (size_t)layers[i].n_kv_heads * layers[i].values.head_dim;
}

static inline size_t query_row(int i)
{
    return (size_t)layers[i].n_heads * layers[i].keys.head_dim;
}

static inline int make_data(void **state)
{
    (void)state;
    layers[0] = (tqkv_layer){.n_heads = 4, .n_kv_heads = 2, .keys = test_format("tq4", 64),
                             .values = test_format("tq4", 64)};
    layers[1] = (tqkv_layer){.n_heads = 2, .n_kv_heads = 1, .keys = test_format("tq5", 128),
                             .values = test_format("lm4", 128), .window = 100};
    layers[2] = (tqkv_layer){.n_heads = 6, .n_kv_heads = 2, .keys = test_format("mlx4", 64),
                             .values = test_format("tq3", 32)};
    for (int i = 0; i < LAYERS; i++) {
        keys[i] = test_rows(100 + (uint64_t)i, TOKENS * key_row(i));
        values[i] = test_rows(200 + (uint64_t)i, TOKENS * value_row(i));
        queries[i] = test_rows(300 + (uint64_t)i, TOKENS * query_row(i));
        for (size_t t = 0; t < TOKENS; t++) /* keys with something in common */
            for (size_t d = 0; d < key_row(i); d++)
                keys[i][t * key_row(i) + d] += (float)(d % 7) * .2f;
    }
    return 0;
}

static inline int free_data(void **state)
{
    (void)state;
    for (int i = 0; i < LAYERS; i++) {
        free(keys[i]);
        free(values[i]);
        free(queries[i]);
    }
    return 0;
}

static inline tqkv_cache_config plain(void)
{
    return (tqkv_cache_config){.layers = layers, .n_layers = LAYERS, .capacity = TOKENS,
                               .n_sequences = 3, .fingerprint = "a model"};
}

static inline tqkv_cache *make_cache(const tqkv_cache_config *config)
{
    tqkv_cache *c = NULL;
    assert_int_equal(tqkv_cache_create(config, &c), TQKV_OK);
    return c;
}

static inline tqkv_sequence *make_sequence(tqkv_cache *c)
{
    tqkv_sequence *s = NULL;
    assert_int_equal(tqkv_sequence_create(c, &s), TQKV_OK);
    return s;
}

/* Appends the data's tokens [first, first + n) to all layers. */
static inline tqkv_status append(tqkv_sequence *s, size_t first, size_t n)
{
    tqkv_status status = TQKV_OK;
    for (int i = 0; status == TQKV_OK && i < LAYERS; i++)
        status = tqkv_sequence_append(s, (uint32_t)i, keys[i] + first * key_row(i),
                                      values[i] + first * value_row(i),
                                      queries[i] + first * query_row(i), TQKV_F32, n);
    return status;
}

static inline void append_in_steps(tqkv_sequence *s, size_t first, size_t n, size_t step)
{
    for (size_t done = 0; done < n; done += step)
        assert_int_equal(append(s, first + done, n - done < step ? n - done : step), TQKV_OK);
}

/* ---- attention ---- */

enum { QUERIES = 2 };

static inline tqkv_attention call(int layer, size_t length)
{
    return (tqkv_attention){.n_queries = QUERIES, .position = length - QUERIES,
                            .queries = queries[layer], .causal = 1, .scale = .125f};
}

/* The last positions' attention in one layer; the caller frees. */
static inline float *attend(tqkv_sequence *s, int layer)
{
    size_t bytes, row = (size_t)layers[layer].n_heads * layers[layer].values.head_dim;
    tqkv_attention a = call(layer, tqkv_sequence_length(s, (uint32_t)layer));
    tqkv_executor one = {1, NULL, NULL};
    assert_int_equal(tqkv_cache_workspace(s->cache, (uint32_t)layer, QUERIES, &one, &bytes),
                     TQKV_OK);
    void *workspace = malloc(bytes);
    float *out = malloc(QUERIES * row * sizeof *out);
    tqkv_partial result = {out, NULL, NULL};
    assert_int_equal(tqkv_sequence_attend(s, (uint32_t)layer, &a, &result, &one, workspace, bytes),
                     TQKV_OK);
    free(workspace);
    return out;
}

static inline void assert_same_attention(tqkv_sequence *a, tqkv_sequence *b)
{
    for (int i = 0; i < LAYERS; i++) {
        float *x = attend(a, i), *y = attend(b, i);
        assert_memory_equal(x, y, QUERIES * layers[i].n_heads *
                                      (size_t)layers[i].values.head_dim * sizeof *x);
        free(x);
        free(y);
    }
}

/* Attention over a layer against double precision over what it holds. */
static inline double attention_error(tqkv_sequence *s, int layer)
{
    const cache_layer *l = &s->cache->layers[layer];
    const sequence_layer *state = &s->layers[layer];
    size_t n = state->length, oldest = 0, kd = l->shape.keys.head_dim;
    size_t vd = l->shape.values.head_dim, heads = l->shape.n_kv_heads;
    float *k = calloc(n * heads * kd, sizeof *k), *v = calloc(n * heads * vd, sizeof *v);
    uint64_t *positions = malloc(n * sizeof *positions);
    if (l->shape.window && n > l->shape.window + QUERIES)
        oldest = n - (size_t)l->shape.window - QUERIES + 1;
    for (size_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < heads; h++) {
            positions[t] = t;
            if (t < oldest)
                continue;
            layer_read(l, state, KEYS, h, t, k + (t * heads + h) * kd);
            layer_read(l, state, VALUES, h, t, v + (t * heads + h) * vd);
        }
    tqkv_tokens shape = {.keys.format.head_dim = (uint16_t)kd,
                         .values.format.head_dim = (uint16_t)vd};
    tqkv_attention a = call(layer, n);
    a.n_heads = l->shape.n_heads;
    a.n_kv_heads = (uint32_t)heads;
    a.window = l->shape.window;
    a.sets = &shape;
    reference r = {&a, queries[layer], k, v, positions, n};
    float *out = attend(s, layer);
    double error = 0, size = 0, expected[TQKV_MAX_HEAD_DIM], max, sum;
    for (uint32_t i = 0; i < QUERIES; i++)
        for (uint32_t h = 0; h < a.n_heads; h++) {
            reference_row(&r, i, h, expected, &max, &sum);
            for (size_t d = 0; d < vd; d++) {
                double x = out[(i * a.n_heads + h) * vd + d] - expected[d];
                error += x * x;
                size += expected[d] * expected[d];
            }
        }
    free(out);
    free(k);
    free(v);
    free(positions);
    return sqrt(error / size);
}

static inline void check_attention(tqkv_sequence *s)
{
    for (int i = 0; i < LAYERS; i++)
        assert_true(attention_error(s, i) < 1.5e-2);
}

/* Mean squared error of what a layer holds of the data's keys or values, where
 * token t of the sequence is token from[t] of the data. */
static inline double storage_error(tqkv_sequence *s, int layer, operand_kind kind, const size_t *from)
{
    const cache_layer *l = &s->cache->layers[layer];
    const sequence_layer *state = &s->layers[layer];
    size_t dim = head_dim_of(l, kind), heads = l->shape.n_kv_heads;
    const float *data = kind == KEYS ? keys[layer] : values[layer];
    double error = 0, size = 0;
    for (size_t t = 0; t < state->length; t++)
        for (uint32_t h = 0; h < heads; h++) {
            float x[TQKV_MAX_HEAD_DIM];
            if (t >= l->n_first && t < state->kept)
                continue;
            layer_read(l, state, kind, h, t, x);
            for (size_t d = 0; d < dim; d++) {
                double y = data[((from ? from[t] : t) * heads + h) * dim + d];
                error += (x[d] - y) * (x[d] - y);
                size += y * y;
            }
        }
    return error / size;
}

static inline void check_storage(tqkv_sequence *s, const size_t *from)
{
    for (int i = 0; i < LAYERS; i++) {
        assert_true(storage_error(s, i, KEYS, from) < .04);
        assert_true(storage_error(s, i, VALUES, from) < .03);
    }
}

#endif

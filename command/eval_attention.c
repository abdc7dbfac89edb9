#include "eval_attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <omp.h>

#include "command.h"

int attention_init(attention *a, const capture *c, uint64_t n_queries)
{
    uint64_t half = c->n_tokens - c->n_tokens / 2;
    a->n_queries = n_queries < half ? n_queries : half;
    size_t count = (size_t)(c->n_layers * c->n_heads * a->n_queries);
    a->outputs = allocate(count, c->v_head_dim * sizeof *a->outputs);
    a->most = allocate(count, sizeof *a->most);
    a->weights = allocate((size_t)omp_get_max_threads(), (size_t)c->n_tokens * sizeof *a->weights);
    return a->outputs && a->most && a->weights;
}

void attention_free(attention *a)
{
    free(a->outputs);
    free(a->most);
    free(a->weights);
}

uint64_t attention_position(const attention *a, const capture *c, uint64_t i)
{
    uint64_t half = c->n_tokens / 2, span = c->n_tokens - half;
    return half + (i + 1) * span / a->n_queries - 1;
}

typedef struct head {
    const float *query, *keys, *values; /* keys and values of position 0 */
    size_t key_stride, value_stride;
    uint32_t dim, v_dim;
} head;

/* One query over positions 0 to last; weights is scratch of last + 1. */
static uint32_t attend(const head *h, uint64_t last, double *weights, double *output)
{
    double largest = -INFINITY, total = 0;
    uint32_t most = 0;
    for (uint64_t t = 0; t <= last; t++) {
        const float *key = h->keys + t * h->key_stride;
        double dot = 0;
        for (uint32_t d = 0; d < h->dim; d++)
            dot += (double)h->query[d] * key[d];
        weights[t] = dot / sqrt(h->dim);
        if (weights[t] > largest) {
            largest = weights[t];
            most = (uint32_t)t;
        }
    }
    for (uint32_t d = 0; d < h->v_dim; d++)
        output[d] = 0;
    for (uint64_t t = 0; t <= last; t++) {
        const float *value = h->values + t * h->value_stride;
        double weight = exp(weights[t] - largest);
        total += weight;
        for (uint32_t d = 0; d < h->v_dim; d++)
            output[d] += weight * value[d];
    }
    for (uint32_t d = 0; d < h->v_dim; d++)
        output[d] /= total;
    return most;
}

void attention_run(attention *a, const capture *c, const float *keys, const float *values)
{
    long n_heads = (long)(c->n_layers * c->n_heads);
#pragma omp parallel for schedule(dynamic)
    for (long i = 0; i < n_heads; i++) {
        uint64_t layer = (uint64_t)i / c->n_heads, h = (uint64_t)i % c->n_heads;
        size_t kv = (size_t)(layer * c->n_tokens * c->n_kv_heads + h / c->group);
        head work = {.keys = keys + kv * c->head_dim,
                     .values = values + kv * c->v_head_dim,
                     .key_stride = (size_t)c->n_kv_heads * c->head_dim,
                     .value_stride = (size_t)c->n_kv_heads * c->v_head_dim,
                     .dim = c->head_dim, .v_dim = c->v_head_dim};
        double *weights = a->weights + (size_t)omp_get_thread_num() * c->n_tokens;
        for (uint64_t q = 0; q < a->n_queries; q++) {
            uint64_t at = attention_position(a, c, q), out = (uint64_t)i * a->n_queries + q;
            work.query = c->queries +
                         ((layer * c->n_tokens + at) * c->n_heads + h) * c->head_dim;
            a->most[out] = attend(&work, at, weights, a->outputs + out * c->v_head_dim);
        }
    }
}

double attention_error(const attention *a, const attention *b, const capture *c)
{
    size_t n = (size_t)(c->n_layers * c->n_heads * a->n_queries) * c->v_head_dim;
    double error = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        error += (b->outputs[i] - a->outputs[i]) * (b->outputs[i] - a->outputs[i]);
        size += a->outputs[i] * a->outputs[i];
    }
    return size > 0 ? sqrt(error / size) : error > 0 ? INFINITY : 0;
}

double attention_agreement(const attention *a, const attention *b, const capture *c)
{
    size_t n = (size_t)(c->n_layers * c->n_heads * a->n_queries), same = 0;
    for (size_t i = 0; i < n; i++)
        same += a->most[i] == b->most[i];
    return (double)same / (double)n;
}

/* Attention in double precision over rows decoded to floats: what the library
 * is measured against. */
#ifndef TQKV_TESTS_REFERENCE_H
#define TQKV_TESTS_REFERENCE_H

#include "test.h"
#include "tqkv_attention.h"

/* Everything in floats: keys [tokens][n_kv_heads][key_dim], values likewise,
 * tokens of all sets; their positions. */
typedef struct reference {
    const tqkv_attention *a;
    const float *queries; /* [n_queries][n_heads][key_dim] */
    const float *keys, *values;
    const uint64_t *positions;
    size_t n_tokens;
} reference;

static inline double reference_logit(const reference *r, uint32_t i, uint32_t h, size_t t)
{
    const tqkv_attention *a = r->a;
    size_t kd = a->sets[0].keys.format.head_dim;
    const float *q = r->queries + ((size_t)i * a->n_heads + h) * kd;
    const float *k = r->keys + (t * a->n_kv_heads + h / (a->n_heads / a->n_kv_heads)) * kd;
    int64_t distance = (int64_t)r->positions[t] - (int64_t)(a->position + i);
    if (a->causal && distance > 0)
        return -INFINITY;
    if (a->window && distance <= -(int64_t)a->window)
        return -INFINITY;
    double l = 0;
    for (size_t d = 0; d < kd; d++)
        l += (double)q[d] * k[d];
    l *= a->scale;
    if (a->softcap > 0)
        l = a->softcap * tanh(l / a->softcap);
    if (a->slopes)
        l += a->slopes[h] * (double)distance;
    if (a->mask) {
        size_t at = h * a->mask_head_stride + i * a->mask_stride + t;
        float m;
        tqkv_to_f32((const uint8_t *)a->mask + at * (a->mask_type == TQKV_F32 ? 4 : 2),
                    a->mask_type, 1, &m);
        l += a->mask_slopes && m > -INFINITY ? a->mask_slopes[h] * (double)m : (double)m;
    }
    return l;
}

/* One row: out[value_dim]. */
static inline void reference_row(const reference *r, uint32_t i, uint32_t h, double *out,
                                 double *max_logit, double *sum_of_exp)
{
    const tqkv_attention *a = r->a;
    size_t vd = a->sets[0].values.format.head_dim, kv = h / (a->n_heads / a->n_kv_heads);
    double *l = malloc((r->n_tokens + 1) * sizeof *l), max = -INFINITY, sum = 0;
    for (size_t t = 0; t < r->n_tokens; t++) {
        l[t] = reference_logit(r, i, h, t);
        max = l[t] > max ? l[t] : max;
    }
    if (a->sinks && a->sinks[h] > max)
        max = a->sinks[h];
    memset(out, 0, vd * sizeof *out);
    for (size_t t = 0; t < r->n_tokens; t++) {
        double p = max > -INFINITY ? exp(l[t] - max) : 0;
        sum += p;
        for (size_t d = 0; p > 0 && d < vd; d++)
            out[d] += p * r->values[(t * a->n_kv_heads + kv) * vd + d];
    }
    if (a->sinks)
        sum += exp(a->sinks[h] - max);
    for (size_t d = 0; d < vd; d++)
        out[d] = sum > 0 ? out[d] / sum : 0;
    *max_logit = max;
    *sum_of_exp = sum;
    free(l);
}

#endif

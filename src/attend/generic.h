/* Kernels that are the same text for every instruction set, compiled once for
 * each: define TARGET as the function attribute that selects it. */
#include <math.h>
#include <string.h>

#include "attend/kernels.h"
#include "common/f16.h"
#include "page/mean.h"

enum { LANES_16 = 16 };

/* exp(x) for x <= 0 (and the rounding above it), to 2e-7 relative down to -87;
 * below that 0. 2^n * p(f), |f| <= 1/2, with the Taylor polynomial of 2^f. */
TARGET static inline float exp_negative(float x)
{
    float clamped = x > -87 ? x : -87;
    float t = clamped * 1.44269504f, n = (t + 12582912.0f) - 12582912.0f, f = t - n;
    float p = 1.5403530e-4f;
    p = p * f + 1.33335581e-3f;
    p = p * f + 9.61812910e-3f;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1;
    int32_t power = (int32_t)((uint32_t)((int32_t)n + 127) << 23);
    float two_n;
    memcpy(&two_n, &power, sizeof two_n);
    return x > -87 ? p * two_n : 0;
}

TARGET static inline float sum_of_lanes(const float *lane)
{
    float sum = 0;
    for (int j = 0; j < LANES_16; j++)
        sum += lane[j];
    return sum;
}

#ifndef HAS_SOFTMAX
TARGET static float softmax(const float *logit, const float *scale, uint64_t where,
                            softmax_state *s, float *e, float *p, float *peak, float *chosen)
{
    float largest = -INFINITY;
    for (int t = 0; t < TILE; t++)
        largest = logit[t] > largest ? logit[t] : largest;
    *peak = *chosen = 0;
    if (largest == -INFINITY) {
        if (e)
            memset(e, 0, TILE * sizeof *e);
        memset(p, 0, TILE * sizeof *p);
        return 1;
    }
    float rescale = 1, sum[LANES_16] = {0}, mass[LANES_16] = {0}, some[LANES_16] = {0};
    if (largest > s->max) {
        rescale = exp_negative(s->max - largest);
        s->max = largest;
    }
    for (int t = 0; t < TILE; t += LANES_16)
        for (int j = 0; j < LANES_16; j++) {
            float power = exp_negative(logit[t + j] - s->max);
            p[t + j] = power * scale[t + j];
            sum[j] += power;
            mass[j] += p[t + j];
            some[j] += where >> (t + j) & 1 ? power : 0;
            if (e)
                e[t + j] = power;
        }
    for (int t = 0; t < TILE; t++)
        *peak = p[t] > *peak ? p[t] : *peak;
    s->sum = s->sum * rescale + sum_of_lanes(sum);
    s->mass = s->mass * rescale + sum_of_lanes(mass);
    s->bias *= rescale;
    *chosen = sum_of_lanes(some);
    return rescale;
}

TARGET static void add_where(uint64_t where, float add, float *logit)
{
    for (int t = 0; t < TILE; t++)
        logit[t] = where >> t & 1 ? logit[t] + add : logit[t];
}

TARGET static float sum_where(uint64_t where, const float *x)
{
    float lane[LANES_16] = {0};
    for (int t = 0; t < TILE; t += LANES_16)
        for (int j = 0; j < LANES_16; j++)
            lane[j] += where >> (t + j) & 1 ? x[t + j] : 0;
    return sum_of_lanes(lane);
}

TARGET static int32_t weights(const float *p, float gain, uint16_t *weight)
{
    int32_t excess = 0;
    for (int t = 0; t < TILE; t++) {
        int w = (int)rintf(p[t] * gain);
        weight[t] = (uint16_t)w;
        excess += 128 * upper_digit(w) - w;
    }
    return excess;
}
#endif

#ifndef HAS_SOFTMAX
TARGET static void logits(const int32_t *score, float unit, const float *scale, uint64_t where,
                          float add, float *logit)
{
    for (int t = 0; t < TILE; t++)
        logit[t] = (float)score[t] * unit * scale[t];
    if (where)
        add_where(where, add, logit);
}
#endif

#ifndef HAS_HALVES
TARGET static float scales(const uint8_t *half, uint64_t *signs, float *scale)
{
    float largest = 0;
    uint64_t sign = 0;
    for (int t = 0; t < TILE; t++) {
        uint16_t h;
        memcpy(&h, half + 2 * t, sizeof h);
        sign |= (uint64_t)(h >> 15) << t;
        h = signs ? h & 0x7FFF : h;
        scale[t] = h < 0x7C00 ? f16_to_f32(h) : 0;
        largest = scale[t] > largest ? scale[t] : largest;
    }
    if (signs)
        *signs = sign;
    return largest;
}

TARGET static int halves(const uint8_t *half, unsigned n, float *x)
{
    int are_finite = 1;
    for (unsigned i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, half + 2 * i, sizeof h);
        x[i] = f16_to_f32(h);
        are_finite &= (h & 0x7FFF) < 0x7C00;
    }
    return are_finite;
}
#endif

TARGET static float norms(const uint8_t *norm, float *scale)
{
    float lane[LANES_16] = {0}, largest = 0;
    memcpy(scale, norm, TILE * sizeof *scale);
    for (int t = 0; t < TILE; t += LANES_16)
        for (int j = 0; j < LANES_16; j++) {
            float x = scale[t + j];
            scale[t + j] = x > 0 && x <= LARGEST_NORM ? x : 0;
            lane[j] = scale[t + j] > lane[j] ? scale[t + j] : lane[j];
        }
    for (int j = 0; j < LANES_16; j++)
        largest = lane[j] > largest ? lane[j] : largest;
    return largest;
}

/* tanh(y) = (1 - e) / (1 + e), e = exp(-2 |y|), with y's sign; near 0, where that
 * cancels, by Taylor's series. */
TARGET static void softcap(float *x, float cap)
{
    for (int t = 0; t < TILE; t++) {
        float y = x[t] / cap, e = exp_negative(-2 * fabsf(y)), y2 = y * y;
        float far = cap * ((1 - e) / (1 + e));
        float near = x[t] * (1 + y2 * (-.333333333f + y2 * (.133333333f - y2 * .053968254f)));
        float z = y2 < .04f ? near : y < 0 ? -far : far;
        x[t] = x[t] == -INFINITY ? x[t] : z;
    }
}

#ifndef HAS_PLAIN_KERNELS
TARGET static void plain_scores(const float *queries, unsigned n_rows, const float *keys,
                                unsigned n, unsigned dim, float (*score)[TILE])
{
    for (unsigned r = 0; r < n_rows; r++, queries += dim)
        for (unsigned t = 0; t < n; t++) {
            const float *key = keys + (size_t)t * dim;
            float lane[LANES_16] = {0};
            for (unsigned i = 0; i < dim; i += LANES_16)
                for (int j = 0; j < LANES_16; j++)
                    lane[j] += queries[i + j] * key[i + j];
            score[r][t] = sum_of_lanes(lane);
        }
}

TARGET static void mean_scores(const float *queries, unsigned n_rows, const uint8_t *mean,
                               unsigned dim, float *score)
{
    float scale = mean_scale(mean, dim);
    for (unsigned r = 0; r < n_rows; r++, queries += dim) {
        float lane[LANES_16] = {0};
        for (unsigned i = 0; i < dim; i += LANES_16)
            for (int j = 0; j < LANES_16; j++)
                lane[j] += queries[i + j] * (float)(int8_t)mean[i + j];
        score[r] = sum_of_lanes(lane) * scale;
    }
}

TARGET static void mean_accumulate(const float (*weight)[TILE], unsigned n_rows,
                                   const uint8_t *const *means, unsigned n, unsigned dim,
                                   float *const *out)
{
    for (unsigned r = 0; r < n_rows; r++)
        for (unsigned i = 0; i < dim; i++) {
            float sum = 0;
            for (unsigned t = 0; t < n; t++)
                sum += weight[r][t] * (float)(int8_t)means[t][i];
            out[r][i] += sum;
        }
}

TARGET static void plain_accumulate(const float (*weight)[TILE], unsigned n_rows,
                                    const float *values, unsigned n, unsigned dim,
                                    float *const *out)
{
    for (unsigned r = 0; r < n_rows; r++)
        for (unsigned i = 0; i < dim; i += LANES_16) {
            float lane[LANES_16] = {0};
            for (unsigned t = 0; t < n; t++)
                for (int j = 0; j < LANES_16; j++)
                    lane[j] += weight[r][t] * values[(size_t)t * dim + i + j];
            for (int j = 0; j < LANES_16; j++)
                out[r][i + j] += lane[j];
        }
}
#endif

TARGET static void addresses(const uint8_t *base, size_t stride, unsigned n, const uint8_t **rows)
{
    for (size_t i = 0; i < n; i++)
        rows[i] = base + i * stride;
}

/* All lines of a row's codes, and of a scale that lies right behind them. */
TARGET static inline void prefetch_row(const uint8_t *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(row + i);
    __builtin_prefetch(row + bytes + 1);
}

#ifndef HAS_TILES
/* Tiles of rows one after the other, for those that have no better idea. */
TARGET static void expand_rows(const tile_plan *p, const uint8_t *const *rows,
                               const uint8_t *const *ahead, int8_t *tile)
{
    for (unsigned t = 0; t < TILE; t++) {
        prefetch_row(ahead[t], p->code_bytes);
        tile_row_levels(p, rows[t], tile + t * p->head_dim);
    }
}
#endif

#ifndef HAS_ORDER
TARGET static void natural_order(const tile_plan *p, const float *row, float *out)
{
    memcpy(out, row, p->head_dim * sizeof *out);
}
#endif

#ifndef HAS_PACKED_QUERY
TARGET static void pack_query(const tile_plan *p, const int16_t *query, uint8_t *packed)
{
    memcpy(packed, query, p->head_dim * sizeof *query);
}
#endif

#define GENERIC_ATTEND_KERNELS                                                 \
    .addresses = addresses, .natural_order = natural_order,                    \
    .pack_query = pack_query,                                                  \
    .logits = logits, .scales = scales, .norms = norms, .softmax = softmax,    \
    .add_where = add_where, .sum_where = sum_where,                            \
    .mean_scores = mean_scores, .mean_accumulate = mean_accumulate,            \
    .weights = weights, .softcap = softcap, .plain_scores = plain_scores,      \
    .plain_accumulate = plain_accumulate, .halves = halves

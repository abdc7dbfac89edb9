#include <math.h>
#include <string.h>

#include "attend/call.h"
#include "common/finite.h"

/* The row's query as floats, finite. */
static void read_query(const attend_call *c, const attend_block *b, size_t row, float *x)
{
    const tqkv_attention *a = c->a;
    size_t element = a->query_type == TQKV_F32 ? 4 : 2;
    size_t head_stride = a->head_stride ? a->head_stride : c->key_dim;
    size_t stride = a->query_stride ? a->query_stride : (size_t)a->n_heads * c->key_dim;
    size_t at = row_query(c, row) * stride + row_head(c, b, row) * head_stride;
    tqkv_to_f32((const uint8_t *)a->queries + at * element, a->query_type, c->key_dim, x);
    for (unsigned i = 0; i < c->key_dim; i++)
        x[i] = made_finite(x[i], LARGEST_INPUT);
}

static void apply_balance(const attend_call *c, const float *balance, float *x)
{
    for (unsigned i = 0; i < c->key_dim; i++)
        x[i] = made_finite(x[i] / balance[i], LARGEST_INPUT);
}

/* Where the errors of a query's upper digits all have one sign, as those of equal
 * small values beside a large one, they add up instead: for keys of that sign.
 * They count by a share with which chance alone seldom exceeds their deviation. */
#define TOGETHER .4f

static float lost_together(const int16_t *query, unsigned n)
{
    int lost = 0;
    for (unsigned i = 0; i < n; i++) {
        int rest = query[i] - 128 * upper_digit(query[i]);
        lost += query[i] < 0 ? -rest : rest;
    }
    return fabsf((float)lost);
}

/* Integers to QUERY_LIMIT, and what one is worth. */
static void quantise(const attend_call *c, const attend_scratch *s, const float *x, unsigned r)
{
    const tile_plan *p = s->key_plan;
    int16_t query[MAX_DIM];
    float square, peak, gain = 0, step = 0;
    p->codec->moments(x, c->key_dim, &square, &peak);
    if (peak > 1e-30f) {
        gain = QUERY_LIMIT / peak;
        step = peak / QUERY_LIMIT;
    }
    p->codec->quantize(x, c->key_dim, gain, QUERY_LIMIT, query);
    c->kernels->pack_query(p, query, s->packed + r * packed_query_bytes(c->key_dim));
    s->key_unit[r] = step * p->unit * c->a->scale;
    /* Rounding to 128 steps is an error of 128 / sqrt(12) steps rms in each of
     * head_dim products with a level. */
    float lost = 36.95f * sqrtf((float)c->key_dim), aligned = lost_together(query, c->key_dim);
    if (lost < aligned * TOGETHER)
        lost = aligned * TOGETHER;
    s->narrow_error[r] = fabsf(s->key_unit[r]) * p->level_rms * lost;
    s->level_error[r] = fabsf(c->a->scale) * p->unit * p->level_error * sqrtf(square);
}

void attend_prepare(const attend_call *c, const attend_scratch *s, const tqkv_operand *keys,
                    const attend_block *b)
{
    rotation rotate;
    rotation_init(&rotate, c->key_dim, keys->format.rotation);
    for (unsigned r = 0; r < b->rows; r++) {
        float *original = s->original + (size_t)r * c->key_dim;
        float *x = s->rotated + (size_t)r * c->key_dim;
        read_query(c, b, b->first_row + r, original);
        if (s->key_plan->source == TILE_PLAIN)
            continue;
        memcpy(x, original, c->key_dim * sizeof *x);
        if (keys->balances)
            apply_balance(c, keys->balances + (size_t)b->head * c->key_dim, x);
        rotate_row(s->key_plan->codec, &rotate, x);
        if (s->key_plan->source != TILE_FLOAT)
            quantise(c, s, x, r);
    }
}

#include <math.h>
#include <string.h>

#include "attend/call.h"

/* Root mean square error that 8-bit queries may add to a logit; beyond it they
 * get their second digit. */
#define LOGIT_ERROR 1e-2f
/* What 8-bit weights may add to the sum of all weights, or take from it. */
#define MASS_ERROR 2e-3f
/* Peaks below it count as 0: WEIGHT_LIMIT / peak would not be finite. */
#define SMALLEST_PEAK 1e-33f

/* Up to so many rows tiles are not worth their while (doc/attention.md). */
enum { FEW_ROWS = 4 };

/* Rows r to the first of another width, or the last. */
static unsigned same_width(const attend_scratch *s, unsigned r, unsigned rows)
{
    unsigned end = r + 1;
    while (end < rows && s->is_wide[end] == s->is_wide[r])
        end++;
    return end;
}

/* Scores of what rounding to levels lost, where a logit would miss it. */
static void score_rest(const attend_call *c, attend_scratch *s, const attend_block *b)
{
    s->has_rest = 0;
    for (unsigned r = 0; r < b->rows; r++)
        s->has_rest |= s->level_error[r] * s->keys->largest_scale > LOGIT_ERROR;
    if (!s->has_rest)
        return;
    c->kernels->expand_keys(s->rest_plan, s->keys->codes, s->keys->codes, s->key_tile);
    c->kernels->scores(s->rest_plan, s->key_tile, s->packed, b->rows, 1, s->rest);
}

static void score_tile(const attend_call *c, attend_scratch *s, const attend_block *b)
{
    const tile_plan *p = s->key_plan;
    int narrow = (c->kernels->narrow & NARROW_SCORES) && !p->is_fine;
    for (unsigned r = 0; r < b->rows; r++)
        s->is_wide[r] = !(narrow && s->narrow_error[r] * s->keys->largest_scale <= LOGIT_ERROR);
    const uint8_t *const *rows = s->keys->codes, *const *ahead = s->ahead_keys->codes;
    int expanded = 0;
    for (unsigned r = 0, end; r < b->rows; r = end) {
        const uint8_t *packed = s->packed + r * packed_query_bytes(c->key_dim);
        end = same_width(s, r, b->rows);
        if (b->rows <= FEW_ROWS && c->kernels->score_codes &&
            c->kernels->score_codes(p, rows, ahead, packed, end - r, s->is_wide[r], s->score + r))
            continue;
        if (!expanded)
            c->kernels->expand_keys(p, rows, ahead, s->key_tile);
        expanded = 1;
        c->kernels->scores(p, s->key_tile, packed, end - r, s->is_wide[r], s->score + r);
    }
    score_rest(c, s, b);
}

static void scale_sums(float *sums, unsigned n, float factor)
{
    for (unsigned i = 0; i < n; i++)
        sums[i] *= factor;
}

/* Weights as integers, their unit, and whether 8 bits of them will do: the
 * errors of a tile's weights may all have one sign, so they are added up, over
 * all tiles, and kept small beside the sum of the weights. */
static void quantise_weights(const attend_call *c, const attend_scratch *s, unsigned r, float peak)
{
    softmax_state *state = &s->state[r];
    const tile_plan *p = s->value_plan;
    if (!(peak > SMALLEST_PEAK)) {
        memset(s->weight[r], 0, sizeof s->weight[r]);
        s->value_unit[r] = 0;
        s->is_wide[r] = !(c->kernels->narrow & NARROW_WEIGHTS) || p->is_fine;
        return;
    }
    int32_t excess = c->kernels->weights(s->p[r], WEIGHT_LIMIT / peak, s->weight[r]);
    float unit = peak / WEIGHT_LIMIT, bias = state->bias + (float)excess * unit;
    s->value_unit[r] = unit * p->unit;
    s->is_wide[r] = !((c->kernels->narrow & NARROW_WEIGHTS) && !p->is_fine &&
                      fabsf(bias) <= MASS_ERROR * state->mass);
    if (!s->is_wide[r])
        state->bias = bias;
}

static void accumulate_tile(const attend_call *c, const attend_scratch *s, const attend_block *b)
{
    const tile_plan *p = s->value_plan;
    const uint8_t *const *rows = s->values->codes, *const *ahead = s->ahead_values->codes;
    int expanded = 0;
    for (unsigned r = 0, end; r < b->rows; r = end) {
        const uint16_t(*weight)[TILE] = (const uint16_t(*)[TILE])s->weight + r;
        end = same_width(s, r, b->rows);
        if (b->rows <= FEW_ROWS && c->kernels->accumulate_codes &&
            c->kernels->accumulate_codes(p, rows, ahead, weight, s->value_unit + r, end - r,
                                         s->is_wide[r], s->sum_rows + r))
            continue;
        if (!expanded)
            c->kernels->expand_values(p, rows, ahead, s->value_tile);
        expanded = 1;
        c->kernels->accumulate(p, s->value_tile, weight, s->value_unit + r, end - r,
                               s->is_wide[r], s->sum_rows + r);
    }
}

static void attend_tile(const attend_call *c, attend_scratch *s, const attend_block *b,
                        const tqkv_tokens *set, size_t token, unsigned n)
{
    int float_keys = s->key_plan->source == TILE_FLOAT;
    int float_values = s->value_plan->source == TILE_FLOAT;
    tile_scales(&set->keys, s->key_plan, c->kernels, s->keys);
    if (float_keys) {
        tile_floats(&set->keys, s->key_plan, c->kernels, s->keys, n, s->key_floats);
        for (unsigned r = 0; r < b->rows; r++)
            c->kernels->float_scores(s->rotated + (size_t)r * c->key_dim, s->key_floats,
                                     c->key_dim, s->logit[r]);
    } else {
        score_tile(c, s, b);
    }
    attend_logits(c, s, b, set, token);
    tile_scales(&set->values, s->value_plan, c->kernels, s->values);
    for (unsigned r = 0; r < b->rows; r++) {
        float peak, rescale = c->kernels->softmax(s->logit[r], s->values->scales, &s->state[r],
                                                  s->p[r], &peak);
        if (rescale != 1)
            scale_sums(s->sum_rows[r], c->value_dim, rescale);
        s->peak[r] = peak;
    }
    if (float_values) {
        tile_floats(&set->values, s->value_plan, c->kernels, s->values, n, s->value_floats);
        for (unsigned r = 0; r < b->rows; r++)
            c->kernels->float_accumulate(s->p[r], s->value_floats, c->value_dim, s->sum_rows[r]);
    } else {
        for (unsigned r = 0; r < b->rows; r++)
            quantise_weights(c, s, r, s->peak[r]);
        accumulate_tile(c, s, b);
    }
}

/* What has been summed, in the original domain, joins the part. */
static void finish_set(const attend_call *c, const attend_scratch *s, const attend_block *b,
                       const tqkv_operand *values, const tqkv_partial *part)
{
    rotation rotate;
    float natural[MAX_DIM];
    rotation_init(&rotate, c->value_dim, values->format.rotation);
    for (unsigned r = 0; r < b->rows; r++) {
        if (s->value_plan->source != TILE_FLOAT)
            c->kernels->natural_order(s->value_plan, s->sum_rows[r], natural);
        else
            memcpy(natural, s->sum_rows[r], c->value_dim * sizeof *natural);
        if (rotate.active)
            unrotate_row(s->value_plan->codec, &rotate, rotate.inverse_root, natural);
        merge_row(s->state[r].max, s->state[r].sum, natural, 0, c->value_dim, part->max + r,
                  part->sum + r, part->out + (size_t)r * c->value_dim);
    }
}

static void locate_next(const attend_call *c, attend_scratch *s, const attend_block *b,
                        const tqkv_tokens *set, size_t token, size_t end)
{
    unsigned n = end - token < TILE ? (unsigned)(end - token) : TILE;
    tile_locate(set, &set->keys, c->kernels, b->head, token, n, s->next_keys);
    tile_locate(set, &set->values, c->kernels, b->head, token, n, s->next_values);
}

/* Makes the tile at `token` the one at hand, and finds the one behind it, so
 * that its rows can be on their way from memory. */
static void step_to(const attend_call *c, attend_scratch *s, const attend_block *b,
                    const tqkv_tokens *set, size_t token, size_t end, size_t *located)
{
    if (*located != token)
        locate_next(c, s, b, set, token, end);
    tile_rows *keys = s->keys, *values = s->values;
    s->keys = s->next_keys;
    s->values = s->next_values;
    s->next_keys = keys;
    s->next_values = values;
    *located = token + TILE;
    int has_next = *located < end;
    if (has_next)
        locate_next(c, s, b, set, *located, end);
    s->ahead_keys = has_next ? s->next_keys : s->keys;
    s->ahead_values = has_next ? s->next_values : s->values;
}

static void start_set(const attend_call *c, const attend_scratch *s, const attend_block *b,
                      const tqkv_operand *keys)
{
    attend_prepare(c, s, keys, b);
    memset(s->sums, 0, (size_t)b->rows * c->value_dim * sizeof *s->sums);
    for (unsigned r = 0; r < b->rows; r++) {
        s->state[r] = (softmax_state){.max = -INFINITY};
        s->sum_rows[r] = s->sums + (size_t)r * c->value_dim;
    }
}

/* The set's tokens [first, end), which stand offset tokens into all. */
static void attend_set(const attend_call *c, attend_scratch *s, const attend_block *b,
                       const tqkv_tokens *set, size_t first, size_t end, size_t offset,
                       const tqkv_partial *part)
{
    size_t located = SIZE_MAX;
    int started = 0;
    for (size_t token = first; token < end; token += TILE) {
        unsigned n = end - token < TILE ? (unsigned)(end - token) : TILE;
        if (!attend_see(c, s, b, set, token, offset + token, n))
            continue;
        if (!started)
            start_set(c, s, b, &set->keys);
        started = 1;
        step_to(c, s, b, set, token, end, &located);
        attend_tile(c, s, b, set, token, n);
    }
    if (started)
        finish_set(c, s, b, &set->values, part);
}

void attend_range(const attend_call *c, attend_scratch *s, const attend_block *b,
                  size_t first, size_t end, const tqkv_partial *part)
{
    for (unsigned r = 0; r < b->rows; r++) {
        part->max[r] = -INFINITY;
        part->sum[r] = 0;
    }
    memset(part->out, 0, (size_t)b->rows * c->value_dim * sizeof *part->out);
    size_t offset = 0;
    for (size_t i = 0; i < c->a->n_sets && offset < end; i++) {
        const tqkv_tokens *set = &c->a->sets[i];
        size_t from = first > offset ? first - offset : 0;
        size_t to = end - offset < set->n_tokens ? end - offset : set->n_tokens;
        s->key_plan = &c->plans[i].keys;
        s->value_plan = &c->plans[i].values;
        s->rest_plan = &c->plans[i].key_rest;
        if (from < to)
            attend_set(c, s, b, set, from, to, offset, part);
        offset += set->n_tokens;
    }
}

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

/* ---- a tile ---- */

/* Rows r to the first of another width, or the last. */
static unsigned same_width(const attend_scratch *s, unsigned r, unsigned rows)
{
    unsigned end = r + 1;
    while (end < rows && s->is_wide[end] == s->is_wide[r])
        end++;
    return end;
}

/* The largest scale of the tile's n keys that the row sees. Digits are chosen by
 * it: a key that a row does not see must not change the bits of those that it does. */
static float largest_seen(const attend_scratch *s, unsigned r, unsigned n)
{
    if (s->low[r] == 0 && s->high[r] == n)
        return s->keys->largest_scale;
    float largest = 0;
    for (unsigned t = s->low[r]; t < s->high[r]; t++)
        largest = s->keys->scales[t] > largest ? s->keys->scales[t] : largest;
    return largest;
}

/* Which rows need wide queries, and whether any needs what rounding to levels lost,
 * because a logit would miss it. */
static int choose_digits(const attend_call *c, attend_scratch *s, const attend_block *b, unsigned n)
{
    int narrow = (c->kernels->narrow & NARROW_SCORES) && !s->key_plan->is_fine, any_rest = 0;
    for (unsigned r = 0; r < b->rows; r++) {
        float largest = largest_seen(s, r, n);
        s->is_wide[r] = !(narrow && s->narrow_error[r] * largest <= LOGIT_ERROR);
        s->has_rest[r] = s->level_error[r] * largest > LOGIT_ERROR;
        any_rest |= s->has_rest[r];
    }
    return any_rest;
}

static void score_tile(const attend_call *c, attend_scratch *s, const attend_block *b, unsigned n)
{
    const tile_plan *p = s->key_plan;
    int any_rest = choose_digits(c, s, b, n);
    const uint8_t *const *rows = s->keys->rows, *const *ahead = s->ahead_keys->rows;
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
    if (any_rest) {
        c->kernels->expand_keys(s->rest_plan, rows, rows, s->key_tile);
        c->kernels->scores(s->rest_plan, s->key_tile, s->packed, b->rows, 1, s->rest);
    }
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
    const uint8_t *const *rows = s->values->rows, *const *ahead = s->ahead_values->rows;
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

static void score_floats(const attend_call *c, const attend_scratch *s, const attend_block *b,
                         const tqkv_operand *keys, unsigned n)
{
    tile_floats(keys, s->key_plan, s->keys, n, s->key_floats);
    c->kernels->plain_scores(s->rotated, b->rows, s->key_floats, n, c->key_dim, s->logit);
}

/* The values of rows that are codes. */
static void add_coded(const attend_call *c, const attend_scratch *s, const attend_block *b,
                      const tqkv_operand *values, unsigned n)
{
    if (s->value_plan->source == TILE_FLOAT) {
        tile_floats(values, s->value_plan, s->values, n, s->value_floats);
        c->kernels->plain_accumulate((const float(*)[TILE])s->p, b->rows, s->value_floats, n,
                                     c->value_dim, s->sum_rows);
        return;
    }
    for (unsigned r = 0; r < b->rows; r++)
        quantise_weights(c, s, r, s->peak[r]);
    accumulate_tile(c, s, b);
}

/* What was summed so far, of one row, becomes relative to a new maximum. */
static void rescale_row(const attend_call *c, const attend_scratch *s, unsigned r, float factor)
{
    if (factor == 1)
        return;
    scale_sums(s->sum_rows[r], c->part_dim, factor);
    scale_sums(s->mean_weight[r], s->n_weighed, factor);
}

static void attend_tile(const attend_call *c, attend_scratch *s, const attend_block *b,
                        size_t set, unsigned n)
{
    const tqkv_operand *keys = &c->a->sets[set].keys, *values = &c->a->sets[set].values;
    tile_scales(keys, s->key_plan, c->kernels, s->keys);
    unsigned n_means = s->keys->chosen ? tile_means(s->keys, s->means) : 0;
    if (n_means == 1) /* while the scores are on their way */
        score_mean(c, s, b, &s->means[0]);
    if (tile_is_plain(s->keys, n))
        ; /* plain.c multiplies them */
    else if (s->key_plan->source == TILE_FLOAT)
        score_floats(c, s, b, keys, n);
    else
        score_tile(c, s, b, n);
    attend_logits(c, s, b, set, n, n_means);
    tile_scales(values, s->value_plan, c->kernels, s->values);
    n_means = s->values->chosen ? tile_means(s->values, s->means) : 0;
    int needs_powers = s->values->plain || n_means > 1;
    uint64_t where = n_means == 1 ? s->means[0].where : 0;
    for (unsigned r = 0; r < b->rows; r++)
        rescale_row(c, s, r,
                    c->kernels->softmax(s->logit[r], s->values->scales, where, &s->state[r],
                                        needs_powers ? s->e[r] : NULL, s->p[r], &s->peak[r],
                                        &s->chosen[r]));
    if (!tile_is_plain(s->values, n))
        add_coded(c, s, b, values, n);
    if (n_means)
        weigh_means(c, s, b, s->means, n_means);
    if (s->values->plain)
        plain_values(c, s, b, n);
}

/* ---- a range ---- */

/* A walk over the tokens of one set that some rows share: up to `end`, of which the
 * tile at rank `located` is next. */
typedef struct route {
    size_t set, end, located;
    sight_walk walk;
} route;

static void locate_next(const attend_call *c, attend_scratch *s, const attend_block *b, route *w,
                        size_t rank)
{
    const tqkv_tokens *set = &c->a->sets[w->set];
    unsigned n = w->end - rank < TILE ? (unsigned)(w->end - rank) : TILE;
    sight_tokens(c, &w->walk, rank, n, s->next_tokens);
    tile_locate(set, TILE_KEYS, c->kernels, b->head, s->next_tokens, s->next_keys);
    tile_locate(set, TILE_VALUES, c->kernels, b->head, s->next_tokens, s->next_values);
    w->located = rank;
}

#define SWAP(type, a, b)                                                                       \
    do {                                                                                       \
        type *swapped = a;                                                                     \
        a = b;                                                                                 \
        b = swapped;                                                                           \
    } while (0)

/* Makes the tile at `rank` the one at hand, and finds the one behind it, so that
 * its rows can be on their way from memory. */
static void step_to(const attend_call *c, attend_scratch *s, const attend_block *b, route *w,
                    size_t rank)
{
    if (w->located != rank)
        locate_next(c, s, b, w, rank);
    SWAP(tile_rows, s->keys, s->next_keys);
    SWAP(tile_rows, s->values, s->next_values);
    SWAP(token_runs, s->tokens, s->next_tokens);
    int has_next = w->end - rank > TILE;
    if (has_next)
        locate_next(c, s, b, w, rank + TILE);
    s->ahead_keys = has_next ? s->next_keys : s->keys;
    s->ahead_values = has_next ? s->next_values : s->values;
}

/* x - base, between 0 and n. */
static uint8_t place_in_tile(size_t x, size_t base, unsigned n)
{
    return (uint8_t)(x < base ? 0 : x - base < n ? x - base : n);
}

/* Which of the n tokens from `rank` on each row sees. 0 if none does. */
static int see_tile(const attend_scratch *s, const attend_block *b, size_t rank, unsigned n)
{
    int any = 0;
    for (unsigned r = 0; r < b->rows; r++) {
        s->low[r] = place_in_tile(s->low_rank[r], rank, n);
        s->high[r] = place_in_tile(s->high_rank[r], rank, n);
        any |= s->low[r] < s->high[r];
    }
    return any;
}

static void start_range(const attend_call *c, attend_scratch *s, const attend_block *b,
                        const set_plans *plans)
{
    s->n_weighed = 0;
    memset(s->sums, 0, (size_t)b->rows * c->part_dim * sizeof *s->sums);
    for (unsigned r = 0; r < b->rows; r++) {
        s->state[r] = (softmax_state){.max = -INFINITY};
        s->sum_rows[r] = s->sums + (size_t)r * c->part_dim;
        s->plain_sums[r] = s->sum_rows[r] + (plans->has_coded ? c->value_dim : 0);
    }
}

/* Sums divided by the sums of weights. Adding 0 makes a zero's sign the same however
 * often zeros were added to it. */
static void end_range(const attend_call *c, const attend_scratch *s, const attend_block *b,
                      const tqkv_partial *part)
{
    for (unsigned r = 0; r < b->rows; r++) {
        const float *sums = s->sum_rows[r];
        float *out = part->out + (size_t)r * c->part_dim, total = s->state[r].sum;
        float factor = total > 0 ? 1 / total : 0;
        for (unsigned i = 0; i < c->part_dim; i++)
            out[i] = sums[i] * factor + 0.0f;
        part->max[r] = s->state[r].max;
        part->sum[r] = total;
    }
}

static void make_empty(size_t rows, unsigned dim, const tqkv_partial *part)
{
    for (size_t r = 0; r < rows; r++) {
        part->max[r] = -INFINITY;
        part->sum[r] = 0;
    }
    memset(part->out, 0, rows * dim * sizeof *part->out);
}

/* Ranks [first, end), which are of one range. */
static void attend_range(const attend_call *c, attend_scratch *s, const attend_block *b, route *w,
                         size_t first, size_t end, const tqkv_partial *part)
{
    int started = 0;
    for (size_t rank = first; rank < end; rank += TILE) {
        unsigned n = end - rank < TILE ? (unsigned)(end - rank) : TILE;
        if (!see_tile(s, b, rank, n))
            continue;
        if (!started)
            start_range(c, s, b, &c->plans[w->set]);
        started = 1;
        step_to(c, s, b, w, rank);
        attend_tile(c, s, b, w->set, n);
        if ((rank / TILE + 1) % mean_tiles(c) == 0)
            add_weighed_means(c, s, b);
    }
    if (started)
        add_weighed_means(c, s, b);
    if (started)
        end_range(c, s, b, part);
    else
        make_empty(b->rows, c->part_dim, part);
}

/* ---- ranges ---- */

static void copy_part(size_t rows, unsigned dim, const tqkv_partial *from, const tqkv_partial *to)
{
    memcpy(to->out, from->out, rows * dim * sizeof *to->out);
    memcpy(to->max, from->max, rows * sizeof *to->max);
    memcpy(to->sum, from->sum, rows * sizeof *to->sum);
}

/* Rows that share a walk, over ranges [first, end). */
static void attend_band(const attend_call *c, attend_scratch *s, const attend_block *b, route *w,
                        size_t first, size_t end, const tqkv_partial *part)
{
    size_t last = ranges_of(w->walk.n);
    if (end > last)
        end = last;
    if (first >= end) {
        make_empty(b->rows, c->part_dim, part);
        return;
    }
    attend_prepare(c, s, &c->a->sets[w->set].keys, b);
    w->end = end < last ? end * RANGE : w->walk.n;
    w->located = SIZE_MAX;
    fold f = {.n_rows = b->rows, .dim = c->part_dim};
    memcpy(f.level, s->folds, c->fold_depth * sizeof *f.level);
    tqkv_partial range = s->range;
    for (size_t i = first; i < end; i++) {
        attend_range(c, s, b, w, i * RANGE, i + 1 < end ? (i + 1) * RANGE : w->end, &range);
        range = fold_add(&f, range);
    }
    tqkv_partial all = fold_end(&f);
    copy_part(b->rows, c->part_dim, &all, part);
}

void attend_ranges(const attend_call *c, attend_scratch *s, const attend_block *b, size_t set,
                   size_t first, size_t end, const tqkv_partial *part)
{
    size_t *low_rank = s->low_rank, *high_rank = s->high_rank;
    s->key_plan = &c->plans[set].keys;
    s->value_plan = &c->plans[set].values;
    s->rest_plan = &c->plans[set].key_rest;
    for (unsigned r = 0, n; r < b->rows; r += n) {
        route w = {.set = set};
        n = sight_band(c, b, set, r, low_rank, high_rank, &w.walk);
        s->low_rank = low_rank + r;
        s->high_rank = high_rank + r;
        attend_block band = {.head = b->head, .first_row = b->first_row + r, .rows = n};
        tqkv_partial rows = {.out = part->out + (size_t)r * c->part_dim, .max = part->max + r,
                             .sum = part->sum + r};
        attend_band(c, s, &band, &w, first, end, &rows);
    }
    s->low_rank = low_rank;
    s->high_rank = high_rank;
}

/* Levels' sums, in the tile's order, to the original domain. */
static void restore(const attend_call *c, const tile_plan *p, const rotation *rotate,
                    const float *sums, float *out)
{
    if (p->source != TILE_FLOAT)
        c->kernels->natural_order(p, sums, out);
    else
        memcpy(out, sums, c->value_dim * sizeof *out);
    if (rotate->active)
        unrotate_row(p->codec, rotate, rotate->inverse_root, out);
}

/* Rows shrink in place, from part_dim to value_dim. */
void attend_finish(const attend_call *c, size_t set, unsigned n_rows, const tqkv_partial *part,
                   const tqkv_partial *result)
{
    const set_plans *plans = &c->plans[set];
    rotation rotate;
    float out[MAX_DIM];
    rotation_init(&rotate, c->value_dim, c->a->sets[set].values.format.rotation);
    for (unsigned r = 0; r < n_rows; r++) {
        const float *sums = part->out + (size_t)r * c->part_dim;
        if (plans->has_coded)
            restore(c, &plans->values, &rotate, sums, out);
        else
            memcpy(out, sums, c->value_dim * sizeof *out);
        for (unsigned i = 0; plans->has_coded && plans->has_plain && i < c->value_dim; i++)
            out[i] += sums[c->value_dim + i];
        memcpy(part->out + (size_t)r * c->value_dim, out, c->value_dim * sizeof *out);
    }
    merge_rows(n_rows, c->value_dim, part, result);
}

#include <math.h>
#include <string.h>

#include "attend/call.h"
#include "common/f16.h"
#include "common/finite.h"

/* x between 0 and n. */
static uint8_t within(int64_t x, unsigned n)
{
    return (uint8_t)(x < 0 ? 0 : x > (int64_t)n ? n : x);
}

/* Tokens [from, to) of the row's mask, NaN as minus infinity. */
static void load_mask(const attend_call *c, size_t at, unsigned from, unsigned to, float *mask)
{
    if (c->a->mask_type == TQKV_F32) {
        memcpy(mask + from, (const float *)c->a->mask + at + from, (to - from) * sizeof *mask);
    } else {
        const uint16_t *half = (const uint16_t *)c->a->mask + at;
        unsigned whole = (to - from) / 16 * 16;
        c->kernels->halves((const uint8_t *)(half + from), whole, mask + from);
        for (unsigned t = from + whole; t < to; t++)
            mask[t] = f16_to_f32(half[t]);
    }
    for (unsigned t = from; t < to; t++)
        mask[t] = mask[t] == mask[t] ? mask[t] : -INFINITY;
}

/* What the row's mask does to the tokens of the tile that it may see. */
static mask_effect read_mask(const attend_call *c, const attend_scratch *s,
                             const attend_block *b, unsigned r, size_t token_of_all)
{
    size_t row = b->first_row + r;
    float *mask = s->mask[r];
    unsigned from = s->low[r], to = s->high[r], is_zero = 1, is_seen = 0;
    load_mask(c, row_head(c, b, row) * c->a->mask_head_stride +
                     row_query(c, row) * c->a->mask_stride + token_of_all,
              from, to, mask);
    for (unsigned t = from; t < to; t++) {
        is_zero &= mask[t] == 0;
        is_seen |= mask[t] > -INFINITY;
    }
    return is_zero ? MASK_NOTHING : is_seen ? MASK_SOME : MASK_ALL;
}

/* Query heads of one position share a mask, unless each has its own. */
static int shares_mask(const attend_call *c, const attend_block *b, unsigned r)
{
    return r > 0 && c->a->mask_head_stride == 0 &&
           row_query(c, b->first_row + r) == row_query(c, b->first_row + r - 1);
}

static void see_mask(const attend_call *c, const attend_scratch *s, const attend_block *b,
                     unsigned r, size_t token_of_all)
{
    if (shares_mask(c, b, r)) {
        s->mask_row[r] = s->mask_row[r - 1];
        s->mask_effect[r] = s->mask_effect[r - 1];
    } else {
        s->mask_row[r] = s->mask[r];
        s->mask_effect[r] = s->low[r] < s->high[r] ? read_mask(c, s, b, r, token_of_all) : MASK_ALL;
    }
    if (s->mask_effect[r] == MASK_ALL)
        s->low[r] = s->high[r];
}

int attend_see(const attend_call *c, const attend_scratch *s, const attend_block *b,
               const tqkv_tokens *set, size_t token, size_t token_of_all, unsigned n)
{
    const tqkv_attention *a = c->a;
    int any = 0;
    for (unsigned r = 0; r < b->rows; r++) {
        /* positions are below 2^62 */
        int64_t first = (int64_t)(set->position + token);
        int64_t query = (int64_t)(a->position + row_query(c, b->first_row + r));
        s->low[r] = 0;
        s->high[r] = (uint8_t)n;
        if (a->causal)
            s->high[r] = within(query - first + 1, n);
        if (a->window && a->window <= (uint64_t)query)
            s->low[r] = within(query - (int64_t)a->window + 1 - first, n);
        if (s->low[r] > s->high[r])
            s->low[r] = s->high[r];
        if (a->mask)
            see_mask(c, s, b, r, token_of_all);
        any |= s->low[r] < s->high[r];
    }
    return any;
}

static void add_rest(const attend_call *c, const attend_scratch *s, unsigned r)
{
    float rest[TILE];
    c->kernels->logits(s->rest[r], s->key_unit[r] / REST_UNIT, s->keys->scales, rest);
    for (unsigned t = 0; t < TILE; t++)
        s->logit[r][t] += rest[t];
}

/* What the key's centre adds, by its number. */
static void add_centres(const attend_call *c, const attend_scratch *s, unsigned n_centres,
                        unsigned r)
{
    const float *by_number = s->centre_logits + r * c->max_centres;
    for (unsigned t = s->low[r]; t < s->high[r]; t++) {
        unsigned id = s->keys->centres[t];
        s->logit[r][t] += by_number[id < n_centres ? id : n_centres - 1];
    }
}

static void add_means(const attend_call *c, const attend_scratch *s, const tqkv_operand *o,
                      const attend_block *b)
{
    float mean[MAX_DIM], unit = c->a->scale;
    const tile_rows *keys = s->keys;
    for (unsigned run = 0, t = 0; run < keys->n_runs; t = keys->runs[run++].end) {
        const uint16_t *half = o->means + keys->runs[run].page * o->mean_page_stride +
                               b->head * o->mean_head_stride;
        c->kernels->halves((const uint8_t *)half, c->key_dim, mean);
        for (unsigned r = 0; r < b->rows; r++) {
            float sum;
            s->key_plan->codec->dots(s->balanced + (size_t)r * c->key_dim, mean, c->key_dim, 1,
                                     &sum);
            float add = made_finite(unit * sum, LARGEST_LOGIT);
            for (unsigned i = t; i < keys->runs[run].end; i++)
                s->logit[r][i] += add;
        }
    }
}

/* Softcap, slope and mask, then minus infinity for what is not seen. */
static void finish_row(const attend_call *c, const attend_scratch *s, const attend_block *b,
                       const tqkv_tokens *set, size_t token, unsigned r)
{
    const tqkv_attention *a = c->a;
    size_t row = b->first_row + r;
    float *logit = s->logit[r];
    if (a->softcap > 0)
        c->kernels->softcap(logit, a->softcap);
    if (a->slopes) {
        float slope = a->slopes[row_head(c, b, row)];
        int64_t distance = (int64_t)(set->position + token) -
                           (int64_t)(a->position + row_query(c, row));
        for (unsigned t = 0; t < TILE; t++)
            logit[t] += slope * (float)(distance + t);
    }
    if (a->mask && s->mask_effect[r] == MASK_SOME) {
        const float *mask = s->mask_row[r];
        float slope = a->mask_slopes ? a->mask_slopes[row_head(c, b, row)] : 1;
        for (unsigned t = s->low[r]; t < s->high[r]; t++)
            logit[t] += mask[t] > -INFINITY ? slope * mask[t] : -INFINITY;
    }
    if (a->mask || a->slopes)
        for (unsigned t = 0; t < TILE; t++)
            logit[t] = logit[t] > LARGEST_LOGIT ? LARGEST_LOGIT : logit[t];
    for (unsigned t = 0; t < s->low[r]; t++)
        logit[t] = -INFINITY;
    for (unsigned t = s->high[r]; t < TILE; t++)
        logit[t] = -INFINITY;
}

void attend_logits(const attend_call *c, const attend_scratch *s, const attend_block *b,
                   const tqkv_tokens *set, size_t token)
{
    const tqkv_operand *o = &set->keys;
    if (s->key_plan->source == TILE_FLOAT)
        for (unsigned r = 0; r < b->rows; r++)
            for (unsigned t = 0; t < TILE; t++)
                s->logit[r][t] = made_finite(s->logit[r][t] * c->a->scale, LARGEST_LOGIT);
    else
        for (unsigned r = 0; r < b->rows; r++) {
            c->kernels->logits(s->score[r], s->key_unit[r], s->keys->scales, s->logit[r]);
            if (s->has_rest)
                add_rest(c, s, r);
        }
    if (o->profiles) {
        const tqkv_key_profile *profile = &o->profiles[b->head];
        for (unsigned r = 0; r < b->rows; r++) {
            if (profile->n_centres > 1)
                add_centres(c, s, profile->n_centres, r);
            else
                for (unsigned t = 0; t < TILE; t++)
                    s->logit[r][t] += s->centre_logits[r * c->max_centres];
        }
    }
    if (o->means)
        add_means(c, s, o, b);
    for (unsigned r = 0; r < b->rows; r++)
        finish_row(c, s, b, set, token, r);
}

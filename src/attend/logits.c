#include <math.h>
#include <string.h>

#include "attend/call.h"
#include "common/f16.h"
#include "common/finite.h"

/* n elements of the mask from `at` on. */
static void load_mask(const attend_call *c, size_t at, unsigned n, float *mask)
{
    if (c->a->mask_type == TQKV_F32) {
        memcpy(mask, (const float *)c->a->mask + at, n * sizeof *mask);
        return;
    }
    const uint16_t *half = (const uint16_t *)c->a->mask + at;
    unsigned whole = n / 16 * 16;
    c->kernels->halves((const uint8_t *)half, whole, mask);
    for (unsigned t = whole; t < n; t++)
        mask[t] = f16_to_f32(half[t]);
}

/* What the row's mask adds to the tokens of the tile. Query heads of one position
 * share it, unless each has its own. */
static void read_mask(const attend_call *c, const attend_scratch *s, const attend_block *b,
                      size_t set, unsigned r)
{
    const sight *seen = sight_of(c, b, set, r);
    s->mask_row[r] = NULL;
    if (!seen->has_bias || s->low[r] == s->high[r])
        return;
    if (r > 0 && sight_of(c, b, set, r - 1) == seen) {
        s->mask_row[r] = s->mask_row[r - 1];
        return;
    }
    size_t at = sight_mask_at(c, b, set, r);
    const token_runs *tokens = s->tokens;
    for (unsigned run = 0, t = 0; run < tokens->n_runs && t < s->high[r]; run++) {
        unsigned end = tokens->runs[run].end < s->high[r] ? tokens->runs[run].end : s->high[r];
        load_mask(c, at + tokens->runs[run].token, end - t, s->mask[r] + t);
        t = end;
    }
    s->mask_row[r] = s->mask[r];
}

static void add_rest(const attend_call *c, const attend_scratch *s, unsigned r)
{
    float rest[TILE];
    c->kernels->logits(s->rest[r], s->key_unit[r] / REST_UNIT, s->keys->scales, 0, 0,
                       rest);
    for (unsigned t = 0; t < TILE; t++)
        s->logit[r][t] += rest[t];
}

static void add_slopes(const attend_call *c, const attend_scratch *s, const attend_block *b,
                       const tqkv_tokens *set, unsigned r)
{
    size_t row = b->first_row + r;
    float slope = c->a->slopes[row_head(c, b, row)];
    int64_t query = (int64_t)(c->a->position + row_query(c, row));
    for (unsigned run = 0, t = 0; run < s->tokens->n_runs; run++) {
        int64_t token = (int64_t)(set->position + s->tokens->runs[run].token);
        int64_t distance = token - query - t;
        for (; t < s->tokens->runs[run].end; t++)
            s->logit[r][t] += slope * (float)(distance + t);
    }
}

/* Softcap, slope and mask, then minus infinity for what is not seen. */
static void finish_row(const attend_call *c, const attend_scratch *s, const attend_block *b,
                       size_t set, unsigned r)
{
    const tqkv_attention *a = c->a;
    float *logit = s->logit[r];
    if (a->softcap > 0)
        c->kernels->softcap(logit, a->softcap);
    if (a->slopes)
        add_slopes(c, s, b, &a->sets[set], r);
    if (a->mask)
        read_mask(c, s, b, set, r);
    if (a->mask && s->mask_row[r]) {
        const float *mask = s->mask_row[r];
        float slope = a->mask_slopes ? a->mask_slopes[row_head(c, b, b->first_row + r)] : 1;
        for (unsigned t = s->low[r]; t < s->high[r]; t++)
            logit[t] += slope * mask[t];
    }
    if (a->mask || a->slopes)
        for (unsigned t = 0; t < TILE; t++)
            logit[t] = logit[t] > LARGEST_LOGIT ? LARGEST_LOGIT : logit[t];
    for (unsigned t = 0; t < s->low[r]; t++)
        logit[t] = -INFINITY;
    for (unsigned t = s->high[r]; t < TILE; t++)
        logit[t] = -INFINITY;
}

static void scale_floats(const attend_call *c, const attend_scratch *s, const attend_block *b)
{
    for (unsigned r = 0; r < b->rows; r++)
        for (unsigned t = 0; t < TILE; t++)
            s->logit[r][t] = made_finite(s->logit[r][t] * c->a->scale, LARGEST_LOGIT);
}

/* Scores to logits, with the share of the mean where the tile has one; how many means that
 * were. The mean comes last, as where a tile has several: how many it has may depend on
 * tokens that the row does not see. */
static unsigned scale_scores(const attend_call *c, const attend_scratch *s, const attend_block *b,
                             unsigned n_means)
{
    int has_mean = n_means == 1;
    uint64_t where = has_mean ? s->means[0].where : 0;
    for (unsigned r = 0; r < b->rows; r++) {
        float add = has_mean ? s->mean_score[r] : 0;
        c->kernels->logits(s->score[r], s->key_unit[r], s->keys->scales,
                           s->has_rest[r] ? 0 : where, add, s->logit[r]);
        if (!s->has_rest[r])
            continue;
        add_rest(c, s, r);
        c->kernels->add_where(where, add, s->logit[r]);
    }
    return (unsigned)has_mean;
}

void attend_logits(const attend_call *c, const attend_scratch *s, const attend_block *b,
                   size_t set, unsigned n, unsigned n_means)
{
    if (tile_is_plain(s->keys, n))
        ; /* plain.c has the scores */
    else if (s->key_plan->source == TILE_FLOAT)
        scale_floats(c, s, b);
    else
        n_means -= scale_scores(c, s, b, n_means);
    add_means(c, s, b, s->means, n_means);
    if (s->keys->plain)
        plain_keys(c, s, b, n);
    for (unsigned r = 0; r < b->rows; r++)
        finish_row(c, s, b, set, r);
}

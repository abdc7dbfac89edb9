/* The part of a tile that is no codes: plain rows, such as those of staged pages, and the
 * means of sealed ones. Both are in the original domain, as are the queries they meet. */
#include "attend/call.h"
#include "page/mean.h"

/* Up to so many rows of queries f16 rows are multiplied where they lie; more earn back the
 * way through a tile of floats. Both give the same bits. */
enum { FEW_ROWS = 8 };

static const tqkv_operand *plain_operand(const tile_rows *rows)
{
    unsigned first = (unsigned)__builtin_ctzll(rows->plain), run = 0;
    while (rows->runs[run].end <= first)
        run++;
    return rows->runs[run].operand;
}

/* Rows of the tile that may be read as plain ones: a plain one stands in for the others. */
static const uint8_t *const *readable_rows(const attend_scratch *s, const tile_rows *rows,
                                           unsigned n)
{
    if (tile_is_plain(rows, n))
        return rows->rows;
    const uint8_t *some = rows->rows[__builtin_ctzll(rows->plain)];
    for (unsigned t = 0; t < TILE; t++)
        s->plain_rows[t] = rows->plain >> t & 1 ? rows->rows[t] : some;
    return s->plain_rows;
}

/* Whether the operand's rows can be multiplied where they lie. */
static int are_few_halves(const attend_block *b, const tqkv_operand *o, int has_kernel)
{
    return has_kernel && b->rows <= FEW_ROWS && o->type == TQKV_F16;
}

static void score_rows(const attend_call *c, const attend_scratch *s, const attend_block *b,
                      unsigned n)
{
    const attend_kernels *k = c->kernels;
    const tqkv_operand *o = plain_operand(s->keys);
    if (are_few_halves(b, o, k->half_scores != NULL) &&
        k->half_scores(s->original, b->rows, readable_rows(s, s->keys, n), s->ahead_keys->rows, n,
                       c->key_dim, s->plain))
        return;
    tile_plain_floats(o, k, s->keys, n, s->key_floats);
    k->plain_scores(s->original, b->rows, s->key_floats, n, c->key_dim, s->plain);
}

/* Queries and numbers are at most 2^40, scales 2^20: logits are finite. */
static void place_score(const attend_scratch *s, unsigned r, uint64_t plain, unsigned n,
                        float scale)
{
    if (plain == tile_bits(0, n)) {
        for (unsigned t = 0; t < TILE; t++)
            s->logit[r][t] = s->plain[r][t] * scale;
        return;
    }
    for (; plain; plain &= plain - 1) {
        unsigned t = (unsigned)__builtin_ctzll(plain);
        s->logit[r][t] = s->plain[r][t] * scale;
    }
}

void plain_keys(const attend_call *c, const attend_scratch *s, const attend_block *b, unsigned n)
{
    score_rows(c, s, b, n);
    for (unsigned r = 0; r < b->rows; r++)
        place_score(s, r, s->keys->plain & tile_bits(0, n), n, c->a->scale);
}

typedef const float weight_row[TILE];

/* The weights of plain rows, 0 for the others'. */
static weight_row *plain_weights(const attend_scratch *s, const attend_block *b, unsigned n)
{
    uint64_t plain = s->values->plain;
    if (tile_is_plain(s->values, n))
        return (weight_row *)s->e;
    for (unsigned r = 0; r < b->rows; r++)
        for (unsigned t = 0; t < TILE; t++)
            s->plain[r][t] = plain >> t & 1 ? s->e[r][t] : 0;
    return (weight_row *)s->plain;
}

void plain_values(const attend_call *c, const attend_scratch *s, const attend_block *b, unsigned n)
{
    const attend_kernels *k = c->kernels;
    const tqkv_operand *o = plain_operand(s->values);
    weight_row *weights = plain_weights(s, b, n);
    if (are_few_halves(b, o, k->half_accumulate != NULL) &&
        k->half_accumulate(weights, b->rows, readable_rows(s, s->values, n),
                           s->ahead_values->rows, n, c->value_dim, s->plain_sums))
        return;
    tile_plain_floats(o, k, s->values, n, s->value_floats);
    k->plain_accumulate(weights, b->rows, s->value_floats, n, c->value_dim, s->plain_sums);
}

/* ---- means ---- */

void score_mean(const attend_call *c, const attend_scratch *s, const attend_block *b,
                const tile_mean *mean)
{
    c->kernels->mean_scores(s->original, b->rows, mean->bytes, c->key_dim, s->mean_score);
    for (unsigned r = 0; r < b->rows; r++)
        s->mean_score[r] *= c->a->scale;
}

void add_means(const attend_call *c, const attend_scratch *s, const attend_block *b,
               const tile_mean *means, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        score_mean(c, s, b, &means[i]);
        for (unsigned r = 0; r < b->rows; r++)
            c->kernels->add_where(means[i].where, s->mean_score[r], s->logit[r]);
    }
}

/* A mean's weight is that of the rows that have chosen it; softmax has found it where the
 * tile has one mean. */
void weigh_means(const attend_call *c, attend_scratch *s, const attend_block *b,
                 const tile_mean *means, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        unsigned at = s->n_weighed++;
        s->weighed[at] = means[i].bytes;
        float scale = mean_scale(means[i].bytes, c->value_dim);
        for (unsigned r = 0; r < b->rows; r++)
            s->mean_weight[r][at] =
                scale * (n == 1 ? s->chosen[r] : c->kernels->sum_where(means[i].where, s->e[r]));
    }
}

void add_weighed_means(const attend_call *c, attend_scratch *s, const attend_block *b)
{
    if (s->n_weighed)
        c->kernels->mean_accumulate((const float(*)[TILE])s->mean_weight, b->rows, s->weighed,
                                    s->n_weighed, c->value_dim, s->plain_sums);
    s->n_weighed = 0;
}

#include "attend/call.h"

/* Takes bytes at the next aligned place. */
static void *take(uint8_t *base, size_t *used, size_t bytes)
{
    void *at = base ? base + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return at;
}

/* A part of `rows` rows. */
static tqkv_partial take_part(uint8_t *base, size_t *used, size_t rows, size_t dim)
{
    return (tqkv_partial){.out = take(base, used, rows * dim * sizeof(float)),
                          .max = take(base, used, rows * sizeof(float)),
                          .sum = take(base, used, rows * sizeof(float))};
}

#define TAKE(field, count) s->field = take(at, &used, (size_t)(count) * sizeof *s->field)

size_t attend_scratch_place(const attend_call *c, uint8_t *at, attend_scratch *s)
{
    size_t used = 0, rows = c->block_rows;
    TAKE(key_tile, TILE * c->key_dim);
    TAKE(value_tile, TILE * c->value_dim);
    TAKE(key_floats, c->has_floats ? TILE * c->key_dim : 0);
    TAKE(value_floats, c->has_floats ? TILE * c->value_dim : 0);
    TAKE(original, rows * c->key_dim);
    TAKE(rotated, rows * c->key_dim);
    TAKE(packed, rows * packed_query_bytes(c->key_dim));
    TAKE(key_unit, rows);
    TAKE(narrow_error, rows);
    TAKE(level_error, rows);
    TAKE(score, rows);
    TAKE(rest, rows);
    TAKE(has_rest, rows);
    TAKE(logit, rows);
    TAKE(mask, rows);
    TAKE(mask_row, rows);
    TAKE(p, rows);
    TAKE(e, rows);
    TAKE(plain, rows);
    TAKE(plain_rows, TILE);
    TAKE(means, TILE);
    TAKE(mean_score, rows);
    TAKE(chosen, rows);
    TAKE(weighed, TILE);
    TAKE(mean_weight, rows);
    TAKE(weight, rows);
    TAKE(peak, rows);
    TAKE(value_unit, rows);
    TAKE(sums, rows * c->part_dim);
    TAKE(sum_rows, rows);
    TAKE(plain_sums, rows);
    TAKE(state, rows);
    TAKE(low_rank, rows);
    TAKE(high_rank, rows);
    TAKE(low, rows);
    TAKE(high, rows);
    TAKE(is_wide, rows);
    TAKE(keys, 1);
    TAKE(values, 1);
    TAKE(next_keys, 1);
    TAKE(next_values, 1);
    TAKE(tokens, 1);
    TAKE(next_tokens, 1);
    s->range = take_part(at, &used, rows, c->part_dim);
    s->part = take_part(at, &used, rows, c->part_dim);
    s->result = take_part(at, &used, rows, c->value_dim);
    for (size_t i = 0; i < c->fold_depth; i++)
        s->folds[i] = take_part(at, &used, rows, c->part_dim);
    return used;
}

#pragma once
/* Pages as plain numbers: tqkv_page_read's, rounded to a type. */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "mlx_table.h"
#include "decode_lanes.h"
#include "format_constants.h"
#include "private_row.h"
#include "pages.h"

/* A page of one head, or a row of it: sealed, staged, or neither (then the first page stands in). */
typedef struct read_task {
    GLOBAL const uchar *codes, *scales, *mean, *staged;
    GLOBAL const float *balance;
    GLOBAL uchar *to;
    bool is_key, is_sealed, is_staged;
    bool exists;  /* in the launch */
    bool is_rest; /* the row goes without the mean */
    float sign;   /* of its scale then */
} read_task;

/* Page number n of the launch: its heads, sides and pages, the first of them fastest. */
INLINE read_task read_task_of(PARAM const read_params *p, uint n, GLOBAL const uchar *key_codes,
                              GLOBAL const uchar *key_scales, GLOBAL const uchar *key_means,
                              GLOBAL const uchar *value_codes, GLOBAL const uchar *value_scales,
                              GLOBAL const uchar *value_means, GLOBAL const uchar *staged_keys,
                              GLOBAL const uchar *staged_values, GLOBAL const float *balances,
                              GLOBAL const uint *numbers, GLOBAL uchar *keys,
                              GLOBAL uchar *values)
{
    read_task t;
    uint head = n % p->n_kv_heads;
    n /= p->n_kv_heads;
    t.is_key = p->first_side + n % p->n_sides == 0;
    n /= p->n_sides;
    t.exists = n < p->n_numbers;
    uint i = t.exists ? n : 0, number = numbers[i];
    PARAM const pages_side *s = t.is_key ? &p->keys : &p->values;
    t.is_staged = (number & PAGE_STAGED) && (number & ~PAGE_STAGED) < p->n_staged;
    t.is_sealed = number < p->n_pages && !(number & PAGE_STAGED);
    uint page = t.is_sealed ? number : 0, staged = t.is_staged ? number & ~PAGE_STAGED : 0;
    t.codes = (t.is_key ? key_codes : value_codes) + page_codes_at(s, p->layer, head, page);
    t.scales = (t.is_key ? key_scales : value_scales) + page_scales_at(s, p->layer, head, page);
    t.mean = t.is_key ? key_means : value_means;
    t.staged = t.is_key ? staged_keys : staged_values;
    t.balance = balances;
    if (s->has_mean)
        t.mean += page_mean_at(s, p->layer, head, page);
    if (p->n_staged)
        t.staged += staged_at(s, p->layer, head, staged);
    if (s->has_balance)
        t.balance += ((ulong)p->layer * p->n_kv_heads + head) * s->format.head_dim;
    t.to = (t.is_key ? keys : values) + (ulong)i * PAGE_TOKENS * p->to_row +
           (ulong)head * p->to_head;
    return t;
}

/* A page's mean to local memory, and behind it what is added to a row that does without: minus
 * zeros, which change nothing. A barrier has to follow. */
INLINE void read_mean(PARAM const read_params *p, const read_task *t, uint dim, LOCAL float *mean,
                      uint item, uint n_items)
{
    PARAM const pages_side *s = t->is_key ? &p->keys : &p->values;
    float scale = s->has_mean ? page_mean_scale(t->mean, dim) : 0;
    for (uint i = item; i < dim; i += n_items) {
        mean[i] = s->has_mean ? page_mean_value(t->mean[i], scale) : -0.0f;
        mean[dim + i] = -0.0f;
    }
}

/* To a row that is `rows` further. */
INLINE void read_step(PARAM const read_params *p, PARAM const pages_side *s, read_task *t, uint rows)
{
    t->codes += rows * (ulong)s->code_row;
    t->scales += rows * (ulong)s->scale_row;
    if (p->n_staged)
        t->staged += rows * (ulong)s->from_row;
    t->to += rows * p->to_row;
}

INLINE void read_choice(PARAM const pages_side *s, read_task *t)
{
    format_params f = s->format;
    t->is_rest = s->has_mean && scale_has_choice(&f, t->scales);
    t->sign = t->is_rest ? -1 : 1;
}

/* Values first to first + 7 of a sealed row become what was sealed. */
INLINE void read_finish(PARAM const pages_side *s, const read_task *t, uint first,
                        LOCAL const float *mean, float *x)
{
    int m[8]; /* bits of floats */
    if (t->is_key && s->has_balance)
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] /= t->balance[first + j];
    ints_load((LOCAL const int *)(mean + first), 2, m);
    UNROLL for (uint j = 0; j < 8; j++)
        x[j] += as_float((uint)m[j]);
}

/* Those of a row that is staged, or not there. */
INLINE void read_other(PARAM const pages_side *s, const read_task *t, uint first, float *x)
{
    UNROLL for (uint j = 0; j < 8; j++)
        x[j] = 0;
    if (t->is_staged)
        numbers_load(t->staged, s->from_type, first, s->from_wide, x);
}

/* Where both sides have one format, and the kernel is compiled for it. */
INLINE format_params read_format(PARAM const pages_side *s)
{
    format_params f = s->format;
#ifdef FORMAT_BITS
    SET_CONSTANTS(f, FORMAT);
#endif
    return f;
}

#define READ_BUFFERS                                                                          \
    key_codes, key_scales, key_means, value_codes, value_scales, value_means, staged_keys,    \
        staged_values, balances, numbers, keys, values

#ifndef __OPENCL_VERSION__ /* as decode_rows_lanes */
KERNEL12(read_pages_lanes, read_params, const uchar, key_codes, const uchar, key_scales,
         const uchar, key_means, const uchar, value_codes, const uchar, value_scales, const uchar,
         value_means, const uchar, staged_keys, const uchar, staged_values, const float, balances,
         const uint, numbers, uchar, keys, uchar, values)
{
    read_task t = read_task_of(p, group_y * 65535 + group_x, READ_BUFFERS);
    PARAM const pages_side *s = t.is_key ? &p->keys : &p->values;
    format_params f = read_format(s);
    LOCAL float *table = (LOCAL float *)local_memory;
    uint lanes = row_lanes(&f), lane = item % lanes;
    LOCAL float *mean = table + LANES_TABLE, *memory = mean + 2 * f.head_dim;
    read_mean(p, &t, f.head_dim, mean, item, n_items);
    lanes_table(&f, table, item, n_items);
    read_step(p, s, &t, item / lanes);
    for (uint slot = item / lanes; slot < PAGE_TOKENS; slot += n_items / lanes) {
        float x[LANE_VALUES];
        read_choice(s, &t);
        LOCAL const float *of_row = t.is_rest ? mean : mean + f.head_dim;
        lanes_decode(&f, &p->rotation, t.codes, t.scales, t.sign, table, memory, item, n_items, x);
        if (t.is_sealed)
            UNROLL for (uint c = 0; c < LANE_VALUES / 8; c++)
                read_finish(s, &t, 8 * (lane + lanes * c), of_row, x + 8 * c);
        else
            UNROLL for (uint c = 0; c < LANE_VALUES / 8; c++)
                read_other(s, &t, 8 * (lane + lanes * c), x + 8 * c);
        if (t.exists)
            pieces_store(t.to, p->to_type, p->to_wide, lane, lanes, x);
        read_step(p, s, &t, n_items / lanes);
    }
}
#endif

/* The same for any rotation and head size: a row a group. */
KERNEL12(read_pages, read_params, const uchar, key_codes, const uchar, key_scales, const uchar,
         key_means, const uchar, value_codes, const uchar, value_scales, const uchar, value_means,
         const uchar, staged_keys, const uchar, staged_values, const float, balances, const uint,
         numbers, uchar, keys, uchar, values)
{
    uint group = group_y * 65535 + group_x;
    read_task t = read_task_of(p, group / PAGE_TOKENS, READ_BUFFERS);
    if (!t.exists)
        return;
    PARAM const pages_side *s = t.is_key ? &p->keys : &p->values;
    format_params f = s->format;
    uint dim = f.head_dim;
    LOCAL float *table = (LOCAL float *)local_memory;
    LOCAL float *x = table + TABLE_FLOATS, *y = x + dim, *mean = y + dim;
    read_mean(p, &t, dim, mean, item, n_items);
    table_load(&f, table, item, n_items);
    BARRIER(n_items);
    read_step(p, s, &t, group % PAGE_TOKENS);
    read_choice(s, &t);
    float scale = scale_load(&f, t.scales, 0) * t.sign, factor = 1;
    for (uint chunk = item; chunk < dim / 8; chunk += n_items) {
        float eight[8];
        values_load(&f, t.codes, chunk, table, eight);
        float block = f.kind == KIND_MLX ? scale_load(&f, t.scales, chunk / 32) *
                                               (chunk / 32 ? 1 : t.sign)
                      : p->rotation.active ? 1 : scale;
        for (uint j = 0; j < 8; j++)
            x[chunk * 8 + j] = eight[j] * block;
    }
    BARRIER(n_items);
    hadamard(x, y, dim, &p->rotation, item, n_items, n_items);
    if (p->rotation.active)
        factor = f.kind == KIND_MLX ? p->rotation.inverse_root : scale * p->rotation.inverse_root;
    for (uint chunk = item; chunk < dim / 8; chunk += n_items) {
        float eight[8];
        for (uint j = 0; j < 8; j++) {
            float value = x[chunk * 8 + j];
            if (p->rotation.active)
                value = flipped(&p->rotation, chunk * 8 + j, value * factor);
            eight[j] = value;
        }
        if (t.is_sealed)
            read_finish(s, &t, chunk * 8, t.is_rest ? mean : mean + dim, eight);
        else
            read_other(s, &t, chunk * 8, eight);
        numbers_store(t.to, p->to_type, 8 * chunk, p->to_wide, eight);
    }
}

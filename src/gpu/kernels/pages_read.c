#pragma once
/* Pages as plain numbers: tqkv_page_read's, rounded to a type. */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "mlx_table.h"
#include "decode_lanes.h"
#include "private_row.h"
#include "pages.h"

/* Row `row` of page `page`, which is there, staged, or neither (then the first page stands in). */
typedef struct read_task {
    GLOBAL const uchar *codes, *scales, *mean, *staged;
    GLOBAL const float *balance;
    GLOBAL uchar *to;
    bool is_key, is_row; /* is_row: of the launch */
    bool is_sealed, is_staged;
    float sign; /* of the scale's: -1 where the row goes without the mean */
    bool is_rest;
} read_task;

/* Row number n of the launch: its slots, heads, sides and pages, the first of them fastest. */
INLINE read_task read_task_of(PARAM const read_params *p, ulong n, GLOBAL const uchar *key_codes,
                              GLOBAL const uchar *key_scales, GLOBAL const uchar *key_means,
                              GLOBAL const uchar *value_codes, GLOBAL const uchar *value_scales,
                              GLOBAL const uchar *value_means, GLOBAL const uchar *staged_keys,
                              GLOBAL const uchar *staged_values, GLOBAL const float *balances,
                              GLOBAL const uint *numbers, GLOBAL uchar *keys,
                              GLOBAL uchar *values)
{
    read_task t;
    uint slot = (uint)(n % PAGE_TOKENS);
    n /= PAGE_TOKENS;
    uint head = (uint)(n % p->n_kv_heads);
    n /= p->n_kv_heads;
    t.is_key = p->first_side + (uint)(n % p->n_sides) == 0;
    n /= p->n_sides;
    t.is_row = n < p->n_numbers;
    uint i = t.is_row ? (uint)n : 0, number = numbers[i];
    PARAM const pages_side *s = t.is_key ? &p->keys : &p->values;
    t.is_staged = (number & PAGE_STAGED) && (number & ~PAGE_STAGED) < p->n_staged;
    t.is_sealed = number < p->n_pages && !(number & PAGE_STAGED);
    uint page = t.is_sealed ? number : 0, staged = t.is_staged ? number & ~PAGE_STAGED : 0;
    t.codes = (t.is_key ? key_codes : value_codes) + page_codes_at(s, p->layer, head, page) +
              (ulong)slot * s->code_row;
    t.scales = (t.is_key ? key_scales : value_scales) + page_scales_at(s, p->layer, head, page) +
               (ulong)slot * s->scale_row;
    t.mean = (t.is_key ? key_means : value_means) + page_mean_at(s, p->layer, head, page);
    t.staged = (t.is_key ? staged_keys : staged_values) + staged_at(s, p->layer, head, staged) +
               (ulong)slot * s->from_row;
    t.balance = balances + ((ulong)p->layer * p->n_kv_heads + head) * s->format.head_dim;
    t.to = (t.is_key ? keys : values) + ((ulong)i * PAGE_TOKENS + slot) * p->to_row +
           (ulong)head * p->to_head;
    uint sign_byte = t.scales[s->format.kind == KIND_MLX ? 3 : 1];
    t.is_rest = s->has_mean && sign_byte > 127;
    t.sign = t.is_rest ? -1 : 1;
    return t;
}

/* Values first to first + 7 of a sealed row become what was sealed, those of a staged one are
 * loaded, others are 0. */
INLINE void read_finish(PARAM const read_params *p, const read_task *t, uint dim, uint first,
                        float scale, float *x)
{
    PARAM const pages_side *s = t->is_key ? &p->keys : &p->values;
    if (t->is_key && s->has_balance)
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] /= t->balance[first + j];
    if (t->is_rest) {
        uint low = word_load(t->mean + first, s->mean_words);
        uint high = word_load(t->mean + first + 4, s->mean_words);
        UNROLL for (uint j = 0; j < 4; j++)
        {
            x[j] += page_mean_value(low >> 8 * j & 255, scale);
            x[j + 4] += page_mean_value(high >> 8 * j & 255, scale);
        }
    }
    if (t->is_staged)
        numbers_load(t->staged, s->from_type, first, s->from_wide, x);
    if (!t->is_staged && !t->is_sealed)
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] = 0;
    if (t->is_row)
        numbers_store(t->to, p->to_type, first, p->to_wide, x);
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

KERNEL12(read_pages_lanes, read_params, const uchar, key_codes, const uchar, key_scales,
         const uchar, key_means, const uchar, value_codes, const uchar, value_scales, const uchar,
         value_means, const uchar, staged_keys, const uchar, staged_values, const float, balances,
         const uint, numbers, uchar, keys, uchar, values)
{
    LOCAL float *table = (LOCAL float *)local_memory;
    bool is_key = p->first_side == 0;
    format_params f = read_format(is_key ? &p->keys : &p->values);
    uint lanes = row_lanes(&f), lane = item % lanes;
    ulong group = (ulong)group_y * 65535 + group_x;
    read_task t = read_task_of(p, group * (n_items / lanes) + item / lanes, READ_BUFFERS);
    float x[LANE_VALUES], scale = t.is_rest ? page_mean_scale(t.mean, f.head_dim) : 0;
    if (!t.is_key)
        f = read_format(&p->values);
    table_load(&f, table, item, n_items);
    BARRIER(n_items);
    lanes_decode(&f, &p->rotation, t.codes, t.scales, t.sign, table, table + TABLE_FLOATS, item,
                 n_items, x);
    UNROLL for (uint c = 0; c < LANE_VALUES / 8; c++)
        read_finish(p, &t, f.head_dim, 8 * (lane + lanes * c), scale, x + 8 * c);
}

/* The same for any rotation and head size: a row a group. */
KERNEL12(read_pages, read_params, const uchar, key_codes, const uchar, key_scales, const uchar,
         key_means, const uchar, value_codes, const uchar, value_scales, const uchar, value_means,
         const uchar, staged_keys, const uchar, staged_values, const float, balances, const uint,
         numbers, uchar, keys, uchar, values)
{
    read_task t = read_task_of(p, (ulong)group_y * 65535 + group_x, READ_BUFFERS);
    if (!t.is_row)
        return;
    PARAM const pages_side *s = t.is_key ? &p->keys : &p->values;
    format_params f = s->format;
    uint dim = f.head_dim;
    LOCAL float *table = (LOCAL float *)local_memory;
    LOCAL float *x = table + TABLE_FLOATS, *y = x + dim;
    table_load(&f, table, item, n_items);
    BARRIER(n_items);
    float scale = t.sign * scale_load(&f, t.scales, 0), factor = 1;
    bool is_mlx = f.kind == KIND_MLX;
    for (uint chunk = item; chunk < dim / 8; chunk += n_items) {
        float eight[8], block = is_mlx || !p->rotation.active ? scale : 1;
        if (is_mlx && chunk / 32)
            block = scale_load(&f, t.scales, chunk / 32);
        values_load(&f, t.codes, chunk, table, eight);
        for (uint j = 0; j < 8; j++)
            x[chunk * 8 + j] = eight[j] * block;
    }
    BARRIER(n_items);
    hadamard(x, y, dim, &p->rotation, item, n_items, n_items);
    if (p->rotation.active)
        factor = is_mlx ? p->rotation.inverse_root : scale * p->rotation.inverse_root;
    float of_mean = t.is_rest ? page_mean_scale(t.mean, dim) : 0;
    for (uint chunk = item; chunk < dim / 8; chunk += n_items) {
        float eight[8];
        for (uint j = 0; j < 8; j++) {
            float value = x[chunk * 8 + j];
            if (p->rotation.active)
                value = flipped(&p->rotation, chunk * 8 + j, value * factor);
            eight[j] = value;
        }
        read_finish(p, &t, dim, chunk * 8, of_mean, eight);
    }
}

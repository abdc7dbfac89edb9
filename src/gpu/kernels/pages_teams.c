#pragma once
/* Pages of any format: a team of items for one row after the other. */
#include "pages_rows.h"
#include "encode_trellis.c"
#include "encode_lloyd.c"
#include "encode_mlx.c"

/* Row `row` of the page into t->x: zeros where it is not there. Gives whether it goes without
 * the mean. */
INLINE bool team_page_row(const team *t, PARAM const pages_side *s, const page_task *k,
                          GLOBAL const uchar *from, bool is_there, LOCAL const float *mean)
{
    team rest = *t;
    float square, without, peak;
    rest.x = t->y;
    for (uint i = t->lane; i < t->dim; i += t->lanes) {
        float x = is_there ? finite_input(number_load(from, s->from_type, i)) : 0;
        float y = is_there ? x - mean[i] : 0;
        if (k->is_key && s->has_balance) {
            x = finite_input(x * k->balance[i]);
            y = y * k->balance[i];
        }
        t->x[i] = x;
        t->y[i] = finite_input(y);
    }
    BARRIER(t->n_items);
    team_moments(t, &square, &peak);
    team_moments(&rest, &without, &peak);
    bool is_rest = s->has_mean && without < square;
    for (uint i = t->lane; is_rest && i < t->dim; i += t->lanes)
        t->x[i] = t->y[i];
    BARRIER(t->n_items);
    return is_rest;
}

/* A group's task, its team, and the mean of the page; a group that has nothing to do returns. In
 * local memory: the team, the mean, peaks of items. */
#define PAGES_BEGIN                                                                              \
    page_task k = page_task_of(p, (ulong)group_y * 65535 + group_x, key_from, value_from,        \
                               key_codes, key_scales, key_means, value_codes, value_scales,      \
                               value_means, balances, list, count);                              \
    if (!k.exists)                                                                               \
        return;                                                                                  \
    PARAM const pages_side *s = k.is_key ? &p->keys : &p->values;                                \
    format_params f = s->format;                                                                 \
    team t = team_of(&f, p->lanes, p->team_floats, 0, 1, item, n_items, local_memory);           \
    LOCAL float *mean = (LOCAL float *)local_memory + p->mean_at;                                \
    uint rows = p->is_write ? 1 : PAGE_TOKENS / p->parts;                                          \
    page_mean(s, &k, p->is_write, mean, mean + f.head_dim, item, n_items);

/* Its row number n, and where that goes. */
#define PAGES_ROW                                                                                \
    uint row = p->is_write ? k.row : k.part * rows + n;                                          \
    bool is_there = p->is_write || (k.present >> row & 1);                                       \
    row_task task;                                                                               \
    task.codes = k.codes + (ulong)row * s->code_row;                                             \
    task.scales = k.scales + (ulong)row * s->scale_row;                                          \
    task.sign = team_page_row(&t, s, &k, k.from + (p->is_write ? 0 : (ulong)row * s->from_row),  \
                              is_there, mean);

KERNEL12(pages_trellis, pages_params, const uchar, key_from, const uchar, value_from, uchar,
         key_codes, uchar, key_scales, uchar, key_means, uchar, value_codes, uchar, value_scales,
         uchar, value_means, const float, balances, const uint, list, const uint, count, uchar,
         unused)
{
    PAGES_BEGIN
    for (uint n = 0; n < rows; n++) {
        PAGES_ROW
        trellis_team_encode(&t, &f, &task, &p->rotation, item);
        BARRIER(n_items);
    }
}

KERNEL12(pages_lloyd, pages_params, const uchar, key_from, const uchar, value_from, uchar,
         key_codes, uchar, key_scales, uchar, key_means, uchar, value_codes, uchar, value_scales,
         uchar, value_means, const float, balances, const uint, list, const uint, count, uchar,
         unused)
{
    PAGES_BEGIN
    for (uint n = 0; n < rows; n++) {
        PAGES_ROW
        lloyd_team_encode(&t, &f, &task, &p->rotation);
        BARRIER(n_items);
    }
}

/* The choice is the sign of the first norm, which item 0 wrote, and zeros are more than a norm of
 * 0: each item clears the bytes that it wrote. */
INLINE void mlx_page_finish(const format_params *f, const row_task *k, bool is_there, uint item,
                            uint n_items)
{
    uint dim = f->head_dim, blocks = dim > 256 ? dim / 256 : 1;
    if (item == 0)
        k->scales[3] |= (uchar)(k->sign << 7);
    for (uint i = item; !is_there && i < dim / 2; i += n_items) {
        k->codes[f->bits == 4 ? i : 2 * i] = 0;
        if (f->bits != 4)
            k->codes[2 * i + 1] = 0;
    }
    for (uint i = item; !is_there && i < blocks; i += n_items)
        for (uint j = 0; j < 4; j++)
            k->scales[4 * i + j] = 0;
}

KERNEL12(pages_mlx, pages_params, const uchar, key_from, const uchar, value_from, uchar,
         key_codes, uchar, key_scales, uchar, key_means, uchar, value_codes, uchar, value_scales,
         uchar, value_means, const float, balances, const uint, list, const uint, count, uchar,
         unused)
{
    PAGES_BEGIN
    for (uint n = 0; n < rows; n++) {
        PAGES_ROW
        mlx_team_encode(&t, &f, &task, item);
        mlx_page_finish(&f, &task, is_there, item, n_items);
        BARRIER(n_items);
    }
}

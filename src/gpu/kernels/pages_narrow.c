#pragma once
/* tq4's pages: a row an item. */
#include "narrow.h"
#include "private_row.h"
#include "pages_rows.h"

/* The numbers at `from`: makes them `row` of the page, either themselves or what is left of them
 * without the mean, whichever is smaller. The mean is in local memory, or null and the page's. */
INLINE void narrow_page_row(narrow *m, PARAM const pages_side *s, PARAM const rotation_params *r,
                            const page_task *k, GLOBAL const uchar *from, uint row,
                            LOCAL const float *mean)
{
    LOCAL float *left = (LOCAL float *)m->low; /* until the search */
    float own[16], rest[16], scale = !mean && s->has_mean ? page_mean_scale(k->mean, m->dim) : 0;
    bool has_balance = k->is_key && s->has_balance;
    UNROLL for (uint j = 0; j < 16; j++)
        own[j] = rest[j] = 0;
    for (uint i = 0; i < m->dim; i += 16) {
        float x[16];
        numbers_load(from, s->from_type, i, s->from_wide, x);
        numbers_load(from, s->from_type, i + 8, s->from_wide, x + 8);
        UNROLL for (uint j = 0; j < 16; j++)
        {
            float of_mean = mean ? mean[i + j] : s->has_mean ? page_mean_value(k->mean[i + j], scale) : 0;
            x[j] = finite_input(x[j]);
            float y = x[j] - of_mean;
            if (has_balance) {
                float b = k->balance[i + j];
                x[j] = finite_input(x[j] * b);
                y = y * b;
            }
            y = finite_input(y);
            m->x[(i + j) * m->stride] = x[j];
            left[(i + j) * m->stride] = y;
            own[j] += x[j] * x[j];
            rest[j] += y * y;
        }
    }
    float square = sixteen_sum(own), without = sixteen_sum(rest);
    bool is_rest = s->has_mean && without < square;
    for (uint i = 0; is_rest && i < m->dim; i++)
        m->x[i * m->stride] = left[i * m->stride];
    narrow_row_encode(m, r, is_rest ? without : square, is_rest, k->codes + (ulong)row * s->code_row,
                      k->scales + (ulong)row * s->scale_row, s->format.words);
}

INLINE void narrow_page_clear(PARAM const pages_side *s, const page_task *k, uint row)
{
    for (uint i = 0; i < s->format.code_bytes; i++)
        k->codes[(ulong)row * s->code_row + i] = 0;
    for (uint i = 0; i < 2; i++)
        k->scales[(ulong)row * s->scale_row + i] = 0;
}

/* Where the kernel is compiled for a head size. */
#ifdef PAGE_DIM
#define PAGE_DIM_OF(s) PAGE_DIM
#else
#define PAGE_DIM_OF(s) (s)->format.head_dim
#endif

/* A page a group. In local memory: what narrow.h has there, the mean, peaks of items. */
KERNEL12(seal_narrow, pages_params, const uchar, key_from, const uchar, value_from, uchar,
         key_codes, uchar, key_scales, uchar, key_means, uchar, value_codes, uchar, value_scales,
         uchar, value_means, const float, balances, const uint, list, const uint, count, uchar,
         unused)
{
    page_task k = page_task_of(p, (ulong)group_y * 65535 + group_x, key_from, value_from,
                               key_codes, key_scales, key_means, value_codes, value_scales,
                               value_means, balances, list, count);
    if (!k.exists)
        return;
    PARAM const pages_side *s = k.is_key ? &p->keys : &p->values;
    narrow m = narrow_of(PAGE_DIM_OF(s), item, n_items, local_memory);
    LOCAL float *mean = (LOCAL float *)local_memory + p->mean_at;
    narrow_tables(&m, item, n_items);
    page_mean(s, &k, 0, mean, mean + m.dim, item, n_items);
    for (uint row = item; row < PAGE_TOKENS; row += n_items) {
        if (k.present >> row & 1)
            narrow_page_row(&m, s, &p->rotation, &k, k.from + (ulong)row * s->from_row, row, mean);
        else
            narrow_page_clear(s, &k, row);
    }
}

/* A row of some page an item. */
KERNEL12(write_narrow, pages_params, const uchar, key_from, const uchar, value_from, uchar,
         key_codes, uchar, key_scales, uchar, key_means, uchar, value_codes, uchar, value_scales,
         uchar, value_means, const float, balances, const uint, list, const uint, count, uchar,
         unused)
{
    page_task k = page_task_of(p, ((ulong)group_y * 65535 + group_x) * n_items + item, key_from,
                               value_from, key_codes, key_scales, key_means, value_codes,
                               value_scales, value_means, balances, list, count);
    PARAM const pages_side *s = k.is_key ? &p->keys : &p->values;
    narrow m = narrow_of(PAGE_DIM_OF(s), item, n_items, local_memory);
    narrow_tables(&m, item, n_items);
    BARRIER(n_items);
    if (k.exists)
        narrow_page_row(&m, s, &p->rotation, &k, k.from, k.row, 0);
}

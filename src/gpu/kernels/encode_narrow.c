#pragma once
/* tq4: a row an item. */
#include "narrow.h"
#include "private_row.h"

KERNEL4(encode_narrow, rows_params, const uchar, src, uchar, codes, uchar, scales, const float,
        balance)
{
    format_params f = rows_format(p);
    narrow m = narrow_of(f.head_dim, item, n_items, local_memory);
    narrow_tables(&m, item, n_items);
    BARRIER(n_items);
    ulong row = ((ulong)group_y * 65535 + group_x) * n_items + item;
    if (row >= p->n_rows)
        return;
    float lane[16];
    UNROLL for (uint j = 0; j < 16; j++)
        lane[j] = 0;
    for (uint i = 0; i < f.head_dim; i += 16) {
        float x[16];
        numbers_load(src + row * p->value_stride, p->value_type, i, p->wide, x);
        numbers_load(src + row * p->value_stride, p->value_type, i + 8, p->wide, x + 8);
        UNROLL for (uint j = 0; j < 16; j++)
        {
            x[j] = finite_input(x[j]);
            if (p->has_balance)
                x[j] = finite_input(x[j] * balance[i + j]);
            m.x[(i + j) * m.stride] = x[j];
            lane[j] += x[j] * x[j];
        }
    }
    narrow_row_encode(&m, &p->rotation, sixteen_sum(lane), 0, codes + row * p->code_stride,
                      scales + row * p->scale_stride, f.words);
}

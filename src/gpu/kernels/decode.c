/* Numbers from rows: tqkv_decode's, bit for bit. */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "mlx_table.h"
#include "hadamard.h"
#include "stream.h"
#include "format_constants.h"
#include "decode_lanes.h"

enum { ROUNDS = 4 }; /* of a group over rows: its table is loaded once */

/* Rotated domain: eight values an item and round. */
KERNEL4(decode_rows, rows_params, const uchar, codes, const uchar, scales, const float, balance,
        uchar, dst)
{
    format_params f = rows_format(p);
    LOCAL float *table = (LOCAL float *)local_memory;
    uint chunks = f.head_dim / 8;
    table_load(&f, table, item, n_items);
    BARRIER(n_items);
    for (uint round = 0; round < ROUNDS; round++) {
        ulong group = (ulong)group_y * 65535 + group_x;
        ulong at = (group * ROUNDS + round) * n_items + item, row = at / chunks;
        uint chunk = (uint)(at - row * chunks);
        if (row >= p->n_rows)
            return;
        float x[8];
        float scale = scale_load(&f, scales + row * p->scale_stride, chunk / 32);
        values_load(&f, codes + row * p->code_stride, chunk, table, x);
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] *= scale;
        numbers_store(dst + row * p->value_stride, p->value_type, chunk * 8, p->wide, x);
    }
}

#ifndef __OPENCL_VERSION__ /* not used there, and PoCL takes minutes to compile it */
/* The domain of the values that were encoded, by a few items a row. In local memory: the table,
 * and what lanes_butterfly wants. */
KERNEL4(decode_rows_lanes, rows_params, const uchar, codes, const uchar, scales, const float,
        balance, uchar, dst)
{
    format_params f = rows_format(p);
    uint lanes = row_lanes(&f), lane = item % lanes;
    LOCAL float *table = (LOCAL float *)local_memory;
    lanes_table(&f, table, item, n_items);
    ulong first_row = ((ulong)group_y * 65535 + group_x) * ROUNDS * (n_items / lanes);
    for (uint round = 0; round < ROUNDS; round++) {
        ulong at = first_row + (round * n_items + item) / lanes;
        ulong row = at < p->n_rows ? at : p->n_rows - 1; /* all take part in the exchange */
        float x[LANE_VALUES];
        lanes_decode(&f, &p->rotation, codes + row * p->code_stride,
                     scales + row * p->scale_stride, 1, table, table + LANES_TABLE, item, n_items,
                     x);
        if (p->has_balance)
            UNROLL for (uint i = 0; i < LANE_VALUES; i++)
                x[i] /= balance[8 * (lane + lanes * (i / 8)) + i % 8];
        if (at < p->n_rows)
            pieces_store(dst + row * p->value_stride, p->value_type, p->wide, lane, lanes, x);
    }
}
#endif

/* The same for any rotation: a row a group. */
KERNEL4(decode_rows_original, rows_params, const uchar, codes, const uchar, scales, const float,
        balance, uchar, dst)
{
    format_params f = rows_format(p);
    uint dim = f.head_dim;
    LOCAL float *table = (LOCAL float *)local_memory;
    LOCAL float *x = table + TABLE_FLOATS, *y = x + dim;
    ulong row = (ulong)group_y * 65535 + group_x;
    if (row >= p->n_rows)
        return;
    table_load(&f, table, item, n_items);
    BARRIER(n_items);
    GLOBAL const uchar *scale_at = scales + row * p->scale_stride;
    float scale = scale_load(&f, scale_at, 0), factor = 1;
    for (uint chunk = item; chunk < dim / 8; chunk += n_items) {
        float eight[8];
        values_load(&f, codes + row * p->code_stride, chunk, table, eight);
        float block = f.kind == KIND_MLX ? scale_load(&f, scale_at, chunk / 32)
                      : p->rotation.active ? 1 : scale;
        for (uint j = 0; j < 8; j++)
            x[chunk * 8 + j] = eight[j] * block;
    }
    BARRIER(n_items);
    hadamard(x, y, dim, &p->rotation, item, n_items, n_items);
    if (p->rotation.active) {
        factor = f.kind == KIND_MLX ? p->rotation.inverse_root
                                    : scale * p->rotation.inverse_root;
    }
    for (uint i = item; i < dim; i += n_items) {
        float value = x[i];
        if (p->rotation.active)
            value = flipped(&p->rotation, i, value * factor);
        if (p->has_balance)
            value /= balance[i];
        number_store(dst + row * p->value_stride, p->value_type, i, value);
    }
}

#pragma once
/* mlx: the reference's codes and norms, to its layout and to rows. */
#include "encode_row.h"
#include "mlx_row.h"

/* group_x is the position, group_y the head. In local memory: what
 * mlx_row_encode wants. */
KERNEL4(hadamard_quantize_kv, mlx_quantize_params, const uchar, src, uchar, packed, float, norms,
        const uint, signs)
{
    uint dim = p->head_dim;
    LOCAL real *x = (LOCAL real *)local_memory;
    ulong place = ((ulong)p->first + group_x) % p->cache_capacity;
    ulong slot = (ulong)group_y * p->cache_capacity + place;
    GLOBAL const uchar *row = src + ((ulong)group_x * p->num_kv_heads + group_y) * dim *
                                        (p->src_type == TYPE_F32 ? 4 : 2);
    for (uint i = item; i < dim; i += n_items) {
        float value = number_load(row, p->src_type, i);
        if (p->has_signs && (signs[i / 32] >> i % 32 & 1u))
            value = -value;
        x[i] = real_from(value);
    }
    BARRIER(n_items);
    mlx_row_encode(x, dim, p->bits, packed + slot * (p->bits == 4 ? dim / 2 : dim),
                   (GLOBAL uchar *)(norms + slot * p->norms_per_pos), item, n_items);
}

/* The row that is in t->x. */
INLINE void mlx_team_encode(team *t, const format_params *f, const row_task *k, uint item)
{
    LOCAL real *x = (LOCAL real *)(t->x + f->head_dim);
    for (uint i = item; i < f->head_dim; i += t->n_items)
        x[i] = real_from(t->x[i]);
    BARRIER(t->n_items);
    mlx_row_encode(x, f->head_dim, f->bits, k->codes, k->scales, item, t->n_items);
}

INLINE void mlx_task_encode(team *t, const format_params *f, const row_task *k, uint item)
{
    row_load(t, k);
    mlx_team_encode(t, f, k, item);
}

KERNEL4(encode_mlx, rows_params, const uchar, src, uchar, codes, uchar, scales, const float,
        balance)
{
    format_params f = rows_format(p);
    team t = rows_team(p, &f, group_x, group_y, item, n_items, local_memory);
    if (!t.is_active) /* the group's only row */
        return;
    row_task k = task_of(&t, p, src, codes, scales, balance);
    mlx_task_encode(&t, &f, &k, item);
}

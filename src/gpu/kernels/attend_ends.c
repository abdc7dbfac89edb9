/* Before attention and after: queries to the domain of the rows, and the merge of the
 * partial results. */
#include "params.h"
#include "number.h"
#include "hadamard.h"

/* group_x is the query row [sequence][query][head]. Writes the row divided by the
 * balance and rotated. */
KERNEL4(prepare_queries, query_params, const uchar, queries, const float, balances, float,
        rotated, uchar, unused)
{
    uint dim = p->head_dim, rows = p->n_queries * p->n_heads;
    LOCAL float *x = (LOCAL float *)local_memory, *y = x + dim;
    uint sequence = group_x / rows, i = group_x % rows / p->n_heads, h = group_x % p->n_heads;
    uint size = p->type == TYPE_F32 ? 4 : 2;
    GLOBAL const uchar *query = queries + (sequence * p->sequence_stride + i * p->query_stride +
                                           h * p->head_stride) * size;
    ulong balance = (ulong)(h / (p->n_heads / p->n_kv_heads)) * dim;
    for (uint d = item; d < dim; d += n_items) {
        float value = finite_input(number_load(query, p->type, d));
        x[d] = flipped(&p->rotation, d, p->has_balances ? value / balances[balance + d] : value);
    }
    BARRIER(n_items);
    hadamard(x, y, dim, &p->rotation, item, n_items, n_items);
    float factor = p->rotation.active ? p->rotation.inverse_root : 1;
    for (uint d = item; d < dim; d += n_items)
        rotated[(ulong)group_x * dim + d] = x[d] * factor;
}

/* group_x is the row [sequence][query][head]: what all splits give, in the
 * domain of the values. */
KERNEL4(merge_splits, merge_params, const float, partials, const float, sinks, uchar, out, float,
        state)
{
    uint dim = p->head_dim, rows = p->n_queries * p->n_heads, group = p->n_heads / p->n_kv_heads;
    LOCAL float *x = (LOCAL float *)local_memory, *y = x + dim;
    uint sequence = group_x / rows, i = group_x % rows / p->n_heads, h = group_x % p->n_heads;
    uint r = i * group + h % group;
    uint blocks = (p->n_queries * group + p->block_rows - 1) / p->block_rows;
    ulong block = ((ulong)sequence * p->n_kv_heads + h / group) * blocks + r / p->block_rows;
    ulong stride = (ulong)p->block_rows * (dim + 2);
    GLOBAL const float *partial =
        partials + block * p->n_splits * stride + r % p->block_rows * (dim + 2);
    float sink = p->has_sinks ? sinks[h] : -INFINITY, max = sink, sum = 0;
    for (uint s = 0; s < p->n_splits; s++)
        max = partial[s * stride + dim] > max ? partial[s * stride + dim] : max;
    if (sink > -INFINITY)
        sum = expf(sink - max);
    for (uint s = 0; s < p->n_splits; s++)
        if (partial[s * stride + dim] > -INFINITY)
            sum += partial[s * stride + dim + 1] * expf(partial[s * stride + dim] - max);
    for (uint d = item; d < dim; d += n_items) {
        float value = 0;
        for (uint s = 0; s < p->n_splits; s++)
            if (partial[s * stride + dim] > -INFINITY)
                value = fmaf(partial[s * stride + d], expf(partial[s * stride + dim] - max), value);
        x[d] = sum > 0 ? value / sum : 0;
    }
    BARRIER(n_items);
    hadamard(x, y, dim, &p->rotation, item, n_items, n_items);
    float factor = p->rotation.active ? p->rotation.inverse_root : 1;
    GLOBAL uchar *row = out + (ulong)group_x * p->out_stride;
    for (uint d = item; d < dim; d += n_items)
        number_store(row, p->type, d, flipped(&p->rotation, d, x[d] * factor));
    if (p->has_state && item == 0) {
        state[2 * (ulong)group_x] = max;
        state[2 * (ulong)group_x + 1] = sum;
    }
}

/* group_x is the row: outs[part][row][dim], states[part][row][2], as attention gives them. */
KERNEL4(merge_parts, parts_params, const float, outs, const float, states, uchar, out, float, state)
{
    uint dim = p->head_dim;
    float max = -INFINITY, sum = 0;
    for (uint i = 0; i < p->n_parts; i++) {
        GLOBAL const float *s = states + 2 * ((ulong)i * p->n_rows + group_x);
        max = s[1] > 0 && s[0] > max ? s[0] : max;
    }
    for (uint i = 0; i < p->n_parts; i++) {
        GLOBAL const float *s = states + 2 * ((ulong)i * p->n_rows + group_x);
        sum += s[1] > 0 ? s[1] * expf(s[0] - max) : 0;
    }
    GLOBAL uchar *row = out + (ulong)group_x * dim * (p->type == TYPE_F32 ? 4 : 2);
    for (uint d = item; d < dim; d += n_items) {
        float value = 0;
        for (uint i = 0; i < p->n_parts; i++) {
            ulong part = (ulong)i * p->n_rows + group_x;
            GLOBAL const float *s = states + 2 * part;
            if (s[1] > 0)
                value = fmaf(outs[part * dim + d], s[1] * expf(s[0] - max) / sum, value);
        }
        number_store(row, p->type, d, value);
    }
    if (p->has_state && item == 0) {
        state[2 * (ulong)group_x] = max;
        state[2 * (ulong)group_x + 1] = sum;
    }
}

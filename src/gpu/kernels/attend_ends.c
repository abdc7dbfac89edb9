/* Before attention and after: queries to the domain of the rows, and the merge of the
 * partial results. */
#include "params.h"
#include "number.h"
#include "hadamard.h"

/* group_x is the query row [sequence][query][head]. Writes the row divided by the
 * balance and rotated and, behind all rows of that kind, the row as it is. Where sequences have
 * starts, some rows may be none's: their partial results are that no token is seen. */
KERNEL4(prepare_queries, query_params, const uchar, queries, const float, balances, float,
        prepared, float, partials)
{
    uint dim = p->head_dim;
    LOCAL float *x = (LOCAL float *)local_memory, *y = x + dim;
    uint h = group_x % p->n_heads;
    GLOBAL const uchar *query = queries + (ulong)group_x * dim * (p->type == TYPE_F32 ? 4 : 2);
    ulong balance = (ulong)(h / (p->n_heads / p->n_kv_heads)) * dim;
    for (uint d = item; d < dim; d += n_items) {
        float value = finite_input(number_load(query, p->type, d));
        if (p->has_original)
            prepared[(p->n_rows + group_x) * dim + d] = value;
        x[d] = flipped(&p->rotation, d, p->has_balances ? value / balances[balance + d] : value);
    }
    for (uint s = item; s < p->n_splits && p->has_starts; s += n_items) {
        GLOBAL float *end = partials + ((ulong)group_x * p->n_splits + s + 1) * p->part;
        end[-2] = -INFINITY;
        end[-1] = 0;
    }
    BARRIER(n_items);
    hadamard(x, y, dim, &p->rotation, item, n_items, n_items);
    float factor = p->rotation.active ? p->rotation.inverse_root : 1;
    for (uint d = item; d < dim; d += n_items)
        prepared[(ulong)group_x * dim + d] = x[d] * factor;
}

/* group_x is the row [sequence][query][head]: what all splits give, in the original domain. */
KERNEL4(merge_splits, merge_params, const float, partials, const float, sinks, uchar, out, float,
        state)
{
    uint dim = p->head_dim, h = group_x % p->n_heads;
    LOCAL float *x = (LOCAL float *)local_memory, *y = x + dim, *original = y + dim;
    GLOBAL const float *partial = partials + (ulong)group_x * p->n_splits * p->part;
    GLOBAL const float *largest = partial + p->part - 2, *sums = largest + 1;
    float sink = p->has_sinks ? sinks[h] : -INFINITY, max = sink, sum = 0;
    for (uint s = 0; s < p->n_splits; s++)
        max = largest[s * p->part] > max ? largest[s * p->part] : max;
    if (sink > -INFINITY)
        sum = expf(sink - max);
    for (uint s = 0; s < p->n_splits; s++)
        if (largest[s * p->part] > -INFINITY)
            sum += sums[s * p->part] * expf(largest[s * p->part] - max);
    for (uint d = item; d < dim; d += n_items) {
        float value = 0, of_original = 0;
        for (uint s = 0; s < p->n_splits; s++)
            if (largest[s * p->part] > -INFINITY) {
                float weight = expf(largest[s * p->part] - max);
                value = fmaf(partial[s * p->part + d], weight, value);
                if (p->has_original)
                    of_original = fmaf(partial[s * p->part + dim + d], weight, of_original);
            }
        x[d] = sum > 0 ? value / sum : 0;
        original[d] = sum > 0 ? of_original / sum : 0;
    }
    BARRIER(n_items);
    hadamard(x, y, dim, &p->rotation, item, n_items, n_items);
    float factor = p->rotation.active ? p->rotation.inverse_root : 1;
    GLOBAL uchar *row = out + (ulong)group_x * p->out_stride;
    for (uint d = item; d < dim; d += n_items) {
        float value = flipped(&p->rotation, d, x[d] * factor);
        number_store(row, p->type, d, p->has_original ? value + original[d] : value);
    }
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

#include <math.h>
#include <string.h>

#include "attend/call.h"
#include "common/checked.h"

static void merge_row(float max, float sum, const float *out, unsigned dim, float *into_max,
                      float *into_sum, float *into_out)
{
    if (!(sum > 0))
        return;
    if (!(*into_sum > 0)) { /* the same bits, zeros' signs included */
        memcpy(into_out, out, dim * sizeof *out);
        *into_max = max;
        *into_sum = sum;
        return;
    }
    float largest = max > *into_max ? max : *into_max;
    float from_sum = sum * expf(max - largest), old_sum = *into_sum * expf(*into_max - largest);
    float total = from_sum + old_sum;
    float from = from_sum / total, old = old_sum / total;
    for (unsigned i = 0; i < dim; i++)
        into_out[i] = into_out[i] * old + out[i] * from;
    *into_max = largest;
    *into_sum = total;
}

void merge_rows(size_t n_rows, unsigned dim, const tqkv_partial *from, const tqkv_partial *into)
{
    for (size_t r = 0; r < n_rows; r++)
        merge_row(from->max[r], from->sum[r], from->out + r * dim, dim, into->max + r, into->sum + r,
                  into->out + r * dim);
}

tqkv_status tqkv_merge(size_t n_rows, uint32_t v_head_dim, const tqkv_partial *from,
                       const tqkv_partial *into)
{
    size_t elements;
    if (!from || !into)
        return TQKV_ERROR_ARGUMENT;
    if (!size_multiply(n_rows, v_head_dim, &elements) ||
        !size_multiply(elements, sizeof(float), &elements))
        return TQKV_ERROR_OVERFLOW;
    if (n_rows == 0)
        return TQKV_OK;
    if (!from->out || !from->max || !from->sum || !into->out || !into->max || !into->sum)
        return TQKV_ERROR_ARGUMENT;
    merge_rows(n_rows, v_head_dim, from, into);
    return TQKV_OK;
}

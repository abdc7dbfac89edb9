/* The reference kernels. */
#define TARGET
#include "attend/generic.h"

static void scores(const tile_plan *p, const int8_t *tile, const uint8_t *packed, unsigned n,
                   int wide, int32_t (*score)[TILE])
{
    for (unsigned r = 0; r < n; r++) {
        const int16_t *q = (const int16_t *)(packed + r * packed_query_bytes(p->head_dim));
        for (unsigned t = 0; t < TILE; t++) {
            const int8_t *level = tile + t * p->head_dim;
            int32_t sum = 0;
            for (unsigned i = 0; i < p->head_dim; i++)
                sum += level[i] * (wide ? q[i] : 128 * upper_digit(q[i]));
            score[r][t] = sum;
        }
    }
}

static void accumulate(const tile_plan *p, const int8_t *tile, const uint16_t (*weight)[TILE],
                       const float *unit, unsigned n, int wide, float *const *out)
{
    for (unsigned r = 0; r < n; r++)
        for (unsigned i = 0; i < p->head_dim; i++) {
            int32_t sum = 0;
            for (unsigned t = 0; t < TILE; t++) {
                int w = weight[r][t];
                sum += tile[t * p->head_dim + i] * (wide ? w : 128 * upper_digit(w));
            }
            out[r][i] += (float)sum * unit[r];
        }
}

const attend_kernels attend_scalar = {
    .name = "scalar",
    .narrow = NARROW_SCORES | NARROW_WEIGHTS, /* no faster, but the reference for those that are */
    .expand_keys = expand_rows,
    .expand_values = expand_rows,
    .scores = scores,
    .accumulate = accumulate,
    GENERIC_ATTEND_KERNELS,
};

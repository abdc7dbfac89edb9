/* What the tables with and without dot product share; the includer defines
 * TARGET. Tiles are rows of levels. */
#include <arm_neon.h>

#include "attend/generic.h"

/* 16 values of one row of weights. */
TARGET static inline void accumulate_16(const int8_t *tile, unsigned dim, const uint16_t *weight,
                                        float unit, float *out)
{
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (unsigned t = 0; t < TILE; t++, tile += dim) {
        int8x16_t v = vld1q_s8(tile);
        int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
        int16_t w = (int16_t)weight[t];
        sum[0] = vmlal_n_s16(sum[0], vget_low_s16(low), w);
        sum[1] = vmlal_high_n_s16(sum[1], low, w);
        sum[2] = vmlal_n_s16(sum[2], vget_low_s16(high), w);
        sum[3] = vmlal_high_n_s16(sum[3], high, w);
    }
    for (unsigned j = 0; j < 4; j++, out += 4) {
        float32x4_t product = vmulq_n_f32(vcvtq_f32_s32(sum[j]), unit);
        vst1q_f32(out, vaddq_f32(vld1q_f32(out), product));
    }
}

TARGET static void accumulate(const tile_plan *p, const int8_t *tile,
                              const uint16_t (*weight)[TILE], const float *unit, unsigned n,
                              int wide, float *const *out)
{
    (void)wide;
    for (unsigned r = 0; r < n; r++)
        for (unsigned i = 0; i < p->head_dim; i += 16)
            accumulate_16(tile + i, p->head_dim, weight[r], unit[r], out[r] + i);
}

#define NEON_ATTEND_KERNELS                                                    \
    .expand_keys = expand_rows, .expand_values = expand_rows,                  \
    .accumulate = accumulate, GENERIC_ATTEND_KERNELS

/* NEON as every 64-bit Arm processor has it: 16-bit products, as on AVX2. */
#if defined(__aarch64__)
#define TARGET
#include "attend/arm/neon.h"

TARGET static void scores(const tile_plan *p, const int8_t *tile, const uint8_t *packed, unsigned n,
                   int wide, int32_t (*score)[TILE])
{
    (void)wide;
    for (unsigned r = 0; r < n; r++, packed += packed_query_bytes(p->head_dim)) {
        const int16_t *q = (const int16_t *)packed;
        const int8_t *level = tile;
        for (unsigned t = 0; t < TILE; t++, level += p->head_dim) {
            int32x4_t sum[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
            for (unsigned i = 0; i < p->head_dim; i += 16) {
                int8x16_t k = vld1q_s8(level + i);
                int16x8_t low = vmovl_s8(vget_low_s8(k)), high = vmovl_high_s8(k);
                int16x8_t a = vld1q_s16(q + i), b = vld1q_s16(q + i + 8);
                sum[0] = vmlal_s16(sum[0], vget_low_s16(low), vget_low_s16(a));
                sum[1] = vmlal_high_s16(sum[1], low, a);
                sum[0] = vmlal_s16(sum[0], vget_low_s16(high), vget_low_s16(b));
                sum[1] = vmlal_high_s16(sum[1], high, b);
            }
            score[r][t] = vaddvq_s32(vaddq_s32(sum[0], sum[1]));
        }
    }
}

const attend_kernels attend_neon = {
    .name = "neon",
    .scores = scores,
    NEON_ATTEND_KERNELS,
};
#else
typedef int not_for_this_processor;
#endif

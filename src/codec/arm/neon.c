/* NEON as every 64-bit Arm processor has it. */
#if defined(__aarch64__)
#define TARGET
#include "codec/arm/neon.h"

static inline int32x4_t squares(int32x4_t sum, int8x16_t v)
{
    int16x8_t low = vmull_s8(vget_low_s8(v), vget_low_s8(v)), high = vmull_high_s8(v, v);
    return vpadalq_s16(vpadalq_s16(sum, low), high);
}

const codec_kernels codec_neon = NEON_KERNELS("neon");
#else
typedef int not_for_this_processor;
#endif

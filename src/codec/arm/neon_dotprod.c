/* NEON with the dot product instructions of Armv8.2. */
#if defined(__aarch64__)
#if defined(__clang__)
#define TARGET __attribute__((target("dotprod")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#include "codec/arm/neon.h"

TARGET static inline int32x4_t squares(int32x4_t sum, int8x16_t v)
{
    return vdotq_s32(sum, v, v);
}

const codec_kernels codec_neon_dotprod = NEON_KERNELS("neon-dotprod");
#else
typedef int not_for_this_processor;
#endif

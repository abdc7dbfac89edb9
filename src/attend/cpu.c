#include "attend/kernels.h"

#if defined(__x86_64__) && !defined(TQKV_SCALAR_ONLY)
extern const attend_kernels attend_avx2, attend_avx512vbmi;
#elif defined(__aarch64__) && !defined(TQKV_SCALAR_ONLY)
extern const attend_kernels attend_neon, attend_neon_dotprod;
#endif

/* AVX-512 without VNNI has nothing better than AVX2's. */
const attend_isa attend_isas[] = {
    {0, &attend_scalar},
#if defined(__x86_64__) && !defined(TQKV_SCALAR_ONLY)
    {TQKV_CPU_AVX2, &attend_avx2},
    {TQKV_CPU_AVX2 | TQKV_CPU_AVX512 | TQKV_CPU_AVX512VBMI, &attend_avx512vbmi},
#elif defined(__aarch64__) && !defined(TQKV_SCALAR_ONLY)
    {TQKV_CPU_NEON, &attend_neon},
    {TQKV_CPU_NEON | TQKV_CPU_DOTPROD, &attend_neon_dotprod},
#endif
};
const unsigned attend_n_isas = sizeof attend_isas / sizeof *attend_isas;

const attend_kernels *attend_kernels_get(void)
{
    uint32_t features = tqkv_cpu_features();
    const attend_kernels *best = attend_isas[0].kernels;
    for (unsigned i = 1; i < attend_n_isas; i++)
        if ((attend_isas[i].needs & ~features) == 0)
            best = attend_isas[i].kernels;
    return best;
}

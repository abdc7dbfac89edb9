#include <stdatomic.h>

#include "codec/kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__) && !defined(TQKV_SCALAR_ONLY)
#include <cpuid.h>
extern const codec_kernels codec_avx2, codec_avx512, codec_avx512vbmi;
#elif defined(__aarch64__) && !defined(TQKV_SCALAR_ONLY)
extern const codec_kernels codec_neon, codec_neon_dotprod;
#endif

const codec_isa codec_isas[] = {
    {0, &codec_scalar},
#if defined(__x86_64__) && !defined(TQKV_SCALAR_ONLY)
    {TQKV_CPU_AVX2, &codec_avx2},
    {TQKV_CPU_AVX2 | TQKV_CPU_AVX512, &codec_avx512},
    {TQKV_CPU_AVX2 | TQKV_CPU_AVX512 | TQKV_CPU_AVX512VBMI, &codec_avx512vbmi},
#elif defined(__aarch64__) && !defined(TQKV_SCALAR_ONLY)
    {TQKV_CPU_NEON, &codec_neon},
    {TQKV_CPU_NEON | TQKV_CPU_DOTPROD, &codec_neon_dotprod},
#endif
};
const unsigned codec_n_isas = sizeof codec_isas / sizeof *codec_isas;

#if defined(__x86_64__) && !defined(TQKV_SCALAR_ONLY)
/* What __builtin_cpu_supports would say of "f16c", whose name clang does not know. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}
#endif

static uint32_t detect(void)
{
    uint32_t features = 0;
#if defined(__x86_64__) && !defined(TQKV_SCALAR_ONLY)
    __builtin_cpu_init(); /* also asks whether the system saves the registers */
    /* avx2 lets compilers use popcnt too */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("popcnt") && has_f16c())
        features |= TQKV_CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        features |= TQKV_CPU_AVX512;
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni"))
        features |= TQKV_CPU_AVX512VBMI;
#elif defined(__aarch64__) && !defined(TQKV_SCALAR_ONLY)
    features |= TQKV_CPU_NEON;
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & (1 << 20)) /* HWCAP_ASIMDDP */
        features |= TQKV_CPU_DOTPROD;
#endif
#endif
    return features;
}

/* Both are plain values whose only race is to compute the same thing twice. */
static _Atomic uint32_t detected, allowed = ~(uint32_t)0;
enum { KNOWN = 1u << 30 };

uint32_t tqkv_cpu_features(void)
{
    uint32_t features = atomic_load_explicit(&detected, memory_order_relaxed);
    if (!features) {
        features = detect() | KNOWN;
        atomic_store_explicit(&detected, features, memory_order_relaxed);
    }
    return features & ~(uint32_t)KNOWN &
           atomic_load_explicit(&allowed, memory_order_relaxed);
}

void tqkv_cpu_mask(uint32_t mask)
{
    atomic_store_explicit(&allowed, mask, memory_order_relaxed);
}

const codec_kernels *codec_kernels_get(void)
{
    uint32_t features = tqkv_cpu_features();
    const codec_kernels *best = codec_isas[0].kernels;
    for (unsigned i = 1; i < codec_n_isas; i++)
        if ((codec_isas[i].needs & ~features) == 0)
            best = codec_isas[i].kernels;
    return best;
}

const char *tqkv_isa_name(void)
{
    return codec_kernels_get()->name;
}

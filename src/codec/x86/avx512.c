/* AVX-512 F, BW, DQ and VL: the search and the rotation in vectors of 16. */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#include "codec/x86/avx512.h"

TARGET static inline vec vec_multiply_add(vec x, vec y, vec sum)
{
    return _mm512_add_epi32(_mm512_madd_epi16(x, y), sum);
}

#include "codec/viterbi_vector.h"

const codec_kernels codec_avx512 = AVX512_KERNELS("avx512", avx2_levels);
#else
typedef int not_for_this_processor;
#endif

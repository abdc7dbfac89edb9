/* AVX-512 F, BW, DQ and VL: the search and the rotation in vectors of 16. */
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#include "codec/x86/avx512.h"

#include "codec/viterbi_vector.h"

const codec_kernels codec_avx512 = AVX512_KERNELS("avx512", avx2_levels);
#else
typedef int not_for_this_processor;
#endif

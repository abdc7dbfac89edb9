/* The AVX2 kernels, where a higher instruction set has nothing better. */
#ifndef TQKV_CODEC_X86_AVX2_H
#define TQKV_CODEC_X86_AVX2_H

#include "codec/kernels.h"

void avx2_hadamard(float *x, const rotation *r, int transposed, float factor);
void avx2_moments(const float *x, unsigned n, float *sum_of_squares, float *peak);
void avx2_quantize(const float *x, unsigned n, float gain, int limit, int16_t *t);
void avx2_levels(const uint8_t *codes, const stream_plan *p, int8_t *out);
void avx2_scale_levels(const int8_t *in, unsigned n, float scale, float *dst);
void avx2_project_levels(const float *x, const int8_t *levels, unsigned n,
                         float *xl, int32_t *ll);
void avx2_lloyd_index(const float *x, unsigned n, float gain,
                      const lloyd_code *code, uint8_t *index, int32_t *tv,
                      int32_t *vv);
void avx2_pack_nibbles(const uint8_t *index, unsigned n, uint8_t *codes);
void avx2_lloyd_values(const int8_t *index, unsigned n, const lloyd_code *code,
                       float scale, float *dst);

#endif

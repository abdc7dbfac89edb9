/* CUDA C++ to machine code. */
#ifndef TQKV_GPU_CUDA_NVRTC_H
#define TQKV_GPU_CUDA_NVRTC_H

#include "gpu/gpu.h"

/* For compute capability major.minor. TQKV_ERROR_NO_DEVICE if there is no NVRTC. */
tqkv_status nvrtc_compile(int major, int minor, const program *p, binary *code, report *r);

#endif

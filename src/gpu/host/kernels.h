/* The kernels' text, compiled as C. */
#ifndef TQKV_GPU_HOST_KERNELS_H
#define TQKV_GPU_HOST_KERNELS_H

#include "tqkv_gpu.h"

typedef struct host_kernel {
    const char *name;
    tqkv_host_kernel run;
    uint32_t n_buffers;
} host_kernel;

extern const host_kernel host_kernels[]; /* ends with a null name */

#endif

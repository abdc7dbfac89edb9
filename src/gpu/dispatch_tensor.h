/* The kernel for tensor cores (kernels/attend_tensor.cu): where it serves, and its launch. */
#ifndef TQKV_GPU_DISPATCH_TENSOR_H
#define TQKV_GPU_DISPATCH_TENSOR_H

#include "gpu/dispatch.h"
#include "gpu/kernels/tensor_sizes.h"

/* How a case is compiled and launched. */
typedef struct tensor_plan {
    uint32_t block_rows; /* ROWS */
    tensor_case sizes;
    uint32_t n_blocks; /* of rows, of a KV head */
    uint32_t groups, blocks_of_head; /* of the launch; that share a head and block of rows, or 0 */
    uint64_t workspace; /* bytes */
} tensor_plan;

/* 1 if the kernel serves these shapes and formats on the device; then the plan is made. */
int tensor_plan_make(const tqkv_device *d, const tqkv_gpu_attention *a, tensor_plan *plan);

/* 1 if it serves these strides and addresses. Call with what check_attention passed. */
int tensor_layout_fits(const tqkv_gpu_attention *a);

/* Records the launch. TQKV_ERROR_NO_DEVICE: there is no compiler, use the other kernel. */
tqkv_status tensor_record(tqkv_encoder *e, tqkv_registry *registry, const tqkv_gpu_attention *a,
                          const tensor_plan *plan, tqkv_buffer *workspace);

#endif

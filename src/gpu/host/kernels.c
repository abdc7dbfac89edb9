#include "gpu/host/kernels.h"

#include <stddef.h>

#include "gpu/kernels/prelude_host.h"

/* One signature for all kernels, whatever they need of it. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-const-variable"

#include "gpu/kernels/all.c"

const host_kernel host_kernels[] = {
    {"tq_dequantize_kv", tq_dequantize_kv},
    {"tq_dequantize_hb_kv", tq_dequantize_hb_kv},
    {"mlx_dequantize_range", mlx_dequantize_range},
    {"hadamard_quantize_kv", hadamard_quantize_kv},
    {"requantize_to_f32_hb", requantize_to_f32_hb},
    {"decode_rows", decode_rows},
    {"decode_rows_original", decode_rows_original},
    {"encode_trellis", encode_trellis},
    {"encode_lloyd", encode_lloyd},
    {"encode_mlx", encode_mlx},
    {"prepare_queries", prepare_queries},
    {"attend_split", attend_split},
    {"merge_splits", merge_splits},
    {NULL, NULL},
};

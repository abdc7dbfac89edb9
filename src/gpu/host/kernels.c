#include "gpu/host/kernels.h"

#include <stddef.h>

#include "gpu/kernels/prelude_host.h"

/* One signature for all kernels, whatever they need of it. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-const-variable"

#include "gpu/kernels/all.c"

const host_kernel host_kernels[] = {
    {"tq_dequantize_kv", tq_dequantize_kv, 4},
    {"tq_dequantize_hb_kv", tq_dequantize_hb_kv, 4},
    {"mlx_dequantize_range", mlx_dequantize_range, 4},
    {"hadamard_quantize_kv", hadamard_quantize_kv, 4},
    {"requantize_to_f32_hb", requantize_to_f32_hb, 2},
    {"decode_rows", decode_rows, 4},
    {"decode_rows_original", decode_rows_original, 4},
    {"decode_rows_lanes", decode_rows_lanes, 4},
    {"encode_trellis", encode_trellis, 4},
    {"encode_narrow", encode_narrow, 4},
    {"encode_lloyd", encode_lloyd, 4},
    {"encode_lloyd_private", encode_lloyd_private, 4},
    {"encode_mlx", encode_mlx, 4},
    {"prepare_queries", prepare_queries, 4},
    {"attend_split", attend_split, 16},
    {"merge_splits", merge_splits, 4},
    {"merge_parts", merge_parts, 4},
    {"append_trellis", append_trellis, 9},
    {"append_lloyd", append_lloyd, 9},
    {"append_mlx", append_mlx, 9},
    {"seal_narrow", seal_narrow, 12},
    {"write_narrow", write_narrow, 12},
    {"pages_trellis", pages_trellis, 12},
    {"pages_lloyd", pages_lloyd, 12},
    {"pages_mlx", pages_mlx, 12},
    {"stage_rows", stage_rows, 8},
    {"read_pages_lanes", read_pages_lanes, 12},
    {"read_pages", read_pages, 12},
    {NULL, NULL, 0},
};

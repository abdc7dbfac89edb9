/* The kernels' text with Metal's prelude, compiled as C++: in place of
 * src/gpu/host/kernels.c. */
#include <metal_stdlib>

#include "gpu/kernels/prelude_metal.h"

#include "gpu/kernels/all.c"

extern "C" {
#include "gpu/host/kernels.h"
#include "standin_f16.h"
}

namespace metal {
half::half(float x) : bits(standin_f16_from_float(x))
{
}

half::operator float() const
{
    return standin_f16_to_float(bits);
}
} // namespace metal

namespace {
/* A buffer, of whatever type the kernel declares. */
struct any {
    void *p;
    template <typename T> operator T *() const
    {
        return static_cast<T *>(p);
    }
};
} // namespace

#define BEGIN(name)                                                                        \
    static void run_##name(const uint32_t *g, uint32_t item, uint32_t n, uint8_t *local,   \
                           const void *params, void *const *b)                             \
    {                                                                                      \
        uint3 group = {g[0], g[1], g[2]}, size = {n, 1, 1};                                \
        uint *memory = reinterpret_cast<uint *>(local);
#define P(type) *static_cast<type *>(const_cast<void *>(params)), memory, group, item, size
#define A(i) any{b[i]}
#define RUN2(name, type) BEGIN(name) name(A(0), A(1), P(type)); }
#define RUN4(name, type) BEGIN(name) name(A(0), A(1), A(2), A(3), P(type)); }
#define RUN16(name, type)                                                                  \
    BEGIN(name) name(A(0), A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11), \
                     A(12), A(13), A(14), A(15), P(type)); }
#define RUN8(name, type) \
    BEGIN(name) name(A(0), A(1), A(2), A(3), A(4), A(5), A(6), A(7), P(type)); }
#define RUN9(name, type) \
    BEGIN(name) name(A(0), A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), P(type)); }
#define RUN12(name, type)                                                                  \
    BEGIN(name)                                                                            \
        name(A(0), A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9), A(10), A(11),     \
             P(type));                                                                     \
    }

RUN4(tq_dequantize_kv, tq_dequantize_kv_params)
RUN4(tq_dequantize_hb_kv, tq_dequantize_hb_kv_params)
RUN4(mlx_dequantize_range, mlx_range_params)
RUN4(hadamard_quantize_kv, mlx_quantize_params)
RUN2(requantize_to_f32_hb, requantize_params)
RUN4(decode_rows, rows_params)
RUN4(decode_rows_lanes, rows_params)
RUN4(decode_rows_original, rows_params)
RUN4(encode_trellis, rows_params)
RUN4(encode_narrow, rows_params)
RUN4(encode_lloyd, rows_params)
RUN4(encode_mlx, rows_params)
RUN4(prepare_queries, query_params)
RUN16(attend_split, attend_params)
RUN4(merge_splits, merge_params)
RUN4(merge_parts, parts_params)
RUN9(append_trellis, append_params)
RUN9(append_lloyd, append_params)
RUN9(append_mlx, append_params)
RUN12(seal_narrow, pages_params)
RUN12(write_narrow, pages_params)
RUN12(pages_trellis, pages_params)
RUN12(pages_lloyd, pages_params)
RUN12(pages_mlx, pages_params)
RUN8(stage_rows, stage_params)
RUN12(read_pages_lanes, read_params)
RUN12(read_pages, read_params)

extern "C" const host_kernel host_kernels[] = {
    {"tq_dequantize_kv", run_tq_dequantize_kv, 4},
    {"tq_dequantize_hb_kv", run_tq_dequantize_hb_kv, 4},
    {"mlx_dequantize_range", run_mlx_dequantize_range, 4},
    {"hadamard_quantize_kv", run_hadamard_quantize_kv, 4},
    {"requantize_to_f32_hb", run_requantize_to_f32_hb, 2},
    {"decode_rows", run_decode_rows, 4},
    {"decode_rows_lanes", run_decode_rows_lanes, 4},
    {"decode_rows_original", run_decode_rows_original, 4},
    {"encode_trellis", run_encode_trellis, 4},
    {"encode_narrow", run_encode_narrow, 4},
    {"encode_lloyd", run_encode_lloyd, 4},
    {"encode_mlx", run_encode_mlx, 4},
    {"prepare_queries", run_prepare_queries, 4},
    {"attend_split", run_attend_split, 16},
    {"merge_splits", run_merge_splits, 4},
    {"merge_parts", run_merge_parts, 4},
    {"append_trellis", run_append_trellis, 9},
    {"append_lloyd", run_append_lloyd, 9},
    {"append_mlx", run_append_mlx, 9},
    {"seal_narrow", run_seal_narrow, 12},
    {"write_narrow", run_write_narrow, 12},
    {"pages_trellis", run_pages_trellis, 12},
    {"pages_lloyd", run_pages_lloyd, 12},
    {"pages_mlx", run_pages_mlx, 12},
    {"stage_rows", run_stage_rows, 8},
    {"read_pages_lanes", run_read_pages_lanes, 12},
    {"read_pages", run_read_pages, 12},
    {nullptr, nullptr, 0},
};

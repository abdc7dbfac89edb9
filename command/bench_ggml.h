/* ggml's functions, from shared libraries opened at run time. */
#ifndef TQKV_COMMAND_BENCH_GGML_H
#define TQKV_COMMAND_BENCH_GGML_H

#include <stddef.h>
#include <stdint.h>

struct ggml_context;
struct ggml_tensor;
struct ggml_cgraph;

/* As ggml.h declares it. */
typedef struct ggml_init_arguments {
    size_t mem_size;
    void *mem_buffer;
    _Bool no_alloc;
} ggml_init_arguments;

typedef struct ggml_peer {
    void *base, *cpu;
    /* What ggml's CPU backend does when a row enters a cache of that type. */
    void (*quantize_q4_0)(const float *x, void *y, int64_t n);
    void (*quantize_iq4_nl)(const float *x, void *y, int64_t n);
    /* The library's quantiser, which searches for a scale. */
    size_t (*search_iq4_nl)(const float *x, void *y, int64_t rows, int64_t n, const float *w);
    void (*dequantize_q4_0)(const void *x, float *y, int64_t n);
    /* Graphs. */
    struct ggml_context *(*init)(ggml_init_arguments arguments);
    void (*free)(struct ggml_context *context);
    struct ggml_tensor *(*new_tensor_4d)(struct ggml_context *context, int type, int64_t ne0,
                                         int64_t ne1, int64_t ne2, int64_t ne3);
    void *(*get_data)(const struct ggml_tensor *tensor);
    size_t (*quantize_chunk)(int type, const float *src, void *dst, int64_t start, int64_t n_rows,
                             int64_t n_per_row, const float *weights);
    struct ggml_tensor *(*flash_attn_ext)(struct ggml_context *context, struct ggml_tensor *q,
                                          struct ggml_tensor *k, struct ggml_tensor *v,
                                          struct ggml_tensor *mask, float scale, float max_bias,
                                          float softcap);
    struct ggml_cgraph *(*new_graph)(struct ggml_context *context);
    void (*build_forward_expand)(struct ggml_cgraph *graph, struct ggml_tensor *tensor);
    int (*compute)(struct ggml_context *context, struct ggml_cgraph *graph, int n_threads);
} ggml_peer;

/* From a folder with libggml-base.so and libggml-cpu.so; 0 with a message. */
int ggml_peer_open(ggml_peer *peer, const char *folder);

/* ---- attention ---- */

typedef struct ggml_type_info {
    const char *name;
    int number; /* as in ggml.h */
    unsigned block, block_bytes;
} ggml_type_info;

extern const ggml_type_info ggml_f16, ggml_q8_0, ggml_q4_0, ggml_iq4_nl;

static inline size_t ggml_row_bytes(const ggml_type_info *t, uint32_t n)
{
    return (size_t)n / t->block * t->block_bytes;
}

typedef struct ggml_attention {
    const ggml_peer *peer;
    struct ggml_context *context;
    struct ggml_cgraph *graph;
} ggml_attention;

/* Memory that such an attention needs. */
size_t ggml_attention_bytes(const ggml_type_info *type, uint32_t head_dim, uint32_t n_kv_heads,
                            uint32_t group, size_t n_tokens, uint32_t n_queries);

/* Attention from n_queries queries at the last of n_tokens positions over random
 * keys and values of a type, in memory that the caller owns; causal if there is
 * more than one query. queries as tqkv_attend takes them. 0 on failure. */
int ggml_attention_open(ggml_attention *a, const ggml_peer *peer, const ggml_type_info *type,
                        uint32_t head_dim, uint32_t n_kv_heads, uint32_t group, size_t n_tokens,
                        uint32_t n_queries, const float *queries, void *memory, size_t size);
void ggml_attention_run(ggml_attention *a, int n_threads);
void ggml_attention_close(ggml_attention *a);

#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_ggml.h"
#include "command.h"
#include "sample.h"

const ggml_type_info ggml_f16 = {"f16", 1, 1, 2};
const ggml_type_info ggml_q8_0 = {"q8_0", 8, 32, 34};
const ggml_type_info ggml_q4_0 = {"q4_0", 2, 32, 18};
const ggml_type_info ggml_iq4_nl = {"iq4_nl", 20, 32, 18};

enum { F32 = 0, F16 = 1, DISTINCT = 512 /* rows of different content */ };

size_t ggml_attention_bytes(const ggml_type_info *type, uint32_t head_dim, uint32_t n_kv_heads,
                            uint32_t group, size_t n_tokens, uint32_t n_queries)
{
    size_t rows = 2 * ggml_row_bytes(type, head_dim) * n_kv_heads * n_tokens;
    size_t queries = 2 * (size_t)n_queries * n_kv_heads * group * head_dim * sizeof(float);
    size_t mask = n_queries > 1 ? n_tokens * (n_queries + 63) / 64 * 64 * 2 : 0;
    /* and the graph, and what flash attention wants to work in */
    return rows + queries + mask + (256 << 20);
}

static int fill(const ggml_peer *peer, const ggml_type_info *type, uint32_t head_dim,
                uint32_t n_kv_heads, size_t n_tokens, uint64_t *seed, uint8_t *data)
{
    size_t row = ggml_row_bytes(type, head_dim), distinct = n_tokens < DISTINCT ? n_tokens
                                                                                : DISTINCT;
    float *x = allocate(distinct, head_dim * sizeof *x);
    if (!x)
        return 0;
    for (uint32_t h = 0; h < n_kv_heads; h++, data += n_tokens * row) {
        sample_gaussian(seed, x, distinct * head_dim);
        peer->quantize_chunk(type->number, x, data, 0, (int64_t)distinct, head_dim, NULL);
        for (size_t done = distinct; done < n_tokens; done += distinct)
            memcpy(data + done * row, data,
                   (n_tokens - done < distinct ? n_tokens - done : distinct) * row);
    }
    free(x);
    return 1;
}

/* [n_queries][heads][dim] to [heads][n_queries][dim]. */
static void turn_queries(const float *from, uint32_t n_queries, uint32_t n_heads, uint32_t dim,
                         float *to)
{
    for (size_t h = 0; h < n_heads; h++)
        for (size_t i = 0; i < n_queries; i++)
            memcpy(to + (h * n_queries + i) * dim, from + (i * n_heads + h) * dim,
                   dim * sizeof *to);
}

static void causal_mask(uint16_t *mask, size_t n_tokens, uint32_t n_queries, uint32_t rows)
{
    enum { MINUS_INFINITY = 0xFC00 };
    for (uint32_t i = 0; i < rows; i++)
        for (size_t t = 0; t < n_tokens; t++)
            mask[i * n_tokens + t] =
                i >= n_queries || t > n_tokens - n_queries + i ? MINUS_INFINITY : 0;
}

int ggml_attention_open(ggml_attention *a, const ggml_peer *peer, const ggml_type_info *type,
                        uint32_t head_dim, uint32_t n_kv_heads, uint32_t group, size_t n_tokens,
                        uint32_t n_queries, const float *queries, void *memory, size_t size)
{
    uint32_t n_heads = n_kv_heads * group;
    uint64_t seed = 3;
    a->peer = peer;
    a->context = peer->init((ggml_init_arguments){size, memory, 0});
    if (!a->context)
        return 0;
    struct ggml_tensor *q = peer->new_tensor_4d(a->context, F32, head_dim, n_queries, n_heads, 1);
    struct ggml_tensor *kv[2], *mask = NULL;
    for (int i = 0; i < 2; i++) {
        kv[i] = peer->new_tensor_4d(a->context, type->number, head_dim, (int64_t)n_tokens,
                                    n_kv_heads, 1);
        if (!fill(peer, type, head_dim, n_kv_heads, n_tokens, &seed, peer->get_data(kv[i])))
            return 0;
    }
    turn_queries(queries, n_queries, n_heads, head_dim, peer->get_data(q));
    if (n_queries > 1) {
        uint32_t rows = (n_queries + 63) / 64 * 64;
        mask = peer->new_tensor_4d(a->context, F16, (int64_t)n_tokens, rows, 1, 1);
        causal_mask(peer->get_data(mask), n_tokens, n_queries, rows);
    }
    struct ggml_tensor *out = peer->flash_attn_ext(a->context, q, kv[0], kv[1], mask,
                                                   1 / sqrtf((float)head_dim), 0, 0);
    a->graph = peer->new_graph(a->context);
    peer->build_forward_expand(a->graph, out);
    return 1;
}

void ggml_attention_run(ggml_attention *a, int n_threads)
{
    a->peer->compute(a->context, a->graph, n_threads);
}

void ggml_attention_close(ggml_attention *a)
{
    a->peer->free(a->context);
}

/* Models of random weights, small enough to be made by a test. */
#ifndef TQKV_TEST_TINY_MODEL_H
#define TQKV_TEST_TINY_MODEL_H

#include <math.h>
#include <stdio.h>

#include <gguf.h>

#include "ggml_case.h"

enum { TINY_VOCAB = 256, TINY_LAYERS = 4 };

typedef struct tiny_model {
    const char *architecture; /* llama, gemma2 (softcap, windows), mpt (ALiBi) */
    uint32_t head_dim, n_heads, n_kv_heads;
    int is_mixed; /* odd layers have half as many KV heads */
    enum ggml_type weights; /* of matrices; 0 is F32 */
} tiny_model;

typedef struct tiny_writer {
    struct ggml_context *context;
    struct gguf_context *file;
    uint64_t seed;
    enum ggml_type weights;
} tiny_writer;

/* Weights of rows that keep their inputs' size; norms around 1. */
static inline void tiny_tensor(tiny_writer *w, const char *name, int layer, int64_t in, int64_t out)
{
    char full[64];
    if (layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    enum ggml_type type = out ? w->weights : GGML_TYPE_F32;
    struct ggml_tensor *t = out ? ggml_new_tensor_2d(w->context, type, in, out)
                                : ggml_new_tensor_1d(w->context, type, in);
    int64_t n = ggml_nelements(t);
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = out ? random_normal(&w->seed) / sqrtf((float)in)
                   : 1 + .1f * random_normal(&w->seed);
    if (type == GGML_TYPE_F32)
        memcpy(t->data, x, (size_t)n * sizeof *x);
    else
        ggml_quantize_chunk(type, x, t->data, 0, n / in, in, NULL);
    free(x);
    ggml_set_name(t, full);
    gguf_add_tensor(w->file, t);
}

static inline uint32_t tiny_kv_heads(const tiny_model *m, int layer)
{
    return m->is_mixed && layer % 2 ? m->n_kv_heads / 2 : m->n_kv_heads;
}

static inline void tiny_layer(tiny_writer *w, const tiny_model *m, int i, uint32_t embd)
{
    uint32_t q = m->head_dim * m->n_heads, kv = m->head_dim * tiny_kv_heads(m, i);
    int is_mpt = !strcmp(m->architecture, "mpt"), is_gemma = !strcmp(m->architecture, "gemma2");
    tiny_tensor(w, "attn_norm.weight", i, embd, 0);
    tiny_tensor(w, "ffn_norm.weight", i, embd, 0);
    if (is_mpt) {
        tiny_tensor(w, "attn_qkv.weight", i, embd, q + 2 * kv);
    } else {
        tiny_tensor(w, "attn_q.weight", i, embd, q);
        tiny_tensor(w, "attn_k.weight", i, embd, kv);
        tiny_tensor(w, "attn_v.weight", i, embd, kv);
        tiny_tensor(w, "ffn_gate.weight", i, embd, 2 * embd);
    }
    tiny_tensor(w, "attn_output.weight", i, q, embd);
    tiny_tensor(w, "ffn_up.weight", i, embd, 2 * embd);
    tiny_tensor(w, "ffn_down.weight", i, 2 * embd, embd);
    if (is_gemma) {
        tiny_tensor(w, "post_attention_norm.weight", i, embd, 0);
        tiny_tensor(w, "post_ffw_norm.weight", i, embd, 0);
    }
}

static inline void tiny_keys(struct gguf_context *g, const tiny_model *m, uint32_t embd)
{
    char name[96];
    uint32_t kv_heads[TINY_LAYERS];
    for (int i = 0; i < TINY_LAYERS; i++)
        kv_heads[i] = tiny_kv_heads(m, i);
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {{"block_count", TINY_LAYERS}, {"context_length", 2048},
                   {"embedding_length", embd}, {"feed_forward_length", 2 * embd},
                   {"attention.head_count", m->n_heads}, {"attention.key_length", m->head_dim},
                   {"attention.value_length", m->head_dim}, {"vocab_size", TINY_VOCAB},
                   {"rope.dimension_count", m->head_dim}, {"attention.sliding_window", 24}};
    gguf_set_val_str(g, "general.architecture", m->architecture);
    gguf_set_val_str(g, "tokenizer.ggml.model", "no_vocab");
#define KEY(key) (snprintf(name, sizeof name, "%s.%s", m->architecture, key), name)
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        gguf_set_val_u32(g, KEY(numbers[i].key), numbers[i].value);
    gguf_set_arr_data(g, KEY("attention.head_count_kv"), GGUF_TYPE_UINT32, kv_heads, TINY_LAYERS);
    gguf_set_val_f32(g, KEY("attention.layer_norm_rms_epsilon"), 1e-5f);
    gguf_set_val_f32(g, KEY("attention.layer_norm_epsilon"), 1e-5f);
    gguf_set_val_f32(g, KEY("attn_logit_softcapping"), 10);
    gguf_set_val_f32(g, KEY("final_logit_softcapping"), 30);
    gguf_set_val_f32(g, KEY("attention.max_alibi_bias"), 8);
#undef KEY
}

static inline void tiny_write(const tiny_model *m, const char *path)
{
    uint32_t embd = m->head_dim * m->n_heads;
    struct ggml_init_params params = {.mem_size = (size_t)64 << 20};
    tiny_writer w = {ggml_init(params), gguf_init_empty(), 77, m->weights};
    tiny_keys(w.file, m, embd);
    tiny_tensor(&w, "token_embd.weight", -1, embd, TINY_VOCAB);
    tiny_tensor(&w, "output_norm.weight", -1, embd, 0);
    for (int i = 0; i < TINY_LAYERS; i++)
        tiny_layer(&w, m, i, embd);
    assert_true(gguf_write_to_file(w.file, path, false));
    gguf_free(w.file);
    ggml_free(w.context);
}

#endif

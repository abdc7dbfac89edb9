#include "arch_model.h"

#include <gguf.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ITEMS = 64, MAX_TEXT = 256 };

/* A sliding window that 150 tokens go beyond; a pattern of windows for every other
 * layer; the odd head counts of a hybrid's layers are the rows' own. */
static const char usual[] =
    "context_length=512;vocab_size=128;block_count=4;embedding_length=E;"
    "features_length=E;feed_forward_length=F;attention.head_count=H;"
    "attention.head_count_kv=K;attention.layer_norm_epsilon=1e-5;"
    "attention.layer_norm_rms_epsilon=1e-5;attention.group_norm_epsilon=1e-5;"
    "attention.group_norm_groups=8;attention.sliding_window=24;"
    "attention.sliding_window_pattern=2;rope.dimension_count=D;"
    "rope.dimension_sections=[D/8,D/8,D/8,D/8];leading_dense_block_count=1;"
    "full_attention_interval=2;use_parallel_residual=true;logit_scale=1.;"
    "ssm.conv_kernel=4;ssm.inner_size=E*2;ssm.state_size=64;ssm.time_step_rank=H;"
    "ssm.group_count=2;time_mix_extra_dim=32;time_decay_extra_dim=32;wkv.head_size=D;"
    "shortconv.l_cache=3;.tokenizer.ggml.model='no_vocab';";

typedef struct symbols {
    const char *arch;
    const arch_shape *shape;
    uint32_t n_layers, vocab;
} symbols;

/* ---- metadata ---- */

static uint64_t symbol(const symbols *s, char c)
{
    uint32_t embd = s->shape->head_dim * s->shape->n_heads;
    switch (c) {
    case 'E':
        return embd;
    case 'F':
        return embd + embd / 2;
    case 'H':
        return s->shape->n_heads;
    case 'K':
        return s->shape->n_kv_heads;
    case 'D':
        return s->shape->head_dim;
    case 'L':
        return s->n_layers;
    default:
        return s->vocab;
    }
}

static uint64_t whole(const symbols *s, const char *text, char **end)
{
    if (*text < 'A' || *text > 'Z')
        return strtoull(text, end, 10);
    uint64_t x = symbol(s, *text);
    *end = (char *)(uintptr_t)text + 1;
    if (**end == '*')
        return x * strtoull(*end + 1, end, 10);
    return **end == '/' ? x / strtoull(*end + 1, end, 10) : x;
}

static void set_list(struct gguf_context *g, const symbols *s, const char *key, const char *text)
{
    int is_long = *text == 'l';
    uint64_t wide[MAX_ITEMS];
    uint32_t narrow[MAX_ITEMS];
    size_t n = 0, given;
    char *end = (char *)(uintptr_t)text + is_long;
    do
        wide[n++] = whole(s, end + 1, &end);
    while (*end == ',' && n < MAX_ITEMS);
    given = n;
    if (*end == '.')
        for (n = 0; n < s->n_layers; n++)
            wide[n] = wide[n % given];
    for (size_t i = 0; i < n; i++)
        narrow[i] = (uint32_t)wide[i];
    if (is_long)
        gguf_set_arr_data(g, key, GGUF_TYPE_UINT64, wide, n);
    else
        gguf_set_arr_data(g, key, GGUF_TYPE_UINT32, narrow, n);
}

static void set_key(struct gguf_context *g, const symbols *s, const char *key, const char *text)
{
    char *end, string[MAX_TEXT];
    if (!*text)
        gguf_remove_key(g, key);
    else if (*text == '[' || (*text == 'l' && text[1] == '['))
        set_list(g, s, key, text);
    else if (!strcmp(text, "true") || !strcmp(text, "false"))
        gguf_set_val_bool(g, key, *text == 't');
    else if (*text == '\'') {
        snprintf(string, sizeof string, "%.*s", (int)strlen(text) - 2, text + 1);
        gguf_set_val_str(g, key, string);
    } else if (strpbrk(text, ".e"))
        gguf_set_val_f32(g, key, strtof(text, NULL));
    else
        gguf_set_val_u32(g, key, (uint32_t)whole(s, text, &end));
}

static void set_keys(struct gguf_context *g, const symbols *s, const char *items)
{
    while (items && *items) {
        char key[MAX_TEXT], value[MAX_TEXT];
        size_t name = strcspn(items, "="), length = strcspn(items + name + 1, ";");
        if (*items == '.')
            snprintf(key, sizeof key, "%.*s", (int)name - 1, items + 1);
        else
            snprintf(key, sizeof key, "%s.%.*s", s->arch, (int)name, items);
        snprintf(value, sizeof value, "%.*s", (int)length, items + name + 1);
        set_key(g, s, key, value);
        items += name + 1 + length;
        items += *items == ';';
    }
}

/* A number that the row gives, or else what is usual. */
static uint32_t given(const char *keys, const char *name, uint32_t otherwise)
{
    const char *at = keys ? strstr(keys, name) : NULL;
    return at ? (uint32_t)strtoul(at + strlen(name), NULL, 10) : otherwise;
}

/* ---- weights ---- */

static uint64_t seed_of(const char *name)
{
    uint64_t h = 14695981039346656037u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 1099511628211u;
    return h;
}

/* Between -1 and 1, of variance 1/3. */
static float random_signed(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 11) * 0x1p-52 - 1);
}

static int has(const char *name, const char *part)
{
    return strstr(name, part) != NULL;
}

static int ends(const char *name, const char *with)
{
    size_t n = strlen(name), m = strlen(with);
    return n >= m && !strcmp(name + n - m, with);
}

/* Queries and keys, whose products have to differ from token to token if a wrong
 * attention is to be seen in the logits. */
static int is_of_scores(const char *name)
{
    return has(name, "attn_q.") || has(name, "attn_k.") || has(name, "attn_qkv.") ||
           has(name, "attn_q_b.") || has(name, "attn_k_b.") || has(name, "attn_q_norm") ||
           has(name, "attn_k_norm");
}

/* Around which value, and how far from it, so that activations stay near 1. */
static void range_of(const struct ggml_tensor *t, float gain, float *middle, float *spread)
{
    const char *name = t->name;
    if (!is_of_scores(name))
        gain = 1;
    int is_vector = ggml_nelements(t) == t->ne[0] || ggml_nelements(t) == t->ne[1];
    *middle = 0;
    *spread = .1f;
    if (has(name, "ssm_a")) {
        *middle = -1; /* a state decays */
        *spread = .9f;
    } else if (has(name, "ssm_dt") && ends(name, ".bias")) {
        *middle = -1;
    } else if (ends(name, "bias") || has(name, "exp_probs_b")) {
        *spread = .3f;
    } else if (has(name, "norm") || ends(name, "scale") || has(name, "rope_f") ||
               has(name, "ssm_d") || has(name, "gamma") || has(name, "ffn.act")) {
        *middle = gain;
        *spread = .2f * gain;
    } else if (has(name, "sinks")) {
        *spread = 2;
    } else if (!is_vector && !has(name, "_embd")) {
        *spread = gain * sqrtf(3 / (float)t->ne[0]);
    } else if (!has(name, "_embd")) {
        *spread = .5f;
    }
}

static void set_weights(struct ggml_tensor *t, void *context)
{
    uint64_t state = seed_of(t->name);
    size_t n = (size_t)ggml_nelements(t);
    float middle, spread, *x = malloc(n * sizeof *x);
    if (!x)
        abort();
    range_of(t, *(const float *)context, &middle, &spread);
    for (size_t i = 0; i < n; i++)
        x[i] = middle + spread * random_signed(&state);
    if (t->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(t, x, 0, n * sizeof *x);
    } else if (t->type == GGML_TYPE_I32) { /* tables of tokens or experts: all the first */
        memset(x, 0, n * sizeof *x);
        ggml_backend_tensor_set(t, x, 0, n * sizeof *x);
    } else {
        fprintf(stderr, "%s has a type that this does not fill\n", t->name);
        abort();
    }
    free(x);
}

struct llama_model *arch_model_make(const arch_row *row, const arch_shape *shape)
{
    arch_shape own = *shape;
    if (row->flags & ARCH_ALL_HEADS_HAVE_KEYS)
        own.n_kv_heads = own.n_heads;
    symbols s = {row->name, &own, given(row->keys, "block_count=", 4),
                 given(row->keys, "vocab_size=", 128)};
    struct gguf_context *g = gguf_init_empty();
    gguf_set_val_str(g, "general.architecture", row->name);
    set_keys(g, &s, usual);
    set_keys(g, &s, row->keys);
    struct llama_model_params p = llama_model_default_params();
    float gain = row->gain > 0 ? row->gain : 1.5f;
    struct llama_model *m = llama_model_init_from_user(g, set_weights, &gain, p);
    gguf_free(g);
    return m;
}

/* A cache of one layer, a prompt, and the attention of one decoding step. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <tqkv_cache.h>

enum { HEADS = 32, KV_HEADS = 8, DIM = 128, PROMPT = 1000 };

static float noise(void)
{
    return (float)rand() / RAND_MAX - .5f;
}

static tqkv_status decode_step(tqkv_sequence *sequence, const tqkv_cache *cache,
                               const float *query, float *out)
{
    size_t bytes = 0;
    tqkv_attention a = {
        .n_queries = 1, .queries = query, .position = tqkv_sequence_length(sequence, 0) - 1,
        .causal = 1, .scale = 1 / sqrtf(DIM)};
    tqkv_partial result = {.out = out};
    tqkv_status status = tqkv_cache_workspace(cache, 0, 1, NULL, &bytes);
    if (status != TQKV_OK)
        return status;
    void *workspace = malloc(bytes);
    if (!workspace)
        return TQKV_ERROR_MEMORY;
    status = tqkv_sequence_attend(sequence, 0, &a, &result, NULL, workspace, bytes);
    free(workspace);
    return status;
}

int main(void)
{
    static float keys[PROMPT * KV_HEADS * DIM], values[PROMPT * KV_HEADS * DIM];
    static float query[HEADS * DIM], out[HEADS * DIM];
    tqkv_layer layer = {.n_heads = HEADS, .n_kv_heads = KV_HEADS};
    tqkv_status status = tqkv_format_parse("tq4", DIM, &layer.keys);
    layer.values = layer.keys;
    tqkv_cache_config config = {.layers = &layer, .n_layers = 1, .capacity = 4096,
                                .n_recent = 32};
    for (int i = 0; i < PROMPT * KV_HEADS * DIM; i++) {
        keys[i] = noise();
        values[i] = noise();
    }
    for (int i = 0; i < HEADS * DIM; i++)
        query[i] = noise();
    tqkv_cache *cache = NULL;
    tqkv_sequence *sequence = NULL;
    if (status == TQKV_OK)
        status = tqkv_cache_create(&config, &cache);
    if (status == TQKV_OK)
        status = tqkv_sequence_create(cache, &sequence);
    if (status == TQKV_OK)
        status = tqkv_sequence_append(sequence, 0, keys, values, NULL, TQKV_F32, PROMPT);
    if (status == TQKV_OK)
        status = decode_step(sequence, cache, query, out);
    if (status == TQKV_OK)
        printf("%d tokens, %.0f bytes a token instead of %d\n", PROMPT,
               tqkv_cache_token_bytes(cache), 2 * KV_HEADS * DIM * 2);
    else
        fprintf(stderr, "attend: %s\n", tqkv_status_string(status));
    tqkv_sequence_free(sequence);
    tqkv_cache_free(cache);
    return status != TQKV_OK;
}

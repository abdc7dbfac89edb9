#include "eval_cache.h"

#include <math.h>
#include <stdlib.h>

#include "command.h"
#include "tqkv_cache.h"

static int report(tqkv_status status)
{
    return status == TQKV_OK || !failed("the cache: %s", tqkv_status_string(status));
}

static tqkv_status create(const capture *c, const tqkv_format *keys, const tqkv_format *values,
                          const tqkv_profile *profile, int page_means, tqkv_cache **cache)
{
    tqkv_layer *layers = calloc((size_t)c->n_layers, sizeof *layers);
    if (!layers)
        return TQKV_ERROR_MEMORY;
    for (uint32_t i = 0; i < c->n_layers; i++)
        layers[i] = (tqkv_layer){.n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads,
                                 .keys = *keys, .values = *values, .profile = profile,
                                 .profile_layer = i};
    tqkv_cache_config config = {.layers = layers, .n_layers = (uint32_t)c->n_layers,
                                .capacity = (size_t)c->n_tokens, .page_means = page_means};
    tqkv_status status = tqkv_cache_create(&config, cache);
    free(layers);
    return status;
}

static tqkv_status append(tqkv_sequence *s, const capture *c)
{
    tqkv_status status = TQKV_OK;
    size_t rows = (size_t)c->n_tokens * c->n_kv_heads;
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++) {
        progress("encoding", i, c->n_layers);
        status = tqkv_sequence_append(s, i, c->keys + i * rows * c->head_dim,
                                      c->values + i * rows * c->v_head_dim, NULL, TQKV_F32,
                                      (size_t)c->n_tokens);
    }
    return status;
}

/* One query position of one layer; row is [n_heads][v_head_dim]. */
static tqkv_status attend(tqkv_sequence *s, const capture *c, uint32_t layer, uint64_t position,
                          float *row, void *workspace, size_t bytes)
{
    tqkv_executor one = {1, NULL, NULL};
    tqkv_partial result = {row, NULL, NULL};
    tqkv_attention a = {
        .n_queries = 1, .position = position, .causal = 1,
        .scale = 1 / sqrtf((float)c->head_dim),
        .queries = c->queries + (layer * c->n_tokens + position) * c->n_heads * c->head_dim};
    return tqkv_sequence_attend(s, layer, &a, &result, &one, workspace, bytes);
}

static tqkv_status attend_all(attention *a, const capture *c, tqkv_cache *cache,
                              tqkv_sequence *s)
{
    tqkv_executor one = {1, NULL, NULL};
    size_t bytes, dim = c->v_head_dim;
    tqkv_status status = tqkv_cache_workspace(cache, 0, 1, &one, &bytes);
    void *workspace = status == TQKV_OK ? malloc(bytes) : NULL;
    float *row = malloc(c->n_heads * dim * sizeof *row);
    if (status == TQKV_OK && (!workspace || !row))
        status = TQKV_ERROR_MEMORY;
    for (uint32_t layer = 0; status == TQKV_OK && layer < c->n_layers; layer++)
        for (uint64_t q = 0; status == TQKV_OK && q < a->n_queries; q++) {
            status = attend(s, c, layer, attention_position(a, c, q), row, workspace, bytes);
            for (uint64_t h = 0; status == TQKV_OK && h < c->n_heads; h++) {
                size_t at = (size_t)((layer * c->n_heads + h) * a->n_queries + q) * dim;
                for (size_t d = 0; d < dim; d++)
                    a->outputs[at + d] = row[h * dim + d];
            }
        }
    free(workspace);
    free(row);
    return status;
}

int cache_attention(attention *a, const capture *c, const tqkv_format *keys,
                    const tqkv_format *values, const tqkv_profile *profile, int page_means,
                    cache_run *run)
{
    tqkv_cache *cache = NULL;
    tqkv_sequence *s = NULL;
    tqkv_status status = create(c, keys, values, profile, page_means, &cache);
    if (status == TQKV_OK)
        status = tqkv_sequence_create(cache, &s);
    if (status == TQKV_OK)
        status = append(s, c);
    double start = seconds();
    if (status == TQKV_OK)
        status = attend_all(a, c, cache, s);
    run->seconds = seconds() - start;
    run->token_bytes = tqkv_cache_token_bytes(cache);
    tqkv_sequence_free(s);
    tqkv_cache_free(cache);
    return report(status);
}

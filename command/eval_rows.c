#include "eval_rows.h"

#include <math.h>
#include <stdlib.h>

#include "command.h"
#include "tqkv_cache.h"

/* ---- pages ---- */

typedef struct page_trip {
    tqkv_page page;
    const float *balance;
    size_t stride; /* floats from row to row */
} page_trip;

/* Up to 64 rows of one head. */
static tqkv_status trip(const page_trip *p, const float *src, float *dst, size_t n, span *time)
{
    uint64_t present = n < TQKV_PAGE_TOKENS ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
    double start = seconds();
    tqkv_status status = tqkv_page_seal(&p->page, p->balance, src, TQKV_F32, p->stride, present);
    double between = seconds();
    if (status == TQKV_OK)
        status = tqkv_page_read(&p->page, p->balance, 0, n, TQKV_ORIGINAL, dst, p->stride);
    time->encode_seconds += between - start;
    time->decode_seconds += seconds() - between;
    time->values += (double)(n * p->page.format.head_dim);
    return status;
}

int pages_round_trip(const capture *c, const tqkv_format *f, const tqkv_profile *balance,
                     int has_means, const float *src, float *dst, span *time)
{
    size_t dim = f->head_dim, stride = (size_t)c->n_kv_heads * dim, bytes = 0;
    tqkv_status status = tqkv_page_bytes(f, has_means ? 1 : 0, &bytes);
    uint8_t *memory = status == TQKV_OK ? allocate(bytes, 1) : NULL;
    if (!memory)
        return status == TQKV_OK ? 0 : !failed("%s", tqkv_status_string(status));
    page_trip p = {.stride = stride};
    tqkv_page_at(f, has_means ? 1 : 0, memory, &p.page);
    for (uint64_t i = 0; status == TQKV_OK && i < c->n_layers * c->n_kv_heads; i++) {
        uint64_t layer = i / c->n_kv_heads, head = i % c->n_kv_heads;
        if (balance)
            tqkv_profile_balance(balance, (uint32_t)layer, (uint32_t)head, &p.balance);
        for (uint64_t t = 0; status == TQKV_OK && t < c->n_tokens; t += TQKV_PAGE_TOKENS) {
            size_t at = (size_t)((layer * c->n_tokens + t) * stride + head * dim);
            uint64_t left = c->n_tokens - t;
            status = trip(&p, src + at, dst + at,
                          left < TQKV_PAGE_TOKENS ? (size_t)left : TQKV_PAGE_TOKENS, time);
        }
    }
    free(memory);
    return status == TQKV_OK || !failed("pages: %s", tqkv_status_string(status));
}

/* ---- the cache ---- */

static int report(tqkv_status status)
{
    return status == TQKV_OK || !failed("the cache: %s", tqkv_status_string(status));
}

static tqkv_status create(const capture *c, const tqkv_format *keys, const tqkv_format *values,
                          const tqkv_profile *balance, int has_means, tqkv_cache **cache)
{
    tqkv_layer *layers = calloc((size_t)c->n_layers, sizeof *layers);
    if (!layers)
        return TQKV_ERROR_MEMORY;
    for (uint32_t i = 0; i < c->n_layers; i++)
        layers[i] = (tqkv_layer){.n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads,
                                 .keys = *keys, .values = *values, .profile = balance,
                                 .profile_layer = i};
    tqkv_cache_config config = {.layers = layers, .n_layers = (uint32_t)c->n_layers,
                                .capacity = (size_t)c->n_tokens, .no_means = !has_means};
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

/* Rows that wait for their page to be full are in f16. */
static double bytes_of(const capture *c, const tqkv_cache *cache)
{
    double sealed = (double)(c->n_tokens / TQKV_PAGE_TOKENS * TQKV_PAGE_TOKENS);
    double half = 2.0 * (c->head_dim + c->v_head_dim) * (double)(c->n_layers * c->n_kv_heads);
    double n = (double)c->n_tokens;
    return (sealed * tqkv_cache_token_bytes(cache) + (n - sealed) * half) / n;
}

static double units_of(const attention *a, const capture *c)
{
    double tokens = 0;
    for (uint64_t q = 0; q < a->n_queries; q++)
        tokens += (double)attention_position(a, c, q) + 1;
    return tokens * (double)(c->n_layers * c->n_heads);
}

int cache_attention(attention *a, const capture *c, const tqkv_format *keys,
                    const tqkv_format *values, const tqkv_profile *balance, int has_means,
                    cache_run *run)
{
    tqkv_cache *cache = NULL;
    tqkv_sequence *s = NULL;
    tqkv_status status = create(c, keys, values, balance, has_means, &cache);
    if (status == TQKV_OK)
        status = tqkv_sequence_create(cache, &s);
    if (status == TQKV_OK)
        status = append(s, c);
    double start = seconds();
    if (status == TQKV_OK)
        status = attend_all(a, c, cache, s);
    run->seconds = seconds() - start;
    run->token_bytes = bytes_of(c, cache);
    run->units = units_of(a, c);
    tqkv_sequence_free(s);
    tqkv_cache_free(cache);
    return report(status);
}

#include "cache/cache.h"

#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "format/format.h"

/* ---- counted memory ---- */

int cache_count(tqkv_cache *c, size_t bytes)
{
    size_t now = atomic_load(&c->memory), then;
    do {
        if (!size_add(now, bytes, &then) || (c->memory_limit && then > c->memory_limit))
            return 0;
    } while (!atomic_compare_exchange_weak(&c->memory, &now, then));
    return 1;
}

void cache_uncount(tqkv_cache *c, size_t bytes)
{
    atomic_fetch_sub(&c->memory, bytes);
}

void *cache_allocate(tqkv_cache *c, size_t count, size_t size)
{
    size_t bytes;
    if (!size_multiply(count ? count : 1, size, &bytes) || !cache_count(c, bytes))
        return NULL;
    void *memory = calloc(1, bytes);
    if (!memory)
        cache_uncount(c, bytes);
    return memory;
}

void cache_release(tqkv_cache *c, void *memory, size_t count, size_t size)
{
    if (!memory)
        return;
    cache_uncount(c, (count ? count : 1) * size);
    free(memory);
}

/* ---- layers ---- */

static tqkv_status check_layer(const tqkv_layer *l, const tqkv_cache_config *config)
{
    tqkv_status status = tqkv_format_check(&l->keys);
    if (status == TQKV_OK)
        status = tqkv_format_check(&l->values);
    if (status != TQKV_OK)
        return status;
    if (!l->n_kv_heads || !l->n_heads || l->n_heads % l->n_kv_heads || l->n_heads > 65536)
        return TQKV_ERROR_ARGUMENT;
    if (l->profile && (l->profile_layer >= tqkv_profile_n_layers(l->profile) ||
                       tqkv_profile_n_heads(l->profile) != l->n_kv_heads ||
                       tqkv_profile_head_dim(l->profile) != l->keys.head_dim))
        return TQKV_ERROR_PROFILE;
    return config->fit_centres > 256 ? TQKV_ERROR_ARGUMENT : TQKV_OK;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t align_64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static void lay_out_page(cache_layer *l, int has_means)
{
    page_layout *p = &l->layout;
    const tqkv_format *k = &l->shape.keys, *v = &l->shape.values;
    p->key_codes = 0;
    p->key_scales = align_64(PAGE_TOKENS * format_code_bytes(k));
    p->key_centres = p->key_scales + PAGE_TOKENS * format_scale_bytes(k);
    p->means = p->key_centres + (l->n_centres > 1 ? PAGE_TOKENS : 0);
    p->value_codes = align_64(p->means + (has_means ? 2u * k->head_dim : 0));
    p->value_scales = p->value_codes + align_64(PAGE_TOKENS * format_code_bytes(v));
    p->head_bytes = align_64(p->value_scales + PAGE_TOKENS * format_scale_bytes(v));
}

/* Pages that a sequence's codes take: all tokens', or those that a window and
 * the tokens to be taken back reach, wherever in a page they begin. */
static tqkv_status count_slots(const tqkv_cache_config *config, cache_layer *l)
{
    size_t tokens = config->capacity, window;
    if (l->shape.window && size_add((size_t)l->shape.window, config->rollback, &window) &&
        window < tokens)
        tokens = window;
    size_t slots = (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS + 1;
    if (slots >= NO_PAGE / 2)
        return TQKV_ERROR_OVERFLOW;
    l->n_slots = (uint32_t)slots;
    return TQKV_OK;
}

/* Floats of one head's profile. */
static size_t profile_floats(const cache_layer *l)
{
    return (1 + (size_t)l->n_centres) * l->shape.keys.head_dim;
}

static tqkv_status create_profiles(tqkv_cache *c, cache_layer *l, const tqkv_layer *shape)
{
    uint32_t heads = shape->n_kv_heads, dim = shape->keys.head_dim;
    l->profiles = cache_allocate(c, heads, sizeof *l->profiles);
    l->profile_floats = cache_allocate(c, heads * profile_floats(l), sizeof(float));
    if (l->fit_tokens)
        l->query_squares = cache_allocate(c, (size_t)heads * dim, sizeof(double));
    if (!l->profiles || !l->profile_floats || (l->fit_tokens && !l->query_squares))
        return TQKV_ERROR_MEMORY;
    for (uint32_t h = 0; h < heads; h++) {
        float *floats = l->profile_floats + h * profile_floats(l);
        tqkv_key_profile p;
        l->profiles[h] = (tqkv_key_profile){dim, l->n_centres, floats, floats + dim};
        for (uint32_t i = 0; i < dim; i++)
            floats[i] = 1;
        if (!shape->profile)
            continue;
        tqkv_profile_get(shape->profile, shape->profile_layer, h, &p);
        memcpy(floats, p.balance, dim * sizeof *floats);
        if (!c->page_means) /* they stand in the centres' place */
            memcpy(floats + dim, p.centres, (size_t)l->n_centres * dim * sizeof *floats);
    }
    return TQKV_OK;
}

static tqkv_status create_layer(tqkv_cache *c, cache_layer *l, const tqkv_cache_config *config,
                                const tqkv_layer *shape)
{
    tqkv_status status = check_layer(shape, config);
    size_t page_bytes, pages, fit = shape->profile ? 0 : config->fit_tokens;
    if (status != TQKV_OK)
        return status;
    l->shape = *shape;
    l->shape.profile = NULL;
    l->n_first = shape->window ? 0 : least(config->n_first, config->capacity);
    l->fit_tokens = least(fit, config->capacity);
    l->n_centres = 1;
    if (!config->page_means && shape->profile)
        l->n_centres = tqkv_profile_n_centres(shape->profile);
    else if (!config->page_means && fit && config->fit_centres)
        l->n_centres = config->fit_centres;
    /* The tail holds what stays in f16, what waits for a page to fill up or for
     * a profile, and a page's worth on its way. */
    size_t waiting = c->n_recent + PAGE_TOKENS, halves;
    l->n_tail = (waiting > l->fit_tokens ? waiting : l->fit_tokens) + PAGE_TOKENS;
    if (!size_multiply(l->n_tail, 2 * token_values(l), &halves) ||
        !size_multiply(l->n_first, 2 * token_values(l), &halves))
        return TQKV_ERROR_OVERFLOW;
    status = count_slots(config, l);
    if (status != TQKV_OK)
        return status;
    lay_out_page(l, config->page_means);
    uint32_t sequences = config->n_sequences ? config->n_sequences : 1;
    if (!size_multiply(l->layout.head_bytes, shape->n_kv_heads, &page_bytes) ||
        !size_multiply(l->n_slots, sequences, &pages) || pages >= NO_PAGE)
        return TQKV_ERROR_OVERFLOW;
    if (shape->profile || fit)
        status = create_profiles(c, l, shape);
    if (status == TQKV_OK)
        status = pool_create(c, &l->pool, page_bytes, (uint32_t)pages, config->up_front);
    atomic_init(&l->is_ready, !l->fit_tokens);
    return status;
}

static void free_layer(tqkv_cache *c, cache_layer *l)
{
    uint32_t heads = l->shape.n_kv_heads, dim = l->shape.keys.head_dim;
    pool_free(c, &l->pool);
    cache_release(c, l->profiles, heads, sizeof *l->profiles);
    cache_release(c, l->profile_floats, heads * profile_floats(l), sizeof(float));
    cache_release(c, l->query_squares, (size_t)heads * dim, sizeof(double));
}

/* ---- caches ---- */

tqkv_status tqkv_cache_create(const tqkv_cache_config *config, tqkv_cache **cache)
{
    if (!config || !cache || !config->layers || !config->n_layers || !config->capacity ||
        config->n_layers > 65536 || config->capacity > SIZE_MAX / 8)
        return TQKV_ERROR_ARGUMENT;
    size_t length = config->fingerprint ? strlen(config->fingerprint) : 0;
    if (length > TQKV_MAX_FINGERPRINT)
        return TQKV_ERROR_ARGUMENT;
    tqkv_cache *c = calloc(1, sizeof *c);
    if (!c)
        return TQKV_ERROR_MEMORY;
    if (pthread_mutex_init(&c->lock, NULL)) {
        free(c);
        return TQKV_ERROR_MEMORY;
    }
    atomic_init(&c->memory, sizeof *c);
    c->memory_limit = config->memory_limit;
    c->capacity = config->capacity;
    c->n_recent = least(config->n_recent, config->capacity);
    c->page_means = !!config->page_means;
    c->fit_centres = config->fit_centres ? config->fit_centres : 1;
    c->fit_seed = config->fit_seed;
    if (length)
        memcpy(c->fingerprint, config->fingerprint, length);
    c->n_layers = config->n_layers;
    c->layers = cache_allocate(c, c->n_layers, sizeof *c->layers);
    tqkv_status status = c->layers ? TQKV_OK : TQKV_ERROR_MEMORY;
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++)
        status = create_layer(c, &c->layers[i], config, &config->layers[i]);
    if (status != TQKV_OK) {
        tqkv_cache_free(c);
        return status;
    }
    *cache = c;
    return TQKV_OK;
}

void tqkv_cache_free(tqkv_cache *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; c->layers && i < c->n_layers; i++)
        free_layer(c, &c->layers[i]);
    cache_release(c, c->layers, c->n_layers, sizeof *c->layers);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

size_t tqkv_cache_memory(const tqkv_cache *c)
{
    return c ? atomic_load(&((tqkv_cache *)c)->memory) : 0;
}

double tqkv_cache_token_bytes(const tqkv_cache *c)
{
    double bytes = 0;
    for (uint32_t i = 0; c && i < c->n_layers; i++) {
        const cache_layer *l = &c->layers[i];
        const tqkv_format *k = &l->shape.keys, *v = &l->shape.values;
        double row = (double)(format_code_bytes(k) + format_scale_bytes(k) +
                              format_code_bytes(v) + format_scale_bytes(v)) +
                     (l->n_centres > 1);
        if (c->page_means)
            row += 2.0 * k->head_dim / PAGE_TOKENS;
        bytes += l->shape.n_kv_heads * row;
    }
    return bytes;
}

#include "cache/cache.h"

#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "format/format.h"
#include "page/page.h"

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

static tqkv_status check_layer(const tqkv_layer *l)
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
    return TQKV_OK;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Codes and scales of keys, then of values. Both parts of 64 rows are multiples of 64 bytes,
 * so that rows of codes lie within as few cache lines as they can. */
static void lay_out_codes(const cache_layer *l, page_layout *p, uint32_t n_means)
{
    size_t body = 0, means = 0;
    p->n_means = n_means;
    for (int kind = KEYS; kind < N_OPERANDS; kind++) {
        const tqkv_format *f = format_of(l, (operand_kind)kind);
        p->codes[kind] = body;
        body += PAGE_TOKENS * format_code_bytes(f);
        p->scales[kind] = body;
        body += PAGE_TOKENS * format_scale_bytes(f);
        p->means[kind] = means;
        means += n_means * mean_bytes(f->head_dim);
        p->numbers[kind] = means;
        means += n_means > 1 ? NUMBER_BYTES : 0;
    }
    p->head_bytes[BODY] = body;
    p->head_bytes[MEANS] = means;
}

static void lay_out_pages(cache_layer *l, int has_means)
{
    page_layout *staged = &l->layouts[STAGED];
    size_t keys = PAGE_TOKENS * sizeof(uint16_t) * l->shape.keys.head_dim;
    lay_out_codes(l, &l->layouts[SEALED], has_means ? 1 : 0);
    lay_out_codes(l, &l->layouts[MIXED], has_means ? TQKV_MAX_MEANS : 0);
    staged->codes[VALUES] = keys;
    staged->head_bytes[BODY] = keys + PAGE_TOKENS * sizeof(uint16_t) * l->shape.values.head_dim;
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

static tqkv_status create_balances(tqkv_cache *c, cache_layer *l, const tqkv_layer *shape)
{
    uint32_t heads = shape->n_kv_heads, dim = shape->keys.head_dim;
    l->balances = cache_allocate(c, (size_t)heads * dim, sizeof *l->balances);
    if (l->fit_tokens)
        l->query_squares = cache_allocate(c, (size_t)heads * dim, sizeof(double));
    if (!l->balances || (l->fit_tokens && !l->query_squares))
        return TQKV_ERROR_MEMORY;
    for (size_t i = 0; i < (size_t)heads * dim; i++)
        l->balances[i] = 1;
    const float *given;
    if (tqkv_profile_balance(shape->profile, shape->profile_layer, 0, &given) == TQKV_OK)
        memcpy(l->balances, given, (size_t)heads * dim * sizeof *given);
    return TQKV_OK;
}

/* Slots of staged pages: the tail holds what stays in f16, what waits for a page to fill up
 * or for a profile, and a page's worth on its way. */
static tqkv_status count_staged(const tqkv_cache *c, cache_layer *l)
{
    size_t waiting = c->n_recent + PAGE_TOKENS;
    l->n_tail = (waiting > l->fit_tokens ? waiting : l->fit_tokens) + PAGE_TOKENS;
    if (pages_for(l->n_tail) + pages_for(l->n_first) >= NO_PAGE / 4)
        return TQKV_ERROR_OVERFLOW;
    l->n_tail_slots = (uint32_t)pages_for(l->n_tail) + 1;
    l->n_first_slots = (uint32_t)pages_for(l->n_first);
    return TQKV_OK;
}

/* Addresses for as many staged pages as there can be sealed ones beside every sequence's own:
 * many short sequences take a page each. */
static tqkv_status create_pools(tqkv_cache *c, cache_layer *l, uint32_t n_sequences, int up_front)
{
    size_t heads = l->shape.n_kv_heads, each = (size_t)l->n_first_slots + l->n_tail_slots;
    size_t counts[N_PAGE_KINDS], own, bytes;
    if (!size_multiply(l->n_slots, n_sequences, &counts[SEALED]) ||
        !size_multiply(each, n_sequences, &own) || !size_add(own, counts[SEALED], &counts[STAGED]))
        return TQKV_ERROR_OVERFLOW;
    counts[MIXED] = counts[SEALED];
    const uint32_t made[N_PAGE_KINDS] = {[SEALED] = (uint32_t)counts[SEALED],
                                         [STAGED] = (uint32_t)own};
    for (int kind = 0; kind < N_PAGE_KINDS; kind++) {
        const page_layout *p = &l->layouts[kind];
        if (counts[kind] >= TQKV_PAGE_MIXED || !size_multiply(p->head_bytes[BODY], heads, &bytes))
            return TQKV_ERROR_OVERFLOW;
        tqkv_status status = pool_create(c, &l->pools[kind], bytes, heads * p->head_bytes[MEANS],
                                         (uint32_t)counts[kind], up_front ? made[kind] : 0);
        if (status != TQKV_OK)
            return status;
    }
    return TQKV_OK;
}

static tqkv_status create_layer(tqkv_cache *c, cache_layer *l, const tqkv_cache_config *config,
                                const tqkv_layer *shape)
{
    tqkv_status status = check_layer(shape);
    size_t fit = shape->profile ? 0 : config->fit_tokens;
    if (status != TQKV_OK)
        return status;
    l->shape = *shape;
    l->shape.profile = NULL;
    l->n_first = shape->window ? 0 : least(config->n_first, config->capacity);
    l->fit_tokens = least(fit, config->capacity);
    lay_out_pages(l, c->has_means);
    status = count_staged(c, l);
    if (status == TQKV_OK)
        status = count_slots(config, l);
    if (status == TQKV_OK && (shape->profile || fit))
        status = create_balances(c, l, shape);
    if (status == TQKV_OK)
        status = create_pools(c, l, config->n_sequences ? config->n_sequences : 1,
                              config->up_front);
    atomic_init(&l->is_ready, !l->fit_tokens);
    return status;
}

static void free_layer(tqkv_cache *c, cache_layer *l)
{
    size_t values = (size_t)l->shape.n_kv_heads * l->shape.keys.head_dim;
    for (int kind = 0; kind < N_PAGE_KINDS; kind++)
        pool_free(c, &l->pools[kind]);
    cache_release(c, l->balances, values, sizeof *l->balances);
    cache_release(c, l->query_squares, values, sizeof(double));
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
    c->has_means = !config->no_means;
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
                              format_code_bytes(v) + format_scale_bytes(v));
        if (c->has_means)
            row += (double)(mean_bytes(k->head_dim) + mean_bytes(v->head_dim)) / PAGE_TOKENS;
        bytes += l->shape.n_kv_heads * row;
    }
    return bytes;
}

#include <string.h>

#include "cache/cache.h"

/* ---- making and ending ---- */

static tqkv_status create_layer(tqkv_cache *c, const cache_layer *l, sequence_layer *s)
{
    s->coded = s->kept = l->n_first;
    s->table = cache_allocate(c, l->n_slots, sizeof *s->table);
    for (uint32_t i = 0; s->table && i < l->n_slots; i++)
        s->table[i] = NO_PAGE;
    s->first = cache_allocate(c, l->n_first * token_values(l), sizeof *s->first);
    s->tail = cache_allocate(c, l->n_tail * token_values(l), sizeof *s->tail);
    return s->table && s->first && s->tail ? TQKV_OK : TQKV_ERROR_MEMORY;
}

static void free_layer(tqkv_cache *c, cache_layer *l, sequence_layer *s)
{
    if (s->table) {
        s->kept = l->n_first;
        layer_drop_pages(c, l, s, 0);
    }
    cache_release(c, s->table, l->n_slots, sizeof *s->table);
    cache_release(c, s->first, l->n_first * token_values(l), sizeof *s->first);
    cache_release(c, s->tail, l->n_tail * token_values(l), sizeof *s->tail);
}

static void size_scratch(const tqkv_cache *c, tqkv_sequence *s)
{
    uint32_t dim = 0, heads = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const tqkv_layer *l = &c->layers[i].shape;
        dim = l->keys.head_dim > dim ? l->keys.head_dim : dim;
        dim = l->values.head_dim > dim ? l->values.head_dim : dim;
        heads = l->n_kv_heads > heads ? l->n_kv_heads : heads;
    }
    s->head_floats = (size_t)dim * PAGE_TOKENS;
    s->scratch_floats = s->head_floats * heads;
}

tqkv_status tqkv_sequence_create(tqkv_cache *c, tqkv_sequence **sequence)
{
    if (!c || !sequence)
        return TQKV_ERROR_ARGUMENT;
    tqkv_sequence *s = cache_allocate(c, 1, sizeof *s);
    if (!s)
        return TQKV_ERROR_MEMORY;
    s->cache = c;
    if (pthread_rwlock_init(&s->lock, NULL)) {
        cache_release(c, s, 1, sizeof *s);
        return TQKV_ERROR_MEMORY;
    }
    size_scratch(c, s);
    s->scratch = cache_allocate(c, s->scratch_floats, sizeof *s->scratch);
    s->layers = cache_allocate(c, c->n_layers, sizeof *s->layers);
    tqkv_status status = s->layers && s->scratch ? TQKV_OK : TQKV_ERROR_MEMORY;
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++)
        status = create_layer(c, &c->layers[i], &s->layers[i]);
    if (status != TQKV_OK) {
        tqkv_sequence_free(s);
        return status;
    }
    *sequence = s;
    return TQKV_OK;
}

void tqkv_sequence_free(tqkv_sequence *s)
{
    if (!s)
        return;
    tqkv_cache *c = s->cache;
    for (uint32_t i = 0; s->layers && i < c->n_layers; i++)
        free_layer(c, &c->layers[i], &s->layers[i]);
    cache_release(c, s->layers, c->n_layers, sizeof *s->layers);
    cache_release(c, s->scratch, s->scratch_floats, sizeof *s->scratch);
    pthread_rwlock_destroy(&s->lock);
    cache_release(c, s, 1, sizeof *s);
}

/* ---- forks ---- */

static void share_layer(tqkv_cache *c, cache_layer *l, const sequence_layer *from,
                        sequence_layer *to)
{
    size_t token = token_values(l) * sizeof *to->tail;
    to->length = from->length;
    to->coded = from->coded;
    to->kept = from->kept;
    to->offset = from->offset;
    memcpy(to->first, from->first, l->n_first * token);
    memcpy(to->tail, from->tail, l->n_tail * token);
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < l->n_slots; i++) {
        to->table[i] = from->table[i];
        if (to->table[i] != NO_PAGE)
            pool_share(&l->pool, to->table[i]);
    }
    pthread_mutex_unlock(&c->lock);
}

tqkv_status tqkv_sequence_fork(tqkv_sequence *sequence, tqkv_sequence **fork)
{
    tqkv_sequence *s;
    if (!sequence || !fork)
        return TQKV_ERROR_ARGUMENT;
    tqkv_cache *c = sequence->cache;
    tqkv_status status = tqkv_sequence_create(c, &s);
    if (status != TQKV_OK)
        return status;
    pthread_rwlock_rdlock(&sequence->lock);
    for (uint32_t i = 0; i < c->n_layers; i++)
        share_layer(c, &c->layers[i], &sequence->layers[i], &s->layers[i]);
    pthread_rwlock_unlock(&sequence->lock);
    *fork = s;
    return TQKV_OK;
}

/* ---- length ---- */

size_t tqkv_sequence_length(tqkv_sequence *s, uint32_t layer)
{
    if (!s || layer >= s->cache->n_layers)
        return 0;
    pthread_rwlock_rdlock(&s->lock);
    size_t length = s->layers[layer].length;
    pthread_rwlock_unlock(&s->lock);
    return length;
}

/* Whether the window of the last of n tokens is all there. */
static int reaches_back(const cache_layer *l, const sequence_layer *s, size_t n)
{
    size_t window = (size_t)l->shape.window;
    return !window || s->kept <= (n > window ? n - window : 0) || n == 0;
}

static void truncate_layer(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t n)
{
    if (n >= s->length)
        return;
    s->length = n;
    if (n == 0) {
        s->kept = s->coded = l->n_first;
        s->offset = 0;
    }
    if (n < s->coded)
        s->coded = n > l->n_first ? n : l->n_first;
    if (s->kept > s->coded)
        s->kept = s->coded;
    layer_drop_pages(c, l, s, s->coded);
}

tqkv_status tqkv_sequence_truncate(tqkv_sequence *s, size_t n_tokens)
{
    if (!s)
        return TQKV_ERROR_ARGUMENT;
    tqkv_cache *c = s->cache;
    tqkv_status status = TQKV_OK;
    pthread_rwlock_wrlock(&s->lock);
    for (uint32_t i = 0; i < c->n_layers; i++)
        if (n_tokens < s->layers[i].length &&
            !reaches_back(&c->layers[i], &s->layers[i], n_tokens))
            status = TQKV_ERROR_GONE;
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++)
        truncate_layer(c, &c->layers[i], &s->layers[i], n_tokens);
    pthread_rwlock_unlock(&s->lock);
    return status;
}

tqkv_status tqkv_sequence_clear(tqkv_sequence *s)
{
    return tqkv_sequence_truncate(s, 0);
}

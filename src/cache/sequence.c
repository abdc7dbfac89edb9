#include <string.h>

#include "cache/cache.h"

/* ---- making and ending ---- */

static uint32_t *create_table(tqkv_cache *c, uint32_t n)
{
    uint32_t *table = cache_allocate(c, n, sizeof *table);
    for (uint32_t i = 0; table && i < n; i++)
        table[i] = NO_PAGE;
    return table;
}

static tqkv_status create_layer(tqkv_cache *c, const cache_layer *l, sequence_layer *s)
{
    s->coded = s->kept = l->n_first;
    s->offset = empty_offset(l);
    s->sealed = create_table(c, l->n_slots);
    s->first = create_table(c, l->n_first_slots);
    s->tail = create_table(c, l->n_tail_slots);
    return s->sealed && s->first && s->tail ? TQKV_OK : TQKV_ERROR_MEMORY;
}

static void free_layer(tqkv_cache *c, cache_layer *l, sequence_layer *s)
{
    layer_drop_all(c, l, s);
    cache_release(c, s->sealed, l->n_slots, sizeof *s->sealed);
    cache_release(c, s->first, l->n_first_slots, sizeof *s->first);
    cache_release(c, s->tail, l->n_tail_slots, sizeof *s->tail);
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
    to->length = from->length;
    to->coded = from->coded;
    to->kept = from->kept;
    to->offset = from->offset;
    layer_share_pages(c, l, from, to);
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
        s->offset = empty_offset(l);
    }
    if (n < s->coded)
        s->coded = n > l->n_first ? n : l->n_first;
    if (s->kept > s->coded)
        s->kept = s->coded;
    layer_drop_pages(c, l, s);
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

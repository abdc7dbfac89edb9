#include <string.h>

#include "cache/cache.h"
#include "common/f16.h"
#include "format/format.h"

uint32_t *layer_page(const cache_layer *l, const sequence_layer *s, size_t token)
{
    return &s->table[(token + s->offset) / PAGE_TOKENS % l->n_slots];
}

static uint8_t *page_head(const cache_layer *l, const sequence_layer *s, uint32_t head,
                          size_t token)
{
    return l->pool.memory + *layer_page(l, s, token) * l->pool.page_bytes +
           head * l->layout.head_bytes;
}

tqkv_rows layer_row(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                    uint32_t head, size_t token)
{
    const page_layout *p = &l->layout;
    const tqkv_format *f = kind == KEYS ? &l->shape.keys : &l->shape.values;
    size_t code = format_code_bytes(f), scale = format_scale_bytes(f);
    size_t place = (token + s->offset) % PAGE_TOKENS;
    uint8_t *base = page_head(l, s, head, token);
    tqkv_rows r = {.codes = base + (kind == KEYS ? p->key_codes : p->value_codes) + place * code,
                   .scales = base + (kind == KEYS ? p->key_scales : p->value_scales) +
                             place * scale,
                   .code_stride = code, .scale_stride = scale};
    if (kind == KEYS && l->n_centres > 1) {
        r.centres = base + p->key_centres + place;
        r.centre_stride = 1;
    }
    return r;
}

uint16_t *layer_mean(const cache_layer *l, const sequence_layer *s, uint32_t head, size_t token)
{
    return (uint16_t *)(page_head(l, s, head, token) + l->layout.means);
}

uint16_t *layer_half(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                     uint32_t head, size_t token)
{
    int is_first = token < l->n_first;
    uint16_t *base = is_first ? s->first : s->tail;
    size_t slot = is_first ? token : (token + s->offset) % l->n_tail;
    size_t keys = (size_t)l->shape.n_kv_heads * l->shape.keys.head_dim;
    return base + slot * token_values(l) + (kind == KEYS ? 0 : keys) +
           (size_t)head * head_dim_of(l, kind);
}

void to_halves(const float *x, size_t n, uint16_t *half)
{
    for (size_t i = 0; i < n; i++) {
        float y = x[i] > F16_MAX ? F16_MAX : x[i] < -F16_MAX ? -F16_MAX : x[i];
        half[i] = f16_from_f32(y == y ? y : 0);
    }
}

/* The profile of one head, with the page's mean in place of a centre. */
static const tqkv_key_profile *head_profile(const cache_layer *l, const sequence_layer *s,
                                            int has_means, uint32_t head, size_t token,
                                            tqkv_key_profile *own, float *floats)
{
    if (!has_means)
        return l->profiles ? &l->profiles[head] : NULL;
    uint32_t dim = l->shape.keys.head_dim;
    for (uint32_t i = 0; i < dim; i++)
        floats[i] = l->profiles ? l->profiles[head].balance[i] : 1;
    tqkv_to_f32(layer_mean(l, s, head, token), TQKV_F16, dim, floats + dim);
    *own = (tqkv_key_profile){dim, 1, floats, floats + dim};
    return own;
}

void layer_read(const cache_layer *l, const sequence_layer *s, int has_means, operand_kind kind,
                uint32_t head, size_t token, float *x)
{
    uint32_t dim = head_dim_of(l, kind);
    if (!is_coded(s, token)) {
        tqkv_to_f32(layer_half(l, s, kind, head, token), TQKV_F16, dim, x);
        return;
    }
    float floats[2 * TQKV_MAX_HEAD_DIM];
    tqkv_key_profile own;
    tqkv_rows row = layer_row(l, s, kind, head, token);
    if (kind == VALUES)
        tqkv_decode(&l->shape.values, NULL, &row, 1, TQKV_ORIGINAL, x, 0);
    else
        tqkv_decode(&l->shape.keys, head_profile(l, s, has_means, head, token, &own, floats),
                    &row, 1, TQKV_ORIGINAL, x, 0);
}

/* The mean of the balanced keys, in f16. */
static void set_mean(const cache_layer *l, const sequence_layer *s, uint32_t head, size_t first,
                     size_t n, const float *x)
{
    float mean[TQKV_MAX_HEAD_DIM];
    uint32_t dim = l->shape.keys.head_dim;
    for (uint32_t i = 0; i < dim; i++) {
        double sum = 0;
        for (size_t t = 0; t < n; t++)
            sum += x[t * dim + i];
        mean[i] = (float)(sum / (double)n);
        if (l->profiles)
            mean[i] *= l->profiles[head].balance[i];
    }
    to_halves(mean, dim, layer_mean(l, s, head, first));
}

void layer_encode_keys(const cache_layer *l, const sequence_layer *s, int has_means,
                       uint32_t head, size_t first, size_t n, const float *x, int new_mean)
{
    float floats[2 * TQKV_MAX_HEAD_DIM];
    tqkv_key_profile own;
    if (has_means && new_mean)
        set_mean(l, s, head, first, n, x);
    tqkv_rows rows = layer_row(l, s, KEYS, head, first);
    tqkv_encode(&l->shape.keys, head_profile(l, s, has_means, head, first, &own, floats), x,
                TQKV_F32, 0, n, &rows);
}

void layer_encode_values(const cache_layer *l, const sequence_layer *s, uint32_t head,
                         size_t first, size_t n, const float *x)
{
    tqkv_rows rows = layer_row(l, s, VALUES, head, first);
    tqkv_encode(&l->shape.values, NULL, x, TQKV_F32, 0, n, &rows);
}

/* ---- pages ---- */

/* Gives a slot a page of its own, with what it held; one must be free. */
static void own_page(page_pool *p, uint32_t *slot)
{
    if (*slot != NO_PAGE && p->users[*slot] == 1)
        return;
    uint32_t page = pool_take(p);
    if (*slot != NO_PAGE) {
        memcpy(p->memory + page * p->page_bytes, p->memory + *slot * p->page_bytes,
               p->page_bytes);
        pool_drop(p, *slot);
    } else {
        memset(p->memory + page * p->page_bytes, 0, p->page_bytes);
    }
    *slot = page;
}

/* Pages that this needs anew. */
static size_t pages_wanted(const cache_layer *l, const sequence_layer *s, size_t first, size_t end)
{
    size_t wanted = 0;
    for (size_t t = first; t < end; t += PAGE_TOKENS - (t + s->offset) % PAGE_TOKENS) {
        uint32_t page = *layer_page(l, s, t);
        wanted += page == NO_PAGE || l->pool.users[page] > 1;
    }
    return wanted;
}

tqkv_status layer_own_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t first,
                            size_t end)
{
    page_pool *p = &l->pool;
    tqkv_status status = TQKV_OK;
    if (first >= end)
        return status;
    /* of more pages than there are slots, the last ones stay */
    size_t reach = (size_t)l->n_slots * PAGE_TOKENS, last = (end - 1 + s->offset) % PAGE_TOKENS;
    if (end - first > reach - PAGE_TOKENS + last + 1)
        first = end - (reach - PAGE_TOKENS + last + 1);
    pthread_mutex_lock(&c->lock);
    /* All of them first: nothing is copied before it is sure. */
    if (!pool_has(c, p, pages_wanted(l, s, first, end)))
        status = TQKV_ERROR_MEMORY;
    for (size_t t = first; status == TQKV_OK && t < end;
         t += PAGE_TOKENS - (t + s->offset) % PAGE_TOKENS)
        own_page(p, layer_page(l, s, t));
    pthread_mutex_unlock(&c->lock);
    return status;
}

void layer_drop_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t end)
{
    size_t first_page = (s->kept + s->offset) / PAGE_TOKENS;
    size_t end_page = end > s->kept ? (end + s->offset + PAGE_TOKENS - 1) / PAGE_TOKENS
                                    : first_page;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < l->n_slots; i++) {
        /* the page in slot i that is not before the first */
        size_t page = first_page + (i + l->n_slots - first_page % l->n_slots) % l->n_slots;
        if (page >= end_page && s->table[i] != NO_PAGE) {
            pool_drop(&l->pool, s->table[i]);
            s->table[i] = NO_PAGE;
        }
    }
    pthread_mutex_unlock(&c->lock);
}

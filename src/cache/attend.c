#include <string.h>

#include "cache/cache.h"
#include "format/format.h"

/* Plain f16 rows: [slot][keys of all heads, values of all heads]. */
static void set_halves(const cache_layer *l, const uint16_t *memory, tqkv_tokens *set)
{
    size_t token = token_values(l) * sizeof *memory;
    size_t keys = (size_t)l->shape.n_kv_heads * l->shape.keys.head_dim;
    set->keys.type = set->values.type = TQKV_F16;
    set->keys.format.head_dim = l->shape.keys.head_dim;
    set->values.format.head_dim = l->shape.values.head_dim;
    set->keys.rows = (tqkv_rows){.codes = (uint8_t *)memory, .code_stride = token};
    set->values.rows = (tqkv_rows){.codes = memory ? (uint8_t *)(memory + keys) : NULL,
                                   .code_stride = token};
    set->keys.head.codes = 2u * l->shape.keys.head_dim;
    set->values.head.codes = 2u * l->shape.values.head_dim;
}

static tqkv_rows page_rows(const cache_layer *l, const tqkv_format *f, size_t codes, size_t scales)
{
    return (tqkv_rows){.codes = l->pool.memory + codes, .scales = l->pool.memory + scales,
                       .code_stride = format_code_bytes(f),
                       .scale_stride = format_scale_bytes(f)};
}

static void set_codes(const cache_layer *l, const sequence_layer *s, int has_means,
                      tqkv_tokens *set)
{
    const page_layout *p = &l->layout;
    size_t head = p->head_bytes, page = l->pool.page_bytes;
    tqkv_operand *k = &set->keys, *v = &set->values;
    k->format = l->shape.keys;
    v->format = l->shape.values;
    k->rows = page_rows(l, &k->format, p->key_codes, p->key_scales);
    v->rows = page_rows(l, &v->format, p->value_codes, p->value_scales);
    if (l->n_centres > 1) {
        k->rows.centres = l->pool.memory + p->key_centres;
        k->rows.centre_stride = 1;
    }
    k->head = v->head = (tqkv_strides){head, head, head};
    k->page = v->page = (tqkv_strides){page, page, page};
    k->profiles = l->profiles;
    if (has_means) {
        k->means = (const uint16_t *)(l->pool.memory + p->means);
        k->mean_page_stride = page / sizeof *k->means;
        k->mean_head_stride = head / sizeof *k->means;
    }
    set->pages = s->table;
    set->page_size = PAGE_TOKENS;
    set->n_pages = l->pool.n_pages;
    set->capacity = (size_t)l->n_slots * PAGE_TOKENS;
}

size_t layer_sets(const cache_layer *l, const sequence_layer *s, const tqkv_cache *c,
                  tqkv_tokens *sets)
{
    size_t n = 0, first = first_tokens(l, s->length);
    size_t tail = tail_tokens(s->length, s->coded);
    if (first) {
        sets[n] = (tqkv_tokens){.n_tokens = first};
        set_halves(l, s->first, &sets[n++]);
    }
    if (s->coded > s->kept) {
        sets[n] = (tqkv_tokens){.n_tokens = s->coded - s->kept, .position = s->kept};
        set_codes(l, s, c->page_means, &sets[n]);
        sets[n].first_slot = (s->kept + s->offset) % sets[n].capacity;
        n++;
    }
    if (tail) {
        sets[n] = (tqkv_tokens){.n_tokens = tail, .position = s->coded,
                                .first_slot = (s->coded + s->offset) % l->n_tail,
                                .capacity = l->n_tail};
        set_halves(l, s->tail, &sets[n++]);
    }
    if (!n) {
        sets[n] = (tqkv_tokens){0};
        set_halves(l, s->tail, &sets[n++]);
    }
    return n;
}

/* The mask's columns are positions; the first set's first may be a later one. */
static const void *mask_from(const tqkv_attention *a, uint64_t position)
{
    size_t element = a->mask_type == TQKV_F32 ? sizeof(float) : sizeof(uint16_t);
    return a->mask ? (const uint8_t *)a->mask + position * element : NULL;
}

static void fill(const cache_layer *l, const tqkv_attention *from, const tqkv_tokens *sets,
                 size_t n_sets, tqkv_attention *a)
{
    *a = *from;
    a->n_heads = l->shape.n_heads;
    a->n_kv_heads = l->shape.n_kv_heads;
    a->window = l->shape.window;
    a->sets = sets;
    a->n_sets = n_sets;
    a->mask = mask_from(from, sets[0].position);
}

tqkv_status tqkv_sequence_attend(tqkv_sequence *sequence, uint32_t layer, const tqkv_attention *a,
                                 const tqkv_partial *result, const tqkv_executor *executor,
                                 void *workspace, size_t workspace_size)
{
    tqkv_attention filled;
    tqkv_tokens sets[3];
    if (!sequence || !a || layer >= sequence->cache->n_layers)
        return TQKV_ERROR_ARGUMENT;
    const tqkv_cache *c = sequence->cache;
    const cache_layer *l = &c->layers[layer];
    pthread_rwlock_rdlock(&sequence->lock);
    size_t n = layer_sets(l, &sequence->layers[layer], c, sets);
    fill(l, a, sets, n, &filled);
    tqkv_status status = tqkv_attend(&filled, result, executor, workspace, workspace_size);
    pthread_rwlock_unlock(&sequence->lock);
    return status;
}

/* The most a layer can need is with all kinds of tokens, the most of them, and a
 * mask for each head: workspaces grow with the number of tokens, in whichever set. */
tqkv_status tqkv_cache_workspace(const tqkv_cache *c, uint32_t layer, uint32_t n_queries,
                                 const tqkv_executor *executor, size_t *bytes)
{
    tqkv_attention filled, a = {.n_queries = n_queries, .mask_head_stride = 1};
    tqkv_tokens sets[3] = {{0}};
    if (!c || layer >= c->n_layers || !bytes)
        return TQKV_ERROR_ARGUMENT;
    const cache_layer *l = &c->layers[layer];
    sequence_layer s = {0};
    set_halves(l, NULL, &sets[0]);
    set_codes(l, &s, c->page_means, &sets[1]);
    set_halves(l, NULL, &sets[2]);
    sets[2].n_tokens = c->capacity;
    fill(l, &a, sets, 3, &filled);
    return tqkv_attend_workspace(&filled, executor, bytes);
}

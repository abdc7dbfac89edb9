#include <string.h>

#include "cache/cache.h"
#include "format/format.h"

/* Keys or values in the pages of one kind. */
static tqkv_operand operand_of(const cache_layer *l, page_kind which, operand_kind kind)
{
    const page_layout *p = &l->layouts[which];
    const page_memory *body = &l->pools[which].part[BODY], *means = &l->pools[which].part[MEANS];
    const tqkv_format *f = format_of(l, kind);
    size_t head = p->head_bytes[BODY], head_means = p->head_bytes[MEANS];
    tqkv_operand o = {.head = {head, head, head_means, head_means},
                      .page = {body->page_bytes, body->page_bytes, means->page_bytes,
                               means->page_bytes}};
    o.rows.codes = body->base + p->codes[kind];
    if (which == STAGED) {
        o.format.head_dim = f->head_dim;
        o.type = TQKV_F16;
        o.rows.code_stride = sizeof(uint16_t) * f->head_dim;
        return o;
    }
    o.format = *f;
    o.rows.scales = body->base + p->scales[kind];
    o.rows.code_stride = format_code_bytes(f);
    o.rows.scale_stride = format_scale_bytes(f);
    o.n_means = p->n_means;
    if (p->n_means)
        o.means = means->base + p->means[kind];
    if (p->n_means > 1)
        o.numbers = means->base + p->numbers[kind];
    return o;
}

/* Tokens in the pages of one kind, numbered in a table of n_slots. */
static tqkv_tokens tokens_in(const cache_layer *l, page_kind which, const uint32_t *table,
                             uint32_t n_slots)
{
    return (tqkv_tokens){.pages = table, .page_size = PAGE_TOKENS,
                         .n_pages = l->pools[which].n_pages,
                         .capacity = (size_t)n_slots * PAGE_TOKENS,
                         .keys = operand_of(l, which, KEYS),
                         .values = operand_of(l, which, VALUES)};
}

static tqkv_tokens coded_tokens(const cache_layer *l, const sequence_layer *s,
                                tqkv_page_kind *mixed)
{
    tqkv_tokens set = tokens_in(l, SEALED, s->sealed, l->n_slots);
    set.keys.balances = l->balances;
    if (l->layouts[MIXED].n_means) {
        *mixed = (tqkv_page_kind){operand_of(l, MIXED, KEYS), operand_of(l, MIXED, VALUES),
                                  l->pools[MIXED].n_pages};
        set.mixed = mixed;
    }
    return set;
}

size_t layer_sets(const cache_layer *l, const sequence_layer *s, tqkv_tokens *sets,
                  tqkv_page_kind *mixed)
{
    size_t n = 0, first = first_tokens(l, s->length);
    size_t tail = tail_tokens(s->length, s->coded);
    if (first) {
        sets[n] = tokens_in(l, STAGED, s->first, l->n_first_slots);
        sets[n++].n_tokens = first;
    }
    if (s->coded > s->kept) {
        sets[n] = coded_tokens(l, s, mixed);
        sets[n].n_tokens = s->coded - s->kept;
        sets[n].position = s->kept;
        sets[n].first_slot = (s->kept + s->offset) % sets[n].capacity;
        n++;
    }
    if (tail || !n) {
        sets[n] = tokens_in(l, STAGED, s->tail, l->n_tail_slots);
        sets[n].n_tokens = tail;
        sets[n].position = s->coded;
        sets[n].first_slot = (s->coded + s->offset) % sets[n].capacity;
        n++;
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
    tqkv_tokens sets[MOST_SETS];
    tqkv_page_kind mixed;
    if (!sequence || !a || layer >= sequence->cache->n_layers)
        return TQKV_ERROR_ARGUMENT;
    const cache_layer *l = &sequence->cache->layers[layer];
    pthread_rwlock_rdlock(&sequence->lock);
    size_t n = layer_sets(l, &sequence->layers[layer], sets, &mixed);
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
    tqkv_tokens sets[MOST_SETS];
    tqkv_page_kind mixed;
    if (!c || layer >= c->n_layers || !bytes)
        return TQKV_ERROR_ARGUMENT;
    const cache_layer *l = &c->layers[layer];
    sequence_layer s = {0};
    sets[0] = tokens_in(l, STAGED, NULL, l->n_first_slots);
    sets[1] = coded_tokens(l, &s, &mixed);
    sets[2] = tokens_in(l, STAGED, NULL, l->n_tail_slots);
    sets[2].n_tokens = sets[2].capacity = c->capacity;
    fill(l, &a, sets, MOST_SETS, &filled);
    return tqkv_attend_workspace(&filled, executor, bytes);
}

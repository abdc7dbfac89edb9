#include <string.h>

#include "cache/cache.h"

page_kind entry_kind(uint32_t entry)
{
    return entry & TQKV_PAGE_MIXED ? MIXED : SEALED;
}

/* ---- owning ---- */

static void copy_page(const page_pool *p, uint32_t from, uint32_t to)
{
    for (int part = 0; part < N_PAGE_PARTS; part++)
        if (p->part[part].page_bytes)
            memcpy(pool_page(p, (page_part)part, to), pool_page(p, (page_part)part, from),
                   p->part[part].page_bytes);
}

static void clear_page(const page_pool *p, uint32_t page)
{
    for (int part = 0; part < N_PAGE_PARTS; part++)
        if (p->part[part].page_bytes)
            memset(pool_page(p, (page_part)part, page), 0, p->part[part].page_bytes);
}

/* Whether the entry's page is missing or not its own. */
static int is_wanted(const page_pool *p, uint32_t entry)
{
    return entry == NO_PAGE || p->users[entry_page(entry)] > 1;
}

/* Gives an entry a page of its own, with what it held; one must be free. */
static void own_page(page_pool *p, uint32_t *entry, uint32_t kind_bits)
{
    if (!is_wanted(p, *entry))
        return;
    uint32_t page = pool_take(p);
    if (*entry != NO_PAGE) {
        copy_page(p, entry_page(*entry), page);
        pool_drop(p, entry_page(*entry));
    } else {
        clear_page(p, page);
    }
    *entry = page | kind_bits;
}

/* The tokens of a table with n_slots entries that can be there at once: of more pages
 * than that the last ones stay. */
static size_t last_pages(const sequence_layer *s, size_t first, size_t end, uint32_t n_slots)
{
    size_t reach = ((size_t)n_slots - 1) * PAGE_TOKENS + page_place(s, end - 1) + 1;
    return end - first > reach ? end - reach : first;
}

typedef uint32_t *entry_function(const cache_layer *l, const sequence_layer *s, size_t token);

static uint32_t *first_entry(const cache_layer *l, const sequence_layer *s, size_t token)
{
    (void)l;
    return &s->first[token / PAGE_TOKENS];
}

/* Visits the entries of tokens [first, end); place: of token 0 in its page. */
#define FOR_PAGES(t, first, end, place)                                                        \
    for (size_t t = (first); t < (end); t += PAGE_TOKENS - (t + (place)) % PAGE_TOKENS)

static size_t count_wanted(const cache_layer *l, const sequence_layer *s, entry_function *entry,
                           page_kind kind, size_t first, size_t end, size_t place)
{
    size_t wanted = 0;
    FOR_PAGES(t, first, end, place) {
        uint32_t e = *entry(l, s, t);
        if (kind == STAGED || e == NO_PAGE || entry_kind(e) == kind)
            wanted += (e != NO_PAGE || kind != MIXED) && is_wanted(&l->pools[kind], e);
    }
    return wanted;
}

static void own_pages(cache_layer *l, sequence_layer *s, entry_function *entry, int is_staged,
                      size_t first, size_t end, size_t place)
{
    FOR_PAGES(t, first, end, place) {
        uint32_t *e = entry(l, s, t);
        page_kind kind = is_staged ? STAGED : *e == NO_PAGE ? SEALED : entry_kind(*e);
        own_page(&l->pools[kind], e, kind == MIXED ? TQKV_PAGE_MIXED : 0);
    }
}

tqkv_status layer_own_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s,
                            const page_needs *needs)
{
    size_t first = needs->first, from = needs->from, in_first = needs->first_end;
    size_t mixed = 0;
    if (first < needs->end)
        first = last_pages(s, first, needs->end, l->n_slots);
    if (from < needs->to)
        from = last_pages(s, from, needs->to, l->n_tail_slots);
    pthread_mutex_lock(&c->lock);
    FOR_PAGES(t, first, needs->may_mix ? needs->end : first, s->offset) {
        uint32_t entry = *sealed_entry(l, s, t);
        mixed += entry == NO_PAGE || entry_kind(entry) != MIXED;
    }
    /* All of them first: nothing is copied before it is sure. */
    int enough =
        pool_has(c, &l->pools[SEALED],
                 count_wanted(l, s, sealed_entry, SEALED, first, needs->end, s->offset)) &&
        pool_has(c, &l->pools[MIXED],
                 mixed + count_wanted(l, s, sealed_entry, MIXED, first, needs->end, s->offset)) &&
        pool_has(c, &l->pools[STAGED],
                 count_wanted(l, s, tail_entry, STAGED, from, needs->to, s->offset) +
                     count_wanted(l, s, first_entry, STAGED, 0, in_first, 0));
    if (enough) {
        s->n_reserved += (uint32_t)mixed;
        l->pools[MIXED].n_reserved += (uint32_t)mixed;
        own_pages(l, s, sealed_entry, 0, first, needs->end, s->offset);
        own_pages(l, s, tail_entry, 1, from, needs->to, s->offset);
        own_pages(l, s, first_entry, 1, 0, in_first, 0);
    }
    pthread_mutex_unlock(&c->lock);
    return enough ? TQKV_OK : TQKV_ERROR_MEMORY;
}

void layer_unreserve(tqkv_cache *c, cache_layer *l, sequence_layer *s)
{
    pthread_mutex_lock(&c->lock);
    l->pools[MIXED].n_reserved -= s->n_reserved;
    s->n_reserved = 0;
    pthread_mutex_unlock(&c->lock);
}

void layer_mix_page(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t token)
{
    uint32_t *entry = sealed_entry(l, s, token), old = *entry;
    if (entry_kind(old) == MIXED)
        return;
    pthread_mutex_lock(&c->lock);
    s->n_reserved--;
    l->pools[MIXED].n_reserved--;
    *entry = pool_take(&l->pools[MIXED]) | TQKV_PAGE_MIXED;
    pthread_mutex_unlock(&c->lock);
    for (uint32_t h = 0; h < l->shape.n_kv_heads; h++)
        for (int kind = KEYS; kind < N_OPERANDS; kind++) {
            tqkv_page from = entry_head(l, old, (operand_kind)kind, h);
            tqkv_page to = entry_head(l, *entry, (operand_kind)kind, h);
            tqkv_page_copy(&from, &to);
        }
    pthread_mutex_lock(&c->lock);
    pool_drop(&l->pools[SEALED], entry_page(old));
    pthread_mutex_unlock(&c->lock);
}

/* ---- giving back and sharing ---- */

static void drop(cache_layer *l, uint32_t *entry, int is_staged)
{
    if (*entry == NO_PAGE)
        return;
    pool_drop(&l->pools[is_staged ? STAGED : entry_kind(*entry)], entry_page(*entry));
    *entry = NO_PAGE;
}

/* Drops the pages of a ring that are not those of tokens [first, end). */
static void drop_outside(cache_layer *l, const sequence_layer *s, uint32_t *table, uint32_t n_slots,
                         int is_staged, size_t first, size_t end)
{
    size_t first_page = (first + s->offset) / PAGE_TOKENS;
    size_t end_page = end > first ? pages_for(end + s->offset) : first_page;
    for (uint32_t i = 0; i < n_slots; i++) {
        /* the page in slot i that is not before the first */
        size_t page = first_page + (i + n_slots - first_page % n_slots) % n_slots;
        if (page >= end_page)
            drop(l, &table[i], is_staged);
    }
}

void layer_drop_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s)
{
    pthread_mutex_lock(&c->lock);
    drop_outside(l, s, s->sealed, l->n_slots, 0, s->kept, s->coded);
    drop_outside(l, s, s->tail, l->n_tail_slots, 1, s->coded, s->length);
    for (size_t i = pages_for(first_tokens(l, s->length)); i < l->n_first_slots; i++)
        drop(l, &s->first[i], 1);
    pthread_mutex_unlock(&c->lock);
}

void layer_drop_tail(tqkv_cache *c, cache_layer *l, sequence_layer *s)
{
    pthread_mutex_lock(&c->lock);
    drop_outside(l, s, s->tail, l->n_tail_slots, 1, s->coded, s->length);
    pthread_mutex_unlock(&c->lock);
}

void layer_drop_all(tqkv_cache *c, cache_layer *l, sequence_layer *s)
{
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; s->sealed && i < l->n_slots; i++)
        drop(l, &s->sealed[i], 0);
    for (uint32_t i = 0; s->tail && i < l->n_tail_slots; i++)
        drop(l, &s->tail[i], 1);
    for (uint32_t i = 0; s->first && i < l->n_first_slots; i++)
        drop(l, &s->first[i], 1);
    pthread_mutex_unlock(&c->lock);
}

static void share(cache_layer *l, const uint32_t *from, uint32_t *to, uint32_t n, int is_staged)
{
    for (uint32_t i = 0; i < n; i++) {
        to[i] = from[i];
        if (to[i] != NO_PAGE)
            pool_share(&l->pools[is_staged ? STAGED : entry_kind(to[i])], entry_page(to[i]));
    }
}

void layer_share_pages(tqkv_cache *c, cache_layer *l, const sequence_layer *from,
                       sequence_layer *to)
{
    pthread_mutex_lock(&c->lock);
    share(l, from->sealed, to->sealed, l->n_slots, 0);
    share(l, from->tail, to->tail, l->n_tail_slots, 1);
    share(l, from->first, to->first, l->n_first_slots, 1);
    pthread_mutex_unlock(&c->lock);
}

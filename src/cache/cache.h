/*
 * Inside a cache.
 *
 * In one layer of a sequence the tokens [0, first) lie in f16 by position, those
 * of [kept, coded) in pages, and those of [coded, length) in f16 in a ring. The
 * place of token t in the pages, and in the ring of the tail, is t + offset:
 * removing tokens before all that is kept moves nothing but the offset.
 */
#ifndef TQKV_CACHE_CACHE_H
#define TQKV_CACHE_CACHE_H

#include <pthread.h>
#include <stdatomic.h>

#include "tqkv_cache.h"

enum {
    PAGE_TOKENS = 64,
    NO_PAGE = UINT32_MAX
};

/* The pages of one layer: a range of addresses, of which pages become memory
 * when they are first needed. Guarded by the cache's lock. */
typedef struct page_pool {
    uint8_t *memory;
    size_t page_bytes, mapped_bytes;
    uint32_t n_pages;   /* there may be at most */
    uint32_t n_made;    /* are memory */
    uint32_t n_free;
    uint32_t *free;     /* [n_pages] numbers of those made but not in use */
    uint32_t *users;    /* [n_pages] sequences that share a page */
} page_pool;

/* Where things lie in a page, for head 0; head_bytes from head to head. */
typedef struct page_layout {
    size_t key_codes, key_scales, key_centres, means, value_codes, value_scales;
    size_t head_bytes;
} page_layout;

typedef struct cache_layer {
    tqkv_layer shape;
    page_layout layout;
    page_pool pool;
    size_t n_first, n_tail; /* tokens in f16: the first; slots of the tail */
    uint32_t n_slots;       /* pages of a sequence */
    uint32_t n_centres;     /* of its profile, 1 with page means */
    /* Key profiles, one a KV head; null where there is none. Once is_ready they
     * do not change. floats: [n_kv_heads][1 + n_centres][head_dim]. */
    tqkv_key_profile *profiles;
    float *profile_floats;
    atomic_int is_ready;
    size_t fit_tokens; /* to fit from; 0 if nothing is to be fitted */
    double *query_squares; /* [n_kv_heads][head_dim], sums over queries seen */
    double n_queries;
} cache_layer;

struct tqkv_cache {
    pthread_mutex_t lock;  /* pools, memory, fitting */
    uint32_t n_layers, fit_centres;
    uint64_t fit_seed;
    size_t capacity, n_recent;
    int page_means;
    char fingerprint[TQKV_MAX_FINGERPRINT + 1];
    atomic_size_t memory;
    size_t memory_limit;
    cache_layer *layers;
};

typedef struct sequence_layer {
    size_t length, coded, kept, offset;
    uint32_t *table;        /* [n_slots] page numbers, or NO_PAGE */
    uint16_t *first, *tail; /* [tokens]: keys of all heads, then values */
} sequence_layer;

struct tqkv_sequence {
    tqkv_cache *cache;
    pthread_rwlock_t lock;
    sequence_layer *layers;
    /* [the most KV heads][PAGE_TOKENS][the largest head_dim], for who changes
     * the sequence. */
    float *scratch;
    size_t head_floats, scratch_floats;
};

/* ---- cache.c: memory that is counted, and refused beyond the limit ---- */

int cache_count(tqkv_cache *c, size_t bytes); /* 0: it would be too much */
void cache_uncount(tqkv_cache *c, size_t bytes);
void *cache_allocate(tqkv_cache *c, size_t count, size_t size); /* zeroed */
void cache_release(tqkv_cache *c, void *memory, size_t count, size_t size);

/* Values of a token in f16, all heads, keys and values. */
static inline size_t token_values(const cache_layer *l)
{
    return l->shape.n_kv_heads *
           ((size_t)l->shape.keys.head_dim + l->shape.values.head_dim);
}

/* Tokens of a layer in f16, the first and those behind the codes. */
static inline size_t first_tokens(const cache_layer *l, size_t length)
{
    return length < l->n_first ? length : l->n_first;
}

static inline size_t tail_tokens(size_t length, size_t coded)
{
    return length > coded ? length - coded : 0;
}

/* ---- pool.c ---- */

tqkv_status pool_create(tqkv_cache *c, page_pool *p, size_t page_bytes, uint32_t n_pages,
                        int up_front);
void pool_free(tqkv_cache *c, page_pool *p);
/* The rest with the cache's lock held. Whether n pages are free, made so if need
 * be; takes one of them, which then has one user. */
int pool_has(tqkv_cache *c, page_pool *p, size_t n);
uint32_t pool_take(page_pool *p);
void pool_share(page_pool *p, uint32_t page);
void pool_drop(page_pool *p, uint32_t page);

/* ---- rows.c: where tokens are, and what they hold ---- */

typedef enum operand_kind { KEYS, VALUES } operand_kind;

/* The row of a coded token. */
tqkv_rows layer_row(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                    uint32_t head, size_t token);
uint16_t *layer_half(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                     uint32_t head, size_t token); /* of one that is not coded */
uint16_t *layer_mean(const cache_layer *l, const sequence_layer *s, uint32_t head,
                     size_t token);
uint32_t *layer_page(const cache_layer *l, const sequence_layer *s, size_t token);

static inline uint32_t head_dim_of(const cache_layer *l, operand_kind kind)
{
    return kind == KEYS ? l->shape.keys.head_dim : l->shape.values.head_dim;
}

/* Where the page that token is in begins and ends; tokens before 0 are 0. */
static inline size_t page_begin(const sequence_layer *s, size_t token)
{
    size_t place = (token + s->offset) % PAGE_TOKENS;
    return token > place ? token - place : 0;
}

static inline size_t page_end(const sequence_layer *s, size_t token)
{
    return token + PAGE_TOKENS - (token + s->offset) % PAGE_TOKENS;
}

/* Whether the page of a token that is not coded yet has coded ones. */
static inline int page_is_begun(const sequence_layer *s, size_t token)
{
    size_t begin = page_begin(s, token);
    return (begin > s->kept ? begin : s->kept) < token && token == s->coded;
}

static inline int is_coded(const sequence_layer *s, size_t token)
{
    return token >= s->kept && token < s->coded;
}

/* A token's key or value as floats, in the original domain. */
void layer_read(const cache_layer *l, const sequence_layer *s, int has_means,
                operand_kind kind, uint32_t head, size_t token, float *x);
/* Encodes keys of one head, which lie in one page; with a new mean of these keys
 * if new_mean is not 0. x is [n][head_dim]. */
void layer_encode_keys(const cache_layer *l, const sequence_layer *s, int has_means,
                       uint32_t head, size_t first, size_t n, const float *x, int new_mean);
void layer_encode_values(const cache_layer *l, const sequence_layer *s, uint32_t head,
                         size_t first, size_t n, const float *x);
/* Numbers to f16, clamped to its range. */
void to_halves(const float *x, size_t n, uint16_t *half);

/* Pages for tokens [first, end): makes those that are not there and copies those
 * that are shared. Where it fails the table is as it was. */
tqkv_status layer_own_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t first,
                            size_t end);
/* Gives back the pages that hold no token of [kept, end). */
void layer_drop_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t end);

/* ---- attend.c ---- */

/* The sets of a layer's tokens; returns their number, up to 3. */
size_t layer_sets(const cache_layer *l, const sequence_layer *s, const tqkv_cache *c,
                  tqkv_tokens *sets);

#endif

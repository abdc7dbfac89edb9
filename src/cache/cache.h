/*
 * Inside a cache.
 *
 * In one layer of a sequence the tokens [0, first) lie in staged pages by position, those
 * of [kept, coded) in sealed pages, and those of [coded, length) in staged pages again. The
 * place of token t in the pages of the latter two is t + offset: removing tokens before
 * all that is kept moves nothing but the offset. Where a rollback has left part of a sealed
 * page, both kinds of page belong to the same places, and `coded` divides them.
 */
#ifndef TQKV_CACHE_CACHE_H
#define TQKV_CACHE_CACHE_H

#include <pthread.h>
#include <stdatomic.h>

#include "tqkv_cache.h"

enum {
    PAGE_TOKENS = TQKV_PAGE_TOKENS,
    NO_PAGE = UINT32_MAX
};

/* From so many values on, heads are divided among OpenMP's threads. */
enum { PARALLEL_VALUES = 1 << 15 };

/* What a page of a layer, all heads of it, can be. A mixed one holds rows that were sealed
 * in other pages, with up to TQKV_MAX_MEANS means. */
typedef enum page_kind { SEALED, MIXED, STAGED, N_PAGE_KINDS } page_kind;

/* The two parts of a page: what is aligned, and means, whose size is odd. Apart they need
 * no padding. */
typedef enum page_part { BODY, MEANS, N_PAGE_PARTS } page_part;

/* A range of addresses that becomes memory from its beginning on. */
typedef struct page_memory {
    uint8_t *base;
    size_t page_bytes, mapped_bytes;
} page_memory;

/* The pages of one layer and kind, which become memory when they are first needed. Guarded
 * by the cache's lock. */
typedef struct page_pool {
    page_memory part[N_PAGE_PARTS];
    uint32_t n_pages;   /* there may be at most */
    uint32_t n_made;    /* are memory */
    uint32_t n_free;
    uint32_t n_reserved; /* of the free ones, for who takes them later */
    uint32_t *free;     /* [n_pages] numbers of those made but not in use */
    uint32_t *users;    /* [n_pages] sequences that share a page */
} page_pool;

typedef enum operand_kind { KEYS, VALUES, N_OPERANDS } operand_kind;

/* Where things lie in the parts of a page, for head 0 of each operand; head_bytes from head
 * to head. Staged pages have their numbers at `codes`. */
typedef struct page_layout {
    size_t codes[N_OPERANDS], scales[N_OPERANDS];  /* in BODY */
    size_t means[N_OPERANDS], numbers[N_OPERANDS]; /* in MEANS */
    size_t head_bytes[N_PAGE_PARTS];
    uint32_t n_means;
} page_layout;

typedef struct cache_layer {
    tqkv_layer shape;
    page_layout layouts[N_PAGE_KINDS];
    page_pool pools[N_PAGE_KINDS];
    size_t n_first, n_tail;  /* tokens in f16: the first; those behind the codes, at most */
    uint32_t n_slots;        /* sealed and mixed pages of a sequence */
    uint32_t n_first_slots, n_tail_slots; /* staged ones */
    /* The keys' balances, [n_kv_heads][head_dim]; null where there are none. Once is_ready
     * they do not change. */
    float *balances;
    atomic_int is_ready;
    size_t fit_tokens; /* to fit from; 0 if nothing is to be fitted */
    double *query_squares; /* [n_kv_heads][head_dim], sums over queries seen */
    double n_queries;
} cache_layer;

struct tqkv_cache {
    pthread_mutex_t lock;  /* pools, memory, fitting */
    uint32_t n_layers;
    size_t capacity, n_recent;
    int has_means;
    char fingerprint[TQKV_MAX_FINGERPRINT + 1];
    atomic_size_t memory;
    size_t memory_limit;
    cache_layer *layers;
};

typedef struct sequence_layer {
    size_t length, coded, kept, offset;
    uint32_t n_reserved; /* mixed pages, while a removal is under way */
    /* Page numbers, or NO_PAGE. Those of `sealed` have TQKV_PAGE_MIXED where the page is. */
    uint32_t *sealed; /* [n_slots], by place */
    uint32_t *first;  /* [n_first_slots], by position */
    uint32_t *tail;   /* [n_tail_slots], by place */
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

static inline uint32_t head_dim_of(const cache_layer *l, operand_kind kind)
{
    return kind == KEYS ? l->shape.keys.head_dim : l->shape.values.head_dim;
}

static inline const tqkv_format *format_of(const cache_layer *l, operand_kind kind)
{
    return kind == KEYS ? &l->shape.keys : &l->shape.values;
}

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

static inline size_t pages_for(size_t tokens)
{
    return tokens / PAGE_TOKENS + (tokens % PAGE_TOKENS != 0);
}

/* ---- pool.c ---- */

/* body and means: bytes of a page's parts. Makes up_front pages memory. */
tqkv_status pool_create(tqkv_cache *c, page_pool *p, size_t body, size_t means, uint32_t n_pages,
                        uint32_t up_front);
void pool_free(tqkv_cache *c, page_pool *p);
/* The rest with the cache's lock held. Whether n pages are free and not reserved, made so if
 * need be; takes one of them, which then has one user. */
int pool_has(tqkv_cache *c, page_pool *p, size_t n);
uint32_t pool_take(page_pool *p);
void pool_share(page_pool *p, uint32_t page);
void pool_drop(page_pool *p, uint32_t page);

static inline uint8_t *pool_page(const page_pool *p, page_part part, uint32_t page)
{
    return p->part[part].base + page * p->part[part].page_bytes;
}

/* ---- rows.c: where tokens are, and what they hold ---- */

/* One head's part of the page of a table's entry, sealed or mixed. */
tqkv_page entry_head(const cache_layer *l, uint32_t entry, operand_kind kind, uint32_t head);
/* Of the page in which a coded token is. */
tqkv_page layer_page(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                     uint32_t head, size_t token);
uint16_t *layer_half(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                     uint32_t head, size_t token); /* of a token that is not coded */
/* The balance of a head's rows, or null. */
const float *layer_balance(const cache_layer *l, operand_kind kind, uint32_t head);

/* The place of a token in its page, and the table's entry for that. */
static inline size_t page_place(const sequence_layer *s, size_t token)
{
    return (token + s->offset) % PAGE_TOKENS;
}

static inline uint32_t *sealed_entry(const cache_layer *l, const sequence_layer *s, size_t token)
{
    return &s->sealed[(token + s->offset) / PAGE_TOKENS % l->n_slots];
}

static inline uint32_t *tail_entry(const cache_layer *l, const sequence_layer *s, size_t token)
{
    return &s->tail[(token + s->offset) / PAGE_TOKENS % l->n_tail_slots];
}

/* The offset of an empty sequence: its first coded token begins a page. */
static inline size_t empty_offset(const cache_layer *l)
{
    return pages_for(l->n_first) * PAGE_TOKENS - l->n_first;
}

/* Where the page that token is in begins and ends; tokens before 0 are 0. */
static inline size_t page_begin(const sequence_layer *s, size_t token)
{
    size_t place = page_place(s, token);
    return token > place ? token - place : 0;
}

static inline size_t page_end(const sequence_layer *s, size_t token)
{
    return token + PAGE_TOKENS - page_place(s, token);
}

/* Whether the page of a token has tokens before it that are kept. */
static inline int page_has_before(const sequence_layer *s, size_t token)
{
    size_t begin = page_begin(s, token);
    return (begin > s->kept ? begin : s->kept) < token;
}

static inline int is_coded(const sequence_layer *s, size_t token)
{
    return token >= s->kept && token < s->coded;
}

/* A token's key or value as floats, in the original domain. */
void layer_read(const cache_layer *l, const sequence_layer *s, operand_kind kind, uint32_t head,
                size_t token, float *x);
/* Makes rows of tokens [first, first + n) of one head, which lie in one page: seals the page
 * if no kept token is before them, otherwise writes them into it. page_rows holds as many
 * rows as a page, the tokens' in their places. */
void layer_encode(const cache_layer *l, const sequence_layer *s, operand_kind kind, uint32_t head,
                  size_t first, size_t n, const void *page_rows, tqkv_type type);
/* Copies a token that is not coded: keys of all heads, then values. Returns the end. */
uint16_t *layer_copy_halves(const cache_layer *l, const sequence_layer *s, size_t token,
                            uint16_t *to);
/* Numbers to f16, clamped to its range. */
void to_halves(const float *x, size_t n, uint16_t *half);

/* ---- table.c: which pages a sequence has ---- */

/* Tables of page numbers: what is in them is a page of one of two kinds. */
page_kind entry_kind(uint32_t entry);
static inline uint32_t entry_page(uint32_t entry)
{
    return entry & ~TQKV_PAGE_MIXED;
}

/* Pages of its own for the coded tokens [first, end), for the tail's [from, to) and for the
 * first tokens before first_end: makes those that are not there and copies those that
 * are shared. Where it fails all tables are as they were. */
typedef struct page_needs {
    size_t first, end, from, to, first_end;
    int may_mix; /* reserves a mixed page for each coded one that is not mixed yet */
} page_needs;
tqkv_status layer_own_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s,
                            const page_needs *needs);
/* Gives back the pages that hold no token. */
void layer_drop_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s);
/* Only those of the tail, whose tokens have been sealed: few, however long the sequence. */
void layer_drop_tail(tqkv_cache *c, cache_layer *l, sequence_layer *s);
/* All of them, and sharing another sequence's. */
void layer_drop_all(tqkv_cache *c, cache_layer *l, sequence_layer *s);
void layer_share_pages(tqkv_cache *c, cache_layer *l, const sequence_layer *from,
                       sequence_layer *to);
/* Gives back what layer_own_pages has reserved and nobody has taken. */
void layer_unreserve(tqkv_cache *c, cache_layer *l, sequence_layer *s);
/* Makes the page of a token a mixed one, which has been reserved. */
void layer_mix_page(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t token);

/* ---- attend.c ---- */

enum { MOST_SETS = 3 };

/* A layer's tokens as sets, up to MOST_SETS; returns their number. `mixed` is for the sets
 * to point to. */
size_t layer_sets(const cache_layer *l, const sequence_layer *s, tqkv_tokens *sets,
                  tqkv_page_kind *mixed);

#endif

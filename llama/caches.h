/* The cache tensors of one llama.cpp context, as tqkv sees them. */
#ifndef TQKV_LLAMA_CACHES_H
#define TQKV_LLAMA_CACHES_H

#include "ggml_abi.h"
#include "profiles.h"
#include "slot.h"

/* The keys or values of one layer. */
typedef struct cache {
    const gg_tensor *tensor; /* the whole of it: [row][slots][streams] */
    int is_key, layer;
    int is_rotated;          /* rows come rotated by llama.cpp */
    uint32_t n_heads;
    size_t row_bytes, n_slots; /* of all streams */
    slot_layout slot;
    uint64_t tag;              /* four bits of it a head */
    const tqkv_key_profile *profiles; /* [n_heads], or null */
    /* The scale that was last written for head 0 of each slot, if rows are
     * tagged: where it is no longer there, somebody else wrote the row. */
    uint16_t *written;
} cache;

typedef struct caches {
    cache *all;
    size_t n;
    /* Formats to use instead of the finest that fit; empty for none. */
    char key_format[TQKV_FORMAT_NAME_SIZE], value_format[TQKV_FORMAT_NAME_SIZE];
    int has_warned; /* of layers that the profile does not cover */
} caches;

/* Reads TQKV_K and TQKV_V. */
void caches_init(caches *c);

/* What t is a view of, or t. */
static inline const gg_tensor *tensor_root(const gg_tensor *t)
{
    return t->view_src ? t->view_src : t;
}

/* The cache tensor that t is, or is a view of; null if it is neither, or of a
 * type that ggml goes on with. */
const gg_tensor *cache_tensor(const gg_tensor *t);
int cache_is_key(const gg_tensor *root);

/* The entry, or null. */
cache *caches_find(const caches *c, const gg_tensor *root);

/* What attention says about a pair of cache tensors; either may be null. */
typedef struct cache_pair {
    const gg_tensor *keys, *values;
    uint32_t key_dim, value_dim, n_heads;
    int is_rotated; /* by llama.cpp before it comes here */
} cache_pair;

/* Makes or renews the pair's entries. profile may be null. Null, or what is
 * wrong. */
const char *caches_add(caches *c, const cache_pair *pair, const tqkv_profile *profile,
                       uint64_t profile_id);

/* Logs on one line what the cache is kept in. */
void caches_describe(const caches *c, int has_profile);

void caches_free(caches *c);

/* Writes the tag into the rows of heads [first, first + n) of a slot, and
 * remembers what stands there now. */
void cache_mark(cache *c, size_t slot, uint32_t first, uint32_t n);

/* Whether the slot's rows carry the tag, or were never written. */
int cache_is_ours(const cache *c, size_t slot);

/* Whether somebody else wrote the slot's rows since tqkv did. */
int cache_is_changed(const cache *c, size_t slot);
/* Takes the rows for written by tqkv. */
void cache_accept(cache *c, size_t slot);

#endif

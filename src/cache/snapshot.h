/* The bytes of a snapshot (doc/format.md, section 9). */
#ifndef TQKV_CACHE_SNAPSHOT_H
#define TQKV_CACHE_SNAPSHOT_H

#include "cache/cache.h"
#include "container/section.h"

enum {
    SNAPSHOT_VERSION = 3,
    SNAPSHOT_HEADER_BYTES = 16 + TQKV_MAX_FINGERPRINT + 1,
    SNAPSHOT_LAYER_BYTES = 128,
    SECTION_LAYER = 17,    /* one layer's shape and lengths */
    SECTION_LAYER_PROFILE, /* its balances, then sums of queries' squares */
    SECTION_TOKENS,        /* f16: first tokens and tail */
    SECTION_PAGE,
    SECTION_SEQUENCE_END,
    SECTION_MIXED_PAGE
};

/* What a layer's section says. */
typedef struct layer_record {
    uint32_t n_heads, n_kv_heads;
    tqkv_format keys, values;
    uint64_t window, n_first, fit_tokens;
    uint64_t length, coded, kept, offset;
    int has_balances, is_ready;
    double n_queries;
} layer_record;

void snapshot_header(const tqkv_cache *c, uint8_t *bytes);
void layer_record_of(const cache_layer *l, const sequence_layer *s, layer_record *r);
void layer_record_write(const layer_record *r, uint8_t *bytes);
void layer_record_read(const uint8_t *bytes, layer_record *r);

/* Floats of a layer's balances, and doubles behind them while they are to be fitted. */
size_t layer_balance_floats(const cache_layer *l);
size_t layer_balance_doubles(const cache_layer *l, int is_ready);

/* Bytes of a page, and the bytes to and from its two parts. */
size_t page_bytes_of(const cache_layer *l, uint32_t entry);
void page_to_bytes(const cache_layer *l, uint32_t entry, uint8_t *bytes);
void page_from_bytes(const cache_layer *l, uint32_t entry, const uint8_t *bytes);

#endif

/*
 * tqkv - the cache: sequences of keys and values, appended to and attended from
 *
 * A cache is what the sequences of one model share: the shape of each layer,
 * the pages that hold rows (tqkv_page.h), the keys' balances. A sequence is the tokens of
 * one conversation. Its tokens begin in staged pages, in f16. A page of 64 positions is
 * sealed when it is full and all its tokens are older than the newest n_recent; so the
 * newest n_recent to n_recent + 63 tokens, and the first n_first, are attended exactly:
 *
 *   0 ... n_first            sealed            n_recent to n_recent + 63 ... the end
 *
 * A rollback into a sealed page leaves the rows before it as they are; the tokens that
 * follow wait in f16 as all do, and then become rows beside the mean that is there.
 *
 * Threads: distinct sequences may be used from distinct threads at the same
 * time. Of one sequence, any number of threads may attend, save or fork while
 * one appends or changes it: calls wait for each other where they have to, and
 * an attention sees the sequence as it was before or after a change. Freeing a
 * sequence or the cache is for when nobody else uses it.
 *
 * A call that fails has changed nothing. Memory comes from malloc and, for
 * pages, from mmap; tqkv_cache_memory counts every byte of both, but for what
 * fitting a profile (about twice the keys it is fitted to) and files need while
 * they are at it.
 */
#ifndef TQKV_CACHE_H
#define TQKV_CACHE_H

#include "tqkv_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ */
/* The cache                                                          */
/* ------------------------------------------------------------------ */

/* One layer; layers may differ in everything. */
typedef struct tqkv_layer {
    uint32_t n_heads, n_kv_heads; /* query heads: a multiple of the KV heads */
    tqkv_format keys, values;     /* with their head_dims */
    /* Positions that a query sees, its own included, as in sliding-window
     * layers; older tokens' pages are used again. 0: all. */
    uint64_t window;
    /* The balances of keys: those of layer profile_layer of this profile, which are copied.
     * Null for none. */
    const tqkv_profile *profile;
    uint32_t profile_layer;
} tqkv_layer;

typedef struct tqkv_cache_config {
    const tqkv_layer *layers;
    uint32_t n_layers;
    size_t capacity;      /* tokens that a sequence can hold */
    uint32_t n_sequences; /* sequences of that length there is room for; 0 is 1 */
    size_t n_first;       /* first tokens kept in f16, in layers without window */
    size_t n_recent;      /* newest tokens kept in f16 */
    /* Tokens that truncation can take back in layers with a window; older ones
     * it may find overwritten. */
    size_t rollback;
    /* Rows without the means of their pages: 2 (head_dim + 2) bytes fewer for 64 tokens and
     * KV head, and worse (doc/quality.md). */
    int no_means;
    /* Layers without a profile: fit the keys' balances to the first fit_tokens tokens of
     * the first sequence to have so many, which wait in f16 until then. 0: none is
     * fitted. */
    size_t fit_tokens;
    /* Allocate all sealed pages, and the staged ones of n_sequences sequences, now, not each
     * when needed. */
    int up_front;
    size_t memory_limit;  /* bytes never exceeded; 0: no limit but capacity's */
    /* The model, in up to TQKV_MAX_FINGERPRINT bytes; snapshots carry it. */
    const char *fingerprint;
} tqkv_cache_config;

typedef struct tqkv_cache tqkv_cache;
typedef struct tqkv_sequence tqkv_sequence;

/* Everything the configuration points to is copied. */
TQKV_API tqkv_status tqkv_cache_create(const tqkv_cache_config *config,
                                       tqkv_cache **cache);
/* After all its sequences have been freed; null is fine. */
TQKV_API void tqkv_cache_free(tqkv_cache *cache);

/* Bytes allocated now for the cache and all its sequences. */
TQKV_API size_t tqkv_cache_memory(const tqkv_cache *cache);

/* Bytes that one more token takes when its page has been sealed, all layers together, with
 * scales and means. */
TQKV_API double tqkv_cache_token_bytes(const tqkv_cache *cache);

/* ------------------------------------------------------------------ */
/* Sequences                                                          */
/* ------------------------------------------------------------------ */

TQKV_API tqkv_status tqkv_sequence_create(tqkv_cache *cache,
                                          tqkv_sequence **sequence);
TQKV_API void tqkv_sequence_free(tqkv_sequence *sequence); /* null is fine */

/* A sequence with the same tokens, which shares pages with the first until one
 * of the two changes them. */
TQKV_API tqkv_status tqkv_sequence_fork(tqkv_sequence *sequence,
                                        tqkv_sequence **fork);

/* Tokens in a layer; layers differ while a token is on its way through them. */
TQKV_API size_t tqkv_sequence_length(tqkv_sequence *sequence, uint32_t layer);

/* Appends n_tokens tokens to a layer: keys[n_tokens][n_kv_heads][head_dim] and
 * values likewise, of one type, keys as they are after RoPE. They go through
 * f16, beyond whose range they are clamped; OpenMP's threads share the encoding
 * of many. queries[n_tokens][n_heads]
 * [head_dim], of the same type, help to fit a profile; they may be null.
 * Over the capacity: TQKV_ERROR_BUFFER; no page left, or the limit reached:
 * TQKV_ERROR_MEMORY. */
TQKV_API tqkv_status tqkv_sequence_append(tqkv_sequence *sequence,
                                          uint32_t layer, const void *keys,
                                          const void *values,
                                          const void *queries, tqkv_type type,
                                          size_t n_tokens);

/* Takes back all tokens from n_tokens on, in all layers. What has been encoded
 * stays encoded. TQKV_ERROR_GONE if a layer's window would reach back to tokens
 * that have been overwritten. */
TQKV_API tqkv_status tqkv_sequence_truncate(tqkv_sequence *sequence,
                                            size_t n_tokens);
TQKV_API tqkv_status tqkv_sequence_clear(tqkv_sequence *sequence);

/* How a model turns keys with their position p: each pair of values by the
 * angle p * scale * base^(-2 i / n_dims) / factors[i]. Su et al. (2021),
 * arXiv:2104.09864. */
typedef struct tqkv_rope {
    int interleaved;      /* pairs (2i, 2i + 1), else (i, i + n_dims / 2) */
    uint32_t n_dims;      /* values that are turned, even; 0: head_dim */
    float base;           /* for example 10000 */
    float scale;          /* of positions, for longer contexts; 1 for none */
    const float *factors; /* [n_dims / 2], as in Llama 3.1 or YaRN; or null */
} tqkv_rope;

/* Removes tokens first to first + n_tokens - 1 from all layers; those behind
 * move up, their keys turned back by n_tokens positions. Values keep their
 * codes and the means that they have chosen; a page that had to name more than
 * TQKV_MAX_MEANS means codes a row again. Keys do likewise where rope is null, because they
 * do not depend on the position; otherwise those that were codes are decoded, turned and
 * encoded again, with the same bytes on every machine. rope[layer] may differ from layer
 * to layer. All layers have to be of one length. TQKV_ERROR_GONE as for truncation. */
TQKV_API tqkv_status tqkv_sequence_remove(tqkv_sequence *sequence, size_t first,
                                          size_t n_tokens,
                                          const tqkv_rope *rope);

/* ------------------------------------------------------------------ */
/* Attention                                                          */
/* ------------------------------------------------------------------ */

/* tqkv_attend over a layer's tokens. Of *a, sets, numbers of heads and window
 * are the cache's and ignored; position is that of the first query (for the
 * last n tokens: length - n), and the mask's columns are positions. */
TQKV_API tqkv_status tqkv_sequence_attend(tqkv_sequence *sequence,
                                          uint32_t layer,
                                          const tqkv_attention *a,
                                          const tqkv_partial *result,
                                          const tqkv_executor *executor,
                                          void *workspace,
                                          size_t workspace_size);

/* Enough workspace for any such call with up to n_queries queries, now or
 * later. */
TQKV_API tqkv_status tqkv_cache_workspace(const tqkv_cache *cache,
                                          uint32_t layer, uint32_t n_queries,
                                          const tqkv_executor *executor,
                                          size_t *bytes);

/* ------------------------------------------------------------------ */
/* Snapshots                                                          */
/* ------------------------------------------------------------------ */

/* Writes the sequence (doc/format.md, section 9). Loaded into a cache of the
 * same configuration it goes on byte for byte as this one would. */
TQKV_API tqkv_status tqkv_sequence_save(tqkv_sequence *sequence,
                                        tqkv_write_function write,
                                        void *context);

/* Reads a sequence, and nothing behind it. Refuses snapshots of another version
 * (TQKV_ERROR_VERSION: those before version 3, whose codes were others, too), model (TQKV_ERROR_MODEL),
 * shape, format, or with means where the cache has none or the other way round
 * (TQKV_ERROR_FORMAT), of other balances (TQKV_ERROR_PROFILE; a cache that has yet to fit them
 * takes the snapshot's), and damaged ones. */
TQKV_API tqkv_status tqkv_sequence_load(tqkv_cache *cache,
                                        tqkv_read_function read, void *context,
                                        tqkv_sequence **sequence);

/* The same to and from a file that holds nothing else. Saving writes a file beside it and
 * renames that: whatever happens, at path is the old snapshot or the new one, whole. */
TQKV_API tqkv_status tqkv_sequence_save_file(tqkv_sequence *sequence,
                                             const char *path);
TQKV_API tqkv_status tqkv_sequence_load_file(tqkv_cache *cache,
                                             const char *path,
                                             tqkv_sequence **sequence);

#ifdef __cplusplus
}
#endif

#endif /* TQKV_CACHE_H */

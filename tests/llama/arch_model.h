/*
 * Models of random weights of every architecture that llama.cpp knows, made from
 * metadata alone. What an architecture needs beyond the usual is a row of a table.
 */
#ifndef TQKV_TEST_ARCH_MODEL_H
#define TQKV_TEST_ARCH_MODEL_H

#include <llama.h>
#include <stddef.h>
#include <stdint.h>

typedef struct arch_shape {
    uint32_t head_dim, n_heads, n_kv_heads;
} arch_shape;

/* What becomes of an architecture in the sweep. */
typedef enum arch_fate {
    ARCH_COMPARED,
    ARCH_NO_CACHE,     /* nothing of it is in a KV cache */
    ARCH_UNMADE,       /* no model or no logits come of metadata alone */
    ARCH_LEFT_BY_TQKV, /* in f16, with a warning, of which `reason` is a part */
} arch_fate;

enum {
    ARCH_FIRST_SHAPE_ONLY = 1,
    ARCH_ALL_HEADS_HAVE_KEYS = 2,
    ARCH_F16_ONLY = 8, /* llama.cpp itself has no quantised cache for it, or breaks with one */
    ARCH_LEFT_IN_PART = 16, /* only some of its caches stay in f16 */
    ARCH_ROUGH = 4, /* at some positions the smallest error gives another answer */
};

/*
 * `keys` are items `name=value;` after the usual ones. A name is prefixed with the
 * architecture, unless it begins with a dot (which is dropped). A value is a number
 * (with a point: a float), true, false, 'a string', [a, list], [a, list...] (over
 * again for all layers) or nothing (no such key). Numbers may be E, H, K, D, F, V, L
 * (embedding, heads, KV heads, head_dim, feed forward, vocabulary, layers) and, after
 * one, *n or /n. An `l` before a list makes its items 64 bits long.
 */
typedef struct arch_row {
    const char *name;
    const char *keys;    /* null: none */
    const char *variant; /* of the same name; null: the only one or the first */
    arch_fate fate;
    const char *reason;
    unsigned flags;
    float gain; /* of queries' and keys' weights; 0: 1.5 */
} arch_row;

extern const arch_row arch_rows[];
extern const size_t arch_n_rows;

/* Null where llama.cpp makes none. */
struct llama_model *arch_model_make(const arch_row *row, const arch_shape *shape);

#endif

/* Which of a graph's nodes are tqkv's, and whether it can do what they ask. */
#ifndef TQKV_LLAMA_GRAPH_H
#define TQKV_LLAMA_GRAPH_H

#include "caches.h"

typedef enum node_kind {
    NODE_OTHER,  /* ggml's */
    NODE_STORE,  /* SET_ROWS into a cache tensor */
    NODE_ATTEND, /* FLASH_ATTN_EXT, from one or two cache tensors */
    NODE_LOAD,   /* CPY from a cache tensor to floats */
    NODE_SHIFT,  /* CPY back, after RoPE has moved the keys */
    NODE_ROTATE, /* a rotation by llama.cpp that is left out */
    NODE_UNKNOWN /* anything else that reads or writes one */
} node_kind;

/* Needs no context: what supports_op asks. */
node_kind node_kind_of(const gg_tensor *node);

/* Learns from the graph's attention what the cache tensors hold. Null, or why
 * the graph cannot be computed, in text that lives until the next call. */
const char *graph_learn(caches *c, gg_graph *graph, const tqkv_profile *profile,
                        uint64_t profile_id);

#endif

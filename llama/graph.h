/* Which of a graph's nodes work on cells, and whether tqkv can do what they ask. */
#ifndef TQKV_LLAMA_GRAPH_H
#define TQKV_LLAMA_GRAPH_H

#include "memory.h"
#include "profiles.h"

typedef enum node_kind {
    NODE_OTHER,  /* ggml's */
    NODE_STORE,  /* SET_ROWS into cells */
    NODE_ATTEND, /* FLASH_ATTN_EXT from two caches' cells */
    NODE_SHIFT,  /* ROPE on cells in their place: keys move to other positions */
    NODE_UNKNOWN /* anything else that reads or writes cells */
} node_kind;

node_kind graph_kind(const gg_tensor *node);

/* Learns from the graph's attention what heads the cells have. Cells that the graph uses in a
 * way that tqkv has not become plain. Null, or why the graph cannot be computed, in text that
 * lives until the next call of this thread. */
const char *graph_learn(gg_graph *graph, model_profile *profile);

/* Before a graph is computed whose pieces have all been learnt: cells that it stores into, and
 * that no attention was seen for, become plain. As above. */
const char *graph_check_stores(gg_graph *graph);

#endif

/* tqkv's nodes of one graph, and their work on ggml's threads. */
#ifndef TQKV_LLAMA_WORK_H
#define TQKV_LLAMA_WORK_H

#include "capture.h"
#include "crew.h"
#include "graph.h"
#include "tqkv_attention.h"

struct work;

/* One node. While its graph is computed it is a custom operation of ggml's; op
 * and op_params are what it was before. */
typedef struct step {
    struct work *work;
    gg_tensor *node;
    node_kind kind;
    int op;
    int32_t op_params[GG_OP_PARAMS];
    const gg_tensor *rotation; /* STORE, ATTEND: that of what it reads, or null */
    int is_left_out; /* ROTATE: nothing is to be done */
    cache *keys, *values; /* or the only one, in keys */
    const void *rows;     /* STORE: the first */
    const gg_tensor *shifts; /* SHIFT: how far RoPE moved each slot, or null */
    /* ATTEND: of stream 0. */
    tqkv_attention attention;
    tqkv_tokens tokens;
    int is_first_of_mask;
    crew crew;
} step;

typedef struct work {
    caches caches;
    capture *capture; /* or null */
    step **steps; /* each in a place of its own, so that none moves */
    size_t n_steps, max_steps;
    uint8_t *workspace;
    size_t workspace_size;
    float *slopes;
    size_t n_slopes;
    const char *_Atomic failure; /* of the graph at hand */
} work;

/* Turns the graph's nodes into custom operations. Null, or why it cannot, with
 * all nodes as they were. */
const char *work_begin(work *w, gg_graph *graph);

/* Turns them back. Null, or what went wrong on the way. */
const char *work_end(work *w);

void work_free(work *w);

#endif

/*
 * tqkv's nodes of one graph, and their work on ggml's threads.
 *
 * While a graph is computed, its nodes on cells are custom operations of ggml's: all threads
 * come to each of them, the first leads, and the others take tasks from it (crew.h). So the
 * graph stays in one piece.
 */
#ifndef TQKV_LLAMA_WORK_H
#define TQKV_LLAMA_WORK_H

#include "capture.h"
#include "crew.h"
#include "graph.h"

struct work;

typedef struct step {
    struct work *work;
    gg_tensor *node;
    node_kind kind;
    int op; /* what the node was before, and its parameters */
    int32_t op_params[GG_OP_PARAMS];
    cells *keys, *values; /* or the only one, in keys */
    int is_last_reader;   /* ATTEND: no later node of the graph reads these cells */
    crew *crew, *next_crew;
} step;

/* A page of some cells that is to be sealed. */
typedef struct seal {
    cells *cells;
    size_t page;
} seal;

typedef struct work {
    capture *capture; /* or null */
    step **steps;     /* each in a place of its own, so that none moves */
    size_t n_steps, max_steps;
    crew crews[2]; /* one node's and the next one's */
    uint8_t *workspace;
    size_t workspace_size;
    float *slopes;
    size_t n_slopes;
    seal *seals;
    size_t n_seals, max_seals;
    const char *_Atomic failure; /* of the graph at hand */
} work;

/* Computes the graph by `compute`, which is ggml's. Null, or what went wrong; status is
 * compute's. */
const char *work_compute(work *w, gg_graph *graph, int (*compute)(gg_backend_t, gg_graph *),
                         gg_backend_t b, int *status);

void work_free(work *w);

/* ---- what the files of operations share ---- */

/* Notes a page to be sealed by work_seal; 0 without memory. */
int work_note_seal(work *w, cells *c, size_t page);
/* Seals what was noted, in tasks of the crew. */
void work_seal(work *w, crew *c);

/* The leader's part of each operation. */
void store_rows(step *s);
void attend(step *s, int n_threads);

/* ROPE on cells: computes the node alone, between decoding what moves and encoding it again.
 * Null, or what went wrong. */
const char *shift_compute(step *s, gg_graph *graph, int (*compute)(gg_backend_t, gg_graph *),
                          gg_backend_t b, int *status);
#endif

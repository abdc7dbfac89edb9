/* Attention in double precision, for measuring. */
#ifndef TQKV_COMMAND_EVAL_ATTENTION_H
#define TQKV_COMMAND_EVAL_ATTENTION_H

#include "capture.h"

/* Causal attention of chosen query positions of every layer and head over keys
 * and values of the capture's shape, scaled by 1 / sqrt(head_dim). */
typedef struct attention {
    uint64_t n_queries;  /* positions, evenly spread over the second half */
    double *outputs;     /* [n_layers][n_heads][n_queries][v_head_dim] */
    uint32_t *most;      /* [n_layers][n_heads][n_queries]: the position with the
                            largest weight */
    double *weights;     /* [threads][n_tokens], scratch */
} attention;

/* 0 with a message if there is no memory. attention_free in any case. */
int attention_init(attention *a, const capture *c, uint64_t n_queries);
void attention_free(attention *a);
void attention_run(attention *a, const capture *c, const float *keys, const float *values);

/* Position of query i: the last token's is the last. */
uint64_t attention_position(const attention *a, const capture *c, uint64_t i);

/* |b - a| / |a| over all outputs, and the share of equal most. */
double attention_error(const attention *a, const attention *b, const capture *c);
double attention_agreement(const attention *a, const attention *b, const capture *c);

#endif

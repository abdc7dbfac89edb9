#pragma once
/* Which queries and tokens an attention kernel has to do with, and what is added to their
 * logits. */
#include "params.h"
#include "number.h"
#include "query_starts.h"

/* What one group does: a block of ROWS query rows [query][head of the group] of a KV head. */
typedef struct attend_task {
    uint sequence, head, first_row, rows; /* rows: of all blocks of the KV head */
    uint first_query; /* the sequence's, among all rows of queries */
    uint length;      /* tokens */
    ulong position;   /* of the sequence's first query */
} attend_task;

/* Query row `row` of the task's KV head, among all rows and heads. */
INLINE ulong task_row(PARAM const attend_params *p, const attend_task *k, uint row)
{
    return (ulong)(k->first_query + row / p->group) * p->n_heads + k->head * p->group +
           row % p->group;
}

INLINE bool is_seen(PARAM const attend_params *p, ulong query_position, ulong token_position)
{
    bool is_before = p->window && query_position >= p->window &&
                     token_position <= query_position - p->window;
    return !is_before && (!p->causal || token_position <= query_position);
}

/* What a mask adds; minus infinity for NaN. */
INLINE float mask_value(PARAM const attend_params *p, GLOBAL const uchar *mask,
                        GLOBAL const float *mask_slopes, ulong row, uint head, uint token)
{
    ulong at = row * p->mask_row + head * p->mask_head + token;
    float x = p->mask_type == TYPE_F32 ? ((GLOBAL const float *)mask)[at]
                                       : f16_to_float(((GLOBAL const ushort *)mask)[at]);
    if (!(x > -INFINITY))
        return -INFINITY;
    return p->has_mask_slopes ? x * mask_slopes[head] : x;
}

/* A logit q . k of the query row, as the softmax takes it. */
INLINE float logit_finish(PARAM const attend_params *p, const attend_task *k, uint row, uint token,
                          GLOBAL const float *slopes, GLOBAL const uchar *mask,
                          GLOBAL const float *mask_slopes, float logit)
{
    uint i = row / p->group, head = k->head * p->group + row % p->group;
    ulong at = k->position + i, token_position = p->first_position + token;
    if (!is_seen(p, at, token_position))
        return -INFINITY;
    if (p->softcap > 0)
        logit = p->softcap * tanhf(logit / p->softcap);
    if (p->has_slopes) {
        /* positions may be large, their difference is what counts */
        float behind = token_position > at ? (float)(token_position - at)
                                           : -(float)(at - token_position);
        logit += slopes[head] * behind;
    }
    if (p->has_mask)
        logit += mask_value(p, mask, mask_slopes, k->first_query + i, head, token);
    return logit;
}

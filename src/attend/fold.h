/*
 * Merging a sequence of parts in an order that does not depend on who computes
 * which of them.
 *
 * Floating-point merges are not associative, so parts are folded as the leaves of
 * a binary tree: part 2i with 2i + 1, those results in pairs again, and so on, as
 * a binary counter carries. What is left at the end joins from the last to the
 * first. The beginning of a sequence whose length is a power of two is a subtree:
 * whoever folds it alone gets what folding all parts would have got there. A part
 * without tokens changes nothing, so rows that end before others are folded as if
 * they were alone.
 */
#ifndef TQKV_ATTEND_FOLD_H
#define TQKV_ATTEND_FOLD_H

#include "tqkv_attention.h"

enum { FOLD_LEVELS = 64 };

typedef struct fold {
    size_t n, n_rows;  /* parts so far; rows of a part */
    unsigned dim;
    tqkv_partial level[FOLD_LEVELS]; /* by bit of n: where it is set, 2^bit parts */
} fold;

/* How many parts fold_add keeps of n. */
static inline unsigned fold_depth(size_t n)
{
    unsigned depth = 1;
    while (n >>= 1)
        depth++;
    return depth;
}

/* Adds a part with results divided by their sums. Its memory becomes the fold's;
 * returned is memory of the same size that is free now: what was level[bit] for the
 * lowest bit that was not set. */
tqkv_partial fold_add(fold *f, tqkv_partial part);

/* All parts as one, in memory that was a part's; n must not be 0. */
tqkv_partial fold_end(const fold *f);

#endif

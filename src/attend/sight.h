/*
 * What each query sees.
 *
 * Attention numbers the tokens that a query sees: *rank* r is the r-th of them in
 * the set's order. Tiles and ranges begin at fixed ranks, so that a query's result
 * follows from what it sees alone: hidden tokens before, between and behind, and
 * other queries in the call, change no bit of it. (Without a mask, ranks are counted
 * from the set's first token: what a window or causality hides there has a position,
 * which does not depend on the call either.)
 *
 * A *sight* says what one query's mask lets through. Consecutive rows whose sights
 * are each the beginning of the next share one *walk* over the tokens of the last.
 */
#ifndef TQKV_ATTEND_SIGHT_H
#define TQKV_ATTEND_SIGHT_H

#include <stddef.h>
#include <stdint.h>

struct attend_call;
struct attend_block;

/* Of one mask row and set, within what causality and window leave. */
typedef struct sight {
    size_t first, end; /* the seen tokens lie in [first, end) of the set */
    size_t n;          /* how many there are */
    int has_bias;      /* some of them have a mask that is not 0 */
} sight;

/* Up to 64 tokens as runs of consecutive ones. */
typedef struct token_runs {
    unsigned n_runs;
    struct {
        size_t token; /* of the set */
        unsigned end; /* the run ends before this place of the tile */
    } runs[64];
} token_runs;

/* Tokens by rank: `first` + rank, or, if scattered, those that the mask row shows. */
typedef struct sight_walk {
    size_t first, n;
    int is_scattered;
    size_t mask_at;     /* the mask's element for token 0 of the set */
    size_t rank, token; /* scattered: the next token to look at, and its rank if it is seen */
    size_t end;
} sight_walk;

/* Mask rows in the call: one a query, or one a query and head. */
size_t sight_rows(const struct attend_call *c);

/* Fills sights [from, to) of the call's sights[set][mask row]. */
void sight_read(const struct attend_call *c, size_t from, size_t to);

/* How many of the block's rows, from row r on, share a walk over set number `set`,
 * which it sets up. lows[r] and highs[r] of these rows become the ranks that they
 * see: from the low one to before the high one. */
unsigned sight_band(const struct attend_call *c, const struct attend_block *b, size_t set, unsigned r,
                    size_t *lows, size_t *highs, sight_walk *walk);

/* The n tokens (1 to 64, not behind the walk's last) from `rank` on; ranks must not
 * go back. */
void sight_tokens(const struct attend_call *c, sight_walk *walk, size_t rank, unsigned n,
                  token_runs *tokens);

/* The sight of a block's row; there is a mask. */
const sight *sight_of(const struct attend_call *c, const struct attend_block *b, size_t set,
                      unsigned r);

/* The mask's element for the row and token 0 of the set. */
size_t sight_mask_at(const struct attend_call *c, const struct attend_block *b, size_t set,
                     unsigned r);

#endif

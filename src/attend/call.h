/*
 * A call of tqkv_attend, checked and divided.
 *
 * The rows of a KV head are the queries of its group at all positions: row
 * i * group + g. The tokens that a row sees of a set, by rank (sight.h), are divided
 * into ranges of RANGE, wherever the call's shapes or threads would like borders;
 * each range gives a part, and parts are folded in an order of their own (fold.h).
 * So a row's result depends neither on who computes what nor on the rows beside it.
 *
 * An item of work is a block of rows and all ranges of all sets, or, where there are
 * few blocks, some consecutive ranges of one set. Then the item that finishes a
 * block's last one folds what the others left.
 */
#ifndef TQKV_ATTEND_CALL_H
#define TQKV_ATTEND_CALL_H

#include <stdatomic.h>

#include "attend/fold.h"
#include "attend/sight.h"
#include "attend/tile.h"
#include "codec/row.h"

enum {
    BLOCK = 64, /* rows */
    RANGE = 2048 /* tokens by rank, a multiple of TILE */
};

/* Logits stay within it, so that their differences are finite. */
#define LARGEST_LOGIT 1e37f

/* How a set's rows become tiles; key_rest where keys have a level_error. */
typedef struct set_plans {
    tile_plan keys, values, key_rest;
    size_t offset; /* tokens in the sets before */
    /* What sums of values are made of: of levels, in the order and domain of the codes, and
     * of plain numbers and means, in the original domain. Where there are both, plain ones
     * are behind the others in a part. */
    int has_coded, has_plain;
} set_plans;

typedef struct attend_call {
    const tqkv_attention *a;
    const tqkv_partial *result;
    const attend_kernels *kernels;
    uint32_t group;           /* query heads of a KV head */
    unsigned key_dim, value_dim;
    unsigned part_dim;        /* floats of a part's row: value_dim, or twice that */
    uint32_t n_blocks;        /* of each KV head */
    size_t block_rows;        /* in the largest block */
    size_t n_tokens;          /* of all sets */
    size_t n_bases;           /* n_kv_heads * n_blocks */
    /* A block's work is n_items items: one, or for each set as many as it has groups
     * of group_ranges ranges, a power of two. */
    size_t n_items, group_ranges;
    size_t fold_depth;        /* of the ranges, were all tokens of one set */
    size_t n_tasks, max_tasks; /* at work; there is scratch for */
    size_t items_at_once; /* divides the number of items */
    int has_floats;           /* some rows become floats, not levels */
    /* Parts of the workspace: */
    set_plans *plans;          /* [n_sets] */
    atomic_size_t *next_item;
    atomic_size_t *unfinished; /* [n_bases] items */
    sight *sights;             /* [n_sets][mask rows], if there is a mask */
    tqkv_partial parts;        /* [n_bases][n_items][block_rows], if n_items > 1 */
    uint8_t *scratch;          /* [n_tasks][scratch_bytes] */
    size_t scratch_bytes;
} attend_call;

/* A block of rows: `rows` of them from first_row on, of one KV head. */
typedef struct attend_block {
    uint32_t head;
    size_t first_row;
    unsigned rows;
} attend_block;

/* What a task works with: carved from its scratch. Arrays have block_rows rows. */
typedef struct attend_scratch {
    int8_t *key_tile, *value_tile;
    float *key_floats, *value_floats; /* [TILE][dim] */
    float *original, *rotated;        /* [rows][key_dim] queries; rotated: balanced first */
    uint8_t *packed;                  /* [rows] packed queries */
    float *key_unit;                  /* [rows] of a score */
    /* [rows] Root mean square errors of a logit, for a key of scale 1: from
     * narrow queries, and from levels that are rounded. */
    float *narrow_error, *level_error;
    int32_t (*score)[TILE], (*rest)[TILE];
    uint8_t *has_rest;                /* [rows] rest[r] belongs to the logits */
    float (*logit)[TILE], (*mask)[TILE], (*p)[TILE];
    float (*e)[TILE];                 /* exp(logit - max) */
    float (*plain)[TILE];             /* scores or weights of plain rows and of means */
    const uint8_t **plain_rows;       /* [TILE] */
    tile_mean *means;                 /* [TILE] */
    float *mean_score, *chosen;       /* [rows]; chosen: the weight of one mean's rows */
    /* Values' means of the tiles at hand, and what weight each has so far (plain.c). */
    unsigned n_weighed;
    const uint8_t **weighed;          /* [TILE] */
    float (*mean_weight)[TILE];       /* [rows] */
    const float **mask_row;           /* [rows] into mask: rows may share one; null: all 0 */
    uint16_t (*weight)[TILE];
    float *peak, *value_unit;         /* [rows] */
    float *sums;                      /* [rows][part_dim] */
    /* [rows] each, of part_dim; the result of value_dim. */
    tqkv_partial range, part, result;
    tqkv_partial folds[FOLD_LEVELS];  /* fold_depth of them, [rows] each */
    float **sum_rows, **plain_sums;   /* [rows] into sums */
    softmax_state *state;             /* [rows] */
    size_t *low_rank, *high_rank;     /* [rows] the tokens of the walk it sees */
    uint8_t *low, *high;              /* [rows] the tokens of the tile it sees */
    uint8_t *is_wide;                 /* [rows] */
    const tile_plan *key_plan, *value_plan, *rest_plan;
    tile_rows *keys, *values;         /* the tile at hand */
    token_runs *tokens;
    tile_rows *next_keys, *next_values;
    token_runs *next_tokens;
    /* Whose rows to ask memory for: the next tile's, or where there is none
     * those at hand. */
    const tile_rows *ahead_keys, *ahead_values;
} attend_scratch;

/* scratch.c: bytes of one task's scratch; places it at a 64-byte aligned
 * address unless that is null. */
size_t attend_scratch_place(const attend_call *c, uint8_t *at, attend_scratch *s);

/* query.c: reads, balances, rotates and packs the block's queries for a set. */
void attend_prepare(const attend_call *c, const attend_scratch *s, const tqkv_operand *keys,
                    const attend_block *b);

static inline size_t ranges_of(size_t n_tokens)
{
    return n_tokens / RANGE + (n_tokens % RANGE != 0);
}

/* range.c: the block over ranges [first, end) of set number `set`. Sums are in the
 * order and domain of the set's codes. */
void attend_ranges(const attend_call *c, attend_scratch *s, const attend_block *b, size_t set,
                   size_t first, size_t end, const tqkv_partial *part);
/* Brings a part of all ranges to the original domain and merges it into the block's
 * result over the sets before. */
void attend_finish(const attend_call *c, size_t set, unsigned n_rows, const tqkv_partial *part,
                   const tqkv_partial *result);

/* plain.c: scores of the tile's plain keys to their places in the logits, scaled; their
 * values, weighted. */
void plain_keys(const attend_call *c, const attend_scratch *s, const attend_block *b, unsigned n);
void plain_values(const attend_call *c, const attend_scratch *s, const attend_block *b, unsigned n);
/* What a key's mean adds to the logits of rows that have chosen it, to mean_score; and adds
 * n means' shares. */
void score_mean(const attend_call *c, const attend_scratch *s, const attend_block *b,
                const tile_mean *mean);
void add_means(const attend_call *c, const attend_scratch *s, const attend_block *b,
               const tile_mean *means, unsigned n);
/* Weighs those of values; what they add to sums, once in mean_tiles() tiles. */
void weigh_means(const attend_call *c, attend_scratch *s, const attend_block *b,
                 const tile_mean *means, unsigned n);
void add_weighed_means(const attend_call *c, attend_scratch *s, const attend_block *b);

/* Values' means of several tiles share the way to the sums and back. Of how many tiles must
 * follow from ranks alone: which means a tile has may depend on rows that another row of the
 * block sees. So there has to be room for as many as the tiles can have: without a mask a
 * tile is in up to three pages of up to four means; with one it may be in 64. */
static inline size_t mean_tiles(const attend_call *c)
{
    return c->a->mask ? 1 : 4;
}
_Static_assert(4 * 3 * TQKV_MAX_MEANS <= TILE, "room for the means of 4 tiles");

/* logits.c: scores of a tile to logits of what each row sees, minus infinity
 * elsewhere. n_means: of the tile's keys, in s->means; with one, mean_score is there. */
void attend_logits(const attend_call *c, const attend_scratch *s, const attend_block *b, size_t set,
                   unsigned n, unsigned n_means);

/* merge.c: rows of [from] join those of [into]; a row without tokens changes no bit
 * of the other. */
void merge_rows(size_t n_rows, unsigned dim, const tqkv_partial *from, const tqkv_partial *into);

static inline size_t row_query(const attend_call *c, size_t row)
{
    return row / c->group;
}

static inline uint32_t row_head(const attend_call *c, const attend_block *b, size_t row)
{
    return b->head * c->group + (uint32_t)(row % c->group);
}

#endif

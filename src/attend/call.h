/*
 * A call of tqkv_attend, checked and divided.
 *
 * The rows of a KV head are the queries of its group at all positions: row
 * i * group + g. An item of work is a block of such rows over a range of the
 * tokens; ranges depend on the shapes only, so that results do not depend on
 * who computes an item. Where there are several ranges, the item that finishes
 * a block's last one merges them, in their order.
 */
#ifndef TQKV_ATTEND_CALL_H
#define TQKV_ATTEND_CALL_H

#include <stdatomic.h>

#include "attend/tile.h"
#include "codec/row.h"

enum { BLOCK = 64 /* rows */ };

/* Logits stay within it, so that their differences are finite. */
#define LARGEST_LOGIT 1e37f

/* How a set's rows become tiles; key_rest where keys have a level_error. */
typedef struct set_plans {
    tile_plan keys, values, key_rest;
} set_plans;

typedef struct attend_call {
    const tqkv_attention *a;
    const tqkv_partial *result;
    const attend_kernels *kernels;
    uint32_t group;           /* query heads of a KV head */
    unsigned key_dim, value_dim;
    uint32_t n_blocks;        /* of each KV head */
    size_t block_rows;        /* in the largest block */
    size_t n_tokens;          /* of all sets */
    size_t n_ranges, range_tokens;
    size_t n_bases;           /* n_kv_heads * n_blocks */
    size_t n_tasks, max_tasks; /* at work; there is scratch for */
    size_t items_at_once; /* divides the number of items */
    unsigned max_centres;
    int has_floats;           /* some operand is TILE_FLOAT */
    /* Parts of the workspace: */
    set_plans *plans;          /* [n_sets] */
    atomic_size_t *next_item;
    atomic_size_t *unfinished; /* [n_bases] ranges */
    tqkv_partial parts;        /* [n_bases][n_ranges][block_rows], if n_ranges > 1 */
    uint8_t *scratch;          /* [n_tasks][scratch_bytes] */
    size_t scratch_bytes;
} attend_call;

/* A block of rows: `rows` of them from first_row on, of one KV head. */
typedef struct attend_block {
    uint32_t head;
    size_t first_row;
    unsigned rows;
} attend_block;

/* What a mask does to a tile: adds 0, adds something, hides all tokens. */
typedef enum mask_effect { MASK_NOTHING, MASK_SOME, MASK_ALL } mask_effect;

/* What a task works with: carved from its scratch. Arrays have block_rows rows. */
typedef struct attend_scratch {
    int8_t *key_tile, *value_tile;
    float *key_floats, *value_floats; /* [TILE][dim] */
    float *balanced, *rotated;        /* [rows][key_dim] queries */
    uint8_t *packed;                  /* [rows] packed queries */
    float *key_unit;                  /* [rows] of a score */
    /* [rows] Root mean square errors of a logit, for a key of scale 1: from
     * narrow queries, and from levels that are rounded. */
    float *narrow_error, *level_error;
    float *centre_logits;             /* [rows][max_centres] */
    int32_t (*score)[TILE], (*rest)[TILE];
    int has_rest;                     /* rest holds the tile's */
    float (*logit)[TILE], (*mask)[TILE], (*p)[TILE];
    const float **mask_row;           /* [rows] into mask: rows may share one */
    mask_effect *mask_effect;         /* [rows] */
    uint16_t (*weight)[TILE];
    float *peak, *value_unit;         /* [rows] */
    float *sums, *out;                /* [rows][value_dim] */
    float **sum_rows;                 /* [rows] into sums */
    softmax_state *state;             /* [rows] */
    uint8_t *low, *high;              /* [rows] the tokens of the tile it sees */
    uint8_t *is_wide;                 /* [rows] */
    const tile_plan *key_plan, *value_plan, *rest_plan;
    tile_rows *keys, *values;         /* the tile at hand */
    tile_rows *next_keys, *next_values;
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

/* range.c: the block over tokens [first, end) of all sets' tokens in a row. */
void attend_range(const attend_call *c, attend_scratch *s, const attend_block *b,
                  size_t first, size_t end, const tqkv_partial *part);

/* logits.c: scores of a tile to logits of what each row sees, minus infinity
 * elsewhere; token counts in all sets. attend_see says first which tokens those
 * are, and whether there are any. */
int attend_see(const attend_call *c, const attend_scratch *s, const attend_block *b,
               const tqkv_tokens *set, size_t token, size_t token_of_all, unsigned n);
void attend_logits(const attend_call *c, const attend_scratch *s, const attend_block *b,
                   const tqkv_tokens *set, size_t token);

/* merge.c: adds a row to another; out is a sum yet to be divided by `sum` if
 * normalised is 0. */
void merge_row(float max, float sum, const float *out, int normalised, unsigned dim,
               float *into_max, float *into_sum, float *into_out);
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

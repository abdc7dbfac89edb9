/* 64 tokens of one head, found and expanded. */
#ifndef TQKV_ATTEND_TILE_H
#define TQKV_ATTEND_TILE_H

#include "attend/kernels.h"
#include "attend/sight.h"

/* Tokens at constant strides: those of the tile from the end of the run before
 * to `end`. */
typedef struct tile_run {
    const tqkv_operand *operand; /* that they are rows of */
    /* Of the first of them; null where the operand has none. */
    const uint8_t *scales;
    const uint8_t *means, *numbers; /* of their page */
    uint8_t place;               /* of the first of them in its page */
    uint8_t end;
} tile_run;

typedef struct tile_rows {
    const uint8_t *rows[TILE]; /* codes or numbers; beyond the last token: the last one's */
    unsigned n_runs;
    tile_run runs[TILE];
    uint64_t plain;            /* bit t: token t is plain numbers */
    uint64_t chosen;           /* its row has chosen a mean */
    float scales[TILE];        /* 0 beyond the last token and of plain ones; 1 if TILE_FLOAT */
    float largest_scale;
} tile_rows;

/* Bits [from, to). */
static inline uint64_t tile_bits(unsigned from, unsigned to)
{
    uint64_t below = to < TILE ? ((uint64_t)1 << to) - 1 : ~(uint64_t)0;
    return from < TILE ? below >> from << from : 0;
}

/* Whether the first n tokens are all plain. */
static inline int tile_is_plain(const tile_rows *rows, unsigned n)
{
    return (rows->plain & tile_bits(0, n)) == tile_bits(0, n);
}

typedef enum tile_operand { TILE_KEYS, TILE_VALUES } tile_operand;

/* Finds the rows of 1 to 64 tokens of the set: codes and runs. Asks memory for
 * scales, but reads none. */
void tile_locate(const tqkv_tokens *set, tile_operand operand, const attend_kernels *k,
                 uint32_t head, const token_runs *tokens, tile_rows *rows);

/* Reads the scales and choices of a tile that has been located. */
void tile_scales(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 tile_rows *rows);

/* TILE_FLOAT: the rows that are not plain as floats (rotated domain), scale included;
 * zeros elsewhere. */
void tile_floats(const tqkv_operand *o, const tile_plan *p, const tile_rows *rows, unsigned n,
                 float *floats);

/* The plain ones of n rows, finite, as floats; zeros elsewhere. */
void tile_plain_floats(const tqkv_operand *o, const attend_kernels *k, const tile_rows *rows,
                       unsigned n, float *floats);

/* A mean that rows of the tile have chosen, and which do. */
typedef struct tile_mean {
    const uint8_t *bytes;
    uint64_t where;
} tile_mean;

/* The means of a tile, those of one page together; up to TILE of them. */
unsigned tile_all_means(const tile_rows *rows, tile_mean *means);

static inline unsigned tile_means(const tile_rows *rows, tile_mean *means)
{
    if (rows->n_runs > 1 || rows->runs[0].operand->n_means > 1)
        return tile_all_means(rows, means);
    means[0] = (tile_mean){rows->runs[0].means, rows->chosen};
    return rows->chosen != 0;
}

#endif

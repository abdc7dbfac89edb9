/* 64 tokens of one head, found and expanded. */
#ifndef TQKV_ATTEND_TILE_H
#define TQKV_ATTEND_TILE_H

#include "attend/kernels.h"
#include "attend/sight.h"

/* Tokens at constant strides: those of the tile from the end of the run before
 * to `end`. */
typedef struct tile_run {
    const uint8_t *scales, *centres;
    uint32_t page; /* its number, if there are pages */
    uint8_t end;
} tile_run;

typedef struct tile_rows {
    const uint8_t *codes[TILE]; /* beyond the last token: the last one's */
    unsigned n_runs;
    tile_run runs[TILE];
    float scales[TILE];         /* 0 beyond the last token; 1 if TILE_FLOAT */
    float largest_scale;
    uint8_t centres[TILE];      /* numbers, if the operand has them */
} tile_rows;

/* Finds the rows of 1 to 64 tokens of the set: codes and runs. Asks memory for
 * scales, but reads none. */
void tile_locate(const tqkv_tokens *set, const tqkv_operand *o, const attend_kernels *k,
                 uint32_t head, const token_runs *tokens, tile_rows *rows);

/* Reads the scales and centres of a tile that has been located. */
void tile_scales(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 tile_rows *rows);

/* TILE_FLOAT: the rows as floats (rotated domain), scale included; zeros beyond
 * the n-th. */
void tile_floats(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 const tile_rows *rows, unsigned n, float *floats);

#endif

/* 64 tokens of one head, found and expanded. */
#ifndef TQKV_ATTEND_TILE_H
#define TQKV_ATTEND_TILE_H

#include "attend/kernels.h"

typedef struct tile_rows {
    const uint8_t *codes[TILE]; /* beyond the last token: the last one's */
    float scales[TILE];         /* 0 beyond the last token; 1 if TILE_FLOAT */
    float largest_scale;
    const uint8_t *norms[TILE]; /* TILE_FLOAT of mlx: where each row's norms are */
    uint8_t centres[TILE];      /* numbers, if the operand has them */
    /* Pages: the tokens before page_end[i] lie in page number[i]. */
    unsigned n_pages;
    uint8_t page_end[TILE];
    uint32_t page_number[TILE];
} tile_rows;

/* Finds n tokens (1 to 64) from `token` of the set on. */
void tile_locate(const tqkv_tokens *set, const tqkv_operand *o, const tile_plan *p,
                 const attend_kernels *k, uint32_t head, size_t token, unsigned n,
                 tile_rows *rows);

/* TILE_FLOAT: the rows as floats (rotated domain), scale included; zeros beyond
 * the n-th. */
void tile_floats(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 const tile_rows *rows, unsigned n, float *floats);

#endif

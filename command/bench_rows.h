/* Keys and values for tqkv bench --attention, in memory as engines have them. */
#ifndef TQKV_COMMAND_BENCH_ROWS_H
#define TQKV_COMMAND_BENCH_ROWS_H

#include "tqkv_attention.h"

enum { BENCH_HEADS = 8 };

typedef struct bench_rows {
    tqkv_format format;
    int is_half, has_means, n_staged;
    double row_bytes;
    size_t n_pages;
    uint8_t *memory[2], *means[2], *staged[2]; /* of keys and values, [heads][pages] */
    uint32_t *pages;
    tqkv_page_kind kind;
    tqkv_tokens set;
} bench_rows;

/* NAME: rows in pages; NAME+means: sealed pages; NAME+staged: those, but for the last page,
 * which is staged; f16: numbers as they are. */
tqkv_status bench_rows_parse(bench_rows *r, const char *name, uint32_t head_dim);

/* Gaussian rows around means, of which a few pages repeat. 0 if out of memory, said so. Free
 * them in either case. r->set refers to r. */
int bench_rows_make(bench_rows *r, uint32_t n_heads, size_t n_tokens);
void bench_rows_free(bench_rows *r);

/* Memory in large pages where the system has them, for us as for ggml. Null: said so. */
void *bench_allocate(size_t bytes);

#endif

/*
 * tqkv - attention computed on codes
 *
 * tqkv_attend attends from queries to keys and values that lie in memory as
 * rows (tqkv.h) or as plain numbers, without decoding them to memory: codes
 * become 8-bit levels, 64 tokens at a time, that integer products work on.
 * Queries come and outputs leave in the original domain; rotations, balances and
 * the means of pages (tqkv_page.h) are applied inside.
 *
 * The conventions of tqkv.h hold, but that results are the same bytes on one
 * instruction set only; between them they differ within these bounds:
 *
 * - Error, against attention in double precision over the exact decoded rows:
 *   at most 1.5e-2 of the output's norm for formats up to 6 bits, 1e-3 for
 *   those of more, 1e-5 for plain numbers, for logits within +-100. (Rows made
 *   from the roundings of one query or its weights, so that their errors line
 *   up, can do worse. doc/attention.md says where the error comes from, and
 *   what it is on real data.)
 * - Finite input never gives NaN. NaN in queries counts as 0, magnitudes
 *   beyond 2^40 as 2^40, in queries and plain keys and values; a scale that no
 *   encoder writes (negative, infinite or NaN) counts as 0.
 * - A query's result follows from the query and from the tokens that it sees, in
 *   their order, and from nothing else: it is the same bits for any number of
 *   threads, for any other queries in the call, for any bytes in rows that it does
 *   not see, and wherever a mask hides tokens between those that it sees. So batches
 *   of any size, drafts that are taken back and sequences beside each other give
 *   what one token at a time gives. (Without a mask tokens count from their set's
 *   first, hidden or not, which has to be the same token in both calls; with one
 *   from the first that it shows. Other sets, or calls that are merged, change the
 *   last bits, and so does a window in the mask instead of `window`.)
 */
#ifndef TQKV_ATTENTION_H
#define TQKV_ATTENTION_H

#include "tqkv_page.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ */
/* Where keys and values lie                                          */
/* ------------------------------------------------------------------ */

/* Bytes from one head, or one page, to the next. */
typedef struct tqkv_strides {
    size_t codes, scales, means, numbers;
} tqkv_strides;

/* The keys, or the values, of all KV heads. The row of head h in slot s begins
 * at rows.codes + s * rows.code_stride + h * head.codes, its scale
 * likewise; with pages at
 *   rows.codes + pages[s / page_size] * page.codes
 *              + s % page_size * rows.code_stride + h * head.codes. */
typedef struct tqkv_operand {
    /* Codebook 0: plain numbers of `type`, head_dim of them a row, at
     * rows.codes; they have no scales and need no alignment. All of the format but head_dim
     * is then 0. */
    tqkv_format format;
    uint8_t type; /* tqkv_type */
    tqkv_rows rows;
    tqkv_strides head, page;
    /* Sealed pages (tqkv_page.h): the means of page number n and head h begin at
     *   means + n * page.means + h * head.means,
     * n_means of head_dim + 2 bytes each, and with more than one the rows' numbers, 16
     * bytes, at numbers + n * page.numbers + h * head.numbers. Null and 0: rows have no
     * choice. page_size has to be TQKV_PAGE_TOKENS.
     *
     * Pages as tqkv_page_at lays them out, one after the other, [page][head], of so many
     * bytes each: rows, means, numbers and n_means are those of page 0 and head 0; every
     * stride of `head` is bytes, every one of `page` n_kv_heads * bytes. */
    const uint8_t *means, *numbers;
    uint32_t n_means;
    /* For keys in codes: the balance that each head's rows were encoded or sealed with,
     * [n_kv_heads][head_dim], finite and positive (which is not checked), or null. */
    const float *balances;
} tqkv_operand;

/* Pages of another kind than most: their keys and values, laid out as an operand's, and
 * the bound of their numbers. They have no balances: the set's hold. Mixed pages have the
 * set's formats, and means where the set's have; staged ones have the set's type where that
 * is plain, too. */
typedef struct tqkv_page_kind {
    tqkv_operand keys, values;
    uint32_t n_pages;
} tqkv_page_kind;

/* In a page table, of which kind a page is: an entry has one of these bits, or none. Its
 * number is the entry without it. */
#define TQKV_PAGE_STAGED 0x80000000u
#define TQKV_PAGE_MIXED 0x40000000u

/* n_tokens tokens at consecutive positions, the first in slot first_slot and
 * at `position`. */
typedef struct tqkv_tokens {
    size_t n_tokens;
    uint64_t position;
    size_t first_slot;
    /* Slots of a ring: behind the last comes slot 0. 0 if it is none. */
    size_t capacity;
    /* Slots lie in pages of page_size (16 to 256), by number: pages[] has one
     * for each page of slots up to the last in use, each below n_pages. Null:
     * slots lie one after the other. */
    const uint32_t *pages;
    size_t page_size;
    uint32_t n_pages;
    tqkv_operand keys, values;
    /* Where the page table has entries with TQKV_PAGE_STAGED, plain numbers that are
     * waiting to be sealed, and with TQKV_PAGE_MIXED, pages with several means, whose
     * format is the others'. Their pages are numbered from 0 again. Null for none. Masks and
     * positions count tokens of all kinds alike. */
    const tqkv_page_kind *staged, *mixed;
} tqkv_tokens;

/* ------------------------------------------------------------------ */
/* What to compute                                                    */
/* ------------------------------------------------------------------ */

/* The logit of query i of head h and a token is
 *   l = scale * query . key,
 *   l = softcap * tanh(l / softcap)                 if softcap is not 0,
 *   l + slopes[h] * (token's position - query's)    if slopes is not null,
 *   l + mask_slopes[h] * mask[h][i][token]          if mask is not null,
 * and minus infinity where the token is not seen: behind the query's position,
 * if causal; window positions or more before it, if window is not 0. Query head
 * h reads KV head h / (n_heads / n_kv_heads).
 *
 * Models, by example (head_dim 128):
 *   Llama, Qwen, SmolLM    scale 1/sqrt(128), causal
 *   Gemma 2                softcap 50; every second layer window 4096
 *   Gemma 3                scale 1/sqrt(256), window 512 or 1024 in 5 of 6 layers
 *   gpt-oss                sinks; every second layer window 128
 *   MPT, BLOOM             slopes 2^(-8 (h + 1) / n_heads)
 *   speculative decoding   n_queries 2 to 32, causal; trees by a mask
 */
typedef struct tqkv_attention {
    uint32_t n_queries; /* positions */
    uint32_t n_heads, n_kv_heads;
    uint64_t position; /* of the first query; the others follow */
    /* queries[i][h][.], query_stride and head_stride elements apart (0:
     * n_heads * head_dim and head_dim). */
    const void *queries;
    tqkv_type query_type;
    size_t query_stride, head_stride;

    float scale;         /* magnitude up to 2^20, as of softcap and slopes */
    int causal;
    uint64_t window;
    float softcap;
    const float *slopes; /* [n_heads] */
    /* [n_heads]: a logit, up to 1e37, that takes part in the softmax without a
     * value; minus infinity for none. When work is split over several calls,
     * give them to one of these only. */
    const float *sinks;
    /* f16 or f32, finite or minus infinity (NaN counts as that), which hides the
     * token; mask_stride elements from query to
     * query, mask_head_stride from head to head (0: the same for all heads).
     * Tokens are counted through all sets. */
    const void *mask;
    tqkv_type mask_type;
    size_t mask_stride, mask_head_stride;
    /* [n_heads], finite, not negative; null for 1. ALiBi where the mask holds
     * the distances, as ggml's does. */
    const float *mask_slopes;

    /* One set of tokens or more, which may be empty. Their formats may differ,
     * their head_dims not. */
    const tqkv_tokens *sets;
    size_t n_sets;
} tqkv_attention;

/* What attention over some of the tokens gives; parts over disjoint tokens
 * merge to that over all of them. Rows are [n_queries][n_heads]. */
typedef struct tqkv_partial {
    float *out; /* [rows][head_dim of the values]; 0 where no token is seen */
    float *max; /* [rows] largest logit, minus infinity where no token is */
    float *sum; /* [rows] sum of exp(logit - max), 0 where no token is */
} tqkv_partial;

/* ------------------------------------------------------------------ */
/* Calls                                                              */
/* ------------------------------------------------------------------ */

/* Runs task(argument, 0) to task(argument, n_tasks - 1), at the same time or
 * one after the other, and returns when all have. */
typedef void (*tqkv_run_function)(void *context, size_t n_tasks,
                                  void (*task)(void *argument, size_t index),
                                  void *argument);

/* Who computes. A null executor is OpenMP with its default number of threads. */
typedef struct tqkv_executor {
    uint32_t n_threads;    /* tasks a call is divided into; 0: OpenMP's default */
    tqkv_run_function run; /* null: OpenMP */
    void *context;
} tqkv_executor;

/* Bytes of workspace that tqkv_attend needs for these shapes, and for any with
 * fewer queries or tokens, in whichever set they are: some hundred KiB a thread, and
 * for long contexts some rows of partial results. A mask for each head takes more than
 * one for all: mask_head_stride counts. Pointers to data in `a` may be null here. */
TQKV_API tqkv_status tqkv_attend_workspace(const tqkv_attention *a,
                                           const tqkv_executor *executor,
                                           size_t *bytes);

/* Attends. result->max and ->sum may be null. The workspace needs no alignment
 * and keeps nothing between calls. Concurrent calls need a workspace each and
 * may share everything they only read. Allocates nothing. */
TQKV_API tqkv_status tqkv_attend(const tqkv_attention *a,
                                 const tqkv_partial *result,
                                 const tqkv_executor *executor,
                                 void *workspace, size_t workspace_size);

/* Merges `from` into `into`, n_rows rows of v_head_dim: afterwards `into` is
 * the result over the tokens of both. Any order and grouping of merges gives
 * the same up to 1e-6 relative. Neither max nor sum may be null. The softmax
 * identity: Milakov and Gimelshein (2018), arXiv:1805.02867. */
TQKV_API tqkv_status tqkv_merge(size_t n_rows, uint32_t v_head_dim,
                                const tqkv_partial *from,
                                const tqkv_partial *into);

#ifdef __cplusplus
}
#endif

#endif /* TQKV_ATTENTION_H */

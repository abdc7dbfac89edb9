#pragma once
/* Parameters of attend_tensor.cu, beside those of params.h. */

/* A format's levels as pairs of 8-byte tables (attend_tensor.cu, "Look-up"):
 * [summand][table][word]. Three taps have one table each. */
typedef struct level_tables {
    uint words[3][2][2];
} level_tables;

/* Rows of one head and one page (or sequence) stand one behind the other. */
typedef struct tensor_operand {
    ulong code_head, scale_head, mean_head;
    ulong code_group, scale_group, mean_group; /* from page to page, or sequence to sequence */
    level_tables tables;
} tensor_operand;

typedef struct tensor_params {
    tensor_operand keys, values;
    staged_params staged_keys, staged_values;
    rotation_params query_rotation, out_rotation;
    ulong position, window, first_position;
    ulong mask_row, mask_head; /* elements */
    uint n_sequences, n_queries, n_heads, n_kv_heads, group;
    uint n_tokens, has_lengths, causal;
    uint first_slot; /* of the first tile: a multiple of TILE where slots are counted from 0 */
    uint skipped;    /* slots of the first tile before the first token */
    uint capacity;   /* of a ring, or 0 */
    uint page_size;  /* 0: no pages */
    uint page_factor, page_shift; /* to divide by it: dispatch_tensor.c, divisor_make */
    uint pages_stride, n_pages, n_staged;
    uint n_query_rows; /* where sequences have starts */
    uint has_mask_slopes;
    uint tiles_of_sequence; /* of all heads, if there are no lengths */
    uint n_blocks;   /* of ROWS query rows that a KV head has */
    uint blocks_of_head; /* thread blocks that share the tiles of one block of rows of a head; 0: of
                          * the list */
    uint query_type, out_type;
    uint has_sinks;
    uint overlaps;   /* the launch before this one is of this kernel, and may not have ended */
    uint minus_one;  /* what the compiler shall not know */
    float scale;     /* of logits */
    float key_unit, value_unit; /* a level's worth, times the scale of its row */
    float softcap;
} tensor_params;

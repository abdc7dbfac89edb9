#pragma once
/* Parameters of the kernels, in the layout that both sides share: larger members
 * first, nothing between them that a compiler could fill. */

/* The reference's (tq_dequantize_kv.metal), member for member. */
typedef struct tq_dequantize_kv_params {
    uint head_dim, num_kv_heads, read_pos, cache_capacity, norms_per_pos;
    float scale_factor_d512;
} tq_dequantize_kv_params;

typedef struct tq_dequantize_hb_kv_params {
    uint head_dim, num_kv_heads, read_pos, cache_capacity, norms_per_pos;
    float scale_factor_d512;
    uint codebook_bits; /* 5, 6 or 8 */
} tq_dequantize_hb_kv_params;

/* Positions first to first + n_positions - 1 of all heads, around the ring. */
typedef struct mlx_range_params {
    uint head_dim, num_kv_heads, first, n_positions, cache_capacity, norms_per_pos;
    float scale_factor_d512;
    uint bits;     /* 4, 5, 6 or 8 */
    uint dst_type; /* 0 f32, 1 f16, 2 bf16 */
    uint wide;     /* dst may be written 16 bytes at a time */
    uint words;    /* packed may be read 4 bytes at a time */
} mlx_range_params;

typedef struct mlx_quantize_params {
    uint head_dim, num_kv_heads, first, n_positions, cache_capacity, norms_per_pos, bits;
    uint has_signs;
    uint src_type;
} mlx_quantize_params;

typedef struct requantize_params {
    ulong n;
    uint bits, wide;
} requantize_params;

/* H = outer (x) Sylvester, after flips of sign (doc/format.md, section 4). */
typedef struct rotation_params {
    ulong outer[36]; /* bit j of outer[i]: row i, column j is -1 */
    ulong signs[16];
    uint order; /* of the outer factor, 1 if there is none */
    uint active, has_signs;
    float inverse_root; /* 1 / sqrt(head_dim) */
} rotation_params;

/* A format of rows. */
typedef struct format_params {
    uint head_dim;
    uint kind; /* codebook: 0 plain numbers, then as tqkv_codebook */
    uint bits;
    uint code_bits; /* that a value's code takes: a byte for mlx5 and mlx6 */
    uint type; /* plain numbers: tqkv_type */
    uint code_bytes;
    uint words; /* codes begin at multiples of 4 bytes in all rows */
    float block_factor; /* mlx over 256 values: its norms divide by it */
    float inverse_root; /* mlx up to 256 values: its norm times it */
    uint unused;
} format_params;

/* Rows one after the other; strides in bytes. */
typedef struct rows_params {
    ulong n_rows;
    ulong code_stride, scale_stride;
    ulong value_stride; /* of the array of numbers, in bytes */
    rotation_params rotation;
    format_params format;
    uint value_type; /* tqkv_type */
    uint has_balance;
    uint original;   /* decode: undo the rotation and the balance */
    uint wide;       /* numbers may be moved 16 bytes at a time */
    uint lanes;       /* encode: items a row */
    uint team_floats; /* and local memory a row */
} rows_params;

/* Where an operand of attention lies: strides in bytes. */
typedef struct operand_params {
    ulong code_row, scale_row;
    ulong code_head, scale_head;
    ulong code_page, scale_page;
    ulong code_sequence, scale_sequence;
    ulong mean_head, mean_page;
    format_params format;
} operand_params;

/* Where staged rows of keys, or of values, lie: strides in bytes. */
typedef struct staged_params {
    ulong row, head, page;
    uint type, unused;
} staged_params;

/* How tokens are numbered slots, and slots lie in pages. */
typedef struct place_params {
    ulong first_slot;
    uint capacity;     /* slots of a ring, or 0 */
    uint page_size;    /* 0: no pages */
    uint pages_stride; /* page numbers from sequence to sequence */
    uint n_pages;
    uint n_staged; /* 0: page numbers are those of sealed pages */
    uint unused;
} place_params;

typedef struct attend_params {
    operand_params keys, values;
    staged_params staged_keys, staged_values;
    place_params places;
    ulong position;    /* of the first query, if no lengths are given */
    ulong window;      /* 0: none */
    ulong first_position;
    ulong mask_row, mask_head; /* elements */
    ulong n_rows;      /* of queries, with all heads */
    uint n_queries, n_heads, n_kv_heads, group; /* group: query heads a KV head */
    uint n_query_rows; /* of all sequences, where these have starts */
    uint n_tokens;     /* most tokens of a sequence */
    uint has_lengths, has_starts, causal, n_splits;
    uint has_key_means, has_value_means;
    uint has_original; /* queries and results in the original domain stand beside those in
                        * the rows' */
    uint has_mask, mask_type, has_mask_slopes, has_slopes;
    uint unused;
    float scale, softcap;
} attend_params;

/* New rows, [sequence][position][KV head] of keys, then of values. */
typedef struct append_params {
    operand_params keys, values;
    place_params places;
    rotation_params rotation; /* of keys and values: or they have a launch each */
    uint first_row, n_rows; /* of all keys and values, those of this launch */
    uint n_each;            /* keys, or values */
    uint n_positions, n_kv_heads, n_tokens, has_lengths;
    uint value_type, has_balances;
    uint lanes, team_floats; /* as in rows_params */
    uint unused;
} append_params;

/* Keys or values in pages, and where their rows come from: staged pages, or new rows. Strides in
 * bytes. */
typedef struct pages_side {
    ulong code_layer, code_page, code_head;
    ulong scale_layer, scale_page, scale_head;
    ulong mean_layer, mean_page, mean_head;
    ulong from_layer, from_page, from_head;
    uint code_row, scale_row, from_row;
    uint from_type, from_wide; /* wide: rows may be read 16 bytes at a time */
    uint has_mean, has_balance, unused;
    format_params format;
} pages_side;

/* Rows that pages get: staged ones by jobs, or new ones by places. */
typedef struct pages_params {
    pages_side keys, values;
    rotation_params rotation; /* of keys and values: or they have a launch each */
    uint first_layer, n_layers, n_kv_heads;
    uint first_side, n_sides; /* keys are side 0, values 1 */
    uint n_pages, n_staged;
    uint n_jobs; /* or new rows */
    uint has_count, is_write;
    uint parts;   /* groups that share a page's rows */
    uint mean_at; /* in floats: where the mean is in local memory */
    uint lanes, team_floats;
} pages_params;

/* Pages as numbers. */
typedef struct read_params {
    pages_side keys, values;
    rotation_params rotation;
    ulong to_row, to_head; /* bytes */
    uint layer, n_kv_heads, first_side, n_sides;
    uint n_pages, n_staged, n_numbers;
    uint to_type, to_wide;
    uint unused;
} read_params;

/* New rows into staged pages. */
typedef struct stage_params {
    ulong from_layer[2], from_row[2], from_head[2]; /* bytes; of keys and of values */
    ulong to_layer[2], to_page[2], to_row[2], to_head[2];
    uint dim[2], to_type[2], is_wide[2];
    uint from_type, first_layer, n_layers, n_kv_heads, n_rows, n_staged;
    uint pieces; /* of 8 numbers, of the longer row */
    uint unused;
} stage_params;

/* Queries to rows of floats that the attention kernel reads. */
typedef struct query_params {
    rotation_params rotation;
    ulong n_rows; /* of all sequences and heads */
    uint head_dim, n_heads, n_kv_heads, type;
    uint has_balances, has_original;
    uint has_starts, n_splits, part; /* part: floats of a partial result */
    uint unused;
} query_params;

typedef struct merge_params {
    ulong out_stride; /* bytes from row to row */
    rotation_params rotation;
    uint head_dim, n_splits, n_heads;
    uint type;
    uint part; /* floats of a partial result */
    uint has_original;
    uint has_sinks, has_state;
} merge_params;

/* Results over parts of the tokens. */
typedef struct parts_params {
    uint n_parts, n_rows, head_dim, type, has_state, unused;
} parts_params;

/* Attention on rows: partial results over ranges of tokens (split-KV).
 *
 * Sealed pages add two terms. A key that is coded relative to its page's mean has the logit
 * of its codes and, in the original domain, query . mean, which is worked out once for a page
 * and a query. A value coded so adds its weight to a sum for the page, which the page's mean
 * is multiplied with once. Staged pages are plain numbers in the original domain. So queries and
 * results come in two domains where there are means or staged pages (has_original), and the
 * merge brings the results together. */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "mlx_table.h"
#include "stream.h"
#include "format_constants.h"
#include "place.h"
#include "attend_rows.h"
#include "page_mean.h"

/* Query rows that share one decoding of the keys and values; tokens of a tile,
 * one for each item; pages that a tile can touch; items that share the product of a query and
 * a mean. */
#ifndef ROWS
#define ROWS 4
#endif
enum { TILE = 128, TILE_PAGES = TILE / PAGE_TOKENS + 1, MEAN_PARTS = 8 };

#ifdef HAS_ORIGINAL
#define IS_ORIGINAL(p) HAS_ORIGINAL
#else
#define IS_ORIGINAL(p) (p)->has_original
#endif

INLINE format_params key_format(PARAM const attend_params *p)
{
    format_params f = p->keys.format;
#ifdef KEY_BITS
    SET_CONSTANTS(f, KEY);
#endif
    return f;
}

INLINE format_params value_format(PARAM const attend_params *p)
{
    format_params f = p->values.format;
#ifdef VALUE_BITS
    SET_CONSTANTS(f, VALUE);
#endif
    return f;
}

/* Blocks of values that have a scale of their own. */
INLINE uint scale_blocks(const format_params *f)
{
    return f->kind == KIND_MLX && f->head_dim > 256 ? f->head_dim / 256 : 1;
}

INLINE uint max_of(uint a, uint b)
{
    return a > b ? a : b;
}

/* A scale that no encoder writes counts as 0. With a choice, the sign is not the scale's. */
INLINE float safe_scale(const format_params *f, GLOBAL const uchar *scales, uint block, bool is_chosen)
{
    float scale = scale_load(f, scales, block);
    scale = is_chosen && block == 0 ? -scale : scale;
    bool is_negated = f->kind == KIND_MLX && f->head_dim > 256 && f->block_factor < 0;
    float size = is_negated ? -scale : scale;
    return size > 0 && size < INFINITY ? scale : 0;
}

/* Plain numbers have no scales, and no buffer for them. */
INLINE GLOBAL const uchar *scales_at(const format_params *f, GLOBAL const uchar *scales,
                                     PARAM const operand_params *o, uint sequence, uint head,
                                     place at)
{
    if (f->kind == KIND_PLAIN)
        return scales;
    return scales + scale_offset(o, sequence, head, at);
}

/* Eight plain numbers, made finite as queries are. */
INLINE void plain_load(GLOBAL const uchar *row, uint type, uint chunk, float *x)
{
    UNROLL for (uint j = 0; j < 8; j++)
        x[j] = finite_input(number_load(row, type, chunk * 8 + j));
}

/* The local memory of a group: the tables, queries of the rows' and of the original domain,
 * weights (times the scales of values; at the end what items have), weights of rows with a
 * choice, and what is known of query rows and means. */
typedef struct attend_local {
    LOCAL float *key_table, *value_table;
    LOCAL float *q, *original; /* [key_dim][ROWS] */
    LOCAL float *weights;      /* [value_blocks][TILE][ROWS] */
    LOCAL float *chosen;       /* [TILE][ROWS] */
    LOCAL float *parts;        /* [16][ROWS] */
    LOCAL float *state;        /* [2][ROWS]: max, correction */
    LOCAL float *means;        /* [TILE_PAGES][MEAN_PARTS][ROWS] */
} attend_local;

INLINE attend_local local_of(LOCAL uchar *memory, uint key_dim, uint value_blocks, bool is_original)
{
    attend_local l;
    l.key_table = (LOCAL float *)memory;
    l.value_table = l.key_table + TABLE_FLOATS;
    l.q = l.value_table + TABLE_FLOATS;
    l.original = l.q + max_of(ROWS * key_dim, TILE);
    l.weights = l.original + (is_original ? ROWS * key_dim : 0);
    l.parts = l.weights + max_of(value_blocks * ROWS, 8) * TILE;
    l.state = l.parts + 16 * ROWS;
    l.means = l.state + 2 * ROWS;
    l.chosen = l.means + (is_original ? TILE_PAGES * MEAN_PARTS * ROWS : 0);
    return l;
}

INLINE attend_task attend_task_of(PARAM const attend_params *p, GLOBAL const uint *lengths,
                           GLOBAL const uint *starts, uint group_y, uint sequence)
{
    attend_task k;
    uint blocks = (p->n_queries * p->group + ROWS - 1) / ROWS;
    uint n = queries_of(p->has_starts, p->n_queries, p->n_query_rows, starts, sequence,
                        &k.first_query);
    k.sequence = sequence;
    k.head = group_y / blocks;
    k.first_row = group_y % blocks * ROWS;
    k.rows = n * p->group;
    k.length = p->has_lengths ? lengths[sequence] : p->n_tokens;
    k.length = k.length < p->n_tokens ? k.length : p->n_tokens;
    /* With lengths, the queries are the sequence's last positions. */
    k.position = p->has_lengths ? p->first_position + k.length - (k.length < n ? k.length : n)
                                : p->position;
    return k;
}

/* Parts of query . mean of the pages of the tile that begins at `tile`. */
INLINE void means_multiply(PARAM const attend_params *p, const attend_task *k, attend_local *l,
                           GLOBAL const uchar *means, GLOBAL const uint *pages, uint tile,
                           uint end, uint item, uint n_items)
{
    uint dim = p->keys.format.head_dim, skipped = (uint)((p->places.first_slot + tile) % PAGE_TOKENS);
    for (uint i = item; i < TILE_PAGES * MEAN_PARTS * ROWS; i += n_items) {
        uint page = i / (MEAN_PARTS * ROWS), part = i / ROWS % MEAN_PARTS, r = i % ROWS;
        uint token = tile + (page ? page * PAGE_TOKENS - skipped : 0);
        float sum = 0;
        if (token < end) {
            place at = token_place(&p->places, pages, k->sequence, token);
            if (!at.is_staged) {
                GLOBAL const uchar *mean = means + mean_offset(&p->keys, k->head, at);
                for (uint d = part; d < dim; d += MEAN_PARTS)
                    sum = fmaf(page_mean_level(mean[d]), l->original[d * ROWS + r], sum);
                sum *= page_mean_scale(mean, dim);
            }
        }
        l->means[i] = sum;
    }
}

INLINE float mean_product(const attend_local *l, uint page, uint r)
{
    float sum = 0;
    UNROLL for (uint part = 0; part < MEAN_PARTS; part++)
        sum += l->means[(page * MEAN_PARTS + part) * ROWS + r];
    return sum;
}

/* group_x is the split, group_y the KV head and the block of its query rows,
 * group_z the sequence. A partial result has its values in the rows' domain, then those in the
 * original one, the largest logit and the sum. */
KERNEL16(attend_split, attend_params, const float, queries, const uchar, key_codes, const uchar,
         key_scales, const uchar, key_means, const uchar, value_codes, const uchar, value_scales,
         const uchar, value_means, const uchar, staged_keys, const uchar, staged_values, const uint,
         pages, const uint, lengths, const uint, starts, const float, slopes, const uchar, mask,
         const float, mask_slopes, float, partials)
{
    format_params kf = key_format(p), vf = value_format(p);
    bool is_original = IS_ORIGINAL(p), has_key_means = is_original && p->has_key_means,
         has_value_means = is_original && p->has_value_means;
    uint key_dim = kf.head_dim, dim = vf.head_dim, value_blocks = scale_blocks(&vf);
    attend_local l = local_of(local_memory, key_dim, value_blocks, is_original);
    attend_task k = attend_task_of(p, lengths, starts, group_y, group_z);
    if (k.first_row >= k.rows)
        return; /* the whole group */
    /* By this sequence's length: its bits are the same alone and beside others. */
    uint tiles = (k.length + TILE - 1) / TILE;
    uint per_split = (tiles + p->n_splits - 1) / p->n_splits * TILE;
    uint begin = group_x * per_split,
         end = begin + per_split < k.length ? begin + per_split : k.length;

    table_load(&kf, l.key_table, item, n_items);
    table_load(&vf, l.value_table, item, n_items);
    for (uint i = item; i < ROWS * key_dim; i += n_items) {
        uint r = k.first_row + i % ROWS, d = i / ROWS;
        ulong at = task_row(p, &k, r < k.rows ? r : k.rows - 1) * key_dim + d;
        l.q[i] = queries[at] * p->scale;
        if (is_original)
            l.original[i] = queries[p->n_rows * key_dim + at] * p->scale;
    }
    for (uint i = item; i < 2 * ROWS; i += n_items)
        l.state[i] = -INFINITY;
    float acc[ROWS][8], original[ROWS][8], sum[ROWS];
    UNROLL for (uint r = 0; r < ROWS; r++)
    {
        sum[r] = 0;
        UNROLL for (uint j = 0; j < 8; j++)
            acc[r][j] = original[r][j] = 0;
    }
    uint chunks = dim / 8, subsets = n_items / chunks;
    uint chunk = item % chunks, subset = item / chunks;
    BARRIER(n_items);
    if (has_key_means && begin < end)
        means_multiply(p, &k, &l, key_means, pages, begin, end, item, n_items);
    BARRIER(n_items);

    for (uint tile = begin; tile < end; tile += TILE) {
        uint skipped = (uint)((p->places.first_slot + tile) % PAGE_TOKENS);
        /* scores: a token each */
        for (uint t = item; t < TILE; t += n_items) {
            uint token = tile + t;
            float logit[ROWS];
            UNROLL for (uint r = 0; r < ROWS; r++)
                logit[r] = 0;
            place at = token_place(&p->places, pages, k.sequence, token < end ? token : end - 1);
            if (token < end && is_original && at.is_staged) {
                GLOBAL const uchar *row = staged_keys + staged_offset(&p->staged_keys, k.head, at);
                for (uint c = 0; c < key_dim / 8; c++) {
                    float x[8];
                    plain_load(row, p->staged_keys.type, c, x);
                    UNROLL for (uint j = 0; j < 8; j++)
                        UNROLL for (uint r = 0; r < ROWS; r++)
                            logit[r] = fmaf(x[j], l.original[(c * 8 + j) * ROWS + r], logit[r]);
                }
            } else if (token < end) {
                GLOBAL const uchar *codes = key_codes + code_offset(&p->keys, k.sequence, k.head, at);
                GLOBAL const uchar *scales =
                    scales_at(&kf, key_scales, &p->keys, k.sequence, k.head, at);
                bool is_chosen = has_key_means && scale_has_choice(&kf, scales);
                for (uint c = 0; c < key_dim / 8;) {
                    float block[ROWS];
                    UNROLL for (uint r = 0; r < ROWS; r++)
                        block[r] = 0;
                    uint block_end = c + 32 < key_dim / 8 ? c + 32 : key_dim / 8;
                    float scale = safe_scale(&kf, scales, c / 32, is_chosen);
                    for (; c < block_end; c++) {
                        float x[8];
                        values_load(&kf, codes, c, l.key_table, x);
                        UNROLL for (uint j = 0; j < 8; j++)
                            UNROLL for (uint r = 0; r < ROWS; r++)
                                block[r] = fmaf(x[j], l.q[(c * 8 + j) * ROWS + r], block[r]);
                    }
                    UNROLL for (uint r = 0; r < ROWS; r++)
                        logit[r] = fmaf(block[r], scale, logit[r]);
                }
                if (is_chosen)
                    UNROLL for (uint r = 0; r < ROWS; r++)
                        logit[r] += mean_product(&l, (skipped + t) / PAGE_TOKENS, r);
            }
            UNROLL for (uint r = 0; r < ROWS; r++)
            {
                uint row = k.first_row + r;
                l.weights[t * ROWS + r] =
                    token < end && row < k.rows
                        ? logit_finish(p, &k, row, token, slopes, mask, mask_slopes, logit[r])
                        : -INFINITY;
            }
        }
        BARRIER(n_items);
        /* the new maximum of each row, and what it makes of the old sums */
        for (uint i = item; i < 16 * ROWS; i += n_items) {
            float largest = -INFINITY;
            for (uint t = i / ROWS; t < TILE; t += 16) {
                float logit = l.weights[t * ROWS + i % ROWS];
                largest = logit > largest ? logit : largest;
            }
            l.parts[i] = largest;
        }
        BARRIER(n_items);
        for (uint r = item; r < ROWS; r += n_items) {
            float largest = l.state[r];
            for (uint i = 0; i < 16; i++)
                largest = l.parts[i * ROWS + r] > largest ? l.parts[i * ROWS + r] : largest;
            l.state[ROWS + r] = largest > -INFINITY ? expf(l.state[r] - largest) : 1;
            l.state[r] = largest;
        }
        BARRIER(n_items);
        /* weights, times the scales of the values */
        UNROLL for (uint r = 0; r < ROWS; r++)
        {
            float factor = l.state[ROWS + r];
            sum[r] *= factor;
            UNROLL for (uint j = 0; j < 8; j++)
            {
                acc[r][j] *= factor;
                original[r][j] *= factor;
            }
        }
        for (uint t = item; t < TILE; t += n_items) {
            uint token = tile + t < end ? tile + t : end - 1;
            place at = token_place(&p->places, pages, k.sequence, token);
            bool is_staged = is_original && at.is_staged;
            GLOBAL const uchar *scales =
                is_staged ? value_scales
                          : scales_at(&vf, value_scales, &p->values, k.sequence, k.head, at);
            bool is_chosen = has_value_means && !is_staged && scale_has_choice(&vf, scales);
            float weight[ROWS];
            UNROLL for (uint r = 0; r < ROWS; r++)
            {
                float logit = l.weights[t * ROWS + r];
                weight[r] = logit > -INFINITY ? expf(logit - l.state[r]) : 0;
                sum[r] += weight[r];
                if (is_original)
                    l.chosen[t * ROWS + r] = is_chosen ? weight[r] : 0;
            }
            for (uint b = 0; b < value_blocks; b++) {
                float scale = is_staged ? 1 : safe_scale(&vf, scales, b, is_chosen);
                UNROLL for (uint r = 0; r < ROWS; r++)
                    l.weights[(b * TILE + t) * ROWS + r] = weight[r] * scale;
            }
        }
        BARRIER(n_items);
        /* values: eight each, of every subsets-th token; and of page after page the mean */
        uint n = end - tile < TILE ? end - tile : TILE;
        LOCAL const float *weight = l.weights + (value_blocks > 1 ? chunk / 32 * TILE * ROWS : 0);
        uint token = subset;
        for (uint page = 0; page < TILE_PAGES && subset < subsets; page++) {
            uint page_end = is_original ? (page + 1) * PAGE_TOKENS - skipped : n;
            float chosen[ROWS];
            place at;
            UNROLL for (uint r = 0; r < ROWS; r++)
                chosen[r] = 0;
            for (; token < n && token < page_end; token += subsets) {
                at = token_place(&p->places, pages, k.sequence, tile + token);
                bool is_staged = is_original && at.is_staged;
                float x[8];
                if (is_staged)
                    plain_load(staged_values + staged_offset(&p->staged_values, k.head, at),
                               p->staged_values.type, chunk, x);
                else
                    values_load(&vf, value_codes + code_offset(&p->values, k.sequence, k.head, at),
                                chunk, l.value_table, x);
                UNROLL for (uint r = 0; r < ROWS; r++)
                {
                    float w = weight[token * ROWS + r];
                    if (is_staged)
                        UNROLL for (uint j = 0; j < 8; j++)
                            original[r][j] = fmaf(w, x[j], original[r][j]);
                    else
                        UNROLL for (uint j = 0; j < 8; j++)
                            acc[r][j] = fmaf(w, x[j], acc[r][j]);
                    if (is_original)
                        chosen[r] += l.chosen[token * ROWS + r];
                }
            }
            /* Chosen weights are 0 but where there are means. */
            UNROLL for (uint r = 0; r < ROWS; r++)
                if (is_original && chosen[r] > 0) {
                    GLOBAL const uchar *mean = value_means + mean_offset(&p->values, k.head, at);
                    float factor = chosen[r] * page_mean_scale(mean, dim);
                    UNROLL for (uint j = 0; j < 8; j++)
                        original[r][j] = fmaf(factor, page_mean_level(mean[chunk * 8 + j]), original[r][j]);
                }
        }
        if (has_key_means && tile + TILE < end)
            means_multiply(p, &k, &l, key_means, pages, tile + TILE, end, item, n_items);
        BARRIER(n_items);
    }

    /* Add up what items have, a row at a time. */
    LOCAL float *shared = l.weights;
    uint width = is_original ? 2 * dim : dim;
    UNROLL for (uint r = 0; r < ROWS; r++)
    {
        uint row = k.first_row + r;
        bool is_there = row < k.rows;
        GLOBAL float *partial = partials + (task_row(p, &k, is_there ? row : k.first_row) * p->n_splits +
                                            group_x) * (width + 2);
        for (uint part = 0; part < 2; part++) {
            if (subset < subsets)
                UNROLL for (uint j = 0; j < 8; j++)
                    shared[item * 8 + j] = part ? original[r][j] : acc[r][j]; /* [subset][chunk][8] */
            l.q[item] = sum[r];
            BARRIER(n_items);
            for (uint d = item; d < dim && is_there && (part == 0 || is_original); d += n_items) {
                float total = 0;
                for (uint i = 0; i < subsets; i++)
                    total += shared[i * dim + d];
                partial[part * dim + d] = total;
            }
            if (item == 0 && is_there) {
                float total = 0;
                for (uint i = 0; i < n_items; i++)
                    total += l.q[i];
                partial[width] = l.state[r];
                partial[width + 1] = total;
            }
            BARRIER(n_items);
        }
    }
}

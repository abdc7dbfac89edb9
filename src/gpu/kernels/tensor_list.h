#pragma once
/* The list of all tiles, and the parts of it. */
#include "query_starts.h"
#include "tensor_formats.h"

/* What lies on the device about sequences. */
struct counts {
    const uint *lengths, *starts;
};

/* One head's share of the list, as all threads know it. */
struct segment {
    uint sequence, head, block; /* block of rows */
    uint first_tile, n_tiles, begin; /* begin: number of the first in the list */
    uint length;
    uint first_query, n_queries, n_blocks; /* of the sequence */
};

INLINE uint min_of(uint a, uint b)
{
    return a < b ? a : b;
}

INLINE uint length_of(const tensor_params *p, const counts *n, uint sequence)
{
    return p->has_lengths ? min_of(n->lengths[sequence], p->n_tokens) : p->n_tokens;
}

/* Sets what a segment has of its sequence. */
INLINE void sequence_load(const tensor_params *p, const counts *n, segment *s)
{
    s->length = length_of(p, n, s->sequence);
    s->n_queries = queries_of(STARTS, p->n_queries, p->n_query_rows, n->starts, s->sequence,
                              &s->first_query);
    s->n_blocks = STARTS ? (s->n_queries * p->group + ROWS - 1) / ROWS : p->n_blocks;
    s->n_tiles = s->first_tile = 0;
    if (s->n_queries)
        tensor_tiles(p, s->length, s->n_queries, TILE, &s->first_tile, &s->n_tiles);
}

/* Tiles of all sequences, or of those before the one that has tile `index`. */
INLINE uint tiles_before(const tensor_params *p, const counts *n, uint index, uint *sequence,
                         uint lane)
{
    uint before = 0;
    if (!p->has_lengths && !STARTS) {
        *sequence = min_of(index / p->tiles_of_sequence, p->n_sequences);
        return *sequence * p->tiles_of_sequence;
    }
    for (uint i = 0; i < p->n_sequences; i += 32) {
        segment s = {};
        s.sequence = i + lane;
        if (s.sequence < p->n_sequences)
            sequence_load(p, n, &s);
        uint sum = s.n_tiles * s.n_blocks * p->n_kv_heads;
        UNROLL for (int o = 1; o < 32; o *= 2)
        {
            uint other = __shfl_up_sync(~0u, sum, o);
            sum += lane >= o ? other : 0;
        }
        uint found = __ballot_sync(~0u, index < before + sum);
        if (found) {
            uint k = __ffs(found) - 1;
            *sequence = i + k;
            return before + (k ? __shfl_sync(~0u, sum, k - 1) : 0);
        }
        before += __shfl_sync(~0u, sum, 31);
    }
    *sequence = p->n_sequences;
    return before;
}

INLINE segment segment_at(const tensor_params *p, const counts *n, uint index, uint lane)
{
    segment s;
    uint before = tiles_before(p, n, index, &s.sequence, lane);
    sequence_load(p, n, &s);
    uint head = (index - before) / s.n_tiles;
    s.begin = before + head * s.n_tiles;
    s.head = head / s.n_blocks;
    s.block = head % s.n_blocks;
    return s;
}

/* Tiles first_tile and following of a head are those from `begin` on. */
INLINE void segment_next(const tensor_params *p, const counts *n, segment *s)
{
    s->begin += s->n_tiles;
    if (++s->block < s->n_blocks)
        return;
    s->block = 0;
    if (++s->head < p->n_kv_heads)
        return;
    s->head = 0;
    do {
        if (++s->sequence >= p->n_sequences)
            return;
        sequence_load(p, n, s);
    } while (STARTS && s->n_queries == 0);
}

INLINE uint rows_of(const tensor_params *p, const segment *s)
{
    return min_of(s->n_queries * p->group - s->block * ROWS, ROWS);
}

/* Row `r` of a block among all [sequence][query][head]. */
INLINE ulong query_row(const tensor_params *p, const segment *s, uint r)
{
    uint n = s->block * ROWS + r;
    return (ulong)(s->first_query + n / p->group) * p->n_heads + s->head * p->group + n % p->group;
}

/* A block's part of the list. The list consists of spans of span_tiles tiles, each shared by
 * span_blocks blocks, of which the first `shorter` have `base` tiles and the others one more: so
 * the last tile, which often is a staged one and no work for the warps' rounds, is in a longer
 * part. A span is one block of rows of a head, where all heads have as many tiles: a block then
 * has only one segment. Otherwise it is all of the list. */
struct share {
    uint span_tiles, span_blocks, base, shorter, begin, end;
};

INLINE share share_of(const tensor_params *p, const counts *n, uint block, uint n_blocks, uint lane)
{
    share s;
    uint unused, total = tiles_before(p, n, ~0u, &unused, lane), heads = p->n_kv_heads * p->n_blocks;
    bool is_even = p->blocks_of_head && !STARTS && (!p->has_lengths || p->n_sequences == 1);
    s.span_tiles = is_even ? p->n_sequences == 1 ? total / heads : p->tiles_of_sequence / heads : total;
    s.span_blocks = is_even ? p->blocks_of_head : n_blocks;
    s.base = s.span_tiles / s.span_blocks;
    s.shorter = s.span_blocks - s.span_tiles % s.span_blocks;
    uint span = block / s.span_blocks, i = block % s.span_blocks;
    s.begin = span * s.span_tiles + i * s.base + (i > s.shorter ? i - s.shorter : 0);
    s.end = s.begin + s.base + (i >= s.shorter);
    return s;
}

/* The block that has a tile. */
INLINE uint owner_of(const share *s, uint tile)
{
    uint span = tile / s->span_tiles, longer_at = s->shorter * s->base;
    tile -= span * s->span_tiles;
    return span * s->span_blocks + (tile < longer_at ? tile / s->base
                                                     : s->shorter + (tile - longer_at) / (s->base + 1));
}

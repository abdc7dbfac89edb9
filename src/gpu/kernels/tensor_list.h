#pragma once
/* The list of all tiles, and the parts of it. */
#include "tensor_formats.h"

/* One head's share of the list, as all threads know it. */
struct segment {
    uint sequence, head, block; /* block of rows */
    uint first_tile, n_tiles, begin; /* begin: number of the first in the list */
    uint length;
};

INLINE uint min_of(uint a, uint b)
{
    return a < b ? a : b;
}

INLINE uint length_of(const tensor_params *p, const uint *lengths, uint sequence)
{
    return p->has_lengths ? min_of(lengths[sequence], p->n_tokens) : p->n_tokens;
}

/* The tokens that query i of a sequence sees. */
INLINE void sight(const tensor_params *p, uint length, uint i, uint *low, uint *high)
{
    ulong position = p->has_lengths ? p->first_position + length - min_of(length, p->n_queries)
                                    : p->position;
    ulong at = position + i;
    *low = 0;
    *high = length;
    if (p->causal)
        *high = at < p->first_position ? 0
                : at - p->first_position < length ? (uint)(at - p->first_position) + 1
                                                  : length;
    if (p->window && at >= p->window && at - p->window >= p->first_position) {
        ulong first = at - p->window - p->first_position + 1;
        *low = first < length ? (uint)first : length;
    }
}

INLINE void tiles_of(const tensor_params *p, uint length, uint *first, uint *n)
{
    uint low, high, unused;
    sight(p, length, 0, &low, &unused);
    sight(p, length, p->n_queries - 1, &unused, &high);
    *first = (p->skipped + low) / TILE;
    uint end = (uint)(((ulong)p->skipped + high + TILE - 1) / TILE);
    *n = end > *first ? end - *first : 1;
    if (end <= *first)
        *first = 0; /* nothing is seen, of a tile that is there */
}

/* Tiles of all sequences, or of those before the one that has tile `index`. */
INLINE uint tiles_before(const tensor_params *p, const uint *lengths, uint index,
                         uint *sequence, uint lane)
{
    uint heads = p->n_kv_heads * p->n_blocks, first, n, before = 0;
    if (!p->has_lengths) {
        n = p->tiles_of_sequence;
        *sequence = min_of(index / n, p->n_sequences);
        return *sequence * n;
    }
    for (uint s = 0; s < p->n_sequences; s += 32) {
        n = 0;
        if (s + lane < p->n_sequences)
            tiles_of(p, length_of(p, lengths, s + lane), &first, &n);
        uint sum = n * heads;
        UNROLL for (int o = 1; o < 32; o *= 2)
        {
            uint other = __shfl_up_sync(~0u, sum, o);
            sum += lane >= o ? other : 0;
        }
        uint found = __ballot_sync(~0u, index < before + sum);
        if (found) {
            uint k = __ffs(found) - 1;
            *sequence = s + k;
            return before + (k ? __shfl_sync(~0u, sum, k - 1) : 0);
        }
        before += __shfl_sync(~0u, sum, 31);
    }
    *sequence = p->n_sequences;
    return before;
}

INLINE segment segment_at(const tensor_params *p, const uint *lengths, uint index, uint lane)
{
    segment s;
    uint before = tiles_before(p, lengths, index, &s.sequence, lane);
    s.length = length_of(p, lengths, s.sequence);
    tiles_of(p, s.length, &s.first_tile, &s.n_tiles);
    uint head = (index - before) / s.n_tiles;
    s.begin = before + head * s.n_tiles;
    s.head = head / p->n_blocks;
    s.block = head % p->n_blocks;
    return s;
}

/* Tiles first_tile and following of a head are those from `begin` on. */
INLINE void segment_next(const tensor_params *p, const uint *lengths, segment *s)
{
    s->begin += s->n_tiles;
    if (++s->block < p->n_blocks)
        return;
    s->block = 0;
    if (++s->head < p->n_kv_heads)
        return;
    s->head = 0;
    s->sequence++;
    if (s->sequence < p->n_sequences) {
        s->length = length_of(p, lengths, s->sequence);
        tiles_of(p, s->length, &s->first_tile, &s->n_tiles);
    }
}

INLINE uint rows_of(const tensor_params *p, uint block)
{
    return min_of(p->n_queries * p->group - block * ROWS, ROWS);
}

/* Row `r` of a block among all [sequence][query][head]. */
INLINE ulong query_row(const tensor_params *p, const segment *s, uint r)
{
    uint n = s->block * ROWS + r;
    return ((ulong)s->sequence * p->n_queries + n / p->group) * p->n_heads +
           s->head * p->group + n % p->group;
}

/* A block's part of the list; of all blocks' parts, those of the first `rest` are longer by
 * one than `base`. */
struct share {
    uint base, rest, begin, end;
};

INLINE share share_of(const tensor_params *p, const uint *lengths, uint block, uint n_blocks,
                      uint lane)
{
    share s;
    uint unused, total = tiles_before(p, lengths, ~0u, &unused, lane);
    s.base = total / n_blocks;
    s.rest = total % n_blocks;
    s.begin = block * s.base + min_of(block, s.rest);
    s.end = s.begin + s.base + (block < s.rest);
    return s;
}

/* The block that has a tile. */
INLINE uint owner_of(const share *s, uint tile)
{
    uint longer = s->rest * (s->base + 1);
    return tile < longer ? tile / (s->base + 1)
                         : s->rest + (tile - longer) / (s->base ? s->base : 1);
}

#pragma once
/* Tiles into the rings of the warps. A tile has parts: codes of keys, of values, scales of
 * keys, of values.
 *
 * LAYOUT, where a part of a tile lies: 0: all of a head's stand one behind the other; 1: those
 * of a tile do, which may be anywhere (pages of at least a tile, rings); 2: those of 16 slots
 * do; 3: and what is behind the last token must not be read. BLOCKS: a tile is a page, and all
 * parts of its keys, or of its values, stand one behind the other, as they do in the ring. With 0 and 1 the copy engine takes
 * a part at a time; with 2 and 3, and before sm_90, every lane copies 16 bytes at a time. */
#include "place.h"
#include "tensor_query.h"

enum { OPERAND_PARTS = BLOCKS ? 1 : MEANS ? 3 : 2, PARTS = 2 * OPERAND_PARTS, UNIT = 16, UNITS = TILE / UNIT, UNIT_LANES = 32 / UNITS,
       USES_ENGINE = HAS_ENGINE && LAYOUT < 2 };

/* Codes, scales, mean of keys, then of values. */
enum { CODES, SCALES, MEAN };

INLINE constexpr int part_kind(int part)
{
    return part % OPERAND_PARTS;
}

INLINE constexpr bool part_is_value(int part)
{
    return part >= OPERAND_PARTS;
}

/* Bytes a token. */
INLINE constexpr uint part_row(int part)
{
    return part_kind(part) == CODES    ? part_is_value(part) ? values_case::ROW : keys_case::ROW
           : part_kind(part) == SCALES ? part_is_value(part) ? values_case::SCALE : keys_case::SCALE
                                       : 0;
}

INLINE constexpr uint part_bytes(int part)
{
    return BLOCKS ? part_is_value(part) ? tensor_value_bytes(&CASE) : tensor_key_bytes(&CASE)
           : part_kind(part) == MEAN ? tensor_mean_bytes(&CASE)
                                     : TILE * part_row(part);
}

/* In a stage (no recursion: the compiler would leave it for the run). */
INLINE constexpr uint part_place(int part)
{
    return part_is_value(part) ? part_kind(part) == CODES    ? VALUES_AT
                                 : part_kind(part) == SCALES ? VALUE_SCALES_AT
                                                             : VALUE_MEAN_AT
           : part_kind(part) == CODES  ? 0
           : part_kind(part) == SCALES ? SCALES_AT
                                       : MEAN_AT;
}

struct sources {
    bytes parts[PARTS];
};

/* What a warp fetches next: tile `index` of the list. */
struct fetcher {
    segment at;
    uint index;
    bytes next[PARTS]; /* LAYOUT 0: where the tile's parts begin; else the head's, of page 0 */
    uint page;         /* LAYOUT 2 and 3: of the lane's unit; the sequence if there are none */
    /* LAYOUT 1: entries of the page table, a lane each, for the warp's 32 tiles from tile
     * first_entry on. They are used a tile after they are asked for, or later. */
    uint entries, first_entry;
};

INLINE uint tile_begin(const fetcher *f)
{
    return (f->at.first_tile + (f->index - f->at.begin)) * TILE;
}

INLINE const tensor_operand *part_operand(const tensor_params *p, int part)
{
    return part_is_value(part) ? &p->values : &p->keys;
}

/* From page to page, or sequence to sequence. */
INLINE ulong part_group(const tensor_params *p, int part)
{
    const tensor_operand *o = part_operand(p, part);
    return part_kind(part) == CODES    ? o->code_group
           : part_kind(part) == SCALES ? o->scale_group
                                       : o->mean_group;
}

INLINE ulong part_head(const tensor_params *p, int part)
{
    const tensor_operand *o = part_operand(p, part);
    return part_kind(part) == CODES    ? o->code_head
           : part_kind(part) == SCALES ? o->scale_head
                                       : o->mean_head;
}

/* The slot in its page, or ring, that is `at` slots behind the first tile's first. */
INLINE uint slot_of(const tensor_params *p, uint at, uint *page)
{
    uint slot = p->first_slot + at;
    if (p->capacity && slot >= p->capacity)
        slot -= p->capacity;
    *page = p->page_size ? (uint)((ulong)slot * p->page_factor >> 31 >> p->page_shift) : 0;
    return slot - *page * p->page_size;
}

/* A page by its entry in the table, and whether it is staged. */
INLINE uint page_of(const tensor_params *p, uint entry, bool *is_staged)
{
    *is_staged = STAGED && entry & PAGE_STAGED;
    if (*is_staged)
        return min_of(entry & ~PAGE_STAGED, p->n_staged - 1);
    return min_of(entry, p->n_pages - 1);
}

/* The table's entry for the slot that is `at` slots behind a sequence's first tile's first; 0 behind
 * its last token. */
INLINE uint entry_at(const tensor_params *p, const uint *pages, const segment *s, uint at)
{
    uint page;
    if (!p->page_size || at >= p->skipped + s->length)
        return 0;
    slot_of(p, at, &page);
    return pages[(ulong)s->sequence * p->pages_stride + page];
}

INLINE void page_read(const tensor_params *p, const uint *pages, fetcher *f, uint end, uint lane)
{
    if (LAYOUT >= 2) { /* a tile ahead of its use */
        bool unused;
        uint at = tile_begin(f) + lane / UNIT_LANES * UNIT;
        f->page = f->at.sequence;
        if (p->page_size)
            f->page = page_of(p, f->index < end ? entry_at(p, pages, &f->at, at) : 0, &unused);
        return;
    }
    uint tile = f->index + lane * WARPS;
    bool is_there = tile < end && tile < f->at.begin + f->at.n_tiles;
    f->first_entry = f->index;
    f->entries = is_there ? entry_at(p, pages, &f->at, tile_begin(f) + lane * WARPS * TILE) : 0;
}

INLINE void fetcher_place(const tensor_params *p, const sources *from, fetcher *f)
{
    UNROLL for (int i = 0; i < PARTS; i++)
    {
        f->next[i] = from->parts[i] + f->at.head * part_head(p, i);
        if (LAYOUT == 0)
            f->next[i] += f->at.sequence * part_group(p, i) + (ulong)tile_begin(f) * part_row(i);
    }
}

INLINE void fetcher_next(const tensor_params *p, const sources *from, const counts *n,
                         const uint *pages, fetcher *f, uint end, uint lane)
{
    f->index += WARPS;
    if (f->index >= f->at.begin + f->at.n_tiles) {
        while (f->index < end && f->index >= f->at.begin + f->at.n_tiles)
            segment_next(p, n, &f->at);
        fetcher_place(p, from, f);
        if (LAYOUT == 1)
            page_read(p, pages, f, end, lane);
    } else if (LAYOUT == 0) {
        UNROLL for (int i = 0; i < PARTS; i++) f->next[i] += WARPS * TILE * part_row(i);
    } else if (LAYOUT == 1 && f->index - f->first_entry == 32 * WARPS) {
        page_read(p, pages, f, end, lane);
    }
    if (LAYOUT >= 2)
        page_read(p, pages, f, end, lane);
}

/* LAYOUT 0 and 1. Staged tiles are read where they lie: no byte is copied. */
INLINE void whole_fetch(const tensor_params *p, const fetcher *f, bytes mask, uchar *stage,
                        ulong *barrier, uint lane)
{
    bool is_staged = false;
    uint page = f->at.sequence, unused, slot = 0;
    if (LAYOUT == 1 && p->page_size)
        page = page_of(p, __shfl_sync(~0u, f->entries, (f->index - f->first_entry) / WARPS), &is_staged);
    if (LAYOUT == 1 && !BLOCKS)
        slot = slot_of(p, tile_begin(f), &unused);
    bytes here[PARTS];
    UNROLL for (int i = 0; i < PARTS; i++)
        here[i] = LAYOUT == 0 ? f->next[i]
                              : f->next[i] + page * part_group(p, i) + (ulong)slot * part_row(i);
    /* there is one query a sequence */
    bytes mask_here = MASK == 3 ? mask + 2 * (f->at.first_query * p->mask_row + tile_begin(f)) : mask;
    if (!HAS_ENGINE) {
        UNROLL for (int i = 0; i < PARTS; i++)
            if (!is_staged)
                warp_copy(stage + part_place(i), here[i], part_bytes(i), lane);
        if (MASK == 3)
            warp_copy(stage + MASK_AT, mask_here, 2 * TILE, lane);
    } else if (is_elected()) {
        barrier_expect(barrier, is_staged ? 0 : tensor_stage_bytes(&CASE));
        UNROLL for (int i = 0; i < PARTS; i++)
            if (!is_staged)
                engine_copy(stage + part_place(i), here[i], part_bytes(i), barrier);
        if (MASK == 3 && !is_staged)
            engine_copy(stage + MASK_AT, mask_here, 2 * TILE, barrier);
    }
}

/* LAYOUT 2 and 3: 32 / UNITS lanes copy a unit, 16 bytes each at a time. */
INLINE void units_fetch(const tensor_params *p, const fetcher *f, uchar *stage, uint lane)
{
    enum { PIECE = 16 /* bytes */ };
    uint unit = lane / UNIT_LANES, sub = lane % UNIT_LANES, first = tile_begin(f) + unit * UNIT,
         end = p->skipped + f->at.length, unused, slot = slot_of(p, first, &unused);
    uint valid = first + UNIT <= p->skipped || first >= end ? 0
                 : LAYOUT == 2                               ? UNIT
                                                             : min_of(end - first, UNIT);
    if (valid == 0)
        return;
    UNROLL for (int i = 0; i < PARTS; i++) /* without means: pages of those are not cut up */
    {
        /* UNIT * row bytes, as pieces: row of them */
        bytes here = f->next[i] + f->page * part_group(p, i) + (ulong)slot * part_row(i) + sub * PIECE;
        uchar *there = stage + part_place(i) + unit * UNIT * part_row(i) + sub * PIECE;
        uint n = valid * part_row(i);
        UNROLL for (uint k = 0; k < part_row(i); k += UNIT_LANES)
        {
            uint offset = (k + sub) * PIECE;
            if (LAYOUT == 2 && (k + UNIT_LANES <= part_row(i) || k + sub < part_row(i)))
                piece_copy(there + k * PIECE, here + k * PIECE, PIECE);
            else if (LAYOUT == 3 && offset < n)
                piece_copy(there + k * PIECE, here + k * PIECE, min_of(n - offset, PIECE));
        }
    }
}

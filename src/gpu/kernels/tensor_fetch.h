#pragma once
/* Tiles into the rings of the warps. A tile has parts: codes of keys, of values, scales of
 * keys, of values.
 *
 * LAYOUT, where a part of a tile lies: 0: all of a head's stand one behind the other; 1: those
 * of a tile do, which may be anywhere (pages of at least a tile, rings); 2: those of 16 slots
 * do; 3: and what is behind the last token must not be read. With 0 and 1 the copy engine takes
 * a part at a time; with 2 and 3, and before sm_90, every lane copies 16 bytes at a time. */
#include "tensor_query.h"

enum { PARTS = 4, UNIT = 16, UNITS = TILE / UNIT, USES_ENGINE = HAS_ENGINE && LAYOUT < 2,
       TOKEN_BYTES = keys_case::ROW + values_case::ROW + keys_case::SCALE + values_case::SCALE };

INLINE constexpr uint part_row(int part)
{
    return part == 0   ? keys_case::ROW
           : part == 1 ? values_case::ROW
           : part == 2 ? keys_case::SCALE
                       : values_case::SCALE;
}

INLINE constexpr uint part_place(int part)
{
    return part == 0   ? 0
           : part == 1 ? VALUES_AT
           : part == 2 ? SCALES_AT
                       : VALUE_SCALES_AT;
}

struct sources {
    bytes parts[PARTS];
};

/* What a warp fetches next: tile `index` of the list. */
struct fetcher {
    segment at;
    uint index;
    bytes next[PARTS]; /* LAYOUT 0: where the tile's parts begin; else the head's, of page 0 */
    uint page;         /* of the tile, or of the lane's unit; the sequence if there are none */
};

INLINE uint tile_begin(const fetcher *f)
{
    return (f->at.first_tile + (f->index - f->at.begin)) * TILE;
}

INLINE const tensor_operand *part_operand(const tensor_params *p, int part)
{
    return part % 2 ? &p->values : &p->keys;
}

/* From page to page, or sequence to sequence. */
INLINE ulong part_group(const tensor_params *p, int part)
{
    const tensor_operand *o = part_operand(p, part);
    return part < 2 ? o->code_group : o->scale_group;
}

INLINE ulong part_head(const tensor_params *p, int part)
{
    const tensor_operand *o = part_operand(p, part);
    return part < 2 ? o->code_head : o->scale_head;
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

/* LAYOUT 2 and 3: a unit's lanes. */
enum { UNIT_LANES = 32 / UNITS };

/* Page numbers are read a tile ahead of their use. */
INLINE void page_read(const tensor_params *p, const uint *pages, fetcher *f, uint end, uint lane)
{
    uint at = tile_begin(f) + (LAYOUT >= 2 ? lane / UNIT_LANES * UNIT : 0), page;
    f->page = p->page_size ? 0 : f->at.sequence;
    if (p->page_size && f->index < end && at < p->skipped + f->at.length) {
        slot_of(p, at, &page);
        f->page = min_of(pages[(ulong)f->at.sequence * p->pages_stride + page], p->n_pages - 1);
    }
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

INLINE void fetcher_next(const tensor_params *p, const sources *from, const uint *lengths,
                         const uint *pages, fetcher *f, uint end, uint lane)
{
    f->index += WARPS;
    if (f->index >= f->at.begin + f->at.n_tiles) {
        while (f->index < end && f->index >= f->at.begin + f->at.n_tiles)
            segment_next(p, lengths, &f->at);
        fetcher_place(p, from, f);
    } else if (LAYOUT == 0) {
        UNROLL for (int i = 0; i < PARTS; i++) f->next[i] += WARPS * TILE * part_row(i);
    }
    if (LAYOUT)
        page_read(p, pages, f, end, lane);
}

/* LAYOUT 0 and 1. */
INLINE void whole_fetch(const tensor_params *p, const fetcher *f, uchar *stage, ulong *barrier,
                        uint lane)
{
    bytes here[PARTS];
    uint unused, slot = LAYOUT == 1 ? slot_of(p, tile_begin(f), &unused) : 0;
    UNROLL for (int i = 0; i < PARTS; i++)
        here[i] = LAYOUT == 0 ? f->next[i]
                              : f->next[i] + f->page * part_group(p, i) + (ulong)slot * part_row(i);
    if (!HAS_ENGINE) {
        UNROLL for (int i = 0; i < PARTS; i++)
            warp_copy(stage + part_place(i), here[i], TILE * part_row(i), lane);
    } else if (is_elected()) {
        barrier_expect(barrier, TILE * TOKEN_BYTES);
        UNROLL for (int i = 0; i < PARTS; i++)
            engine_copy(stage + part_place(i), here[i], TILE * part_row(i), barrier);
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
    UNROLL for (int i = 0; i < PARTS; i++)
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

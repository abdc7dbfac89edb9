#pragma once
/* Tiles into the rings of the warps. A tile has parts: codes of keys, of values, scales of
 * keys, of values, and numbers of centres.
 *
 * LAYOUT, where a part of a tile lies: 0: all of a head's stand one behind the other; 1: those
 * of a tile do, which may be anywhere (pages of at least a tile, rings); 2: those of 16 slots
 * do, and what is behind the last token must not be read. With 0 and 1 the copy engine takes a
 * part at a time; with 2, and before sm_90, every lane copies 16 bytes at a time. */
#include "tensor_query.h"

enum { PARTS = 4 + NUMBER, UNIT = 16, UNITS = TILE / UNIT, USES_ENGINE = HAS_ENGINE && LAYOUT < 2,
       TOKEN_BYTES = keys_case::ROW + values_case::ROW + keys_case::SCALE + values_case::SCALE + NUMBER };

INLINE constexpr uint part_row(int part)
{
    return part == 0   ? keys_case::ROW
           : part == 1 ? values_case::ROW
           : part == 2 ? keys_case::SCALE
           : part == 3 ? values_case::SCALE
                       : 1;
}

INLINE constexpr uint part_place(int part)
{
    return part == 0   ? 0
           : part == 1 ? VALUES_AT
           : part == 2 ? SCALES_AT
           : part == 3 ? VALUE_SCALES_AT
                       : CENTRES_AT;
}

struct sources {
    bytes parts[5];
};

/* Where a part's row in slot 0 of a head is; group: the page, or the sequence. */
INLINE bytes part_begin(const tensor_params *p, const sources *from, int part, uint head, uint group)
{
    const tensor_operand *o = part % 2 && part < 4 ? &p->values : &p->keys;
    ulong of_head = part < 2 ? o->code_head : part < 4 ? o->scale_head : o->centre_head;
    ulong of_group = part < 2 ? o->code_group : part < 4 ? o->scale_group : o->centre_group;
    return from->parts[part] + head * of_head + group * of_group;
}

/* What a warp fetches next: tile `index` of the list. */
struct fetcher {
    segment at;
    uint index;
    bytes next[PARTS]; /* LAYOUT 0: where the tile's parts begin */
    uint page;         /* of the tile, or of the lane's unit; the sequence if there are none */
};

INLINE uint tile_begin(const fetcher *f)
{
    return (f->at.first_tile + (f->index - f->at.begin)) * TILE;
}

/* The slot in its page, or ring, that is `at` slots behind the first tile's first. */
INLINE uint slot_of(const tensor_params *p, uint at, uint *page)
{
    uint slot = p->first_slot + at;
    if (p->capacity && slot >= p->capacity)
        slot -= p->capacity;
    *page = p->page_size ? slot / p->page_size : 0;
    return slot - *page * p->page_size;
}

/* At a new head, or a new tile of pages: those numbers are read a tile ahead of their use. */
INLINE void fetcher_place(const tensor_params *p, const sources *from, const uint *pages,
                          fetcher *f, uint end, uint lane)
{
    uint at = tile_begin(f), page;
    if (LAYOUT == 0) {
        UNROLL for (int i = 0; i < PARTS; i++)
            f->next[i] = part_begin(p, from, i, f->at.head, f->at.sequence) + (ulong)at * part_row(i);
        return;
    }
    f->page = f->at.sequence;
    if (LAYOUT == 2)
        at += lane % UNITS * UNIT;
    if (p->page_size && f->index < end && at < p->skipped + f->at.length) {
        slot_of(p, at, &page);
        f->page = min_of(pages[(ulong)f->at.sequence * p->pages_stride + page], p->n_pages - 1);
    }
}

INLINE void fetcher_next(const tensor_params *p, const sources *from, const uint *lengths,
                         const uint *pages, fetcher *f, uint end, uint lane)
{
    f->index += WARPS;
    bool is_new = f->index >= f->at.begin + f->at.n_tiles;
    while (f->index < end && f->index >= f->at.begin + f->at.n_tiles)
        segment_next(p, lengths, &f->at);
    if (LAYOUT || is_new)
        fetcher_place(p, from, pages, f, end, lane);
    else
        UNROLL for (int i = 0; i < PARTS; i++) f->next[i] += WARPS * TILE * part_row(i);
}

/* LAYOUT 0 and 1. */
INLINE void whole_fetch(const tensor_params *p, const sources *from, fetcher *f, uchar *stage,
                        ulong *barrier, uint lane)
{
    if (LAYOUT == 1) {
        uint unused, slot = slot_of(p, tile_begin(f), &unused);
        UNROLL for (int i = 0; i < PARTS; i++)
            f->next[i] = part_begin(p, from, i, f->at.head, f->page) + (ulong)slot * part_row(i);
    }
    if (!HAS_ENGINE) {
        UNROLL for (int i = 0; i < PARTS; i++)
            warp_copy(stage + part_place(i), f->next[i], TILE * part_row(i), lane);
    } else if (is_elected()) {
        barrier_expect(barrier, TILE * TOKEN_BYTES);
        UNROLL for (int i = 0; i < PARTS; i++)
            engine_copy(stage + part_place(i), f->next[i], TILE * part_row(i), barrier);
    }
}

/* LAYOUT 2: lane 4 u + i works out where part i of unit u begins. */
INLINE void units_fetch(const tensor_params *p, const sources *from, const fetcher *f,
                        uchar *stage, uint lane)
{
    enum { PIECE = 16 /* bytes */ };
    uint begin = tile_begin(f), end = p->skipped + f->at.length;
    UNROLL for (int i = 0; i < PARTS; i++)
    {
        uint unused, unit = lane % UNITS, slot = slot_of(p, begin + unit * UNIT, &unused);
        bytes row = part_begin(p, from, i, f->at.head, f->page) + (ulong)slot * part_row(i);
        UNROLL for (uint k = 0; k < UNITS * part_row(i) * UNIT / PIECE; k += 32)
        {
            uint piece = k + lane, u = piece / (part_row(i) * UNIT / PIECE),
                 offset = (piece - u * (part_row(i) * UNIT / PIECE)) * PIECE;
            bytes here = (bytes)__shfl_sync(~0u, (ulong)row, u % UNITS) + offset;
            uint first = begin + u * UNIT, n = first < end ? min_of(end - first, UNIT) * part_row(i) : 0;
            if (u < UNITS && first + UNIT > p->skipped && n > offset)
                piece_copy(stage + part_place(i) + piece * PIECE, here, min_of(n - offset, PIECE));
        }
    }
}

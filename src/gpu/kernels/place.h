#pragma once
#include "params.h"

/* Where a token's row is: in units of rows of one head, and of pages. */
typedef struct place {
    ulong page, slot;
    bool is_staged;
} place;

enum { PAGE_TOKENS = 64 };
#define PAGE_STAGED 0x80000000u

INLINE place token_place(PARAM const place_params *p, GLOBAL const uint *pages, uint sequence,
                         uint token)
{
    place at;
    at.page = 0;
    at.is_staged = false;
    at.slot = p->first_slot + token;
    if (p->capacity)
        at.slot %= p->capacity;
    if (p->page_size) {
        uint page = pages[(ulong)sequence * p->pages_stride + at.slot / p->page_size];
        at.is_staged = p->n_staged && page & PAGE_STAGED;
        page = at.is_staged ? page & ~PAGE_STAGED : page;
        uint n = at.is_staged ? p->n_staged : p->n_pages;
        at.page = page < n ? page : n - 1; /* not beyond the buffer */
        at.slot %= p->page_size;
    }
    return at;
}

INLINE ulong code_offset(PARAM const operand_params *o, uint sequence, uint head, place at)
{
    return sequence * o->code_sequence + at.page * o->code_page + head * o->code_head +
           at.slot * o->code_row;
}

INLINE ulong scale_offset(PARAM const operand_params *o, uint sequence, uint head, place at)
{
    return sequence * o->scale_sequence + at.page * o->scale_page + head * o->scale_head +
           at.slot * o->scale_row;
}

INLINE ulong mean_offset(PARAM const operand_params *o, uint head, place at)
{
    return at.page * o->mean_page + head * o->mean_head;
}

INLINE ulong staged_offset(PARAM const staged_params *o, uint head, place at)
{
    return at.page * o->page + head * o->head + at.slot * o->row;
}

#pragma once
/* What kernels on pages share (tqkv_page.h): where things lie, and means. */
#include "place.h"
#include "page_mean.h"

#define NO_PLACE 0xFFFFFFFFu

INLINE ulong page_codes_at(PARAM const pages_side *s, uint layer, uint head, uint page)
{
    return layer * s->code_layer + page * s->code_page + head * s->code_head;
}

INLINE ulong page_scales_at(PARAM const pages_side *s, uint layer, uint head, uint page)
{
    return layer * s->scale_layer + page * s->scale_page + head * s->scale_head;
}

INLINE ulong page_mean_at(PARAM const pages_side *s, uint layer, uint head, uint page)
{
    return layer * s->mean_layer + page * s->mean_page + head * s->mean_head;
}

INLINE ulong staged_at(PARAM const pages_side *s, uint layer, uint head, uint page)
{
    return layer * s->from_layer + page * s->from_page + head * s->from_head;
}

/* What tqkv_attend requires of its arguments. */
#ifndef TQKV_ATTEND_CHECK_H
#define TQKV_ATTEND_CHECK_H

#include "tqkv_attention.h"

/* Formats, counts and how they go together; looks at no data. Afterwards the
 * numbers of tokens add up without overflow. */
tqkv_status check_shape(const tqkv_attention *a);

/* Pointers, extents, page numbers and the numbers behind them. */
tqkv_status check_data(const tqkv_attention *a);

/* Whether tiles of this format are floats. */
int check_is_float(const tqkv_format *format);

#endif

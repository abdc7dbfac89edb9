#pragma once
/* Where a kernel is compiled for one format, what the compiler shall know of it. */
INLINE format_params rows_format(PARAM const rows_params *p)
{
    format_params f = p->format;
#ifdef ROWS_RATE
    f.rate = ROWS_RATE;
    f.low_bits = ROWS_RATE / 16;
    f.kind = ROWS_KIND;
    f.bits = ROWS_BITS;
    f.words = ROWS_WORDS;
    f.head_dim = ROWS_DIM;
    f.code_bytes = ROWS_CODE_BYTES;
#endif
    return f;
}

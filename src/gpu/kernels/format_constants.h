#pragma once
/* Where a kernel is compiled for one format (format_options of dispatch.c says so),
 * what the compiler shall know of it. */
#define SET_CONSTANTS(f, name)          \
    do {                                \
        (f).rate = name##_RATE;         \
        (f).low_bits = name##_RATE / 16; \
        (f).kind = name##_KIND;         \
        (f).bits = name##_BITS;         \
        (f).words = name##_WORDS;       \
        (f).type = name##_TYPE;         \
        (f).head_dim = name##_DIM;      \
        (f).code_bytes = name##_CODE_BYTES; \
    } while (0)

INLINE format_params rows_format(PARAM const rows_params *p)
{
    format_params f = p->format;
#ifdef FORMAT_RATE
    SET_CONSTANTS(f, FORMAT);
#endif
    return f;
}

#pragma once
/* Where a kernel is compiled for one format (format_options of dispatch.c says so),
 * what the compiler shall know of it. */
#define SET_CONSTANTS(f, name)          \
    do {                                \
        (f).kind = name##_KIND;         \
        (f).bits = name##_BITS;         \
        (f).code_bits = name##_CODE_BITS; \
        (f).words = name##_WORDS;       \
        (f).type = name##_TYPE;         \
        (f).head_dim = name##_DIM;      \
        (f).code_bytes = name##_CODE_BYTES; \
    } while (0)

INLINE format_params rows_format(PARAM const rows_params *p)
{
    format_params f = p->format;
#ifdef FORMAT_BITS
    SET_CONSTANTS(f, FORMAT);
#endif
    return f;
}

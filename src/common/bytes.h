/* Little-endian numbers in byte arrays. */
#ifndef TQKV_COMMON_BYTES_H
#define TQKV_COMMON_BYTES_H

#include <stdint.h>

static inline void store_le(uint8_t *p, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

static inline uint64_t load_le(const uint8_t *p, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << 8 * i;
    return value;
}

/* Both kinds of file begin with 8 bytes of magic, a version and this mark. */
enum { ENDIAN_MARK = 0x1234, REVERSED_MARK = 0x3412 };

#endif

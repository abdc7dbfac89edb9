#include <string.h>

#include "codec/kernels.h"

/* Byte c of the low plane's halves and of the high plane, from 4 symbols each. */
static void planes_pack(const uint8_t *symbols, unsigned head_dim, uint8_t *codes)
{
    unsigned part = head_dim / 8;
    for (unsigned c = 0; c < part; c++) {
        unsigned low[2] = {0}, high = 0;
        for (unsigned half = 0; half < 2; half++)
            for (unsigned j = 0; j < 4; j++) {
                unsigned i = half * head_dim / 2 + 4 * c + j, symbol = symbols[i];
                low[half] |= (symbol & 3) << 2 * j;
                high |= (symbol >> 2 & 1) << trellis_high_bit(i, head_dim) % 8;
            }
        codes[c] = (uint8_t)low[0];
        codes[part + c] = (uint8_t)low[1];
        codes[2 * part + c] = (uint8_t)high;
    }
}

void codes_pack(const codec_kernels *k, const uint8_t *symbols,
                const stream_plan *p, uint8_t *codes)
{
    if (p->is_planes) {
        planes_pack(symbols, p->head_dim, codes);
        return;
    }
    if (p->bits == 4) {
        k->pack_nibbles(symbols, p->head_dim, codes);
        return;
    }
    for (unsigned i = 0; i < p->head_dim; i += 8) { /* to whole bytes */
        uint64_t stream = 0;
        for (unsigned j = 0; j < 8; j++)
            stream |= (uint64_t)(symbols[i + j] & ((1u << p->bits) - 1)) << j * p->bits;
        for (unsigned j = 0; j < p->bits; j++)
            *codes++ = (uint8_t)(stream >> 8 * j);
    }
}

void codes_pad(const uint8_t *codes, const stream_plan *p, uint8_t *padded)
{
    unsigned bytes = p->head_dim * p->bits / 8;
    memcpy(padded, codes, bytes);
    memset(padded + bytes, 0, CODE_PADDING);
    padded[bytes] = codes[0];
}

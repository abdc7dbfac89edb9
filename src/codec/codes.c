#include <string.h>

#include "codec/kernels.h"

void codes_pack(const codec_kernels *k, const uint8_t *windows,
                const stream_plan *p, uint8_t *codes)
{
    if (p->bits == 4) {
        k->pack_nibbles(windows, p->head_dim, codes);
        return;
    }
    for (unsigned i = 0; i < p->head_dim; i += 8) { /* to whole bytes */
        uint64_t stream = 0;
        for (unsigned j = 0; j < 8; j++)
            stream |= (uint64_t)(windows[i + j] & ((1u << p->bits) - 1)) << j * p->bits;
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

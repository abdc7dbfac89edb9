#include <string.h>

#include "codec/kernels.h"
#include "format/trellis.h"

void codes_pack(const codec_kernels *k, const uint8_t *windows,
                const stream_plan *p, uint8_t *codes)
{
    unsigned n = p->head_dim;
    if (p->rate == 64) {
        k->pack_nibbles(windows, n, codes);
        return;
    }
    uint64_t pending = 0;
    unsigned filled = 0, offset = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned next = trellis_offset(p->rate, i + 1), bits = next - offset;
        pending |= (uint64_t)(windows[i] & ((1u << bits) - 1)) << filled;
        filled += bits;
        offset = next;
        while (filled >= 8) {
            *codes++ = (uint8_t)pending;
            pending >>= 8;
            filled -= 8;
        }
    }
    if (filled)
        *codes = (uint8_t)pending;
}

void codes_pad(const uint8_t *codes, const stream_plan *p, uint8_t *padded)
{
    unsigned bits = p->head_dim / 16 * p->rate;
    unsigned bytes = (bits + 7) / 8, rest = bits % 8;
    memcpy(padded, codes, bytes);
    memset(padded + bytes, 0, CODE_PADDING);
    if (rest == 0) {
        padded[bytes] = codes[0];
    } else { /* unused bits of the last byte do not count */
        unsigned last = codes[bytes - 1] & ((1u << rest) - 1);
        padded[bytes - 1] = (uint8_t)(last | codes[0] << rest);
        padded[bytes] = (uint8_t)(codes[0] >> (8 - rest));
    }
}

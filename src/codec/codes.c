#include <string.h>

#include "codec/kernels.h"
#include "format/trellis.h"

/* Rates that fill bytes evenly. */
static void pack_2(const uint8_t *w, unsigned n, uint8_t *codes)
{
    for (unsigned i = 0; i < n / 4; i++)
        codes[i] = (uint8_t)((w[4 * i] & 3) | (w[4 * i + 1] & 3) << 2 |
                             (w[4 * i + 2] & 3) << 4 | w[4 * i + 3] << 6);
}

static void pack_4(const uint8_t *w, unsigned n, uint8_t *codes)
{
    for (unsigned i = 0; i < n / 2; i++)
        codes[i] = (uint8_t)((w[2 * i] & 15) | w[2 * i + 1] << 4);
}

void codes_pack(const uint8_t *windows, const stream_plan *p, uint8_t *codes)
{
    unsigned n = p->head_dim;
    if (p->rate == 32) {
        pack_2(windows, n, codes);
        return;
    }
    if (p->rate == 64) {
        pack_4(windows, n, codes);
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

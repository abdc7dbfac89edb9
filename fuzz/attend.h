/* What the targets of attention share: input byte by byte, and a call whose outputs have to be
 * finite. */
#ifndef TQKV_FUZZ_ATTEND_H
#define TQKV_FUZZ_ATTEND_H

#include <math.h>
#include <stdlib.h>

#include "fuzz.h"
#include "tqkv_attention.h"

typedef struct input {
    const uint8_t *data;
    size_t size;
} input;

static inline unsigned byte_of(input *in)
{
    if (!in->size)
        return 0;
    in->size--;
    return *in->data++;
}

static inline void attend(const tqkv_attention *a, float *out, size_t n_out)
{
    tqkv_executor one = {1, NULL, NULL};
    tqkv_partial result = {out, NULL, NULL};
    size_t bytes;
    if (tqkv_attend_workspace(a, &one, &bytes) != TQKV_OK)
        return;
    void *workspace = malloc(bytes);
    if (workspace && tqkv_attend(a, &result, &one, workspace, bytes) == TQKV_OK)
        for (size_t i = 0; i < n_out; i++)
            if (!isfinite(out[i]))
                abort();
    free(workspace);
}

#endif

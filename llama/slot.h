/* Cache slots: what a head's bytes in a llama.cpp cache of some type hold. */
#ifndef TQKV_LLAMA_SLOT_H
#define TQKV_LLAMA_SLOT_H

#include "ggml_abi.h"
#include "tqkv.h"

/* Whether cache tensors of the type are taken over. */
int slot_is_type(int type);

/* A head's row in its slot: codes, scale, and what bytes are left. */
typedef struct slot_layout {
    tqkv_format format;
    size_t bytes;       /* of the slot */
    size_t scale_at;
    size_t centre_at;   /* 0: the number stands in the scale's spare bits */
    unsigned spare_bits;
    /* So many spare bits tell rows of another format or profile apart. 0: they
     * do not (the other operand's rows do). */
    unsigned tag_bits;
} slot_layout;

/* Fills a slot of head_dim values: the finest trellis rate that fits. n_centres
 * is 1 without a profile and for values. wants_tag: rows carry a tag. name
 * overrides the format (null: none). Null, or what is wrong, in static text. */
const char *slot_init(slot_layout *s, int type, uint32_t head_dim, uint32_t n_centres, int wants_tag,
                      const char *name);

/* n heads' rows from `base` on, `stride` bytes apart. */
tqkv_rows slot_rows(const slot_layout *s, void *base, size_t stride);

#endif

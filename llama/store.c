#include "store.h"

#include <string.h>

/* Units of work are heads of rows, row by row. */
typedef struct part {
    size_t row;
    uint32_t first, n;
} part;

/* The heads of row `row` among units [from, to). */
static part heads_of(size_t row, uint32_t n_heads, size_t from, size_t to)
{
    size_t start = row * n_heads, end = start + n_heads;
    size_t first = from > start ? from - start : 0;
    size_t last = (to < end ? to : end) - start;
    return (part){.row = row, .first = (uint32_t)first, .n = (uint32_t)(last - first)};
}

static void share(size_t n, int ith, int nth, size_t *from, size_t *to)
{
    *from = n * (size_t)ith / (size_t)nth;
    *to = n * ((size_t)ith + 1) / (size_t)nth;
}

static uint8_t *row_at(const cache *c, size_t slot, uint32_t head)
{
    return (uint8_t *)c->tensor->data + slot * c->row_bytes + head * c->slot.bytes;
}

/* Heads of one row; values is the first head's. */
static void encode(const step *s, cache *c, size_t slot, part p, const float *values)
{
    uint32_t at_once = c->profiles ? 1 : p.n, dim = c->slot.format.head_dim;
    for (uint32_t h = 0; h < p.n; h += at_once) {
        tqkv_rows rows = slot_rows(&c->slot, row_at(c, slot, p.first + h), c->slot.bytes);
        const tqkv_key_profile *profile = c->profiles ? &c->profiles[p.first + h] : NULL;
        tqkv_status status = tqkv_encode(&c->slot.format, profile, values + (size_t)h * dim,
                                         TQKV_F32, 0, at_once, &rows);
        if (status != TQKV_OK)
            s->work->failure = tqkv_status_string(status);
    }
    cache_mark(c, slot, p.first, p.n);
}

static int64_t index_at(const gg_tensor *at, size_t i)
{
    const uint8_t *p = (const uint8_t *)at->data + i * at->nb[0];
    int64_t wide;
    int32_t narrow;
    if (at->type == GG_I32)
        return memcpy(&narrow, p, sizeof narrow), narrow;
    return memcpy(&wide, p, sizeof wide), wide;
}

void store_run(const step *s, int ith, int nth)
{
    cache *c = s->keys;
    const gg_tensor *rows = s->node->src[0], *at = s->node->src[1];
    size_t from, to;
    share((size_t)rows->ne[1] * c->n_heads, ith, nth, &from, &to);
    for (size_t row = from / c->n_heads; row * c->n_heads < to; row++) {
        part p = heads_of(row, c->n_heads, from, to);
        int64_t slot = index_at(at, row);
        if (slot < 0 || (size_t)slot >= c->n_slots) {
            s->work->failure = "a row is to be stored outside the cache";
            return;
        }
        const float *values = (const float *)((const uint8_t *)s->rows + row * rows->nb[1]) +
                              (size_t)p.first * c->slot.format.head_dim;
        encode(s, c, (size_t)slot, p, values);
        if (s->work->capture && c->is_key)
            capture_keys(s->work->capture, c, row, p.first, p.n, values);
    }
}

void copy_run(const step *s, int ith, int nth)
{
    const gg_tensor *t = s->node;
    size_t from, to;
    share((size_t)(t->ne[1] * t->ne[2] * t->ne[3]), ith, nth, &from, &to);
    memcpy((uint8_t *)t->data + from * t->nb[1], (const uint8_t *)t->src[1]->data + from * t->nb[1],
           (to - from) * t->nb[1]);
}

static void decode(const step *s, const cache *c, size_t slot, uint32_t head, float *values)
{
    tqkv_rows rows = slot_rows(&c->slot, row_at(c, slot, head), c->slot.bytes);
    tqkv_status status = tqkv_decode(&c->slot.format, c->profiles ? &c->profiles[head] : NULL,
                                     &rows, 1, TQKV_ORIGINAL, values, 0);
    if (status != TQKV_OK)
        s->work->failure = tqkv_status_string(status);
}

void load_run(const step *s, int ith, int nth)
{
    const cache *c = s->keys;
    const gg_tensor *dst = s->node;
    size_t from, to;
    share((size_t)dst->ne[2] * c->n_heads, ith, nth, &from, &to);
    for (size_t i = from; i < to; i++) {
        size_t slot = i / c->n_heads;
        uint32_t head = (uint32_t)(i % c->n_heads);
        float values[TQKV_MAX_HEAD_DIM];
        decode(s, c, slot, head, values);
        memcpy((uint8_t *)dst->data + slot * dst->nb[2] + head * dst->nb[1], values,
               (size_t)dst->ne[0] * sizeof *values);
    }
}

/* Rows that do not move keep their bytes: encoding them again would only add to
 * their error. RoPE may turn only a head's first values; the rest stays. */
void shift_run(const step *s, int ith, int nth)
{
    cache *c = s->keys;
    const gg_tensor *src = s->node->src[0];
    const int32_t *shifts = NULL;
    if (s->shifts && s->shifts->ne[0] >= src->ne[2])
        shifts = s->shifts->data;
    size_t from, to;
    share((size_t)src->ne[2] * c->n_heads, ith, nth, &from, &to);
    for (size_t i = from; i < to; i++) {
        size_t slot = i / c->n_heads;
        uint32_t head = (uint32_t)(i % c->n_heads);
        if (shifts && !shifts[slot])
            continue;
        float values[TQKV_MAX_HEAD_DIM];
        decode(s, c, slot, head, values);
        memcpy(values, (const uint8_t *)src->data + slot * src->nb[2] + head * src->nb[1],
               (size_t)src->ne[0] * sizeof *values);
        encode(s, c, slot, (part){slot, head, 1}, values);
    }
}

#include "attend/tile.h"

#include <string.h>

#include "common/f16.h"
#include "common/finite.h"
#include "format/spare.h"

/* The slots from `slot` on that lie at constant strides, at most limit. */
static unsigned run_at(const tqkv_tokens *set, const tqkv_operand *o, uint32_t head, size_t slot,
                       unsigned limit, tile_run *run, const uint8_t **codes)
{
    const tqkv_rows *r = &o->rows;
    size_t place = slot, page = 0, left = limit;
    if (set->pages) {
        page = set->pages[slot / set->page_size];
        place = slot % set->page_size;
        left = set->page_size - place < left ? set->page_size - place : left;
    }
    if (set->capacity && set->capacity - slot < left)
        left = set->capacity - slot;
    *codes = r->codes + page * o->page.codes + place * r->code_stride + head * o->head.codes;
    run->page = (uint32_t)page;
    run->scales = run->centres = NULL;
    if (r->scales)
        run->scales = r->scales + page * o->page.scales + place * r->scale_stride +
                      head * o->head.scales;
    if (r->centres)
        run->centres = r->centres + page * o->page.centres + place * r->centre_stride +
                       head * o->head.centres;
    return (unsigned)left;
}

/* Rows of consecutive tokens, to the tile's places from `done` to before `end`. */
static void locate_run(const tqkv_tokens *set, const tqkv_operand *o, const attend_kernels *k,
                       uint32_t head, size_t token, unsigned done, unsigned end, tile_rows *t)
{
    size_t slot = set->first_slot + token;
    if (set->capacity && slot >= set->capacity)
        slot -= set->capacity;
    while (done < end) {
        tile_run *run = &t->runs[t->n_runs++];
        const uint8_t *codes;
        unsigned count = run_at(set, o, head, slot, end - done, run, &codes);
        k->addresses(codes, o->rows.code_stride, count, t->codes + done);
        for (unsigned i = 0; run->scales && i < count; i += 64 / sizeof(uint16_t))
            __builtin_prefetch(run->scales + i * o->rows.scale_stride);
        done += count;
        run->end = (uint8_t)done;
        slot += count;
        if (slot == set->capacity)
            slot = 0;
    }
}

void tile_locate(const tqkv_tokens *set, const tqkv_operand *o, const attend_kernels *k,
                 uint32_t head, const token_runs *tokens, tile_rows *t)
{
    unsigned n = 0;
    t->n_runs = 0;
    for (unsigned i = 0; i < tokens->n_runs; i++) {
        locate_run(set, o, k, head, tokens->runs[i].token, n, tokens->runs[i].end, t);
        n = tokens->runs[i].end;
    }
    for (unsigned i = n; i < TILE; i++)
        t->codes[i] = t->codes[n - 1];
}

/* The scales of a tile, one after the other, each of so many bytes; zeros behind
 * the last. */
static inline void gather(const tile_rows *t, size_t stride, const size_t bytes, uint8_t *scales)
{
    unsigned i = 0;
    for (const tile_run *run = t->runs; run < t->runs + t->n_runs; run++)
        for (const uint8_t *at = run->scales; i < run->end; i++, at += stride)
            memcpy(scales + bytes * i, at, bytes);
    memset(scales + bytes * i, 0, bytes * (TILE - i));
}

static int are_together(const tile_rows *t, size_t stride, size_t bytes)
{
    return stride == bytes && t->runs[0].end == TILE;
}

/* Half-precision scales may have bits that are not theirs, which hold the
 * centres' numbers unless those have their own place. */
static void read_halves(const tqkv_operand *o, const attend_kernels *k, tile_rows *t)
{
    uint16_t half[TILE];
    unsigned bits = o->rows.spare_bits;
    if (!bits && are_together(t, o->rows.scale_stride, sizeof *half)) {
        t->largest_scale = k->scales(t->runs[0].scales, t->scales);
        return;
    }
    gather(t, o->rows.scale_stride, sizeof *half, (uint8_t *)half);
    if (bits && o->profiles && !o->rows.centres)
        for (unsigned i = 0; i < TILE; i++)
            t->centres[i] = (uint8_t)spare_number(half[i], bits);
    uint16_t mask = (uint16_t)~spare_mask(bits);
    for (unsigned i = 0; i < TILE; i++)
        half[i] &= mask;
    t->largest_scale = k->scales((const uint8_t *)half, t->scales);
}

static void read_norms(const tqkv_operand *o, const attend_kernels *k, tile_rows *t)
{
    float norms[TILE];
    if (are_together(t, o->rows.scale_stride, sizeof *norms)) {
        t->largest_scale = k->norms(t->runs[0].scales, t->scales);
        return;
    }
    gather(t, o->rows.scale_stride, sizeof *norms, (uint8_t *)norms);
    t->largest_scale = k->norms((const uint8_t *)norms, t->scales);
}

void tile_scales(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 tile_rows *t)
{
    if (p->source == TILE_FLOAT)
        for (unsigned i = 0; i < TILE; i++)
            t->scales[i] = 1;
    else if (p->scale_bytes == sizeof(uint16_t))
        read_halves(o, k, t);
    else
        read_norms(o, k, t);
    unsigned i = 0;
    for (const tile_run *run = t->runs; run < t->runs + t->n_runs && run->centres; run++)
        for (const uint8_t *at = run->centres; i < run->end; i++, at += o->rows.centre_stride)
            t->centres[i] = *at;
}

static void clean(float *x, size_t n, float limit)
{
    for (size_t i = 0; i < n; i++)
        x[i] = made_finite(x[i], limit);
}

static void mlx_floats(const tqkv_operand *o, const tile_plan *p, const tile_rows *t,
                       float *floats)
{
    unsigned i = 0;
    for (const tile_run *run = t->runs; run < t->runs + t->n_runs; run++)
        for (const uint8_t *at = run->scales; i < run->end; i++, at += o->rows.scale_stride) {
            float norms[MAX_DIM / 256];
            memcpy(norms, at, p->scale_bytes);
            for (size_t j = 0; j < p->scale_bytes / sizeof *norms; j++)
                norms[j] = norms[j] > 0 && norms[j] <= LARGEST_NORM ? norms[j] : 0;
            p->codec->mlx_decode(t->codes[i], norms, p->head_dim, p->mlx_bits, p->mlx_codebook, 1,
                                 floats + (size_t)i * p->head_dim);
        }
}

void tile_floats(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 const tile_rows *rows, unsigned n, float *floats)
{
    size_t dim = p->head_dim;
    if (p->mlx_codebook)
        mlx_floats(o, p, rows, floats);
    else
        for (unsigned t = 0; t < n; t++) {
            if (o->type == TQKV_F16)
                k->halves(rows->codes[t], p->head_dim, floats + t * dim);
            else
                tqkv_to_f32(rows->codes[t], (tqkv_type)o->type, dim, floats + t * dim);
        }
    clean(floats, n * dim, p->mlx_codebook ? LARGEST_NORM : LARGEST_INPUT);
    memset(floats + n * dim, 0, (TILE - n) * dim * sizeof *floats);
}

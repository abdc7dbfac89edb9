#include "attend/tile.h"

#include <string.h>

#include "common/f16.h"
#include "common/finite.h"

/* Larger norms come from no encoder; squares of products stay finite. */
#define LARGEST_NORM 0x1p60f

/* Consecutive slots at constant strides. */
typedef struct run {
    const uint8_t *codes, *scales, *centres;
    unsigned count;
} run;

static run run_at(const tqkv_tokens *set, const tqkv_operand *o, uint32_t head, size_t slot,
                  unsigned limit, uint32_t *page)
{
    const tqkv_rows *r = &o->rows;
    size_t place = slot, page_number = 0, left = limit;
    if (set->pages) {
        page_number = set->pages[slot / set->page_size];
        place = slot % set->page_size;
        left = set->page_size - place < left ? set->page_size - place : left;
    }
    if (set->capacity && set->capacity - slot < left)
        left = set->capacity - slot;
    *page = (uint32_t)page_number;
    run found = {.count = (unsigned)left};
    found.codes = r->codes + page_number * o->page.codes + place * r->code_stride +
                  head * o->head.codes;
    if (r->scales)
        found.scales = r->scales + page_number * o->page.scales + place * r->scale_stride +
                       head * o->head.scales;
    if (r->centres)
        found.centres = r->centres + page_number * o->page.centres + place * r->centre_stride +
                        head * o->head.centres;
    return found;
}

static void copy_halves(const run *r, size_t stride, uint16_t *half)
{
    if (stride == sizeof *half) {
        memcpy(half, r->scales, r->count * sizeof *half);
        return;
    }
    for (unsigned i = 0; i < r->count; i++)
        memcpy(half + i, r->scales + i * stride, sizeof *half);
}

static void set_norms(tile_rows *t, const float *norm)
{
    t->largest_scale = 0;
    for (unsigned i = 0; i < TILE; i++) {
        t->scales[i] = norm[i] > 0 && norm[i] <= LARGEST_NORM ? norm[i] : 0;
        if (t->scales[i] > t->largest_scale)
            t->largest_scale = t->scales[i];
    }
}

void tile_locate(const tqkv_tokens *set, const tqkv_operand *o, const tile_plan *p,
                 const attend_kernels *k, uint32_t head, size_t token, unsigned n, tile_rows *t)
{
    uint16_t half[TILE] = {0};
    float norm[TILE] = {0};
    int has_scales = p->source != TILE_FLOAT, is_half = p->scale_bytes == sizeof *half;
    size_t slot = set->first_slot + token;
    if (set->capacity && slot >= set->capacity)
        slot -= set->capacity;
    t->n_pages = 0;
    for (unsigned done = 0; done < n;) {
        run r = run_at(set, o, head, slot, n - done, &t->page_number[t->n_pages]);
        for (unsigned i = 0; i < r.count; i++)
            t->codes[done + i] = r.codes + i * o->rows.code_stride;
        if (has_scales && is_half)
            copy_halves(&r, o->rows.scale_stride, half + done);
        else if (p->source == TILE_FLOAT && p->mlx_codebook) /* several a row */
            for (unsigned i = 0; i < r.count; i++)
                t->norms[done + i] = r.scales + i * o->rows.scale_stride;
        else if (has_scales)
            for (unsigned i = 0; i < r.count; i++)
                memcpy(norm + done + i, r.scales + i * o->rows.scale_stride, sizeof *norm);
        if (r.centres)
            for (unsigned i = 0; i < r.count; i++)
                t->centres[done + i] = r.centres[i * o->rows.centre_stride];
        done += r.count;
        slot += r.count;
        if (slot == set->capacity)
            slot = 0;
        t->page_end[t->n_pages++] = (uint8_t)done;
    }
    for (unsigned i = n; i < TILE; i++)
        t->codes[i] = t->codes[n - 1];
    if (has_scales && is_half) {
        t->largest_scale = k->scales(half, t->scales);
    } else if (has_scales) {
        set_norms(t, norm);
    } else {
        for (unsigned i = 0; i < TILE; i++)
            t->scales[i] = 1;
    }
}

static void clean(float *x, size_t n, float limit)
{
    for (size_t i = 0; i < n; i++)
        x[i] = made_finite(x[i], limit);
}

void tile_floats(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 const tile_rows *rows, unsigned n, float *floats)
{
    size_t dim = p->head_dim;
    for (unsigned t = 0; t < n; t++) {
        float *row = floats + t * dim;
        if (p->mlx_codebook) {
            float norms[MAX_DIM / 256];
            memcpy(norms, rows->norms[t], p->scale_bytes);
            p->codec->mlx_decode(rows->codes[t], norms, p->head_dim, p->mlx_bits,
                                 p->mlx_codebook, 1, row);
        } else if (o->type == TQKV_F16) {
            k->halves(rows->codes[t], p->head_dim, row);
        } else {
            tqkv_to_f32(rows->codes[t], o->type, dim, row);
        }
    }
    clean(floats, n * dim, p->mlx_codebook ? LARGEST_NORM : LARGEST_INPUT);
    memset(floats + n * dim, 0, (TILE - n) * dim * sizeof *floats);
}

#include "attend/tile.h"

#include <math.h>
#include <string.h>

#include "common/finite.h"
#include "page/mean.h"

/* Codebook 0: numbers as they are. */
static int is_plain(const tqkv_operand *o)
{
    return !o->format.codebook;
}

static const tqkv_operand *operand_of(const tqkv_page_kind *kind, tile_operand operand)
{
    return operand == TILE_KEYS ? &kind->keys : &kind->values;
}

/* The operand of a page table's entry; *number becomes the page's. */
static const tqkv_operand *page_operand(const tqkv_tokens *set, tile_operand operand,
                                        uint32_t entry, size_t *number)
{
    *number = entry & ~(TQKV_PAGE_STAGED | TQKV_PAGE_MIXED);
    if (entry & TQKV_PAGE_STAGED)
        return operand_of(set->staged, operand);
    if (entry & TQKV_PAGE_MIXED)
        return operand_of(set->mixed, operand);
    return operand == TILE_KEYS ? &set->keys : &set->values;
}

static const uint8_t *at(const uint8_t *base, size_t offset)
{
    return base ? base + offset : NULL;
}

/* The slots from `slot` on that lie at constant strides, at most limit. */
static unsigned run_at(const tqkv_tokens *set, tile_operand operand, uint32_t head, size_t slot,
                       unsigned limit, tile_run *run, const uint8_t **codes)
{
    const tqkv_operand *o = operand == TILE_KEYS ? &set->keys : &set->values;
    size_t place = slot, page = 0, left = limit;
    if (set->pages) {
        o = page_operand(set, operand, set->pages[slot / set->page_size], &page);
        place = slot % set->page_size;
        left = set->page_size - place < left ? set->page_size - place : left;
    }
    if (set->capacity && set->capacity - slot < left)
        left = set->capacity - slot;
    const tqkv_rows *r = &o->rows;
    *run = (tile_run){.operand = o, .place = (uint8_t)place};
    *codes = r->codes + page * o->page.codes + place * r->code_stride + head * o->head.codes;
    if (is_plain(o)) /* whatever its other fields hold */
        return (unsigned)left;
    run->scales = at(r->scales, page * o->page.scales + place * r->scale_stride +
                                    head * o->head.scales);
    run->means = at(o->means, page * o->page.means + head * o->head.means);
    run->numbers = at(o->numbers, page * o->page.numbers + head * o->head.numbers);
    return (unsigned)left;
}

static void prefetch_means(const tile_run *run)
{
    size_t bytes = run->operand->n_means * mean_bytes(run->operand->format.head_dim);
    for (size_t i = 0; run->means && i < bytes; i += 64)
        __builtin_prefetch(run->means + i);
}

/* Rows of consecutive tokens, to the tile's places from `done` to before `end`. */
static void locate_run(const tqkv_tokens *set, tile_operand operand, const attend_kernels *k,
                       uint32_t head, size_t token, unsigned done, unsigned end, tile_rows *t)
{
    size_t slot = set->first_slot + token;
    if (set->capacity && slot >= set->capacity)
        slot -= set->capacity;
    while (done < end) {
        tile_run *run = &t->runs[t->n_runs++];
        const uint8_t *codes;
        unsigned count = run_at(set, operand, head, slot, end - done, run, &codes);
        const tqkv_rows *r = &run->operand->rows;
        k->addresses(codes, r->code_stride, count, t->rows + done);
        for (unsigned i = 0; run->scales && i < count; i += 64 / sizeof(uint16_t))
            __builtin_prefetch(run->scales + i * r->scale_stride);
        prefetch_means(run);
        if (is_plain(run->operand))
            t->plain |= tile_bits(done, done + count);
        done += count;
        run->end = (uint8_t)done;
        slot += count;
        if (slot == set->capacity)
            slot = 0;
    }
}

void tile_locate(const tqkv_tokens *set, tile_operand operand, const attend_kernels *k,
                 uint32_t head, const token_runs *tokens, tile_rows *t)
{
    unsigned n = 0;
    t->n_runs = 0;
    t->plain = t->chosen = 0;
    for (unsigned i = 0; i < tokens->n_runs; i++) {
        locate_run(set, operand, k, head, tokens->runs[i].token, n, tokens->runs[i].end, t);
        n = tokens->runs[i].end;
    }
    for (unsigned i = n; i < TILE; i++)
        t->rows[i] = t->rows[n - 1];
}

/* The scales of a tile, one after the other, each of so many bytes; zeros behind the last
 * and for plain tokens. */
static inline void gather(const tile_rows *t, const size_t bytes, uint8_t *scales)
{
    unsigned i = 0;
    for (const tile_run *run = t->runs; run < t->runs + t->n_runs; run++) {
        size_t stride = run->operand->rows.scale_stride;
        if (!run->scales) {
            memset(scales + bytes * i, 0, bytes * (run->end - i));
            i = run->end;
        }
        for (const uint8_t *from = run->scales; i < run->end; i++, from += stride)
            memcpy(scales + bytes * i, from, bytes);
    }
    memset(scales + bytes * i, 0, bytes * (TILE - i));
}

static int are_together(const tile_rows *t, size_t bytes)
{
    const tile_run *run = t->runs;
    return run->scales && run->operand->rows.scale_stride == bytes && run->end == TILE;
}

static void read_halves(const tqkv_operand *o, const attend_kernels *k, tile_rows *t)
{
    uint16_t half[TILE];
    const uint8_t *scales = (const uint8_t *)half;
    if (are_together(t, sizeof *half))
        scales = t->runs[0].scales;
    else
        gather(t, sizeof *half, (uint8_t *)half);
    t->largest_scale = k->scales(scales, o->means ? &t->chosen : NULL, t->scales);
}

/* The first norm of each row whose scales are norms, without its sign where that is a
 * choice. */
static void gather_norms(const tqkv_operand *o, tile_rows *t, uint32_t *norm)
{
    gather(t, sizeof *norm, (uint8_t *)norm);
    for (unsigned i = 0; o->means && i < TILE; i++) {
        t->chosen |= (uint64_t)(norm[i] >> 31) << i;
        norm[i] &= 0x7FFFFFFF;
    }
}

static void read_norms(const tqkv_operand *o, const attend_kernels *k, tile_rows *t)
{
    uint32_t norms[TILE];
    gather_norms(o, t, norms);
    t->largest_scale = k->norms((const uint8_t *)norms, t->scales);
}

/* TILE_FLOAT: its floats have the scales. */
static void read_signs(const tqkv_operand *o, tile_rows *t)
{
    uint32_t norms[TILE];
    gather_norms(o, t, norms);
    for (unsigned i = 0; i < TILE; i++)
        t->scales[i] = !(t->plain >> i & 1);
}

void tile_scales(const tqkv_operand *o, const tile_plan *p, const attend_kernels *k,
                 tile_rows *t)
{
    if (p->source == TILE_PLAIN) {
        memset(t->scales, 0, sizeof t->scales);
        t->largest_scale = 0;
    } else if (p->source == TILE_FLOAT) {
        read_signs(o, t);
    } else if (p->scale_bytes != sizeof(uint16_t)) {
        read_norms(o, k, t);
    } else {
        read_halves(o, k, t);
    }
}

/* ---- floats ---- */

static void clean(float *x, size_t n, float limit)
{
    for (size_t i = 0; i < n; i++)
        x[i] = made_finite(x[i], limit);
}

void tile_floats(const tqkv_operand *o, const tile_plan *p, const tile_rows *t, unsigned n,
                 float *floats)
{
    unsigned i = 0, dim = p->head_dim;
    memset(floats, 0, (size_t)TILE * dim * sizeof *floats);
    for (const tile_run *run = t->runs; run < t->runs + t->n_runs; i = run++->end) {
        const uint8_t *from = run->scales;
        for (; from && i < run->end; i++, from += run->operand->rows.scale_stride) {
            float norms[MAX_DIM / 256];
            memcpy(norms, from, p->scale_bytes);
            if (o->means)
                norms[0] = fabsf(norms[0]);
            for (size_t j = 0; j < p->scale_bytes / sizeof *norms; j++)
                norms[j] = norms[j] > 0 && norms[j] <= LARGEST_NORM ? norms[j] : 0;
            p->codec->mlx_decode(t->rows[i], norms, dim, p->mlx_bits, p->mlx_codebook, 1,
                                 floats + (size_t)i * dim);
        }
    }
    clean(floats, (size_t)n * dim, LARGEST_NORM);
}

void tile_plain_floats(const tqkv_operand *o, const attend_kernels *k, const tile_rows *rows,
                       unsigned n, float *floats)
{
    size_t dim = o->format.head_dim;
    for (unsigned t = 0; t < n; t++) {
        float *x = floats + t * dim;
        if (!(rows->plain >> t & 1)) {
            memset(x, 0, dim * sizeof *x);
        } else if (o->type != TQKV_F16) {
            tqkv_to_f32(rows->rows[t], (tqkv_type)o->type, dim, x);
            clean(x, dim, LARGEST_INPUT);
        } else if (!k->halves(rows->rows[t], (unsigned)dim, x)) {
            clean(x, dim, LARGEST_INPUT);
        }
    }
}

/* ---- means ---- */

/* The choices of a page with several means among the tile's tokens [from, to), whose first
 * is in `place` of the page: which of them name mean `number`. */
static uint64_t named(const tile_run *run, unsigned from, uint32_t number, uint32_t n_means)
{
    uint64_t where = 0;
    for (unsigned t = from, row = run->place; t < run->end; t++, row++)
        where |= (uint64_t)(mean_number(run->numbers, row, n_means) == number) << t;
    return where;
}

unsigned tile_all_means(const tile_rows *t, tile_mean *means)
{
    unsigned n = 0, from = 0;
    for (unsigned i = 0; i < t->n_runs; from = t->runs[i++].end) {
        const tile_run *run = &t->runs[i];
        uint64_t chosen = t->chosen & tile_bits(from, run->end);
        uint32_t n_means = run->operand->n_means;
        for (uint32_t m = 0; run->means && chosen && m < n_means; m++) {
            const uint8_t *mean = run->means + m * mean_bytes(run->operand->format.head_dim);
            uint64_t where = n_means > 1 ? chosen & named(run, from, m, n_means) : chosen;
            chosen &= ~where;
            if (!where)
                continue;
            unsigned same = n > TQKV_MAX_MEANS ? n - TQKV_MAX_MEANS : 0;
            while (same < n && means[same].bytes != mean)
                same++;
            if (same == n)
                means[n++] = (tile_mean){mean, 0};
            means[same].where |= where;
        }
    }
    return n;
}

#include "gpu/dispatch_tensor.h"

#include <math.h>
#include <stdio.h>

#include "format/format.h"
#include "format/levels.h"
#include "format/lloyd_max.h"
#include "format/mlx.h"
#include "format/trellis.h"
#include "gpu/dispatch_cache.h"
#include "gpu/kernels/tensor_sizes.h"

/* Blocks of a launch, at most: the backend has as many counters. */
enum { MAX_GROUPS = COUNTERS_PER_STREAM, UNIT = 16 /* slots that stand together in any page */,
       MAX_TOKENS_OF_WARP = 32768 /* of a head, so that int32 sums cannot overflow */ };

/* ---- which cases ---- */

static int is_head_dim(uint32_t d)
{
    return d == 64 || d == 80 || d == 96 || d == 128 || d == 192 || d == 256 || d == 512;
}

/* Rows of whole words, or of three taps. */
static int format_serves(const tqkv_format *f)
{
    if (f->codebook == TQKV_CODEBOOK_LLOYD_MAX)
        return f->bits == 4;
    if (f->codebook == TQKV_CODEBOOK_MLX)
        return f->bits == 4 && f->head_dim <= 256;
    return f->codebook == TQKV_CODEBOOK_TRELLIS &&
           (trellis_has_taps(f->bits) || f->head_dim * (uint32_t)f->bits % 32 == 0);
}

static int has_taps(const tqkv_format *f)
{
    return f->codebook == TQKV_CODEBOOK_TRELLIS && trellis_has_taps(f->bits);
}

static uint32_t row_bytes(const tqkv_format *f)
{
    return (uint32_t)format_code_bytes(f);
}

static uint32_t scale_bytes(const tqkv_format *f)
{
    return f->codebook == TQKV_CODEBOOK_MLX ? 4 : 2;
}

/* Sizes of the case, but for those that choose_sizes tries. */
static tensor_case case_of(const tqkv_gpu_attention *a, const tensor_plan *plan)
{
    const tqkv_format *k = &a->keys.format, *v = &a->values.format;
    return (tensor_case){.head_dim = k->head_dim, .rows = plan->block_rows,
                         .key_row = row_bytes(k), .value_row = row_bytes(v),
                         .key_scale = scale_bytes(k), .value_scale = scale_bytes(v),
                         .key_taps = has_taps(k), .value_taps = has_taps(v),
                         .has_means = a->keys.means != NULL,
                         .has_original = a->keys.means || a->staged};
}

/* Tiles of a head, at most: with a window those around its ends. */
static uint64_t tiles_of_head(const tqkv_gpu_attention *a, uint32_t tile)
{
    uint64_t seen = a->n_tokens, most = sum2(a->window, a->n_queries);
    if (a->window && a->causal && most < seen)
        seen = most + tile;
    uint64_t tiles = (seen + tile - 1) / tile + 1;
    return tiles;
}

/* Whether the rows of a staged page stand one behind the other. */
static int has_staged_in_row(const tqkv_gpu_attention *a)
{
    const tqkv_gpu_staged *s = a->staged;
    return s && s->keys.rows.code_stride == 2u * s->keys.format.head_dim &&
           s->values.rows.code_stride == 2u * s->values.format.head_dim;
}

/* Whether all rows of a block have the same part of the mask for a tile, which the copy engine
 * can move: of up to 64 tokens, that stand in a page. */
static int has_common_mask(const tqkv_gpu_attention *a)
{
    uint64_t n = sum2(product3(a->n_sequences - 1, a->mask_row_stride, 1), a->n_tokens / 64 * 64 + 64);
    return a->mask && a->mask_type == TQKV_F16 && a->n_queries == 1 && !a->query_starts &&
           !a->mask_head_stride && a->mask_row_stride % 8 == 0 && a->first_slot % 64 == 0 &&
           a->pages && a->page_size % 64 == 0 && a->capacity % 64 == 0 &&
           buffer_is_aligned(a->mask, 0, 16) && product3(n, 2, 1) <= a->mask->bytes;
}

static int choose_sizes(const tqkv_device *d, const tqkv_gpu_attention *a, tensor_plan *plan)
{
    static const struct {
        uint8_t warps, tile, stages;
    } sizes[] = {{8, 64, 2}, {8, 32, 2}, {4, 64, 2}, {4, 32, 2}, {4, 32, 1}, {2, 32, 2},
                 {2, 32, 1}};
    /* Registers: sums of many rows or coordinates leave none for a tile of 64. And where a warp
     * has few of those, tiles of 32 make them end closer together. */
    uint64_t tiles = product3(product3(a->n_sequences, a->n_kv_heads, plan->n_blocks),
                              tiles_of_head(a, 64), 1);
    int is_wide = plan->block_rows * a->keys.format.head_dim > 1024 ||
                  tiles <= 4ull * 8 * d->info.n_units;
    tensor_case *c = &plan->sizes;
    *c = case_of(a, plan);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (is_wide && sizes[i].tile > 32)
            continue;
        c->warps = c->merge_warps = sizes[i].warps;
        c->tile = sizes[i].tile;
        c->stages = sizes[i].stages;
        c->mask_bytes = has_common_mask(a) ? 2 * c->tile : 0;
        while (c->merge_warps % 2 == 0 && tensor_local_bytes(c) > d->tensor_memory)
            c->merge_warps /= 2;
        if (tensor_local_bytes(c) > d->tensor_memory)
            continue;
        /* A buffer for a staged tile, where it costs nothing else. */
        c->staged_bytes = has_staged_in_row(a) ? 4 * c->tile * c->head_dim : 0;
        if (tensor_local_bytes(c) > d->tensor_memory)
            c->staged_bytes = 0;
        return 1;
    }
    return 0;
}

/* Pages and rings of whole units; means of both operands or of none. */
static int places_serve(const tqkv_gpu_attention *a)
{
    if (!a->keys.means != !a->values.means)
        return 0;
    return a->capacity % UNIT == 0 &&
           (!a->pages || (a->page_size && a->page_size % UNIT == 0)) &&
           ((!a->capacity && !a->pages) || sum2(a->first_slot, a->n_tokens) <= INT32_MAX);
}

/* Blocks: as many as multiprocessors; the same number for each head where that leaves few idle. */
static uint32_t count_groups(const tqkv_device *d, const tqkv_gpu_attention *a,
                             const tensor_plan *plan, uint64_t heads, uint32_t *of_head)
{
    uint64_t tiles = tiles_of_head(a, plan->sizes.tile), units = d->info.n_units;
    uint64_t groups = product3(heads, tiles, 1) < units ? heads * tiles : units;
    *of_head = 0;
    if (units >= heads && units / heads * heads * 10 >= units * 9 && units / heads <= tiles)
        groups = (*of_head = (uint32_t)(units / heads)) * heads;
    uint64_t most = (uint64_t)MAX_TOKENS_OF_WARP * plan->sizes.warps / plan->sizes.tile;
    uint64_t staged = a->staged ? 32ull * MAX_STAGED_WORDS : most;
    most = staged < most ? staged : most;
    if (tiles > most && product3(heads, tiles, 1) / most + 1 > groups)
        groups = product3(heads, tiles, 1) / most + 1, *of_head = 0;
    return groups <= MAX_GROUPS ? (uint32_t)groups : 0;
}

int tensor_plan_make(const tqkv_device *d, const tqkv_gpu_attention *a, tensor_plan *plan)
{
    uint32_t dim = a->keys.format.head_dim, group = a->n_heads / a->n_kv_heads;
    uint64_t rows = product3(a->n_queries, group, 1), most = dim <= 128 ? 16 : dim <= 256 ? 8 : 4;
    *plan = (tensor_plan){0};
    if (!d->tensor_memory || a->is_portable || dim != a->values.format.head_dim ||
        !is_head_dim(dim) || !format_serves(&a->keys.format) || !format_serves(&a->values.format) ||
        a->keys.scale_factor_d512 < 0 || a->values.scale_factor_d512 < 0 ||
        a->n_tokens > INT32_MAX - 1024)
        return 0;
    uint64_t wanted = rows <= 4 ? 4 : rows <= 8 ? 8 : 16;
    plan->block_rows = (uint32_t)(wanted < most ? wanted : most);
    plan->n_blocks = (uint32_t)((rows + plan->block_rows - 1) / plan->block_rows);
    if (!choose_sizes(d, a, plan))
        return 0;
    uint64_t heads = product3(product3(a->n_sequences, a->n_kv_heads, 1), plan->n_blocks, 1);
    if (!places_serve(a) || product3(heads, tiles_of_head(a, plan->sizes.tile), 1) > INT32_MAX)
        return 0;
    plan->groups = count_groups(d, a, plan, heads, &plan->blocks_of_head);
    plan->workspace = product3(2ull * plan->groups * plan->block_rows,
                               tensor_part_row(&plan->sizes), 4);
    return plan->groups > 0;
}

/* ---- where rows lie ---- */

static int part_fits(const tqkv_buffer *b, size_t offset, size_t row, size_t want, size_t strides)
{
    return row == want && strides % 16 == 0 && buffer_is_aligned(b, offset, 16);
}

/* A mean is copied with what is behind it, up to a multiple of 16 bytes. */
static int means_fit(const tqkv_gpu_attention *a, const tqkv_gpu_operand *o)
{
    if (!o->means)
        return 1;
    uint64_t end = sum2(product3(a->n_pages - 1, o->page.means, 1),
                        product3(a->n_kv_heads - 1, o->head.means, 1));
    end = sum2(end, sum2(o->mean_offset, o->format.head_dim + MEAN_PADDING));
    return (o->head.means | o->page.means) % 16 == 0 && end <= o->means->bytes &&
           buffer_is_aligned(o->means, o->mean_offset, 16);
}

static int staged_fits(const tqkv_gpu_operand *o)
{
    return o->type != TQKV_F32 && buffer_is_aligned(o->rows.codes, o->rows.code_offset, 16) &&
           (o->rows.code_stride | o->head.codes | o->page.codes) % 16 == 0;
}

static int operand_fits(const tqkv_gpu_attention *a, const tqkv_gpu_operand *o)
{
    const tqkv_gpu_rows *r = &o->rows;
    const tqkv_gpu_strides *group = a->pages ? &o->page : &o->sequence;
    return part_fits(r->codes, r->code_offset, r->code_stride, row_bytes(&o->format),
                     o->head.codes | group->codes) &&
           part_fits(r->scales, r->scale_offset, r->scale_stride, scale_bytes(&o->format),
                     o->head.scales | group->scales) &&
           means_fit(a, o);
}

int tensor_layout_fits(const tqkv_gpu_attention *a)
{
    return a->n_tokens > 0 && operand_fits(a, &a->keys) && operand_fits(a, &a->values) &&
           (!a->staged || (staged_fits(&a->staged->keys) && staged_fits(&a->staged->values))) &&
           buffer_is_aligned(a->queries, 0, 16);
}

/* Whether the buffers go on behind the last token to the end of its tile. */
static int reads_on(const tqkv_gpu_attention *a, const tensor_plan *plan)
{
    uint64_t begin = a->first_slot - a->first_slot % plan->sizes.tile;
    uint64_t n = a->first_slot - begin + a->n_tokens, last = a->n_sequences - 1;
    uint64_t slots = begin + (n + plan->sizes.tile - 1) / plan->sizes.tile * plan->sizes.tile;
    for (int i = 0; i < 2; i++) {
        const tqkv_gpu_operand *o = i ? &a->values : &a->keys;
        const tqkv_gpu_rows *r = &o->rows;
        const struct {
            const tqkv_buffer *buffer;
            size_t offset, stride, head, sequence;
        } parts[2] = {
            {r->codes, r->code_offset, r->code_stride, o->head.codes, o->sequence.codes},
            {r->scales, r->scale_offset, r->scale_stride, o->head.scales, o->sequence.scales}};
        for (int k = 0; k < 2; k++)
            if (sum2(sum2(parts[k].offset, last * parts[k].sequence),
                     sum2((a->n_kv_heads - 1) * parts[k].head, slots * parts[k].stride)) >
                parts[k].buffer->bytes)
                return 0;
    }
    return 1;
}

/* LAYOUT (kernels/tensor_fetch.h). */
static int layout_of(const tqkv_gpu_attention *a, const tensor_plan *plan)
{
    if (!a->capacity && !a->pages)
        return reads_on(a, plan) ? 0 : 3;
    return a->capacity % plan->sizes.tile || (a->pages && a->page_size % plan->sizes.tile) ? 2 : 1;
}

/* BLOCKS (there, too), of an operand: as tqkv_gpu_pages_at lays it out. */
static int is_in_blocks(const tqkv_gpu_operand *o)
{
    const tqkv_gpu_rows *r = &o->rows;
    size_t scales_at = r->code_offset + TQKV_PAGE_TOKENS * r->code_stride;
    if (r->scales != r->codes || r->scale_offset != scales_at || o->head.scales != o->head.codes ||
        o->page.scales != o->page.codes)
        return 0;
    return !o->means || (o->means == r->codes && o->head.means == o->head.codes &&
                         o->page.means == o->page.codes &&
                         o->mean_offset == scales_at + TQKV_PAGE_TOKENS * r->scale_stride);
}

static int are_blocks(const tqkv_gpu_attention *a, const tensor_plan *plan)
{
    return a->pages && a->page_size == TQKV_PAGE_TOKENS && plan->sizes.tile == TQKV_PAGE_TOKENS &&
           a->capacity % TQKV_PAGE_TOKENS == 0 && is_in_blocks(&a->keys) && is_in_blocks(&a->values);
}

/* ---- levels ---- */

/* T1[n] and T2[7 - n] whose look-ups add up to f[n] and f[n + 8] (attend_tensor.cu). */
static void pair_solve(int low, int high, int8_t *t1, int8_t *t2)
{
    for (int i = 0; i < 4; i++) {
        int u = low + i % 2, v = high + i / 2;
        if (u - (v < 0) == low && v - (u < 0) == high) {
            *t1 = (int8_t)u;
            *t2 = (int8_t)v;
        }
    }
}

static void tables_make(const int *f, uint32_t words[2][2])
{
    int8_t t[2][8];
    for (int n = 0; n < 8; n++)
        pair_solve(f[n], f[n + 8], &t[0][n], &t[1][7 - n]);
    memcpy(words, t, sizeof t);
}

/* Real levels as multiples of a unit. */
static float multiples_make(const tqkv_format *f, level_tables *t)
{
    const float *values = f->codebook == TQKV_CODEBOOK_MLX ? mlx_codebook(4)
                                                           : lloyd_code_of(4)->values;
    float per_unit = levels_per_unit(f->codebook, f->bits);
    int levels[16];
    for (int n = 0; n < 16; n++)
        levels[n] = (int)lrintf(values[n] * per_unit);
    tables_make(levels, t->words[0]);
    return 1 / per_unit;
}

/* The tables of a format; returns what a level is worth, times the scale of its row. */
static float levels_make(const tqkv_format *f, level_tables *t)
{
    memset(t, 0, sizeof *t);
    if (f->codebook == TQKV_CODEBOOK_MLX)
        return multiples_make(f, t) / sqrtf(f->head_dim);
    if (f->codebook == TQKV_CODEBOOK_LLOYD_MAX)
        return multiples_make(f, t);
    const trellis_table *table = trellis_table_of(f->bits);
    for (int tap = 0; has_taps(f) && tap < 3; tap++)
        memcpy(t->words[tap][0], table->taps[tap], sizeof table->taps[tap]);
    if (has_taps(f))
        return 1;
    int levels[2][16];
    for (int n = 0; n < 16; n++) {
        levels[0][n] = table->b[n];
        levels[1][n] = table->a[n];
    }
    tables_make(levels[0], t->words[0]);
    tables_make(levels[1], t->words[1]);
    return 1;
}

/* ---- the launch ---- */

static tensor_operand operand_make(const tqkv_gpu_attention *a, const tqkv_gpu_operand *o,
                                   float *unit)
{
    const tqkv_gpu_strides *group = a->pages ? &o->page : &o->sequence;
    tensor_operand t = {o->head.codes, o->head.scales, o->head.means, group->codes, group->scales,
                        o->page.means, {{{{0}}}}};
    *unit = levels_make(&o->format, &t.tables);
    return t;
}

/* first_slot of the parameters, and how many slots before it the operands' addresses move. */
static uint64_t slots_make(const tqkv_gpu_attention *a, const tensor_plan *plan, tensor_params *p)
{
    uint64_t begin = a->first_slot - a->first_slot % plan->sizes.tile;
    p->skipped = (uint)(a->first_slot - begin);
    if (!a->capacity && !a->pages)
        return begin;
    p->first_slot = (uint)begin;
    return 0;
}

/* n / size = n * page_factor >> 31 + page_shift for n below 2^31: the factor is 2^(31 +
 * page_shift) / size, rounded up, by less than size <= 2^page_shift too much. */
static void divisor_make(uint32_t size, tensor_params *p)
{
    if (!size)
        return;
    while ((1ull << p->page_shift) < size)
        p->page_shift++;
    p->page_factor = (uint)((((uint64_t)1 << (31 + p->page_shift)) + size - 1) / size);
}

static void params_make(tensor_params *p, const tqkv_gpu_attention *a, const tensor_plan *plan,
                        int overlaps)
{
    *p = (tensor_params){
        .position = a->position, .window = a->window, .first_position = a->first_position,
        .n_sequences = a->n_sequences, .n_queries = a->n_queries, .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads, .group = a->n_heads / a->n_kv_heads, .n_tokens = a->n_tokens,
        .has_lengths = a->lengths != NULL, .causal = a->causal != 0, .capacity = a->capacity,
        .page_size = a->pages ? a->page_size : 0, .pages_stride = a->pages_stride,
        .n_pages = a->n_pages, .n_blocks = plan->n_blocks, .blocks_of_head = plan->blocks_of_head,
        .query_type = a->query_type, .out_type = a->out_type,
        .has_sinks = a->sinks != NULL, .n_staged = a->staged ? a->staged->n_pages : 0,
        .n_query_rows = a->n_query_rows, .has_mask_slopes = a->mask_slopes != NULL,
        .mask_row = a->mask_row_stride, .mask_head = a->mask_head_stride,
        .overlaps = (uint)overlaps, .minus_one = ~0u,
        .scale = a->scale, .softcap = a->softcap};
    p->keys = operand_make(a, &a->keys, &p->key_unit);
    p->values = operand_make(a, &a->values, &p->value_unit);
    if (a->staged) {
        p->staged_keys = staged_of(&a->staged->keys);
        p->staged_values = staged_of(&a->staged->values);
    }
    operand_rotation_set(&p->query_rotation, &a->keys, 0);
    operand_rotation_set(&p->out_rotation, &a->values, 1);
}

/* All that the kernel is told. *first: the slot that the operands' addresses begin with. */
static void launch_params_make(tensor_params *p, const tqkv_gpu_attention *a,
                               const tensor_plan *plan, int overlaps, uint64_t *first)
{
    uint first_tile, n_tiles;
    params_make(p, a, plan, overlaps);
    *first = slots_make(a, plan, p);
    divisor_make(p->page_size, p);
    tensor_tiles(p, a->n_tokens, a->n_queries, plan->sizes.tile, &first_tile, &n_tiles);
    p->tiles_of_sequence = n_tiles * a->n_kv_heads * plan->n_blocks;
}

static tqkv_status find_kernel(launch *l, tqkv_encoder *e, tqkv_registry *registry,
                               const tqkv_gpu_attention *a, const tensor_plan *plan)
{
    const tqkv_format *k = &a->keys.format, *v = &a->values.format;
    const tensor_case *c = &plan->sizes;
    char options[512];
    snprintf(options, sizeof options,
             "HEAD_DIM=%u ROWS=%u WARPS=%u TILE=%u STAGES=%u MERGE_WARPS=%u KEY_KIND=%u "
             "KEY_BITS=%u VALUE_KIND=%u VALUE_BITS=%u BALANCES=%d SOFTCAP=%d STATE=%d LAYOUT=%d "
             "BLOCKS=%d MEANS=%u STAGED=%d STARTS=%d SLOPES=%d MASK=%d",
             c->head_dim, c->rows, c->warps, c->tile, c->stages, c->merge_warps, k->codebook,
             k->bits, v->codebook, v->bits, a->keys.balances != NULL, a->softcap > 0,
             a->state != NULL, layout_of(a, plan), are_blocks(a, plan), c->has_means,
             !a->staged ? 0 : c->staged_bytes ? 2 : 1, a->query_starts != NULL, a->slopes != NULL,
             !a->mask ? 0 : a->mask_type == TQKV_F32 ? 1 : c->mask_bytes ? 3 : 2);
    return launch_find(l, e, registry, "attend_tensor", options);
}

tqkv_status tensor_record(tqkv_encoder *e, tqkv_registry *registry, const tqkv_gpu_attention *a,
                          const tensor_plan *plan, tqkv_buffer *workspace)
{
    enum { COUNTERS = 20 };
    tensor_params p;
    uint64_t slots;
    tqkv_buffer *views[CACHE_VIEWS] = {0}, *extra[PAGE_VIEWS] = {0};
    launch l = {.n_buffers = COUNTERS + 1, .groups = {plan->groups, 1, 1},
                .n_items = 32 * plan->sizes.warps, .local_bytes = tensor_local_bytes(&plan->sizes),
                .is_entered = 1};
    tqkv_status status = find_kernel(&l, e, registry, a, plan);
    if (status != TQKV_OK)
        return status;
    /* Between two of these launches nothing writes rows, so the second may fetch them early. */
    const command *last = e->list.n ? &e->list.commands[e->list.n - 1] : NULL;
    int overlaps = last && last->counters_at;
    launch_params_make(&p, a, plan, overlaps, &slots);
    status = cache_views(a, slots, views);
    if (status == TQKV_OK)
        status = page_views(a, extra);
    tqkv_buffer *buffers[] = {a->queries, a->keys.balances, views[0], views[1], extra[0], views[2],
                              views[3], extra[1], extra[2], extra[3], a->pages, a->lengths,
                              a->query_starts, a->sinks, a->slopes, a->mask, a->mask_slopes, a->out,
                              a->state, workspace, NULL};
    memcpy(l.buffers, buffers, sizeof buffers);
    if (status != TQKV_OK)
        FAILED(e, status, "out of host memory");
    if (status == TQKV_OK)
        status = launch_record(&l, e, &p, sizeof p);
    if (status == TQKV_OK) {
        command *c = &e->list.commands[e->list.n - 1];
        c->counters_at = COUNTERS;
        c->overlaps = overlaps;
    }
    views_free(views, CACHE_VIEWS);
    views_free(extra, PAGE_VIEWS);
    return status;
}

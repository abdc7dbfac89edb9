/* Attention: prepare the queries, attend in splits, merge them. */
#include <math.h>
#include <stdio.h>

#include "format/format.h"
#include "gpu/dispatch_cache.h"
#include "gpu/dispatch_tensor.h"

enum { ROWS = 4 /* of a block where the kernel takes any */, TILE = 128, MAX_SPLITS = 512 };

/* How the work is divided; sizes of the parts of the portable kernels' workspace in floats. */
typedef struct attend_plan {
    uint64_t query_rows, prepared, partials;
    uint32_t n_splits;
    int has_original; /* there are means or staged pages */
    uint32_t part;    /* floats of a partial result */
    int has_tensor; /* there is a kernel for tensor cores, unless rows lie in its way */
    tensor_plan tensor;
    size_t workspace; /* bytes, for either */
} attend_plan;

static uint32_t group_of(const tqkv_gpu_attention *a)
{
    return a->n_heads / a->n_kv_heads;
}

/* Of each sequence, of which `groups` groups read each token: enough to fill the device several
 * times, but no split without a tile. The number of sequences does not count, nor, in the
 * kernel, the lengths of others: a sequence's splits, and so its bits, are its own. */
static uint32_t count_splits(const tqkv_device *d, const tqkv_gpu_attention *a, uint64_t groups)
{
    enum { GROUPS_A_UNIT = 4 };
    uint64_t tiles = ((uint64_t)a->n_tokens + TILE - 1) / TILE;
    uint64_t wanted = groups ? (1ull * GROUPS_A_UNIT * d->info.n_units + groups - 1) / groups : 1;
    if (wanted > tiles)
        wanted = tiles;
    if (wanted > MAX_SPLITS)
        wanted = MAX_SPLITS;
    return wanted ? (uint32_t)wanted : 1;
}

/* Of all sequences, without heads. */
static uint64_t count_query_rows(const tqkv_gpu_attention *a)
{
    return a->query_starts ? a->n_query_rows : product3(a->n_sequences, a->n_queries, 1);
}

static tqkv_status make_plan(const tqkv_device *d, const tqkv_gpu_attention *a, attend_plan *plan)
{
    uint64_t rows = (uint64_t)a->n_queries * group_of(a), blocks = (rows + ROWS - 1) / ROWS;
    uint32_t dim = a->values.format.head_dim;
    plan->n_splits = count_splits(d, a, product3(blocks, a->n_kv_heads, 1));
    plan->has_original = cache_has_means(a) || a->staged;
    plan->part = (plan->has_original ? 2 : 1) * dim + 2;
    plan->query_rows = product3(count_query_rows(a), a->n_heads, 1);
    plan->prepared = product3(plan->query_rows, a->keys.format.head_dim, plan->has_original ? 2 : 1);
    plan->partials = product3(plan->query_rows, plan->n_splits, plan->part);
    uint64_t floats = sum2(plan->prepared, plan->partials);
    plan->prepared = (plan->prepared + 3) & ~3ull; /* what follows begins at a multiple of 16 bytes */
    if (floats > UINT64_MAX / 8 || plan->query_rows > INT32_MAX)
        return TQKV_ERROR_OVERFLOW;
    plan->workspace = (size_t)(plan->prepared + plan->partials) * sizeof(float);
    plan->has_tensor = tensor_plan_make(d, a, &plan->tensor);
    if (plan->has_tensor && plan->tensor.workspace > plan->workspace)
        plan->workspace = (size_t)plan->tensor.workspace;
    return TQKV_OK;
}

static tqkv_status check_shapes(const tqkv_gpu_attention *a)
{
    if (!a || !a->n_sequences || !a->n_queries || !a->n_heads || !a->n_kv_heads ||
        a->n_heads % a->n_kv_heads || !is_type(a->query_type) || !is_type(a->out_type) ||
        (a->query_starts && !a->n_query_rows))
        return TQKV_ERROR_ARGUMENT;
    if (a->n_tokens > INT32_MAX)
        return TQKV_ERROR_OVERFLOW;
    if (!operand_format_is_good(&a->keys) || !operand_format_is_good(&a->values))
        return TQKV_ERROR_FORMAT;
    if (!balances_are_good(&a->keys))
        return TQKV_ERROR_PROFILE;
    return TQKV_OK;
}

tqkv_status tqkv_gpu_attend_workspace(const tqkv_device *d, const tqkv_gpu_attention *a,
                                      size_t *bytes)
{
    attend_plan plan;
    tqkv_status status = handle_check(d, HANDLE_DEVICE);
    if (status != TQKV_OK)
        return status;
    status = check_shapes(a);
    if (status == TQKV_OK && !bytes)
        status = TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        status = make_plan(d, a, &plan);
    if (status != TQKV_OK)
        return device_failed(d, status, "attention: %s", tqkv_status_string(status));
    *bytes = plan.workspace;
    return TQKV_OK;
}

/* ---- checks ---- */

/* What is added to logits. */
static tqkv_status check_additions(tqkv_encoder *e, const tqkv_gpu_attention *a)
{
    size_t size = type_size(a->mask_type);
    tqkv_status status = TQKV_OK;
    if (a->slopes)
        status = dispatch_check_buffer(e, a->slopes, 0, a->n_heads * 4ull, 4, "slopes");
    if (status == TQKV_OK && a->mask && a->mask_type != TQKV_F32 && a->mask_type != TQKV_F16)
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "a mask is f32 or f16");
    if (status == TQKV_OK && a->mask) {
        uint64_t last = sum2(product3(count_query_rows(a) - 1, a->mask_row_stride, 1),
                             product3(a->n_heads - 1, a->mask_head_stride, 1));
        status = dispatch_check_buffer(e, a->mask, 0, product3(sum2(last, a->n_tokens), size, 1),
                                       size, "mask");
    }
    if (status == TQKV_OK && a->mask && a->mask_slopes)
        status = dispatch_check_buffer(e, a->mask_slopes, 0, a->n_heads * 4ull, 4, "slopes of the mask");
    return status;
}

static tqkv_status check_attention(tqkv_encoder *e, const tqkv_gpu_attention *a,
                                   const attend_plan *plan, tqkv_buffer *workspace)
{
    if (!isfinite(a->scale) || !isfinite(a->softcap) || a->softcap < 0)
        return FAILED(e, TQKV_ERROR_ARGUMENT, "scale is %g, softcap %g", (double)a->scale,
                      (double)a->softcap);
    tqkv_status status = cache_check(e, a);
    if (status == TQKV_OK)
        status = dispatch_check_buffer(
            e, a->queries, 0,
            product3(plan->query_rows, a->keys.format.head_dim, type_size(a->query_type)),
            type_size(a->query_type), "queries");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(
            e, a->out, 0,
            product3(plan->query_rows, a->values.format.head_dim, type_size(a->out_type)),
            type_size(a->out_type), "out");
    if (status == TQKV_OK && a->state)
        status = dispatch_check_buffer(e, a->state, 0, plan->query_rows * 8, 4, "state");
    if (status == TQKV_OK && a->sinks)
        status = dispatch_check_buffer(e, a->sinks, 0, a->n_heads * 4ull, 4, "sinks");
    if (status == TQKV_OK && a->query_starts)
        status = dispatch_check_buffer(e, a->query_starts, 0, (a->n_sequences + 1ull) * 4, 4,
                                       "starts of queries");
    if (status == TQKV_OK)
        status = check_additions(e, a);
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, workspace, 0, plan->workspace, 16, "workspace");
    return status;
}

/* ---- parameters ---- */

static uint32_t larger_of(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The two parts of the workspace, and of the cache. */
typedef struct parts {
    tqkv_buffer *prepared, *partials;
    tqkv_buffer *operands[CACHE_VIEWS], *pages[PAGE_VIEWS];
} parts;

static void parts_free(parts *s)
{
    tqkv_buffer_free(s->prepared);
    tqkv_buffer_free(s->partials);
    views_free(s->operands, CACHE_VIEWS);
    views_free(s->pages, PAGE_VIEWS);
}

static tqkv_status parts_make(parts *s, const tqkv_gpu_attention *a, const attend_plan *plan,
                              tqkv_buffer *workspace)
{
    size_t prepared = (size_t)plan->prepared * 4;
    tqkv_status status = tqkv_buffer_view(workspace, 0, prepared, &s->prepared);
    if (status == TQKV_OK)
        status = tqkv_buffer_view(workspace, prepared, (size_t)plan->partials * 4, &s->partials);
    if (status == TQKV_OK)
        status = cache_views(a, 0, s->operands);
    if (status == TQKV_OK)
        status = page_views(a, s->pages);
    return status;
}

/* ---- the three kernels ---- */

static tqkv_status record_queries(tqkv_encoder *e, tqkv_registry *registry,
                                  const tqkv_gpu_attention *a, const attend_plan *plan,
                                  const parts *s)
{
    uint32_t dim = a->keys.format.head_dim;
    query_params p = {.n_rows = plan->query_rows, .head_dim = dim, .n_heads = a->n_heads,
                      .n_kv_heads = a->n_kv_heads, .type = a->query_type,
                      .has_balances = a->keys.balances != NULL,
                      .has_original = (uint)plan->has_original,
                      .has_starts = a->query_starts != NULL, .n_splits = plan->n_splits,
                      .part = plan->part};
    operand_rotation_set(&p.rotation, &a->keys, 0);
    launch l = {.buffers = {a->queries, a->keys.balances, s->prepared, s->partials}, .n_buffers = 4,
                .groups = {(uint32_t)plan->query_rows, 1, 1}, .n_items = 64,
                .local_bytes = 2 * dim * 4, .is_entered = 1};
    tqkv_status status = launch_find(&l, e, registry, "prepare_queries", NULL);
    return status == TQKV_OK ? launch_record(&l, e, &p, sizeof p) : status;
}

static attend_params split_params(const tqkv_gpu_attention *a, const attend_plan *plan)
{
    attend_params p = {
        .keys = operand_of(a, &a->keys), .values = operand_of(a, &a->values),
        .position = a->position, .window = a->window, .places = places_of(a),
        .first_position = a->first_position, .n_rows = plan->query_rows,
        .n_queries = a->n_queries, .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads, .group = group_of(a), .n_tokens = a->n_tokens,
        .n_query_rows = a->n_query_rows, .has_starts = a->query_starts != NULL,
        .has_lengths = a->lengths != NULL, .has_key_means = a->keys.means != NULL,
        .has_value_means = a->values.means != NULL, .has_original = (uint)plan->has_original,
        .has_slopes = a->slopes != NULL, .has_mask = a->mask != NULL, .mask_type = a->mask_type,
        .mask_row = a->mask_row_stride, .mask_head = a->mask_head_stride,
        .has_mask_slopes = a->mask_slopes != NULL,
        .causal = a->causal != 0, .n_splits = plan->n_splits,
        .scale = a->scale, .softcap = a->softcap};
    if (a->staged) {
        p.staged_keys = staged_of(&a->staged->keys);
        p.staged_values = staged_of(&a->staged->values);
    }
    return p;
}

/* Local memory of attend_split (attend.c, local_of). */
static uint32_t split_bytes(const attend_params *p, uint32_t rows)
{
    uint32_t dim = p->keys.format.head_dim;
    uint32_t value_blocks = p->values.format.kind == TQKV_CODEBOOK_MLX
                                ? mlx_norms_per_position(p->values.format.head_dim)
                                : 1;
    uint32_t floats = 2 * 256 + larger_of(rows * dim, TILE) +
                      larger_of(value_blocks * rows, 8) * TILE + 18 * rows;
    if (p->has_original)
        floats += rows * dim + 3 * 8 * rows + TILE * rows;
    return 4 * floats;
}

static tqkv_status record_splits(tqkv_encoder *e, tqkv_registry *registry,
                                 const tqkv_gpu_attention *a, const attend_plan *plan,
                                 const parts *s)
{
    attend_params p = split_params(a, plan);
    uint32_t rows = a->n_queries * group_of(a), best = rows == 1 ? 1 : rows == 2 ? 2 : ROWS;
    char options[512];
    size_t length = format_options(options, sizeof options, "KEY", &p.keys.format);
    length += format_options(options + length, sizeof options - length, "VALUE",
                             &p.values.format);
    snprintf(options + length, sizeof options - length, "ROWS=%u GROUP_SIZE=%d HAS_ORIGINAL=%d", best,
             TILE_ITEMS, plan->has_original);
    launch l = {.buffers = {s->prepared, s->operands[0], s->operands[1], s->pages[0], s->operands[2],
                            s->operands[3], s->pages[1], s->pages[2], s->pages[3], a->pages,
                            a->lengths, a->query_starts, a->slopes, a->mask, a->mask_slopes,
                            s->partials},
                .n_buffers = 16, .n_items = TILE_ITEMS, .is_entered = 1};
    tqkv_status status = launch_find(&l, e, registry, "attend_split", options);
    if (status != TQKV_OK)
        return status;
    best = l.pipeline->has_options ? best : ROWS;
    uint64_t blocks = product3((rows + best - 1) / best, a->n_kv_heads, 1);
    if (blocks > 65535 || a->n_sequences > 65535)
        return FAILED(e, TQKV_ERROR_OVERFLOW, "too many heads, queries or sequences");
    l.groups[0] = plan->n_splits;
    l.groups[1] = (uint32_t)blocks;
    l.groups[2] = a->n_sequences;
    l.local_bytes = split_bytes(&p, best);
    return launch_record(&l, e, &p, sizeof p);
}

static tqkv_status record_merge(tqkv_encoder *e, tqkv_registry *registry,
                                const tqkv_gpu_attention *a, const attend_plan *plan,
                                const parts *s)
{
    uint32_t dim = a->values.format.head_dim;
    merge_params p = {.out_stride = dim * type_size(a->out_type), .head_dim = dim,
                      .n_splits = plan->n_splits, .n_heads = a->n_heads, .type = a->out_type,
                      .part = plan->part, .has_original = (uint)plan->has_original,
                      .has_sinks = a->sinks != NULL, .has_state = a->state != NULL};
    operand_rotation_set(&p.rotation, &a->values, 1);
    launch l = {.buffers = {s->partials, a->sinks, a->out, a->state}, .n_buffers = 4,
                .groups = {(uint32_t)plan->query_rows, 1, 1}, .n_items = 64,
                .local_bytes = 3 * dim * 4, .is_entered = 1};
    tqkv_status status = launch_find(&l, e, registry, "merge_splits", NULL);
    return status == TQKV_OK ? launch_record(&l, e, &p, sizeof p) : status;
}

static tqkv_status record_portable(tqkv_encoder *e, tqkv_registry *registry,
                                   const tqkv_gpu_attention *a, const attend_plan *plan,
                                   tqkv_buffer *workspace)
{
    parts s = {0};
    size_t recorded = e->list.n;
    tqkv_status status = parts_make(&s, a, plan, workspace);
    if (status != TQKV_OK)
        FAILED(e, status, "out of host memory");
    if (status == TQKV_OK)
        status = record_queries(e, registry, a, plan, &s);
    if (status == TQKV_OK)
        status = record_splits(e, registry, a, plan, &s);
    if (status == TQKV_OK)
        status = record_merge(e, registry, a, plan, &s);
    parts_free(&s);
    if (status != TQKV_OK)
        encoder_truncate(e, recorded);
    return status;
}

tqkv_status tqkv_dispatch_attend(tqkv_encoder *e, tqkv_registry *registry,
                                 const tqkv_gpu_attention *a, tqkv_buffer *workspace)
{
    attend_plan plan;
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status == TQKV_OK)
        status = dispatch_check(e, registry, e->device);
    if (status != TQKV_OK)
        return status;
    status = check_shapes(a);
    if (status == TQKV_OK)
        status = make_plan(e->device, a, &plan);
    if (status != TQKV_OK)
        return FAILED(e, status, "attention: %s", tqkv_status_string(status));
    status = check_attention(e, a, &plan, workspace);
    if (status != TQKV_OK)
        return status;
    status = encoder_enter(e);
    if (status != TQKV_OK)
        return status;
    status = TQKV_ERROR_NO_DEVICE;
    if (plan.has_tensor && tensor_layout_fits(a))
        status = tensor_record(e, registry, a, &plan.tensor, workspace);
    /* No compiler, or one that does not know the device's instructions. */
    if (status == TQKV_ERROR_NO_DEVICE || status == TQKV_ERROR_COMPILE)
        status = record_portable(e, registry, a, &plan, workspace);
    return encoder_leave(e, status);
}

tqkv_status tqkv_dispatch_merge(tqkv_encoder *e, tqkv_registry *registry, uint32_t n_parts,
                                uint32_t n_rows, uint32_t head_dim, tqkv_buffer *outs,
                                tqkv_buffer *states, tqkv_buffer *out, tqkv_type out_type,
                                tqkv_buffer *state)
{
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status == TQKV_OK)
        status = dispatch_check(e, registry, e->device);
    if (status != TQKV_OK)
        return status;
    if (!n_parts || !n_rows || n_rows > INT32_MAX || !head_dim || !is_type(out_type))
        return FAILED(e, TQKV_ERROR_ARGUMENT, "merge: %u parts of %u rows of %u", n_parts, n_rows,
                      head_dim);
    uint64_t rows = product3(n_parts, n_rows, 1), size = type_size(out_type);
    status = dispatch_check_buffer(e, outs, 0, product3(rows, head_dim, 4), 4, "outs");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, states, 0, product3(rows, 8, 1), 4, "states");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, out, 0, product3(n_rows, head_dim, size), size, "out");
    if (status == TQKV_OK && state)
        status = dispatch_check_buffer(e, state, 0, n_rows * 8ull, 4, "state");
    if (status != TQKV_OK)
        return status;
    parts_params p = {n_parts, n_rows, head_dim, out_type, state != NULL, 0};
    launch l = {.buffers = {outs, states, out, state}, .n_buffers = 4, .groups = {n_rows, 1, 1},
                .n_items = 64};
    status = launch_find(&l, e, registry, "merge_parts", NULL);
    return status == TQKV_OK ? launch_record(&l, e, &p, sizeof p) : status;
}

/* ---- the reference's names ---- */

static tqkv_status vec_attention(const tqkv_flash_attn_vec_params *v, tqkv_gpu_attention *a)
{
    if (!v || v->mask_type > 2 || (v->mask_type == 2 && !v->sliding_window) ||
        v->kv_seq_len > v->kv_capacity)
        return TQKV_ERROR_ARGUMENT;
    *a = (tqkv_gpu_attention){
        .n_sequences = 1, .n_queries = 1, .n_heads = v->num_heads,
        .n_kv_heads = v->num_kv_heads, .query_type = TQKV_F32, .out_type = TQKV_F32,
        .position = v->kv_seq_len ? v->kv_seq_len - 1 : 0, .n_tokens = v->kv_seq_len,
        .first_slot = v->ring_start, .capacity = v->kv_capacity, .scale = v->scale,
        .softcap = v->softcap, .causal = v->mask_type != 0,
        .window = v->mask_type == 2 ? v->sliding_window : 0};
    a->keys.is_rotated = a->values.is_rotated = 1;
    a->keys.scale_factor_d512 = a->values.scale_factor_d512 = v->scale_factor_d512;
    a->keys.format.head_dim = a->values.format.head_dim = (uint16_t)v->head_dim;
    return v->head_dim <= TQKV_GPU_MAX_HEAD_DIM ? TQKV_OK : TQKV_ERROR_HEAD_DIM_RANGE;
}

/* As the other dispatches have it, nothing to do is a success. */
static int is_nothing(const tqkv_flash_attn_vec_params *v)
{
    return v && (!v->num_heads || !v->num_kv_heads || !v->head_dim);
}

tqkv_status tqkv_flash_attn_vec_workspace(const tqkv_device *d,
                                          const tqkv_flash_attn_vec_params *params, size_t *bytes)
{
    tqkv_gpu_attention a;
    if (is_nothing(params) && bytes) {
        *bytes = 0;
        return TQKV_OK;
    }
    tqkv_status status = handle_check(d, HANDLE_DEVICE);
    if (status != TQKV_OK)
        return status;
    status = vec_attention(params, &a);
    return status == TQKV_OK
               ? tqkv_gpu_attend_workspace(d, &a, bytes)
               : device_failed(d, status, "flash_attn_vec: %s", tqkv_status_string(status));
}

/* [head][slot] of rows of `bytes` bytes each. */
static void lay_out(tqkv_gpu_operand *o, tqkv_buffer *codes, size_t code, tqkv_buffer *scales,
                    size_t scale, uint32_t capacity)
{
    o->rows.codes = codes;
    o->rows.scales = scales;
    o->rows.code_stride = code;
    o->rows.scale_stride = scale;
    o->head.codes = code * capacity;
    o->head.scales = scale * capacity;
}

static tqkv_status vec_dispatch(tqkv_encoder *e, tqkv_registry *registry, tqkv_device *device,
                                tqkv_gpu_attention *a, tqkv_buffer *q, tqkv_buffer *dst,
                                tqkv_buffer *workspace)
{
    tqkv_status status = dispatch_check(e, registry, device);
    a->queries = q;
    a->out = dst;
    return status == TQKV_OK ? tqkv_dispatch_attend(e, registry, a, workspace) : status;
}

static tqkv_status vec_failed(tqkv_encoder *e, tqkv_status status)
{
    tqkv_status checked = handle_check(e, HANDLE_ENCODER);
    return checked == TQKV_OK
               ? FAILED(e, status, "flash_attn_vec: %s", tqkv_status_string(status))
               : checked;
}

tqkv_status tqkv_dispatch_flash_attn_vec(tqkv_encoder *e, tqkv_registry *registry,
                                         tqkv_device *device, tqkv_buffer *q, tqkv_buffer *k,
                                         tqkv_buffer *v, tqkv_type kv_type, tqkv_buffer *dst,
                                         tqkv_buffer *workspace,
                                         const tqkv_flash_attn_vec_params *params)
{
    tqkv_gpu_attention a;
    if (is_nothing(params))
        return TQKV_OK;
    tqkv_status status = vec_attention(params, &a);
    if (status == TQKV_OK && !is_type(kv_type))
        status = TQKV_ERROR_ARGUMENT;
    if (status != TQKV_OK)
        return vec_failed(e, status);
    size_t row = params->head_dim * type_size(kv_type);
    a.keys.type = a.values.type = (uint8_t)kv_type;
    a.keys.scale_factor_d512 = a.values.scale_factor_d512 = 1;
    lay_out(&a.keys, k, row, NULL, 0, params->kv_capacity);
    lay_out(&a.values, v, row, NULL, 0, params->kv_capacity);
    return vec_dispatch(e, registry, device, &a, q, dst, workspace);
}

static tqkv_status vec_codes(tqkv_encoder *e, tqkv_registry *registry, tqkv_device *device,
                             tqkv_buffer *q, tqkv_buffer *const *caches, tqkv_buffer *dst,
                             tqkv_buffer *workspace, const tqkv_flash_attn_vec_params *params,
                             uint32_t bits)
{
    tqkv_gpu_attention a;
    tqkv_format f;
    char name[8];
    if (is_nothing(params))
        return TQKV_OK;
    tqkv_status status = vec_attention(params, &a);
    snprintf(name, sizeof name, "mlx%u", bits % 16);
    if (status == TQKV_OK)
        status = tqkv_format_parse(name, params->head_dim, &f);
    if (status == TQKV_ERROR_FORMAT_NAME)
        status = TQKV_ERROR_BITS;
    if (status == TQKV_OK && params->head_dim > 256 &&
        (!isfinite(params->scale_factor_d512) || params->scale_factor_d512 == 0))
        status = TQKV_ERROR_ARGUMENT;
    if (status != TQKV_OK)
        return vec_failed(e, status);
    size_t code = format_code_bytes(&f), norms = format_scale_bytes(&f);
    a.keys.format = a.values.format = f;
    if (params->head_dim <= 256) /* it is not used there */
        a.keys.scale_factor_d512 = a.values.scale_factor_d512 = 1;
    lay_out(&a.keys, caches[0], code, caches[1], norms, params->kv_capacity);
    lay_out(&a.values, caches[2], code, caches[3], norms, params->kv_capacity);
    return vec_dispatch(e, registry, device, &a, q, dst, workspace);
}

tqkv_status tqkv_dispatch_flash_attn_vec_tq(tqkv_encoder *e, tqkv_registry *registry,
                                            tqkv_device *device, tqkv_buffer *q,
                                            tqkv_buffer *k_packed, tqkv_buffer *k_norms,
                                            tqkv_buffer *v_packed, tqkv_buffer *v_norms,
                                            tqkv_buffer *dst, tqkv_buffer *workspace,
                                            const tqkv_flash_attn_vec_params *params)
{
    tqkv_buffer *caches[] = {k_packed, k_norms, v_packed, v_norms};
    return vec_codes(e, registry, device, q, caches, dst, workspace, params, 4);
}

tqkv_status tqkv_dispatch_flash_attn_vec_hb(tqkv_encoder *e, tqkv_registry *registry,
                                            tqkv_device *device, tqkv_buffer *q,
                                            tqkv_buffer *k_packed, tqkv_buffer *k_norms,
                                            tqkv_buffer *v_packed, tqkv_buffer *v_norms,
                                            tqkv_buffer *dst, tqkv_buffer *workspace,
                                            const tqkv_flash_attn_vec_params *params,
                                            uint32_t codebook_bits)
{
    tqkv_buffer *caches[] = {k_packed, k_norms, v_packed, v_norms};
    if (codebook_bits != 5 && codebook_bits != 6 && codebook_bits != 8)
        return vec_failed(e, TQKV_ERROR_BITS);
    return vec_codes(e, registry, device, q, caches, dst, workspace, params, codebook_bits);
}

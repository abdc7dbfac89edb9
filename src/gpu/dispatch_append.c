/* A step's new rows into a cache. */
#include "gpu/dispatch_cache.h"

/* What is appended: its arguments, and the two sides' rows. */
typedef struct append_call {
    tqkv_encoder *e;
    tqkv_registry *registry;
    const tqkv_gpu_attention *a;
    tqkv_buffer *keys, *values;
    append_params p;
    tqkv_buffer *views[CACHE_VIEWS];
} append_call;

static tqkv_status check_arguments(const tqkv_gpu_attention *a, uint32_t n_positions,
                                   tqkv_type type)
{
    if (!a || !a->n_sequences || !a->n_kv_heads || !n_positions || !is_type(type))
        return TQKV_ERROR_ARGUMENT;
    if (!a->keys.format.codebook || !a->values.format.codebook ||
        !operand_format_is_good(&a->keys) || !operand_format_is_good(&a->values))
        return TQKV_ERROR_FORMAT;
    if (!balances_are_good(&a->keys))
        return TQKV_ERROR_PROFILE;
    if (n_positions > a->n_tokens && !a->lengths)
        return TQKV_ERROR_ARGUMENT;
    uint64_t rows = product3(a->n_sequences, n_positions, a->n_kv_heads);
    return a->n_tokens > INT32_MAX || rows > INT32_MAX / 2 ? TQKV_ERROR_OVERFLOW : TQKV_OK;
}

static tqkv_status check_numbers(append_call *c, tqkv_type type)
{
    uint64_t rows = c->p.n_each;
    size_t size = type_size(type);
    tqkv_status status = dispatch_check_buffer(
        c->e, c->keys, 0, product3(rows, c->a->keys.format.head_dim, size), size, "new keys");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(c->e, c->values, 0,
                                       product3(rows, c->a->values.format.head_dim, size), size,
                                       "new values");
    return status;
}

/* The launch for rows `first` to first + n - 1, which are of one codebook and rotation. */
static tqkv_status record_rows(append_call *c, uint32_t first, uint32_t n)
{
    static const char *const kernels[] = {NULL, "append_trellis", "append_lloyd", "append_mlx"};
    const tqkv_gpu_attention *a = c->a;
    const tqkv_gpu_operand *o = first < c->p.n_each ? &a->keys : &a->values;
    encoder_team k = encoder_team_of(&c->p.keys.format), v = encoder_team_of(&c->p.values.format);
    encoder_team t = first >= c->p.n_each ? v : k;
    if (first < c->p.n_each && n > c->p.n_each && v.floats > t.floats)
        t = v; /* both are in this launch */
    if (t.floats)
        t.n_items = 32; /* whatever the search needs: there is one team a group */
    c->p.first_row = first;
    c->p.n_rows = n;
    c->p.lanes = t.n_items;
    c->p.team_floats = t.floats;
    operand_rotation_set(&c->p.rotation, o, 0);
    launch l = {.buffers = {c->keys, c->values, c->views[0], c->views[1], c->views[2], c->views[3],
                            a->keys.balances, a->pages, a->lengths},
                .n_buffers = 9, .n_items = t.n_items, .local_bytes = t.local_bytes,
                .is_entered = 1};
    tqkv_status status = launch_set_groups(&l, c->e, n);
    if (status == TQKV_OK)
        status = launch_find(&l, c->e, c->registry, kernels[o->format.codebook], NULL);
    return status == TQKV_OK ? launch_record(&l, c->e, &c->p, sizeof c->p) : status;
}

static int is_one_launch(const tqkv_gpu_attention *a)
{
    const tqkv_format *k = &a->keys.format, *v = &a->values.format;
    return k->codebook == v->codebook && k->head_dim == v->head_dim &&
           k->rotation == v->rotation && !a->keys.is_rotated == !a->values.is_rotated;
}

static tqkv_status record_all(append_call *c)
{
    uint32_t n = c->p.n_each;
    size_t recorded = c->e->list.n;
    tqkv_status status = cache_views(c->a, 0, c->views);
    if (status != TQKV_OK)
        FAILED(c->e, status, "out of host memory");
    if (status == TQKV_OK && is_one_launch(c->a)) {
        status = record_rows(c, 0, 2 * n);
    } else if (status == TQKV_OK) {
        status = record_rows(c, 0, n);
        if (status == TQKV_OK)
            status = record_rows(c, n, n);
    }
    views_free(c->views, CACHE_VIEWS);
    if (status != TQKV_OK)
        encoder_truncate(c->e, recorded);
    return status;
}

tqkv_status tqkv_dispatch_append(tqkv_encoder *e, tqkv_registry *registry,
                                 const tqkv_gpu_attention *a, uint32_t n_positions,
                                 tqkv_buffer *keys, tqkv_buffer *values, tqkv_type type)
{
    append_call c = {.e = e, .registry = registry, .a = a, .keys = keys, .values = values};
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status == TQKV_OK)
        status = dispatch_check(e, registry, e->device);
    if (status != TQKV_OK)
        return status;
    status = check_arguments(a, n_positions, type);
    if (status != TQKV_OK)
        return FAILED(e, status, "append: %s", tqkv_status_string(status));
    c.p = (append_params){.keys = operand_of(a, &a->keys), .values = operand_of(a, &a->values),
                          .places = places_of(a),
                          .n_each = a->n_sequences * n_positions * a->n_kv_heads,
                          .n_positions = n_positions, .n_kv_heads = a->n_kv_heads,
                          .n_tokens = a->n_tokens, .has_lengths = a->lengths != NULL,
                          .value_type = type,
                          .has_balances = a->keys.balances != NULL};
    status = cache_check(e, a);
    if (status == TQKV_OK)
        status = check_numbers(&c, type);
    if (status != TQKV_OK || a->n_tokens == 0)
        return status;
    status = encoder_enter(e);
    return status == TQKV_OK ? encoder_leave(e, record_all(&c)) : status;
}

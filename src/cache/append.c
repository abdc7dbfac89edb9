#include <math.h>
#include <string.h>

#include "cache/cache.h"
#include "common/checked.h"

/* What is appended: [n][n_heads][head_dim] of each. */
typedef struct appended {
    const uint8_t *keys, *values, *queries;
    tqkv_type type;
    size_t n;
} appended;

/* ---- which tokens become codes ---- */

/* The tokens before it are codes once there are `length`; at least s->coded. Pages are
 * sealed when they are full; one that has codes already goes on. */
static size_t coded_end(const tqkv_cache *c, const cache_layer *l, const sequence_layer *s,
                        size_t length, int is_ready)
{
    size_t coded = s->coded, limit = length > c->n_recent ? length - c->n_recent : 0;
    if (!is_ready || limit <= coded || length <= l->n_first)
        return coded;
    if (page_has_before(s, coded)) {
        size_t end = page_end(s, coded);
        if (limit <= end)
            return limit;
        coded = end;
    }
    while (page_end(s, coded) <= limit)
        coded = page_end(s, coded);
    return coded;
}

/* Rows [first, end) of one head and one page from f16 to codes. */
static void encode_head(const cache_layer *l, const sequence_layer *s, uint32_t head, size_t first,
                        size_t end)
{
    for (int kind = KEYS; kind < N_OPERANDS; kind++) {
        operand_kind k = (operand_kind)kind;
        const uint16_t *rows = layer_half(l, s, k, head, first);
        rows -= page_place(s, first) * head_dim_of(l, k);
        layer_encode(l, s, k, head, first, end - first, rows, TQKV_F16);
    }
}

/* What was in a page's slot before is gone. */
static void keep_from(const cache_layer *l, sequence_layer *s, size_t end)
{
    size_t last = (end - 1 + s->offset) / PAGE_TOKENS;
    if (last + 1 > l->n_slots) {
        size_t oldest = (last + 1 - l->n_slots) * PAGE_TOKENS;
        if (oldest > s->kept + s->offset)
            s->kept = oldest - s->offset;
    }
}

static void encode(const cache_layer *l, sequence_layer *s, size_t target)
{
    while (s->coded < target) {
        size_t end = page_end(s, s->coded) < target ? page_end(s, s->coded) : target;
        size_t n = (end - s->coded) * token_values(l);
#pragma omp parallel for if (n >= PARALLEL_VALUES)
        for (uint32_t h = 0; h < l->shape.n_kv_heads; h++)
            encode_head(l, s, h, s->coded, end);
        keep_from(l, s, end);
        s->coded = end;
    }
}

/* ---- f16 ---- */

static void copy_row(const uint8_t *from, size_t at, tqkv_type type, size_t n, uint16_t *half)
{
    float x[TQKV_MAX_HEAD_DIM];
    tqkv_to_f32(from + at * n * (type == TQKV_F32 ? 4 : 2), type, n, x);
    to_halves(x, n, half);
}

/* Tokens [done, done + n) of what is appended, behind the sequence's. */
static void copy_halves(const cache_layer *l, const sequence_layer *s, const appended *a,
                        size_t done, size_t n)
{
    uint32_t heads = l->shape.n_kv_heads;
    for (size_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < heads; h++) {
            size_t row = (done + t) * heads + h, token = s->length + t;
            copy_row(a->keys, row, a->type, l->shape.keys.head_dim,
                     layer_half(l, s, KEYS, h, token));
            copy_row(a->values, row, a->type, l->shape.values.head_dim,
                     layer_half(l, s, VALUES, h, token));
        }
}

/* ---- fitting ---- */

/* Sums of squares are all that fitting needs of queries. */
static void add_queries(cache_layer *l, const appended *a)
{
    uint32_t dim = l->shape.keys.head_dim, group = l->shape.n_heads / l->shape.n_kv_heads;
    float x[TQKV_MAX_HEAD_DIM];
    for (size_t row = 0; row < a->n * l->shape.n_heads; row++) {
        double *squares = l->query_squares + row % l->shape.n_heads / group * dim;
        tqkv_to_f32(a->queries + row * dim * (a->type == TQKV_F32 ? 4 : 2), a->type, dim, x);
        for (uint32_t i = 0; i < dim; i++)
            squares[i] += isfinite(x[i]) ? (double)x[i] * x[i] : 0;
    }
    l->n_queries += (double)a->n * group; /* of each KV head */
}

/* Fits one head into p from the first tokens of s. */
static tqkv_status fit_head(const cache_layer *l, const sequence_layer *s, int has_means,
                            uint32_t head, float *keys, tqkv_profile *p)
{
    uint32_t dim = l->shape.keys.head_dim;
    float root[TQKV_MAX_HEAD_DIM];
    for (size_t t = 0; t < l->fit_tokens; t++)
        tqkv_to_f32(layer_half(l, s, KEYS, head, t), TQKV_F16, dim, keys + t * dim);
    for (uint32_t i = 0; i < dim; i++)
        root[i] = (float)sqrt(l->n_queries > 0 ? l->query_squares[head * dim + i] / l->n_queries
                                               : 0);
    return tqkv_profile_fit(p, 0, head, has_means, keys, l->fit_tokens, 0, root, l->n_queries > 0,
                            0);
}

/* With the cache's lock held: fits a layer's balances once. */
static tqkv_status fit(tqkv_cache *c, cache_layer *l, const sequence_layer *s)
{
    uint32_t heads = l->shape.n_kv_heads, dim = l->shape.keys.head_dim;
    tqkv_profile *p = NULL;
    float *keys = cache_allocate(c, l->fit_tokens * dim, sizeof *keys);
    tqkv_status status = keys ? tqkv_profile_create(1, heads, dim, NULL, &p)
                              : TQKV_ERROR_MEMORY;
    for (uint32_t h = 0; status == TQKV_OK && h < heads; h++)
        status = fit_head(l, s, c->has_means, h, keys, p);
    const float *fitted;
    if (status == TQKV_OK)
        status = tqkv_profile_balance(p, 0, 0, &fitted);
    if (status == TQKV_OK)
        memcpy(l->balances, fitted, (size_t)heads * dim * sizeof *fitted);
    tqkv_profile_free(p);
    cache_release(c, keys, l->fit_tokens * dim, sizeof *keys);
    if (status == TQKV_OK)
        atomic_store(&l->is_ready, 1);
    return status;
}

/* ---- append ---- */

/* With the cache's lock held: fits, or takes the queries back. */
static tqkv_status fit_or_forget(tqkv_cache *c, cache_layer *l, const sequence_layer *s,
                                 const appended *a)
{
    size_t n = (size_t)l->shape.n_kv_heads * l->shape.keys.head_dim;
    double before = l->n_queries, *squares = cache_allocate(c, n, sizeof *squares);
    if (!squares)
        return TQKV_ERROR_MEMORY;
    memcpy(squares, l->query_squares, n * sizeof *squares);
    if (a->queries)
        add_queries(l, a);
    tqkv_status status = fit(c, l, s);
    if (status != TQKV_OK) {
        memcpy(l->query_squares, squares, n * sizeof *squares);
        l->n_queries = before;
    }
    cache_release(c, squares, n, sizeof *squares);
    return status;
}

static tqkv_status fit_if_due(tqkv_cache *c, cache_layer *l, sequence_layer *s, const appended *a,
                              size_t length)
{
    tqkv_status status = TQKV_OK;
    pthread_mutex_lock(&c->lock);
    if (!atomic_load(&l->is_ready)) {
        if (length >= l->fit_tokens)
            status = fit_or_forget(c, l, s, a);
        else if (a->queries)
            add_queries(l, a);
    }
    pthread_mutex_unlock(&c->lock);
    return status;
}

static tqkv_status append(tqkv_cache *c, cache_layer *l, sequence_layer *s, const appended *a)
{
    size_t length = s->length + a->n, coded = s->coded;
    /* Decided once: another sequence may fit the profile meanwhile, but pages are
     * made for what is decided here. */
    int will_be_ready = atomic_load(&l->is_ready) || length >= l->fit_tokens;
    size_t behind = s->length > s->coded ? s->length : s->coded;
    page_needs needs = {.first = s->coded, .end = coded_end(c, l, s, length, will_be_ready),
                        .from = behind, .to = length > behind ? length : behind,
                        .first_end = s->length < l->n_first ? first_tokens(l, length) : 0};
    tqkv_status status = layer_own_pages(c, l, s, &needs);
    for (size_t done = 0, n; status == TQKV_OK && done < a->n; done += n) {
        size_t room = l->n_tail - tail_tokens(s->length, s->coded);
        n = room < a->n - done ? room : a->n - done;
        copy_halves(l, s, a, done, n); /* not seen yet */
        if (done == 0)
            status = fit_if_due(c, l, s, a, length);
        if (status != TQKV_OK)
            break;
        s->length += n;
        encode(l, s, coded_end(c, l, s, s->length, will_be_ready));
    }
    if (status != TQKV_OK) /* before anything was appended */
        layer_drop_pages(c, l, s);
    else if (s->coded > coded)
        layer_drop_tail(c, l, s);
    return status;
}

/* Whether arrays of n tokens fit the address space: a layer with a window may have a capacity
 * that they do not. */
static int fits_memory(const tqkv_layer *l, size_t n, tqkv_type type)
{
    size_t keys = (size_t)l->n_heads * l->keys.head_dim; /* of queries, as many or more */
    size_t values = (size_t)l->n_kv_heads * l->values.head_dim, bytes;
    return size_multiply(n, keys > values ? keys : values, &bytes) &&
           size_multiply(bytes, type == TQKV_F32 ? 4 : 2, &bytes) && bytes <= PTRDIFF_MAX;
}

tqkv_status tqkv_sequence_append(tqkv_sequence *sequence, uint32_t layer, const void *keys,
                                 const void *values, const void *queries, tqkv_type type,
                                 size_t n_tokens)
{
    if (!sequence || layer >= sequence->cache->n_layers ||
        (type != TQKV_F32 && type != TQKV_F16 && type != TQKV_BF16))
        return TQKV_ERROR_ARGUMENT;
    if (n_tokens == 0)
        return TQKV_OK;
    if (!keys || !values)
        return TQKV_ERROR_ARGUMENT;
    tqkv_cache *c = sequence->cache;
    sequence_layer *s = &sequence->layers[layer];
    appended a = {keys, values, queries, type, n_tokens};
    pthread_rwlock_wrlock(&sequence->lock);
    tqkv_status status = TQKV_OK;
    if (n_tokens > c->capacity - s->length)
        status = TQKV_ERROR_BUFFER;
    else if (!fits_memory(&c->layers[layer].shape, n_tokens, type))
        status = TQKV_ERROR_OVERFLOW;
    else
        status = append(c, &c->layers[layer], s, &a);
    pthread_rwlock_unlock(&sequence->lock);
    return status;
}

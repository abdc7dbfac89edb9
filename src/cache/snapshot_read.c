#include <math.h>
#include <string.h>

#include "cache/snapshot.h"
#include "common/bytes.h"
#include "format/profile.h"

typedef struct input {
    tqkv_cache *c;
    tqkv_read_function read;
    void *context;
    uint64_t sections;
    layer_record *records; /* [n_layers] */
    uint8_t **balances;    /* [n_layers] payloads, until all has been read */
} input;

static tqkv_status get(input *in, unsigned kind, void *data, size_t size)
{
    in->sections++;
    return section_read(in->read, in->context, kind, data, size);
}

static tqkv_status get_header(input *in)
{
    uint8_t header[SNAPSHOT_HEADER_BYTES], expected[SNAPSHOT_HEADER_BYTES];
    size_t got = in->read(in->context, header, sizeof header);
    snapshot_header(in->c, expected);
    if (got < 8 || memcmp(header, expected, 8))
        return TQKV_ERROR_MAGIC;
    if (got < sizeof header)
        return TQKV_ERROR_TRUNCATED;
    if (load_le(header + 10, 2) == REVERSED_MARK)
        return TQKV_ERROR_ENDIAN;
    if (load_le(header + 8, 2) != SNAPSHOT_VERSION)
        return TQKV_ERROR_VERSION;
    if (memcmp(header + 16, expected + 16, TQKV_MAX_FINGERPRINT))
        return TQKV_ERROR_MODEL;
    return memcmp(header, expected, sizeof header) ? TQKV_ERROR_FORMAT : TQKV_OK;
}

static int same_format(const tqkv_format *a, const tqkv_format *b)
{
    return a->bits == b->bits && a->head_dim == b->head_dim && a->codebook == b->codebook &&
           a->layout == b->layout && a->rotation == b->rotation;
}

static tqkv_status check_record(const tqkv_cache *c, const cache_layer *l, const layer_record *r)
{
    if (r->n_heads != l->shape.n_heads || r->n_kv_heads != l->shape.n_kv_heads ||
        !same_format(&r->keys, &l->shape.keys) || !same_format(&r->values, &l->shape.values) ||
        r->window != l->shape.window || r->n_first != l->n_first)
        return TQKV_ERROR_FORMAT;
    if (r->has_balances != (l->balances != NULL))
        return TQKV_ERROR_PROFILE;
    if (r->is_ready > 1 || r->is_ready < 0 || (!r->is_ready && r->fit_tokens != l->fit_tokens))
        return TQKV_ERROR_PROFILE;
    if (r->length > c->capacity)
        return TQKV_ERROR_BUFFER;
    if (r->coded < r->n_first || r->kept < r->n_first || r->kept > r->coded ||
        (r->coded > r->length && r->coded != r->n_first) || r->offset > SIZE_MAX / 4 ||
        (!r->is_ready && r->coded != r->n_first) || !isfinite(r->n_queries) || r->n_queries < 0)
        return TQKV_ERROR_CORRUPT;
    /* what is kept reaches back to the first tokens, or all of a window */
    uint64_t oldest = r->window && r->length > r->window ? r->length - r->window : 0;
    if (r->window ? r->kept > oldest : r->kept != r->n_first)
        return TQKV_ERROR_CORRUPT;
    sequence_layer s = {.offset = (size_t)r->offset};
    size_t pages = r->coded > r->kept
                       ? (page_end(&s, (size_t)r->coded - 1) - page_begin(&s, (size_t)r->kept) +
                          PAGE_TOKENS - 1) / PAGE_TOKENS
                       : 0;
    if (pages > l->n_slots || tail_tokens((size_t)r->length, (size_t)r->coded) > l->n_tail)
        return TQKV_ERROR_FORMAT;
    return TQKV_OK;
}

static tqkv_status check_balances(const cache_layer *l, const uint8_t *data, int is_ready)
{
    size_t dim = l->shape.keys.head_dim;
    const float *floats = (const float *)data;
    for (uint32_t h = 0; h < l->shape.n_kv_heads; h++)
        if (!balance_is_valid(floats + h * dim, (uint32_t)dim))
            return TQKV_ERROR_CORRUPT;
    for (size_t i = 0; i < layer_balance_doubles(l, is_ready); i++) {
        double square;
        memcpy(&square, data + layer_balance_floats(l) * sizeof(float) + i * sizeof square,
               sizeof square);
        if (!isfinite(square) || square < 0)
            return TQKV_ERROR_CORRUPT;
    }
    return TQKV_OK;
}

static size_t balance_bytes(const cache_layer *l, int is_ready)
{
    return layer_balance_floats(l) * sizeof(float) +
           layer_balance_doubles(l, is_ready) * sizeof(double);
}

static tqkv_status get_balances(input *in, uint32_t layer)
{
    const cache_layer *l = &in->c->layers[layer];
    int is_ready = in->records[layer].is_ready;
    size_t bytes = balance_bytes(l, is_ready);
    uint8_t *data = in->balances[layer] = cache_allocate(in->c, bytes, 1);
    if (!data)
        return TQKV_ERROR_MEMORY;
    tqkv_status status = get(in, SECTION_LAYER_PROFILE, data, bytes);
    return status == TQKV_OK ? check_balances(l, data, is_ready) : status;
}

static const uint16_t *place_token(const cache_layer *l, const sequence_layer *s, size_t token,
                                   const uint16_t *from)
{
    for (int kind = KEYS; kind < N_OPERANDS; kind++)
        for (uint32_t h = 0; h < l->shape.n_kv_heads; h++) {
            size_t dim = head_dim_of(l, (operand_kind)kind);
            memcpy(layer_half(l, s, (operand_kind)kind, h, token), from, dim * sizeof *from);
            from += dim;
        }
    return from;
}

static tqkv_status get_tokens(input *in, const cache_layer *l, sequence_layer *s)
{
    size_t token = token_values(l), first = first_tokens(l, s->length);
    size_t tail = tail_tokens(s->length, s->coded), values = (first + tail) * token;
    if (!values)
        return TQKV_OK;
    uint16_t *data = cache_allocate(in->c, values, sizeof *data);
    if (!data)
        return TQKV_ERROR_MEMORY;
    tqkv_status status = get(in, SECTION_TOKENS, data, values * sizeof *data);
    const uint16_t *from = data;
    for (size_t t = 0; status == TQKV_OK && t < first; t++)
        from = place_token(l, s, t, from);
    for (size_t t = 0; status == TQKV_OK && t < tail; t++)
        from = place_token(l, s, s->coded + t, from);
    cache_release(in->c, data, values, sizeof *data);
    return status;
}

/* Gives the token a mixed page instead of its sealed one. */
static tqkv_status take_mixed(tqkv_cache *c, cache_layer *l, uint32_t *entry)
{
    pthread_mutex_lock(&c->lock);
    int has = pool_has(c, &l->pools[MIXED], 1);
    if (has) {
        pool_drop(&l->pools[SEALED], entry_page(*entry));
        *entry = pool_take(&l->pools[MIXED]) | TQKV_PAGE_MIXED;
    }
    pthread_mutex_unlock(&c->lock);
    return has ? TQKV_OK : TQKV_ERROR_MEMORY;
}

static tqkv_status get_page(input *in, cache_layer *l, uint32_t *entry)
{
    section s;
    tqkv_status status = section_begin(in->read, in->context, &s);
    in->sections++;
    if (status == TQKV_OK && s.kind == SECTION_MIXED_PAGE && in->c->has_means)
        status = take_mixed(in->c, l, entry);
    else if (status == TQKV_OK && s.kind != SECTION_PAGE)
        status = TQKV_ERROR_CORRUPT;
    size_t bytes = page_bytes_of(l, *entry);
    if (status == TQKV_OK && s.size != bytes)
        status = TQKV_ERROR_CORRUPT;
    if (status != TQKV_OK)
        return status;
    uint8_t *data = cache_allocate(in->c, bytes, 1);
    if (!data)
        return TQKV_ERROR_MEMORY;
    status = section_get(in->read, in->context, data, bytes);
    if (status == TQKV_OK)
        status = section_check(in->read, in->context, &s, data, bytes);
    if (status == TQKV_OK)
        page_from_bytes(l, *entry, data);
    cache_release(in->c, data, bytes, 1);
    return status;
}

static tqkv_status get_layer(input *in, uint32_t layer, sequence_layer *s)
{
    cache_layer *l = &in->c->layers[layer];
    layer_record *r = &in->records[layer];
    uint8_t record[SNAPSHOT_LAYER_BYTES];
    tqkv_status status = get(in, SECTION_LAYER, record, sizeof record);
    if (status != TQKV_OK)
        return status;
    layer_record_read(record, r);
    status = check_record(in->c, l, r);
    if (status == TQKV_OK && r->has_balances)
        status = get_balances(in, layer);
    if (status != TQKV_OK)
        return status;
    s->length = (size_t)r->length;
    s->coded = (size_t)r->coded;
    s->kept = (size_t)r->kept;
    s->offset = (size_t)r->offset;
    page_needs needs = {.first = s->kept, .end = s->coded, .from = s->coded,
                        .to = s->length > s->coded ? s->length : s->coded,
                        .first_end = first_tokens(l, s->length)};
    status = layer_own_pages(in->c, l, s, &needs);
    if (status == TQKV_OK)
        status = get_tokens(in, l, s);
    for (size_t t = s->kept; status == TQKV_OK && t < s->coded; t = page_end(s, t))
        status = get_page(in, l, sealed_entry(l, s, t));
    return status;
}

static tqkv_status get_end(input *in)
{
    uint8_t end[8];
    uint64_t sections = in->sections;
    tqkv_status status = get(in, SECTION_SEQUENCE_END, end, sizeof end);
    if (status == TQKV_OK && load_le(end, 8) != sections)
        status = TQKV_ERROR_CORRUPT;
    return status;
}

/* With the cache's lock held: whether its balances are the snapshot's, or can
 * become them. */
static tqkv_status compare_balances(input *in)
{
    for (uint32_t i = 0; i < in->c->n_layers; i++) {
        cache_layer *l = &in->c->layers[i];
        if (in->balances[i] && in->records[i].is_ready && atomic_load(&l->is_ready) &&
            memcmp(in->balances[i], l->balances, layer_balance_floats(l) * sizeof(float)))
            return TQKV_ERROR_PROFILE;
    }
    return TQKV_OK;
}

static void take_balances(input *in)
{
    for (uint32_t i = 0; i < in->c->n_layers; i++) {
        cache_layer *l = &in->c->layers[i];
        size_t floats = layer_balance_floats(l) * sizeof(float);
        if (!in->balances[i] || atomic_load(&l->is_ready))
            continue;
        if (in->records[i].is_ready) {
            memcpy(l->balances, in->balances[i], floats);
            atomic_store(&l->is_ready, 1);
        } else if (l->n_queries == 0) { /* it goes on collecting */
            memcpy(l->query_squares, in->balances[i] + floats,
                   layer_balance_doubles(l, 0) * sizeof(double));
            l->n_queries = in->records[i].n_queries;
        }
    }
}

tqkv_status tqkv_sequence_load(tqkv_cache *c, tqkv_read_function read, void *context,
                               tqkv_sequence **sequence)
{
    if (!c || !read || !sequence)
        return TQKV_ERROR_ARGUMENT;
    tqkv_sequence *s = NULL;
    input in = {.c = c, .read = read, .context = context};
    tqkv_status status = get_header(&in);
    if (status != TQKV_OK)
        return status;
    in.records = cache_allocate(c, c->n_layers, sizeof *in.records);
    in.balances = cache_allocate(c, c->n_layers, sizeof *in.balances);
    status = in.records && in.balances ? tqkv_sequence_create(c, &s) : TQKV_ERROR_MEMORY;
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++)
        status = get_layer(&in, i, &s->layers[i]);
    if (status == TQKV_OK)
        status = get_end(&in);
    pthread_mutex_lock(&c->lock);
    if (status == TQKV_OK)
        status = compare_balances(&in);
    if (status == TQKV_OK)
        take_balances(&in);
    pthread_mutex_unlock(&c->lock);
    for (uint32_t i = 0; in.balances && i < c->n_layers; i++)
        if (in.balances[i])
            cache_release(c, in.balances[i], balance_bytes(&c->layers[i], in.records[i].is_ready),
                          1);
    cache_release(c, in.balances, c->n_layers, sizeof *in.balances);
    cache_release(c, in.records, c->n_layers, sizeof *in.records);
    if (status != TQKV_OK) {
        tqkv_sequence_free(s);
        return status;
    }
    *sequence = s;
    return TQKV_OK;
}

#include "cache/snapshot.h"

#include <string.h>

#include "common/bytes.h"
#include "format/format.h"

static const char magic[8] = {'T', 'Q', 'K', 'V', 'S', 'N', 'A', 'P'};

void snapshot_header(const tqkv_cache *c, uint8_t *h)
{
    memset(h, 0, SNAPSHOT_HEADER_BYTES);
    memcpy(h, magic, sizeof magic);
    store_le(h + 8, SNAPSHOT_VERSION, 2);
    store_le(h + 10, ENDIAN_MARK, 2);
    store_le(h + 12, c->n_layers, 4);
    memcpy(h + 16, c->fingerprint, TQKV_MAX_FINGERPRINT);
    h[16 + TQKV_MAX_FINGERPRINT] = (uint8_t)c->has_means;
}

void layer_record_of(const cache_layer *l, const sequence_layer *s, layer_record *r)
{
    *r = (layer_record){
        .n_heads = l->shape.n_heads, .n_kv_heads = l->shape.n_kv_heads,
        .keys = l->shape.keys, .values = l->shape.values,
        .window = l->shape.window, .n_first = l->n_first, .fit_tokens = l->fit_tokens,
        .length = s->length, .coded = s->coded, .kept = s->kept, .offset = s->offset,
        .has_balances = l->balances != NULL, .is_ready = atomic_load(&((cache_layer *)l)->is_ready),
        .n_queries = l->n_queries};
}

static void write_format(const tqkv_format *f, uint8_t *b)
{
    store_le(b, format_stored_bits(f), 2);
    store_le(b + 2, f->head_dim, 2);
    b[4] = f->codebook;
    b[5] = f->layout;
    b[6] = f->rotation;
}

static void read_format(const uint8_t *b, tqkv_format *f)
{
    *f = (tqkv_format){.bits = format_bits_from(load_le(b, 2)),
                       .head_dim = (uint16_t)load_le(b + 2, 2),
                       .codebook = b[4], .layout = b[5], .rotation = b[6]};
}

void layer_record_write(const layer_record *r, uint8_t *b)
{
    uint64_t n_queries;
    memset(b, 0, SNAPSHOT_LAYER_BYTES);
    store_le(b, r->n_heads, 4);
    store_le(b + 4, r->n_kv_heads, 4);
    b[12] = (uint8_t)r->has_balances;
    b[13] = (uint8_t)r->is_ready;
    write_format(&r->keys, b + 16);
    write_format(&r->values, b + 24);
    store_le(b + 32, r->window, 8);
    store_le(b + 40, r->n_first, 8);
    store_le(b + 48, r->fit_tokens, 8);
    store_le(b + 56, r->length, 8);
    store_le(b + 64, r->coded, 8);
    store_le(b + 72, r->kept, 8);
    store_le(b + 80, r->offset, 8);
    memcpy(&n_queries, &r->n_queries, 8);
    store_le(b + 88, n_queries, 8);
}

void layer_record_read(const uint8_t *b, layer_record *r)
{
    uint64_t n_queries = load_le(b + 88, 8);
    *r = (layer_record){
        .n_heads = (uint32_t)load_le(b, 4), .n_kv_heads = (uint32_t)load_le(b + 4, 4),
        .has_balances = b[12], .is_ready = b[13],
        .window = load_le(b + 32, 8), .n_first = load_le(b + 40, 8),
        .fit_tokens = load_le(b + 48, 8), .length = load_le(b + 56, 8),
        .coded = load_le(b + 64, 8), .kept = load_le(b + 72, 8), .offset = load_le(b + 80, 8)};
    read_format(b + 16, &r->keys);
    read_format(b + 24, &r->values);
    memcpy(&r->n_queries, &n_queries, 8);
}

size_t layer_balance_floats(const cache_layer *l)
{
    return (size_t)l->shape.n_kv_heads * l->shape.keys.head_dim;
}

size_t layer_balance_doubles(const cache_layer *l, int is_ready)
{
    return is_ready ? 0 : layer_balance_floats(l);
}

size_t page_bytes_of(const cache_layer *l, uint32_t entry)
{
    const page_pool *p = &l->pools[entry_kind(entry)];
    return p->part[BODY].page_bytes + p->part[MEANS].page_bytes;
}

void page_to_bytes(const cache_layer *l, uint32_t entry, uint8_t *bytes)
{
    const page_pool *p = &l->pools[entry_kind(entry)];
    for (int part = 0; part < N_PAGE_PARTS; bytes += p->part[part++].page_bytes)
        if (p->part[part].page_bytes)
            memcpy(bytes, pool_page(p, (page_part)part, entry_page(entry)),
                   p->part[part].page_bytes);
}

void page_from_bytes(const cache_layer *l, uint32_t entry, const uint8_t *bytes)
{
    const page_pool *p = &l->pools[entry_kind(entry)];
    for (int part = 0; part < N_PAGE_PARTS; bytes += p->part[part++].page_bytes)
        if (p->part[part].page_bytes)
            memcpy(pool_page(p, (page_part)part, entry_page(entry)), bytes,
                   p->part[part].page_bytes);
}

/* ---- writing ---- */

typedef struct output {
    tqkv_cache *c;
    tqkv_write_function write;
    void *context;
    uint64_t sections;
} output;

static tqkv_status put(output *o, unsigned kind, const void *data, size_t size)
{
    o->sections++;
    return section_write(o->write, o->context, kind, data, size);
}

/* Arrays are little-endian; this library is for machines that are, too. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "snapshots are written as memory is");

/* The layer's shape and lengths, and its profile: what they are at one moment,
 * against other sequences that fit it; written when the lock is free again. */
static tqkv_status put_record(output *o, const cache_layer *l, const sequence_layer *s)
{
    uint8_t record[SNAPSHOT_LAYER_BYTES];
    layer_record r;
    size_t floats = l->balances ? layer_balance_floats(l) * sizeof(float) : 0;
    size_t doubles = l->balances ? layer_balance_doubles(l, 0) * sizeof(double) : 0;
    uint8_t *data = cache_allocate(o->c, floats + doubles, 1);
    if (!data)
        return TQKV_ERROR_MEMORY;
    pthread_mutex_lock(&o->c->lock);
    layer_record_of(l, s, &r);
    if (floats)
        memcpy(data, l->balances, floats);
    if (l->query_squares)
        memcpy(data + floats, l->query_squares, doubles);
    pthread_mutex_unlock(&o->c->lock);
    layer_record_write(&r, record);
    tqkv_status status = put(o, SECTION_LAYER, record, sizeof record);
    if (status == TQKV_OK && floats)
        status = put(o, SECTION_LAYER_PROFILE, data, floats + (r.is_ready ? 0 : doubles));
    cache_release(o->c, data, floats + doubles, 1);
    return status;
}

static tqkv_status put_tokens(output *o, const cache_layer *l, const sequence_layer *s)
{
    size_t token = token_values(l), first = first_tokens(l, s->length);
    size_t tail = tail_tokens(s->length, s->coded), values = (first + tail) * token;
    if (!values)
        return TQKV_OK;
    uint16_t *data = cache_allocate(o->c, values, sizeof *data), *to = data;
    if (!data)
        return TQKV_ERROR_MEMORY;
    for (size_t t = 0; t < first; t++)
        to = layer_copy_halves(l, s, t, to);
    for (size_t t = 0; t < tail; t++)
        to = layer_copy_halves(l, s, s->coded + t, to);
    tqkv_status status = put(o, SECTION_TOKENS, data, values * sizeof *data);
    cache_release(o->c, data, values, sizeof *data);
    return status;
}

static tqkv_status put_page(output *o, const cache_layer *l, uint32_t entry)
{
    size_t bytes = page_bytes_of(l, entry);
    uint8_t *data = cache_allocate(o->c, bytes, 1);
    if (!data)
        return TQKV_ERROR_MEMORY;
    page_to_bytes(l, entry, data);
    tqkv_status status = put(o, entry_kind(entry) == MIXED ? SECTION_MIXED_PAGE : SECTION_PAGE,
                             data, bytes);
    cache_release(o->c, data, bytes, 1);
    return status;
}

static tqkv_status put_layer(output *o, const cache_layer *l, const sequence_layer *s)
{
    tqkv_status status = put_record(o, l, s);
    if (status == TQKV_OK)
        status = put_tokens(o, l, s);
    for (size_t t = s->kept; status == TQKV_OK && t < s->coded; t = page_end(s, t))
        status = put_page(o, l, *sealed_entry(l, s, t));
    return status;
}

tqkv_status tqkv_sequence_save(tqkv_sequence *sequence, tqkv_write_function write, void *context)
{
    uint8_t header[SNAPSHOT_HEADER_BYTES], end[8];
    if (!sequence || !write)
        return TQKV_ERROR_ARGUMENT;
    tqkv_cache *c = sequence->cache;
    output o = {c, write, context, 0};
    snapshot_header(c, header);
    tqkv_status status = write(context, header, sizeof header) == sizeof header ? TQKV_OK
                                                                                : TQKV_ERROR_IO;
    pthread_rwlock_rdlock(&sequence->lock);
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++)
        status = put_layer(&o, &c->layers[i], &sequence->layers[i]);
    pthread_rwlock_unlock(&sequence->lock);
    store_le(end, o.sections, 8);
    return status == TQKV_OK ? put(&o, SECTION_SEQUENCE_END, end, sizeof end) : status;
}

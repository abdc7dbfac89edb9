#include "caches.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* ---- which tensors ---- */

/* llama.cpp names them cache_k_l0, cache_v_l0, with something between for some
 * kinds of cache: cache_<name>k_l0. */
static const char *letter_of(const gg_tensor *t)
{
    static const char start[] = "cache_";
    if (strncmp(t->name, start, sizeof start - 1))
        return NULL;
    const char *key = strstr(t->name, "k_l"), *value = strstr(t->name, "v_l");
    const char *at = key ? key : value;
    return at && at[3] >= '0' && at[3] <= '9' ? at : NULL;
}

const gg_tensor *cache_tensor(const gg_tensor *t)
{
    if (!t)
        return NULL;
    const gg_tensor *root = tensor_root(t);
    if (root->name[0] != 'c' || !slot_is_type(root->type) || !letter_of(root))
        return NULL;
    return !root->buffer || gg.buft_is_host(root->buffer->type) ? root : NULL;
}

int cache_is_key(const gg_tensor *root)
{
    return *letter_of(root) == 'k';
}

static int layer_of(const gg_tensor *root)
{
    return atoi(letter_of(root) + 3);
}

/* ---- entries ---- */

static void copy_variable(const char *name, char to[TQKV_FORMAT_NAME_SIZE])
{
    const char *value = getenv(name);
    strncpy(to, value ? value : "", TQKV_FORMAT_NAME_SIZE - 1);
}

void caches_init(caches *c)
{
    *c = (caches){0};
    copy_variable("TQKV_K", c->key_format);
    copy_variable("TQKV_V", c->value_format);
}

cache *caches_find(const caches *c, const gg_tensor *root)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->all[i].tensor == root)
            return &c->all[i];
    return NULL;
}

static void clear(cache *c)
{
    free((void *)c->profiles);
    free(c->written);
    c->profiles = NULL;
    c->written = NULL;
}

void caches_free(caches *c)
{
    for (size_t i = 0; i < c->n; i++)
        clear(&c->all[i]);
    free(c->all);
    *c = (caches){0};
}

/* The layer's key profiles, or null where the profile has none for it. */
static tqkv_key_profile *profiles_of(caches *c, const tqkv_profile *p, int layer,
                                     uint32_t n_heads, uint32_t head_dim)
{
    int fits = p && (uint32_t)layer < tqkv_profile_n_layers(p) &&
               n_heads <= tqkv_profile_n_heads(p) && head_dim == tqkv_profile_head_dim(p);
    if (p && !fits && !c->has_warned)
        gg.log(GG_LOG_WARN, "tqkv: the profile has nothing for layers as layer %d is, with %u heads "
                            "of %u\n", layer, n_heads, head_dim);
    c->has_warned |= p && !fits;
    if (!fits)
        return NULL;
    tqkv_key_profile *all = calloc(n_heads, sizeof *all);
    for (uint32_t h = 0; all && h < n_heads; h++)
        tqkv_profile_get(p, (uint32_t)layer, h, &all[h]);
    return all;
}

/* Says how the pair's rows are to be read. */
static uint64_t tag_of(const cache *keys, const cache *values, int is_rotated,
                       uint64_t profile_id)
{
    char text[128], name[2][TQKV_FORMAT_NAME_SIZE] = {"", ""};
    if (keys)
        tqkv_format_name(&keys->slot.format, name[0], sizeof name[0]);
    if (values)
        tqkv_format_name(&values->slot.format, name[1], sizeof name[1]);
    int n = snprintf(text, sizeof text, "tqkv rows 1 %s %s%s %016llx", name[0], name[1],
                     is_rotated ? " rotated" : "",
                     keys && keys->profiles ? (unsigned long long)profile_id : 0ull);
    return XXH64(text, (size_t)n, 0);
}

static const char *fill(cache *c, const gg_tensor *t, uint32_t dim, uint32_t n_heads,
                        uint32_t n_centres, int wants_tag, const char *format)
{
    c->tensor = t;
    c->is_key = cache_is_key(t);
    c->layer = layer_of(t);
    c->n_heads = n_heads;
    c->row_bytes = t->nb[1];
    c->n_slots = (size_t)(t->ne[1] * t->ne[2]);
    if (!dim || (uint64_t)t->ne[0] != (uint64_t)dim * n_heads || t->ne[3] != 1)
        return "attention reads the cache with another head size or number of heads than its rows "
               "have";
    return slot_init(&c->slot, t->type, dim, n_centres, wants_tag,
                     *format ? format : NULL);
}

/* The tensor's entry, a new one if there is none; null without memory. */
static cache *entry_of(caches *c, const gg_tensor *t)
{
    cache *e = caches_find(c, t);
    if (e)
        return e;
    cache *all = realloc(c->all, (c->n + 1) * sizeof *all);
    if (!all)
        return NULL;
    c->all = all;
    all[c->n] = (cache){0};
    return &all[c->n++];
}

static int is_same(const cache *a, const cache *b)
{
    return a->tensor == b->tensor && a->n_heads == b->n_heads && a->n_slots == b->n_slots &&
           a->row_bytes == b->row_bytes && a->tag == b->tag &&
           !memcmp(&a->slot, &b->slot, sizeof a->slot);
}

static const char *put(caches *c, cache *e)
{
    cache *into = caches_find(c, e->tensor);
    if (into && is_same(into, e)) {
        free((void *)e->profiles);
        e->profiles = NULL;
        return NULL;
    }
    if (e->slot.tag_bits)
        e->written = calloc(e->n_slots, sizeof *e->written);
    into = e->slot.tag_bits && !e->written ? NULL : entry_of(c, e->tensor);
    if (!into) {
        free(e->written);
        return "out of memory";
    }
    clear(into);
    *into = *e;
    e->profiles = NULL; /* it is the entry's now */
    return NULL;
}

const char *caches_add(caches *c, const cache_pair *pair, const tqkv_profile *profile,
                       uint64_t profile_id)
{
    cache keys = {0}, values = {0};
    const char *problem = NULL;
    uint32_t n_centres = 1;
    /* Without tagged values a key's spare bits hold its tag, not its centre; and
     * profiles are of keys as they are. */
    if (pair->keys && pair->values && !pair->is_rotated) {
        keys.profiles = profiles_of(c, profile, layer_of(pair->keys), pair->n_heads,
                                    pair->key_dim);
        if (keys.profiles)
            n_centres = keys.profiles->n_centres;
    }
    if (pair->keys)
        problem = fill(&keys, pair->keys, pair->key_dim, pair->n_heads, n_centres, !pair->values,
                       c->key_format);
    if (!problem && pair->values)
        problem = fill(&values, pair->values, pair->value_dim, pair->n_heads, 1, 1, c->value_format);
    keys.tag = values.tag = tag_of(pair->keys ? &keys : NULL, pair->values ? &values : NULL,
                                   pair->is_rotated, profile_id);
    keys.is_rotated = values.is_rotated = pair->is_rotated;
    if (!problem && pair->keys)
        problem = put(c, &keys);
    if (!problem && pair->values)
        problem = put(c, &values);
    free((void *)keys.profiles);
    return problem;
}

/* ---- what is kept ---- */

/* The keys' or the values' format, "several formats", or empty if none is ours. */
static void name_formats(const caches *c, int is_key, char name[32])
{
    name[0] = 0;
    for (size_t i = 0; i < c->n; i++) {
        char other[TQKV_FORMAT_NAME_SIZE];
        if (c->all[i].is_key != is_key)
            continue;
        tqkv_format_name(&c->all[i].slot.format, other, sizeof other);
        if (name[0] && strcmp(name, other)) {
            snprintf(name, 32, "several formats");
            return;
        }
        snprintf(name, 32, "%s", other);
    }
}

void caches_describe(const caches *c, int has_profile)
{
    char keys[32], values[32];
    double bits = 0, n = 0;
    name_formats(c, 1, keys);
    name_formats(c, 0, values);
    for (size_t i = 0; i < c->n; i++) {
        const slot_layout *s = &c->all[i].slot;
        double rows = (double)c->all[i].n_slots * c->all[i].n_heads;
        bits += rows * (double)s->bytes * 8;
        n += rows * s->format.head_dim;
    }
    gg.log(GG_LOG_INFO, "tqkv: keeps %s%s%s%s%s, %.2f bits a value, %s a profile\n",
           keys[0] ? "keys in " : "", keys, keys[0] && values[0] ? ", " : "",
           values[0] ? "values in " : "", values, bits / n, has_profile ? "with" : "without");
}

/* ---- tags ---- */

static uint8_t *scale_of(const cache *c, size_t slot, uint32_t head)
{
    return (uint8_t *)c->tensor->data + slot * c->row_bytes + head * c->slot.bytes +
           c->slot.scale_at;
}

enum { TAG = 15 }; /* a head's four bits of the tag */

/* The number in a scale's sign and lowest bits, as tqkv_rows has them. */
static uint16_t in_scale(unsigned number)
{
    return (uint16_t)((number & 7) | number >> 3 << 15);
}

static uint16_t tag_bits(const cache *c, uint32_t head)
{
    unsigned at = ((unsigned)c->layer + head) % 16 * 4;
    return in_scale(c->tag >> at & TAG);
}

static uint16_t load(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

void cache_mark(cache *c, size_t slot, uint32_t first, uint32_t n)
{
    for (uint32_t h = first; c->slot.tag_bits && h < first + n; h++) {
        uint8_t *scale = scale_of(c, slot, h);
        uint16_t half = load(scale) | tag_bits(c, h);
        scale[0] = (uint8_t)half;
        scale[1] = (uint8_t)(half >> 8);
        if (h == 0)
            c->written[slot] = half;
    }
}

int cache_is_ours(const cache *c, size_t slot)
{
    const uint16_t mask = in_scale(TAG);
    for (uint32_t h = 0; c->slot.tag_bits && h < c->n_heads; h++) {
        uint16_t half = load(scale_of(c, slot, h));
        if (half && (half & mask) != tag_bits(c, h))
            return 0;
    }
    return 1;
}

int cache_is_changed(const cache *c, size_t slot)
{
    return c->slot.tag_bits && load(scale_of(c, slot, 0)) != c->written[slot];
}

void cache_accept(cache *c, size_t slot)
{
    if (c->slot.tag_bits)
        c->written[slot] = load(scale_of(c, slot, 0));
}

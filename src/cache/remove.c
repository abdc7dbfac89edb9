#include <math.h>
#include <string.h>

#include "cache/cache.h"

/* ---- rotation of keys by position ---- */

/* Turns a key by -delta positions. */
static void turn_back(const tqkv_rope *rope, uint32_t head_dim, size_t delta, float *x)
{
    uint32_t n = rope->n_dims ? rope->n_dims : head_dim, half = n / 2;
    for (uint32_t i = 0; i < half; i++) {
        double frequency = pow(rope->base, -2.0 * i / n) * rope->scale;
        if (rope->factors)
            frequency /= rope->factors[i];
        double angle = -(double)delta * frequency, c = cos(angle), s = sin(angle);
        uint32_t a = rope->interleaved ? 2 * i : i, b = rope->interleaved ? 2 * i + 1 : i + half;
        double low = x[a], high = x[b];
        x[a] = (float)(low * c - high * s);
        x[b] = (float)(low * s + high * c);
    }
}

static int rope_is_valid(const tqkv_rope *rope, uint32_t head_dim)
{
    uint32_t n = rope->n_dims ? rope->n_dims : head_dim;
    if (n > head_dim || n % 2 || !(rope->base > 0) || !isfinite(rope->base) ||
        !isfinite(rope->scale))
        return 0;
    for (uint32_t i = 0; rope->factors && i < n / 2; i++)
        if (!isfinite(rope->factors[i]) || rope->factors[i] == 0)
            return 0;
    return 1;
}

/* ---- one layer ---- */

/* The removal of [first, first + n) from a layer. */
typedef struct removal {
    const cache_layer *l;
    sequence_layer *s;
    const tqkv_rope *rope;
    int has_means;
    size_t first, n;
    float *scratch;
    uint16_t *tail; /* a copy of the tail, where tokens move within it */
} removal;

static size_t highest(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Whether all that is kept and comes behind `first` moves alike, so that its
 * place stays and only the offset changes. */
static int moves_alike(const removal *r)
{
    return r->first <= highest(r->l->n_first, r->s->kept);
}

/* The first token in f16 behind the codes, afterwards. */
static size_t new_coded(const removal *r)
{
    size_t end = r->first + r->n, coded = r->s->coded;
    if (coded >= end)
        coded -= r->n;
    else if (coded > r->first)
        coded = r->first;
    return highest(coded, r->l->n_first);
}

static void read_turned(const removal *r, uint32_t head, size_t token, float *x)
{
    layer_read(r->l, r->s, r->has_means, KEYS, head, token, x);
    if (r->rope)
        turn_back(r->rope, r->l->shape.keys.head_dim, r->n, x);
}

/* Tokens that move into the first ones, which are in f16 by position. */
static void move_first(const removal *r)
{
    float x[TQKV_MAX_HEAD_DIM];
    size_t end = r->s->length - r->n < r->l->n_first ? r->s->length - r->n : r->l->n_first;
    for (size_t to = r->first; to < end; to++)
        for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++) {
            read_turned(r, h, to + r->n, x);
            to_halves(x, r->l->shape.keys.head_dim, layer_half(r->l, r->s, KEYS, h, to));
            layer_read(r->l, r->s, r->has_means, VALUES, h, to + r->n, x);
            to_halves(x, r->l->shape.values.head_dim, layer_half(r->l, r->s, VALUES, h, to));
        }
}

/* Turns coded tokens [first, end) where they are. */
static void turn_codes(const removal *r, size_t first, size_t end)
{
    size_t dim = r->l->shape.keys.head_dim;
    for (size_t t = first, next; r->rope && t < end; t = next) {
        next = page_end(r->s, t) < end ? page_end(r->s, t) : end;
        for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++) {
            for (size_t i = t; i < next; i++)
                read_turned(r, h, i, r->scratch + (i - t) * dim);
            layer_encode_keys(r->l, r->s, r->has_means, h, t, next - t, r->scratch, 1);
        }
    }
}

static void turn_tail(const removal *r, size_t first)
{
    float x[TQKV_MAX_HEAD_DIM];
    for (size_t t = first; r->rope && t < r->s->length; t++)
        for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++) {
            read_turned(r, h, t, x);
            to_halves(x, r->l->shape.keys.head_dim, layer_half(r->l, r->s, KEYS, h, t));
        }
}

static void remove_alike(const removal *r)
{
    sequence_layer *s = r->s;
    size_t coded = new_coded(r), kept = highest(highest(s->kept, r->first + r->n),
                                                r->l->n_first + r->n);
    move_first(r);
    turn_codes(r, kept, s->coded);
    turn_tail(r, highest(highest(s->coded, r->first + r->n), r->l->n_first + r->n));
    s->offset += r->n;
    s->length -= r->n;
    s->coded = coded;
    s->kept = kept - r->n < coded ? kept - r->n : coded;
}

/* One head's codes of tokens [to, end) of one page from those n further on. */
static void move_codes(const removal *r, uint32_t head, size_t to, size_t end, int new_mean)
{
    const cache_layer *l = r->l;
    size_t dim = l->shape.keys.head_dim;
    for (size_t t = to; t < end; t++)
        read_turned(r, head, t + r->n, r->scratch + (t - to) * dim);
    layer_encode_keys(l, r->s, r->has_means, head, to, end - to, r->scratch, new_mean);
    for (size_t t = to; t < end; t++) {
        tqkv_rows from = layer_row(l, r->s, VALUES, head, t + r->n);
        tqkv_rows into = layer_row(l, r->s, VALUES, head, t);
        memcpy(into.codes, from.codes, from.code_stride);
        memcpy(into.scales, from.scales, from.scale_stride);
    }
}

/* The tail from its copy: tokens from `coded` on. */
static void move_tail(const removal *r, size_t coded, size_t length)
{
    const cache_layer *l = r->l;
    uint32_t heads = l->shape.n_kv_heads;
    float x[TQKV_MAX_HEAD_DIM];
    sequence_layer before = *r->s;
    before.tail = r->tail;
    for (size_t to = coded; to < length; to++)
        for (uint32_t h = 0; h < heads; h++) {
            tqkv_to_f32(layer_half(l, &before, KEYS, h, to + r->n), TQKV_F16,
                        l->shape.keys.head_dim, x);
            if (r->rope)
                turn_back(r->rope, l->shape.keys.head_dim, r->n, x);
            to_halves(x, l->shape.keys.head_dim, layer_half(l, r->s, KEYS, h, to));
            memcpy(layer_half(l, r->s, VALUES, h, to), layer_half(l, &before, VALUES, h, to + r->n),
                   l->shape.values.head_dim * sizeof(uint16_t));
        }
}

static void remove_between(const removal *r)
{
    sequence_layer *s = r->s;
    size_t coded = new_coded(r), length = s->length - r->n;
    for (size_t to = r->first, end; to < coded; to = end) {
        size_t begin = page_begin(s, to);
        int is_begun = (begin > s->kept ? begin : s->kept) < to;
        end = page_end(s, to) < coded ? page_end(s, to) : coded;
        for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++)
            move_codes(r, h, to, end, !is_begun);
    }
    move_tail(r, highest(coded, r->first), length);
    s->length = length;
    s->coded = coded;
}

/* ---- all layers ---- */

static tqkv_status check(const tqkv_cache *c, const tqkv_sequence *sequence, size_t first,
                         size_t n, const tqkv_rope *rope)
{
    size_t length = sequence->layers[0].length;
    if (first > length || n > length - first)
        return TQKV_ERROR_ARGUMENT;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const cache_layer *l = &c->layers[i];
        const sequence_layer *s = &sequence->layers[i];
        if (s->length != length)
            return TQKV_ERROR_STATE;
        if (rope && !rope_is_valid(&rope[i], l->shape.keys.head_dim))
            return TQKV_ERROR_ARGUMENT;
        /* what the window reaches must be there, less what is removed */
        size_t window = (size_t)l->shape.window, left = length - n, kept = s->kept;
        if (window && kept > first)
            kept = kept > first + n ? kept - n : first;
        if (window && left && kept > (left > window ? left - window : 0))
            return TQKV_ERROR_GONE;
    }
    return TQKV_OK;
}

/* Makes all the pages of its own that a removal will write to: where all moves
 * alike, those whose keys are turned. */
static tqkv_status own_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t first,
                             size_t n, int turns)
{
    removal r = {.l = l, .s = s, .first = first, .n = n};
    size_t from = highest(first, s->kept);
    if (moves_alike(&r)) {
        if (!turns)
            return TQKV_OK;
        from = highest(from, highest(first, l->n_first) + n);
    }
    return from < s->coded ? layer_own_pages(c, l, s, from, s->coded) : TQKV_OK;
}

static tqkv_status remove_all(tqkv_cache *c, tqkv_sequence *sequence, size_t first, size_t n,
                              const tqkv_rope *rope)
{
    size_t most = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const cache_layer *l = &c->layers[i];
        tqkv_status status = own_pages(c, &c->layers[i], &sequence->layers[i], first, n,
                                       rope != NULL);
        if (status != TQKV_OK)
            return status;
        most = highest(most, l->n_tail * token_values(l));
    }
    uint16_t *tail = cache_allocate(c, most, sizeof *tail);
    if (!tail)
        return TQKV_ERROR_MEMORY;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        cache_layer *l = &c->layers[i];
        sequence_layer *s = &sequence->layers[i];
        removal r = {.l = l, .s = s, .rope = rope ? &rope[i] : NULL,
                     .has_means = c->page_means, .first = first, .n = n,
                     .scratch = sequence->scratch, .tail = tail};
        memcpy(tail, s->tail, l->n_tail * token_values(l) * sizeof *tail);
        (moves_alike(&r) ? remove_alike : remove_between)(&r);
        layer_drop_pages(c, l, s, s->coded);
    }
    cache_release(c, tail, most, sizeof *tail);
    return TQKV_OK;
}

tqkv_status tqkv_sequence_remove(tqkv_sequence *sequence, size_t first, size_t n_tokens,
                                 const tqkv_rope *rope)
{
    if (!sequence)
        return TQKV_ERROR_ARGUMENT;
    tqkv_cache *c = sequence->cache;
    pthread_rwlock_wrlock(&sequence->lock);
    tqkv_status status = check(c, sequence, first, n_tokens, rope);
    if (status == TQKV_OK && n_tokens)
        status = remove_all(c, sequence, first, n_tokens, rope);
    pthread_rwlock_unlock(&sequence->lock);
    return status;
}

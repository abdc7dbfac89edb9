/*
 * Removing tokens from the middle.
 *
 * What comes behind them moves up. Where that is everything that is kept in pages, rows stay
 * where they are and only the offset between positions and places changes. Otherwise rows
 * move from page to page, as records, with the means of the pages that they come from; a
 * page that has to hold several means becomes a mixed one. Keys that depend on their
 * position are decoded, turned and encoded again instead. Heads do all this in parallel.
 */
#include <math.h>
#include <string.h>

#include "cache/angles.h"
#include "cache/cache.h"
#include "page/page.h"

/* The removal of [first, first + n) from a layer. */
typedef struct removal {
    tqkv_cache *c;
    cache_layer *l;
    sequence_layer *s;
    const angle_table *angles; /* null: keys do not depend on their position */
    size_t first, n;
    float *scratch;            /* [heads][PAGE_TOKENS][the largest head_dim] */
    size_t head_floats;
    uint16_t *tail;            /* its tokens as they were: keys of all heads, then values */
    uint8_t *records;          /* [heads][N_OPERANDS][PAGE_TOKENS][record_bytes] */
    size_t record_bytes;       /* of the larger operand */
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
    layer_read(r->l, r->s, KEYS, head, token, x);
    if (r->angles)
        angles_turn(r->angles, x);
}

/* Whether n tokens are worth other threads' while. */
static int is_much(const removal *r, size_t n)
{
    return n * token_values(r->l) >= PARALLEL_VALUES;
}

/* Tokens that move into the first ones, which are in f16 by position. */
static void move_first(const removal *r)
{
    size_t left = r->s->length - r->n, end = left < r->l->n_first ? left : r->l->n_first;
    size_t n = end > r->first ? end - r->first : 0;
#pragma omp parallel for if (is_much(r, n))
    for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++)
        for (size_t to = r->first; to < end; to++) {
            float x[TQKV_MAX_HEAD_DIM];
            read_turned(r, h, to + r->n, x);
            to_halves(x, r->l->shape.keys.head_dim, layer_half(r->l, r->s, KEYS, h, to));
            layer_read(r->l, r->s, VALUES, h, to + r->n, x);
            to_halves(x, r->l->shape.values.head_dim, layer_half(r->l, r->s, VALUES, h, to));
        }
}

/* ---- where places stay ---- */

/* Turns the keys of one head and page where they are, coded tokens [first, end). */
static void turn_page(const removal *r, uint32_t head, size_t first, size_t end)
{
    size_t dim = r->l->shape.keys.head_dim;
    float *x = r->scratch + head * r->head_floats;
    for (size_t t = first; t < end; t++)
        read_turned(r, head, t, x + page_place(r->s, t) * dim);
    layer_encode(r->l, r->s, KEYS, head, first, end - first, x, TQKV_F32);
}

static void turn_codes(const removal *r, size_t first, size_t end)
{
    if (!r->angles || first >= end)
        return;
#pragma omp parallel for if (is_much(r, end - first))
    for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++)
        for (size_t t = first; t < end; t = page_end(r->s, t))
            turn_page(r, h, t, page_end(r->s, t) < end ? page_end(r->s, t) : end);
}

static void turn_tail(const removal *r, size_t first)
{
    if (!r->angles || first >= r->s->length)
        return;
#pragma omp parallel for if (is_much(r, r->s->length - first))
    for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++)
        for (size_t t = first; t < r->s->length; t++) {
            float x[TQKV_MAX_HEAD_DIM];
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
    s->kept = kept < s->coded ? kept : s->coded; /* pages begin anew with what is left */
    turn_codes(r, kept, s->coded);
    turn_tail(r, highest(highest(s->coded, r->first + r->n), r->l->n_first + r->n));
    s->offset += r->n;
    s->length -= r->n;
    s->coded = coded;
    s->kept = kept - r->n < coded ? kept - r->n : coded;
}

/* ---- where rows move ---- */

static uint8_t *record_at(const removal *r, uint32_t head, operand_kind kind, size_t place)
{
    size_t number = (head * N_OPERANDS + (size_t)kind) * PAGE_TOKENS + place;
    return r->records + number * r->record_bytes;
}

/* Whether the rows of an operand move as they are. */
static int keeps_codes(const removal *r, operand_kind kind)
{
    return kind == VALUES || !r->angles;
}

static size_t record_size(const removal *r, operand_kind kind)
{
    size_t bytes = 0;
    tqkv_page_record_bytes(format_of(r->l, kind), r->l->layouts[SEALED].n_means > 0, &bytes);
    return bytes;
}

/* What tokens [to, end) of a page are made of, from n further on: records, or turned keys. */
static void take_rows(const removal *r, uint32_t head, size_t to, size_t end)
{
    size_t dim = r->l->shape.keys.head_dim;
    float *x = r->scratch + head * r->head_floats;
    for (size_t t = to; t < end; t++) {
        size_t place = page_place(r->s, t), from = t + r->n;
        for (int k = KEYS; k < N_OPERANDS; k++) {
            operand_kind kind = (operand_kind)k;
            if (!keeps_codes(r, kind)) {
                read_turned(r, head, from, x + place * dim);
                continue;
            }
            tqkv_page page = layer_page(r->l, r->s, kind, head, from);
            tqkv_page_export(&page, page_place(r->s, from), record_at(r, head, kind, place),
                             record_size(r, kind));
        }
    }
}

/* Makes a head's page one of rows that are 0 and have chosen no mean. */
static void clear_rows(const tqkv_page *p)
{
    memset(p->rows.codes, 0, PAGE_TOKENS * p->rows.code_stride);
    memset(p->rows.scales, 0, PAGE_TOKENS * p->rows.scale_stride);
    if (p->n_means)
        memset(p->means, 0, p->n_means * mean_bytes(p->format.head_dim));
    if (p->numbers)
        memset(p->numbers, 0, NUMBER_BYTES);
}

/* Whether all records [place, end) find a place for their means; those that do are in. */
static int import_rows(const removal *r, const tqkv_page *page, operand_kind kind, uint32_t head,
                       size_t place, size_t end)
{
    int all = 1;
    for (size_t i = place; i < end; i++)
        all &= tqkv_page_import(page, i, record_at(r, head, kind, i), record_size(r, kind)) ==
               TQKV_OK;
    return all;
}

/* A row with more means than the page can have is quantised once more: decoded in a page of
 * its own, and written against the page's means. The formats are those of the page that it
 * comes from, so that none of this can fail. */
static void write_row(const removal *r, const tqkv_page *page, operand_kind kind, uint32_t head,
                      size_t place)
{
    enum { MOST_BYTES = PAGE_TOKENS * (TQKV_MAX_HEAD_DIM + 4 * sizeof(float)) +
                        TQKV_MAX_HEAD_DIM + MEAN_SCALE_BYTES };
    uint8_t memory[MOST_BYTES];
    float x[TQKV_MAX_HEAD_DIM];
    const float *balance = layer_balance(r->l, kind, head);
    tqkv_page own;
    tqkv_page_at(&page->format, 1, memory, &own);
    clear_rows(&own);
    tqkv_page_import(&own, 0, record_at(r, head, kind, place), record_size(r, kind));
    tqkv_page_read(&own, balance, 0, 1, TQKV_ORIGINAL, x, 0);
    tqkv_page_write(page, balance, place, x, TQKV_F32);
}

static void write_rows(const removal *r, const tqkv_page *page, operand_kind kind, uint32_t head,
                       size_t place, size_t end)
{
    for (size_t i = place; i < end; i++)
        if (tqkv_page_import(page, i, record_at(r, head, kind, i), record_size(r, kind)) != TQKV_OK)
            write_row(r, page, kind, head, i);
}

/* Puts what was taken into the page; 0 if it has too few means for that. */
static int put_rows(const removal *r, uint32_t head, size_t to, size_t end, int is_last_try)
{
    size_t place = page_place(r->s, to), place_end = place + (end - to);
    int all = 1;
    for (int k = KEYS; k < N_OPERANDS; k++) {
        operand_kind kind = (operand_kind)k;
        tqkv_page page = layer_page(r->l, r->s, kind, head, to);
        if (!keeps_codes(r, kind))
            layer_encode(r->l, r->s, kind, head, to, end - to, r->scratch + head * r->head_floats,
                         TQKV_F32);
        else if (is_last_try)
            write_rows(r, &page, kind, head, place, place_end);
        else
            all &= import_rows(r, &page, kind, head, place, place_end);
    }
    return all;
}

/* Rows [to, end) of one page of all heads. */
static void move_page(const removal *r, size_t to, size_t end)
{
    uint32_t heads = r->l->shape.n_kv_heads;
    int all = 1, is_new = !page_has_before(r->s, to);
#pragma omp parallel for reduction(&& : all) if (is_much(r, end - to))
    for (uint32_t h = 0; h < heads; h++) {
        take_rows(r, h, to, end);
        for (int k = KEYS; is_new && k < N_OPERANDS; k++) {
            tqkv_page page = layer_page(r->l, r->s, (operand_kind)k, h, to);
            clear_rows(&page);
        }
        all = put_rows(r, h, to, end, 0) && all;
    }
    if (all)
        return;
    layer_mix_page(r->c, r->l, r->s, to);
#pragma omp parallel for if (is_much(r, end - to))
    for (uint32_t h = 0; h < heads; h++)
        put_rows(r, h, to, end, 1);
}

/* ---- the tail ---- */

static void copy_tail(const removal *r)
{
    uint16_t *to = r->tail;
    for (size_t t = r->s->coded; t < r->s->length; t++)
        to = layer_copy_halves(r->l, r->s, t, to);
}

/* One head's row of a token from the tail's copy, which began with token old_coded. */
static void move_tail_row(const removal *r, uint32_t head, size_t to, size_t old_coded)
{
    const cache_layer *l = r->l;
    size_t key_dim = l->shape.keys.head_dim, value_dim = l->shape.values.head_dim;
    const uint16_t *token = r->tail + (to + r->n - old_coded) * token_values(l);
    float x[TQKV_MAX_HEAD_DIM];
    tqkv_to_f32(token + head * key_dim, TQKV_F16, key_dim, x);
    if (r->angles)
        angles_turn(r->angles, x);
    to_halves(x, key_dim, layer_half(l, r->s, KEYS, head, to));
    memcpy(layer_half(l, r->s, VALUES, head, to),
           token + l->shape.n_kv_heads * key_dim + head * value_dim, value_dim * sizeof *token);
}

static void move_tail(const removal *r, size_t coded, size_t length, size_t old_coded)
{
    size_t n = length > coded ? length - coded : 0;
#pragma omp parallel for if (is_much(r, n))
    for (uint32_t h = 0; h < r->l->shape.n_kv_heads; h++)
        for (size_t to = coded; to < length; to++)
            move_tail_row(r, h, to, old_coded);
}

static void remove_between(const removal *r)
{
    sequence_layer *s = r->s;
    size_t coded = new_coded(r), length = s->length - r->n, old_coded = s->coded;
    copy_tail(r);
    for (size_t to = r->first, end; to < coded; to = end) {
        end = page_end(s, to) < coded ? page_end(s, to) : coded;
        move_page(r, to, end);
    }
    s->coded = coded; /* what is behind it is no code any more */
    move_tail(r, highest(coded, r->first), length, old_coded);
    s->length = length;
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

/* Makes all the pages of its own that a removal will write to. */
static tqkv_status own_pages(tqkv_cache *c, cache_layer *l, sequence_layer *s, size_t first,
                             size_t n, int turns)
{
    removal r = {.l = l, .s = s, .first = first, .n = n};
    size_t from = highest(first, s->kept), length = s->length - n;
    page_needs needs = {.first_end = first < l->n_first ? first_tokens(l, s->length) : 0};
    if (moves_alike(&r)) { /* only turned keys are written */
        from = highest(from, highest(first, l->n_first) + n);
        if (turns && from < s->coded)
            needs = (page_needs){from, s->coded, 0, 0, needs.first_end, 0};
        if (turns && s->coded < s->length) {
            needs.from = s->coded;
            needs.to = s->length;
        }
    } else {
        size_t coded = new_coded(&r);
        if (from < coded) {
            needs.first = from;
            needs.end = coded;
            needs.may_mix = l->layouts[SEALED].n_means > 0;
        }
        if (coded < length) {
            needs.from = highest(coded, first);
            needs.to = length > needs.from ? length : needs.from;
        }
    }
    return layer_own_pages(c, l, s, &needs);
}

/* Room for what a removal takes from the layers while rows move. */
typedef struct buffers {
    size_t halves, record_bytes, record_total;
    uint16_t *tail;
    uint8_t *records;
} buffers;

static tqkv_status make_buffers(tqkv_cache *c, const tqkv_sequence *sequence, buffers *b)
{
    *b = (buffers){0};
    uint32_t heads = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const cache_layer *l = &c->layers[i];
        const sequence_layer *s = &sequence->layers[i];
        removal r = {.l = (cache_layer *)l};
        b->halves = highest(b->halves, tail_tokens(s->length, s->coded) * token_values(l));
        b->record_bytes = highest(b->record_bytes,
                                  highest(record_size(&r, KEYS), record_size(&r, VALUES)));
        heads = (uint32_t)highest(heads, l->shape.n_kv_heads);
    }
    b->record_total = (size_t)heads * N_OPERANDS * PAGE_TOKENS * b->record_bytes;
    b->tail = cache_allocate(c, b->halves, sizeof *b->tail);
    b->records = cache_allocate(c, b->record_total, 1);
    return b->tail && b->records ? TQKV_OK : TQKV_ERROR_MEMORY;
}

static void free_buffers(tqkv_cache *c, buffers *b)
{
    cache_release(c, b->tail, b->halves, sizeof *b->tail);
    cache_release(c, b->records, b->record_total, 1);
}

static void remove_from_layer(removal *r, const tqkv_rope *rope)
{
    angle_table angles;
    if (rope)
        angles_fill(&angles, rope, r->l->shape.keys.head_dim, r->n);
    r->angles = rope ? &angles : NULL;
    (moves_alike(r) ? remove_alike : remove_between)(r);
    layer_drop_pages(r->c, r->l, r->s);
}

static tqkv_status remove_all(tqkv_cache *c, tqkv_sequence *sequence, size_t first, size_t n,
                              const tqkv_rope *rope)
{
    buffers b;
    tqkv_status status = make_buffers(c, sequence, &b);
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++)
        status = own_pages(c, &c->layers[i], &sequence->layers[i], first, n, rope != NULL);
    for (uint32_t i = 0; status == TQKV_OK && i < c->n_layers; i++) {
        removal r = {.c = c, .l = &c->layers[i], .s = &sequence->layers[i], .first = first,
                     .n = n, .scratch = sequence->scratch, .head_floats = sequence->head_floats,
                     .tail = b.tail, .records = b.records, .record_bytes = b.record_bytes};
        remove_from_layer(&r, rope ? &rope[i] : NULL);
    }
    for (uint32_t i = 0; i < c->n_layers; i++)
        layer_unreserve(c, &c->layers[i], &sequence->layers[i]);
    free_buffers(c, &b);
    return status;
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

/* A random attention call over pages of all kinds, with its reference. */
#ifndef TQKV_TESTS_PAGE_CASE_H
#define TQKV_TESTS_PAGE_CASE_H

#include "reference.h"
#include "tqkv_page.h"

enum { PAGE = TQKV_PAGE_TOKENS };

/* Which kind each page is. */
typedef enum page_pattern {
    ALL_SEALED, LAST_STAGED, ALTERNATING, ALL_STAGED, WITH_MIXED, RANDOM
} page_pattern;

/* What rows hold. */
typedef enum row_data {
    NEAR_A_MEAN, SINK_FIRST, ALL_EQUAL, ONE_LOUD, LARGE_MEAN, NO_MEAN_AT_ALL
} row_data;

typedef struct page_shape {
    const char *keys, *values;
    uint32_t key_dim, value_dim, n_kv_heads, group, n_queries;
    size_t n_tokens, first_slot;
    page_pattern pattern;
    row_data data;
    int is_ring, has_balance, is_early; /* sealed with half of its rows */
    uint64_t seed;
} page_shape;

typedef struct page_case {
    tqkv_attention a;
    tqkv_tokens set;
    tqkv_page_kind staged, mixed;
    reference r;
    float *queries, *keys, *values, *balances, *out, *max, *sum;
    uint64_t *positions;
    uint32_t *pages;
    uint8_t *memory[3];
    size_t n_pages;
} page_case;

/* Bytes of one head's part of a page of a kind: 1 and 4 means, or f16. */
static inline size_t head_part(const char *name, uint32_t dim, int kind)
{
    size_t bytes;
    if (kind == 2)
        return (size_t)PAGE * dim * 2;
    tqkv_format f = test_format(name, dim);
    assert_int_equal(tqkv_page_bytes(&f, kind ? 4 : 1, &bytes), TQKV_OK);
    return bytes;
}

/* [page][head][keys, then values], without gaps. */
static inline tqkv_operand page_operand(const page_shape *s, const page_case *c, int kind,
                                        int is_value)
{
    const char *name = is_value ? s->values : s->keys;
    uint32_t dim = is_value ? s->value_dim : s->key_dim;
    size_t keys = head_part(s->keys, s->key_dim, kind);
    size_t head = keys + head_part(s->values, s->value_dim, kind), page = head * s->n_kv_heads;
    uint8_t *base = c->memory[kind] + (is_value ? keys : 0);
    tqkv_operand o = {.head = {head, head, head, head}, .page = {page, page, page, page}};
    if (kind == 2) {
        o.format.head_dim = (uint16_t)dim;
        o.type = TQKV_F16;
        o.rows.codes = base;
        o.rows.code_stride = 2u * dim;
        return o;
    }
    tqkv_format f = test_format(name, dim);
    tqkv_page at;
    assert_int_equal(tqkv_page_at(&f, kind ? 4 : 1, base, &at), TQKV_OK);
    o.format = f;
    o.rows = at.rows;
    o.means = at.means;
    o.n_means = at.n_means;
    o.numbers = at.numbers;
    return o;
}

/* One head's page where the operand has it. */
static inline tqkv_page page_of(const tqkv_operand *o, size_t number, size_t head)
{
    tqkv_page p = {.format = o->format, .rows = o->rows, .n_means = o->n_means};
    p.rows.codes += number * o->page.codes + head * o->head.codes;
    p.rows.scales += number * o->page.scales + head * o->head.scales;
    p.means = (uint8_t *)o->means + number * o->page.means + head * o->head.means;
    if (o->numbers)
        p.numbers = (uint8_t *)o->numbers + number * o->page.numbers + head * o->head.numbers;
    return p;
}

static inline void fill_rows(const page_shape *s, float *x, uint32_t dim, uint64_t seed)
{
    size_t row = (size_t)s->n_kv_heads * dim, n = s->n_tokens * row;
    float *mean = test_rows(seed + 5, row);
    for (size_t i = 0; i < n; i++) {
        float m = mean[i % row], noise = x[i];
        size_t t = i / row;
        const float data[] = {
            [NEAR_A_MEAN] = noise * .5f + m, [SINK_FIRST] = t ? noise + m : 1e-3f * noise,
            [ALL_EQUAL] = m, [ONE_LOUD] = i % dim == 3 ? 30 + noise : .5f * noise,
            [LARGE_MEAN] = noise * 1e-3f + m, [NO_MEAN_AT_ALL] = noise};
        x[i] = data[s->data];
    }
    free(mean);
}

/* Slot of the token, its page's place in the table, and its place in the page. */
static inline size_t slot_in(const page_shape *s, const page_case *c, size_t token)
{
    size_t slot = s->first_slot + token;
    return s->is_ring ? slot % (c->n_pages * PAGE) : slot;
}

static inline int kind_of(const page_shape *s, size_t page, size_t n_pages, uint64_t *seed)
{
    switch (s->pattern) {
    case ALL_SEALED: return 0;
    case LAST_STAGED: return page + 1 == n_pages ? 2 : 0;
    case ALTERNATING: return page % 2 ? 2 : 0;
    case ALL_STAGED: return 2;
    case WITH_MIXED: return page % 2;
    default: return (int)(test_random(seed) % 3);
    }
}

static inline void page_case_make(page_case *c, const page_shape *s)
{
    uint64_t seed = s->seed + 31;
    size_t rows = (size_t)s->n_queries * s->n_kv_heads * s->group, heads = s->n_kv_heads;
    memset(c, 0, sizeof *c);
    c->n_pages = (s->first_slot + s->n_tokens + PAGE - 1) / PAGE;
    c->queries = test_rows(seed + 1, rows * s->key_dim);
    c->keys = test_rows(seed + 2, s->n_tokens * heads * s->key_dim);
    c->values = test_rows(seed + 3, s->n_tokens * heads * s->value_dim);
    fill_rows(s, c->keys, s->key_dim, seed);
    fill_rows(s, c->values, s->value_dim, seed + 9);
    c->balances = test_rows(seed + 4, heads * s->key_dim);
    for (size_t i = 0; i < heads * s->key_dim; i++)
        c->balances[i] = expf(.5f * c->balances[i]);
    c->out = calloc(rows * s->value_dim, sizeof(float));
    c->max = calloc(rows, sizeof(float));
    c->sum = calloc(rows, sizeof(float));
    c->positions = malloc(s->n_tokens * sizeof *c->positions);
    for (size_t t = 0; t < s->n_tokens; t++)
        c->positions[t] = t;
    for (int kind = 0; kind < 3; kind++)
        c->memory[kind] = calloc(c->n_pages * heads, head_part(s->keys, s->key_dim, kind) +
                                                         head_part(s->values, s->value_dim, kind));
    c->set.keys = page_operand(s, c, 0, 0);
    c->set.values = page_operand(s, c, 0, 1);
    c->mixed = (tqkv_page_kind){page_operand(s, c, 1, 0), page_operand(s, c, 1, 1),
                                (uint32_t)c->n_pages};
    c->staged = (tqkv_page_kind){page_operand(s, c, 2, 0), page_operand(s, c, 2, 1),
                                 (uint32_t)c->n_pages};
    c->pages = malloc(c->n_pages * sizeof *c->pages);
    for (size_t i = 0; i < c->n_pages; i++) { /* numbers in another order than pages */
        static const uint32_t bits[] = {0, TQKV_PAGE_MIXED, TQKV_PAGE_STAGED};
        int kind = kind_of(s, i, c->n_pages, &seed);
        c->pages[i] = (uint32_t)((i * 7 + 3) % c->n_pages) | bits[kind];
        if (c->n_pages % 7 == 0)
            c->pages[i] = (uint32_t)(c->n_pages - 1 - i) | bits[kind];
    }
    c->set.n_tokens = s->n_tokens;
    c->set.first_slot = s->first_slot;
    c->set.capacity = s->is_ring ? c->n_pages * PAGE : 0;
    c->set.pages = c->pages;
    c->set.page_size = PAGE;
    c->set.n_pages = (uint32_t)c->n_pages;
    c->set.staged = &c->staged;
    c->set.mixed = &c->mixed;
    c->set.keys.balances = s->has_balance ? c->balances : NULL;
    c->a = (tqkv_attention){
        .n_queries = s->n_queries, .n_heads = s->n_kv_heads * s->group, .n_kv_heads = s->n_kv_heads,
        .queries = c->queries, .scale = 1 / sqrtf((float)s->key_dim), .sets = &c->set, .n_sets = 1,
        .position = s->n_tokens > s->n_queries ? s->n_tokens - s->n_queries : 0, .causal = 1};
}

/* A mixed page: rows of four pages, each with a mean of its own. */
static inline void mix(const tqkv_page *to, const float *balance, const float *rows, size_t dim,
                       uint64_t present)
{
    size_t size, bytes;
    tqkv_page own;
    assert_int_equal(tqkv_page_bytes(&to->format, 1, &bytes), TQKV_OK);
    assert_int_equal(tqkv_page_record_bytes(&to->format, 1, &size), TQKV_OK);
    uint8_t *memory = calloc(1, bytes), *record = malloc(size);
    assert_int_equal(tqkv_page_at(&to->format, 1, memory, &own), TQKV_OK);
    for (unsigned part = 0; part < 4; part++) {
        uint64_t mine = present & (0x1111111111111111u << part);
        if (!mine)
            continue;
        assert_int_equal(tqkv_page_seal(&own, balance, rows, TQKV_F32, dim, mine), TQKV_OK);
        for (size_t r = 0; r < PAGE; r++)
            if (mine >> r & 1) {
                assert_int_equal(tqkv_page_export(&own, r, record, size), TQKV_OK);
                assert_int_equal(tqkv_page_import(to, r, record, size), TQKV_OK);
            }
    }
    free(memory);
    free(record);
}

/* One head's rows of the tokens that lie in a page of the table; x becomes what they decode
 * to. */
static inline void store_page(const page_shape *s, page_case *c, size_t page, size_t head,
                              int is_value)
{
    uint32_t entry = c->pages[page], number = entry & 0x3FFFFFFF;
    size_t dim = is_value ? s->value_dim : s->key_dim;
    float *x = is_value ? c->values : c->keys, rows[PAGE * TQKV_MAX_HEAD_DIM] = {0};
    const float *balance = is_value || !s->has_balance ? NULL : c->balances + head * dim;
    size_t token[PAGE];
    uint64_t present = 0;
    for (size_t t = 0; t < s->n_tokens; t++)
        if (slot_in(s, c, t) / PAGE == page) {
            size_t place = slot_in(s, c, t) % PAGE;
            present |= (uint64_t)1 << place;
            token[place] = t;
            memcpy(rows + place * dim, x + (t * s->n_kv_heads + head) * dim, dim * sizeof *x);
        }
    const tqkv_page_kind *kind = entry & TQKV_PAGE_STAGED ? &c->staged : &c->mixed;
    const tqkv_operand *o = is_value ? &kind->values : &kind->keys;
    if (!(entry & (TQKV_PAGE_STAGED | TQKV_PAGE_MIXED)))
        o = is_value ? &c->set.values : &c->set.keys;
    if (entry & TQKV_PAGE_STAGED) {
        uint8_t *to = o->rows.codes + number * o->page.codes + head * o->head.codes;
        assert_int_equal(tqkv_from_f32(rows, PAGE * dim, to, TQKV_F16), TQKV_OK);
        assert_int_equal(tqkv_to_f32(to, TQKV_F16, PAGE * dim, rows), TQKV_OK);
    } else if (present) {
        tqkv_page p = page_of(o, number, head);
        uint64_t early = s->is_early ? present & 0x00FF00FFFF00FFFF : present;
        if (entry & TQKV_PAGE_MIXED)
            mix(&p, balance, rows, dim, present);
        else if (early)
            assert_int_equal(tqkv_page_seal(&p, balance, rows, TQKV_F32, dim, early), TQKV_OK);
        for (size_t r = 0; r < PAGE && s->is_early && !(entry & TQKV_PAGE_MIXED); r++)
            if ((present & ~early) >> r & 1)
                assert_int_equal(tqkv_page_write(&p, balance, r, rows + r * dim, TQKV_F32),
                                 TQKV_OK);
        assert_int_equal(tqkv_page_read(&p, balance, 0, PAGE, TQKV_ORIGINAL, rows, dim), TQKV_OK);
    }
    for (size_t place = 0; place < PAGE; place++)
        if (present >> place & 1)
            memcpy(x + (token[place] * s->n_kv_heads + head) * dim, rows + place * dim,
                   dim * sizeof *x);
}

static inline void page_case_store(page_case *c, const page_shape *s)
{
    for (size_t page = 0; page < c->n_pages; page++)
        for (size_t h = 0; h < s->n_kv_heads; h++) {
            store_page(s, c, page, h, 0);
            store_page(s, c, page, h, 1);
        }
    c->r = (reference){&c->a, c->queries, c->keys, c->values, c->positions, s->n_tokens};
}

static inline void page_case_free(page_case *c)
{
    void *memory[] = {c->queries, c->keys, c->values, c->balances, c->out, c->max, c->sum,
                      c->positions, c->pages, c->memory[0], c->memory[1], c->memory[2]};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
}

static inline tqkv_status page_case_run(page_case *c, const tqkv_executor *e)
{
    size_t bytes;
    tqkv_partial result = {c->out, c->max, c->sum};
    tqkv_status status = tqkv_attend_workspace(&c->a, e, &bytes);
    void *workspace = status == TQKV_OK ? malloc(bytes) : NULL;
    if (status == TQKV_OK)
        status = tqkv_attend(&c->a, &result, e, workspace, bytes);
    free(workspace);
    return status;
}

/* Error relative to the output's norm, over all rows. */
static inline double page_case_error(const page_case *c)
{
    size_t vd = c->set.values.format.head_dim;
    double error = 0, size = 0, out[TQKV_MAX_HEAD_DIM], max, sum;
    for (uint32_t i = 0; i < c->a.n_queries; i++)
        for (uint32_t h = 0; h < c->a.n_heads; h++) {
            reference_row(&c->r, i, h, out, &max, &sum);
            for (size_t d = 0; d < vd; d++) {
                double x = c->out[((size_t)i * c->a.n_heads + h) * vd + d] - out[d];
                error += x * x;
                size += out[d] * out[d];
            }
        }
    return size > 0 ? sqrt(error / size) : error > 0 ? INFINITY : 0;
}

#endif

/* A random attention call of any shape, with its reference. */
#ifndef TQKV_TESTS_ATTEND_CASE_H
#define TQKV_TESTS_ATTEND_CASE_H

#include "reference.h"

/* What to build; zeros mean the plainest. */
typedef struct shape {
    const char *keys, *values; /* format names; "f32", "f16" or "bf16" */
    uint32_t key_dim, value_dim;
    uint32_t n_kv_heads, group, n_queries;
    size_t n_tokens;
    size_t page_size;  /* pages in shuffled order */
    size_t first_slot; /* in a ring of n_tokens + 5 slots, or pages for them */
    int is_ring;
    size_t slots_multiple; /* slots of a head are a multiple of it; 0: of 1 */
    int is_balanced;   /* keys */
    float key_size, value_size; /* factors of N(0,1); 0 is 1 */
    int scales_vary;   /* over 6 orders of magnitude, from token to token */
    uint64_t seed;
} shape;

typedef struct attend_case {
    tqkv_attention a;
    tqkv_tokens set;
    reference r;
    float *queries, *keys, *values; /* originals, then what decoding gives */
    uint64_t *positions;
    uint8_t *key_memory, *value_memory;
    uint32_t *pages;
    float *balances;
    float *out, *max, *sum;
} attend_case;

static inline int plain_type(const char *name)
{
    return !strcmp(name, "f32")    ? TQKV_F32
           : !strcmp(name, "f16")  ? TQKV_F16
           : !strcmp(name, "bf16") ? TQKV_BF16
                                   : -1;
}

static inline size_t slots_of(const shape *s)
{
    size_t slots = s->is_ring ? s->n_tokens + 5 : s->first_slot + s->n_tokens;
    size_t multiple = s->page_size ? s->page_size : s->slots_multiple ? s->slots_multiple : 1;
    return (slots + multiple - 1) / multiple * multiple;
}

/* Where a token lies. */
static inline size_t slot_of(const shape *s, size_t token)
{
    size_t slot = s->first_slot + token;
    return s->is_ring && slot >= slots_of(s) ? slot - slots_of(s) : slot;
}

/* Lays out an operand: [page or 1][head][slot], codes and scales apart. */
static inline void make_operand(const shape *s, const char *name, uint32_t dim, tqkv_operand *o,
                                uint8_t **memory)
{
    size_t code = dim * 4, scale = 0, slots = slots_of(s);
    int type = plain_type(name);
    memset(o, 0, sizeof *o);
    if (type < 0) {
        o->format = test_format(name, dim);
        assert_int_equal(tqkv_format_code_bytes(&o->format, &code), TQKV_OK);
        assert_int_equal(tqkv_format_scale_bytes(&o->format, &scale), TQKV_OK);
    } else {
        o->format.head_dim = (uint16_t)dim;
        o->type = (uint8_t)type;
        code = dim * (type == TQKV_F32 ? 4u : 2u);
    }
    size_t per_head = s->page_size ? s->page_size : slots;
    size_t n_pages = s->page_size ? slots / s->page_size : 1;
    size_t rows = n_pages * s->n_kv_heads * per_head;
    /* exactly as long as it has to be, so that sanitizers see what reads on */
    *memory = malloc(rows * (code + scale));
    assert_non_null(*memory);
    o->rows = (tqkv_rows){*memory, *memory + rows * code, code, scale};
    if (!scale)
        o->rows.scales = NULL;
    o->head = (tqkv_strides){per_head * code, per_head * scale, 0, 0};
    o->page = (tqkv_strides){s->n_kv_heads * o->head.codes, s->n_kv_heads * o->head.scales, 0, 0};
}

/* One row of one head. */
static inline tqkv_rows row_at(const shape *s, const attend_case *c, const tqkv_operand *o,
                               size_t head, size_t token)
{
    size_t slot = slot_of(s, token), page = 0, place = slot;
    if (s->page_size) {
        page = c->pages[slot / s->page_size];
        place = slot % s->page_size;
    }
    tqkv_rows r = o->rows;
    r.codes += page * o->page.codes + head * o->head.codes + place * r.code_stride;
    if (r.scales)
        r.scales += page * o->page.scales + head * o->head.scales + place * r.scale_stride;
    return r;
}

static inline void store_row(const shape *s, const attend_case *c, const tqkv_operand *o,
                             const float *balance, size_t head, size_t token, float *x)
{
    tqkv_rows r = row_at(s, c, o, head, token);
    size_t dim = o->format.head_dim;
    if (!o->format.codebook) {
        assert_int_equal(tqkv_from_f32(x, dim, r.codes, (tqkv_type)o->type), TQKV_OK);
        assert_int_equal(tqkv_to_f32(r.codes, (tqkv_type)o->type, dim, x), TQKV_OK);
        return;
    }
    assert_int_equal(tqkv_encode(&o->format, balance, x, TQKV_F32, 0, 1, &r), TQKV_OK);
    assert_int_equal(tqkv_decode(&o->format, balance, &r, 1, TQKV_ORIGINAL, x, 0), TQKV_OK);
}

static inline void make_balances(const shape *s, attend_case *c, uint64_t *seed)
{
    size_t n = (size_t)s->n_kv_heads * s->key_dim;
    c->balances = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        c->balances[i] = expf(.5f * test_gaussian(seed));
}

static inline void store_keys(const shape *s, attend_case *c)
{
    for (size_t h = 0; h < s->n_kv_heads; h++)
        for (size_t t = 0; t < s->n_tokens; t++)
            store_row(s, c, &c->set.keys, c->balances ? c->balances + h * s->key_dim : NULL, h, t,
                      c->keys + (t * s->n_kv_heads + h) * s->key_dim);
}

static inline void make_pages(const shape *s, attend_case *c, uint64_t *seed)
{
    size_t n = slots_of(s) / s->page_size;
    c->pages = malloc(n * sizeof *c->pages);
    for (size_t i = 0; i < n; i++)
        c->pages[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = test_random(seed) % i;
        uint32_t page = c->pages[i - 1];
        c->pages[i - 1] = c->pages[j];
        c->pages[j] = page;
    }
    c->set.pages = c->pages;
    c->set.page_size = s->page_size;
    c->set.n_pages = (uint32_t)n;
    c->set.capacity = s->is_ring ? slots_of(s) : 0;
}

/* Queries at the last positions, scale 1 / sqrt(key_dim); keys, values and all
 * else from the seed. Change c->a afterwards as the test wants. */
static inline void case_make(attend_case *c, const shape *s)
{
    uint64_t seed = s->seed + 17;
    size_t rows = (size_t)s->n_queries * s->n_kv_heads * s->group;
    memset(c, 0, sizeof *c);
    c->queries = test_rows(seed + 1, rows * s->key_dim + 1);
    c->keys = test_rows(seed + 2, s->n_tokens * s->n_kv_heads * s->key_dim + 1);
    c->values = test_rows(seed + 3, s->n_tokens * s->n_kv_heads * s->value_dim + 1);
    c->out = calloc(rows * s->value_dim + 1, sizeof(float));
    c->max = calloc(rows + 1, sizeof(float));
    c->sum = calloc(rows + 1, sizeof(float));
    c->positions = malloc((s->n_tokens + 1) * sizeof *c->positions);
    for (size_t t = 0; t < s->n_tokens; t++) {
        float k = s->key_size ? s->key_size : 1, v = s->value_size ? s->value_size : 1;
        if (s->scales_vary)
            v *= powf(10, (float)(test_random(&seed) % 7) - 3);
        for (size_t i = 0; i < (size_t)s->n_kv_heads * s->key_dim; i++)
            c->keys[t * s->n_kv_heads * s->key_dim + i] *= k;
        for (size_t i = 0; i < (size_t)s->n_kv_heads * s->value_dim; i++)
            c->values[t * s->n_kv_heads * s->value_dim + i] *= v;
        c->positions[t] = t;
    }
    if (s->page_size)
        make_pages(s, c, &seed);
    else
        c->set.capacity = s->is_ring ? slots_of(s) : 0;
    if (s->is_balanced)
        make_balances(s, c, &seed);
    c->set.n_tokens = s->n_tokens;
    c->set.first_slot = s->first_slot;
    make_operand(s, s->keys, s->key_dim, &c->set.keys, &c->key_memory);
    make_operand(s, s->values, s->value_dim, &c->set.values, &c->value_memory);
    c->set.keys.balances = c->balances;
    c->a = (tqkv_attention){
        .n_queries = s->n_queries, .n_heads = s->n_kv_heads * s->group,
        .n_kv_heads = s->n_kv_heads, .queries = c->queries,
        .position = s->n_tokens > s->n_queries ? s->n_tokens - s->n_queries : 0,
        .scale = 1 / sqrtf((float)s->key_dim), .sets = &c->set, .n_sets = 1};
}

/* Encodes; to be called once keys and values are as the test wants them. */
static inline void case_store(attend_case *c, const shape *s)
{
    store_keys(s, c);
    for (size_t t = 0; t < s->n_tokens; t++)
        for (size_t h = 0; h < s->n_kv_heads; h++)
            store_row(s, c, &c->set.values, NULL, h, t,
                      c->values + (t * s->n_kv_heads + h) * s->value_dim);
    c->r = (reference){&c->a, c->queries, c->keys, c->values, c->positions, s->n_tokens};
}

static inline void case_free(attend_case *c)
{
    void *memory[] = {c->queries, c->keys, c->values, c->positions, c->key_memory,
                      c->value_memory, c->pages, c->balances, c->out, c->max, c->sum};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
}

static inline tqkv_status case_run(attend_case *c, const tqkv_executor *e)
{
    size_t bytes;
    tqkv_partial result = {c->out, c->max, c->sum};
    tqkv_status status = tqkv_attend_workspace(&c->a, e, &bytes);
    if (status != TQKV_OK)
        return status;
    void *workspace = malloc(bytes); /* misaligned in sanitized runs as malloc is not */
    assert_non_null(workspace);
    status = tqkv_attend(&c->a, &result, e, workspace, bytes);
    free(workspace);
    return status;
}

/* Error over all rows, and the largest of one row, relative; checks max and sum
 * on the way. */
static inline double case_error(const attend_case *c, double *worst)
{
    const tqkv_attention *a = &c->a;
    size_t vd = a->sets[0].values.format.head_dim;
    double error = 0, size = 0, out[TQKV_MAX_HEAD_DIM], max, sum;
    *worst = 0;
    for (uint32_t i = 0; i < a->n_queries; i++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            size_t row = (size_t)i * a->n_heads + h;
            double e = 0, n = 0;
            reference_row(&c->r, i, h, out, &max, &sum);
            for (size_t d = 0; d < vd; d++) {
                double x = c->out[row * vd + d] - out[d];
                assert_true(isfinite(c->out[row * vd + d]));
                e += x * x;
                n += out[d] * out[d];
            }
            if (sum > 0) /* the log of the sum of exp, to a logit's error */
                assert_true(fabs(log(c->sum[row]) + c->max[row] - log(sum) - max) < .05);
            else
                assert_true(c->sum[row] == 0 && c->max[row] == -INFINITY && e == 0);
            error += e;
            size += n;
            if (n > 0 && sqrt(e / n) > *worst)
                *worst = sqrt(e / n);
        }
    return size > 0 ? sqrt(error / size) : error > 0 ? INFINITY : 0;
}

#endif

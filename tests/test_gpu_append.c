/* A step's rows appended to a cache are those of tqkv_encode, each in its place, and nothing
 * else changes. */
#include "gpu_case.h"

enum { SEQUENCES = 3, HEADS = 2, MOST = 50, PAGE = 16, PAGES = 5 };

typedef struct layout {
    const char *keys, *values;
    uint32_t key_dim, value_dim, n_positions;
    int is_balanced, has_lengths, has_pages, is_ring;
    tqkv_type type;
} layout;

typedef struct side {
    tqkv_format f;
    size_t code, scale, rows, bytes;
    uint8_t *memory; /* codes of all rows, then scales */
    float *x;
    tqkv_buffer *buffer, *numbers;
} side;

static size_t slots_of(const layout *l)
{
    return l->has_pages ? PAGE : l->is_ring ? 56 : MOST;
}

static void side_make(const gpu_case *g, const layout *l, side *s, const char *name, uint32_t dim,
                      uint64_t seed, tqkv_gpu_operand *o)
{
    size_t n = (size_t)SEQUENCES * l->n_positions * HEADS * dim, slots = slots_of(l);
    s->f = test_format(name, dim);
    tqkv_format_code_bytes(&s->f, &s->code);
    tqkv_format_scale_bytes(&s->f, &s->scale);
    s->rows = (l->has_pages ? (size_t)SEQUENCES * PAGES : SEQUENCES) * HEADS * slots;
    s->bytes = s->rows * (s->code + s->scale);
    s->memory = malloc(s->bytes);
    memset(s->memory, 0xA5, s->bytes);
    s->buffer = gpu_buffer(g, s->memory, s->bytes);
    s->x = test_rows(seed, n);
    uint8_t *numbers = malloc(n * 4);
    assert_int_equal(tqkv_from_f32(s->x, n, numbers, l->type), TQKV_OK);
    assert_int_equal(tqkv_to_f32(numbers, l->type, n, s->x), TQKV_OK);
    s->numbers = gpu_buffer(g, numbers, n * (l->type == TQKV_F32 ? 4 : 2));
    free(numbers);
    *o = (tqkv_gpu_operand){.format = s->f};
    o->rows = (tqkv_gpu_rows){s->buffer, s->buffer, 0, s->rows * s->code, s->code, s->scale};
    o->head = (tqkv_gpu_strides){slots * s->code, slots * s->scale, 0};
    o->page = (tqkv_gpu_strides){HEADS * o->head.codes, HEADS * o->head.scales, 0};
    o->sequence = o->page;
}

/* What the row of a token of a sequence and head has to be, into s->memory. */
static void expect(const layout *l, side *s, const float *balance, const uint32_t *pages,
                   uint32_t sequence, uint32_t token, uint32_t head, const float *x)
{
    size_t slot = token + (l->is_ring ? 44 : 0), slots = slots_of(l), group = sequence;
    if (l->is_ring)
        slot %= 56;
    if (l->has_pages) {
        group = pages[sequence * PAGES + slot / PAGE];
        slot %= PAGE;
    }
    size_t row = (group * HEADS + head) * slots + slot;
    uint8_t *scales = s->memory + s->rows * s->code;
    tqkv_rows r = {s->memory + row * s->code, scales + row * s->scale, s->code, s->scale};
    assert_int_equal(tqkv_encode(&s->f, balance, x, TQKV_F32, 0, 1, &r), TQKV_OK);
}

static void check_layout(const gpu_case *g, const layout *l)
{
    static const uint32_t lengths[SEQUENCES] = {MOST, 2, 33};
    side k, v;
    uint32_t pages[SEQUENCES * PAGES];
    tqkv_buffer *page_buffer = NULL, *length_buffer = NULL, *balances = NULL;
    tqkv_gpu_attention a = {.n_sequences = SEQUENCES, .n_kv_heads = HEADS, .n_tokens = MOST,
                            .capacity = l->is_ring ? 56 : 0, .first_slot = l->is_ring ? 44 : 0};
    side_make(g, l, &k, l->keys, l->key_dim, 1, &a.keys);
    side_make(g, l, &v, l->values, l->value_dim, 2, &a.values);
    for (uint32_t i = 0; i < SEQUENCES * PAGES; i++)
        pages[i] = (i * 7 + 3) % (SEQUENCES * PAGES);
    if (l->has_pages) {
        a.pages = page_buffer = gpu_buffer(g, pages, sizeof pages);
        a.page_size = PAGE;
        a.pages_stride = PAGES;
        a.n_pages = SEQUENCES * PAGES;
    }
    if (l->has_lengths)
        a.lengths = length_buffer = gpu_buffer(g, lengths, sizeof lengths);
    float *balance = test_rows(5, (size_t)HEADS * l->key_dim);
    for (size_t i = 0; i < (size_t)HEADS * l->key_dim; i++)
        balance[i] = 0.5f + fabsf(balance[i]);
    if (l->is_balanced)
        a.keys.balances = balances = gpu_buffer(g, balance, (size_t)HEADS * l->key_dim * 4);
    gpu_ok(g, tqkv_dispatch_append(g->encoder, g->registry, &a, l->n_positions, k.numbers,
                                   v.numbers, l->type));
    gpu_run(g);
    for (uint32_t b = 0; b < SEQUENCES; b++)
        for (uint32_t i = 0; i < l->n_positions; i++)
            for (uint32_t h = 0; h < HEADS; h++) {
                uint32_t length = l->has_lengths ? lengths[b] : MOST;
                size_t n = ((size_t)b * l->n_positions + i) * HEADS + h;
                if (length + i < l->n_positions)
                    continue;
                uint32_t token = length + i - l->n_positions;
                expect(l, &k, l->is_balanced ? balance + (size_t)h * l->key_dim : NULL, pages, b, token,
                       h, k.x + n * l->key_dim);
                expect(l, &v, NULL, pages, b, token, h, v.x + n * l->value_dim);
            }
    side *sides[] = {&k, &v};
    for (int i = 0; i < 2; i++) {
        uint8_t *got = gpu_take(g, sides[i]->buffer);
        if (memcmp(got, sides[i]->memory, sides[i]->bytes))
            fail_msg("%s of %s/%s", i ? "values" : "keys", l->keys, l->values);
        free(got);
        free(sides[i]->memory);
        free(sides[i]->x);
        tqkv_buffer_free(sides[i]->numbers);
    }
    tqkv_buffer_free(page_buffer);
    tqkv_buffer_free(length_buffer);
    tqkv_buffer_free(balances);
    free(balance);
}

static void every_codebook(void **state)
{
    static const layout layouts[] = {
        {"tq4", "tq4", 128, 128, 1, 0, 0, 0, 0, TQKV_F32},
        {"tq4", "tq2", 64, 64, 2, 0, 0, 0, 0, TQKV_BF16},
        {"tq3", "tq6", 128, 64, 1, 0, 0, 0, 0, TQKV_F16},
        {"lm4", "lm4", 96, 96, 3, 0, 0, 0, 0, TQKV_F16},
        {"mlx4", "mlx8", 128, 128, 1, 0, 0, 0, 0, TQKV_F32},
        {"mlx4", "tq5", 64, 64, 1, 0, 0, 0, 0, TQKV_F32},
        {"lm3", "tq8", 80, 80, 5, 0, 0, 0, 0, TQKV_BF16},
    };
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        check_layout(*state, &layouts[i]);
}

static void every_place(void **state)
{
    for (int i = 0; i < 16; i++) {
        layout l = {"tq4", i % 2 ? "lm4" : "tq4", 64, 64, 1 + (uint32_t)i % 4,
                    i % 5 == 0 || i % 5 == 3, i & 4, i & 8, i % 3 == 1, TQKV_F32};
        check_layout(*state, &l);
    }
}

static void bad_calls_are_refused(void **state)
{
    const gpu_case *g = *state;
    enum { DIM = 64, TOKENS = 20 };
    tqkv_format f = test_format("tq4", DIM);
    tqkv_gpu_rows rows;
    tqkv_buffer *codes = gpu_rows_buffer(g, &f, NULL, TOKENS, &rows);
    tqkv_buffer *x = gpu_buffer(g, NULL, 2 * DIM * 4);
    tqkv_gpu_attention good = {.n_sequences = 1, .n_kv_heads = 1, .n_tokens = TOKENS,
                               .keys = {.format = f, .rows = rows},
                               .values = {.format = f, .rows = rows}};
#define BAD(change, n, keys)                                                                    \
    do {                                                                                        \
        tqkv_gpu_attention a = good;                                                            \
        change;                                                                                 \
        assert_int_not_equal(tqkv_dispatch_append(g->encoder, g->registry, &a, n, keys, x, TQKV_F32), \
                             TQKV_OK);                                                          \
    } while (0)
    BAD((void)a, 0, x);
    BAD((void)a, 3, x);
    BAD((void)a, TOKENS + 1, x);
    BAD((void)a, UINT32_MAX, x);
    BAD((void)a, 1, NULL);
    BAD(a.n_sequences = 0, 1, x);
    BAD(a.n_sequences = UINT32_MAX, 1, x);
    BAD(a.n_tokens = TOKENS + 1, 1, x);
    BAD(a.n_tokens = UINT32_MAX, 1, x);
    BAD(a.keys.format.codebook = 0, 1, x);
    BAD(a.values.format.bits = 9, 1, x);
    BAD(a.values.rows.codes = NULL, 1, x);
    BAD(a.lengths = x, UINT32_MAX, x);
    BAD((a.keys.balances = x, a.keys.is_rotated = 1), 1, x);
    BAD(a.capacity = TOKENS - 1, 1, x);
    assert_int_equal(tqkv_dispatch_append(g->encoder, g->registry, NULL, 1, x, x, TQKV_F32),
                     TQKV_ERROR_ARGUMENT);
    gpu_ok(g, tqkv_dispatch_append(g->encoder, g->registry, &good, 2, x, x, TQKV_F32));
    gpu_run(g);
    tqkv_buffer_free(codes);
    tqkv_buffer_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_codebook),
        cmocka_unit_test(every_place),
        cmocka_unit_test(bad_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}

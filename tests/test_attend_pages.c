/* Attention on pages of all kinds against double precision over what their rows decode to,
 * and the same bits whatever the call. */
#include "page_case.h"

static const uint32_t masks[] = {~0u, TQKV_CPU_AVX2, 0};
enum { N_MASKS = sizeof masks / sizeof *masks };

/* 6 bits and less, or more (tqkv_attention.h). */
static double bound_of(const page_shape *s)
{
    int fine = !strcmp(s->keys, "tq8") || !strcmp(s->keys, "mlx8");
    return s->pattern == ALL_STAGED ? 1e-5 : fine ? 1e-3 : 1.5e-2;
}

static void check(page_case *c, const page_shape *s)
{
    for (int m = 0; m < N_MASKS; m++) {
        tqkv_cpu_mask(masks[m]);
        assert_int_equal(page_case_run(c, NULL), TQKV_OK);
        double error = page_case_error(c);
        if (!(error < bound_of(s)))
            fail_msg("%s %s (%u, %u) pattern %d data %d tokens %zu mask %x: %g", s->keys, s->values,
                     s->key_dim, s->value_dim, s->pattern, s->data, s->n_tokens, masks[m], error);
    }
    tqkv_cpu_mask(~0u);
}

static void check_shape(const page_shape *s)
{
    page_case c;
    page_case_make(&c, s);
    page_case_store(&c, s);
    check(&c, s);
    page_case_free(&c);
}

static void formats_and_patterns(void **state)
{
    static const char *const names[][2] = {{"tq4", "tq4"}, {"tq3", "tq2"}, {"tq8", "tq8"},
                                           {"tq5", "lm4"}, {"lm3", "tq6"}, {"mlx4", "mlx4"},
                                           {"mlx8", "mlx8"}, {"mlx6", "tq4s"}, {"tq4n", "lm2"}};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int pattern = ALL_SEALED; pattern <= RANDOM; pattern++)
            for (int balance = 0; balance < 2; balance++) {
                page_shape s = {.keys = names[i][0], .values = names[i][1], .key_dim = 64,
                                .value_dim = 128, .n_kv_heads = 2, .group = 3, .n_queries = 2,
                                .n_tokens = 300, .pattern = (page_pattern)pattern,
                                .has_balance = balance, .seed = i};
                check_shape(&s);
            }
}

/* Every head size of the kernels, groups, prompts, tiles that begin within pages, rings. */
static void shapes(void **state)
{
    static const uint32_t dims[][2] = {{64, 64}, {128, 128}, {96, 96}, {80, 160}, {256, 64},
                                       {192, 128}, {16, 1024}};
    static const uint32_t groups[] = {1, 2, 4, 7, 16};
    (void)state;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (int ring = 0; ring < 2; ring++) {
                page_shape s = {.keys = "tq4", .values = "tq4", .key_dim = dims[d][0],
                                .value_dim = dims[d][1], .n_kv_heads = 1 + (uint32_t)g % 2,
                                .group = groups[g], .n_queries = g == 1 ? 70 : 1 + (uint32_t)g,
                                .n_tokens = 250 + 20 * g, .first_slot = 20 * d, .is_ring = ring,
                                .pattern = RANDOM, .has_balance = ring, .seed = d + 10 * g};
                check_shape(&s);
            }
}

static void adversarial_rows(void **state)
{
    static const char *const names[] = {"tq3", "tq4", "tq8", "lm4", "mlx4"};
    (void)state;
    for (int data = NEAR_A_MEAN; data <= NO_MEAN_AT_ALL; data++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            for (int early = 0; early < 2; early++) {
                page_shape s = {.keys = names[i], .values = names[i], .key_dim = 64,
                                .value_dim = 64, .n_kv_heads = 1, .group = 4, .n_queries = 3,
                                .n_tokens = 200, .pattern = early ? RANDOM : ALL_SEALED,
                                .data = (row_data)data, .is_early = early, .seed = i};
                check_shape(&s);
            }
}

/* The first token's value is next to nothing, and has nine tenths of the weight. */
static void sinks_in_pages(void **state)
{
    (void)state;
    page_shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64,
                    .n_kv_heads = 1, .group = 4, .n_queries = 1, .n_tokens = 256,
                    .data = SINK_FIRST, .seed = 3};
    page_case c;
    page_case_make(&c, &s);
    float *noise = test_rows(8, 256 * 64);
    for (size_t i = 0; i < 256 * 64; i++) /* its logit is about 12, the others' about 0 */
        c.keys[i] = i < 64 ? 0 : .3f * noise[i];
    free(noise);
    for (size_t h = 0; h < 4; h++) {
        double square = 0;
        for (size_t i = 0; i < 64; i++)
            square += c.queries[h * 64 + i] * c.queries[h * 64 + i];
        for (size_t i = 0; i < 64; i++)
            c.keys[i] += (float)(96 * c.queries[h * 64 + i] / square);
    }
    page_case_store(&c, &s);
    check(&c, &s);
    for (int h = 0; h < 4; h++) { /* nine tenths: the others' weights are a tenth of its */
        double first = reference_logit(&c.r, 0, (uint32_t)h, 0), others = 0;
        for (size_t t = 1; t < 256; t++)
            others += exp(reference_logit(&c.r, 0, (uint32_t)h, t) - first);
        assert_true(others < .12);
    }
    page_case_free(&c);
}

/* Windows, softcap, slopes, sinks, and masks of both types by position. */
static void features(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 64; bits++) {
        page_shape s = {.keys = "tq4", .values = "tq5", .key_dim = 64, .value_dim = 64,
                        .n_kv_heads = 2, .group = 2, .n_queries = bits & 32 ? 66 : 3,
                        .n_tokens = 230, .first_slot = 7 * (bits % 5), .pattern = RANDOM,
                        .has_balance = (int)bits & 1, .seed = bits};
        float slopes[4] = {.5f, .25f, .125f, .0625f}, sinks[4] = {-4, 0, 2, 5};
        uint64_t seed = bits;
        size_t n = (size_t)s.n_queries * 240;
        float *mask = malloc(n * sizeof *mask);
        uint16_t *half = malloc(n * sizeof *half);
        for (size_t i = 0; i < n; i++)
            mask[i] = test_random(&seed) % 3 ? 2 * test_gaussian(&seed) : -INFINITY;
        assert_int_equal(tqkv_from_f32(mask, n, half, TQKV_F16), TQKV_OK);
        if (bits & 16)
            assert_int_equal(tqkv_to_f32(half, TQKV_F16, n, mask), TQKV_OK);
        page_case c;
        page_case_make(&c, &s);
        page_case_store(&c, &s);
        c.a.window = bits & 2 ? 100 : 0;
        c.a.softcap = bits & 4 ? 5 : 0;
        c.a.slopes = bits & 8 ? slopes : NULL;
        c.a.sinks = bits & 1 ? sinks : NULL;
        if (bits & 16) {
            c.a.mask = bits & 4 ? (void *)half : mask;
            c.a.mask_type = bits & 4 ? TQKV_F16 : TQKV_F32;
            c.a.mask_stride = 240;
        }
        check(&c, &s);
        page_case_free(&c);
        free(mask);
        free(half);
    }
}

/* Garbage in all that is a token's own: its codes, scales and signs (NaN, where it is f16), and
 * numbers of means. */
static void spoil(const page_shape *s, const page_case *c, size_t token)
{
    size_t slot = slot_in(s, c, token), place = slot % PAGE;
    uint32_t entry = c->pages[slot / PAGE], number = entry & 0x3FFFFFFF;
    for (int i = 0; i < 2; i++) {
        const tqkv_operand *o = i ? &c->set.values : &c->set.keys;
        if (entry & TQKV_PAGE_STAGED)
            o = i ? &c->staged.values : &c->staged.keys;
        else if (entry & TQKV_PAGE_MIXED)
            o = i ? &c->mixed.values : &c->mixed.keys;
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            memset(o->rows.codes + number * o->page.codes + h * o->head.codes +
                       place * o->rows.code_stride, 0xFF, o->rows.code_stride);
            if (entry & TQKV_PAGE_STAGED)
                continue;
            tqkv_page page = page_of(o, number, h);
            memset(page.rows.scales + place * page.rows.scale_stride, 0xB5,
                   page.rows.scale_stride);
            if (page.numbers)
                page.numbers[place / 4] ^= (uint8_t)(3 << place % 4 * 2);
        }
    }
}

/* A batch, one query at a time, other threads, and garbage in what a query does not see:
 * the same bits. */
static void the_same_bits_in_any_call(void **state)
{
    (void)state;
    for (int pattern = ALL_SEALED; pattern <= RANDOM; pattern++)
        for (int m = 0; m < N_MASKS; m++) {
            page_shape s = {.keys = "tq4", .values = "tq3", .key_dim = 128, .value_dim = 64,
                            .n_kv_heads = 2, .group = 3, .n_queries = 40, .n_tokens = 2500,
                            .first_slot = 9, .pattern = (page_pattern)pattern, .seed = 77};
            enum { ROW = 6 * 64 };
            page_case c;
            tqkv_cpu_mask(masks[m]);
            page_case_make(&c, &s);
            page_case_store(&c, &s);
            tqkv_executor one = {1, NULL, NULL}, three = {3, NULL, NULL};
            assert_int_equal(page_case_run(&c, &three), TQKV_OK);
            float *batch = malloc(40 * ROW * sizeof *batch);
            memcpy(batch, c.out, 40 * ROW * sizeof *batch);
            const float *queries = c.queries;
            uint64_t position = c.a.position;
            for (uint32_t i = 0; i < 40; i += 13) {
                c.a.queries = queries + (size_t)i * 6 * 128;
                c.a.position = position + i;
                c.a.n_queries = 1;
                assert_int_equal(page_case_run(&c, i % 2 ? &one : &three), TQKV_OK);
                assert_memory_equal(c.out, batch + i * ROW, ROW * sizeof *batch);
            }
            /* the last query's own token, and all behind it, is hidden from the first */
            c.a.queries = queries;
            c.a.position = position;
            spoil(&s, &c, 2499);
            assert_int_equal(page_case_run(&c, &one), TQKV_OK);
            assert_memory_equal(c.out, batch, ROW * sizeof *batch);
            free(batch);
            page_case_free(&c);
        }
    tqkv_cpu_mask(~0u);
}

/* Makes tokens of [first, end), `each` of every page from its first on, seen by rows 0 and 1,
 * or by row 1 alone. */
static void show(float *mask, size_t n, size_t first, size_t end, size_t each, int both)
{
    for (size_t t = first; t < end; t++)
        if (t % PAGE < each) {
            mask[n + t] = 0;
            if (both)
                mask[t] = 0;
        }
}

/* A query that sees a few tokens of each of many pages, and one that sees the same and then
 * more pages than there is room for means: alone and together, the same bits. */
static void scattered_pages(void **state)
{
    (void)state;
    for (int m = 0; m < N_MASKS; m++)
        for (size_t each = 1; each < 12; each++) {
            page_shape s = {.keys = each % 3 ? "tq4" : "lm4", .values = "tq4", .key_dim = 64,
                            .value_dim = 64, .n_kv_heads = 1, .group = 4, .n_queries = 2,
                            .n_tokens = 90 * PAGE,
                            .pattern = each % 2 ? ALL_SEALED : RANDOM, .seed = each};
            float *mask = malloc(2 * s.n_tokens * sizeof *mask), together[2][256];
            page_case c;
            tqkv_cpu_mask(masks[m]);
            page_case_make(&c, &s);
            for (size_t i = 0; i < 2 * 256 && each % 3 == 0; i++)
                c.queries[i] *= 20; /* so large that what levels lose counts */
            page_case_store(&c, &s);
            for (size_t t = 0; t < 2 * s.n_tokens; t++)
                mask[t] = -INFINITY;
            show(mask, s.n_tokens, 0, 70 / each * PAGE, each, 1);
            show(mask, s.n_tokens, 70 / each * PAGE, s.n_tokens, 1, 0);
            c.a.causal = 0;
            c.a.mask = mask;
            c.a.mask_type = TQKV_F32;
            c.a.mask_stride = s.n_tokens;
            assert_int_equal(page_case_run(&c, NULL), TQKV_OK);
            assert_true(page_case_error(&c) < bound_of(&s));
            memcpy(together, c.out, sizeof together);
            c.a.n_queries = 1;
            for (int q = 0; q < 2; q++) {
                c.a.queries = c.queries + q * 256;
                c.a.mask = mask + (size_t)q * s.n_tokens;
                assert_int_equal(page_case_run(&c, NULL), TQKV_OK);
                assert_memory_equal(c.out, together[q], sizeof together[q]);
            }
            free(mask);
            page_case_free(&c);
        }
    tqkv_cpu_mask(~0u);
}

/* Any bytes in pages are some rows, and no finite query gives NaN. */
static void any_bytes(void **state)
{
    static const char *const names[] = {"tq4", "tq8", "lm3", "mlx4", "mlx8"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int m = 0; m < N_MASKS; m++) {
            page_shape s = {.keys = names[i], .values = names[i], .key_dim = 64, .value_dim = 64,
                            .n_kv_heads = 2, .group = 3, .n_queries = 2, .n_tokens = 400,
                            .pattern = RANDOM, .seed = i};
            uint64_t seed = i;
            page_case c;
            tqkv_cpu_mask(masks[m]);
            page_case_make(&c, &s);
            for (int kind = 0; kind < 3; kind++) {
                size_t bytes = c.n_pages * 2 * (head_part(s.keys, 64, kind) +
                                                head_part(s.values, 64, kind));
                for (size_t b = 0; b < bytes; b++)
                    c.memory[kind][b] = (uint8_t)test_random(&seed);
            }
            assert_int_equal(page_case_run(&c, NULL), TQKV_OK);
            for (size_t k = 0; k < 2 * 6 * 64; k++)
                assert_true(isfinite(c.out[k]));
            page_case_free(&c);
        }
    tqkv_cpu_mask(~0u);
}

static void bad_calls(void **state)
{
    (void)state;
    page_shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64,
                    .n_kv_heads = 1, .group = 1, .n_queries = 1, .n_tokens = 200,
                    .pattern = RANDOM, .seed = 5};
    page_case good, c;
    page_case_make(&good, &s);
    page_case_store(&good, &s);
    uint32_t pages[4];
#define REFUSED(change, expected)                                                              \
    do {                                                                                       \
        c = good;                                                                              \
        memcpy(pages, good.pages, sizeof pages);                                               \
        c.set.pages = pages;                                                                   \
        c.set.staged = &c.staged;                                                              \
        c.set.mixed = &c.mixed;                                                                \
        c.a.sets = &c.set;                                                                     \
        change;                                                                                \
        memset(c.out, 0, 64 * sizeof *c.out);                                                  \
        assert_int_equal(page_case_run(&c, NULL), expected);                                   \
        for (int i = 0; i < 64; i++)                                                           \
            assert_true(c.out[i] == 0);                                                        \
    } while (0)
    REFUSED(c.set.pages = NULL, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.page_size = 32, TQKV_ERROR_ARGUMENT);
    REFUSED(pages[1] = 4, TQKV_ERROR_ARGUMENT);
    REFUSED(pages[1] = 4 | TQKV_PAGE_STAGED, TQKV_ERROR_ARGUMENT);
    REFUSED(pages[1] = 4 | TQKV_PAGE_MIXED, TQKV_ERROR_ARGUMENT);
    REFUSED(pages[1] = TQKV_PAGE_STAGED | TQKV_PAGE_MIXED, TQKV_ERROR_ARGUMENT);
    REFUSED((c.set.staged = NULL, pages[1] = TQKV_PAGE_STAGED), TQKV_ERROR_ARGUMENT);
    REFUSED((c.set.mixed = NULL, pages[1] = TQKV_PAGE_MIXED), TQKV_ERROR_ARGUMENT);
    REFUSED(c.staged.keys.format.head_dim = 32, TQKV_ERROR_ARGUMENT);
    REFUSED(c.staged.keys = c.set.keys, TQKV_ERROR_ARGUMENT);
    REFUSED(c.mixed.values = c.staged.values, TQKV_ERROR_ARGUMENT);
    REFUSED(c.mixed.values.format.bits = 3, TQKV_ERROR_FORMAT);
    REFUSED((c.mixed.keys.means = NULL, c.mixed.keys.n_means = 0), TQKV_ERROR_FORMAT);
    REFUSED(c.set.keys.means = NULL, TQKV_ERROR_FORMAT);
    REFUSED((c.set.keys.means = NULL, c.set.mixed = NULL), TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.values.n_means = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.values.n_means = 5, TQKV_ERROR_ARGUMENT);
    REFUSED(c.mixed.values.numbers = NULL, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.values.balances = c.balances, TQKV_ERROR_ARGUMENT);
    REFUSED(c.staged.keys.balances = c.balances, TQKV_ERROR_ARGUMENT);
    REFUSED(c.mixed.keys.balances = c.balances, TQKV_ERROR_ARGUMENT);
    REFUSED((c.set.mixed = NULL, c.set.keys = c.staged.keys, c.set.values = c.staged.values,
             c.set.keys.type = TQKV_F32), TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.keys.head.means = SIZE_MAX, TQKV_ERROR_OVERFLOW);
    REFUSED(c.mixed.keys.page.numbers = SIZE_MAX / 2, TQKV_ERROR_OVERFLOW);
    REFUSED(c.staged.values.page.codes = SIZE_MAX / 2, TQKV_ERROR_OVERFLOW);
#undef REFUSED
    assert_int_equal(page_case_run(&good, NULL), TQKV_OK);
    /* what a staged operand has no use for does not matter */
    float before[64];
    memcpy(before, good.out, sizeof before);
    good.staged.keys.rows.scales = good.memory[0];
    good.staged.values.rows.scale_stride = 2;
    good.staged.values.head.scales = 12345;
    assert_int_equal(page_case_run(&good, NULL), TQKV_OK);
    assert_memory_equal(before, good.out, sizeof before);
    page_case_free(&good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_and_patterns), cmocka_unit_test(shapes),
        cmocka_unit_test(adversarial_rows),     cmocka_unit_test(sinks_in_pages),
        cmocka_unit_test(features),             cmocka_unit_test(the_same_bits_in_any_call),
        cmocka_unit_test(scattered_pages),
        cmocka_unit_test(any_bytes),            cmocka_unit_test(bad_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

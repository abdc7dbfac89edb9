/* Attention on codes against double precision over the decoded rows. */
#include "attend_case.h"

#include "attend/plan.h"
#include "format/mlx.h"

static uint64_t random_state = 7;

/* What the header promises for a pair of formats. */
static double bound_of(const char *name)
{
    if (plain_type(name) >= 0)
        return 1e-5;
    double bits = atof(name + strcspn(name, "0123456789"));
    return bits > 6 ? 1e-3 : 1.5e-2;
}

static double bound_of_shape(const shape *s)
{
    double k = bound_of(s->keys), v = bound_of(s->values);
    return k > v ? k : v;
}

static void check_case(attend_case *c, const shape *s)
{
    double worst, bound = bound_of_shape(s), error;
    assert_int_equal(case_run(c, NULL), TQKV_OK);
    error = case_error(c, &worst);
    if (!(error <= bound && worst <= 1.5 * bound))
        print_message("%s/%s %u/%u kv %u group %u queries %u tokens %zu: %g, a row %g\n", s->keys,
                      s->values, s->key_dim, s->value_dim, s->n_kv_heads, s->group,
                      s->n_queries, s->n_tokens, error, worst);
    assert_true(error <= bound);
    assert_true(worst <= 1.5 * bound);
}

static void check_shape_causal(const shape *s)
{
    attend_case c;
    case_make(&c, s);
    case_store(&c, s);
    c.a.causal = 1;
    check_case(&c, s);
    case_free(&c);
}

/* Every instruction set does the same tests: masks from all to none. */
static const uint32_t masks[] = {
    ~(uint32_t)0, TQKV_CPU_AVX2 | TQKV_CPU_AVX512 | TQKV_CPU_NEON, TQKV_CPU_AVX2, 0};
enum { N_MASKS = sizeof masks / sizeof *masks };

static void formats_and_dims(void **state)
{
    static const char *const names[] = {"tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8",
                                        "lm2", "lm3", "lm4", "mlx4",
                                        "mlx5", "mlx6", "mlx8", "f16", "bf16", "f32"};
    static const uint32_t dims[] = {16, 64, 80, 96, 128, 256, 512};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
            if (!strncmp(names[i], "mlx", 3) && (dims[d] & (dims[d] - 1)))
                continue;
            shape s = {.keys = names[i], .values = names[i], .key_dim = dims[d],
                       .value_dim = dims[d], .n_kv_heads = 2, .group = 1 + (uint32_t)(d % 4),
                       .n_queries = 1 + (uint32_t)(i % 3), .n_tokens = 150 + 11 * i,
                       .seed = i * 100 + d};
            check_shape_causal(&s);
        }
}

static void every_instruction_set(void **state)
{
    static const char *const names[] = {"tq2", "tq3", "tq4", "tq8", "lm4", "mlx5", "mlx8",
                                        "f16"};
    (void)state;
    for (size_t m = 0; m < N_MASKS; m++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            shape s = {.keys = names[i], .values = names[i], .key_dim = 128, .value_dim = 64,
                       .n_kv_heads = 2, .group = 3, .n_queries = 2, .n_tokens = 333,
                       .seed = i};
            tqkv_cpu_mask(masks[m]);
            check_shape_causal(&s);
            tqkv_cpu_mask(~(uint32_t)0);
        }
}

static void mixed_formats_and_head_sizes(void **state)
{
    static const char *const pairs[][2] = {{"tq5", "tq3"}, {"tq8", "tq4"}, {"f16", "tq2"},
                                           {"mlx8", "lm4"}, {"tq4", "f32"}, {"mlx4", "tq6"}};
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        shape s = {.keys = pairs[i][0], .values = pairs[i][1], .key_dim = 128, .value_dim = 64,
                   .n_kv_heads = 3, .group = 2, .n_queries = 3, .n_tokens = 200, .seed = i};
        check_shape_causal(&s);
        s.key_dim = 64;
        s.value_dim = 256;
        check_shape_causal(&s);
    }
}

static void query_heads_a_kv_head(void **state)
{
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 12, 16, 64};
    (void)state;
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64,
                   .n_kv_heads = groups[i] == 64 ? 1 : 2, .group = groups[i], .n_queries = 1,
                   .n_tokens = 130, .seed = i};
        check_shape_causal(&s);
    }
}

static void speculative_and_prefill(void **state)
{
    static const uint32_t queries[] = {2, 8, 32, 33, 200};
    (void)state;
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        shape s = {.keys = "tq4", .values = "lm4", .key_dim = 64, .value_dim = 64,
                   .n_kv_heads = 2, .group = 3, .n_queries = queries[i], .n_tokens = 260,
                   .seed = i};
        check_shape_causal(&s);
    }
}

static void pages_and_rings(void **state)
{
    static const size_t sizes[] = {0, 16, 48, 64, 100, 256};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int ring = 0; ring < 2; ring++)
            for (size_t first = 0; first < 150; first += 73) {
                shape s = {.keys = "tq5", .values = "tq3", .key_dim = 64, .value_dim = 64,
                           .n_kv_heads = 2, .group = 2, .n_queries = 2, .n_tokens = 300,
                           .page_size = sizes[i], .first_slot = first, .is_ring = ring,
                           .seed = i};
                check_shape_causal(&s);
            }
}

static void balances(void **state)
{
    (void)state;
    for (int paged = 0; paged < 2; paged++) {
        shape s = {.keys = "tq4", .values = "tq4", .key_dim = 128, .value_dim = 128,
                   .n_kv_heads = 2, .group = 4, .n_queries = 2, .n_tokens = 300,
                   .page_size = paged ? 64 : 0, .is_balanced = 1, .seed = 3};
        check_shape_causal(&s);
        s.keys = "mlx8";
        check_shape_causal(&s);
    }
}

/* Windows, softcap, slopes, sinks and masks, alone and together. */
static void features(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 128; bits++) {
        shape s = {.keys = bits % 3 ? "tq4" : "tq8", .values = bits % 3 ? "tq4" : "tq8",
                   .key_dim = 64, .value_dim = 64, .n_kv_heads = 2, .group = 2,
                   .n_queries = bits & 64 ? 70 : 3, .n_tokens = 210, .key_size = 3,
                   .seed = bits};
        float slopes[4] = {.5f, .25f, .125f, .0625f}, sinks[4] = {-4, 0, 2, 5};
        attend_case c;
        case_make(&c, &s);
        case_store(&c, &s);
        c.a.causal = bits & 1;
        c.a.window = bits & 2 ? 65 : 0;
        c.a.softcap = bits & 4 ? 5 : 0;
        c.a.slopes = bits & 8 ? slopes : NULL;
        c.a.sinks = bits & 16 ? sinks : NULL;
        float *mask = malloc(4 * (size_t)s.n_queries * 220 * sizeof *mask);
        uint16_t *half = malloc(4 * (size_t)s.n_queries * 220 * sizeof *half);
        for (size_t i = 0; i < 4 * (size_t)s.n_queries * 220; i++) {
            mask[i] = test_random(&random_state) % 4 ? 2 * test_gaussian(&random_state)
                                                     : -INFINITY;
            if (i / 220 % 7 == 1) /* a query that sees nothing */
                mask[i] = -INFINITY;
            if (i % 220 >= 64 && i % 220 < 128) /* a tile that nobody sees */
                mask[i] = -INFINITY;
        }
        assert_int_equal(tqkv_from_f32(mask, 4 * (size_t)s.n_queries * 220, half, TQKV_F16),
                         TQKV_OK);
        if (bits & 32) {
            c.a.mask = bits & 1 ? (void *)half : mask;
            c.a.mask_type = bits & 1 ? TQKV_F16 : TQKV_F32;
            c.a.mask_stride = 220;
            c.a.mask_head_stride = bits & 2 ? 220 * (size_t)s.n_queries : 0;
        }
        check_case(&c, &s);
        free(mask);
        free(half);
        case_free(&c);
    }
}

static void nothing_to_see(void **state)
{
    (void)state;
    shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64, .n_kv_heads = 1,
               .group = 2, .n_queries = 2, .n_tokens = 0};
    float sinks[2] = {1, 2};
    attend_case c;
    case_make(&c, &s);
    case_store(&c, &s);
    check_case(&c, &s);
    c.a.sinks = sinks;
    check_case(&c, &s);
    assert_true(c.max[0] == 1 && c.sum[0] == 1 && c.out[0] == 0);
    c.a.n_queries = 0;
    assert_int_equal(case_run(&c, NULL), TQKV_OK);
    case_free(&c);
    s.n_tokens = 4096; /* so many that they would be divided */
    case_make(&c, &s);
    c.a.n_queries = 0;
    assert_int_equal(case_run(&c, NULL), TQKV_OK);
    case_free(&c);
}

/* ---- adversarial rows ---- */

static const char *const adversaries[] = {"tq2", "tq4", "tq6", "lm4", "mlx6", "tq8", "mlx8"};
enum { N_ADVERSARIES = sizeof adversaries / sizeof *adversaries };

static void one_dominating_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ADVERSARIES; i++)
        for (int gap = 1; gap <= 12; gap++) {
            shape s = {.keys = adversaries[i], .values = adversaries[i], .key_dim = 128,
                       .value_dim = 128, .n_kv_heads = 1, .group = 2, .n_queries = 1,
                       .n_tokens = 500, .seed = i};
            attend_case c;
            case_make(&c, &s);
            /* every key but one is the same; the one gains `gap` in the logit */
            for (size_t t = 0; t < s.n_tokens; t++)
                for (size_t d = 0; d < s.key_dim; d++) {
                    double norm = 0;
                    for (size_t k = 0; k < s.key_dim; k++)
                        norm += (double)c.queries[k] * c.queries[k];
                    c.keys[t * s.key_dim + d] =
                        t == 77 ? (float)(c.queries[d] * gap * sqrt(s.key_dim) / norm)
                                : c.keys[d] * 1e-3f;
                    if (t != 77) /* values alike, so that errors of weights add up */
                        c.values[t * s.value_dim + d] =
                            c.values[d] + .1f * c.values[t * s.value_dim + d];
                }
            case_store(&c, &s);
            check_case(&c, &s);
            case_free(&c);
        }
}

static void equal_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ADVERSARIES; i++) {
        shape s = {.keys = adversaries[i], .values = adversaries[i], .key_dim = 128,
                   .value_dim = 128, .n_kv_heads = 1, .group = 3, .n_queries = 1,
                   .n_tokens = 400, .seed = i};
        attend_case c;
        case_make(&c, &s);
        for (size_t t = 0; t < s.n_tokens; t++)
            memcpy(c.keys + t * s.key_dim, c.keys, s.key_dim * sizeof(float));
        case_store(&c, &s);
        check_case(&c, &s);
        case_free(&c);
    }
}

/* Logits from -80 to 80: q . k / sqrt(d) has a deviation of 25. */
static void large_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ADVERSARIES; i++) {
        shape s = {.keys = adversaries[i], .values = adversaries[i], .key_dim = 128,
                   .value_dim = 128, .n_kv_heads = 2, .group = 2, .n_queries = 4,
                   .n_tokens = 600, .key_size = 25, .seed = i};
        check_shape_causal(&s);
    }
}

static void scales_over_six_orders(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ADVERSARIES; i++) {
        shape s = {.keys = adversaries[i], .values = adversaries[i], .key_dim = 128,
                   .value_dim = 128, .n_kv_heads = 2, .group = 4, .n_queries = 2,
                   .n_tokens = 500, .scales_vary = 1, .seed = i};
        check_shape_causal(&s);
    }
}

static void long_context(void **state)
{
    (void)state;
    shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64, .n_kv_heads = 1,
               .group = 2, .n_queries = 1, .n_tokens = 131072, .page_size = 64};
    check_shape_causal(&s);
    s.keys = s.values = "tq8";
    check_shape_causal(&s);
}

/* Any bytes are some row, and no finite query gives NaN. */
static void any_bytes(void **state)
{
    static const char *const names[] = {"tq2", "tq4", "tq8", "lm3", "mlx4", "mlx6", "mlx8",
                                        "f16", "bf16", "f32"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        shape s = {.keys = names[i], .values = names[i], .key_dim = 64, .value_dim = 64,
                   .n_kv_heads = 1, .group = 3, .n_queries = 2, .n_tokens = 200,
                   .is_balanced = plain_type(names[i]) < 0};
        attend_case c;
        case_make(&c, &s);
        size_t bytes =
            s.n_tokens * (c.set.keys.rows.code_stride + c.set.keys.rows.scale_stride);
        for (size_t b = 0; b < bytes; b++)
            c.key_memory[b] = (uint8_t)test_random(&random_state);
        bytes = s.n_tokens * (c.set.values.rows.code_stride + c.set.values.rows.scale_stride);
        for (size_t b = 0; b < bytes; b++)
            c.value_memory[b] = (uint8_t)test_random(&random_state);
        c.queries[0] = 3e38f;
        c.queries[1] = NAN;
        c.queries[70] = -INFINITY;
        assert_int_equal(case_run(&c, NULL), TQKV_OK);
        for (size_t k = 0; k < 2 * 3 * 64; k++)
            assert_true(isfinite(c.out[k]));
        case_free(&c);
    }
}

/* ---- parts and threads ---- */

/* The call over tokens [first, first + n) only. */
static void run_part(const attend_case *whole, size_t first, size_t n, tqkv_partial *part)
{
    attend_case c = *whole;
    size_t rows = (size_t)c.a.n_queries * c.a.n_heads;
    c.set.n_tokens = n;
    c.set.first_slot = first;
    c.set.position = first;
    c.a.sets = &c.set;
    c.out = part->out = calloc(rows * 64, sizeof(float));
    c.max = part->max = calloc(rows, sizeof(float));
    c.sum = part->sum = calloc(rows, sizeof(float));
    assert_int_equal(case_run(&c, NULL), TQKV_OK);
}

static void parts_merge(void **state)
{
    static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
    (void)state;
    shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64, .n_kv_heads = 2,
               .group = 3, .n_queries = 3, .n_tokens = 384, .key_size = 3, .seed = 5};
    attend_case c;
    case_make(&c, &s);
    case_store(&c, &s);
    c.a.causal = 1;
    size_t rows = 18;
    for (int o = 0; o < 3; o++) {
        tqkv_partial parts[3];
        double worst;
        run_part(&c, 0, 128, &parts[0]);
        run_part(&c, 128, 64, &parts[1]);
        run_part(&c, 192, 192, &parts[2]);
        tqkv_partial *into = &parts[orders[o][0]];
        assert_int_equal(tqkv_merge(rows, 64, &parts[orders[o][1]], into), TQKV_OK);
        assert_int_equal(tqkv_merge(rows, 64, &parts[orders[o][2]], into), TQKV_OK);
        memcpy(c.out, into->out, rows * 64 * sizeof(float));
        memcpy(c.max, into->max, rows * sizeof(float));
        memcpy(c.sum, into->sum, rows * sizeof(float));
        assert_true(case_error(&c, &worst) <= 1.5e-2);
        for (int i = 0; i < 3; i++) {
            free(parts[i].out);
            free(parts[i].max);
            free(parts[i].sum);
        }
    }
    case_free(&c);
}

static void merging_is_exact(void **state)
{
    (void)state;
    float out[2][3] = {{1, 2, 3}, {5, 6, 7}}, max[2] = {2, 2}, sum[2] = {1, 3};
    tqkv_partial a = {out[0], max, sum}, b = {out[1], max + 1, sum + 1};
    assert_int_equal(tqkv_merge(1, 3, &b, &a), TQKV_OK);
    for (int i = 0; i < 3; i++)
        assert_true(fabs(out[0][i] - (4. + i)) < 1e-6);
    assert_true(sum[0] == 4 && max[0] == 2);
    max[1] = -INFINITY; /* an empty part changes nothing */
    sum[1] = 0;
    assert_int_equal(tqkv_merge(1, 3, &b, &a), TQKV_OK);
    assert_true(sum[0] == 4 && fabs(out[0][0] - 4) < 1e-6);
    assert_int_equal(tqkv_merge(1, 3, &a, &b), TQKV_OK); /* nor is it in the way */
    assert_true(sum[1] == 4 && max[1] == 2 && fabs(out[1][2] - 6) < 1e-6);
    assert_int_equal(tqkv_merge(0, 3, &a, &b), TQKV_OK);
    assert_int_equal(tqkv_merge(1, 3, NULL, &b), TQKV_ERROR_ARGUMENT);
    a.max = NULL;
    assert_int_equal(tqkv_merge(1, 3, &a, &b), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_merge(SIZE_MAX / 2, 3, &b, &b), TQKV_ERROR_OVERFLOW);
}

/* Tasks backwards, one after the other. */
static void run_backwards(void *context, size_t n, void (*task)(void *, size_t), void *argument)
{
    *(size_t *)context += n;
    while (n-- > 0)
        task(argument, n);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64, .n_kv_heads = 2,
               .group = 4, .n_queries = 2, .n_tokens = 9000, .seed = 6};
    attend_case c;
    size_t ran = 0, bytes = 2 * 8 * 64 * sizeof(float);
    case_make(&c, &s);
    case_store(&c, &s);
    c.a.causal = 1;
    check_case(&c, &s);
    float *first = malloc(bytes);
    memcpy(first, c.out, bytes);
    for (uint32_t n = 1; n <= 40; n = n * 2 + 1) {
        tqkv_executor e = {n, NULL, NULL}, own = {n, run_backwards, &ran};
        assert_int_equal(case_run(&c, &e), TQKV_OK);
        assert_memory_equal(first, c.out, bytes);
        assert_int_equal(case_run(&c, &own), TQKV_OK);
        assert_memory_equal(first, c.out, bytes);
    }
    assert_true(ran > 10);
    free(first);
    case_free(&c);
}

/* Sets of different formats in one call are as one after the other. */
static void several_sets(void **state)
{
    (void)state;
    shape s[3] = {{.keys = "f16", .values = "f16", .n_tokens = 20, .seed = 1},
                  {.keys = "tq4", .values = "tq3", .n_tokens = 1500, .page_size = 64, .seed = 2},
                  {.keys = "bf16", .values = "f32", .n_tokens = 77, .seed = 3}};
    attend_case c[3];
    tqkv_tokens sets[3];
    uint64_t position = 0;
    for (int i = 0; i < 3; i++) {
        s[i].key_dim = s[i].value_dim = 64;
        s[i].n_kv_heads = 2;
        s[i].group = 2;
        s[i].n_queries = 3;
        case_make(&c[i], &s[i]);
        case_store(&c[i], &s[i]);
        sets[i] = c[i].set;
        sets[i].position = position;
        position += s[i].n_tokens;
    }
    size_t n = (size_t)position, row = 2 * 64;
    attend_case all = c[0];
    all.keys = malloc(n * row * sizeof(float));
    all.values = malloc(n * row * sizeof(float));
    all.positions = malloc(n * sizeof *all.positions);
    for (size_t i = 0, at = 0; i < 3; at += s[i++].n_tokens) {
        memcpy(all.keys + at * row, c[i].keys, s[i].n_tokens * row * sizeof(float));
        memcpy(all.values + at * row, c[i].values, s[i].n_tokens * row * sizeof(float));
    }
    for (size_t t = 0; t < n; t++)
        all.positions[t] = t;
    all.a.sets = sets;
    all.a.n_sets = 3;
    all.a.causal = 1;
    all.a.position = position - 3;
    all.r = (reference){&all.a, all.queries, all.keys, all.values, all.positions, n};
    check_case(&all, &s[1]);
    all.a.window = 90; /* past the last set's beginning */
    check_case(&all, &s[1]);
    free(all.keys);
    free(all.values);
    free(all.positions);
    for (int i = 0; i < 3; i++)
        case_free(&c[i]);
}

/* ---- arguments ---- */

static void bad_arguments(void **state)
{
    (void)state;
    shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64, .n_kv_heads = 2,
               .group = 2, .n_queries = 1, .n_tokens = 64, .page_size = 16, .is_balanced = 1};
    attend_case good, c;
    float bad[4] = {0, 0, NAN, 0};
    case_make(&good, &s);
    case_store(&good, &s);
#define REFUSED(change, expected)                                              \
    do {                                                                       \
        c = good;                                                              \
        c.a.sets = &c.set;                                                     \
        c.out[0] = 42;                                                         \
        change;                                                                \
        assert_int_equal(case_run(&c, NULL), expected);                        \
        assert_true(c.out[0] == 42);                                           \
    } while (0)
    REFUSED(c.a.sets = NULL, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.n_sets = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.n_kv_heads = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.n_heads = 3, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.queries = NULL, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.query_type = (tqkv_type)9, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.scale = NAN, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.scale = INFINITY, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.softcap = -1, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.slopes = bad, TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.sinks = bad, TQKV_ERROR_ARGUMENT);
    REFUSED((c.a.mask = bad, c.a.mask_type = TQKV_BF16), TQKV_ERROR_ARGUMENT);
    REFUSED(c.a.position = UINT64_MAX, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.position = UINT64_MAX, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.n_tokens = SIZE_MAX, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.page_size = 15, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.page_size = 257, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.n_pages = 3, TQKV_ERROR_ARGUMENT); /* a page number is beyond */
    REFUSED(c.set.capacity = 63, TQKV_ERROR_ARGUMENT);
    REFUSED((c.set.capacity = 64, c.set.first_slot = 64), TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.keys.rows.codes = NULL, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.values.rows.scales = NULL, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.values.balances = c.balances, TQKV_ERROR_ARGUMENT);
    REFUSED(c.set.keys.rows.code_stride = SIZE_MAX / 4, TQKV_ERROR_OVERFLOW);
    REFUSED(c.set.keys.head.scales = SIZE_MAX, TQKV_ERROR_OVERFLOW);
    const size_t too_far = SIZE_MAX / 2 + 2; /* twice it, in bytes, is 4 */
    REFUSED((c.a.n_queries = 2, c.a.query_stride = too_far), TQKV_ERROR_OVERFLOW);
    REFUSED(c.a.head_stride = too_far, TQKV_ERROR_OVERFLOW);
    REFUSED(c.a.head_stride = PTRDIFF_MAX / 4, TQKV_ERROR_OVERFLOW);
    REFUSED((c.a.n_queries = 2, c.a.mask = bad, c.a.mask_type = TQKV_F32,
             c.a.mask_stride = too_far), TQKV_ERROR_OVERFLOW);
    REFUSED((c.a.mask = bad, c.a.mask_type = TQKV_F16, c.a.mask_head_stride = too_far),
            TQKV_ERROR_OVERFLOW);
    REFUSED((c.a.n_queries = UINT32_MAX, c.a.n_heads = UINT32_MAX / 2 * 2), TQKV_ERROR_OVERFLOW);
    REFUSED(c.set.keys.format.bits = 1, TQKV_ERROR_FORMAT);
    REFUSED(c.set.values.format.head_dim = 17, TQKV_ERROR_HEAD_DIM_STEP);
#undef REFUSED
    case_free(&good);
}

/* The constants of attend/plan.c cannot be improved on. */
static double level_error(const float *values, const double *weight, unsigned n, double per_unit)
{
    double error = 0;
    for (unsigned i = 0; i < n; i++) {
        double level = rint(values[i] * per_unit);
        if (fabs(level) > 127)
            return INFINITY;
        error += weight[i] * pow(values[i] - level / per_unit, 2);
    }
    return error;
}

static void levels_are_the_best(void **state)
{
    static const char *const names[] = {"lm2", "lm3", "lm4", "mlx4", "mlx5", "mlx6"};
    (void)state;
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        tqkv_format format = test_format(names[f], 64);
        unsigned bits = format.bits, n = 1u << bits;
        int is_mlx = format.codebook == TQKV_CODEBOOK_MLX;
        const float *values = is_mlx ? mlx_codebook(bits) : lloyd_code_of(bits)->values;
        double weight[64], best = INFINITY;
        for (unsigned i = 0; i < n; i++) {
            double low = i ? (values[i - 1] + (double)values[i]) / 2 : -40;
            double high = i + 1 < n ? (values[i + 1] + (double)values[i]) / 2 : 40;
            weight[i] = (erf(high / sqrt(2)) - erf(low / sqrt(2))) / 2;
        }
        for (double top = 60; top < 127.5; top += .001)
            best = fmin(best, level_error(values, weight, n, top / values[n - 1]));
        static tile_plan p;
        tile_plan_init(&p, &format, TQKV_F32);
        double per_unit = 1 / (p.unit * (is_mlx ? sqrt(64) : 1));
        assert_true(level_error(values, weight, n, per_unit) <= 1.001 * best);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_and_dims),
        cmocka_unit_test(every_instruction_set),
        cmocka_unit_test(mixed_formats_and_head_sizes),
        cmocka_unit_test(query_heads_a_kv_head),
        cmocka_unit_test(speculative_and_prefill),
        cmocka_unit_test(pages_and_rings),
        cmocka_unit_test(balances),
        cmocka_unit_test(features),
        cmocka_unit_test(nothing_to_see),
        cmocka_unit_test(one_dominating_key),
        cmocka_unit_test(equal_keys),
        cmocka_unit_test(large_logits),
        cmocka_unit_test(scales_over_six_orders),
        cmocka_unit_test(long_context),
        cmocka_unit_test(any_bytes),
        cmocka_unit_test(parts_merge),
        cmocka_unit_test(merging_is_exact),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(several_sets),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(levels_are_the_best),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

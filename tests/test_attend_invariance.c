/*
 * A query's result follows from what it sees: the same bits whatever else is in the
 * call, in memory, or beside it.
 */
#include "attend_case.h"

static const uint32_t cpu_masks[] = {
    ~(uint32_t)0, TQKV_CPU_AVX2 | TQKV_CPU_AVX512 | TQKV_CPU_NEON, TQKV_CPU_AVX2, 0};
enum { N_CPUS = sizeof cpu_masks / sizeof *cpu_masks };

static const char *const formats[][2] = {{"tq4", "tq4"}, {"tq3", "tq2"}, {"lm4", "lm3"},
                                         {"mlx4", "mlx5"}, {"tq8", "tq4"}, {"f16", "tq4"},
                                         {"tq5", "f32"}};
enum { N_FORMATS = sizeof formats / sizeof *formats };

/* Keys of so different sizes that digits are chosen differently from tile to tile. */
static shape shape_of(size_t i, uint32_t n_queries, size_t n_tokens)
{
    return (shape){.keys = formats[i][0], .values = formats[i][1], .key_dim = 64, .value_dim = 64,
                   .n_kv_heads = 2, .group = 3, .n_queries = n_queries, .n_tokens = n_tokens,
                   .key_size = 2, .scales_vary = 1, .seed = 100 + i};
}

static size_t floats_a_query(const attend_case *c)
{
    return (size_t)c->a.n_heads * c->a.sets[0].values.format.head_dim;
}

/* Queries [first, first + n) as a call of their own, over n_tokens tokens. */
static void run_some(const attend_case *c, uint32_t first, uint32_t n, size_t n_tokens,
                     const tqkv_executor *e, float *out)
{
    tqkv_tokens set = c->set;
    tqkv_attention a = c->a;
    size_t bytes;
    set.n_tokens = n_tokens;
    a.sets = &set;
    a.n_queries = n;
    a.position += first;
    a.queries = c->queries + (size_t)first * c->a.n_heads * c->set.keys.format.head_dim;
    if (a.mask)
        a.mask = (const uint16_t *)a.mask + first * a.mask_stride;
    assert_int_equal(tqkv_attend_workspace(&a, e, &bytes), TQKV_OK);
    void *workspace = malloc(bytes);
    tqkv_partial result = {.out = out};
    assert_int_equal(tqkv_attend(&a, &result, e, workspace, bytes), TQKV_OK);
    free(workspace);
}

static void assert_same(const attend_case *c, const float *a, const float *b, size_t n_queries)
{
    assert_memory_equal(a, b, n_queries * floats_a_query(c) * sizeof *a);
}

static void check_chunks(attend_case *c, uint32_t n)
{
    static const uint32_t chunks[] = {1, 2, 4, 16};
    size_t each = floats_a_query(c), before = c->set.n_tokens - n;
    float *all = malloc(n * each * sizeof *all), *some = malloc(n * each * sizeof *some);
    run_some(c, 0, n, c->set.n_tokens, NULL, all);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        for (uint32_t q = 0; q < n; q += chunks[i])
            run_some(c, q, chunks[i], before + q + chunks[i], NULL, some + q * each);
        assert_same(c, all, some, n);
    }
    free(all);
    free(some);
}

/* Batches of any size: the last 64 tokens at once, and in chunks of which the rows
 * behind are not there yet. */
static void chunks_do_not_matter(void **state)
{
    static const size_t tokens[] = {64, 700, 2300};
    (void)state;
    for (size_t cpu = 0; cpu < N_CPUS; cpu++)
        for (size_t i = 0; i < N_FORMATS; i++)
            for (size_t t = 0; t < 3; t++) {
                shape s = shape_of(i, 64, tokens[t]);
                attend_case c;
                case_make(&c, &s);
                case_store(&c, &s);
                c.a.causal = 1;
                tqkv_cpu_mask(cpu_masks[cpu]);
                check_chunks(&c, 64);
                c.a.window = 33;
                check_chunks(&c, 64);
                c.a.window = 650;
                check_chunks(&c, 64);
                tqkv_cpu_mask(~(uint32_t)0);
                case_free(&c);
            }
}

/* Rows that no query sees: as they are, and with codes and scales of anything, as
 * drafts leave behind that were taken back. */
static void hidden_rows_do_not_matter(void **state)
{
    (void)state;
    for (size_t cpu = 0; cpu < N_CPUS; cpu++)
        for (size_t i = 0; i < N_FORMATS; i++) {
            shape s = shape_of(i, 4, 1200);
            attend_case c;
            case_make(&c, &s);
            case_store(&c, &s);
            c.a.causal = 1;
            c.a.position -= 50;
            size_t n = 4 * floats_a_query(&c);
            float *out[2] = {malloc(n * sizeof(float)), malloc(n * sizeof(float))};
            tqkv_cpu_mask(cpu_masks[cpu]);
            for (int garbage = 0; garbage < 2; garbage++) {
                for (size_t h = 0; garbage && h < s.n_kv_heads; h++)
                    for (size_t t = s.n_tokens - 50; t < s.n_tokens; t++) {
                        tqkv_rows k = row_at(&s, &c, &c.set.keys, h, t);
                        memset(k.codes, 0xA7, k.code_stride);
                        if (k.scales)
                            memset(k.scales, 0x7B, k.scale_stride); /* large, finite */
                    }
                run_some(&c, 0, 4, s.n_tokens, NULL, out[garbage]);
            }
            assert_same(&c, out[0], out[1], 4);
            tqkv_cpu_mask(~(uint32_t)0);
            free(out[0]);
            free(out[1]);
            case_free(&c);
        }
}

/* ---- sequences beside each other ---- */

/* Which of three sequences a token of a shared context is of: the first tokens one
 * after the other, then mixed. */
static int owner_of(size_t token, size_t n)
{
    return token < n / 2 ? (int)(token * 6 / n) : (int)((token * 2654435761u >> 9) % 3);
}

/* f16 masks: query i sees its sequence's tokens up to before limits[i]. */
static uint16_t *mask_of(size_t n, const int *owners, const size_t *limits, size_t n_queries)
{
    uint16_t *mask = malloc(n_queries * n * sizeof *mask);
    for (size_t i = 0; i < n_queries; i++)
        for (size_t t = 0; t < n; t++)
            mask[i * n + t] = t < limits[i] && owner_of(t, n) == owners[i] ? 0 : 0xFC00;
    return mask;
}

/* A case that holds only the tokens of a sequence up to before limit, as bytes. */
static size_t take_alone(const shape *s, const attend_case *c, int owner, size_t limit,
                         const shape *alone_shape, attend_case *alone)
{
    size_t n = 0;
    for (size_t t = 0; t < limit; t++) {
        if (owner_of(t, s->n_tokens) != owner)
            continue;
        for (size_t h = 0; h < s->n_kv_heads; h++)
            for (int is_value = 0; is_value < 2; is_value++) {
                const tqkv_operand *from = is_value ? &c->set.values : &c->set.keys;
                const tqkv_operand *to = is_value ? &alone->set.values : &alone->set.keys;
                tqkv_rows a = row_at(s, c, from, h, t), b = row_at(alone_shape, alone, to, h, n);
                memcpy(b.codes, a.codes, a.code_stride);
                if (a.scales)
                    memcpy(b.scales, a.scales, a.scale_stride);
            }
        n++;
    }
    return n;
}

/* Queries of three sequences in one call on a context that they share, and each
 * sequence's alone on a context of its own. */
static void sequences_do_not_matter(void **state)
{
    static const int owners[] = {0, 1, 2, 2, 2, 0};
    enum { N = 4000, QUERIES = 6 };
    static const size_t limits[QUERIES] = {N - 6, N - 5, N - 4, N - 3, N, N - 1};
    (void)state;
    for (size_t cpu = 0; cpu < N_CPUS; cpu++)
        for (size_t i = 0; i < N_FORMATS; i++) {
            shape s = shape_of(i, QUERIES, N), alone_shape = s;
            attend_case c, alone;
            case_make(&c, &s);
            case_store(&c, &s);
            alone_shape.n_tokens = N;
            case_make(&alone, &alone_shape);
            memcpy(alone.queries, c.queries,
                   QUERIES * c.a.n_heads * (size_t)s.key_dim * sizeof(float));
            size_t each = floats_a_query(&c);
            float *all = malloc(QUERIES * each * sizeof *all), *one = malloc(each * sizeof *one);
            uint16_t *mask = mask_of(N, owners, limits, QUERIES);
            tqkv_cpu_mask(cpu_masks[cpu]);
            c.a.mask = mask;
            c.a.mask_type = TQKV_F16;
            c.a.mask_stride = N;
            run_some(&c, 0, QUERIES, N, NULL, all);
            for (uint32_t q = 0; q < QUERIES; q++) {
                run_some(&c, q, 1, N, NULL, one);
                assert_same(&c, all + q * each, one, 1);
                size_t n = take_alone(&s, &c, owners[q], limits[q], &alone_shape, &alone);
                assert_true(n > N / 4);
                run_some(&alone, q, 1, n, NULL, one);
                assert_same(&c, all + q * each, one, 1);
            }
            tqkv_cpu_mask(~(uint32_t)0);
            free(mask);
            free(all);
            free(one);
            case_free(&c);
            case_free(&alone);
        }
}

/* A mask and causality that say the same give the same. */
static void masks_and_causality_agree(void **state)
{
    enum { N = 1500, QUERIES = 40 };
    (void)state;
    for (size_t i = 0; i < N_FORMATS; i++) {
        shape s = shape_of(i, QUERIES, N);
        attend_case c;
        case_make(&c, &s);
        case_store(&c, &s);
        size_t n = QUERIES * floats_a_query(&c);
        float *causal = malloc(n * sizeof *causal), *masked = malloc(n * sizeof *masked);
        c.a.causal = 1;
        run_some(&c, 0, QUERIES, N, NULL, causal);
        uint16_t *mask = malloc(QUERIES * N * sizeof *mask);
        for (size_t q = 0; q < QUERIES; q++)
            for (size_t t = 0; t < N; t++)
                mask[q * N + t] = t <= N - QUERIES + q ? 0 : 0xFC00;
        c.a.causal = 0;
        c.a.mask = mask;
        c.a.mask_type = TQKV_F16;
        c.a.mask_stride = N;
        run_some(&c, 0, QUERIES, N, NULL, masked);
        assert_same(&c, causal, masked, QUERIES);
        free(mask);
        free(causal);
        free(masked);
        case_free(&c);
    }
}

static void threads_do_not_matter(void **state)
{
    static const uint32_t threads[] = {2, 3, 7, 64};
    (void)state;
    for (size_t i = 0; i < N_FORMATS; i++)
        for (uint32_t n = 1; n <= 33; n += 16) {
            shape s = shape_of(i, n, 9000);
            attend_case c;
            case_make(&c, &s);
            case_store(&c, &s);
            c.a.causal = 1;
            size_t floats = n * floats_a_query(&c);
            float *one = malloc(floats * sizeof *one), *many = malloc(floats * sizeof *many);
            tqkv_executor e = {.n_threads = 1};
            run_some(&c, 0, n, 9000, &e, one);
            for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
                e.n_threads = threads[t];
                run_some(&c, 0, n, 9000, &e, many);
                assert_same(&c, one, many, n);
            }
            free(one);
            free(many);
            case_free(&c);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_do_not_matter), cmocka_unit_test(hidden_rows_do_not_matter),
        cmocka_unit_test(sequences_do_not_matter), cmocka_unit_test(masks_and_causality_agree),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Attention by the kernel for tensor cores, where the device has it (elsewhere the same
 * cases by the other one), against double precision over the decoded rows. */
#include <dlfcn.h>
#include <pthread.h>

#include "gpu_attend_case.h"

/* What tqkv_gpu.h promises: of formats with integer levels, and of the others. */
#define BOUND 1e-3
#define BOUND_REAL 1.1e-2

static double worst_of_all;

static int is_real(const char *name)
{
    return name[0] == 'l' || name[0] == 'm';
}

static double bound_of(const shape *s)
{
    return is_real(s->keys) || is_real(s->values) ? BOUND_REAL : BOUND;
}

static void check(const shape *s, double error)
{
    worst_of_all = error > worst_of_all ? error : worst_of_all;
    check_error(s, error, bound_of(s));
}

static void check_case(const gpu_case *g, attend_case *c, const shape *s)
{
    check(s, error_of_case(g, c, s, 0));
}

static void check_shape(const gpu_case *g, const shape *s)
{
    check(s, error_of_shape(g, s, 0));
}

static const char *const names[] = {"tq4", "lm4", "tq2", "tq8", "tq3", "tq5", "tq6", "tq7",
                                    "mlx4"};
enum { N_NAMES = sizeof names / sizeof *names };

static void every_format(void **state)
{
    static const uint32_t dims[] = {128, 64, 256, 512, 192, 96, 80};
    for (int d = 0; d < 7; d++)
        for (int i = 0; i < N_NAMES; i++) {
            const char *other = d == 0 ? names[i] : names[(i + d) % N_NAMES];
            if ((!strcmp(names[i], "mlx4") || !strcmp(other, "mlx4")) && (dims[d] & (dims[d] - 1)))
                continue;
            shape s = {.keys = names[i], .values = other, .key_dim = dims[d], .value_dim = dims[d],
                       .n_kv_heads = 2, .group = 3, .n_queries = 1, .n_tokens = 300,
                       .slots_multiple = 16, .seed = (uint64_t)i};
            check_shape(*state, &s);
        }
}

static void every_group(void **state)
{
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 64};
    for (int i = 0; i < 12; i++) {
        shape s = {.keys = "tq4", .values = "lm4", .key_dim = 128, .value_dim = 128,
                   .n_kv_heads = 1 + (uint32_t)i % 2, .group = groups[i], .n_queries = 1,
                   .n_tokens = 700, .slots_multiple = 64};
        check_shape(*state, &s);
        s.key_dim = s.value_dim = i % 2 ? 256 : 64;
        check_shape(*state, &s);
    }
}

static void several_queries(void **state)
{
    for (uint32_t n = 1; n <= 16; n++) {
        shape s = {.keys = "tq4", .values = "tq4", .key_dim = 128, .value_dim = 128,
                   .n_kv_heads = 2, .group = 1 + n % 4, .n_queries = n, .n_tokens = 200 + 17 * n,
                   .slots_multiple = 16, .seed = n};
        attend_case c;
        case_make(&c, &s);
        case_store(&c, &s);
        c.a.causal = 1;
        c.a.window = n % 3 == 0 ? 70 : 0;
        check_case(*state, &c, &s);
        case_free(&c);
    }
}

static void any_number_of_tokens(void **state)
{
    static const size_t counts[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000, 5000, 20001};
    for (int i = 0; i < 14; i++) {
        shape s = {.keys = "tq4", .values = "tq4", .key_dim = 128, .value_dim = 128,
                   .n_kv_heads = 2, .group = 4, .n_queries = 1, .n_tokens = counts[i],
                   .slots_multiple = i % 2 ? 8 : 64};
        check_shape(*state, &s);
        s.first_slot = 13;
        check_shape(*state, &s);
    }
}

static void what_models_need(void **state)
{
    const gpu_case *g = *state;
    for (int i = 0; i < 14; i++) {
        shape s = {.keys = i % 3 ? "tq4" : "lm4", .values = "tq4", .key_dim = 128, .value_dim = 128,
                   .n_kv_heads = 2, .group = 4, .n_queries = 3, .n_tokens = 900,
                   .slots_multiple = 16, .seed = (uint64_t)i};
        float sinks[8] = {0, 1, -INFINITY, 3, 8, -4, 0, 2};
        attend_case c;
        s.is_balanced = i >= 3 && i <= 5;
        s.page_size = i == 5 || i == 6 ? 16 : i == 9 ? 48 : i == 10 ? 256 : 0;
        s.is_ring = i == 6 || i == 7 || i == 11;
        s.first_slot = s.is_ring ? 500 : i == 12 ? 1000 : 0;
        s.scales_vary = i == 13;
        case_make(&c, &s);
        case_store(&c, &s);
        c.a.causal = i % 2 == 0;
        c.a.window = i == 8 ? 64 : i == 4 ? INT64_MAX : i == 2 ? 300 : 0;
        c.a.softcap = i == 7 || i == 2 ? 2.5f : 0;
        c.a.sinks = i == 0 || i == 8 ? sinks : NULL;
        check_case(g, &c, &s);
        case_free(&c);
    }
}

/* Logits of +-80: one key decides. */
static void large_logits(void **state)
{
    shape s = {.keys = "tq8", .values = "tq4", .key_dim = 128, .value_dim = 128,
               .n_kv_heads = 1, .group = 4, .n_queries = 1, .n_tokens = 500, .key_size = 25,
               .slots_multiple = 16};
    check_shape(*state, &s);
}

/* One token weighs as much as half of the thousands that weigh little each: those are not
 * rounded away. */
static void many_small_weights(void **state)
{
    enum { N_HEADS = 4, N_TOKENS = 8192, DIM = 128 };
    shape s = {.keys = "tq8", .values = "tq8", .key_dim = DIM, .value_dim = DIM, .n_kv_heads = N_HEADS,
               .group = 1, .n_queries = 1, .n_tokens = N_TOKENS, .slots_multiple = 64,
               .key_size = 1e-3f};
    attend_case c;
    case_make(&c, &s);
    for (size_t h = 0; h < N_HEADS; h++) {
        const float *q = c.queries + h * DIM;
        float square = 0;
        for (size_t i = 0; i < DIM; i++)
            square += q[i] * q[i];
        for (size_t i = 0; i < DIM; i++) {
            c.keys[h * DIM + i] = 10.6f / square / c.a.scale * q[i];
            for (size_t t = 0; t < N_TOKENS; t++)
                c.values[(t * N_HEADS + h) * DIM + i] += 1;
        }
    }
    case_store(&c, &s);
    double error = error_of_case(*state, &c, &s, 0);
    print_message("many small weights: %.2e\n", error);
    check_error(&s, error, 5e-3);
    case_free(&c);
}

/* A cache of one sequence, its query, and room for what attention needs. */
typedef struct small_cache {
    tqkv_gpu_attention a;
    tqkv_buffer *cache, *workspace;
} small_cache;

enum { DIM = 128, HEADS = 8, KV = 2, TOKENS = 1024, OUT_BYTES = HEADS * DIM * 4 };

static void small_make(const gpu_case *g, small_cache *s)
{
    tqkv_format f = test_format("tq4", DIM);
    size_t code, scale, bytes;
    tqkv_format_code_bytes(&f, &code);
    tqkv_format_scale_bytes(&f, &scale);
    float *x = test_rows(3, (size_t)KV * TOKENS * DIM), *q = test_rows(4, HEADS * DIM);
    uint8_t *memory = malloc(KV * TOKENS * (code + scale));
    tqkv_rows rows = {memory, memory + KV * TOKENS * code, code, scale};
    assert_int_equal(tqkv_encode(&f, NULL, x, TQKV_F32, 0, KV * TOKENS, &rows), TQKV_OK);
    s->cache = gpu_buffer(g, memory, KV * TOKENS * (code + scale));
    tqkv_gpu_operand o = {.format = f};
    o.rows = (tqkv_gpu_rows){.codes = s->cache, .scales = s->cache,
                             .scale_offset = KV * TOKENS * code, .code_stride = code,
                             .scale_stride = scale};
    o.head = (tqkv_gpu_strides){TOKENS * code, TOKENS * scale, 0};
    s->a = (tqkv_gpu_attention){.n_sequences = 1, .n_queries = 1, .n_heads = HEADS,
                                .n_kv_heads = KV, .query_type = TQKV_F32, .out_type = TQKV_F32,
                                .n_tokens = TOKENS, .keys = o, .values = o, .scale = 0.1f};
    s->a.queries = gpu_buffer(g, q, OUT_BYTES);
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &s->a, &bytes));
    s->workspace = gpu_buffer(g, NULL, bytes);
    free(memory);
    free(x);
    free(q);
}

static void small_free(small_cache *s)
{
    tqkv_buffer_free(s->cache);
    tqkv_buffer_free(s->a.queries);
    tqkv_buffer_free(s->workspace);
}

/* Once, three in a row (of which the later may begin before the first has ended), and from a
 * graph launched twice: the same bits. */
static void the_same_bits_every_time(void **state)
{
    const gpu_case *g = *state;
    enum { N = 6 };
    tqkv_buffer *outs[N];
    small_cache s;
    small_make(g, &s);
    for (int i = 0; i < N; i++)
        outs[i] = gpu_buffer(g, NULL, OUT_BYTES);
    for (int i = 0; i < 4; i++) {
        s.a.out = outs[i];
        gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &s.a, s.workspace));
        if (i == 0)
            gpu_run(g);
    }
    gpu_run(g);
    tqkv_graph *graph;
    for (int i = 4; i < N; i++) {
        s.a.out = outs[i];
        gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &s.a, s.workspace));
    }
    gpu_ok(g, tqkv_encoder_finish_graph(g->encoder, &graph));
    gpu_ok(g, tqkv_graph_launch(graph, g->encoder));
    gpu_ok(g, tqkv_graph_launch(graph, g->encoder));
    gpu_run(g);
    tqkv_graph_free(graph);
    float *first = gpu_take(g, outs[0]);
    assert_true(isfinite(first[0]) && first[0] != 0);
    for (int i = 1; i < N; i++) {
        float *other = gpu_take(g, outs[i]);
        assert_memory_equal(other, first, OUT_BYTES);
        free(other);
    }
    free(first);
    small_free(&s);
}

/* A sequence in three parts, one of no tokens, on two streams as on two devices; merged. */
static void parts_merge_to_the_whole(void **state)
{
    const gpu_case *g = *state;
    enum { PARTS = 3, CUT = 400 };
    small_cache s;
    size_t bytes;
    tqkv_encoder *other;
    small_make(g, &s);
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &s.a, &bytes));
    gpu_ok(g, tqkv_encoder_create(g->device, NULL, &other));
    tqkv_buffer *whole = gpu_buffer(g, NULL, OUT_BYTES), *whole_state = gpu_buffer(g, NULL, HEADS * 8),
                *outs = gpu_buffer(g, NULL, PARTS * OUT_BYTES),
                *states = gpu_buffer(g, NULL, PARTS * HEADS * 8),
                *merged = gpu_buffer(g, NULL, OUT_BYTES), *merged_state = gpu_buffer(g, NULL, HEADS * 8),
                *room = gpu_buffer(g, NULL, 2 * bytes);
    s.a.out = whole;
    s.a.state = whole_state;
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &s.a, s.workspace));
    gpu_run(g);
    for (uint32_t i = 0; i < PARTS; i++) {
        tqkv_gpu_attention a = s.a;
        tqkv_buffer *workspace = i == 1 ? room : s.workspace;
        a.first_slot = a.first_position = i == 0 ? 0 : CUT;
        a.n_tokens = i == 0 ? CUT : i == 1 ? TOKENS - CUT : 0;
        gpu_ok(g, tqkv_buffer_view(outs, i * OUT_BYTES, OUT_BYTES, &a.out));
        gpu_ok(g, tqkv_buffer_view(states, i * HEADS * 8, HEADS * 8, &a.state));
        gpu_ok(g, tqkv_dispatch_attend(i == 1 ? other : g->encoder, g->registry, &a, workspace));
        tqkv_buffer_free(a.out);
        tqkv_buffer_free(a.state);
    }
    gpu_ok(g, tqkv_encoder_submit(other));
    gpu_ok(g, tqkv_encoder_wait(other));
    gpu_ok(g, tqkv_dispatch_merge(g->encoder, g->registry, PARTS, HEADS, DIM, outs, states, merged,
                                  TQKV_F32, merged_state));
    gpu_run(g);
    assert_int_not_equal(tqkv_dispatch_merge(g->encoder, g->registry, PARTS + 1, HEADS, DIM, outs,
                                             states, merged, TQKV_F32, NULL), TQKV_OK);
    assert_int_not_equal(tqkv_dispatch_merge(g->encoder, g->registry, 0, HEADS, DIM, outs, states,
                                             merged, TQKV_F32, NULL), TQKV_OK);
    assert_int_not_equal(tqkv_dispatch_merge(g->encoder, g->registry, PARTS, HEADS, DIM, outs,
                                             NULL, merged, TQKV_F32, NULL), TQKV_OK);
    float *want = gpu_take(g, whole), *got = gpu_take(g, merged),
          *want_state = gpu_take(g, whole_state), *got_state = gpu_take(g, merged_state);
    assert_true(sqrt(test_error(want, got, HEADS * DIM)) <= BOUND);
    for (int h = 0; h < HEADS; h++)
        assert_true(fabs(log(want_state[2 * h + 1]) + want_state[2 * h] - log(got_state[2 * h + 1]) -
                         got_state[2 * h]) < 1e-3);
    tqkv_buffer_free(outs);
    tqkv_buffer_free(states);
    tqkv_buffer_free(room);
    tqkv_encoder_free(other);
    free(want);
    free(got);
    free(want_state);
    free(got_state);
    small_free(&s);
}

/* ---- what a query cannot see ---- */

static void nothing_unseen_counts(void **state)
{
    static const uint32_t dims[] = {128, 64, 256, 80};
    for (int i = 0; i < 8; i++) {
        shape s = {.keys = names[i], .values = names[(i + 1) % 8], .key_dim = dims[i % 4],
                   .value_dim = dims[i % 4], .n_kv_heads = 2, .group = 2,
                   .n_queries = 1 + 2 * (uint32_t)(i % 3), .n_tokens = 700, .slots_multiple = 64,
                   .seed = (uint64_t)i};
        s.keys = i % 4 == 3 ? "tq4" : s.keys; /* others have no whole words with 80 */
        s.values = i % 4 == 3 ? "tq4" : s.values;
        s.is_balanced = i % 4 == 0;
        s.page_size = i % 5 == 1 ? 32 : 0;
        check_unseen(*state, &s, 3 + (uint64_t)i * 83, i % 2 ? 100 : 0, 0);
    }
}

static void rows_of_a_launch_are_apart(void **state)
{
    for (int i = 0; i < 3; i++) { /* with tokens enough that warps' refs move on the way */
        shape s = {.keys = "tq4", .values = i % 2 ? "lm4" : "tq4", .key_dim = 64, .value_dim = 64,
                   .n_kv_heads = 1, .group = 2, .n_queries = i == 0 ? 2 : i == 1 ? 3 : 5,
                   .n_tokens = i == 2 ? 3000 : 6000, .key_size = 2, .slots_multiple = 64,
                   .seed = (uint64_t)i};
        check_beside(*state, &s, 0);
    }
}

/* ---- streams ---- */

typedef struct launched {
    const gpu_case *g;
    tqkv_encoder *encoder;
    small_cache *s;
    void *(*last_buffer)(unsigned);
    void *counters[2]; /* by the encoder, and by one that the thread made */
} launched;

static void *counters_of(launched *l, tqkv_encoder *e)
{
    enum { COUNTERS = 20 };
    if (tqkv_dispatch_attend(e, l->g->registry, &l->s->a, l->s->workspace) != TQKV_OK ||
        tqkv_encoder_submit(e) != TQKV_OK || tqkv_encoder_wait(e) != TQKV_OK)
        return NULL;
    return l->last_buffer(COUNTERS);
}

static void *launch_both(void *argument)
{
    launched *l = argument;
    tqkv_encoder *own = NULL;
    void *per_thread = (void *)2; /* CU_STREAM_PER_THREAD */
    if (tqkv_encoder_create(l->g->device, per_thread, &own) == TQKV_OK)
        l->counters[1] = counters_of(l, own);
    l->counters[0] = counters_of(l, l->encoder);
    tqkv_encoder_free(own);
    return NULL;
}

/* CU_STREAM_PER_THREAD is another stream in each thread, whose launches run beside each other:
 * they must not count in the same place. */
static void streams_of_threads_count_apart(void **state)
{
    enum { THREADS = 3 };
    small_cache s;
    launched l[THREADS];
    pthread_t thread;
    tqkv_encoder *e, *legacy;
    if (!getenv("TQKV_TEST_STANDIN") || getenv("TQKV_TEST_MODULE") ||
        strncmp(gpu_device_name(), "cuda", 4))
        skip(); /* another driver, or no compiler and so no kernel that counts */
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    assert_non_null(driver);
    void *found = dlsym(driver, "standin_last_buffer");
    assert_non_null(found);
    small_make(*state, &s);
    s.a.out = gpu_buffer(*state, NULL, OUT_BYTES);
    gpu_ok(*state, tqkv_encoder_create(((gpu_case *)*state)->device, (void *)2, &e));
    gpu_ok(*state, tqkv_encoder_create(((gpu_case *)*state)->device, (void *)1, &legacy));
    for (int i = 0; i < THREADS; i++) {
        l[i] = (launched){.g = *state, .encoder = e, .s = &s};
        memcpy(&l[i].last_buffer, &found, sizeof found);
        if (i == 0) {
            launch_both(&l[i]);
        } else { /* the second ends before the third, whose pthread_t may be the same */
            assert_int_equal(pthread_create(&thread, NULL, launch_both, &l[i]), 0);
            pthread_join(thread, NULL);
        }
        assert_non_null(l[i].counters[0]);
        assert_ptr_equal(l[i].counters[0], l[i].counters[1]);
        assert_ptr_not_equal(l[i].counters[0], counters_of(&l[i], legacy));
        for (int k = 0; k < i; k++)
            assert_ptr_not_equal(l[i].counters[0], l[k].counters[0]);
    }
    tqkv_buffer_free(s.a.out);
    tqkv_encoder_free(legacy);
    tqkv_encoder_free(e);
    small_free(&s);
    dlclose(driver);
}

/* argument: the name of a test, or all */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format),
        cmocka_unit_test(every_group),
        cmocka_unit_test(several_queries),
        cmocka_unit_test(any_number_of_tokens),
        cmocka_unit_test(what_models_need),
        cmocka_unit_test(large_logits),
        cmocka_unit_test(many_small_weights),
        cmocka_unit_test(the_same_bits_every_time),
        cmocka_unit_test(parts_merge_to_the_whole),
        cmocka_unit_test(nothing_unseen_counts),
        cmocka_unit_test(rows_of_a_launch_are_apart),
        cmocka_unit_test(streams_of_threads_count_apart),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
    print_message("worst error %.2e\n", worst_of_all);
    return failed;
}

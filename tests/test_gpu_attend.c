/* Attention on a device against double precision over the decoded rows. */
#include "gpu_attend_case.h"

/* What tqkv_gpu.h promises. */
#define BOUND 1e-3

static void check_case(const gpu_case *g, attend_case *c, const shape *s)
{
    check_error(s, error_of_case(g, c, s, 1), BOUND);
}

static void check_shape(const gpu_case *g, const shape *s)
{
    check_error(s, error_of_shape(g, s, 1), BOUND);
}

static const char *const names[] = {"tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8",
                                    "lm2", "lm3", "lm4", "mlx4", "mlx5", "mlx6", "mlx8", "f32",
                                    "f16", "bf16"};
enum { N_NAMES = sizeof names / sizeof *names };

static void every_format(void **state)
{
    static const uint32_t dims[] = {64, 128, 256, 512};
    for (int i = 0; i < N_NAMES; i++)
        for (int d = 0; d < 4; d++) {
            shape s = {.keys = names[i], .values = names[(i + d) % N_NAMES], .key_dim = dims[d],
                       .value_dim = dims[d], .n_kv_heads = 2, .group = 3, .n_queries = 1,
                       .n_tokens = 300, .seed = (uint64_t)i};
            check_shape(*state, &s);
        }
}

static void every_head_dim(void **state)
{
    for (uint32_t dim = 16; dim <= 512; dim += 16) {
        shape s = {.keys = "tq4", .values = "tq3", .key_dim = dim, .value_dim = dim == 64 ? 128 : dim,
                   .n_kv_heads = 1, .group = 2, .n_queries = 2, .n_tokens = 150};
        uint32_t odd = dim;
        while (odd % 2 == 0)
            odd /= 2;
        if (odd <= 9)
            check_shape(*state, &s);
    }
}

static void what_models_need(void **state)
{
    const gpu_case *g = *state;
    for (int i = 0; i < 9; i++) {
        shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64,
                   .n_kv_heads = 2, .group = 4, .n_queries = 5, .n_tokens = 400,
                   .seed = (uint64_t)i};
        float sinks[8] = {0, 1, -INFINITY, 3, 8, -4, 0, 2};
        attend_case c;
        s.group = i == 1 ? 1 : i == 2 ? 7 : 4;
        s.is_balanced = i == 3 || i == 4;
        s.page_size = i == 5 || i == 6 ? 32 : 0;
        s.is_ring = i == 6 || i == 7;
        s.first_slot = s.is_ring ? 77 : 0;
        case_make(&c, &s);
        case_store(&c, &s);
        c.a.causal = i % 2 == 0;
        c.a.window = i == 8 ? 64 : i == 4 ? INT64_MAX : 0;
        c.a.softcap = i == 7 || i == 2 ? 2.5f : 0;
        c.a.sinks = i == 0 || i == 8 ? sinks : NULL;
        check_case(g, &c, &s);
        case_free(&c);
    }
}

static void few_tokens_and_many(void **state)
{
    static const size_t counts[] = {0, 1, 2, 127, 128, 129, 1000, 5000};
    for (int i = 0; i < 8; i++) {
        shape s = {.keys = "tq4", .values = "lm4", .key_dim = 128, .value_dim = 128,
                   .n_kv_heads = 1, .group = 1 + (uint32_t)i % 4, .n_queries = 1,
                   .n_tokens = counts[i]};
        check_shape(*state, &s);
    }
}

/* Plain numbers behind the queries were never written: NaN, here. */
static void what_is_not_seen_may_be_anything(void **state)
{
    shape s = {.keys = "f32", .values = "f16", .key_dim = 64, .value_dim = 64, .n_kv_heads = 1,
               .group = 2, .n_queries = 1, .n_tokens = 200};
    attend_case c;
    case_make(&c, &s);
    case_store(&c, &s);
    c.a.causal = 1;
    c.a.position = 50;
    for (size_t i = 51 * 64; i < 200 * 64; i++) {
        ((float *)c.key_memory)[i] = NAN;
        ((uint16_t *)c.value_memory)[i] = 0x7E00;
    }
    check_error(&s, error_of_case(*state, &c, &s, 1), BOUND);
    case_free(&c);
}

static void nothing_unseen_counts(void **state)
{
    for (int i = 0; i < N_NAMES; i++) {
        shape s = {.keys = names[i], .values = names[(i + 3) % N_NAMES], .key_dim = 64,
                   .value_dim = 64, .n_kv_heads = 2, .group = 2, .n_queries = 1 + (uint32_t)i % 3,
                   .n_tokens = 700, .slots_multiple = 64, .seed = (uint64_t)i};
        s.is_balanced = i % 4 == 0;
        s.page_size = i % 5 == 1 ? 32 : 0;
        check_unseen(*state, &s, 3 + (uint64_t)i * 37, i % 2 ? 100 : 0, 1);
    }
}

static void rows_of_a_launch_are_apart(void **state)
{
    for (int i = 0; i < 4; i++) {
        shape s = {.keys = i % 2 ? "lm4" : "tq4", .values = i < 2 ? "tq3" : "f16", .key_dim = 64,
                   .value_dim = 64, .n_kv_heads = 1, .group = 1 + (uint32_t)i, .n_queries = 3,
                   .n_tokens = 500, .seed = (uint64_t)i};
        check_beside(*state, &s, 1);
    }
}

/* What would read beyond a buffer, or has no meaning, is refused; and what makes
 * sizes overflow. */
static void bad_calls_are_refused(void **state)
{
    const gpu_case *g = *state;
    enum { DIM = 64, TOKENS = 20 };
    tqkv_format f = test_format("tq4", DIM);
    size_t row, bytes;
    tqkv_format_row_bytes(&f, &row);
    tqkv_gpu_rows rows;
    tqkv_buffer *codes = gpu_rows_buffer(g, &f, NULL, TOKENS, &rows);
    tqkv_gpu_attention good = {
        .n_sequences = 1, .n_queries = 1, .n_heads = 2, .n_kv_heads = 1,
        .query_type = TQKV_F32, .out_type = TQKV_F16, .n_tokens = TOKENS, .position = 19,
        .keys = {.format = f, .rows = rows}, .values = {.format = f, .rows = rows},
        .scale = 1, .causal = 1};
    good.queries = gpu_buffer(g, NULL, 2 * DIM * 4);
    good.out = gpu_buffer(g, NULL, 2 * DIM * 2);
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &good, &bytes));
    tqkv_buffer *workspace = gpu_buffer(g, NULL, bytes), *less = gpu_buffer(g, NULL, bytes - 4);
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &good, workspace));
    gpu_run(g);
#define BAD(change, w)                                                                     \
    do {                                                                                   \
        tqkv_gpu_attention a = good;                                                       \
        change;                                                                            \
        assert_int_not_equal(tqkv_dispatch_attend(g->encoder, g->registry, &a, w), TQKV_OK); \
    } while (0)
    BAD(a.n_heads = 3, NULL);
    BAD(a.scale = NAN, workspace);
    BAD(a.softcap = -1, workspace);
    BAD(a.softcap = INFINITY, workspace);
    BAD(a.n_tokens = TOKENS + 1, workspace);
    BAD(a.n_tokens = UINT32_MAX, workspace);
    BAD(a.first_slot = 1, workspace);
    BAD(a.first_slot = UINT64_MAX, workspace);
    BAD(a.capacity = TOKENS - 1, workspace);
    BAD((a.capacity = TOKENS, a.first_slot = TOKENS), workspace);
    BAD((a.n_kv_heads = 2, a.keys.head.codes = SIZE_MAX), workspace);
    BAD(a.n_sequences = 0, workspace);
    BAD(a.n_sequences = UINT32_MAX, workspace);
    BAD(a.n_queries = UINT32_MAX, workspace);
    BAD(a.n_queries = 2, workspace);
    BAD(a.query_type = (tqkv_type)7, workspace);
    BAD(a.out_type = TQKV_F32, workspace);
    BAD(a.keys.format.head_dim = 80, workspace);
    BAD(a.keys.format.head_dim = 1024, workspace);
    BAD(a.keys.format.bits = 9, workspace);
    BAD(a.keys.scale_factor_d512 = NAN, workspace);
    BAD(a.keys.rows.codes = NULL, workspace);
    BAD(a.values.rows.scale_offset = SIZE_MAX, workspace);
    BAD((a.keys.balances = workspace, a.keys.is_rotated = 1), workspace);
    BAD((a.pages = good.queries, a.page_size = 0, a.n_pages = 1, a.pages_stride = 1), workspace);
    BAD((a.pages = good.queries, a.page_size = 16, a.n_pages = 2, a.pages_stride = 1), workspace);
    BAD((a.pages = good.queries, a.page_size = 16, a.n_pages = 2, a.pages_stride = 2,
         a.keys.page.codes = 16 * row), workspace);
    BAD(a.queries = NULL, workspace);
    BAD(a.out = NULL, workspace);
    BAD((void)a, less);
    BAD((void)a, NULL);
    assert_int_equal(tqkv_dispatch_attend(g->encoder, g->registry, NULL, workspace),
                     TQKV_ERROR_ARGUMENT);
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &good, workspace));
    gpu_run(g);
    tqkv_buffer *used[] = {codes, good.queries, good.out, workspace, less};
    for (int i = 0; i < 5; i++)
        tqkv_buffer_free(used[i]);
}

/* Logits of +-80: one key decides. */
static void large_logits(void **state)
{
    shape s = {.keys = "tq8", .values = "tq4", .key_dim = 128, .value_dim = 128,
               .n_kv_heads = 1, .group = 4, .n_queries = 1, .n_tokens = 500, .key_size = 25};
    check_shape(*state, &s);
}

/* Several sequences, each as long as it is, in pages that they share. */
static void sequences_of_all_lengths(void **state)
{
    const gpu_case *g = *state;
    enum { N = 3, HEADS = 4, KV = 2, DIM = 64, MOST = 200, PAGE = 16, PAGES = 13 };
    static const uint32_t lengths[N] = {200, 1, 77};
    tqkv_format f = test_format("tq4", DIM);
    size_t row, bytes, page_rows = KV * PAGE;
    uint32_t table[N * PAGES], seed_page = 0;
    tqkv_format_row_bytes(&f, &row);
    float *x = test_rows(5, (size_t)N * PAGES * page_rows * DIM), *q = test_rows(6, N * HEADS * DIM);
    tqkv_rows rows;
    uint8_t *memory = test_encode(&f, NULL, x, (size_t)N * PAGES * page_rows, &rows);
    for (int i = 0; i < N * PAGES; i++) {
        seed_page = (seed_page + 11) % (N * PAGES);
        table[i] = seed_page;
    }
    tqkv_gpu_attention a = {
        .n_sequences = N, .n_queries = 1, .n_heads = HEADS, .n_kv_heads = KV,
        .query_type = TQKV_F32, .out_type = TQKV_F32, .n_tokens = MOST, .page_size = PAGE,
        .pages_stride = PAGES, .n_pages = N * PAGES, .scale = 0.125f, .causal = 1};
    tqkv_gpu_rows gpu_rows;
    tqkv_buffer *codes = gpu_rows_buffer(g, &f, memory, (size_t)N * PAGES * page_rows, &gpu_rows);
    a.keys.format = a.values.format = f;
    a.keys.rows = a.values.rows = gpu_rows;
    a.keys.head = a.values.head = (tqkv_gpu_strides){PAGE * row, PAGE * row, 0};
    a.keys.page = a.values.page = (tqkv_gpu_strides){page_rows * row, page_rows * row, 0};
    a.queries = gpu_buffer(g, q, N * HEADS * DIM * 4);
    a.out = gpu_buffer(g, NULL, N * HEADS * DIM * 4);
    a.lengths = gpu_buffer(g, lengths, sizeof lengths);
    a.pages = gpu_buffer(g, table, sizeof table);
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &a, &bytes));
    tqkv_buffer *workspace = gpu_buffer(g, NULL, bytes);
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &a, workspace));
    gpu_run(g);
    float *out = gpu_take(g, a.out);
    for (int b = 0; b < N; b++) { /* the same on the processor, a sequence at a time */
        float want[HEADS * DIM];
        tqkv_operand o = {.format = f, .rows = rows, .head = {.codes = PAGE * row, .scales = PAGE * row},
                          .page = {.codes = page_rows * row, .scales = page_rows * row}};
        tqkv_tokens set = {.n_tokens = lengths[b], .pages = table + b * PAGES, .page_size = PAGE,
                           .n_pages = N * PAGES, .keys = o, .values = o};
        tqkv_attention ca = {.n_queries = 1, .n_heads = HEADS, .n_kv_heads = KV,
                             .position = lengths[b] - 1, .queries = q + b * HEADS * DIM,
                             .scale = 0.125f, .causal = 1, .sets = &set, .n_sets = 1};
        tqkv_partial result = {want, NULL, NULL};
        size_t size;
        assert_int_equal(tqkv_attend_workspace(&ca, NULL, &size), TQKV_OK);
        void *space = malloc(size);
        assert_int_equal(tqkv_attend(&ca, &result, NULL, space, size), TQKV_OK);
        double error = sqrt(test_error(want, out + b * HEADS * DIM, HEADS * DIM));
        assert_true(error <= BOUND + 1.5e-2);
        free(space);
    }
    tqkv_buffer *used[] = {codes, a.queries, a.lengths, a.pages, workspace};
    for (int i = 0; i < 5; i++)
        tqkv_buffer_free(used[i]);
    free(out);
    free(memory);
    free(x);
    free(q);
}

/* A sequence of the n there are, into out: by its length on the device, or the caller's. */
static void attend_alone(const gpu_case *g, const tqkv_gpu_attention *all, uint32_t b,
                         const uint32_t *lengths, const float *q, int by_length, float *out)
{
    tqkv_gpu_attention a = *all;
    size_t bytes, row = (size_t)a.n_heads * a.keys.format.head_dim * 4;
    a.n_sequences = 1;
    a.lengths = by_length ? gpu_buffer(g, lengths + b, 4) : NULL;
    a.n_tokens = by_length ? all->n_tokens : lengths[b];
    a.position = lengths[b] - 1;
    a.queries = gpu_buffer(g, q + b * row / 4, row);
    a.out = gpu_buffer(g, NULL, row);
    a.keys.rows.code_offset += b * a.keys.sequence.codes;
    a.keys.rows.scale_offset += b * a.keys.sequence.scales;
    a.values.rows = a.keys.rows;
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &a, &bytes));
    tqkv_buffer *workspace = gpu_buffer(g, NULL, bytes);
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &a, workspace));
    gpu_run(g);
    gpu_ok(g, tqkv_buffer_download(a.out, 0, out, row));
    tqkv_buffer_free(a.out);
    tqkv_buffer_free(a.queries);
    tqkv_buffer_free(a.lengths);
    tqkv_buffer_free(workspace);
}

/* A sequence gives the same bits alone and beside others, whatever their lengths. */
static void sequences_are_apart(void **state)
{
    const gpu_case *g = *state;
    enum { N = 9, HEADS = 2, DIM = 64, MOST = 2600, ROW = HEADS * DIM };
    static const uint32_t lengths[N] = {2600, 1, 129, 128, 1000, 2000, 640, 77, 2599};
    tqkv_format f = test_format("tq4", DIM);
    size_t row, bytes;
    tqkv_format_row_bytes(&f, &row);
    float *x = test_rows(5, (size_t)N * MOST * DIM), *q = test_rows(6, N * ROW), alone[ROW];
    tqkv_rows rows;
    uint8_t *memory = test_encode(&f, NULL, x, (size_t)N * MOST, &rows);
    tqkv_gpu_attention a = {
        .n_sequences = N, .n_queries = 1, .n_heads = HEADS, .n_kv_heads = 1,
        .query_type = TQKV_F32, .out_type = TQKV_F32, .n_tokens = MOST, .scale = 0.5f,
        .causal = 1, .is_portable = 1};
    tqkv_buffer *codes = gpu_rows_buffer(g, &f, memory, (size_t)N * MOST, &a.keys.rows);
    a.keys.format = f;
    a.keys.sequence = (tqkv_gpu_strides){MOST * row, MOST * row, 0};
    a.values = a.keys;
    a.queries = gpu_buffer(g, q, N * ROW * 4);
    a.out = gpu_buffer(g, NULL, N * ROW * 4);
    a.lengths = gpu_buffer(g, lengths, sizeof lengths);
    gpu_ok(g, tqkv_gpu_attend_workspace(g->device, &a, &bytes));
    tqkv_buffer *workspace = gpu_buffer(g, NULL, bytes);
    gpu_ok(g, tqkv_dispatch_attend(g->encoder, g->registry, &a, workspace));
    gpu_run(g);
    float *out = gpu_take(g, a.out);
    for (uint32_t b = 0; b < N; b++)
        for (int by_length = 0; by_length < 2; by_length++) {
            attend_alone(g, &a, b, lengths, q, by_length, alone);
            if (memcmp(alone, out + b * ROW, sizeof alone))
                fail_msg("sequence %u depends on others (%d)", b, by_length);
        }
    tqkv_buffer *used[] = {codes, a.queries, a.lengths, workspace};
    for (int i = 0; i < 4; i++)
        tqkv_buffer_free(used[i]);
    free(out);
    free(memory);
    free(x);
    free(q);
}

/* flash_attn_vec, _tq and _hb on the same data: the second and third are what the
 * first gives on what they decode to. */
static void the_references_legs(void **state)
{
    const gpu_case *g = *state;
    enum { HEADS = 6, KV = 2, CAPACITY = 150, N = 140, RING = 33 };
    for (uint32_t dim = 128; dim <= 512; dim *= 2)
        for (uint32_t bits = 4; bits <= 8; bits++) {
            if (bits == 7)
                continue;
            tqkv_mlx_shape ms = {bits, KV, dim, CAPACITY};
            size_t packed_bytes, n_norms, n = (size_t)CAPACITY * KV * dim, bytes;
            tqkv_mlx_sizes(&ms, &packed_bytes, &n_norms);
            uint8_t *packed[2];
            float *norms[2], *decoded[2], *q = test_rows(3, HEADS * dim);
            tqkv_buffer *b[8], *dense[2];
            for (int i = 0; i < 2; i++) {
                float *x = test_rows(dim + (unsigned)i, n), *y = malloc(n * sizeof *y);
                packed[i] = malloc(packed_bytes);
                norms[i] = malloc(n_norms * sizeof *norms[i]);
                decoded[i] = malloc(n * sizeof *decoded[i]);
                tqkv_mlx_encode(&ms, x, 0, CAPACITY, packed[i], norms[i]);
                tqkv_mlx_decode(&ms, packed[i], norms[i], 0, CAPACITY, 1, y, n);
                for (size_t t = 0; t < CAPACITY; t++) /* [head][slot] for the dense leg */
                    for (size_t h = 0; h < KV; h++)
                        memcpy(decoded[i] + (h * CAPACITY + t) * dim, y + (t * KV + h) * dim,
                               dim * sizeof *y);
                b[2 * i] = gpu_buffer(g, packed[i], packed_bytes);
                b[2 * i + 1] = gpu_buffer(g, norms[i], n_norms * sizeof *norms[i]);
                dense[i] = gpu_buffer(g, decoded[i], n * sizeof *decoded[i]);
                free(x);
                free(y);
            }
            tqkv_flash_attn_vec_params p = {
                .num_heads = HEADS, .num_kv_heads = KV, .head_dim = dim, .kv_seq_len = N,
                .kv_capacity = CAPACITY, .scale = 1 / sqrtf((float)dim),
                .mask_type = bits == 5 ? 2 : 1, .sliding_window = 50,
                .softcap = bits == 6 ? 1.5f : 0, .ring_start = RING, .scale_factor_d512 = 1};
            gpu_ok(g, tqkv_flash_attn_vec_workspace(g->device, &p, &bytes));
            b[4] = gpu_buffer(g, NULL, bytes);
            b[5] = gpu_buffer(g, q, HEADS * dim * 4);
            b[6] = gpu_buffer(g, NULL, HEADS * dim * 4);
            b[7] = gpu_buffer(g, NULL, HEADS * dim * 4);
            gpu_ok(g, tqkv_dispatch_flash_attn_vec(g->encoder, g->registry, g->device, b[5],
                                                   dense[0], dense[1], TQKV_F32, b[6], b[4], &p));
            if (bits == 4)
                gpu_ok(g, tqkv_dispatch_flash_attn_vec_tq(g->encoder, g->registry, g->device,
                                                          b[5], b[0], b[1], b[2], b[3], b[7],
                                                          b[4], &p));
            else
                gpu_ok(g, tqkv_dispatch_flash_attn_vec_hb(g->encoder, g->registry, g->device,
                                                          b[5], b[0], b[1], b[2], b[3], b[7],
                                                          b[4], &p, bits));
            gpu_run(g);
            float *first = gpu_take(g, b[6]), *second = gpu_take(g, b[7]);
            assert_true(sqrt(test_error(first, second, HEADS * dim)) < 1e-5);
            /* the oracle: a window of 50 of the ring's newest tokens */
            for (size_t h = 0; h < HEADS; h++) {
                double l[N], max = -INFINITY, sum = 0, error = 0, size = 0;
                size_t kv = h / (HEADS / KV);
                for (size_t t = 0; t < N; t++) {
                    const float *k = decoded[0] + (kv * CAPACITY + (RING + t) % CAPACITY) * dim;
                    l[t] = 0;
                    for (size_t d = 0; d < dim; d++)
                        l[t] += (double)q[h * dim + d] * k[d] * p.scale;
                    if (p.softcap > 0)
                        l[t] = p.softcap * tanh(l[t] / p.softcap);
                    if (bits == 5 && t + 50 < N)
                        l[t] = -INFINITY;
                    max = l[t] > max ? l[t] : max;
                }
                for (size_t t = 0; t < N; t++)
                    sum += exp(l[t] - max);
                for (size_t d = 0; d < dim; d++) {
                    double want = 0;
                    for (size_t t = 0; t < N; t++)
                        want += exp(l[t] - max) / sum *
                                decoded[1][(kv * CAPACITY + (RING + t) % CAPACITY) * dim + d];
                    error += (want - first[h * dim + d]) * (want - first[h * dim + d]);
                    size += want * want;
                }
                assert_true(sqrt(error / size) < 1e-5);
            }
            free(first);
            free(second);
            for (int i = 0; i < 6; i++)
                tqkv_buffer_free(b[i]);
            for (int i = 0; i < 2; i++) {
                tqkv_buffer_free(dense[i]);
                free(packed[i]);
                free(norms[i]);
                free(decoded[i]);
            }
            free(q);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format),
        cmocka_unit_test(every_head_dim),
        cmocka_unit_test(what_models_need),
        cmocka_unit_test(few_tokens_and_many),
        cmocka_unit_test(large_logits),
        cmocka_unit_test(sequences_of_all_lengths),
        cmocka_unit_test(nothing_unseen_counts),
        cmocka_unit_test(rows_of_a_launch_are_apart),
        cmocka_unit_test(sequences_are_apart),
        cmocka_unit_test(the_references_legs),
        cmocka_unit_test(what_is_not_seen_may_be_anything),
        cmocka_unit_test(bad_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}

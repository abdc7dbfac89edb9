/* Attention on sealed and staged pages on a device, against double precision over what their
 * rows decode to. */
#include "gpu_page_case.h"

/* What tqkv_gpu.h promises: of the portable kernel, and of tensor cores with levels that
 * become integers. */
static double bound_of(const page_shape *s, int is_portable)
{
    int is_coarse = s->keys[0] != 't' || s->values[0] != 't';
    return is_coarse && !is_portable ? 1.1e-2 : 1e-3;
}

/* Formats and head sizes of the kernel for tensor cores (doc/gpu.md). */
static int has_tensor_kernel(const page_shape *s)
{
    static const char *const unserved[] = {"lm2", "lm3", "mlx5", "mlx6", "mlx8"};
    for (size_t i = 0; i < sizeof unserved / sizeof *unserved; i++)
        if (!strcmp(s->keys, unserved[i]) || !strcmp(s->values, unserved[i]))
            return 0;
    return s->key_dim == s->value_dim && s->key_dim >= 64;
}

/* The stand-in that emulates tensor cores compiles no other kernel: it has the portable one of
 * no particular case, and so only what the first serves is tried there. */
static int is_left_out(const page_batch *b)
{
    return getenv("TQKV_TEST_CUDA_ARCH") &&
           (b->is_portable || !has_tensor_kernel(&b->shapes[0]));
}

/* And of what takes many compilations every so-many-th. */
static int step_of(int emulated)
{
    return getenv("TQKV_TEST_CUDA_ARCH") ? emulated : 1;
}

static void check_both(const gpu_case *g, page_batch *b, batch_change *also, void *context)
{
    batch_make(b);
    for (int i = 0; i < 2; i++) {
        b->is_portable = i;
        b->is_packed = i;
        if (is_left_out(b))
            continue;
        batch_run(g, b, also, context);
        batch_check(b, bound_of(&b->shapes[0], i));
    }
    batch_free(b);
}

static void check_shape(const gpu_case *g, const page_shape *s)
{
    page_batch b = {.shapes = {*s}, .n = 1};
    check_both(g, &b, NULL, NULL);
}

static void formats_and_patterns(void **state)
{
    static const char *const names[][2] = {{"tq4", "tq4"}, {"tq3", "tq2"}, {"tq8", "tq8"},
                                           {"tq5", "lm4"}, {"lm3", "tq6"}, {"mlx4", "mlx4"},
                                           {"mlx8", "mlx8"}, {"tq4s", "tq4"}, {"tq4n", "lm2"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int pattern = ALL_SEALED; pattern <= ALL_STAGED; pattern += step_of(1 + (i > 0))) {
            page_shape s = {.keys = names[i][0], .values = names[i][1], .key_dim = 64,
                            .value_dim = 64, .n_kv_heads = 2, .group = 3,
                            .n_queries = 1 + (uint32_t)pattern, .n_tokens = 300,
                            .pattern = (page_pattern)pattern, .has_balance = pattern % 2, .seed = i};
            check_shape(*state, &s);
        }
}

/* Head sizes, groups, prompts, tiles that begin within pages, rings. */
static void shapes(void **state)
{
    static const uint32_t dims[][2] = {{64, 64}, {128, 128}, {96, 96}, {80, 80}, {256, 256},
                                       {192, 128}, {16, 512}};
    static const uint32_t groups[] = {1, 2, 4, 7, 16};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t i = 0; i < sizeof groups / sizeof *groups; i += (size_t)step_of(2)) {
            page_shape s = {.keys = "tq4", .values = "tq4", .key_dim = dims[d][0],
                            .value_dim = dims[d][1], .n_kv_heads = 1 + (uint32_t)i % 2,
                            .group = groups[i], .n_queries = i == 1 ? 20 : 1 + (uint32_t)i,
                            .n_tokens = 250 + 20 * i, .first_slot = 20 * d, .is_ring = (int)i % 2,
                            .pattern = i % 3 ? ALTERNATING : LAST_STAGED, .has_balance = (int)i % 2,
                            .seed = d + 10 * i};
            check_shape(*state, &s);
        }
}

static void adversarial_rows(void **state)
{
    static const char *const names[] = {"tq3", "tq4", "tq8", "lm4", "mlx4"};
    for (int data = NEAR_A_MEAN; data <= NO_MEAN_AT_ALL; data++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            page_shape s = {.keys = names[i], .values = names[i], .key_dim = 64, .value_dim = 64,
                            .n_kv_heads = 1, .group = 4, .n_queries = 3, .n_tokens = 200,
                            .pattern = i % 2 ? ALTERNATING : ALL_SEALED, .data = (row_data)data,
                            .is_early = (int)i % 3 == 1, .seed = i};
            check_shape(*state, &s);
        }
}

/* ---- what is added to logits ---- */

typedef struct additions {
    float slopes[4], sinks[4], mask_slopes[4], *mask;
    uint16_t *half;
    size_t n, stride, head_stride;
    unsigned bits;
    tqkv_buffer *buffers[4];
} additions;

static void add(const gpu_case *g, tqkv_gpu_attention *a, void *context)
{
    additions *x = context;
    if (x->bits & 8)
        a->slopes = x->buffers[0] = gpu_buffer(g, x->slopes, sizeof x->slopes);
    if (x->bits & 1)
        a->sinks = x->buffers[1] = gpu_buffer(g, x->sinks, sizeof x->sinks);
    if (!(x->bits & 16))
        return;
    int is_half = x->bits & 4;
    a->mask = x->buffers[2] = gpu_buffer(g, is_half ? (void *)x->half : x->mask, x->n * (is_half ? 2 : 4));
    a->mask_type = is_half ? TQKV_F16 : TQKV_F32;
    a->mask_row_stride = x->stride;
    a->mask_head_stride = x->head_stride;
    if (x->bits & 2)
        a->mask_slopes = x->buffers[3] = gpu_buffer(g, x->mask_slopes, sizeof x->mask_slopes);
}

/* Masks of f16 and f32, for all heads and for each; minus infinity and NaN hide. */
static void additions_make(additions *x, const page_shape *s, unsigned bits)
{
    enum { ROW = 240 };
    uint64_t seed = bits;
    *x = (additions){.slopes = {.5f, .25f, .125f, .0625f}, .sinks = {-4, 0, 2, 5},
                     .mask_slopes = {1, .5f, 0, 2}, .bits = bits};
    x->head_stride = bits & 32 ? ROW + 3 : 0;
    x->stride = bits & 32 ? 4 * (ROW + 3) : ROW;
    x->n = s->n_queries * x->stride;
    x->mask = malloc(x->n * sizeof *x->mask);
    x->half = malloc(x->n * sizeof *x->half);
    for (size_t i = 0; i < x->n; i++) {
        unsigned kind = test_random(&seed) % 9;
        x->mask[i] = kind > 2 ? 2 * test_gaussian(&seed) : kind ? -INFINITY : NAN;
    }
    assert_int_equal(tqkv_from_f32(x->mask, x->n, x->half, TQKV_F16), TQKV_OK);
    if (bits & 4)
        assert_int_equal(tqkv_to_f32(x->half, TQKV_F16, x->n, x->mask), TQKV_OK);
}

static void features(void **state)
{
    const gpu_case *g = *state;
    for (unsigned bits = 0; bits < 64; bits += (unsigned)step_of(5)) {
        page_shape s = {.keys = bits % 3 ? "tq4" : "tq8", .values = "tq5", .key_dim = 64,
                        .value_dim = 64, .n_kv_heads = 2, .group = 2,
                        .n_queries = bits % 7 == 6 ? 12 : 1 + bits % 4, .n_tokens = 230,
                        .first_slot = 7 * (bits % 5), .pattern = LAST_STAGED,
                        .has_balance = (int)bits & 1, .seed = bits};
        page_batch b = {.shapes = {s}, .n = 1, .has_lengths = bits & 2};
        additions x;
        additions_make(&x, &s, bits);
        batch_make(&b);
        tqkv_attention *a = &b.cases[0].a;
        a->window = bits & 2 ? 100 : 0;
        a->softcap = bits & 4 ? 5 : 0;
        a->slopes = bits & 8 ? x.slopes : NULL;
        a->sinks = bits & 1 ? x.sinks : NULL;
        if (bits & 16) {
            for (size_t i = 0; i < x.n; i++) /* the reference has no NaN */
                x.mask[i] = x.mask[i] > -INFINITY ? x.mask[i] : -INFINITY;
            a->mask = x.mask;
            a->mask_stride = x.stride;
            a->mask_head_stride = x.head_stride;
            a->mask_slopes = bits & 2 ? x.mask_slopes : NULL;
        }
        for (int i = 0; i < 2; i++) {
            b.is_portable = b.is_packed = i;
            if (is_left_out(&b))
                continue;
            batch_run(g, &b, add, &x);
            batch_check(&b, bound_of(&s, i));
            for (int k = 0; k < 4; k++)
                tqkv_buffer_free(x.buffers[k]);
            memset(x.buffers, 0, sizeof x.buffers);
        }
        batch_free(&b);
        free(x.mask);
        free(x.half);
    }
}

/* ---- several sequences ---- */

static void batch_of_5(page_batch *b, unsigned seed)
{
    static const size_t tokens[] = {1, 700, 64, 333, 65};
    static const uint32_t queries[] = {1, 0, 9, 3, 1};
    *b = (page_batch){.n = 5};
    for (uint32_t i = 0; i < 5; i++)
        b->shapes[i] = (page_shape){
            .keys = "tq4", .values = "tq4", .key_dim = 128, .value_dim = 128, .n_kv_heads = 2,
            .group = 4, .n_queries = queries[(i + seed) % 5], .n_tokens = tokens[(i + seed) % 5],
            .first_slot = seed % 2 ? 30 : 0,
            .pattern = (page_pattern)((i + seed) % 4), .seed = i + seed};
    for (uint32_t i = 0; i < 5; i++)
        if (b->shapes[i].n_queries > b->shapes[i].n_tokens)
            b->shapes[i].n_queries = 1;
}

static void sequences_of_different_lengths(void **state)
{
    for (unsigned seed = 0; seed < 5; seed++) {
        page_batch b;
        batch_of_5(&b, seed);
        check_both(*state, &b, NULL, NULL);
    }
}

static tqkv_buffer *as_in_batch_table;

/* As large as the batch may be: that is what work is divided by. */
static void as_in_batch(const gpu_case *g, tqkv_gpu_attention *a, void *context)
{
    const tqkv_gpu_attention *batch = context;
    uint32_t table[64] = {0};
    gpu_ok(g, tqkv_buffer_download(a->pages, 0, table, a->pages_stride * 4));
    a->pages = as_in_batch_table = gpu_buffer(g, table, sizeof table);
    a->pages_stride = 64;
    a->n_tokens = batch->n_tokens;
    a->n_queries = batch->n_queries;
}

/* The portable kernel: a sequence has the same bits alone and beside others. */
static void alone_and_beside_others(void **state)
{
    page_batch b;
    batch_of_5(&b, 3);
    b.is_portable = 1;
    if (is_left_out(&b))
        return;
    batch_make(&b);
    batch_run(*state, &b, NULL, NULL);
    for (uint32_t i = 0; i < b.n; i++) {
        page_case *c = &b.cases[i];
        size_t n = (size_t)c->a.n_queries * c->a.n_heads * 128;
        if (!n)
            continue;
        float *beside = malloc(n * sizeof *beside);
        memcpy(beside, c->out, n * sizeof *beside);
        page_batch one = {.shapes = {b.shapes[i]}, .cases = {*c}, .n = 1, .is_portable = 1,
                          .has_lengths = 1};
        tqkv_gpu_attention batch = batch_attention(&b);
        batch_run(*state, &one, as_in_batch, &batch);
        tqkv_buffer_free(as_in_batch_table);
        assert_memory_equal(beside, c->out, n * sizeof *beside);
        free(beside);
    }
    batch_free(&b);
}

/* ---- what may lie on the device ---- */

typedef struct hostile {
    uint32_t table[64], starts[6], lengths[5];
    tqkv_buffer *buffers[3];
} hostile;

static void make_hostile(const gpu_case *g, tqkv_gpu_attention *a, void *context)
{
    hostile *h = context;
    size_t n = (size_t)a->n_sequences * a->pages_stride;
    a->pages = h->buffers[0] = gpu_buffer(g, h->table, (n < 64 ? n : 64) * 4);
    a->query_starts = h->buffers[1] = gpu_buffer(g, h->starts, sizeof h->starts);
    a->lengths = h->buffers[2] = gpu_buffer(g, h->lengths, sizeof h->lengths);
}

/* Numbers of any size on the device read and write nothing outside the buffers, which the
 * sanitizers of the host and of the stand-ins see. */
static void numbers_of_any_size(void **state)
{
    uint64_t seed = 5;
    for (int round = 0; round < 6; round++) {
        page_batch b;
        hostile h = {0};
        batch_of_5(&b, 0);
        for (int i = 0; i < 64; i++)
            h.table[i] = (uint32_t)test_random(&seed) | (i % 2 ? TQKV_PAGE_STAGED : 0);
        for (int i = 0; i < 6; i++)
            h.starts[i] = (uint32_t)test_random(&seed) % (round % 2 ? UINT32_MAX : 20);
        for (int i = 0; i < 5; i++)
            h.lengths[i] = (uint32_t)test_random(&seed);
        batch_make(&b);
        b.is_portable = b.is_packed = round % 2;
        if (!is_left_out(&b))
            batch_run(*state, &b, make_hostile, &h);
        batch_free(&b);
        for (int i = 0; i < 3; i++)
            tqkv_buffer_free(h.buffers[i]);
    }
}

/* ---- what is refused ---- */

static tqkv_status refused_status;

static void expect_refusals(const gpu_case *g, tqkv_gpu_attention *good, void *context)
{
    (void)context;
    tqkv_buffer *workspace = gpu_buffer(g, NULL, 1 << 20), *small = gpu_buffer(g, NULL, 8);
    tqkv_gpu_staged staged;
#define BAD(change)                                                                               \
    do {                                                                                          \
        tqkv_gpu_attention a = *good;                                                             \
        staged = *good->staged;                                                                   \
        a.staged = &staged;                                                                       \
        change;                                                                                   \
        refused_status = tqkv_dispatch_attend(g->encoder, g->registry, &a, workspace);            \
        assert_int_not_equal(refused_status, TQKV_OK);                                            \
    } while (0)
    BAD(a.page_size = 32);
    BAD(a.pages = NULL);
    BAD(a.capacity = 250);
    BAD(a.keys.mean_offset = SIZE_MAX);
    BAD(a.keys.means = small);
    BAD(a.values.page.means = SIZE_MAX / 4);
    BAD(a.keys.format.codebook = 0);
    BAD(a.keys.is_rotated = 1);
    BAD(staged.n_pages = 0);
    BAD(staged.n_pages = UINT32_MAX);
    BAD(staged.keys.format.head_dim = 80);
    BAD(staged.keys.type = 9);
    BAD(staged.keys.format.codebook = TQKV_CODEBOOK_TRELLIS);
    BAD(staged.values.rows.codes = small);
    BAD(staged.values.rows.code_stride = 3);
    BAD(a.n_pages = TQKV_PAGE_STAGED);
    BAD((a.mask = small, a.mask_type = TQKV_F16));
    BAD((a.mask = workspace, a.mask_type = TQKV_BF16));
    BAD((a.mask = workspace, a.mask_head_stride = SIZE_MAX));
    BAD((a.mask = workspace, a.mask_slopes = small));
    BAD(a.slopes = small);
    BAD((a.query_starts = small, a.n_query_rows = 0));
    BAD((a.query_starts = small, a.n_query_rows = 1 << 20));
#undef BAD
    tqkv_buffer_free(workspace);
    tqkv_buffer_free(small);
}

static void bad_calls_are_refused(void **state)
{
    page_shape s = {.keys = "tq4", .values = "tq4", .key_dim = 64, .value_dim = 64,
                    .n_kv_heads = 2, .group = 2, .n_queries = 1, .n_tokens = 250,
                    .pattern = LAST_STAGED};
    page_batch b = {.shapes = {s}, .n = 1};
    batch_make(&b);
    batch_run(*state, &b, expect_refusals, NULL);
    batch_check(&b, 1e-3);
    batch_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_and_patterns), cmocka_unit_test(shapes),
        cmocka_unit_test(adversarial_rows), cmocka_unit_test(features),
        cmocka_unit_test(sequences_of_different_lengths), cmocka_unit_test(alone_and_beside_others),
        cmocka_unit_test(numbers_of_any_size), cmocka_unit_test(bad_calls_are_refused)};
    if (getenv("TQKV_TEST_FILTER"))
        cmocka_set_test_filter(getenv("TQKV_TEST_FILTER"));
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}

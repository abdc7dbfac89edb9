/* Rows on a device are those of the processor, byte for byte. */
#include "gpu_case.h"

static size_t random_rows(void)
{
    const char *count = getenv("TQKV_TEST_ROWS");
    return count ? strtoul(count, NULL, 10) : 24;
}

/* Rows that have gone wrong in some codec: the first of n are these, the others
 * Gaussian of many sizes. */
static float *edge_rows(uint64_t seed, size_t n, uint32_t dim)
{
    float *x = malloc(n * dim * sizeof *x);
    assert_non_null(x);
#pragma omp parallel for schedule(static, 256)
    for (size_t r = 0; r < n; r++) {
        float *row = x + r * dim;
        uint64_t state = seed + r * 0x9E3779B97F4A7C15u;
        float size = r % 7 == 3 ? exp2f((float)(test_random(&state) % 60) - 30) : 1;
        for (uint32_t i = 0; i < dim; i++) {
            row[i] = test_gaussian(&state) * size;
            switch (r) {
            case 0: row[i] = 0; break;
            case 1: row[i] = i == 5 ? 1.0f : 0; break;
            case 2: row[i] = i % 2 ? 1.0f : -1.0f; break;
            case 3: row[i] = 1; break;
            case 4: row[i] = i == 3 ? NAN : row[i]; break;
            case 5: row[i] = i == 7 ? INFINITY : i == 8 ? -INFINITY : row[i]; break;
            case 6: row[i] *= 1e38f; break;
            case 7: row[i] *= 1e-38f; break;
            case 8: row[i] = i == 0 ? 1e6f : row[i]; break;
            case 9: row[i] *= 3e4f; break;
            case 10: row[i] = -0.0f; break;
            case 11: row[i] *= 0x1p-31f; break;
            case 12: row[i] = (float)(i % 5) - 2; break;
            case 13: row[i] = i % 16 == 0 ? 100.0f : 0.01f; break;
            default: break;
            }
        }
    }
    return x;
}

/* test_encode, by all processors. */
static uint8_t *encode_all(const tqkv_format *f, const float *balance, const float *x,
                           size_t n, size_t row)
{
    enum { CHUNK = 256 };
    uint8_t *memory = calloc(n, row);
    assert_non_null(memory);
#pragma omp parallel for schedule(dynamic)
    for (size_t first = 0; first < n; first += CHUNK) {
        tqkv_rows rows;
        tqkv_rows_at(f, memory + first * row, 0, &rows);
        tqkv_encode(f, balance, x + first * f->head_dim, TQKV_F32, 0,
                    n - first < CHUNK ? n - first : CHUNK, &rows);
    }
    return memory;
}

static void compare(const uint8_t *want, const uint8_t *got, size_t n, size_t row,
                    const char *name, uint32_t dim, const char *what)
{
    for (size_t r = 0; r < n; r++)
        if (memcmp(want + r * row, got + r * row, row))
            fail_msg("%s, head_dim %u: %s differs in row %zu", name, dim, what, r);
}

static void check_encode(const gpu_case *g, const char *name, uint32_t dim, size_t n,
                         const float *balance, tqkv_type type)
{
    tqkv_format f = test_format(name, dim);
    float *x = edge_rows(dim + n, n, dim);
    size_t bytes, element = type == TQKV_F32 ? 4 : 2;
    tqkv_gpu_rows gpu_rows;
    void *src = malloc(n * dim * element);
    tqkv_from_f32(x, n * dim, src, type);
    tqkv_to_f32(src, type, n * dim, x);
    tqkv_format_row_bytes(&f, &bytes);
    uint8_t *want = encode_all(&f, balance, x, n, bytes);
    tqkv_buffer *in = gpu_buffer(g, src, n * dim * element), *balances = NULL;
    tqkv_buffer *out = gpu_rows_buffer(g, &f, NULL, n, &gpu_rows);
    if (balance)
        balances = gpu_buffer(g, balance, dim * sizeof(float));
    gpu_ok(g, tqkv_dispatch_encode(g->encoder, g->registry, &f, balances, in, type, 0, n,
                                   &gpu_rows));
    gpu_run(g);
    uint8_t *got = gpu_take(g, out);
    compare(want, got, n, bytes, name, dim, "encoding");
    tqkv_buffer_free(in);
    tqkv_buffer_free(balances);
    free(want);
    free(got);
    free(src);
    free(x);
}

static const char *const names[] = {"tq2", "tq3", "tq4", "tq4s", "tq5", "tq6", "tq6n", "tq7", "tq8",
                                    "tq4n", "tq3s", "lm2", "lm3", "lm4", "lm4s", "mlx4", "mlx5",
                                    "mlx6", "mlx8"};
enum { N_NAMES = sizeof names / sizeof *names };

static int is_mlx(const char *name)
{
    return name[0] == 'm';
}

static void encoding_is_the_codecs(void **state)
{
    static const uint32_t dims[] = {16, 48, 64, 80, 128, 144, 224, 256, 320, 512};
    size_t n = random_rows();
    for (int i = 0; i < N_NAMES; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            if (!is_mlx(names[i]) || !(dims[d] & (dims[d] - 1)))
                check_encode(*state, names[i], dims[d], dims[d] == 128 ? n : n < 24 ? n : 24, NULL,
                             (tqkv_type)(d % 3));
}

static float *some_balance(size_t dim)
{
    float *balance = test_rows(3, dim);
    for (size_t i = 0; i < dim; i++)
        balance[i] = expf(balance[i]);
    return balance;
}

static void balances_are_applied(void **state)
{
    enum { DIM = 64 };
    float *balance = some_balance(DIM);
    check_encode(*state, "tq4", DIM, 24, balance, TQKV_F32);
    check_encode(*state, "lm3", DIM, 24, balance, TQKV_F16);
    check_encode(*state, "mlx5", DIM, 24, balance, TQKV_F32);
    free(balance);
}

static void check_decode(const gpu_case *g, const char *name, uint32_t dim, size_t n,
                         tqkv_domain domain, tqkv_type type, const float *balance,
                         int any_bytes)
{
    tqkv_format f = test_format(name, dim);
    float *x = edge_rows(dim, n, dim), *y = malloc(n * dim * sizeof *y);
    size_t bytes, element = type == TQKV_F32 ? 4 : 2;
    uint64_t seed = dim;
    tqkv_rows rows;
    tqkv_gpu_rows gpu_rows;
    tqkv_format_row_bytes(&f, &bytes);
    uint8_t *memory = encode_all(&f, balance, x, n, bytes);
    tqkv_rows_at(&f, memory, 0, &rows);
    for (size_t i = 0; any_bytes && i < n * bytes; i++)
        memory[i] = (uint8_t)test_random(&seed);
    tqkv_decode(&f, balance, &rows, n, domain, y, 0);
    void *want = malloc(n * dim * element);
    tqkv_from_f32(y, n * dim, want, type);
    tqkv_buffer *in = gpu_rows_buffer(g, &f, memory, n, &gpu_rows), *balances = NULL;
    tqkv_buffer *out = gpu_buffer(g, NULL, n * dim * element);
    if (balance)
        balances = gpu_buffer(g, balance, dim * sizeof(float));
    gpu_ok(g, tqkv_dispatch_decode(g->encoder, g->registry, &f, balances, &gpu_rows, n, domain,
                                   out, type, 0));
    gpu_run(g);
    tqkv_buffer_free(in);
    tqkv_buffer_free(balances);
    uint8_t *got = gpu_take(g, out);
    if (any_bytes) { /* NaN has many forms */
        float *a = malloc(n * dim * sizeof *a);
        tqkv_to_f32(got, type, n * dim, a);
        tqkv_to_f32(want, type, n * dim, y);
        for (size_t i = 0; i < n * dim; i++)
            if (!(isnan(a[i]) && isnan(y[i])) && memcmp(&a[i], &y[i], sizeof *a))
                fail_msg("%s, head_dim %u: value %zu of any bytes is %g, not %g", name, dim, i,
                         (double)a[i], (double)y[i]);
        free(a);
    } else {
        compare(want, got, n, dim * element, name, dim, "decoding");
    }
    free(memory);
    free(want);
    free(got);
    free(x);
    free(y);
}

static void decoding_is_the_codecs(void **state)
{
    static const uint32_t dims[] = {16, 48, 80, 128, 144, 256, 512};
    for (int i = 0; i < N_NAMES; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            if (!is_mlx(names[i]) || !(dims[d] & (dims[d] - 1))) {
                size_t n = dims[d] == 128 ? random_rows() : 20;
                check_decode(*state, names[i], dims[d], n, TQKV_ROTATED, (tqkv_type)(d % 3), NULL, 0);
                check_decode(*state, names[i], dims[d], n, TQKV_ORIGINAL, (tqkv_type)((d + 1) % 3),
                             NULL, 0);
                check_decode(*state, names[i], dims[d], 20, TQKV_ORIGINAL, TQKV_F32, NULL, 1);
            }
}

static void balances_are_undone(void **state)
{
    enum { DIM = 80 };
    float *balance = some_balance(DIM);
    check_decode(*state, "tq5", DIM, 24, TQKV_ORIGINAL, TQKV_F32, balance, 0);
    check_decode(*state, "lm3", DIM, 24, TQKV_ORIGINAL, TQKV_F32, balance, 1);
    check_decode(*state, "tq8", DIM, 24, TQKV_ROTATED, TQKV_F16, balance, 0);
    free(balance);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoding_is_the_codecs),
        cmocka_unit_test(balances_are_applied),
        cmocka_unit_test(decoding_is_the_codecs),
        cmocka_unit_test(balances_are_undone),
    };
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}

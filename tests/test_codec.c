#include "test.h"

#include <float.h>

/* The bars of doc/quality.md, at d = 128. */
static void errors_stay_under_the_bars(void **state)
{
    static const struct {
        const char *name;
        double bar;
    } bars[] = {{"tq2", .0835}, {"tq3", .0210}, {"tq4", .0066}, {"tq5", .0020},
                {"tq6", .00060}, {"tq8", .00005}, {"lm2", .1175}, {"lm3", .03455},
                {"lm4", .00950}};
    enum { ROWS = 8192, DIM = 128 };
    (void)state;
    float *x = test_rows(7, ROWS * DIM), *y = malloc(ROWS * DIM * sizeof *y);
    for (size_t i = 0; i < sizeof bars / sizeof *bars; i++) {
        tqkv_format f = test_format(bars[i].name, DIM);
        tqkv_rows rows;
        uint8_t *memory = test_encode(&f, NULL, x, ROWS, &rows);
        assert_int_equal(tqkv_decode(&f, NULL, &rows, ROWS, TQKV_ORIGINAL, y, 0), TQKV_OK);
        double error = test_error(x, y, ROWS * DIM);
        if (error > bars[i].bar)
            fail_msg("%s: %.6f > %.6f", bars[i].name, error, bars[i].bar);
        free(memory);
    }
    free(x);
    free(y);
}

/* Every format at every size: the error is near that at 128. */
static void every_size_round_trips(void **state)
{
    enum { ROWS = 24 };
    (void)state;
    for (int d = 0; d < TEST_N_DIMS; d++)
        for (int i = 0; i < TEST_N_NAMES; i++) {
            unsigned dim = test_dims[d];
            tqkv_format f = test_format(test_names[i], dim);
            float *x = test_rows(dim, ROWS * dim), *y = malloc(ROWS * dim * sizeof *y);
            tqkv_rows rows;
            uint8_t *memory = test_encode(&f, NULL, x, ROWS, &rows);
            assert_int_equal(tqkv_decode(&f, NULL, &rows, ROWS, TQKV_ORIGINAL, y, 0), TQKV_OK);
            double error = test_error(x, y, ROWS * dim), bits = f.bits;
            double bar = 3 * exp2(-2 * bits) + 1e-5; /* 4.8 dB over the rate-distortion bound */
            if (f.codebook == TQKV_CODEBOOK_LLOYD_MAX)
                bar *= 1.3;
            if (f.bits > 5) /* scaled to the peak, which grows with the row */
                bar *= 2.5;
            if (error > bar)
                fail_msg("%s, head_dim %u: %.6f > %.6f", test_names[i], dim, error, bar);
            free(memory);
            free(x);
            free(y);
        }
}

/* Rotating what decoded to the original domain gives the rotated domain. */
static void domains_agree(void **state)
{
    static const char *const names[] = {"tq4", "tq4s", "tq3s", "lm4s", "tq8", "tq4n"};
    enum { ROWS = 4 };
    (void)state;
    for (int d = 0; d < TEST_N_DIMS; d++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            unsigned dim = test_dims[d];
            size_t n = ROWS * dim;
            tqkv_format f = test_format(names[i], dim);
            float *x = test_rows(dim + i, n), *y = malloc(n * 4), *z = malloc(n * 4);
            tqkv_rows rows;
            uint8_t *memory = test_encode(&f, NULL, x, ROWS, &rows);
            tqkv_decode(&f, NULL, &rows, ROWS, TQKV_ORIGINAL, y, 0);
            tqkv_decode(&f, NULL, &rows, ROWS, TQKV_ROTATED, z, 0);
            assert_int_equal(tqkv_rotate(&f, y, 0, ROWS, y, 0), TQKV_OK);
            assert_true(test_error(z, y, n) < 1e-11);
            free(memory);
            free(x);
            free(y);
            free(z);
        }
}

/* Rotated unit vectors are the columns of the matrix: orthonormal, and all
 * entries of one size, so that it is one Hadamard matrix over the whole head. */
static void rotation_is_a_hadamard_matrix(void **state)
{
    (void)state;
    for (int d = 0; d < TEST_N_DIMS; d++) {
        unsigned n = test_dims[d];
        float *m = calloc((size_t)n * n, sizeof *m);
        tqkv_format f = test_format("tq4s", n);
        for (unsigned i = 0; i < n; i++)
            m[i * n + i] = 1;
        assert_int_equal(tqkv_rotate(&f, m, 0, n, m, 0), TQKV_OK);
        for (size_t i = 0; i < (size_t)n * n; i++)
            assert_true(fabs(fabs(m[i]) * sqrt(n) - 1) < 1e-6);
        for (unsigned i = 0; i < n; i += 7)
            for (unsigned j = 0; j < n; j++) {
                double dot = 0;
                for (unsigned k = 0; k < n; k++)
                    dot += (double)m[i * n + k] * m[j * n + k];
                assert_true(fabs(dot - (i == j)) < 1e-5);
            }
        free(m);
    }
}

static void edge_rows_are_defined(void **state)
{
    enum { DIM = 64 };
    (void)state;
    for (int i = 0; i < TEST_N_NAMES; i++) {
        tqkv_format f = test_format(test_names[i], DIM);
        float zero[DIM] = {0}, x[DIM], y[DIM];
        tqkv_rows rows;
        size_t bytes;
        tqkv_format_row_bytes(&f, &bytes);
        uint8_t *memory = test_encode(&f, NULL, zero, 1, &rows);
        for (size_t b = 0; b < bytes; b++)
            assert_int_equal(memory[b], 0);
        tqkv_decode(&f, NULL, &rows, 1, TQKV_ORIGINAL, y, 0);
        for (int k = 0; k < DIM; k++)
            assert_true(y[k] == 0);
        /* Subnormals and all that f16 scales cannot reach: zero bits. */
        for (int k = 0; k < DIM; k++)
            x[k] = k % 2 ? FLT_MIN / 8 : -1e-12f;
        tqkv_encode(&f, NULL, x, TQKV_F32, 0, 1, &rows);
        for (size_t b = 0; b < bytes; b++)
            assert_int_equal(memory[b], 0);
        /* NaN is 0. */
        uint64_t seed = 3;
        float clean[DIM];
        for (int k = 0; k < DIM; k++)
            x[k] = clean[k] = k % 5 ? test_gaussian(&seed) : 0;
        for (int k = 0; k < DIM; k += 5)
            x[k] = NAN;
        uint8_t *expected = test_encode(&f, NULL, clean, 1, &rows);
        tqkv_rows_at(&f, memory, 0, &rows);
        tqkv_encode(&f, NULL, x, TQKV_F32, 0, 1, &rows);
        assert_memory_equal(memory, expected, bytes);
        free(expected);
        /* Infinity is 2^40, whose scale is the largest f16. */
        x[7] = INFINITY;
        tqkv_encode(&f, NULL, x, TQKV_F32, 0, 1, &rows);
        assert_int_equal(memory[bytes - 2] | memory[bytes - 1] << 8, 0x7BFF);
        tqkv_decode(&f, NULL, &rows, 1, TQKV_ORIGINAL, y, 0);
        for (int k = 0; k < DIM; k++)
            assert_true(isfinite(y[k]));
        assert_true(y[7] > 1000);
        free(memory);
    }
}

/* Strides, a separate scale array, and unaligned bytes give the same rows. */
static void rows_may_lie_anywhere(void **state)
{
    enum { ROWS = 5, DIM = 80, SRC = 83, DST = 91 };
    (void)state;
    tqkv_format f = test_format("tq5", DIM);
    float *x = test_rows(5, ROWS * SRC), packed[ROWS * DIM], y[ROWS * DST], z[ROWS * DIM];
    uint8_t codes[1 + ROWS * 50], scales[ROWS * 7 + 1];
    size_t code_bytes;
    for (int r = 0; r < ROWS; r++)
        memcpy(packed + r * DIM, x + r * SRC, DIM * sizeof *x);
    tqkv_rows one, two = {.codes = codes + 1, .code_stride = 50, .scales = scales + 1,
                          .scale_stride = 7};
    uint8_t *memory = test_encode(&f, NULL, packed, ROWS, &one);
    assert_int_equal(tqkv_encode(&f, NULL, x, TQKV_F32, SRC, ROWS, &two), TQKV_OK);
    tqkv_format_code_bytes(&f, &code_bytes);
    for (int r = 0; r < ROWS; r++) {
        assert_memory_equal(one.codes + r * one.code_stride, two.codes + r * 50, code_bytes);
        assert_memory_equal(one.scales + r * one.scale_stride, two.scales + r * 7, 2);
    }
    tqkv_decode(&f, NULL, &one, ROWS, TQKV_ORIGINAL, z, 0);
    assert_int_equal(tqkv_decode(&f, NULL, &two, ROWS, TQKV_ORIGINAL, y, DST), TQKV_OK);
    for (int r = 0; r < ROWS; r++)
        assert_memory_equal(z + r * DIM, y + r * DST, DIM * sizeof *z);
    free(memory);
    free(x);
}

static void half_precision_sources_equal_their_floats(void **state)
{
    enum { ROWS = 3, DIM = 64, N = ROWS * DIM };
    (void)state;
    tqkv_format f = test_format("tq4", DIM);
    float *x = test_rows(11, N), wide[N];
    for (int type = TQKV_F16; type <= TQKV_BF16; type++) {
        uint16_t half[N];
        assert_int_equal(tqkv_from_f32(x, N, half, (tqkv_type)type), TQKV_OK);
        assert_int_equal(tqkv_to_f32(half, (tqkv_type)type, N, wide), TQKV_OK);
        tqkv_rows a, b;
        uint8_t *expected = test_encode(&f, NULL, wide, ROWS, &a);
        uint8_t *got = test_encode(&f, NULL, wide, ROWS, &b);
        memset(got, 0xEE, ROWS * 34);
        assert_int_equal(tqkv_encode(&f, NULL, half, (tqkv_type)type, 0, ROWS, &b), TQKV_OK);
        assert_memory_equal(expected, got, ROWS * 34);
        free(expected);
        free(got);
    }
    free(x);
}

static void half_precision_is_exact(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        uint16_t half = (uint16_t)bits, again;
        float x;
        tqkv_to_f32(&half, TQKV_F16, 1, &x);
        tqkv_from_f32(&x, 1, &again, TQKV_F16);
        if ((bits & 0x7C00) == 0x7C00 && bits & 0x3FF)
            assert_true(isnan(x) && (again & 0x7C00) == 0x7C00 && again & 0x3FF);
        else
            assert_int_equal(half, again);
        /* Halfway to the next one goes to the even one, just beyond goes up. */
        if ((bits & 0x7FFF) >= 0x7BFF)
            continue;
        uint16_t next = (uint16_t)(bits + 1), to;
        float y, middle, beyond;
        tqkv_to_f32(&next, TQKV_F16, 1, &y);
        middle = x + (y - x) / 2;
        beyond = nextafterf(middle, y);
        tqkv_from_f32(&middle, 1, &to, TQKV_F16);
        assert_int_equal(to, bits & 1 ? next : half);
        tqkv_from_f32(&beyond, 1, &to, TQKV_F16);
        assert_int_equal(to, next);
    }
}

/* The whole call gives the same bytes with every set of kernels. */
static void instruction_sets_agree(void **state)
{
    static const uint32_t masks[] = {TQKV_CPU_AVX2 | TQKV_CPU_NEON,
                                     TQKV_CPU_AVX2 | TQKV_CPU_AVX512, ~(uint32_t)0};
    enum { ROWS = 6 };
    (void)state;
    for (int d = 0; d < TEST_N_DIMS; d++)
        for (int i = 0; i < TEST_N_NAMES; i++) {
            unsigned dim = test_dims[d];
            size_t bytes, n = ROWS * dim;
            tqkv_format f = test_format(test_names[i], dim);
            float *x = test_rows(dim * 31 + (unsigned)i, n), *y = malloc(n * 4), *z = malloc(n * 4);
            tqkv_rows a, b;
            tqkv_format_row_bytes(&f, &bytes);
            tqkv_cpu_mask(0);
            uint8_t *expected = test_encode(&f, NULL, x, ROWS, &a);
            tqkv_decode(&f, NULL, &a, ROWS, TQKV_ORIGINAL, y, 0);
            for (int m = 0; m < 3; m++) {
                tqkv_cpu_mask(masks[m]);
                uint8_t *got = test_encode(&f, NULL, x, ROWS, &b);
                assert_memory_equal(expected, got, ROWS * bytes);
                tqkv_decode(&f, NULL, &b, ROWS, TQKV_ORIGINAL, z, 0);
                assert_memory_equal(y, z, n * sizeof *y);
                free(got);
            }
            free(expected);
            free(x);
            free(y);
            free(z);
        }
    tqkv_cpu_mask(~(uint32_t)0);
}

static void any_bytes_decode(void **state)
{
    (void)state;
    uint64_t seed = 17;
    for (int d = 0; d < TEST_N_DIMS; d++)
        for (int i = 0; i < TEST_N_NAMES; i++) {
            tqkv_format f = test_format(test_names[i], test_dims[d]);
            size_t bytes;
            tqkv_rows rows;
            tqkv_format_row_bytes(&f, &bytes);
            uint8_t *memory = malloc(bytes); /* exact, for AddressSanitizer */
            float *y = malloc(test_dims[d] * sizeof *y);
            for (size_t k = 0; k < bytes; k++)
                memory[k] = (uint8_t)test_random(&seed);
            tqkv_rows_at(&f, memory, 0, &rows);
            assert_int_equal(tqkv_decode(&f, NULL, &rows, 1, TQKV_ORIGINAL, y, 0), TQKV_OK);
            free(memory);
            free(y);
        }
}

static void wrong_calls_leave_outputs_alone(void **state)
{
    enum { DIM = 64 };
    (void)state;
    tqkv_format f = test_format("tq4", DIM), bad = f;
    float x[2 * DIM] = {1}, y[2 * DIM];
    uint8_t memory[68], before[68];
    tqkv_rows rows, none = {0};
    memset(memory, 0x33, sizeof memory);
    memcpy(before, memory, sizeof memory);
    for (int i = 0; i < 2 * DIM; i++)
        y[i] = 5;
    tqkv_rows_at(&f, memory, 0, &rows);
    bad.head_dim = 65;
    assert_int_equal(tqkv_encode(&bad, NULL, x, TQKV_F32, 0, 2, &rows), TQKV_ERROR_HEAD_DIM_STEP);
    assert_int_equal(tqkv_encode(&f, NULL, NULL, TQKV_F32, 0, 2, &rows), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_encode(&f, NULL, x, (tqkv_type)7, 0, 2, &rows), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_encode(&f, NULL, x, TQKV_F32, 0, 2, &none), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_encode(&f, NULL, x, TQKV_F32, 63, 2, &rows), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_encode(&f, NULL, x, TQKV_F32, SIZE_MAX / 4, 2, &rows),
                     TQKV_ERROR_OVERFLOW);
    assert_int_equal(tqkv_encode(&f, NULL, x, TQKV_F32, 0, SIZE_MAX, &rows),
                     TQKV_ERROR_OVERFLOW);
    uint16_t halves[1] = {0};
    assert_int_equal(tqkv_to_f32(x, TQKV_F32, SIZE_MAX / 4 + 1, y), TQKV_ERROR_OVERFLOW);
    assert_int_equal(tqkv_to_f32(halves, TQKV_F16, SIZE_MAX / 4 + 1, y), TQKV_ERROR_OVERFLOW);
    assert_int_equal(tqkv_from_f32(x, SIZE_MAX / 4 + 1, y, TQKV_F32), TQKV_ERROR_OVERFLOW);
    assert_int_equal(tqkv_from_f32(x, SIZE_MAX / 2 + 2, halves, TQKV_BF16), TQKV_ERROR_OVERFLOW);
    tqkv_rows tight = rows;
    tight.code_stride = 31;
    assert_int_equal(tqkv_encode(&f, NULL, x, TQKV_F32, 0, 2, &tight), TQKV_ERROR_BUFFER);
    assert_memory_equal(memory, before, sizeof memory);
    assert_int_equal(tqkv_decode(&f, NULL, &rows, 2, (tqkv_domain)4, y, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_decode(&f, NULL, &rows, 2, TQKV_ORIGINAL, NULL, 0),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_decode(&f, NULL, &rows, 2, TQKV_ORIGINAL, y, 10), TQKV_ERROR_BUFFER);
    for (int i = 0; i < 2 * DIM; i++)
        assert_true(y[i] == 5);
    assert_int_equal(tqkv_encode(&f, NULL, NULL, TQKV_F32, 0, 0, &rows), TQKV_OK);
    assert_int_equal(tqkv_decode(&f, NULL, &none, 0, TQKV_ORIGINAL, NULL, 0), TQKV_OK);
    assert_int_equal(tqkv_rows_at(&f, memory, 33, &rows), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_rows_at(&f, NULL, 0, &rows), TQKV_ERROR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_stay_under_the_bars),
        cmocka_unit_test(every_size_round_trips),
        cmocka_unit_test(domains_agree),
        cmocka_unit_test(rotation_is_a_hadamard_matrix),
        cmocka_unit_test(edge_rows_are_defined),
        cmocka_unit_test(rows_may_lie_anywhere),
        cmocka_unit_test(half_precision_sources_equal_their_floats),
        cmocka_unit_test(half_precision_is_exact),
        cmocka_unit_test(instruction_sets_agree),
        cmocka_unit_test(any_bytes_decode),
        cmocka_unit_test(wrong_calls_leave_outputs_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

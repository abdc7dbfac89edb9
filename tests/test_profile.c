#include "test.h"

enum { LAYERS = 2, HEADS = 3, DIM = 48, KEYS = 200 };

/* Keys whose values grow along the row. */
static float *some_keys(uint64_t seed)
{
    float *keys = test_rows(seed, KEYS * DIM);
    for (int i = 0; i < KEYS * DIM; i++)
        keys[i] *= (float)(1 + i % DIM);
    return keys;
}

static tqkv_profile *make(void)
{
    tqkv_profile *p;
    assert_int_equal(tqkv_profile_create(LAYERS, HEADS, DIM, "model α", &p), TQKV_OK);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < HEADS; h++) {
            float *keys = some_keys(l * 10 + h), *queries = test_rows(99, KEYS * DIM);
            assert_int_equal(tqkv_profile_fit(p, l, h, 0, keys, KEYS, 0, queries, KEYS, 0),
                             TQKV_OK);
            free(keys);
            free(queries);
        }
    return p;
}

static void a_new_profile_changes_nothing(void **state)
{
    (void)state;
    tqkv_profile *p;
    const float *balance;
    tqkv_format f = test_format("tq4", DIM);
    tqkv_rows a, b;
    assert_int_equal(tqkv_profile_create(1, 1, DIM, NULL, &p), TQKV_OK);
    assert_string_equal(tqkv_profile_fingerprint(p), "");
    assert_int_equal(tqkv_profile_balance(p, 0, 0, &balance), TQKV_OK);
    float *x = test_rows(4, 5 * DIM);
    uint8_t *without = test_encode(&f, NULL, x, 5, &a), *with = test_encode(&f, balance, x, 5, &b);
    assert_memory_equal(without, with, 5 * 26);
    free(x);
    free(without);
    free(with);
    tqkv_profile_free(p);
}

/* Queries are alike in all directions here, so that the error of their products is that of
 * keys; decoding divides by the balance again. */
static void fitted_balances_help_and_invert(void **state)
{
    (void)state;
    tqkv_profile *p = make();
    tqkv_format f = test_format("tq4", DIM);
    tqkv_rows rows;
    const float *balance;
    float *keys = some_keys(12), *y = malloc(KEYS * DIM * sizeof *y);
    float *rotated = malloc(KEYS * DIM * sizeof *y);
    assert_int_equal(tqkv_profile_balance(p, 1, 2, &balance), TQKV_OK);
    uint8_t *plain = test_encode(&f, NULL, keys, KEYS, &rows);
    tqkv_decode(&f, NULL, &rows, KEYS, TQKV_ORIGINAL, y, 0);
    double before = test_error(keys, y, KEYS * DIM);
    uint8_t *memory = test_encode(&f, balance, keys, KEYS, &rows);
    assert_int_equal(tqkv_decode(&f, balance, &rows, KEYS, TQKV_ORIGINAL, y, 0), TQKV_OK);
    assert_true(test_error(keys, y, KEYS * DIM) < .85 * before);
    tqkv_decode(&f, balance, &rows, KEYS, TQKV_ROTATED, rotated, 0);
    for (int r = 0; r < KEYS; r++) {
        float z[DIM];
        for (int d = 0; d < DIM; d++)
            z[d] = y[r * DIM + d] * balance[d];
        tqkv_rotate(&f, z, 0, 1, z, 0);
        for (int d = 0; d < DIM; d++)
            assert_true(fabsf(z[d] - rotated[r * DIM + d]) < 1e-2f);
    }
    free(plain);
    free(memory);
    free(keys);
    free(y);
    free(rotated);
    tqkv_profile_free(p);
}

static void balances_are_finite_and_positive(void **state)
{
    (void)state;
    static const float values[] = {0, -1, NAN, INFINITY};
    tqkv_format f = test_format("tq4", DIM);
    tqkv_rows rows;
    float *x = test_rows(1, DIM), y[DIM], balance[DIM];
    uint8_t *memory = test_encode(&f, NULL, x, 1, &rows);
    for (int i = 0; i < 4; i++) {
        for (int d = 0; d < DIM; d++)
            balance[d] = d == 9 ? values[i] : 1;
        assert_int_equal(tqkv_encode(&f, balance, x, TQKV_F32, 0, 1, &rows), TQKV_ERROR_PROFILE);
        assert_int_equal(tqkv_decode(&f, balance, &rows, 1, TQKV_ORIGINAL, y, 0),
                         TQKV_ERROR_PROFILE);
    }
    free(memory);
    free(x);
}

static void files_round_trip(void **state)
{
    (void)state;
    tqkv_profile *p = make(), *again = make(), *q;
    size_t size;
    assert_int_equal(tqkv_profile_size(p, &size), TQKV_OK);
    uint8_t *a = malloc(size), *b = malloc(size);
    assert_int_equal(tqkv_profile_write(p, a, size - 1), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_profile_write(p, a, size), TQKV_OK);
    tqkv_profile_write(again, b, size);
    assert_memory_equal(a, b, size); /* fitting repeats itself */
    assert_int_equal(tqkv_profile_read(a, size, &q), TQKV_OK);
    memset(b, 0, size);
    tqkv_profile_write(q, b, size);
    assert_memory_equal(a, b, size);
    assert_string_equal(tqkv_profile_fingerprint(q), "model α");
    assert_int_equal(tqkv_profile_n_layers(q), LAYERS);
    assert_int_equal(tqkv_profile_n_heads(q), HEADS);
    assert_int_equal(tqkv_profile_head_dim(q), DIM);
    free(a);
    free(b);
    tqkv_profile_free(p);
    tqkv_profile_free(again);
    tqkv_profile_free(q);
}

static void damaged_files_are_refused(void **state)
{
    (void)state;
    tqkv_profile *p = make(), *q = NULL;
    size_t size;
    tqkv_profile_size(p, &size);
    uint8_t *good = malloc(size), *bad = malloc(size);
    tqkv_profile_write(p, good, size);
    for (size_t cut = 0; cut < size; cut += 13) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, good, cut);
        assert_int_not_equal(tqkv_profile_read(exact, cut, &q), TQKV_OK);
        free(exact);
    }
    for (size_t i = 0; i < size; i += 3) {
        memcpy(bad, good, size);
        bad[i] ^= 1 << i % 8;
        assert_int_not_equal(tqkv_profile_read(bad, size, &q), TQKV_OK);
    }
    memcpy(bad, good, size);
    bad[8] = 1; /* which had centres */
    assert_int_equal(tqkv_profile_read(bad, size, &q), TQKV_ERROR_VERSION);
    memcpy(bad, good, size);
    bad[10] = 0x12, bad[11] = 0x34;
    assert_int_equal(tqkv_profile_read(bad, size, &q), TQKV_ERROR_ENDIAN);
    assert_int_equal(tqkv_profile_read("tqkv?", 5, &q), TQKV_ERROR_MAGIC);
    assert_null(q);
    free(good);
    free(bad);
    tqkv_profile_free(p);
}

static void wrong_calls(void **state)
{
    (void)state;
    tqkv_profile *p = NULL;
    float x[DIM] = {0}, ones[DIM];
    for (int d = 0; d < DIM; d++)
        ones[d] = 1;
    assert_int_equal(tqkv_profile_create(1, 1, 100, "", &p), TQKV_ERROR_HEAD_DIM_STEP);
    assert_int_equal(tqkv_profile_create(1, 0, 64, "", &p), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_create(0, 1, 64, "", &p), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_create(UINT32_MAX, UINT32_MAX, 1024, "", &p),
                     TQKV_ERROR_OVERFLOW);
    assert_null(p);
    p = make();
    assert_int_equal(tqkv_profile_set(p, 0, 0, x), TQKV_ERROR_ARGUMENT); /* balance 0 */
    ones[3] = INFINITY;
    assert_int_equal(tqkv_profile_set(p, 0, 0, ones), TQKV_ERROR_ARGUMENT);
    ones[3] = 1;
    assert_int_equal(tqkv_profile_set(p, LAYERS, 0, ones), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_set(p, 0, 0, ones), TQKV_OK);
    for (int d = 0; d < DIM; d++)
        x[d] = NAN;
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 0, x, 1, 0, NULL, 0, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 0, x, 0, 0, NULL, 0, 0), TQKV_ERROR_ARGUMENT);
    tqkv_profile_free(p);
    tqkv_profile_free(NULL);
}

/* For pages the balance is (E q^2 / E (what the mean of each 64 leaves)^2)^(1/4), up to a
 * factor; rows with NaN are left out, and so are the keys' own means. */
static void balances_for_pages(void **state)
{
    enum { N = 150 };
    (void)state;
    tqkv_profile *p = make();
    const float *balance;
    float *keys = test_rows(3, N * DIM), *queries = test_rows(4, N * DIM);
    double want[DIM], left[DIM] = {0}, square[DIM] = {0}, ratio = 0;
    for (int t = 0; t < N; t++)
        for (int d = 0; d < DIM; d++) {
            keys[t * DIM + d] *= 1 + .1f * (float)d;
            keys[t * DIM + d] += t < 64 ? 100.f : t < 128 ? -7.f * (float)d : 3.f;
        }
    keys[70 * DIM + 3] = NAN;
    for (int first = 0; first < N; first += 64)
        for (int d = 0; d < DIM; d++) {
            double sum = 0, count = 0;
            for (int t = first; t < first + 64 && t < N; t++)
                if (t != 70) {
                    sum += keys[t * DIM + d];
                    count++;
                }
            for (int t = first; t < first + 64 && t < N; t++)
                if (t != 70)
                    left[d] += pow(keys[t * DIM + d] - sum / count, 2);
        }
    for (int d = 0; d < DIM; d++) {
        for (int t = 0; t < N; t++)
            square[d] += pow(queries[t * DIM + d], 2);
        want[d] = pow(square[d] / left[d], .25);
    }
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 1, keys, N, 0, queries, N, 0), TQKV_OK);
    assert_int_equal(tqkv_profile_balance(p, 0, 0, &balance), TQKV_OK);
    for (int d = 0; d < DIM; d++)
        ratio += balance[d] / want[d] / DIM;
    for (int d = 0; d < DIM; d++)
        assert_true(fabs(balance[d] / want[d] / ratio - 1) < 1e-3);
    /* without means it is the keys themselves that count, and here they are large */
    float with_means = balance[0] / balance[DIM - 1];
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 0, keys, N, 0, queries, N, 0), TQKV_OK);
    assert_int_equal(tqkv_profile_balance(p, 0, 0, &balance), TQKV_OK);
    assert_true(fabsf(balance[0] / balance[DIM - 1] / with_means - 1) > .2f);
    for (int i = 0; i < N * DIM; i++)
        keys[i] = NAN;
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 1, keys, N, 0, NULL, 0, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 1, NULL, N, 0, NULL, 0, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit(p, LAYERS, 0, 1, keys, N, 0, NULL, 0, 0),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 1, keys, N, DIM - 1, NULL, 0, 0),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit(p, 0, 0, 1, keys, SIZE_MAX / 2, 0, NULL, 0, 0),
                     TQKV_ERROR_OVERFLOW);
    assert_int_equal(tqkv_profile_fit(NULL, 0, 0, 1, keys, N, 0, NULL, 0, 0),
                     TQKV_ERROR_ARGUMENT);
    tqkv_profile_free(p);
    free(keys);
    free(queries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_profile_changes_nothing),
        cmocka_unit_test(fitted_balances_help_and_invert),
        cmocka_unit_test(balances_are_finite_and_positive),
        cmocka_unit_test(files_round_trip),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(balances_for_pages),
        cmocka_unit_test(wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "test.h"

enum { LAYERS = 2, HEADS = 3, DIM = 48, KEYS = 200 };

static tqkv_profile *make(uint32_t centres)
{
    tqkv_profile *p;
    assert_int_equal(tqkv_profile_create(LAYERS, HEADS, DIM, centres, "model α", &p), TQKV_OK);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < HEADS; h++) {
            float *keys = test_rows(l * 10 + h, KEYS * DIM), *queries = test_rows(99, KEYS * DIM);
            for (int i = 0; i < KEYS; i++)
                for (int d = 0; d < DIM; d++)
                    keys[i * DIM + d] = keys[i * DIM + d] * (1 + d) + 50 * (i % 4);
            assert_int_equal(tqkv_profile_fit(p, l, h, keys, KEYS, 0, queries, KEYS, 0, 1),
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
    tqkv_key_profile k;
    tqkv_format f = test_format("tq4", DIM);
    tqkv_rows a, b;
    assert_int_equal(tqkv_profile_create(1, 1, DIM, 1, NULL, &p), TQKV_OK);
    assert_string_equal(tqkv_profile_fingerprint(p), "");
    assert_int_equal(tqkv_profile_get(p, 0, 0, &k), TQKV_OK);
    float *x = test_rows(4, 5 * DIM);
    uint8_t *without = test_encode(&f, NULL, x, 5, &a), *with = test_encode(&f, &k, x, 5, &b);
    assert_memory_equal(without, with, 5 * 26);
    free(x);
    free(without);
    free(with);
    tqkv_profile_free(p);
}

/* Decoding is (code + centre) / balance, so that keys with large means lose
 * no more than their deviations. */
static void fitted_profiles_help_and_invert(void **state)
{
    (void)state;
    static const uint32_t all_centres[] = {1, 4, 256};
    double previous = INFINITY;
    for (int i = 0; i < 3; i++) {
        tqkv_profile *p = make(all_centres[i]);
        tqkv_key_profile k;
        tqkv_format f = test_format("tq4", DIM);
        tqkv_rows rows;
        float *keys = test_rows(12, KEYS * DIM), *y = malloc(KEYS * DIM * sizeof *y);
        float *rotated = malloc(KEYS * DIM * sizeof *y);
        for (int r = 0; r < KEYS; r++)
            for (int d = 0; d < DIM; d++)
                keys[r * DIM + d] = keys[r * DIM + d] * (1 + d) + 50 * (r % 4);
        tqkv_profile_get(p, 1, 2, &k);
        assert_int_equal(k.n_centres, all_centres[i]);
        uint8_t *memory = test_encode(&f, &k, keys, KEYS, &rows);
        tqkv_decode(&f, &k, &rows, KEYS, TQKV_ORIGINAL, y, 0);
        double error = test_error(keys, y, KEYS * DIM);
        assert_true(error < previous * 1.05);
        if (i < 2)
            previous = error;
        /* rotated domain: without centre and balance */
        tqkv_decode(&f, &k, &rows, KEYS, TQKV_ROTATED, rotated, 0);
        for (int r = 0; r < KEYS; r++) {
            float z[DIM];
            unsigned id = rows.centres ? rows.centres[(size_t)r * rows.centre_stride] : 0;
            for (int d = 0; d < DIM; d++)
                z[d] = y[r * DIM + d] * k.balance[d] - k.centres[id * DIM + (unsigned)d];
            tqkv_rotate(&f, z, 0, 1, z, 0);
            for (int d = 0; d < DIM; d++)
                assert_true(fabsf(z[d] - rotated[r * DIM + d]) < 1e-2f);
        }
        free(memory);
        free(keys);
        free(y);
        free(rotated);
        tqkv_profile_free(p);
    }
}

static void centre_numbers_out_of_range_are_the_last(void **state)
{
    (void)state;
    tqkv_profile *p = make(4);
    tqkv_key_profile k;
    tqkv_format f = test_format("tq4", DIM);
    tqkv_rows rows;
    float *x = test_rows(1, DIM), y[DIM], z[DIM];
    tqkv_profile_get(p, 0, 0, &k);
    uint8_t *memory = test_encode(&f, &k, x, 1, &rows);
    rows.centres[0] = 3;
    tqkv_decode(&f, &k, &rows, 1, TQKV_ORIGINAL, y, 0);
    rows.centres[0] = 255;
    tqkv_decode(&f, &k, &rows, 1, TQKV_ORIGINAL, z, 0);
    assert_memory_equal(y, z, sizeof y);
    tqkv_rows without = rows;
    without.centres = NULL;
    assert_int_equal(tqkv_encode(&f, &k, x, TQKV_F32, 0, 1, &without), TQKV_ERROR_ARGUMENT);
    k.head_dim = 64;
    assert_int_equal(tqkv_encode(&f, &k, x, TQKV_F32, 0, 1, &rows), TQKV_ERROR_PROFILE);
    free(memory);
    free(x);
    tqkv_profile_free(p);
}

static void files_round_trip(void **state)
{
    (void)state;
    tqkv_profile *p = make(4), *again = make(4), *q;
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
    tqkv_profile *p = make(2), *q = NULL;
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
    bad[8] = 2;
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
    assert_int_equal(tqkv_profile_create(1, 1, 100, 1, "", &p), TQKV_ERROR_HEAD_DIM_STEP);
    assert_int_equal(tqkv_profile_create(1, 1, 64, 257, "", &p), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_create(0, 1, 64, 1, "", &p), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_create(UINT32_MAX, UINT32_MAX, 1024, 256, "", &p),
                     TQKV_ERROR_OVERFLOW);
    assert_null(p);
    p = make(1);
    assert_int_equal(tqkv_profile_set(p, 0, 0, x, x), TQKV_ERROR_ARGUMENT); /* balance 0 */
    ones[3] = INFINITY;
    assert_int_equal(tqkv_profile_set(p, 0, 0, ones, x), TQKV_ERROR_ARGUMENT);
    ones[3] = 1;
    assert_int_equal(tqkv_profile_set(p, LAYERS, 0, ones, x), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_set(p, 0, 0, ones, x), TQKV_OK);
    for (int d = 0; d < DIM; d++)
        x[d] = NAN;
    assert_int_equal(tqkv_profile_fit(p, 0, 0, x, 1, 0, NULL, 0, 0, 1), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit(p, 0, 0, x, 0, 0, NULL, 0, 0, 1), TQKV_ERROR_ARGUMENT);
    tqkv_profile_free(p);
    tqkv_profile_free(NULL);
}

/* For pages the balance is (E q^2 / E (what the mean of each 64 leaves)^2)^(1/4), up to a
 * factor; rows with NaN are left out, and so are the keys' own means. */
static void balances_for_pages(void **state)
{
    enum { N = 150 };
    (void)state;
    tqkv_profile *p = make(1);
    tqkv_key_profile k;
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
    assert_int_equal(tqkv_profile_fit_balance(p, 0, 0, 1, keys, N, 0, queries, N, 0), TQKV_OK);
    assert_int_equal(tqkv_profile_get(p, 0, 0, &k), TQKV_OK);
    for (int d = 0; d < DIM; d++)
        ratio += k.balance[d] / want[d] / DIM;
    for (int d = 0; d < DIM; d++) {
        assert_true(fabs(k.balance[d] / want[d] / ratio - 1) < 1e-3);
        assert_true(k.centres[d] == 0);
    }
    /* without means it is the keys themselves that count, and here they are large */
    float with_means = k.balance[0] / k.balance[DIM - 1];
    assert_int_equal(tqkv_profile_fit_balance(p, 0, 0, 0, keys, N, 0, queries, N, 0), TQKV_OK);
    assert_int_equal(tqkv_profile_get(p, 0, 0, &k), TQKV_OK);
    assert_true(fabsf(k.balance[0] / k.balance[DIM - 1] / with_means - 1) > .2f);
    for (int i = 0; i < N * DIM; i++)
        keys[i] = NAN;
    assert_int_equal(tqkv_profile_fit_balance(p, 0, 0, 1, keys, N, 0, NULL, 0, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit_balance(p, 0, 0, 1, NULL, N, 0, NULL, 0, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit_balance(p, LAYERS, 0, 1, keys, N, 0, NULL, 0, 0),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit_balance(p, 0, 0, 1, keys, N, DIM - 1, NULL, 0, 0),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_profile_fit_balance(p, 0, 0, 1, keys, SIZE_MAX / 2, 0, NULL, 0, 0),
                     TQKV_ERROR_OVERFLOW);
    assert_int_equal(tqkv_profile_fit_balance(NULL, 0, 0, 1, keys, N, 0, NULL, 0, 0),
                     TQKV_ERROR_ARGUMENT);
    tqkv_profile_free(p);
    free(keys);
    free(queries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_profile_changes_nothing),
        cmocka_unit_test(fitted_profiles_help_and_invert),
        cmocka_unit_test(centre_numbers_out_of_range_are_the_last),
        cmocka_unit_test(files_round_trip),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(balances_for_pages),
        cmocka_unit_test(wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

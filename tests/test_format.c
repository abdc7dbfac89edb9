#include "test.h"

static void names_round_trip(void **state)
{
    (void)state;
    for (unsigned bits = 2; bits <= 8; bits++) {
        char name[TQKV_FORMAT_NAME_SIZE], again[TQKV_FORMAT_NAME_SIZE];
        snprintf(name, sizeof name, "tq%u", bits);
        tqkv_format f = test_format(name, 128);
        assert_int_equal(f.bits, bits);
        assert_int_equal(tqkv_format_name(&f, again, sizeof again), TQKV_OK);
        assert_string_equal(name, again);
        size_t bytes;
        assert_int_equal(tqkv_format_code_bytes(&f, &bytes), TQKV_OK);
        assert_int_equal(bytes, 16 * bits); /* 128 values */
    }
    static const char *const others[] = {"lm2", "lm3", "lm4", "mlx4", "mlx5", "mlx6", "mlx8",
                                         "tq4s", "tq4n", "lm3s"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char again[TQKV_FORMAT_NAME_SIZE];
        tqkv_format f = test_format(others[i], 64);
        assert_int_equal(tqkv_format_name(&f, again, sizeof again), TQKV_OK);
        assert_string_equal(others[i], again);
        assert_int_equal(tqkv_format_name(&f, again, strlen(others[i])), TQKV_ERROR_BUFFER);
    }
}

static void bad_names_are_refused(void **state)
{
    static const char *const names[] = {
        "",      "tq",     "tq1",     "tq9",    "tq4.",    "tq4.0", "tq4.25", "tq45",
        "lm1",   "lm5",    "lm3.5",   "mlx7",   "mlx4s",   "mlx4n", "tq4x",   "tq4ss",
        "TQ4",   " tq4",   "tq4 ",    "q4_0",   "tq-4",    "tq1e1"};
    (void)state;
    tqkv_format f, before;
    memset(&before, 0x5A, sizeof before);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        f = before;
        assert_int_equal(tqkv_format_parse(names[i], 128, &f), TQKV_ERROR_FORMAT_NAME);
        assert_memory_equal(&f, &before, sizeof f);
    }
    assert_int_equal(tqkv_format_parse(NULL, 128, &f), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_format_parse("tq4", 128, NULL), TQKV_ERROR_ARGUMENT);
}

static void head_dims_are_refused_with_the_reason(void **state)
{
    (void)state;
    tqkv_format f;
    assert_int_equal(tqkv_format_parse("tq4", 0, &f), TQKV_ERROR_HEAD_DIM_RANGE);
    assert_int_equal(tqkv_format_parse("tq4", 8, &f), TQKV_ERROR_HEAD_DIM_RANGE);
    assert_int_equal(tqkv_format_parse("tq4", 1040, &f), TQKV_ERROR_HEAD_DIM_RANGE);
    assert_int_equal(tqkv_format_parse("tq4", 65536 + 128, &f), TQKV_ERROR_HEAD_DIM_RANGE);
    assert_int_equal(tqkv_format_parse("tq4", 100, &f), TQKV_ERROR_HEAD_DIM_STEP);
    assert_int_equal(tqkv_format_parse("tq4", 176, &f), TQKV_ERROR_HEAD_DIM_ODD);
    assert_int_equal(tqkv_format_parse("mlx4", 96, &f), TQKV_ERROR_HEAD_DIM_POWER);
    for (unsigned d = 0; d <= 1100; d++) {
        unsigned odd = d;
        while (odd && odd % 2 == 0)
            odd /= 2;
        int fine = d >= 16 && d <= 1024 && d % 16 == 0 && odd <= 9;
        assert_int_equal(tqkv_format_parse("tq4", d, &f) == TQKV_OK, fine);
    }
}

static void fields_are_checked(void **state)
{
    (void)state;
    tqkv_format good = test_format("tq4", 128), f;
    size_t bytes = 77;
    f = good, f.codebook = 9;
    assert_int_equal(tqkv_format_check(&f), TQKV_ERROR_FORMAT);
    f = good, f.rotation = 3;
    assert_int_equal(tqkv_format_check(&f), TQKV_ERROR_FORMAT);
    f = good, f.layout = TQKV_LAYOUT_SPLIT;
    assert_int_equal(tqkv_format_check(&f), TQKV_ERROR_FORMAT);
    f = good, f.reserved = 1;
    assert_int_equal(tqkv_format_row_bytes(&f, &bytes), TQKV_ERROR_FORMAT);
    f = good, f.bits = 1;
    assert_int_equal(tqkv_format_code_bytes(&f, &bytes), TQKV_ERROR_FORMAT);
    f = test_format("mlx4", 128), f.bits = 7;
    assert_int_equal(tqkv_format_scale_bytes(&f, &bytes), TQKV_ERROR_BITS);
    assert_int_equal(bytes, 77);
    assert_int_equal(tqkv_format_check(NULL), TQKV_ERROR_ARGUMENT);
}

static void sizes(void **state)
{
    static const struct {
        const char *name;
        unsigned dim;
        size_t codes, scale;
    } cases[] = {{"tq4", 64, 32, 2},      {"tq5", 64, 40, 2},      {"tq3", 80, 30, 2},
                 {"tq2", 48, 12, 2},      {"lm3", 16, 6, 2},       {"mlx4", 256, 128, 4},
                 {"mlx5", 512, 512, 8},   {"mlx8", 1024, 1024, 16}, {"tq8", 1024, 1024, 2}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tqkv_format f = test_format(cases[i].name, cases[i].dim);
        size_t codes, scale, row;
        tqkv_format_code_bytes(&f, &codes);
        tqkv_format_scale_bytes(&f, &scale);
        tqkv_format_row_bytes(&f, &row);
        assert_int_equal(codes, cases[i].codes);
        assert_int_equal(scale, cases[i].scale);
        assert_int_equal(row, codes + scale);
    }
}

static void every_status_has_its_sentence(void **state)
{
    (void)state;
    for (int s = TQKV_OK; s <= TQKV_ERROR_MODEL; s++) {
        assert_non_null(tqkv_status_string((tqkv_status)s));
        for (int t = TQKV_OK; t < s; t++)
            assert_string_not_equal(tqkv_status_string((tqkv_status)s),
                                    tqkv_status_string((tqkv_status)t));
    }
    assert_string_equal(tqkv_status_string((tqkv_status)9999), "unknown status");
    assert_string_equal(tqkv_version(), TQKV_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_round_trip),
        cmocka_unit_test(bad_names_are_refused),
        cmocka_unit_test(head_dims_are_refused_with_the_reason),
        cmocka_unit_test(fields_are_checked),
        cmocka_unit_test(sizes),
        cmocka_unit_test(every_status_has_its_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <signal.h>

#include <sys/resource.h>
#include <unistd.h>

#include "stream.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { LAYERS = 2, TOKENS = 30, HEADS = 3, DIM = 48, ROWS = LAYERS * TOKENS * HEADS };

static tqkv_container_info info_of(const char *format)
{
    tqkv_container_info info = {.format = test_format(format, DIM), .n_layers = LAYERS,
                                .n_tokens = TOKENS, .n_heads = HEADS, .has_layer_axis = 1};
    return info;
}

static tqkv_profile *profile_of(const float *x)
{
    tqkv_profile *p;
    assert_int_equal(tqkv_profile_create(LAYERS, HEADS, DIM, "m", &p), TQKV_OK);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < HEADS; h++)
            tqkv_profile_fit(p, l, h, 0, x + (l * TOKENS * HEADS + h) * DIM, TOKENS, HEADS * DIM,
                             x, 5, 0);
    return p;
}

static memory write_container(const char *format, const tqkv_profile *p, const float *x)
{
    memory m = {.fail_at = SIZE_MAX};
    tqkv_writer *w;
    tqkv_container_info info = info_of(format);
    assert_int_equal(tqkv_writer_create(&info, p, memory_write, &m, &w), TQKV_OK);
    assert_int_equal(tqkv_writer_finish(w), TQKV_ERROR_STATE);
    for (size_t done = 0; done < ROWS; done += 20) /* pieces that cross layers */
        assert_int_equal(tqkv_writer_append(w, x + done * DIM, TQKV_F32, 20), TQKV_OK);
    assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, 1), TQKV_ERROR_STATE);
    assert_int_equal(tqkv_writer_finish(w), TQKV_OK);
    tqkv_writer_free(w);
    return m;
}

/* All rows, or the error that ended reading; the rows before it are in y. */
static tqkv_status read_container(memory *m, float *y, size_t *n_rows)
{
    tqkv_reader *r;
    m->at = *n_rows = 0;
    tqkv_status status = tqkv_reader_create(memory_read, m, &r);
    if (status != TQKV_OK)
        return status;
    for (size_t n = 1; n && status == TQKV_OK;) {
        float piece[7 * DIM];
        if (tqkv_reader_info(r)->format.head_dim != DIM) {
            status = TQKV_ERROR_CORRUPT; /* another container: cannot happen by chance */
            break;
        }
        status = tqkv_reader_next(r, piece, 7, &n);
        if (status == TQKV_OK) {
            assert_true(*n_rows + n <= ROWS);
            memcpy(y + *n_rows * DIM, piece, n * DIM * sizeof *y);
            *n_rows += n;
        }
    }
    tqkv_reader_free(r);
    return status;
}

static void containers_round_trip(void **state)
{
    (void)state;
    float *x = test_rows(2, ROWS * DIM), *y = malloc(ROWS * DIM * sizeof *y);
    float *z = malloc(ROWS * DIM * sizeof *z);
    for (int with = 0; with < 2; with++)
        for (int i = 0; i < TEST_N_NAMES; i++) {
            tqkv_profile *p = with ? profile_of(x) : NULL;
            memory m = write_container(test_names[i], p, x);
            size_t n;
            assert_int_equal(read_container(&m, y, &n), TQKV_OK);
            assert_int_equal(n, ROWS);
            /* the same as rows by themselves */
            tqkv_format f = test_format(test_names[i], DIM);
            for (uint32_t row = 0; row < ROWS; row++) {
                const float *balance = NULL;
                tqkv_rows rows;
                if (p)
                    tqkv_profile_balance(p, row / (TOKENS * HEADS), row % HEADS, &balance);
                uint8_t *one = test_encode(&f, balance, x + row * DIM, 1, &rows);
                tqkv_decode(&f, balance, &rows, 1, TQKV_ORIGINAL, z + row * DIM, 0);
                free(one);
            }
            assert_memory_equal(y, z, ROWS * DIM * sizeof *y);
            free(m.data);
            tqkv_profile_free(p);
        }
    free(x);
    free(y);
    free(z);
}

static void every_truncation_is_noticed(void **state)
{
    (void)state;
    float *x = test_rows(2, ROWS * DIM), *y = malloc(ROWS * DIM * sizeof *y);
    tqkv_profile *p = profile_of(x);
    memory m = write_container("tq2", p, x);
    size_t whole = m.size, n;
    for (m.size = 0; m.size < whole; m.size++)
        assert_int_not_equal(read_container(&m, y, &n), TQKV_OK);
    m.data[whole] = 0; /* one byte too many */
    m.size = whole + 1;
    assert_int_equal(read_container(&m, y, &n), TQKV_ERROR_CORRUPT);
    free(m.data);
    tqkv_profile_free(p);
    free(x);
    free(y);
}

/* 10,000 corruptions: each is noticed, or what decodes is what was there. */
static void random_corruptions_are_noticed(void **state)
{
    (void)state;
    float *x = test_rows(2, ROWS * DIM), *y = malloc(ROWS * DIM * sizeof *y);
    float *good = malloc(ROWS * DIM * sizeof *good);
    tqkv_profile *p = profile_of(x);
    memory m = write_container("tq3", p, x);
    uint8_t *original = malloc(m.size);
    uint64_t seed = 5;
    size_t n, noticed = 0;
    assert_int_equal(read_container(&m, good, &n), TQKV_OK);
    memcpy(original, m.data, m.size);
    for (int i = 0; i < 10000; i++) {
        size_t first = test_random(&seed) % m.size, count = 1 + test_random(&seed) % 8;
        for (size_t k = first; k < first + count && k < m.size; k++)
            m.data[k] ^= (uint8_t)(i % 3 ? 1u << test_random(&seed) % 8 : (unsigned)test_random(&seed));
        tqkv_status status = read_container(&m, y, &n);
        if (status == TQKV_OK)
            assert_int_equal(n, ROWS);
        else
            noticed++;
        assert_memory_equal(y, good, n * DIM * sizeof *y);
        memcpy(m.data, original, m.size);
    }
    assert_true(noticed > 9900); /* the others changed nothing: xor with 0 */
    free(m.data);
    free(original);
    free(x);
    free(y);
    free(good);
    tqkv_profile_free(p);
}

/* Header fields with a right checksum, which only checks of values can refuse. */
static void contradictions_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
        tqkv_status expected;
    } cases[] = {
        {0, 'X', TQKV_ERROR_MAGIC},      {8, 1, TQKV_ERROR_VERSION},
        {8, 5, TQKV_ERROR_VERSION},      {8, 4, TQKV_ERROR_CORRUPT},
        {12, 9, TQKV_ERROR_CORRUPT},     {13, 2, TQKV_ERROR_CORRUPT},
        {15, 3, TQKV_ERROR_CORRUPT},     {16, 200, TQKV_ERROR_CORRUPT},
        {18, 49, TQKV_ERROR_CORRUPT},    {20, 2, TQKV_ERROR_CORRUPT},
        {20, 0, TQKV_ERROR_CORRUPT},     {22, 1, TQKV_ERROR_CORRUPT},
        {31, 0xFF, TQKV_ERROR_CORRUPT},  {39, 0xFF, TQKV_ERROR_CORRUPT},
        {47, 0xFF, TQKV_ERROR_CORRUPT},  {32, 0, TQKV_ERROR_CORRUPT},
        {48, 1, TQKV_ERROR_CORRUPT},     {40, 2, TQKV_ERROR_CORRUPT},
        {32, 31, TQKV_ERROR_CORRUPT},
    };
    (void)state;
    float *x = test_rows(2, ROWS * DIM), *y = malloc(ROWS * DIM * sizeof *y);
    memory m = write_container("tq4", NULL, x);
    uint8_t header[64];
    size_t n;
    memcpy(header, m.data, 64);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(m.data, header, 64);
        m.data[cases[i].at] = cases[i].value;
        uint64_t sum = XXH64(m.data, 56, 0);
        for (int k = 0; k < 8; k++)
            m.data[56 + k] = (uint8_t)(sum >> 8 * k);
        if (read_container(&m, y, &n) != cases[i].expected)
            fail_msg("case %zu: %d", i, (int)read_container(&m, y, &n));
    }
    memcpy(m.data, header, 64);
    m.data[10] = 0x12, m.data[11] = 0x34;
    assert_int_equal(read_container(&m, y, &n), TQKV_ERROR_ENDIAN);
    free(m.data);
    free(x);
    free(y);
}

/* A sink that fails after any number of bytes gives an error, every time. */
static void failing_sinks(void **state)
{
    (void)state;
    float *x = test_rows(2, ROWS * DIM);
    tqkv_profile *p = profile_of(x);
    tqkv_container_info info = info_of("tq2");
    memory whole = write_container("tq2", p, x);
    for (size_t limit = 0; limit < whole.size; limit += 7) {
        memory m = {.fail_at = limit};
        tqkv_writer *w = NULL;
        tqkv_status status = tqkv_writer_create(&info, p, memory_write, &m, &w);
        if (status == TQKV_OK)
            status = tqkv_writer_append(w, x, TQKV_F32, ROWS);
        if (status == TQKV_OK)
            status = tqkv_writer_finish(w);
        assert_int_equal(status, TQKV_ERROR_IO);
        if (w) { /* also where there would be room again */
            m.fail_at = SIZE_MAX;
            assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, 0), TQKV_ERROR_IO);
            assert_int_equal(tqkv_writer_append_rows(w, x, ROWS), TQKV_ERROR_IO);
            assert_int_equal(tqkv_writer_finish(w), TQKV_ERROR_IO);
        }
        tqkv_writer_free(w);
        free(m.data);
    }
    free(whole.data);
    tqkv_profile_free(p);
    free(x);
}

static size_t file_write(void *context, const void *data, size_t size)
{
    size_t done = fwrite(data, 1, size, context);
    return fflush(context) == 0 ? done : 0;
}

/* The same of a file that the system lets grow no further. */
static void full_files(void **state)
{
    float *x = test_rows(2, ROWS * DIM);
    tqkv_container_info info = info_of("tq8");
    struct rlimit before, limit;
    FILE *file = tmpfile();
    tqkv_writer *w;
    (void)state;
    assert_non_null(file);
    assert_int_equal(tqkv_writer_create(&info, NULL, file_write, file, &w), TQKV_OK);
    assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, ROWS), TQKV_OK);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 1000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    tqkv_status first = tqkv_writer_finish(w), full = tqkv_writer_finish(w);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_int_equal(first, TQKV_ERROR_IO);
    assert_int_equal(full, TQKV_ERROR_IO);
    assert_int_equal(tqkv_writer_finish(w), TQKV_ERROR_IO);
    tqkv_writer_free(w);
    fclose(file);
    free(x);
}

static void wrong_calls(void **state)
{
    (void)state;
    tqkv_container_info info = info_of("tq4");
    tqkv_writer *w = NULL;
    memory m = {.fail_at = SIZE_MAX};
    info.n_tokens = 0;
    assert_int_equal(tqkv_writer_create(&info, NULL, memory_write, &m, &w), TQKV_ERROR_ARGUMENT);
    info.n_tokens = UINT64_MAX;
    assert_int_equal(tqkv_writer_create(&info, NULL, memory_write, &m, &w), TQKV_ERROR_OVERFLOW);
    info = info_of("tq4");
    info.has_layer_axis = 0;
    assert_int_equal(tqkv_writer_create(&info, NULL, memory_write, &m, &w), TQKV_ERROR_ARGUMENT);
    info = info_of("tq4");
    tqkv_profile *p;
    tqkv_profile_create(LAYERS, HEADS + 1, DIM, NULL, &p);
    assert_int_equal(tqkv_writer_create(&info, p, memory_write, &m, &w), TQKV_ERROR_PROFILE);
    assert_null(w);
    assert_int_equal(m.size, 0);
    tqkv_profile_free(p);
    tqkv_writer_free(NULL);
    tqkv_reader_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(containers_round_trip),
        cmocka_unit_test(every_truncation_is_noticed),
        cmocka_unit_test(random_corruptions_are_noticed),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(failing_sinks),
        cmocka_unit_test(full_files),
        cmocka_unit_test(wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

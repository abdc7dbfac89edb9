#include "test.h"
#include "tqkv_page.h"

enum { ROWS = TQKV_PAGE_TOKENS };
#define ALL (~(uint64_t)0)

static const char *const names[] = {"tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8", "tq4n", "tq4s",
                                    "lm2", "lm3", "lm4", "mlx4", "mlx5", "mlx6", "mlx8"};
enum { N_NAMES = sizeof names / sizeof *names };

typedef struct own_page {
    tqkv_page page;
    uint8_t *memory;
    size_t bytes;
} own_page;

/* A page of zero bytes. */
static own_page make_page(const char *name, uint32_t dim, uint32_t n_means)
{
    own_page p;
    tqkv_format f = test_format(name, dim);
    assert_int_equal(tqkv_page_bytes(&f, n_means, &p.bytes), TQKV_OK);
    p.memory = calloc(p.bytes, 1);
    assert_non_null(p.memory);
    assert_int_equal(tqkv_page_at(&f, n_means, p.memory, &p.page), TQKV_OK);
    return p;
}

/* Rows around a mean of `distance` deviations, of which the first is small and the last
 * is far from the mean. */
static float *near_mean(uint64_t seed, uint32_t dim, float distance)
{
    float *x = test_rows(seed, (size_t)ROWS * dim), *mean = test_rows(seed + 1, dim);
    for (size_t i = 0; i < (size_t)ROWS * dim; i++)
        x[i] += distance * mean[i % dim];
    for (size_t i = 0; i < dim; i++) {
        x[i] = 1e-3f * mean[(i * 7) % dim];
        x[(size_t)(ROWS - 1) * dim + i] *= -1;
    }
    free(mean);
    return x;
}

static float *some_balance(uint64_t seed, uint32_t dim)
{
    float *b = test_rows(seed, dim);
    for (uint32_t i = 0; i < dim; i++)
        b[i] = expf(b[i]);
    return b;
}

static void read_all(const own_page *p, const float *balance, float *y)
{
    assert_int_equal(tqkv_page_read(&p->page, balance, 0, ROWS, TQKV_ORIGINAL, y, 0), TQKV_OK);
}

/* Which rows have a choice, by the bytes' own definition. */
static int has_sign(const tqkv_page *p, size_t row)
{
    size_t last = p->format.codebook == TQKV_CODEBOOK_MLX ? 3 : 1;
    return p->rows.scales[row * p->rows.scale_stride + last] >> 7;
}

static void pages_have_no_byte_too_many(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++) {
        size_t row;
        tqkv_format f = test_format(names[i], 128);
        assert_int_equal(tqkv_format_row_bytes(&f, &row), TQKV_OK);
        for (uint32_t n = 0; n <= TQKV_MAX_MEANS; n++) {
            own_page p = make_page(names[i], 128, n);
            assert_int_equal(p.bytes, ROWS * row + n * 130 + (n > 1 ? 16 : 0));
            free(p.memory);
        }
    }
}

/* Pages decode better than rows without means, and the far rows no worse. */
static void means_help(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++)
        for (int balanced = 0; balanced < 2; balanced++) {
            enum { DIM = 64 };
            own_page with = make_page(names[i], DIM, 1), without = make_page(names[i], DIM, 0);
            float *x = near_mean(5, DIM, 3), *balance = balanced ? some_balance(9, DIM) : NULL;
            float y[2][ROWS * DIM];
            assert_int_equal(tqkv_page_seal(&with.page, balance, x, TQKV_F32, 0, ALL), TQKV_OK);
            assert_int_equal(tqkv_page_seal(&without.page, balance, x, TQKV_F32, 0, ALL), TQKV_OK);
            read_all(&with, balance, y[0]);
            read_all(&without, balance, y[1]);
            double ratio = test_error(x, y[0], ROWS * DIM) / test_error(x, y[1], ROWS * DIM);
            if (!(ratio < .5))
                fail_msg("%s, balanced %d: %.3f", names[i], balanced, ratio);
            assert_false(has_sign(&with.page, 0));
            assert_false(has_sign(&with.page, ROWS - 1));
            for (int r = 1; r < ROWS - 1; r++)
                assert_true(has_sign(&with.page, (size_t)r));
            assert_memory_equal(y[0], y[1], DIM * sizeof(float));
            free(with.memory);
            free(without.memory);
            free(balance);
            free(x);
        }
}

/* The mean's bytes from the definition: sums in the rows' order, in floats. */
static void reference_mean(const float *x, uint32_t dim, uint8_t *mean, float *as_floats)
{
    float sum[TQKV_MAX_HEAD_DIM] = {0}, peak = 0, scale;
    uint16_t half;
    for (int r = 0; r < ROWS; r++)
        for (uint32_t i = 0; i < dim; i++)
            sum[i] += x[(size_t)r * dim + i];
    for (uint32_t i = 0; i < dim; i++)
        peak = fmaxf(peak, fabsf(sum[i] / ROWS));
    peak /= 127;
    tqkv_from_f32(&peak, 1, &half, TQKV_F16);
    tqkv_to_f32(&half, TQKV_F16, 1, &scale);
    for (uint32_t i = 0; i < dim; i++) {
        float level = fmaxf(-127, fminf(127, rintf(sum[i] / ROWS / scale)));
        mean[i] = (uint8_t)(int8_t)level;
        as_floats[i] = level * scale;
    }
    memcpy(mean + dim, &half, 2);
}

/* Each row is what tqkv_encode makes of itself or its remainder, whichever is smaller;
 * on every instruction set. */
static void rows_are_the_codes_of_what_is_smaller(void **state)
{
    enum { DIM = 96 };
    static const uint32_t masks[] = {~0u, TQKV_CPU_AVX2 | TQKV_CPU_AVX512, TQKV_CPU_AVX2, 0};
    (void)state;
    float *x = near_mean(11, DIM, 1.2f), *balance = some_balance(3, DIM), mean[DIM];
    uint8_t bytes[DIM + 2];
    reference_mean(x, DIM, bytes, mean);
    for (int m = 0; m < 4; m++) {
        tqkv_cpu_mask(masks[m]);
        own_page p = make_page("tq3", DIM, 1);
        assert_int_equal(tqkv_page_seal(&p.page, balance, x, TQKV_F32, 0, ALL), TQKV_OK);
        assert_memory_equal(p.page.means, bytes, sizeof bytes);
        int n_chosen = 0;
        for (size_t r = 0; r < ROWS; r++) {
            float own[DIM], rest[DIM], square = 0, rest_square = 0;
            for (int i = 0; i < DIM; i++) {
                own[i] = x[r * DIM + (size_t)i] * balance[i];
                rest[i] = (x[r * DIM + (size_t)i] - mean[i]) * balance[i];
                square += own[i] * own[i];
                rest_square += rest[i] * rest[i];
            }
            int chosen = rest_square < square;
            n_chosen += chosen;
            tqkv_rows rows;
            uint8_t *memory = test_encode(&p.page.format, NULL, chosen ? rest : own, 1, &rows);
            assert_int_equal(has_sign(&p.page, r), chosen);
            assert_memory_equal(p.page.rows.codes + r * p.page.rows.code_stride, rows.codes,
                                p.page.rows.code_stride);
            assert_int_equal(p.page.rows.scales[r * 2], rows.scales[0]);
            assert_int_equal(p.page.rows.scales[r * 2 + 1] & 0x7F, rows.scales[1]);
            free(memory);
        }
        assert_in_range(n_chosen, 20, ROWS - 1);
        free(p.memory);
    }
    tqkv_cpu_mask(~0u);
    free(balance);
    free(x);
}

/* A row that is written again beside the mean that it had becomes the same bytes; another
 * row leaves the mean as it is. */
static void rows_can_be_written_again(void **state)
{
    enum { DIM = 80 };
    (void)state;
    own_page p = make_page("tq4", DIM, 1);
    float *x = near_mean(21, DIM, 2), y[DIM];
    uint8_t *before = malloc(p.bytes);
    assert_int_equal(tqkv_page_seal(&p.page, NULL, x, TQKV_F32, 0, ALL), TQKV_OK);
    memcpy(before, p.memory, p.bytes);
    for (size_t r = 0; r < ROWS; r++)
        assert_int_equal(tqkv_page_write(&p.page, NULL, r, x + r * DIM, TQKV_F32), TQKV_OK);
    assert_memory_equal(before, p.memory, p.bytes);
    assert_int_equal(tqkv_page_write(&p.page, NULL, 5, x + 9 * DIM, TQKV_F32), TQKV_OK);
    assert_memory_equal(before + p.bytes - DIM - 2, p.memory + p.bytes - DIM - 2, DIM + 2);
    assert_int_equal(tqkv_page_read(&p.page, NULL, 5, 1, TQKV_ORIGINAL, y, 0), TQKV_OK);
    assert_true(test_error(x + 9 * DIM, y, DIM) < .02);
    free(before);
    free(p.memory);
    free(x);
}

/* A page sealed early has the mean of the rows that are there, and zeros for others, of which
 * nothing is read. */
static void pages_can_be_sealed_early(void **state)
{
    enum { DIM = 64 };
    static const uint64_t present[] = {1, 1u << 31, 0xFFF0, 0x123456789ABCDEF0, ALL << 63,
                                       ALL >> 1};
    (void)state;
    for (size_t i = 0; i < sizeof present / sizeof *present; i++) {
        own_page p = make_page("tq4", DIM, 1);
        float *x = near_mean(33, DIM, 4), y[ROWS * DIM];
        for (size_t j = 0; j < ROWS * DIM; j++)
            x[j] = present[i] >> j / DIM & 1 ? x[j] : 1e9f;
        memset(p.memory, 0xA5, p.bytes);
        assert_int_equal(tqkv_page_seal(&p.page, NULL, x, TQKV_F32, 0, present[i]), TQKV_OK);
        read_all(&p, NULL, y);
        for (size_t r = 0; r < ROWS; r++)
            if (present[i] >> r & 1)
                assert_true(test_error(x + r * DIM, y + r * DIM, DIM) < .03);
            else
                for (size_t j = r * DIM; j < (r + 1) * DIM; j++)
                    assert_true(y[j] == 0);
        free(p.memory);
        free(x);
    }
}

static void types_and_strides(void **state)
{
    enum { DIM = 32, STRIDE = 40 };
    (void)state;
    for (int type = TQKV_F32; type <= TQKV_BF16; type++) {
        own_page a = make_page("tq5", DIM, 1), b = make_page("tq5", DIM, 1);
        float *x = near_mean(2, DIM, 2), wide[ROWS * STRIDE] = {0};
        uint8_t source[sizeof wide];
        tqkv_from_f32(x, ROWS * DIM, source, (tqkv_type)type);
        tqkv_to_f32(source, (tqkv_type)type, ROWS * DIM, x);
        for (int r = 0; r < ROWS; r++)
            memcpy(wide + r * STRIDE, x + r * DIM, DIM * sizeof *x);
        tqkv_from_f32(wide, ROWS * STRIDE, source, (tqkv_type)type);
        assert_int_equal(tqkv_page_seal(&a.page, NULL, x, TQKV_F32, 0, ALL), TQKV_OK);
        assert_int_equal(tqkv_page_seal(&b.page, NULL, source, (tqkv_type)type, STRIDE, ALL),
                         TQKV_OK);
        assert_memory_equal(a.memory, b.memory, a.bytes);
        free(a.memory);
        free(b.memory);
        free(x);
    }
}

/* The rotated domain is what is coded: with mean and balance it gives the original. */
static void domains_agree(void **state)
{
    enum { DIM = 64 };
    (void)state;
    own_page p = make_page("tq4", DIM, 1);
    float *x = near_mean(8, DIM, 2), *balance = some_balance(4, DIM);
    float rotated[ROWS * DIM], y[ROWS * DIM], mean[DIM];
    assert_int_equal(tqkv_page_seal(&p.page, balance, x, TQKV_F32, 0, ALL), TQKV_OK);
    assert_int_equal(tqkv_page_read(&p.page, balance, 0, ROWS, TQKV_ROTATED, rotated, 0), TQKV_OK);
    read_all(&p, balance, y);
    uint8_t bytes[DIM + 2];
    reference_mean(x, DIM, bytes, mean);
    for (size_t r = 0; r < ROWS; r++) {
        float want[DIM];
        for (size_t i = 0; i < DIM; i++)
            want[i] = (y[r * DIM + i] - (has_sign(&p.page, r) ? mean[i] : 0)) * balance[i];
        assert_int_equal(tqkv_rotate(&p.page.format, want, 0, 1, want, 0), TQKV_OK);
        assert_true(test_error(rotated + r * DIM, want, DIM) < 1e-10);
    }
    free(p.memory);
    free(balance);
    free(x);
}

/* Rows, NaN and infinity among them, whose remainder is nothing or next to it. */
static void extreme_rows(void **state)
{
    enum { DIM = 32 };
    (void)state;
    for (int kind = 0; kind < 7; kind++)
        for (int i = 0; i < N_NAMES; i++) {
            own_page p = make_page(names[i], DIM, 1);
            float x[ROWS * DIM], y[ROWS * DIM];
            uint64_t seed = 77;
            for (int j = 0; j < ROWS * DIM; j++) {
                float noise = test_gaussian(&seed), column = (float)(j % DIM + 1);
                const float rows[] = {column,                       /* all rows equal */
                                      1000 * column + noise,        /* a mean of 1000 remainders */
                                      j % DIM ? noise : 100 + noise, /* one loud channel */
                                      0,
                                      j % 17 ? noise : NAN,
                                      j % 17 ? noise : j % 34 ? INFINITY : -INFINITY,
                                      1e30f * noise};
                x[j] = rows[kind];
            }
            assert_int_equal(tqkv_page_seal(&p.page, NULL, x, TQKV_F32, 0, ALL), TQKV_OK);
            read_all(&p, NULL, y);
            for (int j = 0; j < ROWS * DIM; j++)
                assert_true(isfinite(y[j]));
            if (kind < 3) {
                double limit = kind == 0 ? 1e-4 : kind == 1 ? 1e-5 : .2;
                if (test_error(x, y, ROWS * DIM) > limit)
                    fail_msg("%s, kind %d: %g", names[i], kind, test_error(x, y, ROWS * DIM));
            }
            for (int j = 0; kind == 3 && j < ROWS; j++)
                assert_false(has_sign(&p.page, (size_t)j));
            free(p.memory);
        }
}

/* ---- records ---- */

static void move_rows(const own_page *from, const own_page *to, size_t first, size_t n,
                      tqkv_status expected)
{
    size_t size;
    assert_int_equal(tqkv_page_record_bytes(&from->page.format, from->page.n_means > 0, &size),
                     TQKV_OK);
    uint8_t *record = malloc(size), *before = malloc(to->bytes);
    for (size_t r = first; r < first + n; r++) {
        memcpy(before, to->memory, to->bytes);
        assert_int_equal(tqkv_page_export(&from->page, r, record, size), TQKV_OK);
        assert_int_equal(tqkv_page_import(&to->page, r, record, size), expected);
        if (expected != TQKV_OK)
            assert_memory_equal(before, to->memory, to->bytes);
    }
    free(record);
    free(before);
}

static void all_records_make_the_page(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++)
        for (uint32_t n_means = 0; n_means < 2; n_means++) {
            enum { DIM = 64 };
            own_page from = make_page(names[i], DIM, n_means);
            own_page to = make_page(names[i], DIM, n_means);
            float *x = near_mean(41, DIM, 2);
            assert_int_equal(tqkv_page_seal(&from.page, NULL, x, TQKV_F32, 0, ALL), TQKV_OK);
            move_rows(&from, &to, 0, ROWS, TQKV_OK);
            assert_memory_equal(from.memory, to.memory, from.bytes);
            free(from.memory);
            free(to.memory);
            free(x);
        }
}

/* Rows of up to four pages live in one, bit for bit; the fifth finds no room, nor does the
 * second where there is one mean. */
static void rows_of_four_pages_fit_into_one(void **state)
{
    enum { DIM = 64 };
    (void)state;
    own_page from[5], to = make_page("tq4", DIM, 4), narrow = make_page("tq4", DIM, 1);
    float want[5][ROWS * DIM], got[ROWS * DIM];
    for (uint64_t i = 0; i < 5; i++) {
        float *x = near_mean(50 + 9 * i, DIM, 3);
        from[i] = make_page("tq4", DIM, 1);
        assert_int_equal(tqkv_page_seal(&from[i].page, NULL, x, TQKV_F32, 0, ALL), TQKV_OK);
        read_all(&from[i], NULL, want[i]);
        free(x);
    }
    for (size_t i = 0; i < 4; i++)
        move_rows(&from[i], &to, 16 * i, 16, TQKV_OK);
    read_all(&to, NULL, got);
    for (size_t r = 0; r < ROWS; r++)
        assert_memory_equal(got + r * DIM, want[r / 16] + r * DIM, DIM * sizeof *got);
    move_rows(&from[4], &to, 20, 4, TQKV_ERROR_BUFFER);
    /* what nobody has chosen any more gives its place */
    move_rows(&from[0], &to, 16, 16, TQKV_OK);
    move_rows(&from[4], &to, 20, 4, TQKV_OK);
    read_all(&to, NULL, got);
    assert_memory_equal(got + 20 * DIM, want[4] + 20 * DIM, 4 * DIM * sizeof *got);
    assert_memory_equal(got + 40 * DIM, want[2] + 40 * DIM, 8 * DIM * sizeof *got);
    move_rows(&from[0], &narrow, 1, 1, TQKV_OK);
    move_rows(&from[1], &narrow, 2, 1, TQKV_ERROR_BUFFER);
    /* a page moves to one with more room, and on */
    own_page wide = make_page("tq4", DIM, 4);
    assert_int_equal(tqkv_page_copy(&from[1].page, &wide.page), TQKV_OK);
    move_rows(&from[2], &wide, 3, 1, TQKV_OK);
    assert_int_equal(tqkv_page_copy(&wide.page, &narrow.page), TQKV_ERROR_BUFFER);
    read_all(&wide, NULL, got);
    memcpy(want[1] + 3 * DIM, want[2] + 3 * DIM, DIM * sizeof *got);
    assert_memory_equal(got, want[1], sizeof got);
    for (int i = 0; i < 5; i++)
        free(from[i].memory);
    free(to.memory);
    free(wide.memory);
    free(narrow.memory);
}

static void bad_input(void **state)
{
    enum { DIM = 64 };
    (void)state;
    own_page p = make_page("tq4", DIM, 1), q = make_page("tq4", DIM, 4);
    float *x = near_mean(1, DIM, 2), y[ROWS * DIM], balance[DIM];
    uint8_t record[200] = {0};
    size_t bytes, size;
    tqkv_page bad = p.page;
    tqkv_format f = p.page.format, wrong = f;
    assert_int_equal(tqkv_page_seal(&p.page, NULL, x, TQKV_F32, 0, ALL), TQKV_OK);
    uint8_t *before = malloc(p.bytes);
    memcpy(before, p.memory, p.bytes);
    wrong.bits = 9;
    assert_int_equal(tqkv_page_bytes(&f, 5, &bytes), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_bytes(&f, 1, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_not_equal(tqkv_page_bytes(&wrong, 1, &bytes), TQKV_OK);
    assert_int_equal(tqkv_page_at(&f, 1, NULL, &bad), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_at(&f, 1, p.memory, NULL), TQKV_ERROR_ARGUMENT);
#define SEAL(page, balance, src, type, stride, n)                                                \
    tqkv_page_seal(page, balance, src, (tqkv_type)(type), stride, n)
    assert_int_equal(SEAL(NULL, NULL, x, 0, 0, 1), TQKV_ERROR_ARGUMENT);
    assert_int_equal(SEAL(&p.page, NULL, NULL, 0, 0, 1), TQKV_ERROR_ARGUMENT);
    assert_int_equal(SEAL(&p.page, NULL, x, 3, 0, 1), TQKV_ERROR_ARGUMENT);
    assert_int_equal(SEAL(&p.page, NULL, x, 0, 0, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(SEAL(&p.page, NULL, x, 0, DIM - 1, 2), TQKV_ERROR_BUFFER);
    assert_int_equal(SEAL(&p.page, NULL, x, 0, SIZE_MAX / 2, 2), TQKV_ERROR_OVERFLOW);
    for (int i = 0; i < 4; i++) {
        const float values[] = {0, -1, NAN, INFINITY};
        for (int j = 0; j < DIM; j++)
            balance[j] = j == 9 ? values[i] : 1;
        assert_int_equal(SEAL(&p.page, balance, x, 0, 0, ALL), TQKV_ERROR_PROFILE);
        assert_int_equal(tqkv_page_read(&p.page, balance, 0, 1, TQKV_ORIGINAL, y, 0),
                         TQKV_ERROR_PROFILE);
        assert_int_equal(tqkv_page_write(&p.page, balance, 0, x, TQKV_F32), TQKV_ERROR_PROFILE);
    }
#define BAD(change)                                                                              \
    (bad = q.page, (void)(change), SEAL(&bad, NULL, x, 0, 0, ALL))
    assert_int_equal(BAD(bad.means = NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(BAD(bad.numbers = NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(BAD(bad.n_means = 5), TQKV_ERROR_ARGUMENT);
    assert_int_equal(BAD(bad.rows.codes = NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(BAD(bad.rows.code_stride = 3), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_page_write(&p.page, NULL, ROWS, x, TQKV_F32), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_read(&p.page, NULL, 60, 5, TQKV_ORIGINAL, y, 0),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_read(&p.page, NULL, 0, 1, (tqkv_domain)2, y, 0),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_read(&p.page, NULL, 0, 1, TQKV_ORIGINAL, NULL, 0),
                     TQKV_ERROR_ARGUMENT);
    tqkv_page_record_bytes(&f, 1, &size);
    assert_int_equal(size, DIM / 2 + 2 + DIM + 2);
    assert_int_equal(tqkv_page_export(&p.page, 0, record, size - 1), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_page_export(&p.page, ROWS, record, size), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_export(&p.page, 1, record, size), TQKV_OK);
    assert_int_equal(tqkv_page_import(&p.page, ROWS, record, size), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_import(&p.page, 1, record, size - 1), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_page_import(&p.page, 1, record, DIM / 2 + 2), TQKV_ERROR_CORRUPT);
    wrong = test_format("tq5", DIM);
    own_page other = make_page("tq5", DIM, 1);
    assert_int_equal(tqkv_page_copy(&p.page, &other.page), TQKV_ERROR_FORMAT);
    assert_memory_equal(before, p.memory, p.bytes);
    free(other.memory);
    free(before);
    free(p.memory);
    free(q.memory);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_have_no_byte_too_many),
        cmocka_unit_test(means_help),
        cmocka_unit_test(rows_are_the_codes_of_what_is_smaller),
        cmocka_unit_test(rows_can_be_written_again),
        cmocka_unit_test(pages_can_be_sealed_early),
        cmocka_unit_test(types_and_strides),
        cmocka_unit_test(domains_agree),
        cmocka_unit_test(extreme_rows),
        cmocka_unit_test(all_records_make_the_page),
        cmocka_unit_test(rows_of_four_pages_fit_into_one),
        cmocka_unit_test(bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

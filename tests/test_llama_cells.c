/* Cells of llama.cpp's caches, without llama.cpp: random histories of rows that are
 * stored, sealed, saved, loaded, copied and made plain, against a copy of every row. */
#include "test.h"

#include "cells.h"
#include "reserve.h"

gg_api gg; /* nothing of ggml is used */

enum { DIM = 32, HEADS = 2, VALUES = DIM * HEADS, CELLS = 200, STREAMS = 2, SLOTS = CELLS * STREAMS };

static settings asked;

typedef struct fixture {
    cells c;
    int has_warned;
    /* What each cell holds: the row as it was stored, and, once it was seen as codes, what
     * these decode to, which no later operation may change. */
    float stored[SLOTS][VALUES];
    int is_written[SLOTS];
} fixture;

static fixture *open_cells(const char *format, int is_key)
{
    fixture *f = calloc(1, sizeof *f);
    setenv("TQKV_KV", format, 1);
    assert_null(settings_read(&asked));
    unsetenv("TQKV_KV");
    f->c = (cells){.name = "cache_k_l0", .is_key = is_key, .settings = &asked,
                   .has_warned = &f->has_warned, .row_bytes = VALUES * 2, .row_values = VALUES,
                   .n_cells = CELLS, .n_streams = STREAMS};
    f->c.nominal_bytes = SLOTS * f->c.row_bytes;
    f->c.nominal = reserve_addresses(f->c.nominal_bytes);
    assert_non_null(f->c.nominal);
    assert_null(cells_learn(&f->c, DIM, HEADS, NULL, 0));
    return f;
}

static void close_cells(fixture *f)
{
    cells_free(&f->c);
    reserve_free(f->c.nominal, f->c.nominal_bytes);
    free(f);
}

/* ---- rows ---- */

/* What a cell's row is: from saved bytes, in a cells of its own where need be. */
static void read_row(const cells *c, size_t slot, float *row)
{
    const cell_page *p = &c->pages[cells_page_of(c, slot)];
    size_t page = cells_page_of(c, slot);
    unsigned r = cells_row_of(c, slot);
    if (p->is_staged) {
        tqkv_to_f32(cells_nominal(c, slot), TQKV_F16, VALUES, row);
        return;
    }
    for (uint32_t h = 0; h < HEADS; h++) {
        tqkv_page codes = cells_codes(c, page, h);
        assert_int_equal(tqkv_page_read(&codes, NULL, r, 1, TQKV_ORIGINAL, row + h * DIM, 0),
                         TQKV_OK);
    }
}

static double distance(const float *x, const float *y)
{
    double square = 0, size = 0;
    for (int i = 0; i < VALUES; i++) {
        square += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        size += (double)y[i] * y[i];
    }
    return sqrt(square / size);
}

static void make_row(uint64_t *seed, float *row)
{
    float *x = test_rows(*seed, VALUES);
    for (int i = 0; i < VALUES; i++)
        row[i] = x[i] + 3 * (float)(i % 5); /* a mean */
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    free(x);
}

static unsigned pick(uint64_t *seed, unsigned n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*seed >> 33) % n;
}

/* All rows are what was stored, but for the error of codes, which does not grow. */
static void check(const fixture *f, double bound)
{
    for (size_t slot = 0; slot < SLOTS; slot++) {
        float row[VALUES];
        const cell_page *p = &f->c.pages[cells_page_of(&f->c, slot)];
        assert_int_equal(p->written >> cells_row_of(&f->c, slot) & 1, f->is_written[slot]);
        if (!f->is_written[slot])
            continue;
        read_row(&f->c, slot, row);
        double error = distance(row, f->stored[slot]);
        if (!(error < bound))
            print_message("slot %zu: error %g of %g, page written %llx coded %llx mixed %d staged %d\n", slot, error, bound, (unsigned long long)p->written, (unsigned long long)p->coded, p->is_mixed, p->is_staged);
        assert_true(error < bound);
    }
    for (size_t s = 0; s < STREAMS; s++)
        for (uint32_t i = 0; i < f->c.n_staged[s]; i++)
            assert_true(f->c.pages[s * f->c.n_pages + f->c.staged[s * f->c.n_pages + i]].is_staged);
}

/* ---- what happens to them ---- */

static void store(fixture *f, size_t slot, size_t n, uint64_t *seed)
{
    for (size_t i = slot; i < slot + n; i++) {
        size_t page = cells_page_of(&f->c, i);
        make_row(seed, f->stored[i]);
        assert_true(cells_stage(&f->c, page, ~((uint64_t)1 << cells_row_of(&f->c, i))));
        tqkv_from_f32(f->stored[i], VALUES, cells_nominal(&f->c, i), TQKV_F16);
        cells_note(&f->c, page, cells_row_of(&f->c, i));
        f->is_written[i] = 1;
    }
}

static void trim(cells *c, size_t stream, uint32_t quota)
{
    while (c->n_staged[stream] > quota) {
        size_t page = cells_oldest(c, stream);
        assert_true(!c->pages[page].is_stale || cells_seal(c, page));
        cells_release(c, page);
    }
}

/* Rows [from, from + n) travel to `to` in as many calls as `parts`. */
static void move(const fixture *a, fixture *b, size_t from, size_t to, size_t n, size_t parts)
{
    size_t bytes = a->c.row_bytes;
    uint8_t *rows = malloc(n * bytes);
    for (size_t i = 0; i < parts; i++) {
        size_t first = n * i / parts, end = n * (i + 1) / parts;
        cells_get(&a->c, (from + first) * bytes, rows + first * bytes, (end - first) * bytes);
        assert_null(cells_set(&b->c, (to + first) * bytes, rows + first * bytes,
                              (end - first) * bytes));
    }
    for (size_t i = 0; i < n; i++) {
        if (a->is_written[from + i])
            memcpy(b->stored[to + i], a->stored[from + i], sizeof *a->stored);
        else /* zeros travel */
            memset(b->stored[to + i], 0, sizeof *b->stored);
        b->is_written[to + i] = 1;
    }
    free(rows);
}

static int all_written(const fixture *f, size_t from, size_t n)
{
    for (size_t i = from; i < from + n; i++)
        if (!f->is_written[i])
            return 0;
    return 1;
}

static void copy_stream(fixture *f, size_t from, size_t to)
{
    assert_true(cells_copy_stream(&f->c, from, &f->c, to));
    memcpy(f->stored[to * CELLS], f->stored[from * CELLS], CELLS * sizeof *f->stored);
    memcpy(&f->is_written[to * CELLS], &f->is_written[from * CELLS], CELLS * sizeof(int));
}

static void step(fixture *f, uint64_t *seed)
{
    size_t stream = pick(seed, STREAMS), cell = pick(seed, CELLS), n = 1 + pick(seed, 90);
    n = cell + n <= CELLS ? n : CELLS - cell;
    switch (pick(seed, 8)) {
    case 0: case 1: case 2:
        store(f, stream * CELLS + cell, n, seed);
        break;
    case 3:
        trim(&f->c, stream, pick(seed, 3));
        break;
    case 4: /* within the same cells, unaligned */
        if (all_written(f, stream * CELLS + cell, n) && n < CELLS / 2)
            move(f, f, stream * CELLS + cell, (1 - stream) * CELLS + pick(seed, CELLS - (unsigned)n),
                 n, 1 + pick(seed, 3));
        break;
    case 5:
        copy_stream(f, stream, 1 - stream);
        break;
    case 6: /* the whole stream through a saved state, to the same place */
        if (all_written(f, stream * CELLS, CELLS))
            move(f, f, stream * CELLS, stream * CELLS, CELLS, 1);
        break;
    default:
        trim(&f->c, stream, cells_quota(&f->c));
    }
}

static void random_histories(void **state)
{
    static const struct {
        const char *format;
        double bound; /* of one row; a fifth mean in a page doubles the error */
    } cases[] = {{"tq4", .35}, {"tq8", .04}, {"tq2", 1}, {"tq8/tq3", .6}, {"lm4", .4}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint64_t seed = 1; seed <= 60; seed++) {
            uint64_t random = seed * 977;
            fixture *f = open_cells(cases[i].format, seed % 2);
            for (int n = 0; n < 60; n++) {
                step(f, &random);
                check(f, cases[i].bound);
            }
            if (seed % 10 == 0) {
                cells_clear(&f->c);
                memset(f->is_written, 0, sizeof f->is_written);
                check(f, 0);
                store(f, 3, 70, &random);
                check(f, cases[i].bound);
            }
            close_cells(f);
        }
}

/* ---- what travels ---- */

static void load_in_parts(cells *c, size_t cell, const uint8_t *rows, size_t n, size_t parts)
{
    for (size_t i = 0; i < parts; i++) {
        size_t first = n * i / parts, end = n * (i + 1) / parts;
        assert_null(cells_set(c, (cell + first) * c->row_bytes, rows + first * c->row_bytes,
                              (end - first) * c->row_bytes));
    }
    assert_int_equal(c->n_foreign, 0);
}

/* Saved, loaded in one call or in some, and saved again: the same bytes, also in other cells.
 * (tq8's rows travel in pairs, which are others where pages begin elsewhere.) */
static void rows_travel_as_themselves(void **state)
{
    static const char *const formats[] = {"tq2", "tq3", "tq4", "tq5", "tq8", "lm3"};
    static const size_t places[] = {0, 64, 1, 37, 100};
    (void)state;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        for (size_t j = 0; j < sizeof places / sizeof *places; j++) {
            fixture *a = open_cells(formats[i], 1), *b = open_cells(formats[i], 1);
            uint64_t seed = 5;
            size_t n = 64, bytes = n * a->c.row_bytes;
            uint8_t *saved = malloc(bytes), *again = malloc(bytes);
            store(a, 0, CELLS, &seed);
            trim(&a->c, 0, 0);
            store(b, 0, CELLS, &seed);
            trim(&b->c, 0, 0);
            cells_get(&a->c, 0, saved, bytes);
            load_in_parts(&b->c, places[j], saved, n, 1 + j);
            cells_get(&b->c, places[j] * b->c.row_bytes, again, bytes);
            int is_tagged = (saved[1] & 0x7E) == 0x7E;
            assert_true(is_tagged);
            for (size_t r = 0; r < n; r++) {
                float x[VALUES], y[VALUES];
                read_row(&a->c, r, x);
                read_row(&b->c, places[j] + r, y);
                assert_memory_equal(x, y, sizeof x);
            }
            if (strcmp(formats[i], "tq8"))
                assert_memory_equal(saved, again, bytes);
            free(saved);
            free(again);
            close_cells(a);
            close_cells(b);
        }
}

/* Numbers of llama.cpp's own cache are read, and what was never stored is zeros. */
static void f16_rows_are_read(void **state)
{
    uint64_t seed = 9;
    uint16_t rows[70 * VALUES], again[70 * VALUES];
    float row[VALUES];
    fixture *f = open_cells("tq4", 1);
    (void)state;
    for (size_t i = 0; i < 70; i++) {
        make_row(&seed, row);
        tqkv_from_f32(row, VALUES, rows + i * VALUES, TQKV_F16);
    }
    assert_null(cells_set(&f->c, 10 * f->c.row_bytes, rows, sizeof rows));
    cells_get(&f->c, 10 * f->c.row_bytes, again, sizeof again);
    assert_memory_equal(rows, again, sizeof rows);
    /* parts of rows */
    assert_null(cells_set(&f->c, 12 * f->c.row_bytes + 6, rows, 500));
    cells_get(&f->c, 12 * f->c.row_bytes + 6, again, 500);
    assert_memory_equal(rows, again, 500);
    memset(rows, 0, sizeof rows);
    cells_get(&f->c, 90 * f->c.row_bytes, again, f->c.row_bytes);
    assert_memory_equal(rows, again, f->c.row_bytes);
    close_cells(f);
}

/* Rows of another format are told apart, each; overwriting them forgets it. */
static void foreign_rows_are_told_apart(void **state)
{
    fixture *a = open_cells("tq4", 1), *b = open_cells("tq3", 1);
    uint64_t seed = 3;
    size_t bytes = 10 * a->c.row_bytes;
    uint8_t rows[10 * VALUES * 2];
    (void)state;
    a->c.settings = &asked;
    store(a, 0, 64, &seed);
    trim(&a->c, 0, 0);
    cells_get(&a->c, 0, rows, bytes);
    assert_null(cells_set(&b->c, 20 * b->c.row_bytes, rows, bytes));
    assert_int_equal(b->c.n_foreign, 10);
    /* and stay so, saved and loaded again */
    cells_get(&b->c, 20 * b->c.row_bytes, rows, bytes);
    assert_null(cells_set(&b->c, CELLS * b->c.row_bytes, rows, bytes));
    assert_int_equal(b->c.n_foreign, 20);
    memset(rows, 0, sizeof rows);
    assert_null(cells_set(&b->c, CELLS * b->c.row_bytes, rows, bytes));
    store(b, 25, 5, &seed);
    assert_int_equal(b->c.n_foreign, 5);
    memset(rows, 0, sizeof rows);
    assert_null(cells_set(&b->c, 20 * b->c.row_bytes, rows, bytes));
    assert_int_equal(b->c.n_foreign, 0);
    /* any bytes are some row or foreign */
    for (int round = 0; round < 300; round++) {
        for (size_t i = 0; i < bytes; i++)
            rows[i] = (uint8_t)pick(&seed, 256);
        cells_get(&b->c, 20 * b->c.row_bytes, rows, pick(&seed, (unsigned)bytes));
        assert_null(cells_set(&b->c, pick(&seed, SLOTS * VALUES * 2 - (unsigned)bytes), rows,
                              pick(&seed, (unsigned)bytes)));
    }
    close_cells(a);
    close_cells(b);
}

static void plain_keeps_all_rows(void **state)
{
    fixture *f = open_cells("tq4", 1);
    uint64_t seed = 11;
    (void)state;
    store(f, 0, CELLS, &seed);
    trim(&f->c, 0, 1);
    store(f, CELLS + 50, 20, &seed);
    uint8_t foreign[VALUES * 2];
    float number;
    cells_put_foreign(&f->c, foreign);
    assert_null(cells_set(&f->c, 7 * f->c.row_bytes, foreign, sizeof foreign));
    f->is_written[7] = 0;
    assert_true(cells_make_plain(&f->c));
    tqkv_to_f32(cells_nominal(&f->c, 7), TQKV_F16, 1, &number);
    assert_true(isnan(number));
    for (size_t slot = 0; slot < SLOTS; slot++) {
        float row[VALUES];
        tqkv_to_f32(cells_nominal(&f->c, slot), TQKV_F16, VALUES, row);
        if (f->is_written[slot])
            assert_true(distance(row, f->stored[slot]) < .35);
    }
    close_cells(f);
}

/* As many pages are staged as the quota says, and memory is given back. */
static void bytes_are_told(void **state)
{
    fixture *f = open_cells("tq4", 1);
    (void)state;
    size_t sealed = (size_t)STREAMS * HEADS * f->c.n_pages * (64 * (DIM / 2 + 2) + DIM + 2);
    size_t staged = (size_t)STREAMS * cells_quota(&f->c) * 64 * VALUES * 2;
    assert_int_equal(cells_bytes(&f->c), sealed + staged);
    close_cells(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories), cmocka_unit_test(rows_travel_as_themselves),
        cmocka_unit_test(f16_rows_are_read), cmocka_unit_test(foreign_rows_are_told_apart),
        cmocka_unit_test(plain_keeps_all_rows), cmocka_unit_test(bytes_are_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

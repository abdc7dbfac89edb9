/*
 * Attention's kernels on rows of plain numbers: within their bounds of double
 * precision, and the same bits however rows and tokens are divided into calls, as
 * floats or as halves.
 */
#include "attend/kernels.h"
#include "harness.h"

enum { MOST_ROWS = 9, MANY_ROWS = 64 };

typedef struct plain_case {
    unsigned dim;
    guarded halves; /* TILE rows in odd places */
    const uint8_t *rows[TILE];
    float *query, *floats;           /* MANY_ROWS and TILE rows */
    float weight[MANY_ROWS][TILE];
    float score[MOST_ROWS][TILE];    /* by plain_scores, all in one call */
    uint8_t bad[2 * MAX_DIM];        /* a row without a finite number */
} plain_case;

static void fill_plain(plain_case *c, unsigned dim)
{
    static float query[MANY_ROWS * MAX_DIM] __attribute__((aligned(64)));
    static float floats[TILE * MAX_DIM] __attribute__((aligned(64)));
    size_t row = 2 * (size_t)dim + next_random() % 3;
    c->dim = dim;
    c->query = query;
    c->floats = floats;
    c->halves = guarded_new((TILE - 1) * row + 2 * dim, 1);
    random_bytes(c->halves.data, c->halves.size);
    memset(c->bad, 0xFF, sizeof c->bad);
    for (unsigned t = 0; t < TILE; t++) {
        c->rows[t] = c->halves.data + t * row;
        for (unsigned i = 0; i < dim; i++)
            c->halves.data[t * row + 2 * i + 1] &= 0xFB;
        attend_scalar.halves(c->rows[t], dim, floats + t * dim);
    }
    for (unsigned r = 0; r < MANY_ROWS; r++) {
        float size = exp2f((float)(next_random() % 50) - 12);
        for (unsigned i = 0; i < dim; i++)
            query[r * dim + i] = next_random() % 8 ? size * gaussian() : 0;
        for (unsigned t = 0; t < TILE; t++)
            c->weight[r][t] = next_random() % 4 ? size * gaussian() : 0;
    }
}

/* n rows of the case from `first` on; behind them what must not be looked at. */
static void choose_rows(const plain_case *c, unsigned first, unsigned n, const uint8_t **rows)
{
    for (unsigned t = 0; t < TILE; t++)
        rows[t] = t < n ? c->rows[first + t] : c->bad;
}

/* Makes a number of one of the rows infinite or NaN; returns its place. */
static uint8_t *spoil(const plain_case *c, unsigned first, unsigned n, uint8_t *saved)
{
    static const uint8_t kinds[][2] = {{0, 0x7C}, {0, 0xFC}, {0, 0x7E}, {1, 0xFC}};
    size_t at = (size_t)(c->rows[first + next_random() % n] - c->halves.data);
    uint8_t *number = c->halves.data + at + 2 * (next_random() % c->dim);
    memcpy(saved, number, 2);
    memcpy(number, kinds[next_random() % 4], 2);
    return number;
}

static int check_plain_bound(const attend_kernels *k, plain_case *c)
{
    int ok = 1;
    k->plain_scores(c->query, MOST_ROWS, c->floats, TILE, c->dim, c->score);
    for (unsigned r = 0; r < MOST_ROWS; r++)
        for (unsigned t = 0; t < TILE; t++) {
            double sum = 0, size = 0;
            for (unsigned i = 0; i < c->dim; i++) {
                double product = (double)c->query[r * c->dim + i] * c->floats[t * c->dim + i];
                sum += product;
                size += fabs(product);
            }
            ok &= near(c->score[r][t], sum, c->dim * 0x1p-24 * size);
        }
    return ok;
}

/* Any rows, any tokens: the bits of the one call with all of them. */
static int check_plain_scores(const attend_kernels *k, const plain_case *c, int of_halves,
                              unsigned n_rows, unsigned n)
{
    unsigned r0 = (unsigned)(next_random() % (MOST_ROWS - n_rows + 1));
    unsigned t0 = (unsigned)(next_random() % (TILE - n + 1));
    const float *queries = c->query + r0 * c->dim;
    const uint8_t *rows[TILE];
    guarded got = guarded_new(n_rows * TILE * sizeof(float), sizeof(float));
    float(*score)[TILE] = (float(*)[TILE])got.data;
    int ok = 1;
    choose_rows(c, t0, n, rows);
    if (of_halves)
        ok &= k->half_scores(queries, n_rows, rows, c->rows, n, c->dim, score) != 0;
    else
        k->plain_scores(queries, n_rows, c->floats + t0 * c->dim, n, c->dim, score);
    for (unsigned r = 0; r < n_rows; r++)
        ok &= !memcmp(score[r], c->score[r0 + r] + t0, n * sizeof(float));
    if (of_halves) {
        uint8_t saved[2], *number = spoil(c, t0, n, saved);
        ok &= k->half_scores(queries, n_rows, rows, c->rows, n, c->dim, score) == 0;
        memcpy(number, saved, 2);
    }
    ok &= guarded_check(&got);
    free(got.memory);
    return ok;
}

/* Adds the first n tokens to a row alone, as 64 of which the others have weight 0. */
static int expect_sum(const attend_kernels *k, const plain_case *c, unsigned r, unsigned n,
                      float *out)
{
    float before[MAX_DIM], weight[1][TILE] = {{0}};
    int ok = 1;
    memcpy(before, out, c->dim * sizeof *out);
    memcpy(weight[0], c->weight[r], n * sizeof *weight[0]);
    k->plain_accumulate((const float(*)[TILE])weight, 1, c->floats, TILE, c->dim, &out);
    for (unsigned i = 0; i < c->dim; i++) {
        double sum = before[i], size = fabs(sum);
        for (unsigned t = 0; t < n; t++) {
            double product = (double)weight[0][t] * c->floats[t * c->dim + i];
            sum += product;
            size += fabs(product);
        }
        ok &= near(out[i], sum, (n + 1) * 0x1p-24 * size);
    }
    return ok;
}

static int check_plain_accumulate(const attend_kernels *k, const plain_case *c, int of_halves,
                                  unsigned n_rows, unsigned n)
{
    static float expected[MOST_ROWS][MAX_DIM];
    unsigned r0 = (unsigned)(next_random() % (MOST_ROWS - n_rows + 1));
    const float(*weight)[TILE] = (const float(*)[TILE])c->weight + r0;
    const uint8_t *rows[TILE];
    size_t bytes = c->dim * sizeof(float);
    guarded got = guarded_new(n_rows * bytes, sizeof(float));
    float *out[MOST_ROWS];
    int ok = 1;
    for (unsigned r = 0; r < n_rows; r++) {
        out[r] = (float *)(got.data + r * bytes);
        for (unsigned i = 0; i < c->dim; i++)
            expected[r][i] = out[r][i] = 1000 * gaussian();
    }
    choose_rows(c, 0, n, rows);
    if (of_halves) {
        uint8_t saved[2], *number = spoil(c, 0, n, saved);
        ok &= k->half_accumulate(weight, n_rows, rows, c->rows, n, c->dim, out) == 0;
        for (unsigned r = 0; r < n_rows; r++)
            ok &= !memcmp(out[r], expected[r], bytes);
        memcpy(number, saved, 2);
        ok &= k->half_accumulate(weight, n_rows, rows, c->rows, n, c->dim, out) != 0;
    } else {
        k->plain_accumulate(weight, n_rows, c->floats, n, c->dim, out);
    }
    for (unsigned r = 0; r < n_rows; r++) {
        ok &= expect_sum(k, c, r0 + r, n, expected[r]);
        ok &= !memcmp(out[r], expected[r], bytes);
    }
    ok &= guarded_check(&got);
    free(got.memory);
    return ok;
}

static void check_plain(const harness_options *o, const attend_kernels *k, unsigned dim,
                        uint64_t seed, harness_counts *count)
{
    static const char *const names[] = {"plain_scores", "half_scores", "plain_accumulate",
                                        "half_accumulate"};
    static plain_case c;
    random_state = seed + dim;
    fill_plain(&c, dim);
    int near_enough = check_plain_bound(k, &c);
    if (harness_wants(o, names[0]))
        harness_count(count, near_enough, k->name, names[0], "plain rows", dim, seed);
    for (unsigned n_rows = 1; n_rows <= MOST_ROWS; n_rows++)
        for (unsigned n = 1 + n_rows % 2; n <= TILE; n += dim > 128 ? 7 : 1)
            for (int i = 0; i < 4; i++) {
                if (!harness_wants(o, names[i]) || (i % 2 && !k->half_scores))
                    continue;
                random_state = seed + dim + n_rows * TILE + n;
                int ok = i < 2 ? check_plain_scores(k, &c, i % 2, n_rows, n)
                               : check_plain_accumulate(k, &c, i % 2, n_rows, n);
                harness_count(count, ok, k->name, names[i], "plain rows", dim, seed);
            }
    free(c.halves.memory);
}

/* ---- timing ---- */

static void run_plain(const attend_kernels *k, const plain_case *c, int what, unsigned n)
{
    static float score[MANY_ROWS][TILE], sums[MANY_ROWS][MAX_DIM] __attribute__((aligned(64)));
    const float(*weight)[TILE] = (const float(*)[TILE])c->weight;
    float *out[MANY_ROWS];
    for (unsigned r = 0; r < n; r++)
        out[r] = sums[r];
    if (what == 0)
        k->plain_scores(c->query, n, c->floats, TILE, c->dim, score);
    else if (what == 1)
        k->plain_accumulate(weight, n, c->floats, TILE, c->dim, out);
    else if (what == 2)
        k->half_scores(c->query, n, c->rows, c->rows, TILE, c->dim, score);
    else
        k->half_accumulate(weight, n, c->rows, c->rows, TILE, c->dim, out);
}

/* Kernels in turn, so that what slows the machine for a while slows all. */
static void best_plain_times(const attend_kernels *k, const plain_case *c, unsigned n, double *best)
{
    for (int i = 0; i < 4; i++)
        best[i] = 1e30;
    for (int batch = 0; batch < 60; batch++)
        for (int i = 0; i < (k->half_scores ? 4 : 2); i++) {
            int calls = 1 + 200 / (int)n;
            double start = now();
            for (int call = 0; call < calls; call++)
                run_plain(k, c, i, n);
            double taken = (now() - start) / calls;
            best[i] = taken < best[i] ? taken : best[i];
        }
}

static void bench(const harness_options *o)
{
    static const char *const what[] = {"floats, scores", "values", "halves, scores", "values"};
    static const unsigned timed[][2] = {{128, 4}, {64, 3}, {128, 64}};
    static plain_case c;
    puts("\nattention on plain rows: ns for a token and query row");
    for (unsigned t = 0; t < attend_n_isas; t++) {
        const attend_kernels *k = attend_isas[t].kernels;
        if (!harness_runs(o, attend_isas[t].needs, k->name))
            continue;
        for (unsigned f = 0; f < sizeof timed / sizeof *timed; f++) {
            unsigned dim = timed[f][0], n = timed[f][1];
            double best[4];
            random_state = 9;
            fill_plain(&c, dim);
            best_plain_times(k, &c, n, best);
            printf("%-12s d = %u, %u queries", k->name, dim, n);
            for (int i = 0; i < (k->half_scores ? 4 : 2); i++)
                printf("  %s %.2f", what[i], best[i] * 1e9 / TILE / n);
            puts("");
            free(c.halves.memory);
        }
    }
}

void harness_plain(const harness_options *o, harness_counts *count)
{
    static const unsigned dims[] = {16, 48, 64, 80, 96, 128, 256, 1024};
    if (o->timing) {
        bench(o);
        return;
    }
    for (unsigned t = 0; t < attend_n_isas; t++) {
        const attend_kernels *k = attend_isas[t].kernels;
        unsigned long before = count->passed;
        if (!harness_runs(o, attend_isas[t].needs, k->name))
            continue;
        for (uint64_t round = 0; round < o->rounds; round++)
            for (unsigned d = 0; d < sizeof dims / sizeof *dims; d++)
                check_plain(o, k, dims[d], o->seed + round * 1000003, count);
        printf("%-12s %lu checks of attention on plain rows\n", k->name, count->passed - before);
    }
}

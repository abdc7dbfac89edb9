/*
 * Attention's kernels. Those on integers give scalar's numbers exactly, each
 * pair of expansion and product as a whole, since tiles are a table's own
 * affair; those on floats stay within their bounds of double precision.
 */
#include "attend/kernels.h"
#include "page/mean.h"
#include "harness.h"

enum { MOST_ROWS = 9 };

typedef struct tile_case {
    tile_plan plan;
    guarded codes; /* TILE rows, exactly as long as they are, in odd places */
    const uint8_t *rows[TILE];
    unsigned n; /* queries */
    int wide;
    int16_t query[MOST_ROWS][MAX_DIM];
    uint16_t weight[MOST_ROWS][TILE];
    float unit[MOST_ROWS];
} tile_case;

static void fill_case(tile_case *c, const char *format, unsigned dim, unsigned narrow)
{
    tqkv_format f;
    if (tqkv_format_parse(format, dim, &f) != TQKV_OK)
        exit(2);
    tile_plan_init(&c->plan, &f, TQKV_F32);
    size_t gap = next_random() % 3; /* rows may lie apart */
    c->codes = guarded_new(TILE * c->plan.code_bytes + (TILE - 1) * gap, 1);
    random_bytes(c->codes.data, c->codes.size);
    for (unsigned t = 0; t < TILE; t++)
        c->rows[t] = c->codes.data + t * (c->plan.code_bytes + gap);
    c->n = 1 + (unsigned)(next_random() % MOST_ROWS);
    c->wide = narrow ? (int)(next_random() % 2) : 1;
    int extreme = next_random() % 4 == 0;
    for (unsigned r = 0; r < c->n; r++) {
        c->unit[r] = gaussian();
        for (unsigned i = 0; i < dim; i++) {
            int q = (int)(next_random() % (2 * QUERY_LIMIT + 1)) - QUERY_LIMIT;
            c->query[r][i] = (int16_t)(extreme ? q < 0 ? -QUERY_LIMIT : QUERY_LIMIT : q);
        }
        for (unsigned t = 0; t < TILE; t++) {
            unsigned w = (unsigned)(next_random() % (WEIGHT_LIMIT + 1));
            c->weight[r][t] = (uint16_t)(extreme ? w % 2 ? WEIGHT_LIMIT : 0 : w);
        }
    }
}

/* Scores by k, from a tile or from codes; 0 if it has no such way. */
static int run_scores(const attend_kernels *k, const tile_case *c, int from_codes,
                      int32_t (*score)[TILE])
{
    static int8_t tile[TILE * MAX_DIM] __attribute__((aligned(64)));
    static uint8_t packed[MOST_ROWS * (2 * MAX_DIM + 64)] __attribute__((aligned(64)));
    for (unsigned r = 0; r < c->n; r++)
        k->pack_query(&c->plan, c->query[r], packed + r * packed_query_bytes(c->plan.head_dim));
    if (from_codes)
        return k->score_codes &&
               k->score_codes(&c->plan, c->rows, c->rows, packed, c->n, c->wide, score);
    k->expand_keys(&c->plan, c->rows, c->rows, tile);
    k->scores(&c->plan, tile, packed, c->n, c->wide, score);
    return 1;
}

static int check_scores(const attend_kernels *k, const tile_case *c, int from_codes)
{
    int32_t expected[MOST_ROWS][TILE] = {{0}};
    guarded got = guarded_new(sizeof expected, sizeof(int32_t));
    memset(got.data, 0, got.size);
    run_scores(&attend_scalar, c, 0, expected);
    int ok = !run_scores(k, c, from_codes, (int32_t(*)[TILE])got.data) ||
             !memcmp(got.data, expected, sizeof expected);
    ok &= guarded_check(&got);
    free(got.memory);
    return ok;
}

static int run_accumulate(const attend_kernels *k, const tile_case *c, int from_codes,
                          float (*out)[MAX_DIM])
{
    static int8_t tile[TILE * MAX_DIM] __attribute__((aligned(64)));
    static float sums[MOST_ROWS][MAX_DIM] __attribute__((aligned(64)));
    const uint16_t(*weight)[TILE] = (const uint16_t(*)[TILE])c->weight;
    float *rows[MOST_ROWS];
    for (unsigned r = 0; r < c->n; r++) {
        rows[r] = sums[r];
        for (unsigned i = 0; i < MAX_DIM; i++)
            sums[r][i] = (float)r;
    }
    if (!from_codes) {
        k->expand_values(&c->plan, c->rows, c->rows, tile);
        k->accumulate(&c->plan, tile, weight, c->unit, c->n, c->wide, rows);
    } else if (!k->accumulate_codes || !k->accumulate_codes(&c->plan, c->rows, c->rows, weight,
                                                            c->unit, c->n, c->wide, rows)) {
        return 0;
    }
    for (unsigned r = 0; r < c->n; r++)
        k->natural_order(&c->plan, sums[r], out[r]);
    return 1;
}

static int check_accumulate(const attend_kernels *k, const tile_case *c, int from_codes)
{
    static float expected[MOST_ROWS][MAX_DIM], got[MOST_ROWS][MAX_DIM];
    run_accumulate(&attend_scalar, c, 0, expected);
    if (!run_accumulate(k, c, from_codes, got))
        return 1;
    for (unsigned r = 0; r < c->n; r++)
        if (memcmp(got[r], expected[r], c->plan.head_dim * sizeof(float)))
            return 0;
    return 1;
}

/* ---- rows of 64 numbers ---- */

static int check_logits(const attend_kernels *k)
{
    int32_t score[TILE];
    float scale[TILE], expected[TILE], got[TILE], unit = gaussian(), add = gaussian();
    uint64_t where = next_random() % 2 ? next_random() : 0;
    random_bytes(score, sizeof score);
    for (int t = 0; t < TILE; t++)
        scale[t] = fabsf(gaussian());
    attend_scalar.logits(score, unit, scale, where, add, expected);
    k->logits(score, unit, scale, where, add, got);
    return !memcmp(expected, got, sizeof got);
}

static int check_scales(const attend_kernels *k)
{
    uint8_t half[2 * TILE + 1];
    float expected[TILE], got[TILE];
    random_bytes(half, sizeof half);
    int ok = 1;
    for (int has_signs = 0; has_signs < 2; has_signs++) {
        uint64_t signs[2] = {0, 0};
        float a = attend_scalar.scales(half + 1, has_signs ? &signs[0] : NULL, expected);
        float b = k->scales(half + 1, has_signs ? &signs[1] : NULL, got);
        ok &= a == b && signs[0] == signs[1] && !memcmp(expected, got, sizeof got);
        for (int t = 0; t < TILE; t++) {
            int sign = half[2 * t + 2] >> 7;
            ok &= has_signs ? (int)(signs[1] >> t & 1) == sign : !(sign && got[t] > 0);
        }
    }
    return ok;
}

static int check_norms(const attend_kernels *k)
{
    uint8_t norm[4 * TILE + 1];
    float expected[TILE], got[TILE];
    random_bytes(norm, sizeof norm);
    for (int t = 0; t < TILE; t++) { /* half of them as an encoder writes them */
        float x = 100 * fabsf(gaussian());
        if (t % 2)
            memcpy(norm + 1 + 4 * t, &x, sizeof x);
    }
    float a = attend_scalar.norms(norm + 1, expected), b = k->norms(norm + 1, got);
    return a == b && !memcmp(expected, got, sizeof got);
}

static int check_halves(const attend_kernels *k)
{
    uint8_t half[2 * TILE + 1];
    float expected[TILE], got[TILE];
    random_bytes(half, sizeof half);
    for (int t = 0; t < TILE; t++) /* finite: what NaN becomes does not count */
        half[2 * t + 2] &= 0xFB;
    int ok = attend_scalar.halves(half + 1, TILE, expected) && k->halves(half + 1, TILE, got) &&
             !memcmp(expected, got, sizeof got);
    half[2 * (next_random() % TILE) + 2] |= 0x7C; /* infinite or NaN */
    return ok && !attend_scalar.halves(half + 1, TILE, expected) && !k->halves(half + 1, TILE, got);
}

static int check_weights(const attend_kernels *k)
{
    float p[TILE], peak = 0;
    uint16_t expected[TILE], got[TILE];
    for (int t = 0; t < TILE; t++) {
        p[t] = next_random() % 4 ? expf(-8 * fabsf(gaussian())) : 0;
        peak = p[t] > peak ? p[t] : peak;
    }
    float gain = peak > 0 ? WEIGHT_LIMIT / peak : 0;
    int32_t a = attend_scalar.weights(p, gain, expected), b = k->weights(p, gain, got);
    return a == b && !memcmp(expected, got, sizeof got);
}

/* The bound of exp(-x). */
static double exp_bound(double x)
{
    return x < 80 ? 2e-7 * (2 + x) * exp(-x) : exp(-80);
}

/* Three tiles in a row, one of them perhaps without any token. */
static int check_softmax(const attend_kernels *k)
{
    softmax_state s = {.max = -INFINITY};
    double max = -INFINITY, sum = 0, mass = 0, sum_bound = 0, mass_bound = 0;
    float spread = exp2f((float)(next_random() % 8) - 2);
    int ok = 1;
    for (int tile = 0; tile < 3; tile++) {
        float logit[TILE], scale[TILE], power[TILE], p[TILE], peak;
        double old_max = max, most = 0, most_bound = 0;
        int none = next_random() % 5 == 0;
        for (int t = 0; t < TILE; t++) {
            logit[t] = none || next_random() % 6 == 0 ? -INFINITY : spread * gaussian();
            scale[t] = next_random() % 8 ? fabsf(gaussian()) : 0;
            max = logit[t] > max ? logit[t] : max;
        }
        uint64_t where = next_random() % 3 ? next_random() : 0;
        float chosen, rescale = k->softmax(logit, scale, where, &s, power, p, &peak, &chosen);
        double some = 0, some_bound = 0;
        double ratio = old_max > -INFINITY ? exp(old_max - max) : 1;
        double ratio_bound = old_max > -INFINITY ? exp_bound(max - old_max) : 1;
        ok &= near(rescale, ratio, ratio_bound);
        sum_bound = sum_bound * ratio + sum * ratio_bound;
        mass_bound = mass_bound * ratio + mass * ratio_bound;
        sum *= ratio;
        mass *= ratio;
        for (int t = 0; t < TILE; t++) {
            double e = logit[t] > -INFINITY ? exp(logit[t] - max) : 0;
            double bound = logit[t] > -INFINITY ? exp_bound(max - logit[t]) : 0;
            ok &= near(power[t], e, bound + 0x1p-148);
            /* what is subnormal is rounded to 2^-149 */
            ok &= near(p[t], e * scale[t], (bound + 1e-7 * e) * scale[t] + 0x1p-148);
            most = e * scale[t] > most ? e * scale[t] : most;
            most_bound = fmax(most_bound, (bound + 1e-7 * e) * scale[t]);
            sum += e;
            some += where >> t & 1 ? e : 0;
            some_bound += where >> t & 1 ? bound + 1e-6 * e : 0;
            mass += e * scale[t];
            sum_bound += bound + 1e-6 * e;
            mass_bound += (bound + 1e-6 * e) * scale[t];
        }
        ok &= near(chosen, some, some_bound) && chosen == k->sum_where(where, power) &&
              near(peak, most, most_bound) && near(s.sum, sum, sum_bound) &&
              near(s.mass, mass, mass_bound) && (max == -INFINITY || (double)s.max == max);
    }
    return ok;
}

static int check_softcap(const attend_kernels *k)
{
    float x[TILE], cap = exp2f(gaussian() * 5);
    double expected[TILE];
    for (int t = 0; t < TILE; t++) {
        x[t] = next_random() % 9 ? 60 * gaussian() * expf(3 * gaussian()) : -INFINITY;
        expected[t] = x[t] == -INFINITY ? -INFINITY : cap * tanh((double)x[t] / cap);
    }
    k->softcap(x, cap);
    for (int t = 0; t < TILE; t++)
        if (expected[t] == -INFINITY ? x[t] != -INFINITY : !near(x[t], expected[t], 2e-6 * fabs(expected[t])))
            return 0;
    return 1;
}

static int check_where(const attend_kernels *k)
{
    float x[TILE], expected[TILE], add = gaussian();
    uint64_t where = next_random() % 4 ? next_random() : ~(uint64_t)0;
    double sum = 0;
    for (int t = 0; t < TILE; t++) {
        x[t] = fabsf(gaussian());
        sum += where >> t & 1 ? x[t] : 0;
        expected[t] = where >> t & 1 ? x[t] + add : x[t];
    }
    int ok = near(k->sum_where(where, x), sum, TILE * 0x1p-24 * sum);
    k->add_where(where, add, x);
    return ok && !memcmp(expected, x, sizeof x);
}

static int check_mean(const attend_kernels *k)
{
    uint8_t mean[2][TILE + 2];
    const uint8_t *means[2] = {mean[0], mean[1]};
    float got[2][TILE], query[3 * TILE], score[3], weight[3][TILE], out[3][TILE];
    float *rows[3] = {out[0], out[1], out[2]};
    int ok = 1;
    random_bytes(mean, sizeof mean);
    mean_to_floats(mean[0], TILE, got[0]);
    for (int i = 0; i < 3 * TILE; i++) {
        query[i] = gaussian();
        weight[i / TILE][i % TILE] = fabsf(gaussian());
        out[i / TILE][i % TILE] = 0;
    }
    k->mean_accumulate((const float(*)[TILE])weight, 3, means, 2, TILE, rows);
    for (int i = 0; i < 3 * TILE; i++) {
        double sum = 0, magnitude = 0;
        for (int m = 0; m < 2; m++) {
            double product = (double)weight[i / TILE][m] * (int8_t)mean[m][i % TILE];
            sum += product;
            magnitude += fabs(product);
        }
        ok &= near(out[i / TILE][i % TILE], sum, 3 * 0x1p-24 * magnitude);
    }
    k->mean_scores(query, 3, mean[0], TILE, score);
    for (int r = 0; r < 3; r++) {
        double dot = 0, magnitude = 0;
        float alone;
        for (int t = 0; t < TILE; t++) {
            dot += (double)query[r * TILE + t] * got[0][t];
            magnitude += fabs((double)query[r * TILE + t] * got[0][t]);
        }
        k->mean_scores(query + r * TILE, 1, mean[0], TILE, &alone);
        ok &= near(score[r], dot, TILE * 0x1p-23 * magnitude) && alone == score[r];
    }
    for (int t = 0; t < TILE; t++)
        ok &= isfinite(got[0][t]);
    return ok;
}

static const struct {
    const char *name;
    int (*run)(const attend_kernels *k);
} row_checks[] = {
    {"logits", check_logits},   {"scales", check_scales},   {"norms", check_norms},
    {"halves", check_halves},   {"where", check_where},     {"mean", check_mean},
    {"weights", check_weights}, {"softmax", check_softmax}, {"softcap", check_softcap},
};

static const char *const formats[] = {"tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8",
                                      "lm2", "lm3", "lm4", "mlx4", "mlx5", "mlx6"};
static const unsigned dims[] = {16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 288, 512, 1024};

static void check_tiles(const harness_options *o, const attend_kernels *k, const char *format,
                        unsigned dim, uint64_t seed, harness_counts *count)
{
    static tile_case c;
    static const char *const names[] = {"scores", "score_codes", "accumulate",
                                        "accumulate_codes"};
    if (!strncmp(format, "mlx", 3) && ((dim & (dim - 1)) || dim > 256))
        return;
    for (int i = 0; i < 4; i++) {
        if (!harness_wants(o, names[i]))
            continue;
        random_state = seed;
        fill_case(&c, format, dim, k->narrow & (i < 2 ? NARROW_SCORES : NARROW_WEIGHTS));
        int ok = i < 2 ? check_scores(k, &c, i % 2) : check_accumulate(k, &c, i % 2);
        harness_count(count, ok, k->name, names[i], format, dim, seed);
        free(c.codes.memory);
    }
}

/* ---- timing ---- */

static double best_time(const attend_kernels *k, const tile_case *c, int what)
{
    static int32_t score[MOST_ROWS][TILE];
    static float out[MOST_ROWS][MAX_DIM];
    double best = 1e30;
    for (int batch = 0; batch < 30; batch++) {
        double start = now();
        for (int i = 0; i < 50; i++) {
            if (what < 2)
                run_scores(k, c, what, score);
            else
                run_accumulate(k, c, what - 2, out);
        }
        double taken = (now() - start) / 50;
        best = taken < best ? taken : best;
    }
    return best * 1e9;
}

static void bench(const harness_options *o)
{
    static const char *const timed[] = {"tq2", "tq3", "tq4", "tq6", "tq8", "lm4"};
    static const char *const what[] = {"tile, scores", "scores of codes", "tile, values",
                                       "values of codes"};
    static tile_case c;
    puts("\nattention, d = 128, 4 queries: ns for a tile of 64 tokens");
    for (unsigned t = 0; t < attend_n_isas; t++) {
        const attend_kernels *k = attend_isas[t].kernels;
        if (!harness_runs(o, attend_isas[t].needs, k->name))
            continue;
        for (unsigned f = 0; f < sizeof timed / sizeof *timed; f++) {
            random_state = 9;
            fill_case(&c, timed[f], 128, k->narrow);
            c.n = 4;
            c.wide = !k->narrow;
            printf("%-12s %-6s", k->name, timed[f]);
            for (int i = 0; i < 4; i++)
                if (i % 2 == 0 || k->score_codes)
                    printf("  %s %.0f", what[i], best_time(k, &c, i));
            puts("");
            free(c.codes.memory);
        }
    }
}

void harness_attend(const harness_options *o, harness_counts *count)
{
    if (o->timing) {
        bench(o);
        return;
    }
    for (unsigned t = 0; t < attend_n_isas; t++) {
        const attend_kernels *k = attend_isas[t].kernels;
        unsigned long before = count->passed;
        if (!harness_runs(o, attend_isas[t].needs, k->name))
            continue;
        for (uint64_t round = 0; round < o->rounds; round++) {
            uint64_t seed = o->seed + round * 1000003;
            for (unsigned f = 0; f < sizeof formats / sizeof *formats; f++)
                for (unsigned d = 0; d < sizeof dims / sizeof *dims; d++)
                    check_tiles(o, k, formats[f], dims[d], seed + f * 1009 + d, count);
            for (unsigned i = 0; i < 100 * sizeof row_checks / sizeof *row_checks; i++) {
                unsigned which = i % (sizeof row_checks / sizeof *row_checks);
                random_state = seed + i;
                if (harness_wants(o, row_checks[which].name))
                    harness_count(count, row_checks[which].run(k), k->name,
                                  row_checks[which].name, "any format", 0, seed + i);
            }
        }
        printf("%-12s %lu checks of attention\n", k->name, count->passed - before);
    }
}

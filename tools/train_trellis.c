/* Trains the additive trellis tables of src/format/trellis_tables.c.
 *
 * A value is decoded from the 8-bit window of the code stream that ends with
 * its own bits: level = a[window >> 4] + b[window & 15], all small integers.
 * Training alternates Viterbi coding of Gaussian rows with a least-squares
 * fit of a[] and b[] (generalised Lloyd), from many random permutations of
 * the fine quantiles, because the alternation ends in local optima. The best
 * few are rounded to integers and then improved on the integers themselves by
 * coordinate descent, with the row's least-squares scale in the objective.
 *
 *   train_trellis BITS [RESTARTS [SEED]]
 *
 * prints the tables as C initialisers. The same arguments give the same
 * tables; the shipped ones are those of "make tables".
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WINDOWS = 256,
    ROW = 128,
    LANES = 16,
    MAX_LEVEL = 127,
    KEEP = 6 /* restarts that reach the integer stage */
};

/* Up to this rate a row is normalised by its root mean square, above it by
 * its largest magnitude: finer codes lose more to overload than to a coarser
 * step (doc/quality.md has the measurement). The gains, levels per root mean
 * square or per largest magnitude, are the same for all rates of a rule. */
static const int LAST_RMS_RATE = 5;
static const double RMS_GAIN = 37;
static const double PEAK_GAIN = 127;

typedef struct {
    float a[16], b[16];
} table;

typedef struct {
    int rate, nodes, branches;
    size_t rows; /* a multiple of LANES */
    float *x;      /* rows * ROW values, normalised */
    float *weight; /* one a row: (row's norm unit)^2, so that errors add up
                      in the units of the Gaussian */
    uint8_t (*from)[LANES]; /* survivors, [position * nodes + node] = branch */
    uint8_t *window;
} problem;

/* ---- random numbers: xorshift128+ and Box-Muller ---- */

typedef struct {
    uint64_t s[2];
} generator;

static uint64_t next_u64(generator *g)
{
    uint64_t a = g->s[0], b = g->s[1];
    g->s[0] = b;
    a ^= a << 23;
    g->s[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
    return g->s[1] + b;
}

static double uniform(generator *g)
{
    return ((double)(next_u64(g) >> 11) + 0.5) * 0x1p-53;
}

static double gaussian(generator *g)
{
    double radius = sqrt(-2 * log(uniform(g)));
    return radius * cos(6.283185307179586 * uniform(g));
}

static double gaussian_quantile(double p)
{
    double lo = -9, hi = 9;
    for (int i = 0; i < 60; i++) {
        double mid = (lo + hi) / 2;
        if (0.5 * erfc(-mid / sqrt(2)) < p)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* ---- the problem: rows to code ---- */

static void *allocate(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p) {
        fprintf(stderr, "train_trellis: out of memory\n");
        exit(1);
    }
    return p;
}

static void make_rows(problem *p, generator *g)
{
    for (size_t r = 0; r < p->rows; r++) {
        float *x = p->x + r * ROW;
        double square = 0, largest = 0;
        for (int i = 0; i < ROW; i++) {
            x[i] = (float)gaussian(g);
            square += (double)x[i] * x[i];
            if (fabs(x[i]) > largest)
                largest = fabs(x[i]);
        }
        double unit = p->rate <= LAST_RMS_RATE ? sqrt(square / ROW) : largest;
        for (int i = 0; i < ROW; i++)
            x[i] = (float)(x[i] / unit);
        p->weight[r] = (float)(unit * unit);
    }
}

static void problem_init(problem *p, int rate, size_t rows, generator *g)
{
    p->rate = rate;
    p->nodes = 1 << (8 - rate);
    p->branches = 1 << rate;
    p->rows = rows;
    p->x = allocate(rows * ROW * sizeof *p->x);
    p->weight = allocate(rows * sizeof *p->weight);
    p->from = allocate(rows * ROW * (size_t)p->nodes);
    p->window = allocate(rows * ROW);
    make_rows(p, g);
}

static void problem_free(problem *p)
{
    free(p->x);
    free(p->weight);
    free(p->from);
    free(p->window);
}

/* ---- Viterbi ---- */

/* The rows are coded as LANES long sequences side by side, so that starts do
 * not count and the compiler has a vector to work on. Value i of lane l is
 * x[(l * rows / LANES) * ROW + i]. */

static void viterbi_step(const problem *p, const float *levels,
                         const float x[LANES], float (*metric)[LANES],
                         uint8_t (*from)[LANES])
{
    float best[64][LANES], least[LANES];
    for (int l = 0; l < LANES; l++)
        least[l] = 1e30f;
    for (int n = 0; n < p->nodes; n++) {
        float winner[LANES] = {0}, tried[LANES], lead[LANES];
        for (int l = 0; l < LANES; l++)
            lead[l] = 1e30f;
        for (int j = 0; j < p->branches; j++) {
            int w = n << p->rate | j;
            float level = levels[w], number = (float)j;
            const float *old = metric[w & (p->nodes - 1)];
            for (int l = 0; l < LANES; l++) {
                tried[l] = (x[l] - level) * (x[l] - level) + old[l];
                winner[l] = tried[l] < lead[l] ? number : winner[l];
                lead[l] = tried[l] < lead[l] ? tried[l] : lead[l];
            }
        }
        for (int l = 0; l < LANES; l++) {
            best[n][l] = lead[l];
            from[n][l] = (uint8_t)winner[l];
            least[l] = lead[l] < least[l] ? lead[l] : least[l];
        }
    }
    for (int n = 0; n < p->nodes; n++)
        for (int l = 0; l < LANES; l++)
            metric[n][l] = best[n][l] - least[l];
}

static void viterbi(const problem *p, const table *t)
{
    float levels[WINDOWS], metric[64][LANES] = {{0}}, x[LANES];
    size_t nodes = (size_t)p->nodes, length = p->rows / LANES * ROW;
    for (int w = 0; w < WINDOWS; w++)
        levels[w] = t->a[w >> 4] + t->b[w & 15];
    for (size_t i = 0; i < length; i++) {
        for (size_t l = 0; l < LANES; l++)
            x[l] = p->x[l * length + i];
        viterbi_step(p, levels, x, metric, p->from + i * nodes);
    }
    for (size_t l = 0; l < LANES; l++) {
        size_t node = 0;
        for (size_t n = 1; n < nodes; n++)
            if (metric[n][l] < metric[node][l])
                node = n;
        for (size_t i = length; i-- > 0;) {
            size_t w = node << p->rate | p->from[i * nodes + node][l];
            p->window[l * length + i] = (uint8_t)w;
            node = w & (nodes - 1);
        }
    }
}

/* Mean squared error after each row's least-squares scale. */
static double error_of(const problem *p, const table *t)
{
    viterbi(p, t);
    double total = 0;
    for (size_t r = 0; r < p->rows; r++) {
        double xx = 0, xl = 0, ll = 0;
        for (int i = 0; i < ROW; i++) {
            int w = p->window[r * ROW + (size_t)i];
            double x = p->x[r * ROW + (size_t)i];
            double level = t->a[w >> 4] + t->b[w & 15];
            xx += x * x;
            xl += x * level;
            ll += level * level;
        }
        total += p->weight[r] * (xx - (ll > 0 ? xl * xl / ll : 0));
    }
    return total / (double)(p->rows * ROW);
}

/* ---- fitting a[] and b[] ---- */

static void fit_additive(table *t, const double *sum, const double *count)
{
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 16; i++) {
            double z = 0, m = 0;
            for (int j = 0; j < 16; j++) {
                z += sum[i << 4 | j] - count[i << 4 | j] * t->b[j];
                m += count[i << 4 | j];
            }
            if (m > 0)
                t->a[i] = (float)(z / m);
        }
        for (int j = 0; j < 16; j++) {
            double z = 0, m = 0;
            for (int i = 0; i < 16; i++) {
                z += sum[i << 4 | j] - count[i << 4 | j] * t->a[i];
                m += count[i << 4 | j];
            }
            if (m > 0)
                t->b[j] = (float)(z / m);
        }
    }
}

static void shuffled(int *order, int count, generator *g)
{
    for (int i = 0; i < count; i++)
        order[i] = i;
    for (int i = count - 1; i > 0; i--) {
        int j = (int)(next_u64(g) % (uint64_t)(i + 1));
        int swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

/* A start: windows in the order of their levels. The bits that choose the
 * next node should not fix the coarse level, or the path has no choice; where
 * a code has other fresh bits (more than 4 a value), those are the coarse
 * ones. Old nodes shift the grid by a random order. */
static void start_table(const problem *p, table *t, generator *g)
{
    int next_order[64], old_order[64];
    double sum[WINDOWS], count[WINDOWS];
    shuffled(old_order, p->nodes, g);
    shuffled(next_order, p->nodes, g);
    for (int w = 0; w < WINDOWS; w++) {
        int old = w & (p->nodes - 1), rank;
        if (p->rate <= 4) {
            rank = (w >> (8 - p->rate)) * p->nodes + old_order[old];
        } else {
            int coarse = w >> (8 - p->rate) & ((1 << (2 * p->rate - 8)) - 1);
            rank = (coarse * p->nodes + next_order[w >> p->rate]) * p->nodes +
                   old_order[old];
        }
        double quantile = (rank + 0.5) / WINDOWS;
        sum[w] = p->rate <= LAST_RMS_RATE ? gaussian_quantile(quantile)
                                          : 2 * quantile - 1;
        count[w] = 1;
    }
    memset(t, 0, sizeof *t);
    fit_additive(t, sum, count);
}

static void lloyd(const problem *p, table *t, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        double sum[WINDOWS] = {0}, count[WINDOWS] = {0};
        viterbi(p, t);
        for (size_t i = 0; i < p->rows * ROW; i++) {
            double weight = p->weight[i / ROW];
            sum[p->window[i]] += weight * p->x[i];
            count[p->window[i]] += weight;
        }
        fit_additive(t, sum, count);
    }
}

/* ---- integers ---- */

static float largest_level(const table *t)
{
    float largest = 0;
    for (int w = 0; w < WINDOWS; w++)
        largest = fmaxf(largest, fabsf(t->a[w >> 4] + t->b[w & 15]));
    return largest;
}

static table rounded(const table *t, double gain)
{
    table r;
    double shift = 0; /* a[] and b[] may trade a constant: centre both */
    for (int i = 0; i < 16; i++)
        shift += t->a[i] / 16;
    gain = fmin(gain, (MAX_LEVEL - 1.0) / largest_level(t));
    for (int i = 0; i < 16; i++) {
        r.a[i] = (float)rint((t->a[i] - shift) * gain);
        r.b[i] = (float)rint((t->b[i] + shift) * gain);
    }
    return r;
}

static double scaled_error(const problem *p, const table *integers, double gain)
{
    table t;
    for (int i = 0; i < 16; i++) {
        t.a[i] = (float)(integers->a[i] / gain);
        t.b[i] = (float)(integers->b[i] / gain);
    }
    return error_of(p, &t);
}

/* Coordinate descent: each entry one up or one down while that helps. */
static double descend(const problem *p, table *t, double gain)
{
    double best = scaled_error(p, t, gain);
    for (int pass = 0, improved = 1; pass < 12 && improved; pass++) {
        improved = 0;
        for (int i = 0; i < 64; i++) {
            float *entry = i < 32 ? &t->a[i >> 1] : &t->b[(i - 32) >> 1];
            float old = *entry;
            *entry += i & 1 ? 1 : -1;
            double e = largest_level(t) <= MAX_LEVEL ? scaled_error(p, t, gain)
                                                     : 1e30;
            if (e < best) {
                best = e;
                improved = 1;
            } else {
                *entry = old;
            }
        }
    }
    return best;
}

static void print_values(const char *before, const float *values, const char *after)
{
    fputs(before, stdout);
    for (int i = 0; i < 16; i++)
        printf("%s%d", i ? ", " : "", (int)values[i]);
    fputs(after, stdout);
}

int main(int argc, char **argv)
{
    int rate = argc > 1 ? atoi(argv[1]) : 0;
    int restarts = argc > 2 ? atoi(argv[2]) : 200;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    if (rate < 2 || rate > 7 || restarts < KEEP) {
        fprintf(stderr, "usage: train_trellis BITS [RESTARTS [SEED]]\n"
                        "BITS from 2 to 7, RESTARTS at least %d\n", KEEP);
        return 2;
    }
    generator g = {{seed * 0x9E3779B97F4A7C15u + 1, 0xD1B54A32D192ED03u}};
    problem small, large, check;
    problem_init(&small, rate, 64, &g);
    problem_init(&large, rate, 1024, &g);
    problem_init(&check, rate, 8192, &g);

    table kept[KEEP];
    double kept_error[KEEP];
    for (int i = 0; i < KEEP; i++)
        kept_error[i] = 1e30;
    for (int restart = 0; restart < restarts; restart++) {
        table t;
        start_table(&small, &t, &g);
        lloyd(&small, &t, 25);
        lloyd(&large, &t, 5);
        double e = error_of(&large, &t);
        for (int i = 0; i < KEEP; i++)
            if (e < kept_error[i]) {
                memmove(kept + i + 1, kept + i, sizeof *kept * (size_t)(KEEP - 1 - i));
                memmove(kept_error + i + 1, kept_error + i,
                        sizeof *kept_error * (size_t)(KEEP - 1 - i));
                kept[i] = t;
                kept_error[i] = e;
                break;
            }
    }
    table best = kept[0];
    double best_error = 1e30;
    double gain = rate <= LAST_RMS_RATE ? RMS_GAIN : PEAK_GAIN;
    for (int i = 0; i < KEEP; i++) {
        table t = kept[i];
        lloyd(&large, &t, 40);
        double before = error_of(&large, &t);
        table integers = rounded(&t, gain);
        double e = descend(&large, &integers, gain);
        fprintf(stderr, "rate %d: candidate %d: %.6f, as integers %.6f\n",
                rate, i, before, e);
        if (e < best_error) {
            best_error = e;
            best = integers;
        }
    }
    fprintf(stderr, "rate %d: mean squared error %.6f on other rows\n", rate,
            scaled_error(&check, &best, gain));
    printf("    /* %d bits */\n", rate);
    print_values("    {.a = {", best.a, "},\n");
    print_values("     .b = {", best.b, "}},\n");
    problem_free(&small);
    problem_free(&large);
    problem_free(&check);
    return 0;
}

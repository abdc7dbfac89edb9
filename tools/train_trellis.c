/* Trains the additive trellis tables of src/format/trellis_tables.inc.
 *
 * A value is decoded from a window of the code stream, whose digits are looked
 * up in a table each and added, all small integers. A window is two digits of 4
 * bits, but for 3 bits a value three digits of 3 bits: the symbols of the value
 * and of the two before it. Training alternates Viterbi coding of Gaussian rows
 * with a least-squares fit of the tables (generalised Lloyd), from many random
 * starts, because the alternation ends in local optima. The best few are rounded to integers and then improved on the integers
 * themselves by coordinate descent, with the row's least-squares scale in the
 * objective.
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
    MAX_WINDOWS = 512,
    MAX_TAPS = 3,
    ROW = 128,
    LANES = 16,
    MAX_LEVEL = 127,
    MAX_KEPT = 16
};

/* Up to this rate a row is normalised by its root mean square, above it by
 * its largest magnitude: finer codes lose more to overload than to a coarser
 * step (doc/quality.md has the measurement). The gains, levels per root mean
 * square or per largest magnitude, are the same for all rates of a rule. */
static const int LAST_RMS_RATE = 5;
static const double RMS_GAIN = 37;
static const double PEAK_GAIN = 127;

/* Table 0 is that of a window's highest digit. */
typedef struct {
    float tap[MAX_TAPS][16];
} table;

/* What windows consist of, highest digit first; how many restarts reach the integer
 * stage, where the real-valued error says little about what comes out of it; and
 * how often the integers are gone through at most. */
typedef struct {
    int taps, digit_bits, kept, passes;
} shape;

typedef struct {
    shape shape;
    int rate, windows, nodes, branches;
    size_t rows; /* a multiple of LANES */
    float *x;      /* rows * ROW values, normalised */
    float *weight; /* one a row: (row's norm unit)^2, so that errors add up
                      in the units of the Gaussian */
    uint8_t (*from)[LANES]; /* survivors, [position * nodes + node] = branch */
    uint16_t *window;
} problem;

static shape shape_of(int rate)
{
    return rate == 3 ? (shape){3, 3, MAX_KEPT, 60} : (shape){2, 4, 6, 12};
}

/* The digit that tap j looks up. */
static int digit(shape s, int window, int j)
{
    return window >> s.digit_bits * (s.taps - 1 - j) & ((1 << s.digit_bits) - 1);
}

static float level_of(shape s, const table *t, int window)
{
    float level = 0;
    for (int j = 0; j < s.taps; j++)
        level += t->tap[j][digit(s, window, j)];
    return level;
}

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
    p->shape = shape_of(rate);
    p->rate = rate;
    p->windows = 1 << p->shape.taps * p->shape.digit_bits;
    p->nodes = p->windows >> rate;
    p->branches = 1 << rate;
    p->rows = rows;
    p->x = allocate(rows * ROW * sizeof *p->x);
    p->weight = allocate(rows * sizeof *p->weight);
    p->from = allocate(rows * ROW * (size_t)p->nodes);
    p->window = allocate(rows * ROW * sizeof *p->window);
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
    float levels[MAX_WINDOWS], metric[64][LANES] = {{0}}, x[LANES];
    size_t nodes = (size_t)p->nodes, length = p->rows / LANES * ROW;
    for (int w = 0; w < p->windows; w++)
        levels[w] = level_of(p->shape, t, w);
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
            p->window[l * length + i] = (uint16_t)w;
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
            double level = level_of(p->shape, t, w);
            xx += x * x;
            xl += x * level;
            ll += level * level;
        }
        total += p->weight[r] * (xx - (ll > 0 ? xl * xl / ll : 0));
    }
    return total / (double)(p->rows * ROW);
}

/* ---- fitting the tables ---- */

/* Each table in turn, given the others. */
static void fit_additive(shape s, int windows, table *t, const double *sum, const double *count)
{
    for (int round = 0; round < 50; round++)
        for (int j = 0; j < s.taps; j++) {
            double z[16] = {0}, m[16] = {0};
            for (int w = 0; w < windows; w++) {
                int own = digit(s, w, j);
                float rest = 0;
                for (int k = 0; k < s.taps; k++)
                    rest += k == j ? 0 : t->tap[k][digit(s, w, k)];
                z[own] += sum[w] - count[w] * rest;
                m[own] += count[w];
            }
            for (int i = 0; i < 1 << s.digit_bits; i++)
                if (m[i] > 0)
                    t->tap[j][i] = (float)(z[i] / m[i]);
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

/* A start for three taps: the value's own symbol is coarse, those before it shift
 * the grid by random amounts. */
static void start_taps(table *t, generator *g)
{
    double spread = 0.3 + 0.5 * uniform(g);
    for (int i = 0; i < 8; i++) {
        t->tap[0][i] = (float)(1.05 * gaussian_quantile((i + 0.5) / 8));
        t->tap[1][i] = (float)(spread * gaussian(g));
        t->tap[2][i] = (float)(spread * gaussian(g));
    }
}

/* Another start: windows in the order of their levels. The bits that choose the
 * next node should not fix the coarse level, or the path has no choice; where
 * a code has other fresh bits (more than 4 a value), those are the coarse
 * ones. Old nodes shift the grid by a random order. */
static void start_table(const problem *p, table *t, generator *g)
{
    int next_order[64], old_order[64];
    double sum[MAX_WINDOWS], count[MAX_WINDOWS];
    memset(t, 0, sizeof *t);
    shuffled(old_order, p->nodes, g);
    shuffled(next_order, p->nodes, g);
    if (p->shape.taps == 3) {
        start_taps(t, g);
        return;
    }
    for (int w = 0; w < p->windows; w++) {
        int old = w & (p->nodes - 1), rank;
        if (p->rate <= 4) {
            rank = w / p->nodes * p->nodes + old_order[old];
        } else {
            int coarse = w >> (8 - p->rate) & ((1 << (2 * p->rate - 8)) - 1);
            rank = (coarse * p->nodes + next_order[w >> p->rate]) * p->nodes +
                   old_order[old];
        }
        double quantile = (rank + 0.5) / p->windows;
        sum[w] = p->rate <= LAST_RMS_RATE ? gaussian_quantile(quantile)
                                          : 2 * quantile - 1;
        count[w] = 1;
    }
    fit_additive(p->shape, p->windows, t, sum, count);
}

static void lloyd(const problem *p, table *t, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        double sum[MAX_WINDOWS] = {0}, count[MAX_WINDOWS] = {0};
        viterbi(p, t);
        for (size_t i = 0; i < p->rows * ROW; i++) {
            double weight = p->weight[i / ROW];
            sum[p->window[i]] += weight * p->x[i];
            count[p->window[i]] += weight;
        }
        fit_additive(p->shape, p->windows, t, sum, count);
    }
}

/* ---- integers ---- */

static float largest_level(const problem *p, const table *t)
{
    float largest = 0;
    for (int w = 0; w < p->windows; w++)
        largest = fmaxf(largest, fabsf(level_of(p->shape, t, w)));
    return largest;
}

static table rounded(const problem *p, const table *t, double gain)
{
    table r = {0};
    int entries = 1 << p->shape.digit_bits, last = p->shape.taps - 1;
    double shift = 0; /* tables may trade constants: centre all of them */
    gain = fmin(gain, (MAX_LEVEL - 1.0) / largest_level(p, t));
    for (int j = 0; j <= last; j++) {
        double mean = 0;
        for (int i = 0; j < last && i < entries; i++)
            mean += t->tap[j][i] / entries;
        shift += mean;
        for (int i = 0; i < entries; i++)
            r.tap[j][i] = (float)rint((t->tap[j][i] + (j < last ? -mean : shift)) * gain);
    }
    return r;
}

static double scaled_error(const problem *p, const table *integers, double gain)
{
    table t;
    for (int j = 0; j < MAX_TAPS; j++)
        for (int i = 0; i < 16; i++)
            t.tap[j][i] = (float)(integers->tap[j][i] / gain);
    return error_of(p, &t);
}

/* Coordinate descent: each entry one up or one down while that helps. */
static double descend(const problem *p, table *t, double gain)
{
    int entries = 1 << p->shape.digit_bits;
    double best = scaled_error(p, t, gain);
    for (int pass = 0, improved = 1; pass < p->shape.passes && improved; pass++) {
        improved = 0;
        for (int i = 0; i < 2 * entries * p->shape.taps; i++) {
            float *entry = &t->tap[i / 2 / entries][i / 2 % entries];
            float old = *entry;
            *entry += i & 1 ? 1 : -1;
            double e = largest_level(p, t) <= MAX_LEVEL ? scaled_error(p, t, gain) : 1e30;
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

static void print_values(const char *before, const float *values, int n, const char *after)
{
    fputs(before, stdout);
    for (int i = 0; i < n; i++)
        printf("%s%d", i ? ", " : "", (int)values[i]);
    fputs(after, stdout);
}

static void print_table(int rate, const table *t)
{
    printf("    /* %d bits */\n", rate);
    if (shape_of(rate).taps == 2) {
        print_values("    {.a = {", t->tap[0], 16, "},\n");
        print_values("     .b = {", t->tap[1], 16, "}},\n");
        return;
    }
    print_values("    {.taps = {{", t->tap[0], 8, "},\n");
    print_values("              {", t->tap[1], 8, "},\n");
    print_values("              {", t->tap[2], 8, "}}},\n");
}

int main(int argc, char **argv)
{
    int rate = argc > 1 ? atoi(argv[1]) : 0;
    int restarts = argc > 2 ? atoi(argv[2]) : 200;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    if (rate < 2 || rate > 7 || restarts < shape_of(rate).kept) {
        fprintf(stderr, "usage: train_trellis BITS [RESTARTS [SEED]]\n"
                        "BITS from 2 to 7, RESTARTS at least %d, for 3 bits %d\n",
                shape_of(2).kept, shape_of(3).kept);
        return 2;
    }
    generator g = {{seed * 0x9E3779B97F4A7C15u + 1, 0xD1B54A32D192ED03u}};
    problem small, large, check;
    problem_init(&small, rate, 64, &g);
    problem_init(&large, rate, 1024, &g);
    problem_init(&check, rate, 8192, &g);

    const int n_kept = small.shape.kept;
    table kept[MAX_KEPT];
    double kept_error[MAX_KEPT];
    for (int i = 0; i < n_kept; i++)
        kept_error[i] = 1e30;
    for (int restart = 0; restart < restarts; restart++) {
        table t;
        start_table(&small, &t, &g);
        lloyd(&small, &t, 25);
        lloyd(&large, &t, 5);
        double e = error_of(&large, &t);
        for (int i = 0; i < n_kept; i++)
            if (e < kept_error[i]) {
                memmove(kept + i + 1, kept + i, sizeof *kept * (size_t)(n_kept - 1 - i));
                memmove(kept_error + i + 1, kept_error + i,
                        sizeof *kept_error * (size_t)(n_kept - 1 - i));
                kept[i] = t;
                kept_error[i] = e;
                break;
            }
    }
    table best = kept[0];
    double best_error = 1e30;
    double gain = rate <= LAST_RMS_RATE ? RMS_GAIN : PEAK_GAIN;
    for (int i = 0; i < n_kept; i++) {
        table t = kept[i];
        lloyd(&large, &t, 40);
        double before = error_of(&large, &t);
        table integers = rounded(&large, &t, gain);
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
    print_table(rate, &best);
    problem_free(&small);
    problem_free(&large);
    problem_free(&check);
    return 0;
}

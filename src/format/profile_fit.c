/* Fits a head's balance and centres (design and measurements: doc/quality.md).
 * Only exactly rounded operations, in a fixed order: the same on every machine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/splitmix64.h"
#include "format/profile.h"
#include "tqkv_page.h"

enum { LLOYD_ROUNDS = 25, LARGEST_BALANCE = 16 };

typedef struct rows {
    const float *values;
    size_t n, stride;
    uint32_t dim;
} rows;

static const float *row(const rows *r, size_t i)
{
    return r->values + i * r->stride;
}

/* Sums of x and x^2 over the finite rows; returns how many there are. */
static size_t sums(const rows *r, double *sum, double *square)
{
    size_t count = 0;
    for (uint32_t d = 0; d < r->dim; d++)
        sum[d] = square[d] = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (!floats_are_finite(row(r, i), r->dim))
            continue;
        count++;
        for (uint32_t d = 0; d < r->dim; d++) {
            double x = row(r, i)[d];
            sum[d] += x;
            square[d] += x * x;
        }
    }
    return count;
}

/* s_i = (E q_i^2 / Var k_i)^(1/4) makes s k and q / s equally large in every
 * direction: the error of the logit, a sum of products of the key's error with
 * the query, is then least for a given number of bits. Normalised so that
 * balanced keys keep their variance, and bounded where either is near 0. */
static void fit_balance(const double *variance, const double *query_square,
                        uint32_t n, float *balance)
{
    double before = 0, after = 0, floor_k = 0, floor_q = 0;
    for (uint32_t d = 0; d < n; d++) {
        floor_k += variance[d] / n * 1e-6;
        floor_q += query_square[d] / n * 1e-6;
    }
    if (!(floor_k > 0) || !(floor_q > 0)) {
        for (uint32_t d = 0; d < n; d++)
            balance[d] = 1;
        return;
    }
    for (uint32_t d = 0; d < n; d++) {
        double ratio = fmax(query_square[d], floor_q) / fmax(variance[d], floor_k);
        double s = sqrt(sqrt(ratio));
        balance[d] = (float)s;
        before += variance[d];
        after += variance[d] * s * s;
    }
    double unit = sqrt(before / after);
    for (uint32_t d = 0; d < n; d++) {
        double s = balance[d] * unit;
        balance[d] = (float)fmin(fmax(s, 1.0 / LARGEST_BALANCE), LARGEST_BALANCE);
    }
}

/* ---- k-means ---- */

static double distance(const float *x, const float *centre, uint32_t n)
{
    double lane[8] = {0}, sum = 0;
    for (uint32_t d = 0; d < n; d += 8)
        for (uint32_t j = 0; j < 8; j++) {
            double difference = (double)x[d + j] - centre[d + j];
            lane[j] += difference * difference;
        }
    for (uint32_t j = 0; j < 8; j++)
        sum += lane[j];
    return sum;
}

typedef struct clustering {
    uint32_t dim, n_centres;
    size_t n;
    float *points;    /* [n][dim] balanced, finite keys */
    float *centres;   /* [n_centres][dim] */
    double *nearest;  /* [n] squared distance to the nearest centre so far */
    uint32_t *member; /* [n] */
    double *sum;      /* [n_centres][dim] */
    size_t *count;    /* [n_centres] */
} clustering;

/* Index of a point, with probability in proportion to its distance. */
static size_t draw(const clustering *c, uint64_t *state)
{
    double total = 0;
    for (size_t i = 0; i < c->n; i++)
        total += c->nearest[i];
    double left = (double)(splitmix64(state) >> 11) * 0x1p-53 * total;
    for (size_t i = 0; i < c->n; i++) {
        left -= c->nearest[i];
        if (left < 0)
            return i;
    }
    return c->n - 1;
}

/* k-means++ (Arthur and Vassilvitskii, SODA 2007). */
static void seed_centres(clustering *c, uint64_t seed)
{
    size_t chosen = splitmix64(&seed) % c->n;
    for (size_t i = 0; i < c->n; i++)
        c->nearest[i] = INFINITY;
    for (uint32_t m = 0; m < c->n_centres; m++) {
        float *centre = c->centres + (size_t)m * c->dim;
        memcpy(centre, c->points + chosen * c->dim, c->dim * sizeof *centre);
        for (size_t i = 0; i < c->n; i++)
            c->nearest[i] = fmin(c->nearest[i],
                                 distance(c->points + i * c->dim, centre, c->dim));
        if (m + 1 < c->n_centres)
            chosen = draw(c, &seed);
    }
}

static int assign(clustering *c)
{
    int changed = 0;
    for (size_t i = 0; i < c->n; i++) {
        uint32_t best = 0;
        double least = INFINITY;
        for (uint32_t m = 0; m < c->n_centres; m++) {
            double d = distance(c->points + i * c->dim, c->centres + (size_t)m * c->dim,
                                c->dim);
            if (d < least) {
                least = d;
                best = m;
            }
        }
        changed |= c->member[i] != best;
        c->member[i] = best;
        c->nearest[i] = least;
    }
    return changed;
}

static size_t farthest(const clustering *c)
{
    size_t best = 0;
    for (size_t i = 1; i < c->n; i++)
        if (c->nearest[i] > c->nearest[best])
            best = i;
    return best;
}

/* Centres become means; an empty cluster takes the farthest point. */
static void update(clustering *c)
{
    memset(c->sum, 0, (size_t)c->n_centres * c->dim * sizeof *c->sum);
    memset(c->count, 0, c->n_centres * sizeof *c->count);
    for (size_t i = 0; i < c->n; i++) {
        double *sum = c->sum + (size_t)c->member[i] * c->dim;
        c->count[c->member[i]]++;
        for (uint32_t d = 0; d < c->dim; d++)
            sum[d] += c->points[i * c->dim + d];
    }
    for (uint32_t m = 0; m < c->n_centres; m++) {
        float *centre = c->centres + (size_t)m * c->dim;
        if (c->count[m] == 0) {
            size_t i = farthest(c);
            memcpy(centre, c->points + i * c->dim, c->dim * sizeof *centre);
            c->nearest[i] = 0;
            continue;
        }
        for (uint32_t d = 0; d < c->dim; d++)
            centre[d] = (float)(c->sum[(size_t)m * c->dim + d] / (double)c->count[m]);
    }
}

static void cluster(clustering *c, uint64_t seed)
{
    seed_centres(c, seed);
    for (size_t i = 0; i < c->n; i++)
        c->member[i] = UINT32_MAX;
    for (int round = 0; round < LLOYD_ROUNDS && assign(c); round++)
        update(c);
}

static int allocate(clustering *c, size_t n_keys)
{
    size_t points;
    if (!size_multiply(n_keys, c->dim * sizeof(float), &points))
        return 0;
    c->points = malloc(points);
    c->centres = malloc((size_t)c->n_centres * c->dim * sizeof *c->centres);
    c->nearest = malloc(n_keys * sizeof *c->nearest);
    c->member = malloc(n_keys * sizeof *c->member);
    c->sum = malloc((size_t)c->n_centres * c->dim * sizeof *c->sum);
    c->count = malloc(c->n_centres * sizeof *c->count);
    return c->points && c->centres && c->nearest && c->member && c->sum && c->count;
}

static void release(clustering *c)
{
    free(c->points);
    free(c->centres);
    free(c->nearest);
    free(c->member);
    free(c->sum);
    free(c->count);
}

static void balanced_points(clustering *c, const rows *keys, const float *balance)
{
    c->n = 0;
    for (size_t i = 0; i < keys->n; i++) {
        if (!floats_are_finite(row(keys, i), keys->dim))
            continue;
        for (uint32_t d = 0; d < keys->dim; d++)
            c->points[c->n * c->dim + d] = row(keys, i)[d] * balance[d];
        if (floats_are_finite(c->points + c->n * c->dim, c->dim))
            c->n++;
    }
}

static tqkv_status check_rows(const rows *r)
{
    size_t extent;
    if (r->n && !r->values)
        return TQKV_ERROR_ARGUMENT;
    if (r->n > 1 && r->stride < r->dim)
        return TQKV_ERROR_ARGUMENT;
    if (!size_multiply(r->n, r->stride, &extent) ||
        !size_multiply(extent, sizeof(float), &extent))
        return TQKV_ERROR_OVERFLOW;
    return TQKV_OK;
}

/* Mean squares of the queries' values, 0 where there is no query. */
static void query_squares(const rows *q, double *square)
{
    double sum[TQKV_MAX_HEAD_DIM];
    size_t used = sums(q, sum, square);
    for (uint32_t d = 0; d < q->dim; d++)
        square[d] = used ? square[d] / (double)used : 0;
}

/* The variance of each value; 0 if no row is finite. */
static int variances(const rows *k, double *variance)
{
    double sum[TQKV_MAX_HEAD_DIM];
    size_t used = sums(k, sum, variance);
    for (uint32_t d = 0; used && d < k->dim; d++) {
        double mean = sum[d] / (double)used;
        variance[d] = fmax(variance[d] / (double)used - mean * mean, 0);
    }
    return used > 0;
}

/* Mean squares of what pages code: of the rows, or of what the mean of 64 consecutive ones
 * leaves of them; 0 if no row is finite. */
static int squares_in_pages(const rows *k, int has_means, double *variance)
{
    double sum[TQKV_MAX_HEAD_DIM], square[TQKV_MAX_HEAD_DIM];
    size_t all = 0;
    for (uint32_t d = 0; d < k->dim; d++)
        variance[d] = 0;
    for (size_t first = 0; first < k->n; first += TQKV_PAGE_TOKENS) {
        size_t left = k->n - first;
        rows page = {row(k, first), left < TQKV_PAGE_TOKENS ? left : TQKV_PAGE_TOKENS, k->stride,
                     k->dim};
        size_t used = sums(&page, sum, square);
        all += used;
        for (uint32_t d = 0; used && d < k->dim; d++)
            variance[d] += has_means ? fmax(square[d] - sum[d] * sum[d] / (double)used, 0)
                                     : square[d];
    }
    for (uint32_t d = 0; all && d < k->dim; d++)
        variance[d] /= (double)all;
    return all > 0;
}

static tqkv_status check_both(const tqkv_profile *profile, uint32_t layer, uint32_t head,
                              const rows *k, const rows *q)
{
    if (!profile_head(profile, layer, head))
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = check_rows(k);
    return status == TQKV_OK ? check_rows(q) : status;
}

tqkv_status tqkv_profile_fit_balance(tqkv_profile *profile, uint32_t layer, uint32_t head,
                                     int has_means, const float *keys, size_t n_keys,
                                     size_t key_stride, const float *queries, size_t n_queries,
                                     size_t query_stride)
{
    double variance[TQKV_MAX_HEAD_DIM], query[TQKV_MAX_HEAD_DIM];
    float balance[TQKV_MAX_HEAD_DIM];
    uint32_t n = profile ? profile->head_dim : 0;
    rows k = {keys, n_keys, key_stride ? key_stride : n, n};
    rows q = {queries, n_queries, query_stride ? query_stride : n, n};
    tqkv_status status = check_both(profile, layer, head, &k, &q);
    if (status != TQKV_OK)
        return status;
    if (!squares_in_pages(&k, has_means, variance))
        return TQKV_ERROR_ARGUMENT;
    query_squares(&q, query);
    fit_balance(variance, query, n, balance);
    float *centres = calloc((size_t)profile->n_centres * n, sizeof *centres);
    if (!centres)
        return TQKV_ERROR_MEMORY;
    status = tqkv_profile_set(profile, layer, head, balance, centres);
    free(centres);
    return status;
}

tqkv_status tqkv_profile_fit(tqkv_profile *profile, uint32_t layer, uint32_t head,
                             const float *keys, size_t n_keys, size_t key_stride,
                             const float *queries, size_t n_queries,
                             size_t query_stride, uint64_t seed)
{
    double variance[TQKV_MAX_HEAD_DIM], query[TQKV_MAX_HEAD_DIM];
    float balance[TQKV_MAX_HEAD_DIM];
    uint32_t n = profile ? profile->head_dim : 0;
    rows k = {keys, n_keys, key_stride ? key_stride : n, n};
    rows q = {queries, n_queries, query_stride ? query_stride : n, n};
    tqkv_status status = check_both(profile, layer, head, &k, &q);
    if (status != TQKV_OK)
        return status;
    if (!variances(&k, variance))
        return TQKV_ERROR_ARGUMENT;
    query_squares(&q, query);
    fit_balance(variance, query, n, balance);
    clustering c = {.dim = n, .n_centres = profile->n_centres};
    if (!allocate(&c, n_keys)) {
        release(&c);
        return TQKV_ERROR_MEMORY;
    }
    balanced_points(&c, &k, balance);
    status = TQKV_ERROR_ARGUMENT;
    if (c.n) {
        cluster(&c, seed);
        status = tqkv_profile_set(profile, layer, head, balance, c.centres);
    }
    release(&c);
    return status;
}

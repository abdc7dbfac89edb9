/* Fits a head's balance (design and measurements: doc/quality.md).
 * Only exactly rounded operations, in a fixed order: the same on every machine. */
#include <math.h>

#include "common/checked.h"
#include "format/profile.h"
#include "tqkv_page.h"

enum { LARGEST_BALANCE = 16 };

typedef struct rows {
    const float *values;
    size_t n, stride;
    uint32_t dim;
} rows;

static const float *row(const rows *r, size_t i)
{
    return r->values + i * r->stride;
}

static int row_is_finite(const float *x, uint32_t dim)
{
    for (uint32_t d = 0; d < dim; d++)
        if (!isfinite(x[d]))
            return 0;
    return 1;
}

/* Sums of x and x^2 over the finite rows; returns how many there are. */
static size_t sums(const rows *r, double *sum, double *square)
{
    size_t count = 0;
    for (uint32_t d = 0; d < r->dim; d++)
        sum[d] = square[d] = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (!row_is_finite(row(r, i), r->dim))
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

tqkv_status tqkv_profile_fit(tqkv_profile *profile, uint32_t layer, uint32_t head, int has_means,
                             const float *keys, size_t n_keys, size_t key_stride,
                             const float *queries, size_t n_queries, size_t query_stride)
{
    double square[TQKV_MAX_HEAD_DIM], query[TQKV_MAX_HEAD_DIM];
    float *balance = profile_head(profile, layer, head);
    uint32_t n = tqkv_profile_head_dim(profile);
    rows k = {keys, n_keys, key_stride ? key_stride : n, n};
    rows q = {queries, n_queries, query_stride ? query_stride : n, n};
    tqkv_status status = balance ? check_rows(&k) : TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        status = check_rows(&q);
    if (status != TQKV_OK)
        return status;
    if (!squares_in_pages(&k, has_means, square))
        return TQKV_ERROR_ARGUMENT;
    query_squares(&q, query);
    fit_balance(square, query, n, balance);
    return TQKV_OK;
}

#include <string.h>

#include "common/checked.h"
#include "common/finite.h"
#include "format/format.h"
#include "page/page.h"

/* ---- layout ---- */

tqkv_status tqkv_page_bytes(const tqkv_format *format, uint32_t n_means, size_t *bytes)
{
    tqkv_status status = tqkv_format_check(format);
    if (status != TQKV_OK)
        return status;
    if (!bytes || n_means > TQKV_MAX_MEANS)
        return TQKV_ERROR_ARGUMENT;
    *bytes = TQKV_PAGE_TOKENS * (format_code_bytes(format) + format_scale_bytes(format)) +
             n_means * mean_bytes(format->head_dim) + (n_means > 1 ? NUMBER_BYTES : 0);
    return TQKV_OK;
}

tqkv_status tqkv_page_at(const tqkv_format *format, uint32_t n_means, void *base, tqkv_page *page)
{
    size_t bytes;
    tqkv_status status = tqkv_page_bytes(format, n_means, &bytes);
    if (status != TQKV_OK)
        return status;
    if (!base || !page)
        return TQKV_ERROR_ARGUMENT;
    size_t code = format_code_bytes(format), scale = format_scale_bytes(format);
    uint8_t *codes = base, *scales = codes + TQKV_PAGE_TOKENS * code;
    uint8_t *means = scales + TQKV_PAGE_TOKENS * scale;
    *page = (tqkv_page){
        .format = *format, .n_means = n_means, .means = n_means ? means : NULL,
        .rows = {.codes = codes, .scales = scales, .code_stride = code, .scale_stride = scale},
        .numbers = n_means > 1 ? means + n_means * mean_bytes(format->head_dim) : NULL};
    return TQKV_OK;
}

tqkv_status page_check(const tqkv_page *p)
{
    if (!p)
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = tqkv_format_check(&p->format);
    if (status != TQKV_OK)
        return status;
    if (p->n_means > TQKV_MAX_MEANS || (p->n_means && !p->means) ||
        (p->n_means > 1 && !p->numbers))
        return TQKV_ERROR_ARGUMENT;
    return TQKV_OK;
}

/* ---- sealing ---- */

/* Rows that are sealed, and what is known of them. */
typedef struct source {
    const uint8_t *rows;
    tqkv_type type;
    size_t stride;
    uint64_t present, odd; /* bits of those that are there; that have to be made finite */
    float square[TQKV_PAGE_TOKENS]; /* sums of squares, once made finite */
} source;

/* Row r, finite. */
static void read_row(const codec_kernels *k, const source *s, size_t r, uint32_t n, float *x)
{
    tqkv_to_f32(s->rows + r * s->stride, s->type, n, x);
    if (s->odd >> r & 1)
        row_clean(k, n, x);
}

/* Looks at all rows. Their sum runs over them in their order, in floats, each value for
 * itself. */
static void survey(const codec_kernels *k, source *s, uint32_t n, float *sum)
{
    float x[MAX_DIM], peak;
    memset(sum, 0, n * sizeof *sum);
    for (uint64_t left = s->present; left; left &= left - 1) {
        size_t r = (size_t)__builtin_ctzll(left);
        tqkv_to_f32(s->rows + r * s->stride, s->type, n, x);
        k->moments(x, n, &s->square[r], &peak);
        if (!(s->square[r] <= LARGEST_INPUT * LARGEST_INPUT)) { /* true for NaN */
            s->odd |= (uint64_t)1 << r;
            s->square[r] = row_clean(k, n, x);
        }
        for (uint32_t i = 0; i < n; i++)
            sum[i] += x[i];
    }
}

/* A page's means as floats. */
typedef struct mean_list {
    unsigned n;
    float mean[TQKV_MAX_MEANS][MAX_DIM];
} mean_list;

static void read_means(const tqkv_page *p, mean_list *m)
{
    m->n = p->n_means;
    for (unsigned i = 0; i < m->n; i++)
        mean_to_floats(page_mean(p, i), p->format.head_dim, m->mean[i]);
}

/* Makes x, of this sum of squares, what is coded of it, and *square that of the result.
 * Sums are compared after the balance. The rotation, which keeps them, can be left out. */
static int choose(const codec_kernels *k, const mean_list *m, const float *balance, uint32_t n,
                  float *x, float *square)
{
    float row[MAX_DIM], rest[MAX_DIM];
    int best = NO_MEAN;
    if (m->n)
        memcpy(row, x, n * sizeof *row);
    if (balance) {
        balance_row(balance, n, x);
        *square = row_clean(k, n, x);
    }
    for (unsigned number = 0; number < m->n; number++) {
        for (uint32_t i = 0; i < n; i++)
            rest[i] = row[i] - m->mean[number][i];
        balance_row(balance, n, rest);
        float rest_square = row_clean(k, n, rest);
        if (rest_square < *square) {
            *square = rest_square;
            best = (int)number;
            memcpy(x, rest, n * sizeof *x);
        }
    }
    return best;
}

/* x is finite, and overwritten; square: of x. */
static void write_row(row_encoder *e, const tqkv_page *p, const mean_list *m,
                      const float *balance, size_t row, float *x, float square)
{
    const tqkv_rows *r = &p->rows;
    int number = choose(e->codec.kernels, m, balance, p->format.head_dim, x, &square);
    row_encode(e, x, square, r->codes + row * r->code_stride, r->scales + row * r->scale_stride);
    page_choose(p, row, number);
}

static void clear_row(const row_codec *c, const tqkv_page *p, size_t row)
{
    memset(p->rows.codes + row * p->rows.code_stride, 0, c->code_bytes);
    memset(p->rows.scales + row * p->rows.scale_stride, 0, c->scale_bytes);
}

static tqkv_status check_source(const void *src, tqkv_type type)
{
    if (type != TQKV_F32 && type != TQKV_F16 && type != TQKV_BF16)
        return TQKV_ERROR_ARGUMENT;
    return src ? TQKV_OK : TQKV_ERROR_ARGUMENT;
}

static void seal(row_encoder *e, const tqkv_page *p, const float *balance, source *s)
{
    const codec_kernels *k = e->codec.kernels;
    uint32_t n = p->format.head_dim;
    float x[MAX_DIM], count = (float)__builtin_popcountll(s->present);
    mean_list m = {.n = p->n_means > 0};
    survey(k, s, n, x);
    if (p->n_means) {
        memset(p->means, 0, p->n_means * mean_bytes(n));
        for (uint32_t i = 0; i < n; i++)
            x[i] /= count;
        mean_write(x, n, p->means);
        mean_to_floats(p->means, n, m.mean[0]);
    }
    if (p->n_means > 1)
        memset(p->numbers, 0, NUMBER_BYTES);
    for (size_t r = 0; r < TQKV_PAGE_TOKENS; r++) {
        if (!(s->present >> r & 1)) {
            clear_row(&e->codec, p, r);
            continue;
        }
        read_row(k, s, r, n, x);
        write_row(e, p, &m, balance, r, x, s->square[r]);
    }
}

tqkv_status tqkv_page_seal(const tqkv_page *page, const float *balance, const void *src,
                           tqkv_type type, size_t src_stride, uint64_t present)
{
    row_encoder e;
    source s = {.rows = src, .type = type, .present = present};
    tqkv_status status = page_check(page);
    if (status == TQKV_OK)
        status = row_encoder_init(&e, &page->format, balance, &page->rows, TQKV_PAGE_TOKENS);
    if (status == TQKV_OK)
        status = present ? check_source(src, type) : TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        status = row_extent(&page->format, src_stride,
                            TQKV_PAGE_TOKENS - (size_t)__builtin_clzll(present),
                            type == TQKV_F32 ? 4 : 2, &s.stride);
    if (status == TQKV_OK)
        seal(&e, page, balance, &s);
    return status;
}

tqkv_status tqkv_page_write(const tqkv_page *page, const float *balance, size_t row,
                            const void *src, tqkv_type type)
{
    row_encoder e;
    mean_list m;
    float x[MAX_DIM];
    tqkv_status status = page_check(page);
    if (status == TQKV_OK)
        status = row_encoder_init(&e, &page->format, balance, &page->rows, TQKV_PAGE_TOKENS);
    if (status == TQKV_OK)
        status = check_source(src, type);
    if (status == TQKV_OK && row >= TQKV_PAGE_TOKENS)
        status = TQKV_ERROR_ARGUMENT;
    if (status != TQKV_OK)
        return status;
    read_means(page, &m);
    tqkv_to_f32(src, type, page->format.head_dim, x);
    float square = row_clean(e.codec.kernels, page->format.head_dim, x);
    write_row(&e, page, &m, balance, row, x, square);
    return TQKV_OK;
}

/* ---- reading ---- */

static void read_back(const row_codec *c, const tqkv_page *p, const mean_list *m,
                      const float *balance, size_t row, tqkv_domain domain, float *x)
{
    uint32_t n = p->format.head_dim;
    uint8_t scale[sizeof(float) * MAX_DIM / 256];
    int number = page_choice(p, row);
    memcpy(scale, p->rows.scales + row * p->rows.scale_stride, c->scale_bytes);
    if (number != NO_MEAN)
        scale_set_sign(&p->format, scale, 0);
    row_decode(c, p->rows.codes + row * p->rows.code_stride, scale, domain, x);
    if (domain == TQKV_ROTATED)
        return;
    unbalance_row(balance, n, x);
    for (uint32_t i = 0; number != NO_MEAN && i < n; i++)
        x[i] += m->mean[number][i];
}

tqkv_status tqkv_page_read(const tqkv_page *page, const float *balance, size_t first,
                           size_t n_rows, tqkv_domain domain, float *dst, size_t dst_stride)
{
    row_codec c;
    mean_list m;
    size_t stride;
    tqkv_status status = page_check(page);
    if (status == TQKV_OK)
        status = row_codec_init(&c, &page->format, balance, &page->rows, TQKV_PAGE_TOKENS);
    if (status == TQKV_OK && ((domain != TQKV_ORIGINAL && domain != TQKV_ROTATED) ||
                              first > TQKV_PAGE_TOKENS || n_rows > TQKV_PAGE_TOKENS - first))
        status = TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        status = row_extent(&page->format, dst_stride, n_rows, sizeof *dst, &stride);
    if (status != TQKV_OK || n_rows == 0)
        return status;
    if (!dst)
        return TQKV_ERROR_ARGUMENT;
    read_means(page, &m);
    for (size_t r = 0; r < n_rows; r++)
        read_back(&c, page, &m, balance, first + r, domain, dst + r * (stride / sizeof *dst));
    return TQKV_OK;
}

/* Arbitrary bytes as pages and records: read, moved, copied, written and sealed. The
 * first bytes choose the format and how many means there are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tqkv_page.h"

enum { ROWS = TQKV_PAGE_TOKENS };

static const char *const names[] = {"tq2", "tq3", "tq4", "tq5", "tq6",
                                    "tq7", "tq8", "lm2", "lm3", "lm4", "mlx4", "mlx5",
                                    "mlx6", "mlx8", "tq4n", "tq4s", "lm4s", "tq3n"};
static const uint32_t dims[] = {16, 48, 64, 96, 128, 512};
static const uint32_t masks[] = {~(uint32_t)0, TQKV_CPU_AVX2 | TQKV_CPU_NEON,
                                 TQKV_CPU_AVX2 | TQKV_CPU_AVX512, 0};

static void must(int condition)
{
    if (!condition)
        abort();
}

static unsigned byte_of(memory *in)
{
    uint8_t byte = 0;
    read_memory(in, &byte, 1);
    return byte;
}

/* Input as long as there is some, then the same once more. */
static void fill(memory *in, uint8_t *to, size_t size)
{
    for (size_t i = read_memory(in, to, size); i < size; i++)
        to[i] = in->size ? in->data[i % in->size] : 0;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size);
    must(memory != NULL);
    return memory;
}

/* ---- pages in memory of exactly their size ---- */

typedef struct own_page {
    tqkv_page page;
    uint8_t *base;
    size_t bytes;
} own_page;

static own_page make_page(memory *in, const tqkv_format *f, uint32_t n_means)
{
    own_page p;
    must(tqkv_page_bytes(f, n_means, &p.bytes) == TQKV_OK);
    p.base = allocate(p.bytes);
    memset(p.base, 0, p.bytes);
    if (in)
        fill(in, p.base, p.bytes);
    must(tqkv_page_at(f, n_means, p.base, &p.page) == TQKV_OK);
    return p;
}

static uint8_t *bytes_of(const own_page *p)
{
    return memcpy(allocate(p->bytes), p->base, p->bytes);
}

/* All rows in the original domain, then all in the rotated one. */
static float *read_page(const own_page *p, const float *balance)
{
    size_t n = (size_t)ROWS * p->page.format.head_dim;
    float *y = allocate(2 * n * sizeof *y);
    must(tqkv_page_read(&p->page, balance, 0, ROWS, TQKV_ORIGINAL, y, 0) == TQKV_OK);
    must(tqkv_page_read(&p->page, balance, 0, ROWS, TQKV_ROTATED, y + n, 0) == TQKV_OK);
    return y;
}

/* Row a of what read_page gave, and row b of what it gave. */
static int same_row(const float *x, size_t a, const float *y, size_t b, size_t dim)
{
    size_t n = ROWS * dim, bytes = dim * sizeof *x;
    return !memcmp(x + a * dim, y + b * dim, bytes) &&
           !memcmp(x + n + a * dim, y + n + b * dim, bytes);
}

/* By its definition: the sign of the scale, of the first norm for mlx. */
static int has_sign(const tqkv_page *p, size_t row)
{
    size_t last = p->format.codebook == TQKV_CODEBOOK_MLX ? 3 : 1;
    return p->rows.scales[row * p->rows.scale_stride + last] >> 7;
}

/* ---- what holds for any bytes ---- */

/* One row at a time is the same, and with any kernels, but for the bits of NaN. */
static void reads_agree(const own_page *p, const float *balance, memory *in)
{
    size_t dim = p->page.format.head_dim, row = byte_of(in) % ROWS;
    float *all = read_page(p, balance), one[512];
    must(tqkv_page_read(&p->page, balance, row, 1, TQKV_ORIGINAL, one, 0) == TQKV_OK);
    must(!memcmp(one, all + row * dim, dim * sizeof *one));
    must(tqkv_page_read(&p->page, balance, row, 1, TQKV_ROTATED, one, 0) == TQKV_OK);
    must(!memcmp(one, all + (ROWS + row) * dim, dim * sizeof *one));
    tqkv_cpu_mask(masks[byte_of(in) % 4]);
    float *other = read_page(p, balance);
    for (size_t i = 0; i < 2 * ROWS * dim; i++)
        must(!memcmp(all + i, other + i, sizeof *all) || (isnan(all[i]) && isnan(other[i])));
    free(other);
    free(all);
}

/* Imports a record that came from row `row` of `from`, if from is not null. */
static void import(const own_page *to, size_t place, const uint8_t *record, size_t size,
                   int has_mean, const own_page *from, size_t row)
{
    const tqkv_format *f = &to->page.format;
    size_t dim = f->head_dim, codes;
    must(tqkv_format_code_bytes(f, &codes) == TQKV_OK);
    int sign = record[codes + (f->codebook == TQKV_CODEBOOK_MLX ? 3 : 1)] >> 7;
    uint8_t *bytes = bytes_of(to);
    float *before = read_page(to, NULL);
    tqkv_status status = tqkv_page_import(&to->page, place, record, size);
    must(status == (sign && !has_mean ? TQKV_ERROR_CORRUPT : TQKV_OK) ||
         (status == TQKV_ERROR_BUFFER && sign));
    if (status != TQKV_OK) {
        must(!memcmp(bytes, to->base, to->bytes));
    } else {
        float *after = read_page(to, NULL);
        for (size_t r = 0; r < ROWS; r++)
            must(r == place || same_row(before, r, after, r, dim));
        if (from) {
            float *source = read_page(from, NULL);
            must(same_row(source, row, after, place, dim));
            free(source);
        }
        if (sign) { /* and it leaves as it came */
            uint8_t *again = allocate(size);
            must(tqkv_page_export(&to->page, place, again, size) == TQKV_OK);
            must(!memcmp(record, again, size));
            free(again);
        }
        free(after);
    }
    free(before);
    free(bytes);
}

static void move_rows(const own_page *from, const own_page *to, memory *in)
{
    size_t size;
    int has_mean = from->page.n_means > 0;
    must(tqkv_page_record_bytes(&from->page.format, has_mean, &size) == TQKV_OK);
    uint8_t *record = allocate(size);
    for (unsigned n = 1 + byte_of(in) % 4; n--;) {
        size_t row = byte_of(in) % ROWS, place = byte_of(in) % ROWS;
        must(tqkv_page_export(&from->page, row, record, size) == TQKV_OK);
        import(to, place, record, size, has_mean, from, row);
    }
    free(record);
}

static void import_anything(const own_page *to, memory *in)
{
    size_t size;
    int has_mean = byte_of(in) & 1;
    must(tqkv_page_record_bytes(&to->page.format, has_mean, &size) == TQKV_OK);
    uint8_t *record = allocate(size);
    fill(in, record, size);
    import(to, byte_of(in) % ROWS, record, size, has_mean, NULL, 0);
    free(record);
}

/* Rows of a page without means may have negative scales, which one with means cannot. */
static void copy(const own_page *from, const own_page *to)
{
    size_t dim = from->page.format.head_dim;
    uint8_t *before = bytes_of(to);
    tqkv_status status = tqkv_page_copy(&from->page, &to->page);
    must(status == (to->page.n_means < from->page.n_means ? TQKV_ERROR_BUFFER : TQKV_OK));
    if (status != TQKV_OK) {
        must(!memcmp(before, to->base, to->bytes));
    } else {
        float *x = read_page(from, NULL), *y = read_page(to, NULL);
        for (size_t r = 0; r < ROWS; r++)
            must((!from->page.n_means && has_sign(&from->page, r)) || same_row(x, r, y, r, dim));
        free(x);
        free(y);
    }
    free(before);
}

/* A row of any numbers beside any means is finite, and leaves all others alone. */
static void write_row(const own_page *p, const float *balance, const float *x, memory *in)
{
    size_t dim = p->page.format.head_dim, row = byte_of(in) % ROWS;
    size_t means = p->page.n_means * (dim + 2);
    float *before = read_page(p, balance);
    uint8_t *bytes = bytes_of(p);
    must(tqkv_page_write(&p->page, balance, row, x, (tqkv_type)(byte_of(in) % 3)) == TQKV_OK);
    float *after = read_page(p, balance);
    for (size_t r = 0; r < ROWS; r++)
        must(r == row || same_row(before, r, after, r, dim));
    for (size_t i = 0; i < dim; i++)
        must(isfinite(after[(ROWS + row) * dim + i]) &&
             (balance || isfinite(after[row * dim + i])));
    if (means)
        must(!memcmp(p->page.means, bytes + (p->page.means - p->base), means));
    free(after);
    free(bytes);
    free(before);
}

/* The same page with any kernels and from its own records. */
static void seal(const own_page *p, const float *balance, const float *x, size_t n_rows, memory *in)
{
    tqkv_type type = (tqkv_type)(byte_of(in) % 3);
    size_t size;
    uint64_t present = ~(uint64_t)0 >> (ROWS - n_rows);
    must(tqkv_page_seal(&p->page, balance, x, type, 0, present) == TQKV_OK);
    uint8_t *first = bytes_of(p);
    fill(in, p->base, p->bytes);
    tqkv_cpu_mask(masks[byte_of(in) % 4]);
    must(tqkv_page_seal(&p->page, balance, x, type, 0, present) == TQKV_OK);
    must(!memcmp(first, p->base, p->bytes));
    free(first);
    int has_mean = p->page.n_means > 0;
    own_page other = make_page(NULL, &p->page.format, p->page.n_means);
    must(tqkv_page_record_bytes(&p->page.format, has_mean, &size) == TQKV_OK);
    uint8_t *record = allocate(size);
    for (size_t r = 0; r < ROWS; r++) {
        must(tqkv_page_export(&p->page, r, record, size) == TQKV_OK);
        must(tqkv_page_import(&other.page, r, record, size) == TQKV_OK);
    }
    must(!memcmp(p->base, other.base, p->bytes));
    free(record);
    free(other.base);
}

/* ---- */

/* Null, some numbers, or any; those that no balance may be are refused everywhere. */
static const float *make_balance(memory *in, const own_page *p, float *balance)
{
    size_t dim = p->page.format.head_dim;
    unsigned kind = byte_of(in) % 3;
    int good = 1;
    float y[512] = {0};
    for (size_t i = 0; kind == 1 && i < dim; i++)
        balance[i] = (float)(1 + byte_of(in)) / 32;
    if (kind == 2)
        fill(in, (uint8_t *)balance, dim * sizeof *balance);
    for (size_t i = 0; kind && i < dim; i++)
        good &= balance[i] > 0 && isfinite(balance[i]);
    if (good)
        return kind ? balance : NULL;
    uint8_t *before = bytes_of(p);
    must(tqkv_page_read(&p->page, balance, 0, 1, TQKV_ORIGINAL, y, 0) == TQKV_ERROR_PROFILE);
    must(tqkv_page_write(&p->page, balance, 0, y, TQKV_F32) == TQKV_ERROR_PROFILE);
    must(tqkv_page_seal(&p->page, balance, y, TQKV_F32, 0, 1) == TQKV_ERROR_PROFILE);
    must(!memcmp(before, p->base, p->bytes) && y[0] == 0);
    free(before);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    memory in = {data, size, 0};
    tqkv_format f;
    const char *name = names[byte_of(&in) % (sizeof names / sizeof *names)];
    uint32_t dim = dims[byte_of(&in) % (sizeof dims / sizeof *dims)];
    if (tqkv_format_parse(name, dim, &f) != TQKV_OK)
        tqkv_format_parse("tq4", dim, &f);
    unsigned means = byte_of(&in);
    tqkv_cpu_mask(masks[byte_of(&in) % 4]);
    own_page a = make_page(&in, &f, means % (TQKV_MAX_MEANS + 1));
    own_page b = make_page(&in, &f, means / 16 % (TQKV_MAX_MEANS + 1));
    float numbers[512];
    const float *balance = make_balance(&in, &a, numbers);
    reads_agree(&a, balance, &in);
    move_rows(&a, &b, &in);
    move_rows(&b, &b, &in);
    import_anything(&b, &in);
    size_t n_rows = 1 + byte_of(&in) % 6;
    float *x = allocate(n_rows * dim * sizeof *x);
    fill(&in, (uint8_t *)x, n_rows * dim * sizeof *x);
    write_row(&b, balance, x, &in);
    copy(&a, &b);
    seal(&a, balance, x, n_rows, &in);
    free(x);
    free(a.base);
    free(b.base);
    return 0;
}

/* The reference layout against an oracle in double precision, written from the
 * reference's two documents and not from this library's code. Only the tables
 * are shared, and those are checked by their own properties and checksums. */
#include "test.h"

#include "format/lloyd_max.h"
#include "format/mlx.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { MAX = 1024 };

static void oracle_rotate(const float *x, unsigned d, double *y)
{
    /* y = H x / sqrt(d), entry by entry: H[i][j] = (-1)^popcount(i & j) */
    for (unsigned i = 0; i < d; i++) {
        double sum = 0;
        for (unsigned j = 0; j < d; j++)
            sum += __builtin_popcount(i & j) % 2 ? -(double)x[j] : (double)x[j];
        y[i] = sum / sqrt(d);
    }
}

static unsigned oracle_nearest(const float *table, unsigned bits, double v)
{
    unsigned index = 0;
    for (unsigned i = 0; i + 1 < 1u << bits; i++)
        if (v > ((double)table[i] + (double)table[i + 1]) / 2)
            index = i + 1;
    return index;
}

/* One row: its codes, one number each, and its norms. */
static void oracle_encode(const float *x, unsigned d, unsigned bits, unsigned *code,
                          float *norms)
{
    double y[MAX];
    const float *table = mlx_codebook(bits);
    oracle_rotate(x, d, y);
    unsigned n_blocks = d > 256 ? d / 256 : 1, block = d / n_blocks;
    for (unsigned b = 0; b < n_blocks; b++) {
        double square = 0;
        for (unsigned i = 0; i < block; i++)
            square += y[b * block + i] * y[b * block + i];
        double norm = n_blocks == 1 ? sqrt(square) : sqrt(square / block);
        double factor = n_blocks == 1 ? sqrt(d) / norm : 1 / norm;
        if (norm <= 1e-10) {
            norm = 0;
            factor = 0;
        }
        norms[b] = (float)norm;
        for (unsigned i = 0; i < block; i++)
            code[b * block + i] = oracle_nearest(table, bits, y[b * block + i] * factor);
    }
}

/* The kernels' own arithmetic: f32, in this order. */
static float oracle_decode(unsigned code, unsigned bits, unsigned d, unsigned i,
                           const float *norms, float scale_factor)
{
    float norm = norms[d > 256 ? i / 256 : 0], scale;
    if (d > 256)
        scale = norm / scale_factor;
    else
        scale = norm * (float)(1 / sqrt((double)d));
    return mlx_codebook(bits)[code] * scale;
}

static unsigned packed_code(const uint8_t *packed, unsigned bits, unsigned i)
{
    if (bits != 4)
        return packed[i];
    return i % 2 == 0 ? packed[i / 2] & 15u : packed[i / 2] >> 4;
}

static void cache_equals_the_oracle(void **state)
{
    static const unsigned all_bits[] = {4, 5, 6, 8}, dims[] = {64, 128, 256, 512, 1024};
    (void)state;
    for (int bi = 0; bi < 4; bi++)
        for (int di = 0; di < 5; di++) {
            unsigned bits = all_bits[bi], d = dims[di], heads = 3, cap = 5, n = 4;
            unsigned blocks = d > 256 ? d / 256 : 1;
            size_t first = 7, packed_bytes, n_norms, row = bits == 4 ? d / 2 : d;
            tqkv_mlx_shape shape = {bits, heads, d, cap};
            assert_int_equal(tqkv_mlx_sizes(&shape, &packed_bytes, &n_norms), TQKV_OK);
            assert_int_equal(packed_bytes, heads * cap * row);
            assert_int_equal(n_norms, heads * cap * blocks);
            uint8_t *packed = calloc(packed_bytes, 1);
            float *norms = calloc(n_norms, sizeof *norms);
            float *x = test_rows(bits * 100 + d, (size_t)n * heads * d);
            float *dst = calloc((size_t)n * heads * d, sizeof *dst);
            for (unsigned i = 0; i < d; i++)
                x[d + i] = 0; /* position 0, head 1: norm 0 */
            for (unsigned i = 0; i < d; i++)
                x[2 * d + i] *= 1e-6f;
            assert_int_equal(tqkv_mlx_encode(&shape, x, first, n, packed, norms), TQKV_OK);
            float factor = 1.25f;
            assert_int_equal(tqkv_mlx_decode(&shape, packed, norms, first, n, factor, dst,
                                             (size_t)n * heads * d), TQKV_OK);
            for (unsigned p = 0; p < n; p++)
                for (unsigned h = 0; h < heads; h++) {
                    unsigned code[MAX];
                    float expected_norms[4];
                    size_t slot = h * cap + (first + p) % cap;
                    const float *in = x + ((size_t)p * heads + h) * d;
                    oracle_encode(in, d, bits, code, expected_norms);
                    assert_memory_equal(norms + slot * blocks, expected_norms,
                                        blocks * sizeof(float));
                    for (unsigned i = 0; i < d; i++) {
                        assert_int_equal(packed_code(packed + slot * row, bits, i), code[i]);
                        float expected = oracle_decode(code[i], bits, d, i, expected_norms,
                                                       factor);
                        assert_memory_equal(&dst[((size_t)p * heads + h) * d + i], &expected,
                                            sizeof expected);
                    }
                }
            free(packed);
            free(norms);
            free(x);
            free(dst);
        }
}

/* One position at a time, as the reference's dispatch does. */
static void one_position_equals_a_range(void **state)
{
    (void)state;
    tqkv_mlx_shape shape = {4, 2, 256, 8};
    float *x = test_rows(1, 8 * 2 * 256), range[8 * 512], one[512], norms[16];
    uint8_t packed[2 * 8 * 128];
    tqkv_mlx_encode(&shape, x, 0, 8, packed, norms);
    tqkv_mlx_decode(&shape, packed, norms, 3, 5, 1, range, 5 * 512);
    for (unsigned p = 0; p < 5; p++) {
        assert_int_equal(tqkv_mlx_decode(&shape, packed, norms, 3 + p, 1, 1, one, 512), TQKV_OK);
        assert_memory_equal(one, range + p * 512, sizeof one);
    }
    free(x);
}

static void rows_of_the_format_equal_the_cache(void **state)
{
    enum { DIM = 512 };
    (void)state;
    tqkv_format f = test_format("mlx5", DIM);
    tqkv_mlx_shape shape = {5, 1, DIM, 2};
    float *x = test_rows(9, 2 * DIM), a[2 * DIM], b[2 * DIM], norms[4];
    uint8_t packed[2 * DIM];
    tqkv_rows rows;
    uint8_t *memory = test_encode(&f, NULL, x, 2, &rows);
    tqkv_mlx_encode(&shape, x, 0, 2, packed, norms);
    tqkv_decode(&f, NULL, &rows, 2, TQKV_ROTATED, a, 0);
    tqkv_mlx_decode(&shape, packed, norms, 0, 2, 1, b, 2 * DIM);
    assert_memory_equal(a, b, sizeof a);
    tqkv_decode(&f, NULL, &rows, 2, TQKV_ORIGINAL, a, 0);
    assert_true(test_error(x, a, 2 * DIM) < 0.003);
    free(memory);
    free(x);
}

static void requantise_snaps(void **state)
{
    (void)state;
    for (unsigned bits = 4; bits <= 8; bits++) {
        const float *table = mlx_codebook(bits);
        float x[64], y[64];
        uint64_t seed = bits;
        for (int i = 0; i < 64; i++)
            x[i] = 2 * test_gaussian(&seed);
        if (bits == 7) {
            assert_int_equal(tqkv_mlx_requantize(bits, x, 64, y), TQKV_ERROR_BITS);
            continue;
        }
        x[0] = INFINITY;
        x[1] = -INFINITY;
        x[2] = NAN;
        x[3] = table[3];
        assert_int_equal(tqkv_mlx_requantize(bits, x, 64, y), TQKV_OK);
        for (int i = 3; i < 64; i++)
            assert_true(y[i] == table[oracle_nearest(table, bits, x[i])]);
        assert_true(y[0] == table[(1 << bits) - 1] && y[1] == table[0] && y[2] == table[0]);
        assert_int_equal(tqkv_mlx_requantize(bits, y, 64, x), TQKV_OK);
        assert_memory_equal(x, y, sizeof x);
    }
}

static void validation_is_the_references(void **state)
{
    (void)state;
    float dst[600], norms[16] = {0};
    uint8_t packed[4096] = {0};
    tqkv_mlx_shape s = {4, 0, 256, 4};
    assert_int_equal(tqkv_mlx_decode(&s, NULL, NULL, 0, 1, 1, NULL, 0), TQKV_OK);
    assert_int_equal(tqkv_mlx_encode(&s, NULL, 0, 1, NULL, NULL), TQKV_OK);
    s = (tqkv_mlx_shape){4, 2, 0, 4};
    assert_int_equal(tqkv_mlx_decode(&s, NULL, NULL, 0, 1, 1, NULL, 0), TQKV_OK);
    s = (tqkv_mlx_shape){4, 2, 192, 4};
    assert_int_equal(tqkv_mlx_decode(&s, packed, norms, 0, 1, 1, dst, 600),
                     TQKV_ERROR_HEAD_DIM_POWER);
    s = (tqkv_mlx_shape){4, 2, 256, 4};
    assert_int_equal(tqkv_mlx_decode(&s, packed, norms, 0, 1, 1, dst, 511), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_mlx_decode(&s, packed, norms, 0, 1, 1, dst, 512), TQKV_OK);
    assert_int_equal(tqkv_mlx_decode(&s, packed, norms, 0, 1, 0, dst, 512), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_mlx_decode(&s, packed, norms, 0, 1, NAN, dst, 512),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_mlx_decode(&s, packed, norms, 0, 5, 1, dst, 99999),
                     TQKV_ERROR_ARGUMENT);
    s.bits = 7;
    assert_int_equal(tqkv_mlx_decode(&s, packed, norms, 0, 1, 1, dst, 512), TQKV_ERROR_BITS);
    s = (tqkv_mlx_shape){8, UINT32_MAX, 1024, UINT32_MAX};
    size_t a, b;
    assert_int_equal(tqkv_mlx_sizes(&s, &a, &b), TQKV_ERROR_OVERFLOW);
    /* the values do not fit, but the codes do */
    s = (tqkv_mlx_shape){4, 1u << 22, 1024, 1u << 31};
    assert_int_equal(tqkv_mlx_encode(&s, dst, 0, 1u << 31, packed, norms), TQKV_ERROR_OVERFLOW);
    assert_int_equal(tqkv_mlx_requantize(4, dst, SIZE_MAX / 4 + 2, dst), TQKV_ERROR_OVERFLOW);
}

/* The tables: symmetric, ascending; 4 bits are Lloyd-Max to a float's digits. */
static void tables(void **state)
{
    (void)state;
    for (unsigned bits = 4; bits <= 8; bits++) {
        const float *t = mlx_codebook(bits);
        unsigned n = 1u << bits;
        for (unsigned i = 0; t && i < n; i++) {
            assert_true(t[i] == -t[n - 1 - i]);
            assert_true(i == 0 || t[i] > t[i - 1]);
        }
    }
    for (int i = 0; i < 16; i++)
        assert_true(fabsf(mlx_codebook(4)[i] - lloyd_code_of(4)->values[i]) < 3e-6f);
    /* XXH64 of the tables as the reference's text has them, as f32 */
    static const struct {
        unsigned bits;
        uint64_t hash;
    } hashes[] = {{4, 0xde93f2ceb74721b4}, {5, 0x616225166acd090d},
                  {6, 0x33d4712fea16378b}, {8, 0x9605eb670c0a201b}};
    for (int i = 0; i < 4; i++)
        assert_int_equal(XXH64(mlx_codebook(hashes[i].bits), sizeof(float) << hashes[i].bits, 0),
                         hashes[i].hash);
}

/* Lloyd-Max: each value is the mean of N(0,1) between the midpoints. */
static void lloyd_max_tables_satisfy_their_definition(void **state)
{
    (void)state;
    for (unsigned bits = 2; bits <= 4; bits++) {
        const lloyd_code *c = lloyd_code_of(bits);
        int n = 1 << bits;
        for (int i = 0; i < n; i++) {
            double low = i ? ((double)c->values[i - 1] + c->values[i]) / 2 : -12;
            double high = i + 1 < n ? ((double)c->values[i] + c->values[i + 1]) / 2 : 12;
            double mass = 0, mean = 0, step = (high - low) / 200000;
            for (int k = 0; k < 200000; k++) {
                double x = low + (k + 0.5) * step, p = exp(-x * x / 2);
                mass += p;
                mean += p * x;
            }
            assert_true(fabs(mean / mass - c->values[i]) < 1e-6);
        }
        for (int i = 1; i < n / 2; i++) {
            double middle = ((double)c->values[n / 2 + i - 1] + c->values[n / 2 + i]) / 2;
            assert_int_equal(c->thresholds[i], (int)lrint(middle * LLOYD_UNIT));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_equals_the_oracle),
        cmocka_unit_test(one_position_equals_a_range),
        cmocka_unit_test(rows_of_the_format_equal_the_cache),
        cmocka_unit_test(requantise_snaps),
        cmocka_unit_test(validation_is_the_references),
        cmocka_unit_test(tables),
        cmocka_unit_test(lloyd_max_tables_satisfy_their_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

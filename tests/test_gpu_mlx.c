/* The reference's dispatches: its results number for number, its checks and more. */
#include "gpu_case.h"

typedef struct mlx {
    tqkv_mlx_shape shape;
    uint8_t *packed;
    float *norms;
    size_t packed_bytes, n_norms;
    tqkv_buffer *packed_buffer, *norms_buffer;
} mlx;

static void mlx_make(const gpu_case *g, mlx *m, uint32_t bits, uint32_t heads, uint32_t dim,
                     uint32_t capacity)
{
    m->shape = (tqkv_mlx_shape){bits, heads, dim, capacity};
    assert_int_equal(tqkv_mlx_sizes(&m->shape, &m->packed_bytes, &m->n_norms), TQKV_OK);
    m->packed = malloc(m->packed_bytes);
    m->norms = malloc(m->n_norms * sizeof *m->norms);
    uint64_t seed = bits + dim;
    for (size_t i = 0; i < m->packed_bytes; i++)
        m->packed[i] = (uint8_t)test_random(&seed);
    for (size_t i = 0; i < m->n_norms; i++)
        m->norms[i] = fabsf(test_gaussian(&seed)) * 10;
    m->packed_buffer = gpu_buffer(g, m->packed, m->packed_bytes);
    m->norms_buffer = gpu_buffer(g, m->norms, m->n_norms * sizeof *m->norms);
}

static void mlx_free(mlx *m)
{
    free(m->packed);
    free(m->norms);
    tqkv_buffer_free(m->packed_buffer);
    tqkv_buffer_free(m->norms_buffer);
}

static tqkv_status dequantize(const gpu_case *g, const mlx *m, tqkv_buffer *dst, uint32_t pos,
                              float factor)
{
    const tqkv_mlx_shape *s = &m->shape;
    if (s->bits == 4)
        return tqkv_dispatch_dequantize_kv(g->encoder, g->registry, g->device, m->packed_buffer,
                                           m->norms_buffer, dst, s->n_kv_heads, s->head_dim,
                                           s->capacity, pos, factor);
    return tqkv_dispatch_dequantize_hb_kv(g->encoder, g->registry, g->device, m->packed_buffer,
                                          m->norms_buffer, dst, s->n_kv_heads, s->head_dim,
                                          s->capacity, pos, factor, s->bits);
}

static const uint32_t all_bits[] = {4, 5, 6, 8};

static void one_position_is_the_references(void **state)
{
    const gpu_case *g = *state;
    static const uint32_t dims[] = {16, 32, 64, 128, 256, 512, 1024};
    enum { HEADS = 3, CAPACITY = 9 };
    for (int b = 0; b < 4; b++)
        for (int d = 0; d < 7; d++) {
            mlx m;
            size_t n = HEADS * dims[d];
            float *want = malloc(n * sizeof *want), factor = d % 2 ? 1.0f : 22.5f;
            mlx_make(g, &m, all_bits[b], HEADS, dims[d], CAPACITY);
            for (uint32_t pos = 0; pos < CAPACITY; pos += 4) {
                tqkv_buffer *dst = gpu_buffer(g, NULL, n * sizeof *want);
                gpu_ok(g, dequantize(g, &m, dst, pos, factor));
                gpu_run(g);
                float *got = gpu_take(g, dst);
                assert_int_equal(tqkv_mlx_decode(&m.shape, m.packed, m.norms, pos, 1, factor,
                                                 want, n), TQKV_OK);
                assert_memory_equal(got, want, n * sizeof *want);
                free(got);
            }
            mlx_free(&m);
            free(want);
        }
}

static void ranges_go_around_the_ring(void **state)
{
    const gpu_case *g = *state;
    enum { HEADS = 5, CAPACITY = 21, N = 17 };
    for (int b = 0; b < 4; b++)
        for (uint32_t dim = 64; dim <= 512; dim *= 2)
            for (int type = TQKV_F32; type <= TQKV_BF16; type++) {
                mlx m;
                size_t n = (size_t)N * HEADS * dim, size = type == TQKV_F32 ? 4 : 2;
                float *y = malloc(n * sizeof *y);
                void *want = malloc(n * size);
                mlx_make(g, &m, all_bits[b], HEADS, dim, CAPACITY);
                tqkv_buffer *dst = gpu_buffer(g, NULL, n * size);
                gpu_ok(g, tqkv_dispatch_dequantize_kv_range(
                              g->encoder, g->registry, g->device, m.packed_buffer, m.norms_buffer,
                              dst, (tqkv_type)type, HEADS, dim, CAPACITY, 2 * CAPACITY + 9, N,
                              2.0f, all_bits[b]));
                gpu_run(g);
                uint8_t *got = gpu_take(g, dst);
                tqkv_mlx_decode(&m.shape, m.packed, m.norms, 2 * CAPACITY + 9, N, 2.0f, y, n);
                tqkv_from_f32(y, n, want, (tqkv_type)type);
                assert_memory_equal(got, want, n * size);
                free(got);
                free(want);
                free(y);
                mlx_free(&m);
            }
}

/* Batches, the ring, and the mask of signs. */
static void quantizing_is_the_codecs(void **state)
{
    const gpu_case *g = *state;
    enum { HEADS = 2, CAPACITY = 11, N = 7, FIRST = 26 };
    for (int b = 0; b < 4; b++)
        for (uint32_t dim = 16; dim <= 512; dim *= 2)
            for (int with_signs = 0; with_signs < 2; with_signs++) {
                mlx m;
                size_t n = (size_t)N * HEADS * dim;
                float *x = test_rows(dim + (unsigned)b, n);
                uint32_t signs[16];
                uint64_t seed = dim;
                memset(x, 0, HEADS * dim * sizeof *x); /* a zero norm */
                for (int i = 0; i < 16; i++)
                    signs[i] = (uint32_t)test_random(&seed);
                mlx_make(g, &m, all_bits[b], HEADS, dim, CAPACITY);
                tqkv_buffer *src = gpu_buffer(g, x, n * sizeof *x);
                tqkv_buffer *mask = with_signs ? gpu_buffer(g, signs, sizeof signs) : NULL;
                if (all_bits[b] == 4)
                    gpu_ok(g, tqkv_dispatch_hadamard_quantize_kv(
                                  g->encoder, g->registry, g->device, src, TQKV_F32,
                                  m.packed_buffer, m.norms_buffer, mask, HEADS, dim, CAPACITY,
                                  FIRST, N));
                else
                    gpu_ok(g, tqkv_dispatch_hadamard_quantize_kv_hb(
                                  g->encoder, g->registry, g->device, src, TQKV_F32,
                                  m.packed_buffer, m.norms_buffer, mask, HEADS, dim, CAPACITY,
                                  FIRST, N, all_bits[b]));
                gpu_run(g);
                for (size_t i = 0; with_signs && i < n; i++)
                    if (signs[i % dim / 32] >> i % dim % 32 & 1)
                        x[i] = -x[i];
                tqkv_mlx_encode(&m.shape, x, FIRST, N, m.packed, m.norms);
                uint8_t *packed = malloc(m.packed_bytes);
                float *norms = malloc(m.n_norms * sizeof *norms);
                gpu_ok(g, tqkv_buffer_download(m.packed_buffer, 0, packed, m.packed_bytes));
                gpu_ok(g, tqkv_buffer_download(m.norms_buffer, 0, norms,
                                               m.n_norms * sizeof *norms));
                assert_memory_equal(norms, m.norms, m.n_norms * sizeof *norms);
                assert_memory_equal(packed, m.packed, m.packed_bytes);
                free(packed);
                free(norms);
                free(x);
                tqkv_buffer_free(src);
                tqkv_buffer_free(mask);
                mlx_free(&m);
            }
}

/* Around every midpoint, by single floats. */
static void requantizing_is_the_codecs(void **state)
{
    const gpu_case *g = *state;
    for (int b = 0; b < 4; b++) {
        enum { N = 4099 };
        float *x = test_rows(1, N), *y = malloc(N * sizeof *y);
        for (int i = 0; i < 2000; i++) /* (a + b) / 2 of neighbours, and beside it */
            x[i + 7] = nextafterf(x[i], (float)(i % 3 - 1) * 10);
        x[0] = NAN, x[1] = INFINITY, x[2] = -INFINITY, x[3] = 0, x[4] = -0.0f;
        tqkv_mlx_requantize(all_bits[b], x, N, y);
        for (int i = 2100; i < N; i++) /* midpoints of outputs */
            x[i] = (y[i] + y[i - 1]) / 2;
        tqkv_mlx_requantize(all_bits[b], x, N, y);
        tqkv_buffer *src = gpu_buffer(g, x, N * sizeof *x), *dst = gpu_buffer(g, NULL, N * 4);
        gpu_ok(g, tqkv_dispatch_requantize(g->encoder, g->registry, g->device, src, dst, N,
                                           all_bits[b]));
        gpu_ok(g, tqkv_dispatch_requantize(g->encoder, g->registry, g->device, src, src, N,
                                           all_bits[b])); /* in place */
        gpu_run(g);
        float *got = gpu_take(g, dst), *in_place = gpu_take(g, src);
        assert_memory_equal(got, y, N * sizeof *y);
        assert_memory_equal(in_place, y, N * sizeof *y);
        free(got);
        free(in_place);
        free(x);
        free(y);
    }
}

#define REFUSED(status, call) assert_int_equal(call, status)

static void what_the_reference_checks(void **state)
{
    const gpu_case *g = *state;
    mlx m;
    enum { HEADS = 2, DIM = 512, CAPACITY = 4 };
    mlx_make(g, &m, 4, HEADS, DIM, CAPACITY);
    tqkv_buffer *dst = gpu_buffer(g, NULL, HEADS * DIM * 4), *less = NULL, *odd = NULL;
    tqkv_encoder *e = g->encoder;
    tqkv_registry *r = g->registry;
    tqkv_device *d = g->device;
    tqkv_buffer *p = m.packed_buffer, *n = m.norms_buffer;
    /* nothing to do is a success, whatever the rest */
    REFUSED(TQKV_OK, tqkv_dispatch_dequantize_kv(e, r, d, NULL, NULL, NULL, 0, 7, 0, 9, NAN));
    REFUSED(TQKV_OK, tqkv_dispatch_dequantize_kv(e, r, d, NULL, NULL, NULL, 5, 0, 0, 9, NAN));
    REFUSED(TQKV_OK, tqkv_dispatch_dequantize_hb_kv(e, r, d, NULL, NULL, NULL, 0, 7, 0, 9, NAN, 3));
    REFUSED(TQKV_OK, tqkv_dispatch_dequantize_hb_kv(e, r, d, NULL, NULL, NULL, 1, 0, 0, 9, NAN, 3));
    REFUSED(TQKV_ERROR_HEAD_DIM_POWER,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, dst, HEADS, 96, CAPACITY, 0, 1));
    REFUSED(TQKV_ERROR_BITS,
            tqkv_dispatch_dequantize_hb_kv(e, r, d, p, n, dst, HEADS, 256, 2, 0, 1, 7));
    REFUSED(TQKV_ERROR_BITS,
            tqkv_dispatch_dequantize_hb_kv(e, r, d, p, n, dst, HEADS, 256, 2, 0, 1, 4));
    char message[256];
    tqkv_encoder_message(e, message, sizeof message);
    assert_non_null(strstr(message, "codebook_bits must be 5, 6, or 8, got 4"));
    gpu_ok(g, tqkv_buffer_view(dst, 0, HEADS * DIM * 4 - 4, &less));
    REFUSED(TQKV_ERROR_BUFFER,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, less, HEADS, DIM, CAPACITY, 0, 1));
    tqkv_buffer_free(less);
    /* and what it does not */
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, dst, HEADS, DIM, CAPACITY, CAPACITY, 1));
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, dst, HEADS, DIM, CAPACITY, 0, NAN));
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, dst, HEADS, DIM, CAPACITY, 0, 0));
    REFUSED(TQKV_ERROR_BUFFER,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, dst, HEADS, DIM, CAPACITY + 1, 0, 1));
    REFUSED(TQKV_ERROR_BUFFER,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, dst, 1, DIM, 0xFFFFFFFF, 0, 1));
    REFUSED(TQKV_ERROR_BUFFER,
            tqkv_dispatch_dequantize_hb_kv(e, r, d, p, n, dst, 0xFFFFFFFF, 0x40000000, 0xFFFFFFFF,
                                           0, 1, 8));
    REFUSED(TQKV_ERROR_OVERFLOW,
            tqkv_dispatch_dequantize_hb_kv(e, r, d, p, n, dst, 1, 0xFFFFFFFF, 1, 0, 1, 8));
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(e, r, d, NULL, n, dst, HEADS, DIM, CAPACITY, 0, 1));
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(NULL, r, d, p, n, dst, HEADS, DIM, CAPACITY, 0, 1));
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(e, NULL, d, p, n, dst, HEADS, DIM, CAPACITY, 0, 1));
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(e, r, NULL, p, n, dst, HEADS, DIM, CAPACITY, 0, 1));
    gpu_ok(g, tqkv_buffer_view(dst, 2, HEADS * 256 * 4, &odd)); /* no float begins there */
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv(e, r, d, p, n, odd, HEADS, 256, CAPACITY, 0, 1));
    tqkv_buffer_free(odd);
    REFUSED(TQKV_ERROR_ARGUMENT,
            tqkv_dispatch_dequantize_kv_range(e, r, d, p, n, dst, TQKV_F32, HEADS, DIM, CAPACITY,
                                              0, CAPACITY + 1, 1, 4));
    REFUSED(TQKV_ERROR_BUFFER,
            tqkv_dispatch_dequantize_kv_range(e, r, d, p, n, dst, TQKV_F32, HEADS, DIM, CAPACITY,
                                              0, 2, 1, 4));
    REFUSED(TQKV_ERROR_BUFFER,
            tqkv_dispatch_hadamard_quantize_kv(e, r, d, dst, TQKV_F32, p, n, NULL, HEADS, DIM,
                                               CAPACITY, 0, 2));
    REFUSED(TQKV_ERROR_BITS, tqkv_dispatch_requantize(e, r, d, dst, dst, 8, 7));
    REFUSED(TQKV_ERROR_BUFFER, tqkv_dispatch_requantize(e, r, d, dst, dst, HEADS * DIM + 1, 8));
    /* The scale factor of a small head is not looked at. A head_dim that is no power
     * of two passes in _hb, as it does there. */
    gpu_ok(g, tqkv_dispatch_dequantize_kv(e, r, d, p, n, dst, HEADS, 256, CAPACITY, 3, NAN));
    gpu_ok(g, tqkv_dispatch_dequantize_hb_kv(e, r, d, p, n, dst, HEADS, 96, CAPACITY, 3, 1, 6));
    gpu_run(g);
    tqkv_buffer_free(dst);
    mlx_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_position_is_the_references),
        cmocka_unit_test(ranges_go_around_the_ring),
        cmocka_unit_test(quantizing_is_the_codecs),
        cmocka_unit_test(requantizing_is_the_codecs),
        cmocka_unit_test(what_the_reference_checks),
    };
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}

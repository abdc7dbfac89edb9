/* Arbitrary bytes as a format and a row of it: decode in both domains with every
 * set of kernels, which must agree, and encode what came likewise. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tqkv.h"

static const uint32_t masks[] = {0, TQKV_CPU_AVX2 | TQKV_CPU_NEON,
                                 TQKV_CPU_AVX2 | TQKV_CPU_AVX512, ~(uint32_t)0};
enum { N_MASKS = sizeof masks / sizeof *masks };

/* NaN may differ in its bits, nothing else may. */
static void must_equal(const float *a, const float *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) && (a[i] == a[i] || b[i] == b[i]))
            abort();
}

static void decode_alike(const tqkv_format *f, const tqkv_rows *rows)
{
    static float scalar[TQKV_MAX_HEAD_DIM], other[TQKV_MAX_HEAD_DIM];
    for (int domain = TQKV_ORIGINAL; domain <= TQKV_ROTATED; domain++)
        for (int m = 0; m < N_MASKS; m++) {
            tqkv_cpu_mask(masks[m]);
            tqkv_decode(f, NULL, rows, 1, (tqkv_domain)domain, m ? other : scalar, 0);
            if (m)
                must_equal(scalar, other, f->head_dim);
        }
}

static void encode_alike(const tqkv_format *f, const float *x, uint8_t *row, size_t bytes)
{
    tqkv_rows rows;
    uint8_t *scalar = malloc(bytes);
    for (int m = 0; scalar && m < N_MASKS; m++) {
        tqkv_cpu_mask(masks[m]);
        tqkv_rows_at(f, m ? row : scalar, 0, &rows);
        tqkv_encode(f, NULL, x, TQKV_F32, 0, 1, &rows);
        if (m && memcmp(row, scalar, bytes))
            abort();
    }
    free(scalar);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float x[TQKV_MAX_HEAD_DIM];
    tqkv_format f;
    tqkv_rows rows;
    size_t bytes;
    if (size < sizeof f)
        return 0;
    memcpy(&f, data, sizeof f);
    data += sizeof f;
    size -= sizeof f;
    f.head_dim = (uint16_t)(f.head_dim % 65 * 16);
    f.bits = (uint16_t)(2 + f.bits % 7);
    f.codebook = (uint8_t)(1 + f.codebook % 3);
    f.layout = f.codebook == TQKV_CODEBOOK_MLX ? TQKV_LAYOUT_SPLIT : TQKV_LAYOUT_ROW;
    f.rotation %= 3;
    f.reserved = 0;
    if (tqkv_format_row_bytes(&f, &bytes) != TQKV_OK || size < bytes)
        return 0;
    uint8_t *row = malloc(bytes); /* exact, so that one byte too many is seen */
    if (!row)
        return 0;
    memcpy(row, data, bytes);
    tqkv_rows_at(&f, row, 0, &rows);
    decode_alike(&f, &rows);
    if (size >= f.head_dim * sizeof *x) {
        memcpy(x, data, f.head_dim * sizeof *x);
        encode_alike(&f, x, row, bytes);
    }
    free(row);
    return 0;
}

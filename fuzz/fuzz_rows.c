/* Arbitrary bytes as a format and a row of it: decode in both domains with the
 * best kernels and with scalar ones, which must agree, and encode what came. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tqkv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tqkv_format f;
    tqkv_rows rows;
    size_t bytes;
    static float fast[TQKV_MAX_HEAD_DIM], slow[TQKV_MAX_HEAD_DIM];
    if (size < sizeof f)
        return 0;
    memcpy(&f, data, sizeof f);
    data += sizeof f;
    size -= sizeof f;
    f.head_dim = (uint16_t)(f.head_dim % 65 * 16);
    f.rate = (uint16_t)(32 + f.rate % 97);
    f.codebook = (uint8_t)(1 + f.codebook % 3);
    f.layout = f.codebook == TQKV_CODEBOOK_MLX ? TQKV_LAYOUT_SPLIT : TQKV_LAYOUT_ROW;
    f.rotation %= 3;
    f.reserved = 0;
    if (tqkv_format_row_bytes(&f, 0, &bytes) != TQKV_OK || size < bytes)
        return 0;
    uint8_t *row = malloc(bytes); /* exact, so that one byte too many is seen */
    if (!row)
        return 0;
    memcpy(row, data, bytes);
    tqkv_rows_at(&f, row, 0, 0, &rows);
    for (int domain = TQKV_ORIGINAL; domain <= TQKV_ROTATED; domain++) {
        tqkv_decode(&f, NULL, &rows, 1, (tqkv_domain)domain, fast, 0);
        tqkv_cpu_mask(0);
        tqkv_decode(&f, NULL, &rows, 1, (tqkv_domain)domain, slow, 0);
        tqkv_cpu_mask(~(uint32_t)0);
        for (unsigned i = 0; i < f.head_dim; i++) /* NaN may differ in its bits */
            if (memcmp(&fast[i], &slow[i], sizeof *fast) && (fast[i] == fast[i] || slow[i] == slow[i]))
                abort();
    }
    if (size >= f.head_dim * sizeof(float)) {
        memcpy(fast, data, f.head_dim * sizeof *fast);
        tqkv_encode(&f, NULL, fast, TQKV_F32, 0, 1, &rows);
        uint8_t *again = malloc(bytes);
        if (again) {
            tqkv_rows_at(&f, again, 0, 0, &rows);
            tqkv_cpu_mask(0);
            tqkv_encode(&f, NULL, fast, TQKV_F32, 0, 1, &rows);
            tqkv_cpu_mask(~(uint32_t)0);
            if (memcmp(row, again, bytes))
                abort();
        }
        free(again);
    }
    free(row);
    return 0;
}

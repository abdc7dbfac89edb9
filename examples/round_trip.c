/* Encodes a few key rows in 4 bits, decodes them, prints the error. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <tqkv.h>

enum { HEAD_DIM = 128, ROWS = 100 };

int main(void)
{
    static float keys[ROWS * HEAD_DIM], decoded[ROWS * HEAD_DIM];
    tqkv_format format;
    tqkv_rows rows;
    size_t row_bytes = 0;
    for (int i = 0; i < ROWS * HEAD_DIM; i++)
        keys[i] = sinf(0.37f * (float)i * (float)(i % 89));

    tqkv_status status = tqkv_format_parse("tq4", HEAD_DIM, &format);
    if (status == TQKV_OK)
        status = tqkv_format_row_bytes(&format, &row_bytes);
    void *memory = status == TQKV_OK ? malloc(ROWS * row_bytes) : NULL;
    if (status == TQKV_OK)
        status = memory ? tqkv_rows_at(&format, memory, 0, &rows) : TQKV_ERROR_MEMORY;
    if (status == TQKV_OK)
        status = tqkv_encode(&format, NULL, keys, TQKV_F32, 0, ROWS, &rows);
    if (status == TQKV_OK)
        status = tqkv_decode(&format, NULL, &rows, ROWS, TQKV_ORIGINAL, decoded, 0);
    free(memory);
    if (status != TQKV_OK) {
        fprintf(stderr, "round_trip: %s\n", tqkv_status_string(status));
        return 1;
    }
    double error = 0, square = 0;
    for (int i = 0; i < ROWS * HEAD_DIM; i++) {
        error += pow((double)keys[i] - decoded[i], 2);
        square += pow(keys[i], 2);
    }
    printf("tqkv %s: %zu bytes a row instead of %d, relative error %.3f\n", tqkv_version(),
           row_bytes, 2 * HEAD_DIM, sqrt(error / square));
    return error / square < 0.01 ? 0 : 1;
}

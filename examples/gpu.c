/* Attention on codes on a device: gpu [DEVICE], "host" by default.
 *
 * Encodes 1000 keys and values of one KV head, and attends to them from 4 query heads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <tqkv_gpu.h>

enum { TOKENS = 1000, DIM = 128, HEADS = 4 };

/* Fills device memory with rows of some numbers; returns their buffer. */
static tqkv_buffer *some_numbers(tqkv_device *device, size_t n, unsigned seed)
{
    tqkv_buffer *buffer = NULL;
    float *x = malloc(n * sizeof *x);
    srand(seed);
    for (size_t i = 0; x && i < n; i++)
        x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    if (x && tqkv_buffer_create(device, n * sizeof *x, &buffer) == TQKV_OK)
        tqkv_buffer_upload(buffer, 0, x, n * sizeof *x);
    free(x);
    return buffer;
}

int main(int argc, char **argv)
{
    char message[512] = "";
    tqkv_device *device;
    tqkv_registry *registry;
    tqkv_encoder *encoder;
    if (tqkv_device_open(argc > 1 ? argv[1] : "host", NULL, &device, message, sizeof message) !=
            TQKV_OK ||
        tqkv_registry_create(NULL, &registry) != TQKV_OK ||
        tqkv_encoder_create(device, NULL, &encoder) != TQKV_OK) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }

    tqkv_format format;
    size_t row_bytes, bytes;
    tqkv_format_parse("tq4", DIM, &format);
    tqkv_format_row_bytes(&format, 0, &row_bytes);
    tqkv_buffer *numbers = some_numbers(device, 2 * TOKENS * DIM, 1), *rows = NULL, *out = NULL;
    tqkv_buffer *queries = some_numbers(device, HEADS * DIM, 2), *workspace = NULL;
    tqkv_buffer_create(device, 2 * TOKENS * row_bytes, &rows);
    tqkv_buffer_create(device, HEADS * DIM * sizeof(float), &out);

    /* The keys' rows come first, then the values'. */
    tqkv_gpu_attention a = {
        .n_sequences = 1, .n_queries = 1, .n_heads = HEADS, .n_kv_heads = 1,
        .queries = queries, .query_type = TQKV_F32, .out = out, .out_type = TQKV_F32,
        .n_tokens = TOKENS, .position = TOKENS - 1, .causal = 1, .scale = 1 / sqrtf(DIM),
        .keys = {.format = format}, .values = {.format = format}};
    tqkv_gpu_rows all;
    tqkv_gpu_rows_at(&format, rows, 0, 0, 0, &all);
    tqkv_gpu_rows_at(&format, rows, 0, 0, 0, &a.keys.rows);
    tqkv_gpu_rows_at(&format, rows, TOKENS * row_bytes, 0, 0, &a.values.rows);

    tqkv_status status = tqkv_gpu_attend_workspace(device, &a, &bytes);
    if (status == TQKV_OK)
        status = tqkv_buffer_create(device, bytes, &workspace);
    if (status == TQKV_OK)
        status = tqkv_dispatch_encode(encoder, registry, &format, NULL, 0, numbers, TQKV_F32, 0,
                                      2 * TOKENS, &all);
    if (status == TQKV_OK)
        status = tqkv_dispatch_attend(encoder, registry, &a, workspace);
    if (status == TQKV_OK)
        status = tqkv_encoder_submit(encoder);
    if (status == TQKV_OK)
        status = tqkv_encoder_wait(encoder);

    float result[HEADS * DIM];
    if (status == TQKV_OK)
        status = tqkv_buffer_download(out, 0, result, sizeof result);
    if (status != TQKV_OK) {
        tqkv_encoder_message(encoder, message, sizeof message);
        fprintf(stderr, "%s: %s\n", tqkv_status_string(status), message);
    } else {
        printf("%zu bytes instead of %zu; output of head 0 begins %.4f %.4f %.4f\n",
               2 * TOKENS * row_bytes, (size_t)2 * TOKENS * DIM * 2, (double)result[0],
               (double)result[1], (double)result[2]);
    }
    tqkv_buffer *buffers[] = {numbers, rows, queries, out, workspace};
    for (int i = 0; i < 5; i++)
        tqkv_buffer_free(buffers[i]);
    tqkv_encoder_free(encoder);
    tqkv_registry_free(registry);
    tqkv_device_free(device);
    return status != TQKV_OK;
}

/* Attention on codes on a device: gpu [DEVICE], "host" by default.
 *
 * Encodes 1000 keys and values of one KV head, and attends to them from 4 query heads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <tqkv_gpu.h>

enum { TOKENS = 1000, DIM = 128, HEADS = 4 };

/* What the device works with. */
typedef struct engine {
    tqkv_device *device;
    tqkv_registry *registry;
    tqkv_encoder *encoder;
    tqkv_buffer *numbers, *rows, *queries, *out, *workspace;
} engine;

/* Device memory that is filled with some numbers. */
static tqkv_status some_numbers(tqkv_device *device, size_t n, unsigned seed, tqkv_buffer **buffer)
{
    float *x = malloc(n * sizeof *x);
    if (!x)
        return TQKV_ERROR_MEMORY;
    srand(seed);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    tqkv_status status = tqkv_buffer_create(device, n * sizeof *x, buffer);
    if (status == TQKV_OK)
        status = tqkv_buffer_upload(*buffer, 0, x, n * sizeof *x);
    free(x);
    return status;
}

/* Rows of keys come first, then those of values. */
static tqkv_status make_buffers(engine *e, size_t row_bytes)
{
    tqkv_status status = some_numbers(e->device, 2 * TOKENS * DIM, 1, &e->numbers);
    if (status == TQKV_OK)
        status = some_numbers(e->device, HEADS * DIM, 2, &e->queries);
    if (status == TQKV_OK)
        status = tqkv_buffer_create(e->device, 2 * TOKENS * row_bytes, &e->rows);
    if (status == TQKV_OK)
        status = tqkv_buffer_create(e->device, HEADS * DIM * sizeof(float), &e->out);
    return status;
}

static tqkv_status encode(engine *e, const tqkv_format *format)
{
    tqkv_gpu_rows all;
    tqkv_status status = tqkv_gpu_rows_at(format, e->rows, 0, 0, &all);
    if (status == TQKV_OK)
        status = tqkv_dispatch_encode(e->encoder, e->registry, format, NULL, e->numbers,
                                      TQKV_F32, 0, 2 * TOKENS, &all);
    return status;
}

static tqkv_status attend(engine *e, const tqkv_format *format, size_t row_bytes)
{
    size_t bytes = 0;
    tqkv_gpu_attention a = {
        .n_sequences = 1, .n_queries = 1, .n_heads = HEADS, .n_kv_heads = 1,
        .queries = e->queries, .query_type = TQKV_F32, .out = e->out, .out_type = TQKV_F32,
        .n_tokens = TOKENS, .position = TOKENS - 1, .causal = 1, .scale = 1 / sqrtf(DIM),
        .keys = {.format = *format}, .values = {.format = *format}};
    tqkv_status status = tqkv_gpu_rows_at(format, e->rows, 0, 0, &a.keys.rows);
    if (status == TQKV_OK)
        status = tqkv_gpu_rows_at(format, e->rows, TOKENS * row_bytes, 0, &a.values.rows);
    if (status == TQKV_OK)
        status = tqkv_gpu_attend_workspace(e->device, &a, &bytes);
    if (status == TQKV_OK)
        status = tqkv_buffer_create(e->device, bytes, &e->workspace);
    if (status == TQKV_OK)
        status = tqkv_dispatch_attend(e->encoder, e->registry, &a, e->workspace);
    return status;
}

/* All of the work; the encoder's message says more about what fails. */
static tqkv_status run(engine *e, float *result)
{
    tqkv_format format;
    size_t row_bytes = 0;
    tqkv_status status = tqkv_format_parse("tq4", DIM, &format);
    if (status == TQKV_OK)
        status = tqkv_format_row_bytes(&format, &row_bytes);
    if (status == TQKV_OK)
        status = make_buffers(e, row_bytes);
    if (status == TQKV_OK)
        status = encode(e, &format);
    if (status == TQKV_OK)
        status = attend(e, &format, row_bytes);
    if (status == TQKV_OK)
        status = tqkv_encoder_submit(e->encoder);
    if (status == TQKV_OK)
        status = tqkv_encoder_wait(e->encoder);
    if (status == TQKV_OK)
        status = tqkv_buffer_download(e->out, 0, result, HEADS * DIM * sizeof *result);
    if (status == TQKV_OK)
        printf("%zu bytes instead of %zu; output of head 0 begins %.4f %.4f %.4f\n",
               2 * TOKENS * row_bytes, (size_t)2 * TOKENS * DIM * 2, (double)result[0],
               (double)result[1], (double)result[2]);
    else
        fprintf(stderr, "gpu: %s", tqkv_status_string(status));
    return status;
}

int main(int argc, char **argv)
{
    static float result[HEADS * DIM];
    char message[512] = "";
    engine e = {0};
    tqkv_status status = tqkv_device_open(argc > 1 ? argv[1] : "host", NULL, &e.device, message,
                                          sizeof message);
    if (status == TQKV_OK)
        status = tqkv_registry_create(NULL, &e.registry);
    if (status == TQKV_OK)
        status = tqkv_encoder_create(e.device, NULL, &e.encoder);
    if (status == TQKV_OK) {
        status = run(&e, result);
        tqkv_encoder_message(e.encoder, message, sizeof message);
    } else {
        fprintf(stderr, "gpu: %s", tqkv_status_string(status));
    }
    if (status != TQKV_OK)
        fprintf(stderr, "%s%s\n", *message ? ": " : "", message);
    tqkv_buffer *buffers[] = {e.numbers, e.rows, e.queries, e.out, e.workspace};
    for (int i = 0; i < 5; i++)
        tqkv_buffer_free(buffers[i]);
    tqkv_encoder_free(e.encoder);
    tqkv_registry_free(e.registry);
    tqkv_device_free(e.device);
    return status != TQKV_OK;
}

/* A device, named by TQKV_TEST_DEVICE ("host" if it is not set), and what goes to it
 * and comes back. */
#ifndef TQKV_TESTS_GPU_CASE_H
#define TQKV_TESTS_GPU_CASE_H

#include "test.h"
#include "tqkv_gpu.h"

typedef struct gpu_case {
    tqkv_device *device;
    tqkv_registry *registry;
    tqkv_encoder *encoder;
} gpu_case;

static inline const char *gpu_device_name(void)
{
    const char *name = getenv("TQKV_TEST_DEVICE");
    return name ? name : "host";
}

/* A module for machines without a compiler of kernels, by TQKV_TEST_MODULE. */
static inline void *gpu_module(size_t *size)
{
    const char *path = getenv("TQKV_TEST_MODULE");
    *size = 0;
    if (!path)
        return NULL;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint8_t *data = malloc(64 << 20);
    *size = fread(data, 1, 64 << 20, file);
    fclose(file);
    return data;
}

static inline int gpu_setup(void **state)
{
    static gpu_case g;
    char message[4096] = "";
    tqkv_registry_config config = {.cache_folder = getenv("TQKV_TEST_CACHE")};
    if (tqkv_device_open(gpu_device_name(), NULL, &g.device, message, sizeof message) != TQKV_OK)
        fail_msg("%s", message);
    config.cuda_module = gpu_module(&config.cuda_module_size);
    assert_int_equal(tqkv_registry_create(&config, &g.registry), TQKV_OK);
    free((void *)config.cuda_module);
    assert_int_equal(tqkv_encoder_create(g.device, NULL, &g.encoder), TQKV_OK);
    *state = &g;
    return 0;
}

static inline int gpu_teardown(void **state)
{
    gpu_case *g = *state;
    tqkv_encoder_free(g->encoder);
    tqkv_registry_free(g->registry);
    tqkv_device_free(g->device);
    return 0;
}

/* Asserts success, with the encoder's message if it is none. */
static inline void gpu_ok(const gpu_case *g, tqkv_status status)
{
    char message[4096] = "", of_device[4096] = "";
    if (status == TQKV_OK)
        return;
    tqkv_encoder_message(g->encoder, message, sizeof message);
    tqkv_device_message(g->device, of_device, sizeof of_device);
    fail_msg("%s: %s; %s", tqkv_status_string(status), message, of_device);
}

static inline void gpu_run(const gpu_case *g)
{
    gpu_ok(g, tqkv_encoder_submit(g->encoder));
    gpu_ok(g, tqkv_encoder_wait(g->encoder));
}

/* A buffer of exactly these bytes; data may be null, then it is filled with 0xA5. */
static inline tqkv_buffer *gpu_buffer(const gpu_case *g, const void *data, size_t bytes)
{
    tqkv_buffer *b = NULL;
    gpu_ok(g, tqkv_buffer_create(g->device, bytes, &b));
    if (data) {
        gpu_ok(g, tqkv_buffer_upload(b, 0, data, bytes));
        return b;
    }
    void *poison = malloc(bytes);
    memset(poison, 0xA5, bytes);
    gpu_ok(g, tqkv_buffer_upload(b, 0, poison, bytes));
    free(poison);
    return b;
}

/* The buffer's contents in fresh memory; frees the buffer. */
static inline void *gpu_take(const gpu_case *g, tqkv_buffer *b)
{
    size_t bytes = tqkv_buffer_size(b);
    void *data = malloc(bytes);
    assert_non_null(data);
    gpu_ok(g, tqkv_buffer_download(b, 0, data, bytes));
    tqkv_buffer_free(b);
    return data;
}

/* Rows in device memory as test_encode makes them on the host. */
static inline tqkv_buffer *gpu_rows_buffer(const gpu_case *g, const tqkv_format *f,
                                           const void *data, size_t n, tqkv_gpu_rows *rows)
{
    size_t bytes;
    assert_int_equal(tqkv_format_row_bytes(f, &bytes), TQKV_OK);
    tqkv_buffer *b = gpu_buffer(g, data, n * bytes);
    gpu_ok(g, tqkv_gpu_rows_at(f, b, 0, 0, rows));
    return b;
}

#endif

/* Handles: what callers get wrong, and what they may do. */
#include <pthread.h>

#include "gpu_case.h"

static void devices_have_names(void **state)
{
    tqkv_device_info infos[16], info;
    size_t n = 0;
    char message[256] = "";
    tqkv_device *d = NULL;
    (void)state;
    assert_int_equal(tqkv_device_list(infos, 16, &n), TQKV_OK);
    assert_true(n >= 1);
    assert_string_equal(infos[n < 16 ? n - 1 : 15].name, "host");
    assert_int_equal(tqkv_device_list(NULL, 0, &n), TQKV_OK);
    assert_int_equal(tqkv_device_list(NULL, 3, &n), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_device_list(infos, 16, NULL), TQKV_ERROR_ARGUMENT);
    static const char *const wrong[] = {"", "hos", "hostess", "host:0", "cuda:", "cuda:x",
                                        "cuda:0x", "opencl:0", "opencl:0.", "vulkan:0", "cuda:-1",
                                        "opencl:77.0", "cuda:12345"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        message[0] = 0;
        assert_int_equal(tqkv_device_open(wrong[i], NULL, &d, message, sizeof message),
                         TQKV_ERROR_NO_DEVICE);
        assert_true(message[0]);
        assert_null(d);
    }
    assert_int_equal(tqkv_device_open("cuda:999", NULL, &d, NULL, 0), TQKV_ERROR_NO_DEVICE);
    assert_int_equal(tqkv_device_open(NULL, NULL, &d, NULL, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_device_open("host", NULL, NULL, NULL, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_device_open("host", NULL, &d, NULL, 0), TQKV_OK);
    assert_int_equal(tqkv_device_get_info(d, &info), TQKV_OK);
    assert_string_equal(info.name, "host");
    assert_true(info.max_group >= 64 && info.group_memory >= 32768);
    tqkv_device_free(d);
}

static void buffers_check_their_bounds(void **state)
{
    const gpu_case *g = *state;
    tqkv_buffer *b = NULL, *view = NULL, *none = NULL;
    uint8_t data[64], back[64];
    void *map;
    for (int i = 0; i < 64; i++)
        data[i] = (uint8_t)i;
    assert_int_equal(tqkv_buffer_create(g->device, 0, &none), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_buffer_create(NULL, 8, &none), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_buffer_create(g->device, SIZE_MAX - 3, &none), TQKV_ERROR_MEMORY);
    assert_null(none);
    b = gpu_buffer(g, data, 64);
    assert_int_equal(tqkv_buffer_size(b), 64);
    assert_int_equal(tqkv_buffer_size(NULL), 0);
    assert_int_equal(tqkv_buffer_upload(b, 60, data, 5), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_buffer_upload(b, SIZE_MAX, data, 2), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_buffer_download(b, 65, back, 0), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_buffer_download(b, 0, NULL, 4), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_buffer_view(b, 60, 5, &view), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_buffer_view(b, 16, 32, &view), TQKV_OK);
    assert_int_equal(tqkv_buffer_map(view, 1, &map), TQKV_OK);
    assert_memory_equal(map, data + 16, 32);
    assert_int_equal(tqkv_buffer_map(view, 1, &map), TQKV_ERROR_STATE);
    memset(map, 7, 32);
    assert_int_equal(tqkv_buffer_unmap(view), TQKV_OK);
    assert_int_equal(tqkv_buffer_unmap(view), TQKV_ERROR_STATE);
    assert_int_equal(tqkv_buffer_map(b, 0, &map), TQKV_OK);
    memset(map, 9, 64); /* is not brought back */
    assert_int_equal(tqkv_buffer_unmap(b), TQKV_OK);
    /* The view keeps the memory. */
    tqkv_buffer_free(b);
    assert_int_equal(tqkv_buffer_download(view, 0, back, 32), TQKV_OK);
    for (int i = 0; i < 32; i++)
        assert_int_equal(back[i], 7);
    assert_int_equal(tqkv_buffer_download(b, 0, back, 1), TQKV_ERROR_STATE); /* freed, seen */
    tqkv_buffer_free(view);
    tqkv_buffer_free(NULL);
}

/* Memory of the caller's; on the host device that is any. */
static void memory_is_wrapped(void **state)
{
    const gpu_case *g = *state;
    float x[40], want[40];
    tqkv_buffer *b = NULL;
    if (strcmp(gpu_device_name(), "host"))
        skip();
    for (int i = 0; i < 40; i++)
        x[i] = (float)i / 10 - 2;
    tqkv_mlx_requantize(8, x, 40, want);
    assert_int_equal(tqkv_buffer_wrap(g->device, NULL, sizeof x, &b), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_buffer_wrap(g->device, x, 0, &b), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_buffer_wrap(g->device, x, SIZE_MAX, &b), TQKV_ERROR_OVERFLOW);
    gpu_ok(g, tqkv_buffer_wrap(g->device, x, sizeof x, &b));
    gpu_ok(g, tqkv_dispatch_requantize(g->encoder, g->registry, g->device, b, b, 40, 8));
    gpu_run(g);
    tqkv_buffer_free(b);
    assert_memory_equal(x, want, sizeof x);
}

static tqkv_status copy_some(tqkv_encoder *e, tqkv_buffer *from, tqkv_buffer *to)
{
    return tqkv_encoder_copy(e, from, 0, to, 0, 16);
}

static void encoders_keep_what_they_need(void **state)
{
    const gpu_case *g = *state;
    uint8_t data[16] = "0123456789abcde", *back;
    tqkv_buffer *from = gpu_buffer(g, data, 16), *to = gpu_buffer(g, NULL, 16);
    gpu_ok(g, copy_some(g->encoder, from, to));
    tqkv_buffer_free(from); /* before it is submitted */
    assert_int_equal(tqkv_encoder_copy(g->encoder, to, 0, to, 4, 8), TQKV_ERROR_ARGUMENT);
    gpu_run(g);
    back = gpu_take(g, to);
    assert_memory_equal(back, data, 16);
    free(back);
}

/* In any order: what was recorded keeps the kernels, and encoders their device. */
static void everything_may_be_freed_early(void **state)
{
    const gpu_case *g = *state;
    tqkv_device *d;
    tqkv_registry *r;
    tqkv_encoder *e;
    tqkv_buffer *b, *other;
    tqkv_graph *graph;
    float x[16], want[16];
    tqkv_registry_config config = {0};
    for (int i = 0; i < 16; i++)
        x[i] = (float)i / 5 - 1;
    tqkv_mlx_requantize(4, x, 16, want);
    gpu_ok(g, tqkv_device_open(gpu_device_name(), NULL, &d, NULL, 0));
    config.cuda_module = gpu_module(&config.cuda_module_size);
    gpu_ok(g, tqkv_registry_create(&config, &r));
    free((void *)config.cuda_module);
    gpu_ok(g, tqkv_encoder_create(d, NULL, &e));
    gpu_ok(g, tqkv_buffer_create(d, sizeof x, &b));
    gpu_ok(g, tqkv_buffer_create(d, sizeof x, &other));
    gpu_ok(g, tqkv_buffer_upload(b, 0, x, sizeof x));
    gpu_ok(g, tqkv_dispatch_requantize(e, r, d, b, other, 16, 4));
    gpu_ok(g, tqkv_encoder_finish_graph(e, &graph));
    gpu_ok(g, tqkv_dispatch_requantize(e, r, d, b, b, 16, 4));
    tqkv_registry_free(r);
    tqkv_device_free(d);
    gpu_ok(g, tqkv_encoder_submit(e));
    gpu_ok(g, tqkv_graph_launch(graph, e));
    gpu_ok(g, tqkv_encoder_wait(e));
    gpu_ok(g, tqkv_buffer_download(b, 0, x, sizeof x));
    assert_memory_equal(x, want, sizeof x);
    gpu_ok(g, tqkv_buffer_download(other, 0, x, sizeof x));
    assert_memory_equal(x, want, sizeof x);
    tqkv_encoder_free(e);
    tqkv_graph_free(graph);
    tqkv_buffer_free(other);
    tqkv_buffer_free(b);
}

static void devices_do_not_mix(void **state)
{
    const gpu_case *g = *state;
    tqkv_device *other;
    tqkv_buffer *here = gpu_buffer(g, NULL, 16), *there;
    tqkv_event *event;
    tqkv_encoder *encoder;
    assert_int_equal(tqkv_device_open("host", NULL, &other, NULL, 0), TQKV_OK);
    assert_int_equal(tqkv_buffer_create(other, 16, &there), TQKV_OK);
    assert_int_equal(tqkv_event_create(other, &event), TQKV_OK);
    assert_int_equal(tqkv_encoder_create(other, NULL, &encoder), TQKV_OK);
    tqkv_device_free(other); /* its children keep it */
    assert_int_equal(copy_some(g->encoder, here, there), TQKV_ERROR_ARGUMENT);
    assert_int_equal(copy_some(encoder, here, there), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_encoder_record(g->encoder, event), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_requantize(encoder, g->registry, g->device, here, here, 4, 4),
                     TQKV_ERROR_ARGUMENT);
    const tqkv_pipeline *pipeline;
    uint32_t one[3] = {1, 1, 1};
    gpu_ok(g, tqkv_registry_get_pipeline(g->registry, "requantize_to_f32_hb", NULL, g->device,
                                         &pipeline));
    assert_int_equal(tqkv_encoder_dispatch(encoder, pipeline, NULL, 0, NULL, 0, one, 1, 0),
                     TQKV_ERROR_ARGUMENT);
    tqkv_encoder_free(encoder);
    tqkv_event_free(event);
    tqkv_buffer_free(there);
    tqkv_buffer_free(here);
}

static void out_of_order(void **state)
{
    const gpu_case *g = *state;
    tqkv_event *a, *b;
    tqkv_graph *graph;
    double seconds = -1;
    gpu_ok(g, tqkv_event_create(g->device, &a));
    gpu_ok(g, tqkv_event_create(g->device, &b));
    assert_int_equal(tqkv_event_elapsed(a, b, &seconds), TQKV_ERROR_STATE);
    gpu_ok(g, tqkv_encoder_record(g->encoder, a));
    assert_int_equal(tqkv_encoder_finish_graph(g->encoder, &graph), TQKV_ERROR_STATE);
    gpu_ok(g, tqkv_encoder_record(g->encoder, b));
    gpu_run(g);
    assert_int_equal(tqkv_event_elapsed(a, b, &seconds), TQKV_OK);
    assert_true(seconds >= 0);
    tqkv_event_free(a);
    assert_int_equal(tqkv_encoder_submit(NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_encoder_submit((tqkv_encoder *)b), TQKV_ERROR_STATE); /* no encoder */
    tqkv_event_free(b);
}

static void graphs_are_replayed(void **state)
{
    const gpu_case *g = *state;
    float x[64], want[64], *got;
    for (int i = 0; i < 64; i++)
        x[i] = (float)i / 16 - 2;
    tqkv_mlx_requantize(5, x, 64, want);
    tqkv_buffer *src = gpu_buffer(g, NULL, sizeof x), *dst = gpu_buffer(g, NULL, sizeof x);
    tqkv_graph *graph;
    gpu_ok(g, tqkv_dispatch_requantize(g->encoder, g->registry, g->device, src, dst, 64, 5));
    gpu_ok(g, tqkv_encoder_finish_graph(g->encoder, &graph));
    gpu_ok(g, tqkv_buffer_upload(src, 0, x, sizeof x)); /* contents may change, */
    tqkv_buffer_free(src);                              /* and the graph keeps buffers */
    for (int i = 0; i < 3; i++)
        gpu_ok(g, tqkv_graph_launch(graph, g->encoder));
    gpu_run(g);
    got = gpu_take(g, dst);
    assert_memory_equal(got, want, sizeof want);
    free(got);
    tqkv_graph_free(graph);
}

static void double_values(const uint32_t *group, uint32_t item, uint32_t n_items,
                          uint8_t *local_memory, const void *params, void *const *buffers)
{
    (void)local_memory;
    (void)params;
    const float *x = buffers[0];
    float *y = buffers[1];
    y[group[0] * n_items + item] = 2 * x[group[0] * n_items + item];
}

/* A kernel of the caller's. */
static void callers_kernels(void **state)
{
    const gpu_case *g = *state;
    static const char source[] = "KERNEL2(double_values, uint, const float, x, float, y)\n"
                                 "{\n"
                                 "    y[group_x * n_items + item] = FACTOR * x[group_x * n_items + item];\n"
                                 "}\n";
    tqkv_registry *r;
    const tqkv_pipeline *pipeline, *again;
    char message[4096];
    float x[32], *y;
    uint32_t groups[3] = {2, 1, 1}, nothing = 0;
    for (int i = 0; i < 32; i++)
        x[i] = (float)i;
    assert_int_equal(tqkv_registry_create(NULL, &r), TQKV_OK);
    gpu_ok(g, tqkv_registry_register_source(r, "double_values", source, double_values));
    assert_int_equal(tqkv_registry_register_source(r, "double_values", source, NULL),
                     TQKV_ERROR_STATE);
    assert_int_equal(tqkv_registry_register_source(r, "decode_rows", source, NULL),
                     TQKV_ERROR_STATE);
    assert_int_equal(tqkv_registry_get_pipeline(r, "nothing", NULL, g->device, &pipeline),
                     TQKV_ERROR_ARGUMENT);
    /* a source that does not compile, or on the host has no function */
    gpu_ok(g, tqkv_registry_register_source(r, "broken", "#error is broken\n", NULL));
    assert_int_equal(tqkv_registry_get_pipeline(r, "broken", NULL, g->device, &pipeline),
                     getenv("TQKV_TEST_MODULE") ? TQKV_ERROR_NO_DEVICE : TQKV_ERROR_COMPILE);
    assert_int_equal(tqkv_registry_message(r, message, sizeof message), TQKV_OK);
    assert_non_null(strstr(message, "broken"));
    if (!getenv("TQKV_TEST_STANDIN")) { /* which compile nothing */
        tqkv_status status =
            tqkv_registry_get_pipeline(r, "double_values", "FACTOR=2", g->device, &pipeline);
        assert_int_equal(status, TQKV_OK);
        gpu_ok(g, tqkv_registry_get_pipeline(r, "double_values", "FACTOR=2", g->device, &again));
        assert_ptr_equal(pipeline, again);
        tqkv_buffer *b[2] = {gpu_buffer(g, x, sizeof x), gpu_buffer(g, NULL, sizeof x)};
        gpu_ok(g, tqkv_encoder_dispatch(g->encoder, pipeline, b, 2, &nothing, sizeof nothing,
                                        groups, 16, 0));
        assert_int_equal(tqkv_encoder_dispatch(g->encoder, pipeline, b, 2, &nothing, 4, groups, 0,
                                               0), TQKV_ERROR_ARGUMENT);
        assert_int_equal(tqkv_encoder_dispatch(g->encoder, pipeline, b, 2, &nothing, 4, groups,
                                               1 << 20, 0), TQKV_ERROR_ARGUMENT);
        gpu_run(g);
        tqkv_buffer_free(b[0]);
        y = gpu_take(g, b[1]);
        for (int i = 0; i < 32; i++)
            assert_true(y[i] == 2 * x[i]);
        free(y);
    }
    tqkv_registry_free(r);
}

/* ---- messages ---- */

static void any_run(const uint32_t *group, uint32_t item, uint32_t n_items, uint8_t *local_memory,
                    const void *params, void *const *buffers)
{
    (void)group, (void)item, (void)n_items, (void)local_memory, (void)params, (void)buffers;
}

/* Calls that fail leave a message where the one before was another. */
#define SAYS(handle, other, call)                                                           \
    do {                                                                                    \
        assert_true((other) != TQKV_OK);                                                    \
        assert_int_equal(tqkv_##handle##_message(HANDLE_##handle, old, sizeof old), TQKV_OK); \
        assert_true((call) != TQKV_OK);                                                     \
        assert_int_equal(tqkv_##handle##_message(HANDLE_##handle, text, sizeof text), TQKV_OK); \
        if (!strcmp(old, text))                                                             \
            fail_msg("no message: %s", #call);                                              \
    } while (0)
#define HANDLE_device d
#define HANDLE_encoder e
#define HANDLE_registry r
#define DEVICE_SAYS(call) SAYS(device, tqkv_buffer_unmap(b), call)
#define ENCODER_SAYS(call) \
    SAYS(encoder, tqkv_encoder_dispatch(e, NULL, NULL, 0, NULL, 0, groups, 1, 0), call)
#define REGISTRY_SAYS(call) SAYS(registry, tqkv_registry_get_pipeline(r, "none", NULL, d, &p), call)

static void devices_say_why(void **state)
{
    const gpu_case *g = *state;
    tqkv_device *d = g->device;
    tqkv_buffer *b = gpu_buffer(g, NULL, 64), *none = NULL;
    tqkv_event *v;
    tqkv_format f = test_format("tq4", 64);
    tqkv_gpu_rows rows;
    tqkv_gpu_attention a = {0};
    tqkv_flash_attn_vec_params vec = {.num_heads = 1, .num_kv_heads = 1, .head_dim = 64,
                                      .mask_type = 9};
    double seconds;
    size_t bytes;
    char x[64], old[4096], text[4096];
    assert_int_equal(tqkv_event_create(d, &v), TQKV_OK);
    DEVICE_SAYS(tqkv_device_get_info(d, NULL));
    DEVICE_SAYS(tqkv_buffer_create(d, 0, &none));
    DEVICE_SAYS(tqkv_buffer_create(d, 16, NULL));
    DEVICE_SAYS(tqkv_buffer_create(d, SIZE_MAX, &none));
    DEVICE_SAYS(tqkv_buffer_wrap(d, NULL, 16, &none));
    DEVICE_SAYS(tqkv_buffer_wrap(d, x, 0, &none));
    DEVICE_SAYS(tqkv_buffer_wrap(d, x, 16, NULL));
    DEVICE_SAYS(tqkv_buffer_view(b, 0, 0, &none));
    DEVICE_SAYS(tqkv_buffer_view(b, 0, 16, NULL));
    DEVICE_SAYS(tqkv_buffer_view(b, 60, 16, &none));
    DEVICE_SAYS(tqkv_buffer_upload(b, 0, NULL, 16));
    DEVICE_SAYS(tqkv_buffer_upload(b, 60, x, 16));
    DEVICE_SAYS(tqkv_buffer_download(b, 0, NULL, 16));
    DEVICE_SAYS(tqkv_buffer_map(b, 0, NULL));
    DEVICE_SAYS(tqkv_encoder_create(d, NULL, NULL));
    DEVICE_SAYS(tqkv_event_create(d, NULL));
    DEVICE_SAYS(tqkv_event_elapsed(v, NULL, &seconds));
    DEVICE_SAYS(tqkv_event_elapsed(v, v, NULL));
    DEVICE_SAYS(tqkv_event_elapsed(v, v, &seconds));
    DEVICE_SAYS(tqkv_gpu_rows_at(NULL, b, 0, 0, &rows));
    DEVICE_SAYS(tqkv_gpu_rows_at(&f, b, 0, 0, NULL));
    DEVICE_SAYS(tqkv_gpu_rows_at(&f, b, 0, 1, &rows));
    DEVICE_SAYS(tqkv_gpu_attend_workspace(d, NULL, &bytes));
    DEVICE_SAYS(tqkv_gpu_attend_workspace(d, &a, &bytes));
    DEVICE_SAYS(tqkv_flash_attn_vec_workspace(d, &vec, &bytes));
    DEVICE_SAYS(tqkv_flash_attn_vec_workspace(d, NULL, &bytes));
    tqkv_event_free(v);
    tqkv_buffer_free(b);
}

static void encoders_and_registries_say_why(void **state)
{
    const gpu_case *g = *state;
    tqkv_device *d = g->device;
    tqkv_encoder *e;
    tqkv_registry *r;
    tqkv_buffer *b = gpu_buffer(g, NULL, 64);
    tqkv_format f = test_format("tq4", 64);
    tqkv_gpu_attention a = {0};
    tqkv_flash_attn_vec_params vec = {.num_heads = 1, .num_kv_heads = 1, .head_dim = 64,
                                      .mask_type = 9};
    const tqkv_pipeline *p;
    uint32_t groups[3] = {1, 1, 1};
    char old[4096], text[4096];
    assert_int_equal(tqkv_encoder_create(d, NULL, &e), TQKV_OK);
    assert_int_equal(tqkv_registry_create(NULL, &r), TQKV_OK);
    ENCODER_SAYS(tqkv_encoder_finish_graph(e, NULL));
    ENCODER_SAYS(tqkv_graph_launch(NULL, e));
    ENCODER_SAYS(tqkv_encoder_record(e, NULL));
    ENCODER_SAYS(tqkv_encoder_copy(e, NULL, 0, b, 0, 16));
    ENCODER_SAYS(tqkv_encoder_copy(e, b, 60, b, 0, 16));
    ENCODER_SAYS(tqkv_dispatch_attend(e, r, NULL, b));
    ENCODER_SAYS(tqkv_dispatch_attend(e, NULL, &a, b));
    ENCODER_SAYS(tqkv_dispatch_append(e, r, NULL, 1, b, b, TQKV_F32));
    ENCODER_SAYS(tqkv_dispatch_merge(e, r, 0, 1, 64, b, b, b, TQKV_F32, NULL));
    ENCODER_SAYS(tqkv_dispatch_merge(e, r, 2, 1, 64, b, b, b, TQKV_F32, NULL));
    ENCODER_SAYS(tqkv_dispatch_encode(e, r, NULL, NULL, b, TQKV_F32, 0, 1, NULL));
    ENCODER_SAYS(tqkv_dispatch_decode(e, r, &f, NULL, NULL, 1, TQKV_ORIGINAL, b, TQKV_F32, 0));
    ENCODER_SAYS(tqkv_dispatch_requantize(e, r, d, b, b, 16, 7));
    ENCODER_SAYS(tqkv_dispatch_requantize(e, r, NULL, b, b, 16, 8));
    ENCODER_SAYS(tqkv_dispatch_flash_attn_vec_tq(e, r, d, b, b, b, b, b, b, b, &vec));
    REGISTRY_SAYS(tqkv_registry_get_pipeline(r, NULL, NULL, d, &p));
    REGISTRY_SAYS(tqkv_registry_get_pipeline(r, "decode_rows", NULL, d, NULL));
    REGISTRY_SAYS(tqkv_registry_get_pipeline(r, "decode_rows", NULL, NULL, &p));
    REGISTRY_SAYS(tqkv_registry_register_source(r, "", "x", any_run));
    REGISTRY_SAYS(tqkv_registry_register_source(r, "x", NULL, any_run));
    REGISTRY_SAYS(tqkv_registry_register_source(r, "decode_rows", "x", any_run));
    tqkv_encoder_free(e);
    tqkv_registry_free(r);
    tqkv_buffer_free(b);
}

/* ---- threads ---- */

typedef struct user {
    const gpu_case *g;
    int ok;
} user;

/* Everything with an encoder of its own, one registry for all. */
static void *use(void *argument)
{
    user *u = argument;
    const gpu_case *g = u->g;
    tqkv_encoder *e;
    float x[256], y[256], want[256];
    for (int i = 0; i < 256; i++)
        x[i] = (float)(i % 37) / 9 - 2;
    tqkv_mlx_requantize(6, x, 256, want);
    u->ok = tqkv_encoder_create(g->device, NULL, &e) == TQKV_OK;
    for (int i = 0; i < 10 && u->ok; i++) {
        tqkv_buffer *b = NULL;
        u->ok = tqkv_buffer_create(g->device, sizeof x, &b) == TQKV_OK &&
                tqkv_buffer_upload(b, 0, x, sizeof x) == TQKV_OK &&
                tqkv_dispatch_requantize(e, g->registry, g->device, b, b, 256, 6) == TQKV_OK &&
                tqkv_encoder_submit(e) == TQKV_OK && tqkv_encoder_wait(e) == TQKV_OK &&
                tqkv_buffer_download(b, 0, y, sizeof y) == TQKV_OK &&
                !memcmp(y, want, sizeof y);
        tqkv_buffer_free(b);
    }
    tqkv_encoder_free(e);
    return NULL;
}

static void threads_share_a_registry(void **state)
{
    pthread_t threads[4];
    user users[4];
    for (int i = 0; i < 4; i++) {
        users[i] = (user){*state, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, use, &users[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(users[i].ok);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_have_names),
        cmocka_unit_test(buffers_check_their_bounds),
        cmocka_unit_test(memory_is_wrapped),
        cmocka_unit_test(encoders_keep_what_they_need),
        cmocka_unit_test(everything_may_be_freed_early),
        cmocka_unit_test(devices_do_not_mix),
        cmocka_unit_test(out_of_order),
        cmocka_unit_test(graphs_are_replayed),
        cmocka_unit_test(callers_kernels),
        cmocka_unit_test(devices_say_why),
        cmocka_unit_test(encoders_and_registries_say_why),
        cmocka_unit_test(threads_share_a_registry),
    };
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}

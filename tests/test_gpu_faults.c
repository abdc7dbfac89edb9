/* Drivers that fail, call by call; missing drivers; files of compiled kernels that
 * are damaged, hostile or cannot be written. TQKV_TEST_STANDIN is the stand-in. */
#include <dirent.h>
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu_case.h"

static long (*standin_fail)(long, int);

static int setup(void **state)
{
    const char *path = getenv("TQKV_TEST_STANDIN");
    (void)state;
    assert_non_null(path);
    void *library = dlopen(path, RTLD_NOW);
    if (!library)
        fail_msg("%s", dlerror());
    standin_fail = (long (*)(long, int))dlsym(library, "standin_fail");
    assert_non_null(standin_fail);
    return 0;
}

enum { DIM = 64, ROWS = 5 };

typedef struct scenario {
    tqkv_device *device;
    tqkv_registry *registry;
    tqkv_encoder *encoder;
    tqkv_buffer *src, *rows, *out, *workspace;
    tqkv_event *from, *to;
    tqkv_graph *graph;
    char message[4096];
} scenario;

#define TRY(call)                                                                   \
    do {                                                                            \
        tqkv_status status_ = (call);                                               \
        if (status_ != TQKV_OK)                                                     \
            return status_;                                                         \
    } while (0)

/* Most of what there is to call. */
static tqkv_status play(scenario *s, const char *cache, const float *x, float *y)
{
    tqkv_registry_config config = {.cache_folder = cache};
    tqkv_format f = test_format("tq4", DIM);
    tqkv_gpu_rows rows;
    size_t row, bytes;
    void *map;
    double seconds;
    tqkv_format_row_bytes(&f, &row);
    TRY(tqkv_device_open(gpu_device_name(), NULL, &s->device, s->message, sizeof s->message));
    TRY(tqkv_registry_create(&config, &s->registry));
    TRY(tqkv_encoder_create(s->device, NULL, &s->encoder));
    TRY(tqkv_buffer_create(s->device, ROWS * DIM * 4, &s->src));
    TRY(tqkv_buffer_create(s->device, ROWS * row, &s->rows));
    TRY(tqkv_buffer_create(s->device, ROWS * DIM * 4, &s->out));
    TRY(tqkv_event_create(s->device, &s->from));
    TRY(tqkv_event_create(s->device, &s->to));
    TRY(tqkv_buffer_upload(s->src, 0, x, ROWS * DIM * 4));
    TRY(tqkv_gpu_rows_at(&f, s->rows, 0, 0, &rows));
    TRY(tqkv_encoder_record(s->encoder, s->from));
    TRY(tqkv_dispatch_encode(s->encoder, s->registry, &f, NULL, s->src, TQKV_F32, 0, ROWS,
                             &rows));
    TRY(tqkv_encoder_record(s->encoder, s->to));
    TRY(tqkv_encoder_submit(s->encoder));
    TRY(tqkv_encoder_wait(s->encoder));
    TRY(tqkv_event_elapsed(s->from, s->to, &seconds));
    TRY(tqkv_dispatch_decode(s->encoder, s->registry, &f, NULL, &rows, ROWS, TQKV_ORIGINAL,
                             s->out, TQKV_F32, 0));
    TRY(tqkv_encoder_finish_graph(s->encoder, &s->graph));
    TRY(tqkv_graph_launch(s->graph, s->encoder));
    TRY(tqkv_encoder_wait(s->encoder));
    TRY(tqkv_encoder_copy(s->encoder, s->out, 0, s->src, 0, ROWS * DIM * 4));
    tqkv_gpu_attention a = {
        .n_sequences = 1, .n_queries = 1, .n_heads = 4, .n_kv_heads = 1,
        .query_type = TQKV_F32, .out_type = TQKV_F32, .queries = s->src, .out = s->out,
        .n_tokens = ROWS, .position = ROWS - 1, .keys = {.format = f, .rows = rows},
        .values = {.format = f, .rows = rows}, .scale = 0.125f, .causal = 1};
    TRY(tqkv_gpu_attend_workspace(s->device, &a, &bytes));
    TRY(tqkv_buffer_create(s->device, bytes, &s->workspace));
    TRY(tqkv_dispatch_attend(s->encoder, s->registry, &a, s->workspace));
    TRY(tqkv_encoder_submit(s->encoder));
    TRY(tqkv_encoder_wait(s->encoder));
    TRY(tqkv_buffer_map(s->src, 1, &map));
    TRY(tqkv_buffer_unmap(s->src));
    return tqkv_buffer_download(s->src, 0, y, ROWS * DIM * 4);
}

/* The message of whatever handle has one. */
static void take_message(scenario *s)
{
    if (!s->message[0] && s->encoder)
        tqkv_encoder_message(s->encoder, s->message, sizeof s->message);
    if (!s->message[0] && s->registry)
        tqkv_registry_message(s->registry, s->message, sizeof s->message);
    if (!s->message[0] && s->device)
        tqkv_device_message(s->device, s->message, sizeof s->message);
}

static void clear(scenario *s)
{
    tqkv_buffer *buffers[] = {s->src, s->rows, s->out, s->workspace};
    tqkv_graph_free(s->graph);
    for (int i = 0; i < 4; i++)
        tqkv_buffer_free(buffers[i]);
    tqkv_event_free(s->from);
    tqkv_event_free(s->to);
    tqkv_encoder_free(s->encoder);
    tqkv_registry_free(s->registry);
    tqkv_device_free(s->device);
    memset(s, 0, sizeof *s);
}

static void make_folder(char *path)
{
    strcpy(path, "/tmp/tqkv-test-XXXXXX");
    assert_non_null(mkdtemp(path));
}

/* Calls `visit` for each file; removes what is left if visit is null. */
static int each_file(const char *folder, void (*visit)(const char *))
{
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char path[512];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        n++;
        if (visit)
            visit(path);
        else
            unlink(path);
    }
    closedir(d);
    return n;
}

static void remove_folder(const char *folder)
{
    chmod(folder, 0700);
    each_file(folder, NULL);
    rmdir(folder);
}

/* What should come back. */
static void decoded(const float *x, float *y)
{
    tqkv_format f = test_format("tq4", DIM);
    tqkv_rows rows;
    uint8_t *memory = test_encode(&f, NULL, x, ROWS, &rows);
    tqkv_decode(&f, NULL, &rows, ROWS, TQKV_ORIGINAL, y, 0);
    free(memory);
}

static void every_call_fails_once(void **state)
{
    float *x = test_rows(1, ROWS * DIM), y[ROWS * DIM], want[ROWS * DIM];
    (void)state;
    decoded(x, want);
    for (int forever = 0; forever < 2; forever++)
        for (int cached = 0; cached < 2; cached++) {
            char folder[64];
            long n = 1;
            make_folder(folder);
            for (;; n++) {
                scenario s = {0};
                standin_fail(n, forever);
                tqkv_status status = play(&s, cached ? folder : NULL, x, y);
                take_message(&s);
                int has_message = s.message[0] != 0;
                clear(&s);
                if (standin_fail(0, 0) < n) { /* the call that fails was not reached */
                    assert_int_equal(status, TQKV_OK);
                    break;
                }
                /* Failing is allowed to be harmless: a file is not kept, a device is not
                 * listed. But not to be silent. */
                if (status != TQKV_OK)
                    assert_true(has_message);
                else
                    assert_memory_equal(y, want, sizeof want);
                status = play(&s, NULL, x, y); /* the next time it works */
                assert_int_equal(status, TQKV_OK);
                assert_memory_equal(y, want, sizeof want);
                clear(&s);
            }
            assert_true(n > 20);
            remove_folder(folder);
        }
    free(x);
}

static void a_failed_call_leaves_the_handles_usable(void **state)
{
    float *x = test_rows(1, ROWS * DIM), y[ROWS * DIM], want[ROWS * DIM];
    tqkv_format f = test_format("tq4", DIM);
    scenario s = {0};
    (void)state;
    decoded(x, want);
    assert_int_equal(play(&s, NULL, x, y), TQKV_OK);
    tqkv_gpu_rows rows;
    tqkv_gpu_rows_at(&f, s.rows, 0, 0, &rows);
    for (long n = 1; n < 30; n++) {
        standin_fail(n, 0);
        if (tqkv_dispatch_decode(s.encoder, s.registry, &f, NULL, &rows, ROWS, TQKV_ORIGINAL,
                                 s.out, TQKV_F32, 0) == TQKV_OK &&
            tqkv_encoder_submit(s.encoder) == TQKV_OK)
            tqkv_encoder_wait(s.encoder);
        standin_fail(0, 0);
        assert_int_equal(tqkv_dispatch_decode(s.encoder, s.registry, &f, NULL, &rows, ROWS,
                                              TQKV_ORIGINAL, s.out, TQKV_F32, 0), TQKV_OK);
        assert_int_equal(tqkv_encoder_submit(s.encoder), TQKV_OK);
        if (strncmp(gpu_device_name(), "metal", 5)) /* a failed command buffer stays so */
            assert_int_equal(tqkv_encoder_wait(s.encoder), TQKV_OK);
        assert_int_equal(tqkv_buffer_download(s.out, 0, y, sizeof y), TQKV_OK);
        assert_memory_equal(y, want, sizeof want);
    }
    clear(&s);
    free(x);
}

/* What was written to a map that cannot be brought back is not lost. */
static void a_map_outlives_a_failed_unmap(void **state)
{
    tqkv_device *d;
    tqkv_buffer *b;
    uint8_t back[64];
    void *map, *other;
    int failures = 0;
    (void)state;
    assert_int_equal(tqkv_device_open(gpu_device_name(), NULL, &d, NULL, 0), TQKV_OK);
    assert_int_equal(tqkv_buffer_create(d, sizeof back, &b), TQKV_OK);
    assert_int_equal(tqkv_buffer_map(b, 1, &map), TQKV_OK);
    memset(map, 0x5A, sizeof back);
    for (long n = 1;; n++) {
        standin_fail(n, 0);
        tqkv_status status = tqkv_buffer_unmap(b);
        standin_fail(0, 0);
        if (status == TQKV_OK)
            break;
        failures++;
        assert_int_equal(tqkv_buffer_map(b, 1, &other), TQKV_ERROR_STATE);
        assert_int_equal(((uint8_t *)map)[63], 0x5A);
    }
    if (strncmp(gpu_device_name(), "metal", 5)) /* whose uploads are memcpy */
        assert_true(failures > 0);
    assert_int_equal(tqkv_buffer_unmap(b), TQKV_ERROR_STATE);
    assert_int_equal(tqkv_buffer_download(b, 0, back, sizeof back), TQKV_OK);
    for (size_t i = 0; i < sizeof back; i++)
        assert_int_equal(back[i], 0x5A);
    tqkv_buffer_free(b);
    tqkv_device_free(d);
}

/* Contents of b once all is done that was submitted. */
static void contents(tqkv_encoder *e, tqkv_buffer *b, float *y, size_t bytes)
{
    assert_int_equal(tqkv_encoder_wait(e), TQKV_OK);
    assert_int_equal(tqkv_buffer_download(b, 0, y, bytes), TQKV_OK);
}

/* A graph that could not be made is still recorded; after a launch that failed nothing is. */
static void graphs_that_fail(void **state)
{
    enum { N = 64 };
    float x[N], want[N], y[N], z[N];
    tqkv_device *d;
    tqkv_registry *r;
    tqkv_encoder *e;
    tqkv_buffer *src, *dst, *other;
    (void)state;
    if (!strncmp(gpu_device_name(), "metal", 5))
        skip(); /* a failed command buffer stays so */
    for (int i = 0; i < N; i++)
        x[i] = (float)i / 16 - 2;
    tqkv_mlx_requantize(5, x, N, want);
    assert_int_equal(tqkv_device_open(gpu_device_name(), NULL, &d, NULL, 0), TQKV_OK);
    assert_int_equal(tqkv_registry_create(NULL, &r), TQKV_OK);
    assert_int_equal(tqkv_encoder_create(d, NULL, &e), TQKV_OK);
    assert_int_equal(tqkv_buffer_create(d, sizeof x, &src), TQKV_OK);
    assert_int_equal(tqkv_buffer_create(d, sizeof x, &dst), TQKV_OK);
    assert_int_equal(tqkv_buffer_create(d, sizeof x, &other), TQKV_OK);
    assert_int_equal(tqkv_buffer_upload(src, 0, x, sizeof x), TQKV_OK);
    tqkv_graph *graph = NULL;
    assert_int_equal(tqkv_dispatch_requantize(e, r, d, src, dst, N, 5), TQKV_OK);
    for (long n = 1; !graph; n++) {
        standin_fail(n, 0);
        tqkv_status status = tqkv_encoder_finish_graph(e, &graph);
        standin_fail(0, 0);
        assert_true((status == TQKV_OK) == (graph != NULL));
    }
    for (long n = 1, failed = 1; failed; n++) {
        assert_int_equal(tqkv_buffer_upload(other, 0, x, sizeof x), TQKV_OK);
        assert_int_equal(tqkv_dispatch_requantize(e, r, d, other, other, N, 5), TQKV_OK);
        standin_fail(n, 0);
        failed = tqkv_graph_launch(graph, e) != TQKV_OK;
        standin_fail(0, 0);
        contents(e, other, y, sizeof y);
        assert_int_equal(tqkv_encoder_submit(e), TQKV_OK);
        contents(e, other, z, sizeof z);
        assert_memory_equal(y, z, sizeof y);
        assert_memory_equal(failed && !memcmp(y, x, sizeof y) ? x : want, y, sizeof y);
        assert_int_equal(tqkv_buffer_upload(dst, 0, x, sizeof x), TQKV_OK);
        assert_int_equal(tqkv_graph_launch(graph, e), TQKV_OK);
        contents(e, dst, y, sizeof y);
        assert_memory_equal(y, want, sizeof y);
        assert_true(failed || n > 1);
    }
    tqkv_graph_free(graph);
    tqkv_buffer_free(src);
    tqkv_buffer_free(dst);
    tqkv_buffer_free(other);
    tqkv_encoder_free(e);
    tqkv_registry_free(r);
    tqkv_device_free(d);
}

/* Names that do not fit are cut, between characters. */
static void long_names_are_cut(void **state)
{
    tqkv_device_info info;
    (void)state;
    if (!strncmp(gpu_device_name(), "cuda", 4))
        skip(); /* CUDA's driver cuts them */
    for (size_t n = 120; n < 300; n++) {
        char name[304] = "", message[256] = "";
        tqkv_device *d;
        memset(name, 'n', n);
        strcpy(name + n, "\xE2\x82\xAC"); /* the euro sign */
        setenv("TQKV_TEST_NAME", name, 1);
        tqkv_status status =
            tqkv_device_open(gpu_device_name(), NULL, &d, message, sizeof message);
        unsetenv("TQKV_TEST_NAME");
        assert_int_equal(status, TQKV_OK);
        assert_int_equal(tqkv_device_get_info(d, &info), TQKV_OK);
        size_t kept = n + 3 < sizeof info.description ? n + 3
                      : n < sizeof info.description   ? n
                                                      : sizeof info.description - 1;
        name[kept] = 0;
        assert_string_equal(info.description, name);
        tqkv_device_free(d);
    }
}

/* Whether a registry asks the driver for a kernel again is up to how it failed. */
static void kernels_that_cannot_be_had_are_asked_for_once(void **state)
{
    tqkv_device *d;
    const tqkv_pipeline *p;
    char first[4096], again[4096];
    (void)state;
    assert_int_equal(tqkv_device_open(gpu_device_name(), NULL, &d, NULL, 0), TQKV_OK);
    for (long n = 0;; n++) { /* the n-th call fails, and with 0 the source is bad */
        tqkv_registry *r;
        tqkv_registry_create(NULL, &r);
        assert_int_equal(tqkv_registry_register_source(r, "bad", "#error", NULL), TQKV_OK);
        standin_fail(n, 0);
        const char *name = n ? "decode_rows" : "bad";
        tqkv_status status = tqkv_registry_get_pipeline(r, name, "A=1", d, &p);
        tqkv_registry_message(r, first, sizeof first);
        int is_reached = standin_fail(0, 0) >= n;
        tqkv_registry_get_pipeline(r, "nothing of that name", NULL, d, &p); /* another message */
        standin_fail(0, 0);
        tqkv_status second = tqkv_registry_get_pipeline(r, name, "A=1", d, &p);
        if (n == 0)
            assert_int_equal(status, TQKV_ERROR_COMPILE);
        if (status == TQKV_ERROR_COMPILE) {
            assert_int_equal(standin_fail(0, 0), 0);
            assert_int_equal(second, status);
            tqkv_registry_message(r, again, sizeof again);
            assert_string_equal(again, first);
        } else { /* it may have passed */
            assert_int_equal(second, TQKV_OK);
        }
        tqkv_registry_free(r);
        if (!is_reached)
            break;
    }
    tqkv_device_free(d);
}

/* ---- files of compiled kernels ---- */

static void cut(const char *path)
{
    struct stat s;
    stat(path, &s);
    assert_int_equal(truncate(path, s.st_size - 1), 0);
}

static void empty(const char *path)
{
    assert_int_equal(truncate(path, 0), 0);
}

static void flip_at(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fputc(c ^ 0x10, f);
    fclose(f);
}

static void flip_code(const char *path)
{
    flip_at(path, -1);
}

static void flip_size(const char *path)
{
    flip_at(path, 30);
}

static void flip_key(const char *path)
{
    flip_at(path, 12);
}

static void open_to_all(const char *path)
{
    chmod(path, 0666);
}

static void replace_by_link(const char *path)
{
    unlink(path);
    assert_int_equal(symlink("/etc/passwd", path), 0);
}

static void replace_by_folder(const char *path)
{
    unlink(path);
    mkdir(path, 0700);
}

static void remove_entry(const char *path)
{
    if (unlink(path))
        rmdir(path);
}

static void damaged_files_are_made_again(void **state)
{
    static void (*const damages[])(const char *) = {cut,      empty,       flip_code,
                                                    flip_size, flip_key,   open_to_all,
                                                    replace_by_link, replace_by_folder};
    float *x = test_rows(1, ROWS * DIM), y[ROWS * DIM], want[ROWS * DIM];
    (void)state;
    decoded(x, want);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        char folder[64];
        scenario s = {0};
        make_folder(folder);
        assert_int_equal(play(&s, folder, x, y), TQKV_OK);
        clear(&s);
        int n = each_file(folder, damages[i]);
        for (int again = 0; again < 2; again++) {
            memset(y, 0, sizeof y);
            assert_int_equal(play(&s, folder, x, y), TQKV_OK);
            assert_memory_equal(y, want, sizeof want);
            clear(&s);
        }
        if (strncmp(gpu_device_name(), "metal", 5))
            assert_true(n > 0);
        each_file(folder, remove_entry);
        remove_folder(folder);
    }
    free(x);
}

static void folders_that_cannot_be_written(void **state)
{
    float *x = test_rows(1, ROWS * DIM), y[ROWS * DIM];
    char folder[64];
    (void)state;
    make_folder(folder);
    rmdir(folder); /* as root a read-only folder can be written to; one that is not there cannot */
    scenario s = {0};
    assert_int_equal(play(&s, folder, x, y), TQKV_OK);
    if (strncmp(gpu_device_name(), "metal", 5)) {
        tqkv_registry_message(s.registry, s.message, sizeof s.message);
        assert_non_null(strstr(s.message, "could not be kept"));
    }
    clear(&s);
    if (geteuid() != 0) {
        make_folder(folder);
        chmod(folder, 0500);
        assert_int_equal(play(&s, folder, x, y), TQKV_OK);
        clear(&s);
        remove_folder(folder);
    }
    free(x);
}

/* Processes that fill one folder at the same time. */
static void processes_share_a_folder(void **state)
{
    enum { PROCESSES = 4, ROUNDS = 10 };
    float *x = test_rows(1, ROWS * DIM), y[ROWS * DIM];
    char folder[64];
    int failures = 0;
    (void)state;
    make_folder(folder);
    for (int p = 0; p < PROCESSES; p++)
        if (fork() == 0) {
            int bad = 0;
            for (int i = 0; i < ROUNDS; i++) {
                scenario s = {0};
                each_file(folder, i % 3 == p % 3 ? remove_entry : NULL);
                bad |= play(&s, folder, x, y) != TQKV_OK;
                clear(&s);
            }
            _exit(bad);
        }
    for (int p = 0; p < PROCESSES; p++) {
        int status;
        wait(&status);
        failures += status != 0;
    }
    assert_int_equal(failures, 0);
    each_file(folder, remove_entry);
    remove_folder(folder);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_fails_once),
        cmocka_unit_test(a_failed_call_leaves_the_handles_usable),
        cmocka_unit_test(a_map_outlives_a_failed_unmap),
        cmocka_unit_test(graphs_that_fail),
        cmocka_unit_test(long_names_are_cut),
        cmocka_unit_test(kernels_that_cannot_be_had_are_asked_for_once),
        cmocka_unit_test(damaged_files_are_made_again),
        cmocka_unit_test(folders_that_cannot_be_written),
        cmocka_unit_test(processes_share_a_folder),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

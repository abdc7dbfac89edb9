/* What a device does with rows, as shares of the bandwidth of a copy in the same
 * run. Times are the device's own, by events; data is larger than any cache. */
#include "bench_device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "device.h"
#include "json.h"
#include "sample.h"
#include "table.h"

enum { DIM = 128, HEADS = 8, LAYERS = 32, REPEATS = 21, SETS = 2 };

typedef struct bench {
    const device_options *o;
    device d;
    table t;
    tqkv_event *from, *to;
    size_t rows;
    double copy; /* bytes a second, read and written */
    /* Two of each, used in turn: numbers as bf16, rows, results. */
    tqkv_buffer *numbers[SETS], *codes[SETS], *norms[SETS], *results[SETS];
    tqkv_buffer *list; /* of pages: those to read, or jobs */
} bench;

/* One case: records its work, for set i. */
typedef struct job {
    const char *what, *format;
    tqkv_format f;
    tqkv_type type;
    uint32_t bits;
    double bytes;
} job;

typedef tqkv_status (*work)(bench *b, const job *j, int set);

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median_time(double *times, size_t n)
{
    qsort(times, n, sizeof *times, compare_doubles);
    return times[n / 2];
}

/* The median time of a case; negative if it failed. */
static double time_job(bench *b, const job *j, work w)
{
    double times[REPEATS], start = seconds();
    int n = 0;
    /* two to warm up; at least 3, and no more after a second */
    for (int i = -2; i < REPEATS && (i < 3 || seconds() - start < 1); i++) {
        tqkv_encoder *e = b->d.encoder;
        tqkv_status status = tqkv_encoder_record(e, b->from);
        if (status == TQKV_OK)
            status = w(b, j, (i + 2) % SETS);
        if (status == TQKV_OK)
            status = tqkv_encoder_record(e, b->to);
        if (!device_ok(&b->d, j->what, status) || !device_run(&b->d) ||
            !device_ok(&b->d, j->what,
                       tqkv_event_elapsed(b->from, b->to, &times[i < 0 ? 0 : i])))
            return -1;
        n = i < 0 ? 0 : i + 1;
    }
    return median_time(times, (size_t)n);
}

static void report(bench *b, const job *j, double seconds_taken)
{
    double speed = j->bytes / seconds_taken;
    if (b->o->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "what", j->what);
        cJSON_AddStringToObject(object, "format", j->format);
        cJSON_AddStringToObject(object, "device", b->o->device);
        cJSON_AddNumberToObject(object, "us", seconds_taken * 1e6);
        cJSON_AddNumberToObject(object, "bytes", j->bytes);
        cJSON_AddNumberToObject(object, "of_copy", b->copy > 0 ? speed / b->copy : 1);
        json_print_line(object);
        return;
    }
    table_row(&b->t);
    table_cell(&b->t, 0, "%s", j->what);
    table_cell(&b->t, 1, "%s", j->format);
    table_cell(&b->t, 2, "%.2f", seconds_taken * 1e6);
    if (j->bytes > 0) {
        table_cell(&b->t, 3, "%.0f", j->bytes * 1e-6);
        table_cell(&b->t, 4, "%.0f", speed * 1e-9);
        if (b->copy > 0)
            table_cell(&b->t, 5, "%.1f%%", 100 * speed / b->copy);
    }
}

static int measure(bench *b, const job *j, work w)
{
    double taken = time_job(b, j, w);
    if (taken < 0)
        return 0;
    if (!strcmp(j->what, "copy"))
        b->copy = j->bytes / taken;
    report(b, j, taken);
    return 1;
}

/* ---- the cases ---- */

static tqkv_status copy(bench *b, const job *j, int set)
{
    return tqkv_encoder_copy(b->d.encoder, b->results[set], 0, b->results[!set], 0,
                             (size_t)(j->bytes / 2));
}

static tqkv_status dequantize(bench *b, const job *j, int set)
{
    return tqkv_dispatch_dequantize_kv_range(
        b->d.encoder, b->d.registry, b->d.device, b->codes[set], b->norms[set], b->results[set],
        j->type, HEADS, DIM, (uint32_t)(b->rows / HEADS), 0, (uint32_t)(b->rows / HEADS), 1,
        j->bits);
}

static tqkv_status requantize(bench *b, const job *j, int set)
{
    return tqkv_dispatch_requantize(b->d.encoder, b->d.registry, b->d.device, b->results[set],
                                    b->results[!set], b->rows * DIM, j->bits);
}

static tqkv_status gpu_rows(bench *b, const job *j, int set, tqkv_gpu_rows *rows)
{
    size_t code, scale;
    tqkv_format_code_bytes(&j->f, &code);
    tqkv_format_scale_bytes(&j->f, &scale);
    *rows = (tqkv_gpu_rows){.codes = b->codes[set], .scales = b->norms[set],
                            .code_stride = code, .scale_stride = scale};
    return TQKV_OK;
}

static tqkv_status decode_to(bench *b, const job *j, int set, tqkv_domain domain)
{
    tqkv_gpu_rows rows;
    gpu_rows(b, j, set, &rows);
    return tqkv_dispatch_decode(b->d.encoder, b->d.registry, &j->f, NULL, &rows, b->rows, domain,
                                b->results[set], j->type, 0);
}

static tqkv_status decode_rotated(bench *b, const job *j, int set)
{
    return decode_to(b, j, set, TQKV_ROTATED);
}

static tqkv_status decode_original(bench *b, const job *j, int set)
{
    return decode_to(b, j, set, TQKV_ORIGINAL);
}

static tqkv_status encode(bench *b, const job *j, int set)
{
    tqkv_gpu_rows rows;
    gpu_rows(b, j, set, &rows);
    return tqkv_dispatch_encode(b->d.encoder, b->d.registry, &j->f, NULL, b->numbers[set],
                                TQKV_BF16, 0, b->rows, &rows);
}

static tqkv_status one_position(bench *b, const job *j, int set)
{
    (void)j;
    return tqkv_dispatch_dequantize_kv(b->d.encoder, b->d.registry, b->d.device, b->codes[set],
                                       b->norms[set], b->results[set], HEADS, DIM,
                                       (uint32_t)(b->rows / HEADS), 3, 1);
}

/* Pages of keys in one set's codes, of values in the other's; staged ones in numbers. */
static tqkv_status pages_of(bench *b, const job *j, int set, uint32_t n_layers, uint32_t n_pages,
                            tqkv_gpu_pages *p)
{
    tqkv_gpu_operand *operands[] = {&p->keys, &p->values, &p->staged.keys, &p->staged.values};
    tqkv_status status = TQKV_OK;
    *p = (tqkv_gpu_pages){.n_layers = n_layers, .n_kv_heads = HEADS, .n_pages = n_pages,
                          .staged.n_pages = n_pages};
    for (int i = 0; i < 4 && status == TQKV_OK; i++) {
        tqkv_gpu_operand *o = operands[i];
        int at = i % 2 ? !set : set;
        status = i < 2 ? tqkv_gpu_pages_at(&j->f, b->codes[at], 0, HEADS, o)
                       : tqkv_gpu_staged_at(DIM, TQKV_F16, b->numbers[at], 0, HEADS, o);
        o->layer = (tqkv_gpu_strides){n_pages * o->page.codes, n_pages * o->page.scales,
                                      n_pages * o->page.means};
    }
    return status;
}

static tqkv_status seal(bench *b, const job *j, int set)
{
    tqkv_gpu_pages p;
    tqkv_status status = pages_of(b, j, set, LAYERS, 1, &p);
    return status == TQKV_OK
               ? tqkv_dispatch_seal(b->d.encoder, b->d.registry, &p, b->list, NULL, 1)
               : status;
}

/* Pages that as many rows as there are have at most: of 8-bit codes, with their scales. */
static uint32_t pages_to_read(const bench *b)
{
    return (uint32_t)(b->rows / (TQKV_PAGE_TOKENS * HEADS) * 7 / 8);
}

static tqkv_status read_pages(bench *b, const job *j, int set)
{
    tqkv_gpu_pages p;
    uint32_t n = pages_to_read(b);
    size_t half = b->rows * DIM * 2;
    tqkv_buffer *keys = NULL, *values = NULL;
    tqkv_status status = pages_of(b, j, set, 1, n, &p);
    p.staged.n_pages = 0;
    if (status == TQKV_OK)
        status = tqkv_buffer_view(b->results[set], 0, half, &keys);
    if (status == TQKV_OK)
        status = tqkv_buffer_view(b->results[set], half, half, &values);
    if (status == TQKV_OK)
        status = tqkv_dispatch_read(b->d.encoder, b->d.registry, &p, 0, b->list, n, keys, values,
                                    j->type, HEADS * DIM, DIM);
    tqkv_buffer_free(keys);
    tqkv_buffer_free(values);
    return status;
}

/* ---- groups of cases ---- */

static double row_bytes(const tqkv_format *f)
{
    size_t bytes = 0;
    tqkv_format_row_bytes(f, &bytes);
    return (double)bytes;
}

static int bench_reference(bench *b)
{
    static const char *const to[] = {"dequantize to f32", "dequantize to f16"};
    static const char *const names[] = {"mlx4", "mlx8"};
    for (int i = 0; i < 2; i++)
        for (int t = 0; t < 2; t++) {
            job j = {.what = to[t], .format = names[i], .bits = i ? 8 : 4, .type = (tqkv_type)t};
            tqkv_format_parse(names[i], DIM, &j.f);
            j.bytes = (row_bytes(&j.f) + DIM * (t ? 2 : 4)) * (double)b->rows;
            if (!measure(b, &j, dequantize))
                return 0;
        }
    for (int i = 0; i < 2; i++) {
        job j = {.what = "requantize", .format = names[i], .bits = i ? 8 : 4};
        j.bytes = 8.0 * DIM * (double)b->rows;
        if (!measure(b, &j, requantize))
            return 0;
    }
    return 1;
}

static int bench_rows(bench *b)
{
    static const char *const names[] = {"tq2", "tq3", "tq4", "tq6", "tq8", "lm4", "mlx4"};
    for (int i = 0; i < 7; i++) {
        job j = {.format = names[i], .type = TQKV_BF16};
        tqkv_format_parse(names[i], DIM, &j.f);
        double rows = (double)b->rows, codes = row_bytes(&j.f);
        j.what = "encode from bf16";
        j.bytes = rows * (codes + 2 * DIM);
        if (!measure(b, &j, encode))
            return 0;
        j.what = "decode to bf16, rotated";
        if (!measure(b, &j, decode_rotated))
            return 0;
        j.what = "decode to f32, rotated";
        j.type = TQKV_F32;
        j.bytes = rows * (codes + 4 * DIM);
        if (!measure(b, &j, decode_rotated))
            return 0;
        j.what = "decode to bf16";
        j.type = TQKV_BF16;
        j.bytes = rows * (codes + 2 * DIM);
        if (!measure(b, &j, decode_original))
            return 0;
    }
    return 1;
}

/* Reading all pages, keys and values; sealing one of each of all heads of all layers. */
static int bench_pages(bench *b)
{
    static const char *const names[] = {"tq4", "tq8", "tq3", "tq2", "lm4", "mlx4"};
    uint32_t n = pages_to_read(b), job_of_page[4] = {0, 0, ~0u, ~0u};
    if (b->rows < 2 * (size_t)LAYERS * HEADS * TQKV_PAGE_TOKENS)
        return 1; /* no room for what is sealed */
    uint32_t *numbers = allocate(n, sizeof *numbers);
    int ok = numbers != NULL;
    for (uint32_t i = 0; ok && i < n; i++)
        numbers[i] = i;
    for (int i = 0; ok && i < 4; i++) {
        job j = {.what = i % 2 ? "read pages as bf16" : "read pages as f16", .format = names[i / 2],
                 .type = i % 2 ? TQKV_BF16 : TQKV_F16};
        size_t page = 0;
        tqkv_format_parse(j.format, DIM, &j.f);
        tqkv_gpu_page_bytes(&j.f, &page);
        j.bytes = 2.0 * n * HEADS * ((double)page + 2 * TQKV_PAGE_TOKENS * DIM);
        ok = device_ok(&b->d, "upload", tqkv_buffer_upload(b->list, 0, numbers, n * 4)) &&
             measure(b, &j, read_pages);
    }
    free(numbers);
    for (int i = 0; ok && i < 6; i++) {
        job j = {.what = "seal 32 layers, 8 heads", .format = names[i]};
        size_t page = 0;
        tqkv_format_parse(j.format, DIM, &j.f);
        tqkv_gpu_page_bytes(&j.f, &page);
        j.bytes = 2.0 * LAYERS * HEADS * ((double)page + 2 * TQKV_PAGE_TOKENS * DIM);
        ok = device_ok(&b->d, "upload",
                       tqkv_buffer_upload(b->list, 0, job_of_page, sizeof job_of_page)) &&
             measure(b, &j, seal);
    }
    return ok;
}

/* A thousand launches one after the other, of nothing and of one position: from the
 * host's first call to the end. */
static int bench_launches(bench *b)
{
    static const char empty[] =
        "KERNEL2(empty, uint, uchar, a, uchar, c)\n{\n    if (*p == 1 && item == 0)\n"
        "        a[0] = c[0];\n}\n";
    enum { N = 1000 };
    const tqkv_pipeline *pipeline;
    uint32_t groups[3] = {HEADS, 1, 1}, zero = 0;
    tqkv_buffer *buffers[2] = {b->results[0], b->results[1]};
    tqkv_encoder *e = b->d.encoder;
    double taken[3];
    if (tqkv_registry_register_source(b->d.registry, "empty", empty, NULL) != TQKV_OK ||
        tqkv_registry_get_pipeline(b->d.registry, "empty", NULL, b->d.device, &pipeline) !=
            TQKV_OK)
        return 1; /* the host has no compiler */
    job j = {.format = "mlx4"};
    for (int kind = 0; kind < 3; kind++)
        for (int round = 0; round < 5; round++) {
            tqkv_graph *graph = NULL;
            tqkv_status status = TQKV_OK;
            double start = seconds(), end;
            for (int i = 0; i < N && status == TQKV_OK; i++) {
                status = kind ? one_position(b, &j, i % SETS)
                              : tqkv_encoder_dispatch(e, pipeline, buffers, 2, &zero, sizeof zero,
                                                      groups, DIM, 0);
                if (kind < 2 && status == TQKV_OK)
                    status = tqkv_encoder_submit(e);
            }
            if (kind == 2 && status == TQKV_OK) {
                status = tqkv_encoder_finish_graph(e, &graph);
                start = seconds();
                if (status == TQKV_OK)
                    status = tqkv_graph_launch(graph, e);
            }
            int ok = device_ok(&b->d, "launches", status) && device_run(&b->d);
            end = seconds();
            tqkv_graph_free(graph);
            if (!ok)
                return 0;
            if (round == 0 || end - start < taken[kind])
                taken[kind] = end - start;
        }
    static const char *const what[] = {"launch, empty kernel", "launch, one position",
                                       "in a graph, one position"};
    for (int kind = 0; kind < 3; kind++) {
        j.what = what[kind];
        report(b, &j, taken[kind] / N);
    }
    return 1;
}

/* ---- the run ---- */

static int prepare(bench *b)
{
    tqkv_device_info info;
    tqkv_device_get_info(b->d.device, &info);
    b->rows = b->o->rows              ? (size_t)b->o->rows
              : info.memory >> 33 && !strncmp(info.name, "cuda", 4) ? (size_t)4 << 20
                                                                    : (size_t)1 << 8;
    b->rows = (b->rows + 255) & ~(size_t)255;
    size_t n = b->rows * DIM, chunk = (size_t)1 << 16;
    float *x = allocate(chunk, sizeof *x);
    uint16_t *y = allocate(n, sizeof *y);
    uint64_t seed = 1;
    int ok = x && y;
    if (ok)
        sample_gaussian(&seed, x, chunk);
    for (size_t i = 0; ok && i < n; i += chunk) /* pieces that begin elsewhere */
        tqkv_from_f32(x, n - i < chunk ? n - i : chunk, y + i, TQKV_BF16);
    for (int i = 0; ok && i < SETS; i++) {
        b->numbers[i] = device_buffer(&b->d, y, n * 2);
        b->codes[i] = device_buffer(&b->d, NULL, n);
        b->norms[i] = device_buffer(&b->d, NULL, b->rows * 4);
        b->results[i] = device_buffer(&b->d, NULL, n * 4);
        ok = b->numbers[i] && b->codes[i] && b->norms[i] && b->results[i] &&
             device_ok(&b->d, "upload", tqkv_buffer_upload(b->codes[i], 0, y, n)) &&
             device_ok(&b->d, "upload", tqkv_buffer_upload(b->norms[i], 0, y, b->rows * 4));
    }
    free(x);
    free(y);
    b->list = ok ? device_buffer(&b->d, NULL, b->rows) : NULL;
    return b->list && device_ok(&b->d, "event", tqkv_event_create(b->d.device, &b->from)) &&
           device_ok(&b->d, "event", tqkv_event_create(b->d.device, &b->to));
}

static void release(bench *b)
{
    for (int i = 0; i < SETS; i++) {
        tqkv_buffer_free(b->numbers[i]);
        tqkv_buffer_free(b->codes[i]);
        tqkv_buffer_free(b->norms[i]);
        tqkv_buffer_free(b->results[i]);
    }
    tqkv_buffer_free(b->list);
    tqkv_event_free(b->from);
    tqkv_event_free(b->to);
    device_close(&b->d);
}

static int run(bench *b)
{
    job c = {.what = "copy", .format = "", .bytes = 8.0 * DIM * (double)b->rows};
    return measure(b, &c, copy) && bench_reference(b) && bench_rows(b) &&
           bench_pages(b) && bench_launches(b);
}

int bench_device(const device_options *o)
{
    static const char *const columns[] = {"what", "format, shape", "us", "MB", "GB/s", "of copy"};
    bench b = {.o = o};
    if (!device_open(&b.d, o->device, o->cuda_module))
        return EXIT_FAILED;
    table_start(&b.t, columns, 6);
    int ok = prepare(&b) && run(&b);
    if (o->json || !ok)
        b.t.n_rows = 0;
    ok = table_finish(&b.t) && ok;
    release(&b);
    return ok ? EXIT_OK : EXIT_FAILED;
}

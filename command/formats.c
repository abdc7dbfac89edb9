#include <getopt.h>
#include <stdlib.h>

#include "command.h"
#include "json.h"
#include "sample.h"
#include "table.h"

static const char help[] =
    "usage: tqkv formats [OPTION]... [FORMAT]...\n"
    "\n"
    "Lists formats (or only those named) with the size of a row and the mean squared\n"
    "error of a whole row of N(0,1) values.\n"
    "\n"
    "  -d, --head-dim N   values in a row (default 128)\n"
    "  -n, --samples N    values to measure with (default 1048576)\n"
    "      --json         one JSON object a line\n"
    "  -h, --help         this text\n";

static const char *const all_formats[] = {
    "tq2", "tq3", "tq4", "tq5",  "tq6",  "tq7",  "tq8",
    "lm2", "lm3", "lm4", "mlx4", "mlx5", "mlx6", "mlx8"};
enum { N_FORMATS = sizeof all_formats / sizeof *all_formats };

typedef struct options {
    uint64_t head_dim, samples;
    int json;
} options;

/* Mean squared error over rows of unit variance; negative: no memory. */
static double measure(const tqkv_format *format, uint64_t samples)
{
    enum { ROWS = 64 };
    size_t n = (size_t)ROWS * format->head_dim, row_bytes;
    uint64_t state = 1, done = 0;
    double error = 0;
    tqkv_rows rows;
    tqkv_format_row_bytes(format, &row_bytes);
    float *x = allocate(n, sizeof *x), *y = allocate(n, sizeof *y);
    void *bytes = allocate(ROWS, row_bytes);
    if (!x || !y || !bytes)
        error = -1;
    while (error >= 0 && done < samples) {
        sample_gaussian(&state, x, n);
        tqkv_rows_at(format, bytes, 0, &rows);
        tqkv_encode(format, NULL, x, TQKV_F32, 0, ROWS, &rows);
        tqkv_decode(format, NULL, &rows, ROWS, TQKV_ORIGINAL, y, 0);
        for (size_t i = 0; i < n; i++)
            error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        done += n;
    }
    free(x);
    free(y);
    free(bytes);
    return error < 0 ? error : error / (double)done;
}

static void report(const tqkv_format *f, double mse, int json, table *t)
{
    char name[TQKV_FORMAT_NAME_SIZE];
    size_t row_bytes;
    tqkv_format_name(f, name, sizeof name);
    tqkv_format_row_bytes(f, &row_bytes);
    if (json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "format", name);
        cJSON_AddNumberToObject(object, "bits", f->bits);
        cJSON_AddNumberToObject(object, "head_dim", f->head_dim);
        cJSON_AddNumberToObject(object, "row_bytes", (double)row_bytes);
        cJSON_AddNumberToObject(object, "mse", mse);
        json_print_line(object);
        return;
    }
    table_row(t);
    table_cell(t, 0, "%s", name);
    table_cell(t, 1, "%u", (unsigned)f->bits);
    table_cell(t, 2, "%u", (unsigned)f->head_dim);
    table_cell(t, 3, "%zu", row_bytes);
    table_cell(t, 4, "%.2fx", 2.0 * f->head_dim / (double)row_bytes);
    table_cell(t, 5, "%.6f", mse);
}

static int run(const options *o, const char *const *names, int n_names, int all)
{
    static const char *const columns[] = {"format", "bits", "head_dim", "row bytes",
                                          "f16 / row", "mse of N(0,1)"};
    table t;
    int result = EXIT_OK;
    table_start(&t, columns, 6);
    for (int i = 0; i < n_names && result == EXIT_OK; i++) {
        tqkv_format format;
        tqkv_status status = tqkv_format_parse(names[i], (uint32_t)o->head_dim, &format);
        if (status == TQKV_ERROR_HEAD_DIM_POWER && all)
            continue; /* this head_dim has no mlx formats */
        if (status != TQKV_OK) {
            result = misused("%s with head_dim %u: %s", names[i], (unsigned)o->head_dim,
                             tqkv_status_string(status));
            break;
        }
        progress("measuring", (uint64_t)i, (uint64_t)n_names);
        double mse = measure(&format, o->samples);
        if (mse < 0)
            result = EXIT_FAILED;
        else
            report(&format, mse, o->json, &t);
    }
    progress_end();
    if (o->json || result != EXIT_OK)
        t.n_rows = 0;
    if (!table_finish(&t) && result == EXIT_OK)
        result = EXIT_FAILED;
    return result;
}

int command_formats(int argc, char **argv)
{
    static const struct option names[] = {
        {"head-dim", required_argument, NULL, 'd'}, {"samples", required_argument, NULL, 'n'},
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
    options o = {.head_dim = 128, .samples = 1 << 20};
    int option;
    while ((option = getopt_long(argc, argv, "d:n:h", names, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return EXIT_OK;
        }
        if (option == 'j')
            o.json = 1;
        else if (option == '?')
            return misused_option("formats", argv);
        else if (!parse_number(optarg, option == 'd' ? 65535 : 1u << 30,
                               option == 'd' ? &o.head_dim : &o.samples))
            return misused("%s %s: a whole number is expected",
                           option == 'd' ? "--head-dim" : "--samples", optarg);
    }
    if (!o.samples)
        return misused("--samples 0: at least 1 is expected");
    if (optind < argc)
        return run(&o, (const char *const *)argv + optind, argc - optind, 0);
    return run(&o, all_formats, N_FORMATS, 1);
}

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "json.h"
#include "table.h"
#include "tqkv_gpu.h"

static const char help[] =
    "usage: tqkv devices [--json]\n"
    "       tqkv devices --source cuda|opencl|metal\n"
    "\n"
    "Lists devices for --device: GPUs whose drivers are installed, and \"host\", which\n"
    "runs the same kernels on the processor. --source prints the kernels instead, to\n"
    "compile them beforehand.\n";

static int print_source(const char *language)
{
    const char *prelude, *kernels;
    if (tqkv_kernel_source(language, &prelude, &kernels) != TQKV_OK)
        return misused("--source %s: cuda, opencl or metal is expected", language);
    fputs(prelude, stdout);
    fputs(kernels, stdout);
    return EXIT_OK;
}

static void print_json(const tqkv_device_info *i)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "device", i->name);
    cJSON_AddStringToObject(object, "description", i->description);
    cJSON_AddStringToObject(object, "driver", i->driver);
    cJSON_AddNumberToObject(object, "memory", (double)i->memory);
    cJSON_AddNumberToObject(object, "max_buffer", (double)i->max_buffer);
    cJSON_AddNumberToObject(object, "units", i->n_units);
    json_print_line(object);
}

static int list(int json)
{
    static const char *const columns[] = {"device", "memory", "units", "driver", "description"};
    size_t n = 0, got;
    table t;
    tqkv_device_list(NULL, 0, &n);
    tqkv_device_info *infos = allocate(n, sizeof *infos);
    if (!infos)
        return EXIT_FAILED;
    tqkv_device_list(infos, n, &got);
    n = got < n ? got : n;
    table_start(&t, columns, 5);
    for (size_t i = 0; i < n; i++) {
        if (json) {
            print_json(&infos[i]);
            continue;
        }
        table_row(&t);
        table_cell(&t, 0, "%s", infos[i].name);
        table_cell(&t, 1, "%.1f GiB", (double)infos[i].memory / (1 << 30));
        table_cell(&t, 2, "%u", infos[i].n_units);
        table_cell(&t, 3, "%.23s", infos[i].driver);
        table_cell(&t, 4, "%.23s", infos[i].description);
    }
    if (json)
        t.n_rows = 0;
    int ok = table_finish(&t);
    free(infos);
    return ok ? EXIT_OK : EXIT_FAILED;
}

int command_devices(int argc, char **argv)
{
    static const struct option names[] = {{"json", no_argument, NULL, 'j'},
                                          {"source", required_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'}, {0}};
    int option, json = 0;
    while ((option = getopt_long(argc, argv, "h", names, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return EXIT_OK;
        }
        if (option == 's')
            return print_source(optarg);
        if (option != 'j')
            return misused_option("devices", argv);
        json = 1;
    }
    if (optind < argc)
        return misused("devices takes no arguments; see 'tqkv devices --help'");
    return list(json);
}

#include "gpu/cuda/nvrtc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/cuda/api.h"

static const char *const libraries[] = {"libnvrtc.so",    "libnvrtc.so.13", "libnvrtc.so.12",
                                        "libnvrtc.so.11.2", NULL};

#define NAME(symbol, member, parameters) symbol,
static const char *const names[] = {NVRTC_FUNCTIONS(NAME)};
#undef NAME

enum { MAX_OPTIONS = 64 };

/* "A=1 B=2" as -DA=1, -DB=2, behind what always holds: nothing is contracted, so
 * that results are the codec's. */
typedef struct options {
    const char *list[MAX_OPTIONS];
    int n;
    char *text;
} options;

static int options_init(options *o, int major, int minor, const char *macros)
{
    size_t length = strlen(macros), n_macros = 1;
    for (const char *c = macros; *c; c++)
        n_macros += *c == ' ';
    o->n = 0;
    o->text = malloc(64 + length + 4 * n_macros);
    if (!o->text || n_macros > MAX_OPTIONS - 4)
        return 0;
    char *at = o->text;
    o->list[o->n++] = "--fmad=false";
    o->list[o->n++] = "--std=c++14";
    o->list[o->n++] = at;
    at += sprintf(at, "--gpu-architecture=sm_%d%d", major, minor) + 1;
    for (const char *macro; (macro = next_macro(&macros, &length));) {
        o->list[o->n++] = at;
        at += sprintf(at, "-D%.*s", (int)length, macro) + 1;
    }
    return 1;
}

static void report_log(const nvrtc_api *api, nvrtcProgram made, const program *p, report *r)
{
    size_t size = 0;
    char *log = NULL;
    if (api->log_size(made, &size) == 0 && size)
        log = calloc(1, size + 1);
    if (log && api->log(made, log) == 0)
        report_error(r, TQKV_ERROR_COMPILE, "%s: does not compile: %s", p->name, log);
    else
        report_error(r, TQKV_ERROR_COMPILE, "%s: does not compile", p->name);
    free(log);
}

static tqkv_status take_cubin(const nvrtc_api *api, nvrtcProgram made, const program *p,
                              binary *code, report *r)
{
    size_t size = 0;
    if (api->cubin_size(made, &size) != 0 || size == 0)
        return report_error(r, TQKV_ERROR_COMPILE, "%s: NVRTC gives no machine code", p->name);
    char *data = malloc(size);
    if (!data)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    if (api->cubin(made, data) != 0) {
        free(data);
        return report_error(r, TQKV_ERROR_COMPILE, "%s: NVRTC gives no machine code", p->name);
    }
    *code = (binary){data, size};
    return TQKV_OK;
}

tqkv_status nvrtc_compile(int major, int minor, const program *p, binary *code, report *r)
{
    nvrtc_api api;
    const char *missing;
    options o;
    nvrtcProgram made = NULL;
    if (!driver_open(libraries, names, (void **)&api, sizeof api / sizeof(void *), &missing))
        return report_error(r, TQKV_ERROR_NO_DEVICE,
                            "%s: cannot be compiled: NVRTC (%s) is missing", p->name, missing);
    const char *prelude = builtin_prelude("cuda");
    size_t size = strlen(prelude) + strlen(p->text) + 1;
    char *text = malloc(size);
    int ok = options_init(&o, major, minor, p->options) && text;
    if (ok)
        snprintf(text, size, "%s%s", prelude, p->text);
    tqkv_status status = ok ? TQKV_OK : report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    if (ok && api.create(&made, text, p->name, 0, NULL, NULL) != 0)
        status = report_error(r, TQKV_ERROR_COMPILE, "%s: NVRTC does not take the source",
                              p->name);
    nvrtcResult result = status == TQKV_OK ? api.compile(made, o.n, o.list) : 0;
    if (result == NVRTC_ERROR_OUT_OF_MEMORY) {
        status = report_error(r, TQKV_ERROR_MEMORY, "%s: NVRTC is out of memory", p->name);
    } else if (result != 0) {
        report_log(&api, made, p, r);
        status = TQKV_ERROR_COMPILE;
    }
    if (status == TQKV_OK)
        status = take_cubin(&api, made, p, code, r);
    if (made)
        api.destroy(&made);
    free(o.text);
    free(text);
    return status;
}

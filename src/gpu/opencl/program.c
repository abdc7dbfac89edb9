#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/opencl/opencl.h"

/* What always holds, then "A=1 B=2" as -D A=1 -D B=2. */
static char *build_options(const opencl_device *c, const char *macros)
{
    size_t n_macros = 1, length;
    for (const char *m = macros; *m; m++)
        n_macros += *m == ' ';
    size_t size = 64 + strlen(macros) + 4 * n_macros;
    char *text = malloc(size);
    if (!text)
        return NULL;
    size_t at = (size_t)snprintf(text, size, "-cl-std=CL1.2%s",
                                 c->rounds_divisions ? " -cl-fp32-correctly-rounded-divide-sqrt"
                                                     : "");
    for (const char *macro; (macro = next_macro(&macros, &length));)
        at += (size_t)snprintf(text + at, size - at, " -D %.*s", (int)length, macro);
    return text;
}

static void report_log(const opencl_device *c, cl_program made, const program *p, report *r)
{
    size_t size = 0;
    char *log = NULL;
    if (c->api.build_info(made, c->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &size) == CL_SUCCESS)
        log = calloc(1, size + 1);
    if (log && c->api.build_info(made, c->device, CL_PROGRAM_BUILD_LOG, size, log, NULL) ==
                   CL_SUCCESS)
        report_error(r, TQKV_ERROR_COMPILE, "%s: does not compile: %s", p->name, log);
    else
        report_error(r, TQKV_ERROR_COMPILE, "%s: does not compile", p->name);
    free(log);
}

/* Takes over the program, also on failure. */
static tqkv_status make_kernel(const opencl_device *c, cl_program made, const char *name,
                               void **kernel, report *r)
{
    cl_int result = CL_SUCCESS;
    opencl_kernel *k = calloc(1, sizeof *k);
    if (!k) {
        c->api.release_program(made);
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    }
    k->program = made;
    k->kernel = c->api.create_kernel(made, name, &result);
    if (result != CL_SUCCESS) {
        c->api.release_program(made);
        free(k);
        return opencl_failed(result, name, r);
    }
    pthread_mutex_init(&k->mutex, NULL);
    *kernel = k;
    return TQKV_OK;
}

/* The code to keep; that there is none is no error. */
static void take_binary(const opencl_device *c, cl_program made, binary *code)
{
    size_t size = 0;
    if (c->api.program_info(made, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL) !=
            CL_SUCCESS || size == 0)
        return;
    unsigned char *data = malloc(size);
    if (!data)
        return;
    if (c->api.program_info(made, CL_PROGRAM_BINARIES, sizeof data, &data, NULL) == CL_SUCCESS)
        *code = (binary){data, size};
    else
        free(data);
}

static tqkv_status build(const opencl_device *c, cl_program made, const program *p, report *r)
{
    char *options = build_options(c, p->options);
    if (!options)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    cl_int result = c->api.build(made, 1, &c->device, options, NULL, NULL);
    free(options);
    if (result == CL_SUCCESS)
        return TQKV_OK;
    if (result == CL_OUT_OF_HOST_MEMORY || result == CL_OUT_OF_RESOURCES)
        return opencl_failed(result, p->name, r);
    report_log(c, made, p, r);
    return TQKV_ERROR_COMPILE;
}

tqkv_status opencl_compile(tqkv_device *d, const program *p, void **kernel, binary *code,
                           report *r)
{
    const opencl_device *c = d->state;
    const char *texts[2] = {builtin_prelude("opencl"), p->text};
    cl_int result = CL_SUCCESS;
    cl_program made = c->api.create_program(c->context, 2, texts, NULL, &result);
    if (result != CL_SUCCESS)
        return opencl_failed(result, p->name, r);
    tqkv_status status = build(c, made, p, r);
    if (status != TQKV_OK) {
        c->api.release_program(made);
        return status;
    }
    take_binary(c, made, code);
    return make_kernel(c, made, p->name, kernel, r);
}

tqkv_status opencl_load(tqkv_device *d, const char *name, const void *data, size_t size,
                        void **kernel, report *r)
{
    const opencl_device *c = d->state;
    const unsigned char *bytes = data;
    cl_int result = CL_SUCCESS, state = CL_SUCCESS;
    cl_program made = c->api.create_from_binary(c->context, 1, &c->device, &size, &bytes, &state,
                                                &result);
    if (result != CL_SUCCESS)
        return opencl_failed(result, name, r);
    if (state == CL_SUCCESS)
        state = c->api.build(made, 1, &c->device, "", NULL, NULL);
    if (state != CL_SUCCESS) {
        c->api.release_program(made);
        return opencl_failed(state, name, r);
    }
    return make_kernel(c, made, name, kernel, r);
}

void opencl_unload(tqkv_device *d, void *kernel)
{
    const opencl_device *c = d->state;
    opencl_kernel *k = kernel;
    c->api.release_kernel(k->kernel);
    c->api.release_program(k->program);
    pthread_mutex_destroy(&k->mutex);
    free(k);
}

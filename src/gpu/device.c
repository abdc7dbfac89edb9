#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu.h"

static const backend *const backends[] = {&backend_cuda, &backend_metal, &backend_opencl,
                                          &backend_host};
enum { N_BACKENDS = sizeof backends / sizeof *backends };

tqkv_status tqkv_device_list(tqkv_device_info *infos, size_t max, size_t *n)
{
    if (!n || (max && !infos))
        return TQKV_ERROR_ARGUMENT;
    *n = 0;
    for (int i = 0; i < N_BACKENDS; i++)
        backends[i]->list(infos, max, n);
    return TQKV_OK;
}

/* "cuda:0", "opencl:1.0": the backend, and up to two numbers. */
static const backend *parse_name(const char *name, unsigned *numbers)
{
    for (int i = 0; i < N_BACKENDS; i++) {
        size_t length = strlen(backends[i]->kind);
        char rest;
        if (strncmp(name, backends[i]->kind, length))
            continue;
        name += length;
        numbers[0] = numbers[1] = 0;
        if (!*name)
            return backends[i];
        int matched = backends[i]->n_numbers == 2
                          ? sscanf(name, ":%5u.%5u%c", &numbers[0], &numbers[1], &rest) == 2
                          : sscanf(name, ":%5u%c", &numbers[0], &rest) == 1;
        return matched && backends[i]->n_numbers ? backends[i] : NULL;
    }
    return NULL;
}

tqkv_status tqkv_device_open(const char *name, void *native, tqkv_device **device, char *message,
                             size_t size)
{
    unsigned numbers[2];
    if (!name || !device)
        return TQKV_ERROR_ARGUMENT;
    tqkv_device *d = calloc(1, sizeof *d);
    if (!d)
        return TQKV_ERROR_MEMORY;
    handle_init(&d->handle, HANDLE_DEVICE);
    report_init(&d->report);
    d->backend = parse_name(name, numbers);
    tqkv_status status =
        d->backend ? d->backend->open(d, numbers, native, &d->report)
                   : report_error(&d->report, TQKV_ERROR_NO_DEVICE,
                                  "'%.40s' is no device: cuda:N, opencl:N.N, metal:N or host is "
                                  "expected", name);
    if (status == TQKV_OK) {
        *device = d;
        return status;
    }
    if (message && size)
        report_copy(&d->report, message, size);
    report_destroy(&d->report);
    free(d);
    return status;
}

void device_drop(tqkv_device *d)
{
    if (!handle_drop(&d->handle))
        return;
    d->backend->close(d);
    report_destroy(&d->report);
    free(d);
}

void tqkv_device_free(tqkv_device *d)
{
    if (handle_free(d, HANDLE_DEVICE))
        device_drop(d);
}

tqkv_status tqkv_device_get_info(const tqkv_device *d, tqkv_device_info *info)
{
    tqkv_status status = handle_check(d, HANDLE_DEVICE);
    if (status == TQKV_OK && !info)
        status = device_failed(d, TQKV_ERROR_ARGUMENT, "nowhere to put what is asked for");
    if (status == TQKV_OK)
        *info = d->info;
    return status;
}

tqkv_status tqkv_device_message(const tqkv_device *d, char *message, size_t size)
{
    tqkv_status status = handle_check(d, HANDLE_DEVICE);
    return status == TQKV_OK ? report_copy(&d->report, message, size) : status;
}

tqkv_status device_failed(const tqkv_device *d, tqkv_status status, const char *format, ...)
{
    char text[REPORT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return report_error((report *)&d->report, status, "%s", text);
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu.h"

/* A registered kernel that is not built in. */
typedef struct source {
    struct source *next;
    tqkv_host_kernel host;
    char *text;
    char name[];
} source;

/* A kernel that cannot be had: without a compiler, or of a source that does not compile, it
 * never can, and asking again would take the time of a compilation at every dispatch. Other
 * failures may pass, out of memory and errors of the driver: those are tried again. */
typedef struct failure {
    struct failure *next;
    const char *name; /* as a pipeline's */
    tqkv_device *device;
    tqkv_status status;
    char *message, *options;
} failure;

struct tqkv_registry {
    handle handle;
    pthread_mutex_t mutex; /* over all below */
    source *sources;
    tqkv_pipeline *pipelines;
    failure *failures;
    char *cache_folder;
    void *cuda_module;
    size_t cuda_module_size;
    report report;
};

tqkv_status tqkv_registry_create(const tqkv_registry_config *config, tqkv_registry **registry)
{
    if (!registry || (config && config->cuda_module_size && !config->cuda_module))
        return TQKV_ERROR_ARGUMENT;
    tqkv_registry *r = calloc(1, sizeof *r);
    if (!r)
        return TQKV_ERROR_MEMORY;
    if (config && config->cache_folder)
        r->cache_folder = strdup(config->cache_folder);
    if (config && config->cuda_module_size) {
        /* one more, so that PTX ends in a zero byte */
        r->cuda_module = calloc(1, config->cuda_module_size + 1);
        r->cuda_module_size = config->cuda_module_size;
    }
    if (config && ((config->cache_folder && !r->cache_folder) ||
                   (config->cuda_module_size && !r->cuda_module))) {
        free(r->cache_folder);
        free(r->cuda_module);
        free(r);
        return TQKV_ERROR_MEMORY;
    }
    if (r->cuda_module)
        memcpy(r->cuda_module, config->cuda_module, config->cuda_module_size);
    handle_init(&r->handle, HANDLE_REGISTRY);
    pthread_mutex_init(&r->mutex, NULL);
    report_init(&r->report);
    *registry = r;
    return TQKV_OK;
}

void registry_keep(tqkv_registry *r)
{
    handle_keep(&r->handle);
}

static void failure_free(failure *f)
{
    free(f->message);
    free(f->options);
    free(f);
}

void registry_drop(tqkv_registry *r)
{
    if (!handle_drop(&r->handle))
        return;
    while (r->pipelines) {
        tqkv_pipeline *p = r->pipelines;
        r->pipelines = p->next;
        p->device->backend->unload(p->device, p->kernel);
        device_drop(p->device);
        free(p->options);
        free(p);
    }
    while (r->failures) {
        failure *f = r->failures;
        r->failures = f->next;
        device_drop(f->device);
        failure_free(f);
    }
    while (r->sources) {
        source *s = r->sources;
        r->sources = s->next;
        free(s->text);
        free(s);
    }
    pthread_mutex_destroy(&r->mutex);
    report_destroy(&r->report);
    free(r->cache_folder);
    free(r->cuda_module);
    free(r);
}

void tqkv_registry_free(tqkv_registry *r)
{
    if (handle_free(r, HANDLE_REGISTRY))
        registry_drop(r);
}

tqkv_status tqkv_registry_message(const tqkv_registry *r, char *message, size_t size)
{
    tqkv_status status = handle_check(r, HANDLE_REGISTRY);
    return status == TQKV_OK ? report_copy(&r->report, message, size) : status;
}

static source *find_source(const tqkv_registry *r, const char *name)
{
    source *s = r->sources;
    while (s && strcmp(s->name, name))
        s = s->next;
    return s;
}

tqkv_status tqkv_registry_register_source(tqkv_registry *r, const char *name, const char *text,
                                          tqkv_host_kernel host)
{
    tqkv_status status = handle_check(r, HANDLE_REGISTRY);
    if (status != TQKV_OK)
        return status;
    if (!name || !*name || !text)
        return report_error(&r->report, TQKV_ERROR_ARGUMENT, "a kernel without name or source");
    size_t length = strlen(name) + 1;
    source *s = malloc(sizeof *s + length);
    char *copy = strdup(text);
    pthread_mutex_lock(&r->mutex);
    if (!s || !copy) {
        status = report_error(&r->report, TQKV_ERROR_MEMORY, "out of host memory");
    } else if (builtin_text(name) || find_source(r, name)) {
        status = report_error(&r->report, TQKV_ERROR_STATE, "%s: is registered already", name);
    } else {
        memcpy(s->name, name, length);
        s->text = copy;
        s->host = host;
        s->next = r->sources;
        r->sources = s;
    }
    pthread_mutex_unlock(&r->mutex);
    if (status != TQKV_OK) {
        free(s);
        free(copy);
    }
    return status;
}

/* ---- pipelines ---- */

/* From the folder, else by the compiler, else from the module that was given. */
static tqkv_status make_kernel(tqkv_registry *r, tqkv_device *d, const program *p, void **kernel,
                               int *has_options)
{
    *has_options = *p->options != 0;
    const backend *b = d->backend;
    binary code = {0};
    cache_key key = {0};
    if (r->cache_folder && b->load) {
        key = cache_key_of(d, p);
        if (cache_file_read(r->cache_folder, key, &code)) {
            tqkv_status status = b->load(d, p->name, code.data, code.size, kernel, NULL);
            free(code.data);
            if (status == TQKV_OK)
                return status;
            code = (binary){0};
        }
    }
    tqkv_status status = b->compile(d, p, kernel, &code, &r->report);
    /* The module has the kernels without options, which are only for speed. */
    if (status == TQKV_ERROR_NO_DEVICE && b->takes_module && r->cuda_module &&
        !builtin_is_special(p->name)) {
        *has_options = 0;
        status = b->load(d, p->name, r->cuda_module, r->cuda_module_size, kernel, &r->report);
    }
    if (status == TQKV_OK && code.data && r->cache_folder)
        cache_file_write(r->cache_folder, key, &code, &r->report);
    free(code.data);
    return status;
}

static tqkv_status add_pipeline(tqkv_registry *r, const program *p, const char *name,
                                tqkv_device *d, const tqkv_pipeline **pipeline)
{
    tqkv_pipeline *made = calloc(1, sizeof *made);
    char *options = strdup(p->options);
    tqkv_status status = made && options
                             ? make_kernel(r, d, p, &made->kernel, &made->has_options)
                             : report_error(&r->report, TQKV_ERROR_MEMORY, "out of host memory");
    if (status != TQKV_OK) {
        free(options);
        free(made);
        return status;
    }
    made->registry = r;
    made->name = name;
    made->options = options;
    made->device = d;
    handle_keep(&d->handle);
    made->next = r->pipelines;
    r->pipelines = made;
    *pipeline = made;
    return TQKV_OK;
}

/* Keeps the device, whose address another one could have later. */
static void remember_failure(tqkv_registry *r, const program *p, const char *name, tqkv_device *d,
                             tqkv_status status)
{
    char text[REPORT_SIZE];
    if (status != TQKV_ERROR_NO_DEVICE && status != TQKV_ERROR_COMPILE)
        return;
    failure *f = calloc(1, sizeof *f);
    if (!f)
        return;
    report_copy(&r->report, text, sizeof text);
    f->message = strdup(text);
    f->options = strdup(p->options);
    if (!f->message || !f->options) {
        failure_free(f);
        return;
    }
    f->name = name;
    f->device = d;
    f->status = status;
    handle_keep(&d->handle);
    f->next = r->failures;
    r->failures = f;
}

static tqkv_status get_pipeline(tqkv_registry *r, const char *name, const char *options,
                                tqkv_device *d, const tqkv_pipeline **pipeline)
{
    for (tqkv_pipeline *p = r->pipelines; p; p = p->next)
        if (p->device == d && !strcmp(p->name, name) && !strcmp(p->options, options)) {
            *pipeline = p;
            return TQKV_OK;
        }
    for (const failure *f = r->failures; f; f = f->next)
        if (f->device == d && !strcmp(f->name, name) && !strcmp(f->options, options))
            return report_error(&r->report, f->status, "%s", f->message);
    const source *s = find_source(r, name);
    program p = {name, s ? s->text : builtin_text(name), options,
                 s ? s->host : builtin_host_kernel(name)};
    if (!p.text)
        return report_error(&r->report, TQKV_ERROR_ARGUMENT, "no kernel '%.64s' is registered",
                            name);
    const char *kept_name = s ? s->name : builtin_name(name);
    tqkv_status status = add_pipeline(r, &p, kept_name, d, pipeline);
    remember_failure(r, &p, kept_name, d, status);
    return status;
}

tqkv_status registry_find(tqkv_registry *r, const char *name, const char *options,
                          tqkv_device *d, const tqkv_pipeline **pipeline)
{
    tqkv_status status = handle_check(r, HANDLE_REGISTRY);
    if (status != TQKV_OK)
        return status;
    pthread_mutex_lock(&r->mutex);
    status = get_pipeline(r, name, options, d, pipeline);
    pthread_mutex_unlock(&r->mutex);
    return status;
}

tqkv_status tqkv_registry_get_pipeline(tqkv_registry *r, const char *name, const char *options,
                                       tqkv_device *d, const tqkv_pipeline **pipeline)
{
    tqkv_status status = handle_check(r, HANDLE_REGISTRY);
    if (status != TQKV_OK)
        return status;
    status = handle_check(d, HANDLE_DEVICE);
    if (status != TQKV_OK)
        return report_error(&r->report, status, "the device is null or freed");
    if (!name || !pipeline)
        return report_error(&r->report, TQKV_ERROR_ARGUMENT,
                            "a kernel without name, or nowhere to put it");
    return registry_find(r, name, options ? options : "", d, pipeline);
}

#include "device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "command.h"

/* The folder for compiled kernels, made if it is missing; null if there is none. */
static const char *cache_folder(char *path, size_t size)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length = base && *base == '/' ? snprintf(path, size, "%s", base)
                 : home && *home      ? snprintf(path, size, "%s/.cache", home)
                                      : -1;
    if (length < 0 || (size_t)length + sizeof "/tqkv" > size)
        return NULL;
    mkdir(path, 0700);
    memcpy(path + length, "/tqkv", sizeof "/tqkv");
    return mkdir(path, 0700) == 0 || errno == EEXIST ? path : NULL;
}

int device_open(device *d, const char *name, const char *cuda_module)
{
    char message[4096] = "", path[4096];
    tqkv_registry_config config = {.cache_folder = cache_folder(path, sizeof path)};
    uint8_t *module = NULL;
    memset(d, 0, sizeof *d);
    if (cuda_module && !file_load(cuda_module, &module, &config.cuda_module_size))
        return 0;
    config.cuda_module = module;
    tqkv_status status = tqkv_device_open(name, NULL, &d->device, message, sizeof message);
    if (status == TQKV_OK)
        status = tqkv_registry_create(&config, &d->registry);
    if (status == TQKV_OK)
        status = tqkv_encoder_create(d->device, NULL, &d->encoder);
    free(module);
    if (status == TQKV_OK)
        return 1;
    failed("%s", *message ? message : tqkv_status_string(status));
    device_close(d);
    return 0;
}

void device_close(device *d)
{
    tqkv_encoder_free(d->encoder);
    tqkv_registry_free(d->registry);
    tqkv_device_free(d->device);
}

int device_ok(const device *d, const char *what, tqkv_status status)
{
    char message[4096] = "";
    if (status == TQKV_OK)
        return 1;
    tqkv_encoder_message(d->encoder, message, sizeof message);
    if (!*message)
        tqkv_device_message(d->device, message, sizeof message);
    failed("%s: %s", what, *message ? message : tqkv_status_string(status));
    return 0;
}

tqkv_buffer *device_buffer(const device *d, const void *data, size_t bytes)
{
    tqkv_buffer *b = NULL;
    if (!device_ok(d, "device memory", tqkv_buffer_create(d->device, bytes, &b)))
        return NULL;
    if (data && !device_ok(d, "upload", tqkv_buffer_upload(b, 0, data, bytes))) {
        tqkv_buffer_free(b);
        return NULL;
    }
    return b;
}

int device_run(const device *d)
{
    return device_ok(d, "device", tqkv_encoder_submit(d->encoder)) &&
           device_ok(d, "device", tqkv_encoder_wait(d->encoder));
}

#include <stdlib.h>

#include "common/checked.h"
#include "gpu/gpu.h"

tqkv_status buffer_check(const tqkv_buffer *b, const tqkv_device *d)
{
    tqkv_status status = handle_check(b, HANDLE_BUFFER);
    return status == TQKV_OK && b->device != d ? TQKV_ERROR_ARGUMENT : status;
}

static tqkv_buffer *buffer_new(tqkv_device *d, size_t bytes)
{
    tqkv_buffer *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    handle_init(&b->handle, HANDLE_BUFFER);
    handle_keep(&d->handle);
    b->device = d;
    b->bytes = bytes;
    return b;
}

static tqkv_status check_new(tqkv_device *d, size_t bytes, tqkv_buffer **buffer)
{
    tqkv_status status = handle_check(d, HANDLE_DEVICE);
    if (status != TQKV_OK)
        return status;
    return buffer && bytes ? TQKV_OK
                           : device_failed(d, TQKV_ERROR_ARGUMENT,
                                           "a buffer of no bytes, or nowhere to put it");
}

tqkv_status tqkv_buffer_create(tqkv_device *d, size_t bytes, tqkv_buffer **buffer)
{
    tqkv_status status = check_new(d, bytes, buffer);
    if (status != TQKV_OK)
        return status;
    if (d->info.max_buffer && bytes > d->info.max_buffer)
        return device_failed(d, TQKV_ERROR_MEMORY, "%zu bytes are more than %s has", bytes,
                             d->info.name);
    tqkv_buffer *b = buffer_new(d, bytes);
    if (!b)
        return device_failed(d, TQKV_ERROR_MEMORY, "out of host memory");
    status = d->backend->allocate(d, bytes, &b->memory, &d->report);
    b->is_owner = status == TQKV_OK;
    if (status == TQKV_OK)
        *buffer = b;
    else
        buffer_drop(b);
    return status;
}

tqkv_status tqkv_buffer_wrap(tqkv_device *d, void *native, size_t bytes, tqkv_buffer **buffer)
{
    tqkv_status status = check_new(d, bytes, buffer);
    if (status != TQKV_OK)
        return status;
    if (!native)
        return device_failed(d, TQKV_ERROR_ARGUMENT, "the memory to wrap is null");
    /* a cl_mem or id<MTLBuffer> is a pointer as well, if to something else */
    if (bytes > PTRDIFF_MAX || (uintptr_t)native > UINTPTR_MAX - bytes)
        return device_failed(d, TQKV_ERROR_OVERFLOW,
                             "%zu bytes go beyond the end of the address space", bytes);
    tqkv_buffer *b = buffer_new(d, bytes);
    if (!b)
        return device_failed(d, TQKV_ERROR_MEMORY, "out of host memory");
    b->memory = native;
    *buffer = b;
    return TQKV_OK;
}

tqkv_status tqkv_buffer_view(tqkv_buffer *buffer, size_t offset, size_t bytes, tqkv_buffer **view)
{
    tqkv_status status = handle_check(buffer, HANDLE_BUFFER);
    if (status != TQKV_OK)
        return status;
    if (!view || !bytes)
        return device_failed(buffer->device, TQKV_ERROR_ARGUMENT,
                             "a view of no bytes, or nowhere to put it");
    if (offset > buffer->bytes || bytes > buffer->bytes - offset)
        return device_failed(buffer->device, TQKV_ERROR_BUFFER,
                             "a view of %zu bytes at %zu does not fit a buffer of %zu", bytes,
                             offset, buffer->bytes);
    tqkv_buffer *b = buffer_new(buffer->device, bytes);
    if (!b)
        return device_failed(buffer->device, TQKV_ERROR_MEMORY, "out of host memory");
    handle_keep(&buffer->handle);
    b->parent = buffer;
    b->memory = buffer->memory;
    b->offset = buffer->offset + offset;
    *view = b;
    return TQKV_OK;
}

void buffer_drop(tqkv_buffer *b)
{
    if (!handle_drop(&b->handle))
        return;
    if (b->is_owner)
        b->device->backend->release(b->device, b->memory);
    if (b->parent)
        buffer_drop(b->parent);
    device_drop(b->device);
    free(b->map);
    free(b);
}

void tqkv_buffer_free(tqkv_buffer *b)
{
    if (handle_free(b, HANDLE_BUFFER))
        buffer_drop(b);
}

size_t tqkv_buffer_size(const tqkv_buffer *b)
{
    return handle_check(b, HANDLE_BUFFER) == TQKV_OK ? b->bytes : 0;
}

static tqkv_status check_range(const tqkv_buffer *b, size_t offset, const void *memory,
                               size_t bytes)
{
    tqkv_status status = handle_check(b, HANDLE_BUFFER);
    if (status != TQKV_OK)
        return status;
    if (!memory && bytes)
        return device_failed(b->device, TQKV_ERROR_ARGUMENT, "the host memory is null");
    if (offset > b->bytes || bytes > b->bytes - offset)
        return device_failed(b->device, TQKV_ERROR_BUFFER,
                             "%zu bytes at %zu do not fit a buffer of %zu", bytes, offset,
                             b->bytes);
    return TQKV_OK;
}

tqkv_status tqkv_buffer_upload(tqkv_buffer *b, size_t offset, const void *src, size_t bytes)
{
    tqkv_status status = check_range(b, offset, src, bytes);
    if (status != TQKV_OK || bytes == 0)
        return status;
    return b->device->backend->upload(b->device, b->memory, b->offset + offset, src, bytes,
                                      &b->device->report);
}

tqkv_status tqkv_buffer_download(tqkv_buffer *b, size_t offset, void *dst, size_t bytes)
{
    tqkv_status status = check_range(b, offset, dst, bytes);
    if (status != TQKV_OK || bytes == 0)
        return status;
    return b->device->backend->download(b->device, b->memory, b->offset + offset, dst, bytes,
                                        &b->device->report);
}

tqkv_status tqkv_buffer_map(tqkv_buffer *b, int will_write, void **memory)
{
    tqkv_status status = handle_check(b, HANDLE_BUFFER);
    if (status != TQKV_OK)
        return status;
    if (!memory)
        return device_failed(b->device, TQKV_ERROR_ARGUMENT, "nowhere to put the map's address");
    if (b->map)
        return device_failed(b->device, TQKV_ERROR_STATE, "the buffer is mapped already");
    void *map = malloc(b->bytes);
    if (!map)
        return device_failed(b->device, TQKV_ERROR_MEMORY, "out of host memory");
    status = tqkv_buffer_download(b, 0, map, b->bytes);
    if (status != TQKV_OK) {
        free(map);
        return status;
    }
    b->map = *memory = map;
    b->map_writes = will_write;
    return TQKV_OK;
}

tqkv_status tqkv_buffer_unmap(tqkv_buffer *b)
{
    tqkv_status status = handle_check(b, HANDLE_BUFFER);
    if (status != TQKV_OK)
        return status;
    if (!b->map)
        return device_failed(b->device, TQKV_ERROR_STATE, "the buffer is not mapped");
    if (b->map_writes)
        status = tqkv_buffer_upload(b, 0, b->map, b->bytes);
    if (status != TQKV_OK)
        return status;
    free(b->map);
    b->map = NULL;
    return TQKV_OK;
}

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "gpu/gpu.h"

void report_init(report *r)
{
    pthread_mutex_init(&r->mutex, NULL);
    r->text[0] = 0;
}

void report_destroy(report *r)
{
    pthread_mutex_destroy(&r->mutex);
}

tqkv_status report_error(report *r, tqkv_status status, const char *format, ...)
{
    if (!r)
        return status;
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&r->mutex);
    vsnprintf(r->text, sizeof r->text, format, arguments);
    pthread_mutex_unlock(&r->mutex);
    va_end(arguments);
    return status;
}

tqkv_status report_copy(const report *r, char *message, size_t size)
{
    report *mutable = (report *)r;
    if (!message || size == 0)
        return TQKV_ERROR_ARGUMENT;
    pthread_mutex_lock(&mutable->mutex);
    snprintf(message, size, "%s", r->text);
    pthread_mutex_unlock(&mutable->mutex);
    return TQKV_OK;
}

void text_copy(char *to, size_t size, const char *from)
{
    size_t n = strlen(from);
    if (n >= size)
        for (n = size - 1; n && ((unsigned char)from[n] & 0xC0) == 0x80;)
            n--;
    memcpy(to, from, n);
    to[n] = 0;
}

void handle_init(handle *h, unsigned kind)
{
    atomic_init(&h->kind, kind);
    atomic_init(&h->users, 1);
}

tqkv_status handle_check(const void *p, unsigned kind)
{
    const handle *h = p;
    if (!h)
        return TQKV_ERROR_ARGUMENT;
    return atomic_load(&h->kind) == kind ? TQKV_OK : TQKV_ERROR_STATE;
}

int handle_free(void *p, unsigned kind)
{
    handle *h = p;
    return h && atomic_compare_exchange_strong(&h->kind, &kind, HANDLE_FREED);
}

void handle_keep(handle *h)
{
    atomic_fetch_add(&h->users, 1);
}

int handle_drop(handle *h)
{
    return atomic_fetch_sub(&h->users, 1) == 1;
}

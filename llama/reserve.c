#include "reserve.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };

static size_t unit(void)
{
    static size_t bytes;
    if (!bytes)
        bytes = (size_t)sysconf(_SC_PAGESIZE);
    return bytes;
}

/* Huge pages would back much more than is written. */
static void *map(size_t bytes, int protection)
{
    void *base = mmap(NULL, bytes, protection, FLAGS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    madvise(base, bytes, MADV_NOHUGEPAGE);
    return base;
}

void *reserve_memory(size_t bytes)
{
    return map(bytes, PROT_READ | PROT_WRITE);
}

void *reserve_addresses(size_t bytes)
{
    return map(bytes, PROT_NONE);
}

void reserve_free(void *base, size_t bytes)
{
    if (base)
        munmap(base, bytes);
}

int reserve_open(void *from, size_t bytes)
{
    uintptr_t mask = unit() - 1, a = (uintptr_t)from & ~mask;
    uintptr_t b = ((uintptr_t)from + bytes + mask) & ~mask;
    return mprotect((void *)a, b - a, PROT_READ | PROT_WRITE) == 0;
}

/* The whole pages of the system within a range; their bytes. */
static size_t whole(void *from, size_t bytes, void **first)
{
    uintptr_t mask = unit() - 1, a = ((uintptr_t)from + mask) & ~mask;
    uintptr_t b = ((uintptr_t)from + bytes) & ~mask;
    *first = (void *)a;
    return b > a ? b - a : 0;
}

void reserve_close(void *from, size_t bytes)
{
    void *first;
    size_t n = whole(from, bytes, &first);
    if (!n)
        return;
    madvise(first, n, MADV_DONTNEED);
    mprotect(first, n, PROT_NONE);
}

void reserve_zero(void *from, size_t bytes)
{
    void *first;
    size_t n = whole(from, bytes, &first), before = (size_t)((uint8_t *)first - (uint8_t *)from);
    if (!n) {
        memset(from, 0, bytes);
        return;
    }
    memset(from, 0, before);
    memset((uint8_t *)first + n, 0, bytes - before - n);
    madvise(first, n, MADV_DONTNEED);
}

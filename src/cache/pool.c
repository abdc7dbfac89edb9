#include <string.h>

#include <sys/mman.h>

#include "cache/cache.h"
#include "common/checked.h"

/* Systems' pages are of this size or divide it. */
enum { SYSTEM_PAGE = 65536 };

static size_t whole_system_pages(size_t bytes)
{
    return (bytes + SYSTEM_PAGE - 1) & ~(size_t)(SYSTEM_PAGE - 1);
}

/* Bytes that n pages of a part still need. */
static size_t missing_bytes(const page_memory *m, uint32_t n)
{
    size_t needed = whole_system_pages(n * m->page_bytes);
    return needed > m->mapped_bytes ? needed - m->mapped_bytes : 0;
}

/* Makes the addresses of a part's first n pages memory; 0 if there is none. */
static int map_part(tqkv_cache *c, page_memory *m, uint32_t n)
{
    size_t more = missing_bytes(m, n);
    if (!more)
        return 1;
    if (!cache_count(c, more))
        return 0;
    if (mprotect(m->base + m->mapped_bytes, more, PROT_READ | PROT_WRITE)) {
        cache_uncount(c, more);
        return 0;
    }
    m->mapped_bytes += more;
    return 1;
}

/* A part that has become memory while the other could not stays; it is counted. */
static int make_pages(tqkv_cache *c, page_pool *p, uint32_t n)
{
    for (int part = 0; part < N_PAGE_PARTS; part++)
        if (!map_part(c, &p->part[part], n))
            return 0;
    while (p->n_made < n)
        p->free[p->n_free++] = p->n_made++;
    return 1;
}

static size_t reserved_bytes(const page_pool *p, page_part part)
{
    return whole_system_pages(p->n_pages * p->part[part].page_bytes);
}

static tqkv_status reserve(page_pool *p, page_part part, size_t page_bytes, int is_up_front)
{
    size_t bytes;
    p->part[part].page_bytes = page_bytes;
    if (!size_multiply(p->n_pages, page_bytes, &bytes) || bytes > PTRDIFF_MAX - SYSTEM_PAGE)
        return TQKV_ERROR_OVERFLOW;
    if (!bytes)
        return TQKV_OK;
    void *memory = mmap(NULL, reserved_bytes(p, part), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return TQKV_ERROR_MEMORY;
    p->part[part].base = memory;
#ifdef MADV_HUGEPAGE
    if (is_up_front) /* fewer misses of address translation; a wish that may fail */
        madvise(memory, reserved_bytes(p, part), MADV_HUGEPAGE);
#else
    (void)is_up_front;
#endif
    return TQKV_OK;
}

tqkv_status pool_create(tqkv_cache *c, page_pool *p, size_t body, size_t means, uint32_t n_pages,
                        uint32_t up_front)
{
    p->n_pages = n_pages;
    p->free = cache_allocate(c, n_pages, sizeof *p->free);
    p->users = cache_allocate(c, n_pages, sizeof *p->users);
    if (!p->free || !p->users)
        return TQKV_ERROR_MEMORY;
    tqkv_status status = reserve(p, BODY, body, up_front > 0);
    if (status == TQKV_OK)
        status = reserve(p, MEANS, means, up_front > 0);
    if (status != TQKV_OK || !up_front)
        return status;
    if (!make_pages(c, p, up_front))
        return TQKV_ERROR_MEMORY;
    for (int part = 0; part < N_PAGE_PARTS; part++) /* now, not when a page is full */
        if (p->part[part].base)
            memset(p->part[part].base, 0, p->part[part].mapped_bytes);
    return TQKV_OK;
}

void pool_free(tqkv_cache *c, page_pool *p)
{
    for (int part = 0; part < N_PAGE_PARTS; part++) {
        if (p->part[part].base)
            munmap(p->part[part].base, reserved_bytes(p, (page_part)part));
        cache_uncount(c, p->part[part].mapped_bytes);
    }
    cache_release(c, p->free, p->n_pages, sizeof *p->free);
    cache_release(c, p->users, p->n_pages, sizeof *p->users);
}

int pool_has(tqkv_cache *c, page_pool *p, size_t n)
{
    size_t there = p->n_free - p->n_reserved, missing = n > there ? n - there : 0;
    return missing <= p->n_pages - p->n_made &&
           (!missing || make_pages(c, p, p->n_made + (uint32_t)missing));
}

uint32_t pool_take(page_pool *p)
{
    uint32_t page = p->free[--p->n_free];
    p->users[page] = 1;
    return page;
}

void pool_share(page_pool *p, uint32_t page)
{
    p->users[page]++;
}

void pool_drop(page_pool *p, uint32_t page)
{
    if (--p->users[page] == 0)
        p->free[p->n_free++] = page;
}

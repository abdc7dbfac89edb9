#include <string.h>

#include <sys/mman.h>

#include "cache/cache.h"
#include "common/checked.h"

/* Systems' pages are of this size or divide it. */
enum { SYSTEM_PAGE = 65536 };

/* Makes addresses up to n pages memory; 0 if there is none. */
static int make_pages(tqkv_cache *c, page_pool *p, uint32_t n)
{
    size_t needed = (n * p->page_bytes + SYSTEM_PAGE - 1) & ~(size_t)(SYSTEM_PAGE - 1);
    if (needed > p->mapped_bytes) {
        size_t more = needed - p->mapped_bytes;
        if (!cache_count(c, more))
            return 0;
        if (mprotect(p->memory + p->mapped_bytes, more, PROT_READ | PROT_WRITE)) {
            cache_uncount(c, more);
            return 0;
        }
        p->mapped_bytes = needed;
    }
    while (p->n_made < n)
        p->free[p->n_free++] = p->n_made++;
    return 1;
}

static size_t reserved_bytes(const page_pool *p)
{
    return (p->n_pages * p->page_bytes + SYSTEM_PAGE - 1) & ~(size_t)(SYSTEM_PAGE - 1);
}

tqkv_status pool_create(tqkv_cache *c, page_pool *p, size_t page_bytes, uint32_t n_pages,
                        int up_front)
{
    size_t bytes;
    p->page_bytes = page_bytes;
    p->n_pages = n_pages;
    if (!size_multiply(n_pages, page_bytes, &bytes) || bytes > PTRDIFF_MAX - SYSTEM_PAGE)
        return TQKV_ERROR_OVERFLOW;
    p->free = cache_allocate(c, n_pages, sizeof *p->free);
    p->users = cache_allocate(c, n_pages, sizeof *p->users);
    if (!p->free || !p->users)
        return TQKV_ERROR_MEMORY;
    void *memory = mmap(NULL, reserved_bytes(p), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return TQKV_ERROR_MEMORY;
    p->memory = memory;
#ifdef MADV_HUGEPAGE
    if (up_front) /* fewer misses of address translation; a wish that may fail */
        madvise(p->memory, reserved_bytes(p), MADV_HUGEPAGE);
#endif
    if (up_front) {
        if (!make_pages(c, p, n_pages))
            return TQKV_ERROR_MEMORY;
        memset(p->memory, 0, p->mapped_bytes); /* now, not when a page is full */
    }
    return TQKV_OK;
}

void pool_free(tqkv_cache *c, page_pool *p)
{
    if (p->memory)
        munmap(p->memory, reserved_bytes(p));
    cache_uncount(c, p->mapped_bytes);
    cache_release(c, p->free, p->n_pages, sizeof *p->free);
    cache_release(c, p->users, p->n_pages, sizeof *p->users);
}

int pool_has(tqkv_cache *c, page_pool *p, size_t n)
{
    size_t missing = n > p->n_free ? n - p->n_free : 0;
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

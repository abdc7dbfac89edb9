#include "gpu/host/items.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif

#ifdef HAS_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_BYTES = 128 << 10 };

typedef struct call {
    tqkv_host_kernel kernel;
    const uint32_t *group;
    uint32_t n_items;
    uint8_t *local_memory;
    const void *params;
    void *const *buffers;
} call;

struct item_stacks {
    uint32_t n_items, current;
    uint8_t *stacks;
    ucontext_t scheduler, *items;
    uint8_t *is_done;
    call call;
    const void *scheduler_stack; /* for the sanitizer */
    size_t scheduler_size;
};

/* Items never move between threads. */
static _Thread_local item_stacks *running;

static void item_main(void);

static void make_item(ucontext_t *item, void *stack)
{
    getcontext(item);
    item->uc_stack.ss_sp = stack;
    item->uc_stack.ss_size = STACK_BYTES;
    item->uc_link = NULL;
    makecontext(item, item_main, 0);
}

item_stacks *item_stacks_create(uint32_t n_items)
{
    item_stacks *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->n_items = n_items;
    s->items = calloc(n_items, sizeof *s->items);
    s->is_done = calloc(n_items, 1);
    s->stacks = mmap(NULL, (size_t)n_items * STACK_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->stacks == MAP_FAILED)
        s->stacks = NULL;
    if (!s->items || !s->is_done || !s->stacks) {
        item_stacks_free(s);
        return NULL;
    }
    for (uint32_t i = 0; i < n_items; i++)
        make_item(&s->items[i], s->stacks + (size_t)i * STACK_BYTES);
    return s;
}

void item_stacks_free(item_stacks *s)
{
    if (!s)
        return;
    if (s->stacks)
        munmap(s->stacks, (size_t)s->n_items * STACK_BYTES);
    free(s->items);
    free(s->is_done);
    free(s);
}

static void to_item(item_stacks *s, uint32_t i)
{
    s->current = i;
#ifdef HAS_ASAN
    void *fake = NULL;
    __sanitizer_start_switch_fiber(&fake, s->stacks + (size_t)i * STACK_BYTES, STACK_BYTES);
#endif
    swapcontext(&s->scheduler, &s->items[i]);
#ifdef HAS_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
}

static void to_scheduler(item_stacks *s)
{
    uint32_t i = s->current;
#ifdef HAS_ASAN
    void *fake = NULL;
    __sanitizer_start_switch_fiber(&fake, s->scheduler_stack, s->scheduler_size);
#endif
    swapcontext(&s->items[i], &s->scheduler);
#ifdef HAS_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
}

void items_barrier(void)
{
    to_scheduler(running);
}

static void item_main(void)
{
    item_stacks *s = running;
    uint32_t i = s->current;
#ifdef HAS_ASAN
    __sanitizer_finish_switch_fiber(NULL, &s->scheduler_stack, &s->scheduler_size);
#endif
    for (;;) { /* a group after the other */
        s->call.kernel(s->call.group, i, s->call.n_items, s->call.local_memory, s->call.params,
                       s->call.buffers);
        s->is_done[i] = 1;
        to_scheduler(s);
    }
}

void items_run(item_stacks *s, tqkv_host_kernel kernel, const uint32_t *group, uint32_t n_items,
               uint8_t *local_memory, const void *params, void *const *buffers)
{
    s->call = (call){kernel, group, n_items, local_memory, params, buffers};
    running = s;
    memset(s->is_done, 0, n_items);
    /* From barrier to barrier. */
    for (uint32_t left = n_items; left;)
        for (uint32_t i = 0; i < n_items; i++)
            if (!s->is_done[i]) {
                to_item(s, i);
                left -= s->is_done[i];
            }
    running = NULL;
}

/* Work items of a group on one thread, each with a stack of its own, so that they
 * meet at barriers as on a device. */
#ifndef TQKV_GPU_HOST_ITEMS_H
#define TQKV_GPU_HOST_ITEMS_H

#include <stddef.h>
#include <stdint.h>

#include "tqkv_gpu.h"

/* Waits for the other items of the group; only inside items_run. */
void items_barrier(void);

typedef struct item_stacks item_stacks;

/* Stacks for n_items; null if there is no memory. */
item_stacks *item_stacks_create(uint32_t n_items);
void item_stacks_free(item_stacks *s);

/* Runs all items of one group to their ends. */
void items_run(item_stacks *s, tqkv_host_kernel kernel, const uint32_t *group, uint32_t n_items,
               uint8_t *local_memory, const void *params, void *const *buffers);

#endif

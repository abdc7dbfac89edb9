#include "standin.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long calls, fail_at;
static int fails_forever;

long standin_fail(long first, int forever)
{
    pthread_mutex_lock(&mutex);
    long were = calls;
    calls = 0;
    fail_at = first;
    fails_forever = forever;
    pthread_mutex_unlock(&mutex);
    return were;
}

int standin_call(void)
{
    pthread_mutex_lock(&mutex);
    calls++;
    int fails = fail_at && (fails_forever ? calls >= fail_at : calls == fail_at);
    pthread_mutex_unlock(&mutex);
    return fails;
}

const host_kernel *standin_kernel(const char *name)
{
    for (const host_kernel *k = host_kernels; k->name; k++)
        if (!strcmp(k->name, name))
            return k;
    return NULL;
}

void standin_run(const standin_launch *l)
{
    if (l->emulate) {
        void *arguments[TQKV_MAX_BUFFERS + 1];
        for (int i = 0; i < TQKV_MAX_BUFFERS; i++)
            arguments[i] = (void *)&l->buffers[i];
        arguments[STANDIN_EMULATED_BUFFERS] = (void *)l->params;
        l->emulate(l->groups[0], l->n_items, arguments);
        return;
    }
    item_stacks *stacks = item_stacks_create(l->n_items);
    uint8_t *local = aligned_alloc(16, (l->local_bytes + 16 + 15) & ~15u);
    for (uint32_t z = 0; z < l->groups[2]; z++)
        for (uint32_t y = 0; y < l->groups[1]; y++)
            for (uint32_t x = 0; x < l->groups[0]; x++) {
                uint32_t group[3] = {x, y, z};
                items_run(stacks, l->kernel->run, group, l->n_items, local, l->params,
                          l->buffers);
            }
    free(local);
    item_stacks_free(stacks);
}

double standin_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

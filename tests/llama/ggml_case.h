/* ggml's scheduler with and without tqkv, for tests. */
#ifndef TQKV_TEST_GGML_CASE_H
#define TQKV_TEST_GGML_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <ggml-backend.h>
#include <ggml.h>

/* Loads the CPU's backend and tqkv, wherever this ggml has its own. */
static inline int load_backends(void)
{
    const char *folder = getenv("TQKV_TEST_GGML");
    if (!ggml_backend_reg_by_name("tqkv")) {
        if (folder)
            ggml_backend_load_all_from_path(folder);
        else
            ggml_backend_load_all();
    }
    return ggml_backend_reg_by_name("tqkv") != NULL;
}

static inline double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

/* About N(0,1). */
static inline float random_normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += random_unit(state);
    return (float)(sum - 6);
}

typedef void (*set_threads_function)(ggml_backend_t, int);

static inline void set_threads(ggml_backend_t b, int n)
{
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(b));
    set_threads_function set;
    void *found = ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    memcpy(&set, &found, sizeof set);
    assert_non_null(found);
    set(b, n);
}

#endif

#include "bench_ggml.h"

#include <dlfcn.h>
#include <string.h>

#include "command.h"

static void *open_library(const char *folder, const char *name)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return NULL;
    return dlopen(path, RTLD_NOW | RTLD_GLOBAL);
}

/* A function's address as bytes: C has no cast for it. */
static int find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

int ggml_peer_open(ggml_peer *p, const char *folder)
{
    memset(p, 0, sizeof *p);
    p->base = open_library(folder, "libggml-base.so");
    p->cpu = p->base ? open_library(folder, "libggml-cpu.so") : NULL;
    if (!p->cpu) {
        failed("%s: no usable libggml-base.so and libggml-cpu.so: %s", folder, dlerror());
        return 0;
    }
    struct {
        void *library;
        const char *name;
        void *function;
    } graphs[] = {{p->base, "ggml_init", &p->init},
                  {p->base, "ggml_free", &p->free},
                  {p->base, "ggml_new_tensor_4d", &p->new_tensor_4d},
                  {p->base, "ggml_get_data", &p->get_data},
                  {p->base, "ggml_quantize_chunk", &p->quantize_chunk},
                  {p->base, "ggml_flash_attn_ext", &p->flash_attn_ext},
                  {p->base, "ggml_new_graph", &p->new_graph},
                  {p->base, "ggml_build_forward_expand", &p->build_forward_expand},
                  {p->cpu, "ggml_graph_compute_with_ctx", &p->compute}};
    int found = 1;
    for (size_t i = 0; i < sizeof graphs / sizeof *graphs; i++)
        found &= find(graphs[i].library, graphs[i].name, graphs[i].function);
    if (found && find(p->cpu, "quantize_row_q4_0", &p->quantize_q4_0) &&
        find(p->cpu, "quantize_row_iq4_nl", &p->quantize_iq4_nl) &&
        find(p->base, "quantize_iq4_nl", &p->search_iq4_nl) &&
        find(p->base, "dequantize_row_q4_0", &p->dequantize_q4_0))
        return 1;
    failed("%s: this ggml lacks a function: %s", folder, dlerror());
    return 0;
}

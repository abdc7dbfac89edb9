/* Sizes, offsets and numbers of ggml_abi.h against ggml's own headers. The
 * backend checks at run time what it can; this is for the rest. */
#include <stdio.h>

#include <ggml.h>
#include <ggml-backend-impl.h>
#include <ggml-impl.h>

#include "ggml_abi.h"

static int failures;

static void same(const char *what, size_t ours, size_t ggmls)
{
    if (ours == ggmls)
        return;
    printf("%s: %zu here, %zu in ggml\n", what, ours, ggmls);
    failures++;
}

#define SIZE(ours, ggmls) same(#ours, sizeof(ours), sizeof(struct ggmls))
#define FIELD(ours, field, ggmls, theirs)                                                      \
    same(#ours "." #field, offsetof(ours, field), offsetof(struct ggmls, theirs))
#define NUMBER(ours, ggmls) same(#ours, (size_t)(ours), (size_t)(ggmls))

static void check_tensor(void)
{
    SIZE(gg_tensor, ggml_tensor);
    FIELD(gg_tensor, buffer, ggml_tensor, buffer);
    FIELD(gg_tensor, ne, ggml_tensor, ne);
    FIELD(gg_tensor, nb, ggml_tensor, nb);
    FIELD(gg_tensor, op, ggml_tensor, op);
    FIELD(gg_tensor, op_params, ggml_tensor, op_params);
    FIELD(gg_tensor, src, ggml_tensor, src);
    FIELD(gg_tensor, view_src, ggml_tensor, view_src);
    FIELD(gg_tensor, view_offs, ggml_tensor, view_offs);
    FIELD(gg_tensor, data, ggml_tensor, data);
    FIELD(gg_tensor, name, ggml_tensor, name);
    FIELD(gg_tensor, extra, ggml_tensor, extra);
    SIZE(gg_custom_params, ggml_custom_op_params);
    FIELD(gg_custom_params, n_tasks, ggml_custom_op_params, n_tasks);
    FIELD(gg_custom_params, context, ggml_custom_op_params, userdata);
}

static void check_backend(void)
{
    SIZE(struct gg_buffer_type, ggml_backend_buffer_type);
    FIELD(struct gg_buffer_type, iface.alloc_buffer, ggml_backend_buffer_type, iface.alloc_buffer);
    FIELD(struct gg_buffer_type, iface.get_alloc_size, ggml_backend_buffer_type,
          iface.get_alloc_size);
    FIELD(struct gg_buffer_type, iface.is_host, ggml_backend_buffer_type, iface.is_host);
    FIELD(struct gg_buffer_type, device, ggml_backend_buffer_type, device);
    SIZE(gg_buffer_iface, ggml_backend_buffer_i);
    FIELD(gg_buffer_iface, init_tensor, ggml_backend_buffer_i, init_tensor);
    FIELD(gg_buffer_iface, get_tensor, ggml_backend_buffer_i, get_tensor);
    FIELD(gg_buffer_iface, cpy_tensor, ggml_backend_buffer_i, cpy_tensor);
    FIELD(gg_buffer_iface, reset, ggml_backend_buffer_i, reset);
    SIZE(struct gg_buffer, ggml_backend_buffer);
    FIELD(struct gg_buffer, context, ggml_backend_buffer, context);
    FIELD(struct gg_buffer, size, ggml_backend_buffer, size);
    FIELD(struct gg_buffer, type, ggml_backend_buffer, buft);
    FIELD(struct gg_buffer, usage, ggml_backend_buffer, usage);
    SIZE(struct gg_backend, ggml_backend);
    FIELD(struct gg_backend, iface.synchronize, ggml_backend, iface.synchronize);
    FIELD(struct gg_backend, iface.graph_compute, ggml_backend, iface.graph_compute);
    FIELD(struct gg_backend, iface.graph_optimize, ggml_backend, iface.graph_optimize);
    FIELD(struct gg_backend, device, ggml_backend, device);
    SIZE(struct gg_device, ggml_backend_device);
    FIELD(struct gg_device, iface.init_backend, ggml_backend_device, iface.init_backend);
    FIELD(struct gg_device, iface.supports_op, ggml_backend_device, iface.supports_op);
    FIELD(struct gg_device, iface.supports_buft, ggml_backend_device, iface.supports_buft);
    FIELD(struct gg_device, reg, ggml_backend_device, reg);
    SIZE(struct gg_reg, ggml_backend_reg);
    FIELD(struct gg_reg, iface.get_proc_address, ggml_backend_reg, iface.get_proc_address);
}

static void check_numbers(void)
{
    NUMBER(GG_API_VERSION, GGML_BACKEND_API_VERSION);
    NUMBER(GG_MAX_SRC, GGML_MAX_SRC);
    NUMBER(GG_ALL_TASKS, GGML_N_TASKS_MAX);
    NUMBER(GG_BF16, GGML_TYPE_BF16);
    NUMBER(GG_I64, GGML_TYPE_I64);
    NUMBER(GG_DEVICE_CPU, GGML_BACKEND_DEVICE_TYPE_CPU);
    NUMBER(GG_STATUS_FAILED, GGML_STATUS_FAILED);
    NUMBER(GG_USAGE_WEIGHTS, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    NUMBER(GG_LOG_INFO, GGML_LOG_LEVEL_INFO);
    NUMBER(GG_LOG_ERROR, GGML_LOG_LEVEL_ERROR);
}

int main(void)
{
    check_tensor();
    check_backend();
    check_numbers();
    return failures > 0;
}

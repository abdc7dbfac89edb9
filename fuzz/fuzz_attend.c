/* Attention over arbitrary bytes as rows, in arbitrary shapes: no read beyond the
 * rows, nothing but finite numbers. The first bytes choose the shape. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attend.h"

static const char *const names[] = {"tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8", "lm2",
                                    "lm3", "lm4", "mlx4", "mlx5", "mlx6", "mlx8", "tq4n", "f16"};

/* Rows of one KV head in memory of exactly their size. */
static uint8_t *make_operand(input *in, uint32_t dim, size_t n_slots, tqkv_operand *o)
{
    const char *name = names[byte_of(in) % (sizeof names / sizeof *names)];
    size_t code = 2 * dim, scale = 0;
    memset(o, 0, sizeof *o);
    if (tqkv_format_parse(name, dim, &o->format) == TQKV_OK) {
        tqkv_format_code_bytes(&o->format, &code);
        tqkv_format_scale_bytes(&o->format, &scale);
    } else {
        memset(&o->format, 0, sizeof o->format);
        o->format.head_dim = (uint16_t)dim;
        o->type = TQKV_F16;
    }
    size_t bytes = n_slots * (code + scale);
    uint8_t *memory = malloc(bytes ? bytes : 1);
    for (size_t i = 0; memory && i < bytes; i++)
        memory[i] = in->size ? in->data[i % in->size] : 0;
    o->rows = (tqkv_rows){memory, scale ? memory + n_slots * code : NULL, code, scale};
    return memory;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t dims[] = {16, 48, 64, 80, 96, 128, 256, 512};
    static const uint32_t masks[] = {~(uint32_t)0, TQKV_CPU_AVX2, 0};
    input in = {data, size};
    uint32_t dim = dims[byte_of(&in) % 8], v_dim = dims[byte_of(&in) % 8];
    size_t n_slots = 1 + byte_of(&in), n_tokens = byte_of(&in) % (n_slots + 1);
    uint32_t n_queries = 1 + byte_of(&in) % 5, group = 1 + byte_of(&in) % 9;
    tqkv_tokens set = {.n_tokens = n_tokens, .position = byte_of(&in),
                       .capacity = n_slots, .first_slot = byte_of(&in) % n_slots};
    size_t n_query = (size_t)n_queries * group * dim, n_out = (size_t)n_queries * group * v_dim;
    tqkv_cpu_mask(masks[byte_of(&in) % 3]);
    unsigned flags = byte_of(&in);
    uint8_t *keys = make_operand(&in, dim, n_slots, &set.keys);
    uint8_t *values = make_operand(&in, v_dim, n_slots, &set.values);
    float *queries = malloc(n_query * sizeof *queries), *out = malloc(n_out * sizeof *out);
    float slopes[9], sinks[9];
    for (int i = 0; i < 9; i++) {
        slopes[i] = (float)byte_of(&in) / 16;
        sinks[i] = (float)byte_of(&in) - 128;
    }
    for (size_t i = 0; queries && i < n_query; i++) { /* any bits at all */
        uint32_t bits = byte_of(&in) * 0x01010101u;
        memcpy(queries + i, &bits, sizeof bits);
    }
    tqkv_attention a = {.n_queries = n_queries, .n_heads = group, .n_kv_heads = 1,
                        .position = byte_of(&in), .queries = queries, .causal = flags & 1,
                        .window = flags & 2 ? 17 : 0, .softcap = flags & 4 ? 30 : 0,
                        .slopes = flags & 8 ? slopes : NULL, .sinks = flags & 16 ? sinks : NULL,
                        .scale = (float)byte_of(&in) / 100, .sets = &set, .n_sets = 1};
    if (keys && values && queries && out)
        attend(&a, out, n_out);
    free(keys);
    free(values);
    free(queries);
    free(out);
    return 0;
}

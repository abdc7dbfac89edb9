/* Attention over arbitrary bytes as pages of all kinds, in arbitrary shapes: no read beyond
 * the pages, nothing but finite numbers. The first bytes choose the shape. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attend.h"

enum { PAGE = TQKV_PAGE_TOKENS, MOST_PAGES = 6, KINDS = 3 };
enum { SEALED, MIXED, STAGED };

static const char *const names[] = {"tq2", "tq3", "tq4", "tq6", "tq8", "lm3",
                                    "lm4", "mlx4", "mlx6", "mlx8", "tq4n", "tq5s"};

/* Pages of one kind and one KV head in memory of exactly their size, which the caller
 * frees. */
static uint8_t *make_operand(input *in, const tqkv_format *f, int kind, size_t n_pages,
                             tqkv_operand *o)
{
    size_t bytes = 2u * PAGE * f->head_dim;
    tqkv_page at;
    memset(o, 0, sizeof *o);
    if (kind != STAGED && tqkv_page_bytes(f, kind == MIXED ? 4 : 1, &bytes) != TQKV_OK)
        return NULL;
    uint8_t *memory = malloc(bytes * n_pages);
    for (size_t i = 0; memory && i < bytes * n_pages; i++)
        memory[i] = in->size ? in->data[i % in->size] : 0;
    if (!memory)
        return NULL;
    o->page = (tqkv_strides){bytes, bytes, bytes, bytes};
    if (kind == STAGED) {
        o->format.head_dim = f->head_dim;
        o->type = TQKV_F16;
        o->rows = (tqkv_rows){.codes = memory, .code_stride = 2u * f->head_dim};
        return memory;
    }
    tqkv_page_at(f, kind == MIXED ? 4 : 1, memory, &at);
    o->format = *f;
    o->rows = at.rows;
    o->means = at.means;
    o->n_means = at.n_means;
    o->numbers = at.numbers;
    return memory;
}

/* Mostly pages that are there. */
static uint32_t entry(input *in, size_t n_pages)
{
    static const uint32_t bits[] = {0, TQKV_PAGE_MIXED, TQKV_PAGE_STAGED};
    unsigned kind = byte_of(in), number = byte_of(in);
    return (number == 255 ? number : (uint32_t)(number % n_pages)) | bits[kind % KINDS];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t dims[] = {16, 48, 64, 80, 96, 128, 256, 512};
    static const uint32_t masks[] = {~(uint32_t)0, TQKV_CPU_AVX2, 0};
    input in = {data, size};
    tqkv_format keys, values;
    uint32_t dim = dims[byte_of(&in) % 8], v_dim = dims[byte_of(&in) % 8];
    uint32_t pages[MOST_PAGES], group = 1 + byte_of(&in) % 9, n_queries = 1 + byte_of(&in) % 9;
    if (tqkv_format_parse(names[byte_of(&in) % 12], dim, &keys) != TQKV_OK ||
        tqkv_format_parse(names[byte_of(&in) % 12], v_dim, &values) != TQKV_OK)
        return 0;
    size_t n_pages = 1 + byte_of(&in) % MOST_PAGES, n_slots = n_pages * PAGE;
    size_t n_tokens = 3 * byte_of(&in);
    for (size_t i = 0; i < n_pages; i++)
        pages[i] = entry(&in, n_pages);
    tqkv_cpu_mask(masks[byte_of(&in) % 3]);
    unsigned flags = byte_of(&in);
    tqkv_tokens set = {.n_tokens = n_tokens % (n_slots + 1), .position = byte_of(&in),
                       .capacity = n_slots, .first_slot = byte_of(&in) % n_slots, .pages = pages,
                       .page_size = PAGE, .n_pages = (uint32_t)n_pages};
    tqkv_page_kind mixed = {.n_pages = (uint32_t)n_pages}, staged = mixed;
    tqkv_operand *operands[KINDS][2] = {{&set.keys, &set.values}, {&mixed.keys, &mixed.values},
                                        {&staged.keys, &staged.values}};
    uint8_t *memory[KINDS][2];
    for (int kind = 0; kind < KINDS; kind++) {
        memory[kind][0] = make_operand(&in, &keys, kind, n_pages, operands[kind][0]);
        memory[kind][1] = make_operand(&in, &values, kind, n_pages, operands[kind][1]);
    }
    set.mixed = flags & 1 ? NULL : &mixed;
    set.staged = flags & 2 ? NULL : &staged;
    size_t n_query = (size_t)n_queries * group * dim, n_out = (size_t)n_queries * group * v_dim;
    float *queries = malloc(n_query * sizeof *queries), *out = malloc(n_out * sizeof *out);
    float *balance = malloc(dim * sizeof *balance), mask[9 * MOST_PAGES * PAGE];
    for (size_t i = 0; queries && i < n_query; i++) { /* any bits at all */
        uint32_t bits = byte_of(&in) * 0x01010101u;
        memcpy(queries + i, &bits, sizeof bits);
    }
    for (size_t i = 0; balance && i < dim; i++)
        balance[i] = (float)(1 + byte_of(&in)) / 16;
    for (size_t i = 0; i < sizeof mask / sizeof *mask; i++)
        mask[i] = in.size && in.data[i % in.size] & 1 ? -INFINITY : 0;
    set.keys.balances = flags & 4 ? balance : NULL;
    tqkv_attention a = {.n_queries = n_queries, .n_heads = group, .n_kv_heads = 1,
                        .position = byte_of(&in), .queries = queries, .causal = flags >> 3 & 1,
                        .window = flags & 16 ? 77 : 0, .mask = flags & 32 ? mask : NULL,
                        .mask_type = TQKV_F32, .mask_stride = n_slots,
                        .scale = (float)byte_of(&in) / 100, .sets = &set, .n_sets = 1};
    if (queries && out && balance)
        attend(&a, out, n_out);
    for (int kind = 0; kind < KINDS; kind++) {
        free(memory[kind][0]);
        free(memory[kind][1]);
    }
    free(queries);
    free(out);
    free(balance);
    return 0;
}

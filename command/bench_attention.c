#include "bench_attention.h"

#include <stdlib.h>
#include <string.h>

#include "bench_ggml.h"
#include "bench_rows.h"
#include "command.h"
#include "json.h"
#include "sample.h"
#include "table.h"
#include "tqkv_attention.h"

/* One line of the table. */
typedef struct bench_case {
    uint32_t head_dim, group, n_queries, threads;
    size_t context;
} bench_case;

typedef struct bench {
    const attention_options *o;
    ggml_peer peer;
    table t;
    double bandwidth; /* one core's, bytes a second */
    double f16, q8_0, q4_0; /* ns of the case at hand, 0 where not measured */
    float *queries, *out;
    int n_cases; /* run so far */
} bench;

/* What one core reads from memory, over a buffer beyond all caches. */
static double read_bandwidth(void)
{
    enum { BYTES = 1 << 28 };
    uint64_t *memory = bench_allocate(BYTES);
    double best = 1e30;
    volatile uint64_t sink;
    if (!memory)
        return 0;
    memset(memory, 1, BYTES);
    for (int repeat = 0; repeat < 5; repeat++) {
        uint64_t lane[8] = {0};
        double start = seconds();
        for (size_t i = 0; i < BYTES / sizeof *memory; i += 8)
            for (int j = 0; j < 8; j++)
                lane[j] ^= memory[i + (size_t)j];
        double taken = seconds() - start;
        best = taken < best ? taken : best;
        sink = lane[0] ^ lane[1] ^ lane[2] ^ lane[3] ^ lane[4] ^ lane[5] ^ lane[6] ^ lane[7];
    }
    (void)sink;
    free(memory);
    return BYTES / best;
}

static void report(bench *b, const bench_case *c, const char *name, const char *isa, double ns,
                   double bytes)
{
    double speed = bytes / ns; /* GB/s */
    if (b->o->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "what", c->n_queries > 1 ? "prefill" : "attention");
        cJSON_AddStringToObject(object, "format", name);
        cJSON_AddNumberToObject(object, "head_dim", c->head_dim);
        cJSON_AddNumberToObject(object, "gqa", c->group);
        cJSON_AddNumberToObject(object, "context", (double)c->context);
        cJSON_AddNumberToObject(object, "queries", c->n_queries);
        cJSON_AddNumberToObject(object, "threads", c->threads);
        cJSON_AddStringToObject(object, "isa", isa);
        cJSON_AddNumberToObject(object, "ns", ns);
        cJSON_AddNumberToObject(object, "gb_per_second", speed);
        json_print_line(object);
        return;
    }
    table_row(&b->t);
    table_cell(&b->t, 0, "%s", name);
    table_cell(&b->t, 1, "%u,%u", c->head_dim, c->group);
    table_cell(&b->t, 2, "%zuk", c->context / 1024);
    table_cell(&b->t, 3, "%u", c->n_queries);
    table_cell(&b->t, 4, "%u", c->threads);
    table_cell(&b->t, 5, "%.2f", ns);
    if (c->n_queries == 1)
        table_cell(&b->t, 6, "%.1f", speed);
    if (b->f16 > 0 && strncmp(name, "ggml", 4)) {
        table_cell(&b->t, 7, "%.2fx", b->f16 / ns);
        table_cell(&b->t, 8, "%.1fx", b->q8_0 / ns);
        if (b->q4_0 > 0)
            table_cell(&b->t, 9, "%.1fx", b->q4_0 / ns);
    }
}

/* (token x query head), of all queries. */
static double units(const bench_case *c)
{
    return (double)c->context * BENCH_HEADS * c->group * c->n_queries;
}

/* Bytes of keys and values, over the units. */
static double bytes_a_unit(const bench_case *c, double row_bytes)
{
    return 2 * row_bytes * BENCH_HEADS * (double)c->context / units(c);
}

/* ---- ggml ---- */

static int bench_ggml_type(bench *b, const bench_case *c, const ggml_type_info *type, double *ns)
{
    ggml_attention a;
    size_t size = ggml_attention_bytes(type, c->head_dim, BENCH_HEADS, c->group, c->context,
                                       c->n_queries);
    void *memory = bench_allocate(size);
    if (!memory)
        return 0;
    if (!ggml_attention_open(&a, &b->peer, type, c->head_dim, BENCH_HEADS, c->group, c->context,
                             c->n_queries, b->queries, memory, size)) {
        free(memory);
        return !failed("ggml could not set up attention over %s", type->name);
    }
    double best = 1e30, end = seconds() + .25;
    /* the first run fills the caches, but where it takes seconds it counts */
    for (int repeat = 0; repeat < 4 || (seconds() < end && repeat < 50); repeat++) {
        double start = seconds();
        ggml_attention_run(&a, (int)c->threads);
        double taken = seconds() - start;
        if (repeat || taken > 2)
            best = taken < best ? taken : best;
        if (taken > 2)
            break;
    }
    ggml_attention_close(&a);
    free(memory);
    *ns = best * 1e9 / units(c);
    char name[32];
    snprintf(name, sizeof name, "ggml %s", type->name);
    report(b, c, name, "ggml", *ns,
           bytes_a_unit(c, (double)ggml_row_bytes(type, c->head_dim)));
    return 1;
}

static int bench_peers(bench *b, const bench_case *c)
{
    double other;
    b->f16 = b->q8_0 = b->q4_0 = 0;
    if (!b->o->ggml)
        return 1;
    if (!bench_ggml_type(b, c, &ggml_f16, &b->f16) ||
        !bench_ggml_type(b, c, &ggml_q8_0, &b->q8_0))
        return 0;
    if (c->n_queries > 1 && c->head_dim * c->group > 512)
        return 1; /* minutes */
    return bench_ggml_type(b, c, &ggml_q4_0, &b->q4_0) &&
           bench_ggml_type(b, c, &ggml_iq4_nl, &other);
}

/* ---- tqkv ---- */

static int time_attention(bench *b, const bench_case *c, const tqkv_attention *a, double *ns)
{
    tqkv_executor e = {c->threads, NULL, NULL};
    tqkv_partial result = {b->out, NULL, NULL};
    size_t bytes;
    tqkv_status status = tqkv_attend_workspace(a, &e, &bytes);
    void *workspace = status == TQKV_OK ? allocate(bytes, 1) : NULL;
    double best = 1e30, end = seconds() + .25;
    if (!workspace) { /* of memory allocate has said it */
        if (status != TQKV_OK)
            failed("attention: %s", tqkv_status_string(status));
        return 0;
    }
    status = tqkv_attend(a, &result, &e, workspace, bytes); /* once for the caches */
    for (int repeat = 0; status == TQKV_OK && (repeat < 5 || (seconds() < end && repeat < 200));
         repeat++) {
        double start = seconds();
        status = tqkv_attend(a, &result, &e, workspace, bytes);
        double taken = seconds() - start;
        best = taken < best ? taken : best;
    }
    free(workspace);
    *ns = best * 1e9 / units(c);
    return status == TQKV_OK || !failed("attention: %s", tqkv_status_string(status));
}

static int bench_format(bench *b, const bench_case *c, const char *name)
{
    bench_rows rows;
    double ns;
    tqkv_status status = bench_rows_parse(&rows, name, c->head_dim);
    if (status == TQKV_ERROR_HEAD_DIM_POWER && b->o->is_selection)
        return 1; /* mlx has none of this size */
    if (status != TQKV_OK)
        return !failed("%s with head_dim %u: %s", name, c->head_dim, tqkv_status_string(status));
    int ok = bench_rows_make(&rows, BENCH_HEADS, c->context);
    if (ok) {
        tqkv_attention a = {.n_queries = c->n_queries, .n_heads = BENCH_HEADS * c->group,
                            .n_kv_heads = BENCH_HEADS, .position = c->context - c->n_queries,
                            .queries = b->queries, .scale = 1 / sqrtf((float)c->head_dim),
                            .causal = 1, .sets = &rows.set, .n_sets = 1};
        ok = time_attention(b, c, &a, &ns);
        if (ok)
            report(b, c, name, tqkv_isa_name(), ns, bytes_a_unit(c, rows.row_bytes));
    }
    bench_rows_free(&rows);
    return ok;
}

/* ---- all cases ---- */

static int run_case(bench *b, const bench_case *c)
{
    const attention_options *o = b->o;
    if ((o->head_dim && o->head_dim != c->head_dim) || (o->group && o->group != c->group) ||
        (o->context && o->context != c->context) || (o->threads && o->threads != c->threads) ||
        (o->queries && o->queries != c->n_queries))
        return 1;
    b->n_cases++;
    size_t n = (size_t)c->n_queries * BENCH_HEADS * c->group * c->head_dim;
    uint64_t seed = 9;
    b->queries = allocate(n, sizeof *b->queries);
    b->out = allocate(n, sizeof *b->out);
    int ok = b->queries && b->out;
    if (ok) {
        sample_gaussian(&seed, b->queries, n);
        ok = bench_peers(b, c);
    }
    for (int i = 0; ok && i < o->n_formats; i++)
        ok = bench_format(b, c, o->formats[i]);
    free(b->queries);
    free(b->out);
    return ok;
}

static int run_cases(bench *b)
{
    static const uint32_t shapes[][2] = {{128, 4}, {128, 8}, {128, 1}, {64, 3}, {256, 4}, {96, 1}};
    static const size_t contexts[] = {1 << 10, 1 << 13, 1 << 15, 1 << 17};
    enum { SHAPES = sizeof shapes / sizeof *shapes, CONTEXTS = 4 };
    int ok = 1, done = 0;
    for (int s = 0; ok && s < SHAPES; s++) {
        for (int i = 0; ok && i < CONTEXTS; i++)
            for (uint32_t threads = 1; ok && threads <= 2; threads++) {
                bench_case c = {shapes[s][0], shapes[s][1], 1, threads, contexts[i]};
                progress("measuring", (uint64_t)done++, SHAPES * (2 * CONTEXTS + 1));
                ok = run_case(b, &c);
            }
        bench_case prefill = {shapes[s][0], shapes[s][1], 512, 1, 1 << 13};
        progress("measuring", (uint64_t)done++, SHAPES * (2 * CONTEXTS + 1));
        if (ok)
            ok = run_case(b, &prefill);
    }
    progress_end();
    return ok;
}

/* Says which options leave no case. */
static int misused_shape(const attention_options *o)
{
    const struct {
        const char *name;
        uint64_t value;
    } given[] = {{"--head-dim", o->head_dim}, {"--gqa", o->group}, {"--context", o->context},
                 {"--threads", o->threads}, {"--queries", o->queries}};
    char text[160] = "";
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (given[i].value)
            snprintf(text + strlen(text), sizeof text - strlen(text), " %s %llu", given[i].name,
                     (unsigned long long)given[i].value);
    return misused("bench --attention has no case of%s; without them it shows all", text);
}

int bench_attention(const attention_options *o)
{
    static const char *const columns[] = {"format", "d,G", "context", "queries", "threads", "ns",
                                          "GB/s", "over f16", "q8_0", "q4_0"};
    bench b = {.o = o};
    bench_rows rows;
    for (int i = 0; i < o->n_formats; i++) /* before minutes with other formats */
        if (bench_rows_parse(&rows, o->formats[i], 64) == TQKV_ERROR_FORMAT_NAME)
            return misused("%s: %s", o->formats[i], tqkv_status_string(TQKV_ERROR_FORMAT_NAME));
    if (o->ggml && !ggml_peer_open(&b.peer, o->ggml))
        return EXIT_FAILED;
    b.bandwidth = read_bandwidth();
    table_start(&b.t, columns, o->ggml ? 10 : 7);
    int ok = run_cases(&b), status = ok ? EXIT_OK : EXIT_FAILED;
    if (ok && !b.n_cases) {
        status = misused_shape(o);
        ok = 0;
    }
    if (!o->json && ok)
        printf("ns a token and query head, %d KV heads; GB/s of codes and scales. One core reads\n"
               "%.1f GB/s; tqkv's kernels: %s.\n\n",
               BENCH_HEADS, b.bandwidth / 1e9, tqkv_isa_name());
    if (o->json || !ok)
        b.t.n_rows = 0;
    if (!table_finish(&b.t) && ok)
        status = EXIT_FAILED;
    return status;
}

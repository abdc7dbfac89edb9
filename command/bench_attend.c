/* Attention on a device: what a step of decoding takes, as a share of the bandwidth of a
 * copy in the same run. Times are the device's own: launches are queued behind a long
 * copy, so that none waits for this program. Caches rotate beyond any L2. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_device.h"
#include "command.h"
#include "device.h"
#include "json.h"
#include "table.h"

/* Bytes of codes, of scales, and of queries as of outputs; pages. */
enum { REPEATS = 40, CHAIN = 20, POOL = 1 << 30, SCALES = POOL / 8, QUERIES = 4 << 20,
       PAGES = 1 << 18, EXTRAS = 16 << 20 /* staged rows; a mask */ };

typedef struct shape {
    char format[16];
    tqkv_format f;
    uint32_t sequences, heads, kv_heads, dim, tokens, queries;
    uint32_t page; /* tokens of one, or 0 */
    int has_means, has_staged, has_mask; /* "m", "s", "k" */
    char extras[8];
    int is_portable;
} shape;

/* As on the command line. */
static const char *const cases[] = {
    "lm4,1,32,8,128,32768", "tq4,1,32,8,128,32768", "lm4,1,32,8,128,131072",
    "tq4,1,32,8,128,131072", "lm4,8,32,8,128,8192", "tq4,8,32,8,128,8192", "lm4,8,32,8,128,32768",
    "tq4,8,32,8,128,32768", "lm4,16,8,8,128,32768", "tq4,16,8,8,128,32768",
    "lm4,8,64,8,128,32768", "tq4,8,64,8,128,32768", "tq2,8,32,8,128,32768",
    "tq3,8,32,8,128,32768", "tq5,8,32,8,128,32768", "tq6,8,32,8,128,32768",
    "tq8,8,32,8,128,32768", "mlx4,8,32,8,128,32768",
    "tq4,16,32,8,64,32768", "tq4,8,16,8,96,32768", "tq4,4,32,8,256,32768",
    "tq4,8,32,8,128,32768,4", "tq4,8,32,8,128,32768,1,16", "tq4,8,32,8,128,32768,1,256",
    "tq4,4,64,1,128,131072",
    "tq4,8,32,8,128,32768,1,64,m", "tq4,8,32,8,128,32768,1,64,ms", "tq4,8,32,8,128,32768,1,64,msk",
    "tq4,1,32,8,128,32768,1,64,ms", "tq4,8,64,8,128,32768,1,64,ms", "tq4,8,32,8,128,32768,4,64,ms",
    "tq3,8,32,8,128,32768,1,64,ms", "tq8,8,32,8,128,32768,1,64,ms",
};
/* And one by the portable kernel. */
static const char portable_case[] = "tq4,8,32,8,128,32768";

typedef struct bench {
    const device_options *o;
    device d;
    table t;
    tqkv_buffer *codes, *scales, *queries, *out, *pages, *workspace, *staged, *mask;
    size_t block; /* of which the codes are blocks of pages with means; 0: any bytes */
    tqkv_event *events[2 * REPEATS];
    double copy; /* bytes a second, read and written */
} bench;

/* A shape's attention over one of several copies of its cache. */
typedef struct job {
    const shape *s;
    tqkv_gpu_attention a;
    size_t code, scale, copy_codes, copy_scales, copies;
    tqkv_gpu_staged staged;
    double bytes;
} job;

/* ---- times ---- */

/* Half a gigabyte, to the other half: also what others are measured against. */
static tqkv_status delay(bench *b)
{
    return tqkv_encoder_copy(b->d.encoder, b->codes, 0, b->codes, POOL / 2, POOL / 2);
}

/* Keys and values of pages with means: their parts stand in blocks. */
static void blocks_place(job *j, size_t offset)
{
    for (int i = 0; i < 2; i++, offset += j->copy_codes) {
        tqkv_gpu_operand *o = i ? &j->a.values : &j->a.keys;
        o->rows.code_offset = offset;
        o->rows.scale_offset = offset + TQKV_PAGE_TOKENS * j->code;
        o->mean_offset = o->rows.scale_offset + TQKV_PAGE_TOKENS * j->scale;
    }
}

static tqkv_status attend(bench *b, job *j, int i)
{
    size_t copy = (size_t)i % j->copies, codes = copy * 2 * j->copy_codes,
           scales = copy * 2 * j->copy_scales;
    j->a.keys.rows.code_offset = codes;
    j->a.values.rows.code_offset = codes + j->copy_codes;
    j->a.keys.rows.scale_offset = scales;
    j->a.values.rows.scale_offset = scales + j->copy_scales;
    if (j->s->has_means)
        blocks_place(j, codes);
    return tqkv_dispatch_attend(b->d.encoder, b->d.registry, &j->a, b->workspace);
}

static tqkv_status work(bench *b, job *j, int i)
{
    return j ? attend(b, j, i) : delay(b);
}

/* The median of single launches between events; negative if it failed. No job: a copy. */
static double time_single(bench *b, job *j)
{
    double times[REPEATS];
    tqkv_status status = TQKV_OK;
    for (int i = 0; i < 3 && status == TQKV_OK; i++)
        status = work(b, j, i);
    if (status == TQKV_OK)
        status = delay(b);
    for (int i = 0; i < REPEATS && status == TQKV_OK; i++) {
        status = tqkv_encoder_record(b->d.encoder, b->events[2 * i]);
        if (status == TQKV_OK)
            status = work(b, j, i);
        if (status == TQKV_OK)
            status = tqkv_encoder_record(b->d.encoder, b->events[2 * i + 1]);
    }
    if (!device_ok(&b->d, "attention", status) || !device_run(&b->d))
        return -1;
    for (int i = 0; i < REPEATS; i++)
        if (!device_ok(&b->d, "events",
                       tqkv_event_elapsed(b->events[2 * i], b->events[2 * i + 1], &times[i])))
            return -1;
    return median_time(times, REPEATS);
}

/* A launch's share of a graph of CHAIN of them. */
static double time_chain(bench *b, job *j)
{
    enum { ROUNDS = 7 };
    double times[ROUNDS];
    tqkv_graph *graph = NULL;
    tqkv_status status = TQKV_OK;
    for (int i = 0; i < CHAIN && status == TQKV_OK; i++)
        status = attend(b, j, i);
    if (status == TQKV_OK)
        status = tqkv_encoder_finish_graph(b->d.encoder, &graph);
    for (int i = 0; i < ROUNDS && status == TQKV_OK; i++) {
        status = delay(b);
        if (status == TQKV_OK)
            status = tqkv_encoder_record(b->d.encoder, b->events[0]);
        if (status == TQKV_OK)
            status = tqkv_graph_launch(graph, b->d.encoder);
        if (status == TQKV_OK)
            status = tqkv_encoder_record(b->d.encoder, b->events[1]);
        if (!device_ok(&b->d, "graph", status) || !device_run(&b->d) ||
            !device_ok(&b->d, "events", tqkv_event_elapsed(b->events[0], b->events[1], &times[i])))
            status = TQKV_ERROR_DEVICE;
    }
    tqkv_graph_free(graph);
    return status == TQKV_OK ? median_time(times, ROUNDS) / CHAIN : -1;
}

/* ---- what is on the device ---- */

/* Any bytes are codes; scales are 1 to 1.5 as halves, and a little more as floats. */
static int fill(bench *b)
{
    enum { PART = EXTRAS };
    uint32_t *x = allocate(PART, 1);
    uint64_t seed = 1;
    int ok = x != NULL;
    for (size_t i = 0; ok && i < PART / 4; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (uint32_t)(seed >> 32);
    }
    for (size_t at = 0; ok && at < POOL; at += PART)
        ok = device_ok(&b->d, "upload", tqkv_buffer_upload(b->codes, at, x, PART));
    for (size_t i = 0; ok && i < PART / 4; i++)
        x[i] = (x[i] & 0x01FF01FF) | 0x3C003C00;
    for (size_t at = 0; ok && at < SCALES; at += PART)
        ok = device_ok(&b->d, "upload", tqkv_buffer_upload(b->scales, at, x, PART));
    for (size_t i = 0; ok && i < QUERIES / 4; i++) /* bf16 from -1 to 1, or so */
        x[i] = (x[i] & 0x807F807F) | 0x3F003F00;
    ok = ok && device_ok(&b->d, "upload", tqkv_buffer_upload(b->queries, 0, x, QUERIES));
    for (size_t i = 0; ok && i < PART / 4; i++) /* halves below 1 */
        x[i] &= 0xBBFFBBFF;
    ok = ok && device_ok(&b->d, "upload", tqkv_buffer_upload(b->staged, 0, x, PART)) &&
         device_ok(&b->d, "upload", tqkv_buffer_upload(b->mask, 0, x, PART));
    b->block = 0;
    free(x);
    return ok;
}

/* ---- cases ---- */

/* Numbers of all pages, in an order of no pattern; with `staged`, each sequence's last is a
 * staged one. */
static int upload_pages(bench *b, uint32_t sequences, uint32_t each, int staged)
{
    uint32_t n = sequences * each, *x = allocate(n, sizeof *x), sealed = sequences * (each - !!staged);
    for (uint32_t i = 0, at = 0; x && i < n; i++) {
        if (staged && i % each == each - 1) {
            x[i] = i / each | TQKV_PAGE_STAGED;
            continue;
        }
        x[i] = (at ^ 5) < sealed ? at ^ 5 : at;
        at++;
    }
    int ok = x && device_ok(&b->d, "upload", tqkv_buffer_upload(b->pages, 0, x, n * sizeof *x));
    free(x);
    return ok;
}

/* Blocks of pages: any bytes as codes and levels, scales of either sign, a mean's factor. */
static int fill_blocks(bench *b, const job *j, size_t block)
{
    enum { PART = 16 << 20 };
    size_t part = PART / block * block, scales = TQKV_PAGE_TOKENS * j->code,
           mean = scales + TQKV_PAGE_TOKENS * j->scale, n = TQKV_PAGE_TOKENS * j->scale / 2;
    uint8_t *x = allocate(part, 1);
    uint64_t seed = 1;
    if (!x || b->block == block) {
        free(x);
        return x != NULL;
    }
    for (size_t i = 0; i < part; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (uint8_t)(seed >> 56);
    }
    for (size_t at = 0; at < part; at += block) {
        for (size_t i = 0; i < n; i++) /* halves from 1 to 1.5, or floats of such upper halves */
            x[at + scales + 2 * i + 1] = (uint8_t)((x[at + scales + 2 * i + 1] & 0x81) | 0x3C);
        x[at + mean + j->s->dim + 1] = 0x20;
    }
    int ok = 1;
    for (size_t at = 0; ok && at + part <= POOL; at += part)
        ok = device_ok(&b->d, "upload", tqkv_buffer_upload(b->codes, at, x, part));
    free(x);
    b->block = ok ? block : 0;
    return ok;
}

/* Where rows lie: codes and scales apart, or in blocks. */
static int operands_make(bench *b, job *j)
{
    const shape *s = j->s;
    uint32_t slots = s->page ? s->page : s->tokens;
    size_t codes = slots * j->code, scales = slots * j->scale, means = 0;
    if (s->has_means) {
        size_t block = (codes + scales + s->dim + 2 + 15) / 16 * 16;
        j->copy_codes = (size_t)s->sequences * s->kv_heads * (s->tokens / s->page) * block;
        codes = scales = means = block;
        if (!fill_blocks(b, j, block))
            return 0;
        j->bytes = 2.0 * (double)j->copy_codes;
    } else {
        if (b->block && !fill(b))
            return 0;
        j->bytes = 2.0 * (double)(j->copy_codes + j->copy_scales);
    }
    tqkv_gpu_operand o = {.format = s->f, .means = s->has_means ? b->codes : NULL};
    o.rows = (tqkv_gpu_rows){.codes = b->codes, .scales = s->has_means ? b->codes : b->scales,
                             .code_stride = j->code, .scale_stride = j->scale};
    o.head = (tqkv_gpu_strides){codes, scales, means};
    o.page = o.sequence =
        (tqkv_gpu_strides){s->kv_heads * codes, s->kv_heads * scales, s->kv_heads * means};
    j->a.keys = j->a.values = o;
    return 1;
}

/* 64 tokens more of each sequence, which wait to be sealed. */
static void staged_make(bench *b, job *j)
{
    const shape *s = j->s;
    size_t row = 2 * s->dim, head = TQKV_PAGE_TOKENS * row;
    tqkv_gpu_operand o = {.type = TQKV_F16};
    o.format.head_dim = (uint16_t)s->dim;
    o.rows = (tqkv_gpu_rows){.codes = b->staged, .code_stride = row};
    o.head.codes = head;
    o.page.codes = s->kv_heads * head;
    j->staged = (tqkv_gpu_staged){.keys = o, .values = o, .n_pages = s->sequences};
    j->a.staged = &j->staged;
    j->a.n_tokens += TQKV_PAGE_TOKENS;
    j->a.position += TQKV_PAGE_TOKENS;
    j->bytes += 2.0 * s->sequences * s->kv_heads * (double)head;
}

static int job_make(bench *b, const shape *s, job *j)
{
    size_t bytes;
    *j = (job){.s = s};
    tqkv_format_code_bytes(&s->f, &j->code);
    tqkv_format_scale_bytes(&s->f, &j->scale);
    size_t rows = (size_t)s->sequences * s->kv_heads * s->tokens;
    j->copy_codes = rows * j->code;
    j->copy_scales = rows * j->scale;
    j->a = (tqkv_gpu_attention){
        .n_sequences = s->sequences, .n_queries = s->queries, .n_heads = s->heads,
        .n_kv_heads = s->kv_heads, .query_type = TQKV_BF16, .out_type = TQKV_BF16,
        .position = s->tokens - s->queries, .n_tokens = s->tokens,
        .scale = 1 / sqrtf((float)s->dim), .causal = 1, .queries = b->queries, .out = b->out,
        .is_portable = s->is_portable};
    if (!operands_make(b, j))
        return 0;
    j->copies = POOL / (2 * j->copy_codes);
    if (!s->has_means && j->copies > SCALES / (2 * j->copy_scales))
        j->copies = SCALES / (2 * j->copy_scales);
    if (s->page) {
        uint32_t sealed = s->tokens / s->page;
        j->a.pages = b->pages;
        j->a.page_size = s->page;
        j->a.pages_stride = sealed + (uint32_t)s->has_staged;
        j->a.n_pages = s->sequences * sealed;
        if (!upload_pages(b, s->sequences, j->a.pages_stride, s->has_staged))
            return 0;
    }
    if (s->has_staged)
        staged_make(b, j);
    if (s->has_mask) {
        j->a.mask = b->mask;
        j->a.mask_type = TQKV_F16;
        j->a.mask_row_stride = j->a.n_tokens;
    }
    if (!device_ok(&b->d, "attention", tqkv_gpu_attend_workspace(b->d.device, &j->a, &bytes)))
        return 0;
    tqkv_buffer_free(b->workspace);
    b->workspace = device_buffer(&b->d, NULL, bytes);
    return b->workspace != NULL;
}

static void report(bench *b, const job *j, double single, double chain)
{
    const shape *s = j->s;
    char name[64];
    snprintf(name, sizeof name, "%u,%u,%u,%u,%u", s->sequences, s->heads, s->kv_heads, s->dim,
             s->tokens);
    if (b->o->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "format", s->format);
        cJSON_AddStringToObject(object, "shape", name);
        cJSON_AddNumberToObject(object, "queries", s->queries);
        cJSON_AddNumberToObject(object, "page", s->page);
        cJSON_AddStringToObject(object, "extras", s->extras);
        cJSON_AddBoolToObject(object, "portable", s->is_portable);
        cJSON_AddNumberToObject(object, "bytes", j->bytes);
        cJSON_AddNumberToObject(object, "us", single * 1e6);
        cJSON_AddNumberToObject(object, "graph_us", chain * 1e6);
        cJSON_AddNumberToObject(object, "of_copy", j->bytes / single / b->copy);
        cJSON_AddNumberToObject(object, "graph_of_copy", j->bytes / chain / b->copy);
        json_print_line(object);
        return;
    }
    table_row(&b->t);
    table_cell(&b->t, 0, "%s%s", s->format, s->is_portable ? ", portable" : "");
    table_cell(&b->t, 1, "%s", name);
    table_cell(&b->t, 2, "%u", s->queries);
    table_cell(&b->t, 3, "%u%s", s->page, s->extras);
    table_cell(&b->t, 4, "%.1f", j->bytes * 1e-6);
    table_cell(&b->t, 5, "%.2f", single * 1e6);
    table_cell(&b->t, 6, "%.1f%%", 100 * j->bytes / single / b->copy);
    table_cell(&b->t, 7, "%.2f", chain * 1e6);
    table_cell(&b->t, 8, "%.1f%%", 100 * j->bytes / chain / b->copy);
}

static int measure(bench *b, const shape *s)
{
    job j;
    if (!job_make(b, s, &j))
        return 0;
    double single = time_single(b, &j), chain = single < 0 ? -1 : time_chain(b, &j);
    if (chain < 0)
        return 0;
    report(b, &j, single, chain);
    return 1;
}

static int prepare(bench *b)
{
    b->codes = device_buffer(&b->d, NULL, POOL);
    b->scales = device_buffer(&b->d, NULL, SCALES);
    b->queries = device_buffer(&b->d, NULL, QUERIES);
    b->out = device_buffer(&b->d, NULL, QUERIES);
    b->pages = device_buffer(&b->d, NULL, PAGES * 4);
    b->staged = device_buffer(&b->d, NULL, EXTRAS);
    b->mask = device_buffer(&b->d, NULL, EXTRAS);
    int ok = b->codes && b->scales && b->queries && b->out && b->pages && b->staged && b->mask;
    for (int i = 0; ok && i < 2 * REPEATS; i++)
        ok = device_ok(&b->d, "event", tqkv_event_create(b->d.device, &b->events[i]));
    return ok && fill(b);
}

static void release(bench *b)
{
    tqkv_buffer *buffers[] = {b->codes, b->scales, b->queries, b->out, b->pages, b->workspace,
                              b->staged, b->mask};
    for (int i = 0; i < 8; i++)
        tqkv_buffer_free(buffers[i]);
    for (int i = 0; i < 2 * REPEATS; i++)
        tqkv_event_free(b->events[i]);
    device_close(&b->d);
}

/* ---- cases as text ---- */

/* What there is beside rows, a letter each. */
static const char *parse_extras(const char *at, shape *s)
{
    s->has_means = strchr(at, 'm') != NULL;
    s->has_staged = strchr(at, 's') != NULL;
    s->has_mask = strchr(at, 'k') != NULL;
    if (strspn(at, "msk") != strlen(at) || strlen(at) >= sizeof s->extras)
        return "EXTRAS are letters of m (means), s (staged rows) and k (a mask)";
    snprintf(s->extras, sizeof s->extras, "%s", at);
    return (s->has_means || s->has_staged) && s->page != TQKV_PAGE_TOKENS
               ? "means and staged rows are those of pages of 64 tokens"
               : NULL;
}

/* The numbers after the format's name; null, or what is wrong. */
static const char *parse_numbers(const char *at, shape *s)
{
    const struct {
        uint32_t limit, *to;
        const char *problem;
    } fields[] = {{65536, &s->sequences, "SEQUENCES is no number from 1 to 65536"},
                  {65536, &s->heads, "HEADS is no number from 1 to 65536"},
                  {65536, &s->kv_heads, "KV_HEADS is no number from 1 to 65536"},
                  {TQKV_MAX_HEAD_DIM, &s->dim, "HEAD_DIM is no number from 1 to 1024"},
                  {1 << 24, &s->tokens, "TOKENS is no number from 1 to 16777216"},
                  {65536, &s->queries, "QUERIES is no number from 1 to 65536"},
                  {1 << 24, &s->page, "PAGE is no number from 1 to 16777216"}};
    size_t n = 0;
    for (; *at == ',' && n < sizeof fields / sizeof *fields; n++) {
        char number[16];
        uint64_t value;
        size_t length = strcspn(++at, ",");
        snprintf(number, sizeof number, "%.*s", length < 16 ? (int)length : 16, at);
        if (length >= sizeof number || !parse_number(number, fields[n].limit, &value) || !value)
            return fields[n].problem;
        *fields[n].to = (uint32_t)value;
        at += length;
    }
    if (*at == ',' && n == sizeof fields / sizeof *fields)
        return parse_extras(at + 1, s);
    if (n < 5 || *at)
        return "FORMAT and 5 to 7 numbers are expected";
    return NULL;
}

/* Whether it fits what the benchmark keeps on a device. */
static const char *check_size(const shape *s)
{
    size_t code, scale;
    double rows = (double)s->sequences * s->kv_heads * s->tokens;
    tqkv_format_code_bytes(&s->f, &code);
    tqkv_format_scale_bytes(&s->f, &scale);
    if (2 * rows * (double)code > POOL || 2 * rows * (double)scale > SCALES)
        return "its cache is larger than 1 GiB of codes or 128 MiB of scales";
    if (2.0 * s->sequences * s->queries * s->heads * s->dim > QUERIES)
        return "its queries are larger than 4 MiB";
    if (s->page && (double)s->sequences * (s->tokens / s->page + 1) > PAGES)
        return "it has more than 262144 pages";
    if (s->has_means && 2 * rows * ((double)(code + scale) + (s->dim + 17) / 64.) > POOL)
        return "its cache is larger than 1 GiB of pages";
    if (s->has_staged && 128.0 * s->sequences * s->kv_heads * s->dim > EXTRAS)
        return "its staged rows are larger than 16 MiB";
    if (s->has_mask && 2.0 * s->sequences * s->queries * (s->tokens + 64) > EXTRAS)
        return "its mask is larger than 16 MiB";
    return NULL;
}

/* "FORMAT,SEQUENCES,HEADS,KV_HEADS,HEAD_DIM,TOKENS[,QUERIES[,PAGE[,EXTRAS]]]"; null, or what
 * is wrong. */
static const char *parse_case(const char *text, shape *s)
{
    size_t length = strcspn(text, ",");
    *s = (shape){.queries = 1};
    if (length >= sizeof s->format)
        return tqkv_status_string(TQKV_ERROR_FORMAT_NAME);
    memcpy(s->format, text, length);
    const char *problem = parse_numbers(text + length, s);
    if (problem)
        return problem;
    tqkv_status status = tqkv_format_parse(s->format, s->dim, &s->f);
    if (status != TQKV_OK)
        return tqkv_status_string(status);
    if (s->heads % s->kv_heads)
        return "HEADS is no multiple of KV_HEADS";
    if (s->tokens < s->queries)
        return "TOKENS are fewer than QUERIES";
    if (s->page && s->tokens % s->page)
        return "TOKENS are no multiple of PAGE";
    return check_size(s);
}

/* ---- the run ---- */

/* Those of the command line, or the table's; null with a message and the exit status. */
static shape *parse_cases(const device_options *o, size_t *n, int *status)
{
    size_t n_table = sizeof cases / sizeof *cases;
    *n = o->n_cases ? (size_t)o->n_cases : n_table + 1;
    shape *shapes = allocate(*n, sizeof *shapes);
    *status = EXIT_FAILED;
    for (size_t i = 0; shapes && i < *n; i++) {
        const char *text = o->n_cases ? o->cases[i] : i < n_table ? cases[i] : portable_case;
        const char *problem = parse_case(text, &shapes[i]);
        if (problem) {
            *status = misused("bench: case '%s': %s", text, problem);
            free(shapes);
            return NULL;
        }
        shapes[i].is_portable = !o->n_cases && i == n_table;
    }
    return shapes;
}

static int run(bench *b, const shape *shapes, size_t n)
{
    double copied = time_single(b, NULL);
    if (copied < 0)
        return 0;
    b->copy = POOL / copied;
    if (b->o->json)
        printf("{\"copy_GB_s\": %.1f}\n", b->copy * 1e-9);
    else
        printf("copy: %.0f GB/s, read and written\n", b->copy * 1e-9);
    for (size_t i = 0; i < n; i++)
        if (!measure(b, &shapes[i]))
            return 0;
    return 1;
}

int bench_attend(const device_options *o)
{
    static const char *const columns[] = {"format", "B,Hq,Hkv,d,T", "queries", "page", "MB", "us",
                                          "of copy", "graph, us", "of copy"};
    bench b = {.o = o};
    size_t n;
    int status;
    shape *shapes = parse_cases(o, &n, &status);
    if (!shapes)
        return status;
    if (!device_open(&b.d, o->device, o->cuda_module)) {
        free(shapes);
        return EXIT_FAILED;
    }
    table_start(&b.t, columns, 9);
    int ok = prepare(&b) && run(&b, shapes, n);
    if (o->json)
        b.t.n_rows = 0;
    ok = table_finish(&b.t) && ok;
    release(&b);
    free(shapes);
    return ok ? EXIT_OK : EXIT_FAILED;
}

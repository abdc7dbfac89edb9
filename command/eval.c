#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "error.h"
#include "eval_attention.h"
#include "eval_rows.h"
#include "eval_device.h"
#include "fit.h"
#include "format_list.h"
#include "json.h"
#include "plot.h"
#include "table.h"
#include "tqkv_page.h"

static const char help[] =
    "usage: tqkv eval [OPTION]... DIR\n"
    "       tqkv eval [OPTION]... Q.npy K.npy V.npy\n"
    "\n"
    "Puts captured keys and values into a cache of each format and compares causal\n"
    "attention on its codes with attention over the originals in double precision, for\n"
    "queries of the second half. Each format is measured four times: plain rows, rows with\n"
    "balanced keys, pages with means, and both; balances are fitted to the first half. DIR\n"
    "has q.npy, k.npy and v.npy. Arrays are [tokens, heads, head_dim] or have a leading layer\n"
    "axis.\n"
    "\n"
    "  -f, --formats A,B,..  formats to measure, or pairs for keys and values, as tq5/tq4\n"
    "                        (default: a selection)\n"
    "  -q, --queries N       query positions to attend from (default 256)\n"
    "      --plot FILE       draw error against bytes, as .svg or .png\n"
    "      --bf16            uint16 in the arrays is bfloat16\n"
    "      --device NAME     measure a device (see 'tqkv devices') instead of the\n"
    "                        processor; it has no means of pages\n"
    "      --json            one JSON object a line\n"
    "  -h, --help            this text\n";

static const char default_formats[] = "tq2,tq3,tq4,tq5,tq6,tq8,lm4,mlx4,mlx8";

typedef struct options {
    char *formats;
    uint64_t queries;
    const char *plot, *device;
    int bf16, json, is_selection; /* the default formats */
} options;

/* What all formats are measured with. */
typedef struct comparison {
    const capture *c;
    tqkv_profile *balance[2]; /* for rows, and for pages */
    attention original, decoded;
    float *keys, *values; /* decoded */
    const device *device; /* null: the processor */
    uint8_t *key_rows, *value_rows; /* of all layers, for the device */
} comparison;

typedef struct measurement {
    char name[PAIR_NAME_SIZE];
    int has_means, has_balance;
    double bytes, ratio, k_error, v_error, attention, top1;
    double attend_ns; /* a token and query head; 0 where not measured */
    double encode_speed, decode_speed; /* values a second */
} measurement;

/* One format in one of four ways. */
static int measure(comparison *b, const tqkv_format *fk, const tqkv_format *fv, measurement *r)
{
    const capture *c = b->c;
    const tqkv_profile *balance = r->has_balance ? b->balance[r->has_means] : NULL;
    span time = {0};
    cache_run run;
    if (!pages_round_trip(c, fk, balance, r->has_means, c->keys, b->keys, &time) ||
        !pages_round_trip(c, fv, NULL, r->has_means, c->values, b->values, &time))
        return 0;
    r->encode_speed = time.values / time.encode_seconds;
    r->decode_speed = time.values / time.decode_seconds;
    r->k_error = relative_error(c->keys, b->keys, (size_t)c->k.n_rows * c->head_dim);
    r->v_error = relative_error(c->values, b->values, (size_t)c->v.n_rows * c->v_head_dim);
    /* which key is attended most, from what keys decode to */
    attention_run(&b->decoded, c, b->keys, b->values);
    r->top1 = attention_agreement(&b->original, &b->decoded, c);
    if (!cache_attention(&b->decoded, c, fk, fv, balance, r->has_means, &run))
        return 0;
    r->attention = attention_error(&b->original, &b->decoded, c);
    r->bytes = run.token_bytes;
    r->attend_ns = run.seconds * 1e9 / run.units;
    return 1;
}

static int measure_on_device(comparison *b, const tqkv_format *fk, const tqkv_format *fv,
                             measurement *r)
{
    const capture *c = b->c;
    const device *d = b->device;
    const tqkv_profile *balance = r->has_balance ? b->balance[0] : NULL;
    device_span time = {0};
    size_t k_row, v_row;
    tqkv_format_row_bytes(fk, &k_row);
    tqkv_format_row_bytes(fv, &v_row);
    r->bytes = (double)(k_row + v_row) * (double)(c->n_layers * c->n_kv_heads);
    if (!device_round_trip(d, c, fk, balance, c->keys, b->keys, b->key_rows, &time) ||
        !device_round_trip(d, c, fv, NULL, c->values, b->values, b->value_rows, &time))
        return 0;
    r->encode_speed = time.values / time.encode_seconds;
    r->decode_speed = time.values / time.decode_seconds;
    r->k_error = relative_error(c->keys, b->keys, (size_t)c->k.n_rows * c->head_dim);
    r->v_error = relative_error(c->values, b->values, (size_t)c->v.n_rows * c->v_head_dim);
    attention_run(&b->decoded, c, b->keys, b->values);
    r->top1 = attention_agreement(&b->original, &b->decoded, c);
    if (!device_eval_attention(d, &b->decoded, c, fk, fv, balance, b->key_rows, b->value_rows))
        return 0;
    r->attention = attention_error(&b->original, &b->decoded, c);
    return 1;
}

/* ---- what is printed ---- */

static void report_json(const measurement *r, uint32_t head_dim)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "format", r->name);
    cJSON_AddBoolToObject(object, "means", r->has_means);
    cJSON_AddBoolToObject(object, "balance", r->has_balance);
    cJSON_AddNumberToObject(object, "head_dim", head_dim);
    cJSON_AddNumberToObject(object, "bytes_per_token", r->bytes);
    cJSON_AddNumberToObject(object, "ratio", r->ratio);
    cJSON_AddNumberToObject(object, "k_rel_err", r->k_error);
    cJSON_AddNumberToObject(object, "v_rel_err", r->v_error);
    cJSON_AddNumberToObject(object, "attn_rel_err", r->attention);
    cJSON_AddNumberToObject(object, "top1", r->top1);
    if (r->attend_ns > 0)
        cJSON_AddNumberToObject(object, "attend_ns", r->attend_ns);
    cJSON_AddNumberToObject(object, "encode_values_per_second", r->encode_speed);
    cJSON_AddNumberToObject(object, "decode_values_per_second", r->decode_speed);
    json_print_line(object);
}

static const char *way_of(const measurement *r)
{
    if (r->has_means)
        return r->has_balance ? "pages, balance" : "pages";
    return r->has_balance ? "rows, balance" : "rows";
}

static void report_row(table *t, const measurement *r)
{
    table_row(t);
    table_cell(t, 0, "%s", r->has_means || r->has_balance ? "" : r->name);
    table_cell(t, 1, "%s", way_of(r));
    table_cell(t, 2, "%.0f", r->bytes);
    table_cell(t, 3, "%.2fx", r->ratio);
    table_cell(t, 4, "%.4f", r->k_error);
    table_cell(t, 5, "%.4f", r->v_error);
    table_cell(t, 6, "%.4f", r->attention);
    table_cell(t, 7, "%.1f%%", 100 * r->top1);
    if (r->attend_ns > 0)
        table_cell(t, 8, "%.1f", r->attend_ns);
    table_cell(t, 9, "%.0f", r->encode_speed / 1e6);
    table_cell(t, 10, "%.0f", r->decode_speed / 1e6);
}

static void print_head(const capture *c, const options *o, uint64_t n_queries)
{
    printf("%llu layers, %llu tokens, %u query heads, %u KV heads, head_dim %u; attention\n"
           "from %llu positions of the second half, balances fitted to the first. Bytes with\n"
           "scales and any means; attend: ns a token and query head; encode and decode: million\n"
           "values a second, %s%s.\n\n",
           (unsigned long long)c->n_layers, (unsigned long long)c->n_tokens, c->n_heads,
           c->n_kv_heads, c->head_dim, (unsigned long long)n_queries,
           o->device ? "" : "one thread, ", o->device ? o->device : tqkv_isa_name());
    if (c->n_tokens % TQKV_PAGE_TOKENS && !o->device)
        printf("The last %llu tokens do not fill a page: attention and bytes have them in f16,\n"
               "the other columns as codes.\n\n",
               (unsigned long long)(c->n_tokens % TQKV_PAGE_TOKENS));
}

/* ---- all formats ---- */

typedef struct points {
    plot_point *at;
    int n;
} points;

/* A format in all its ways, which a device has two of. */
static int measure_format(comparison *b, const options *o, const format_pair *f, table *t,
                          points *p)
{
    const capture *c = b->c;
    plot_point *point = &p->at[p->n++];
    for (int way = 0; way < (b->device ? 2 : 4); way++) {
        measurement r = {.has_means = way / 2, .has_balance = way % 2};
        pair_name(f, r.name);
        if (!(b->device ? measure_on_device : measure)(b, &f->keys, &f->values, &r))
            return 0;
        r.ratio = 2.0 * (c->head_dim + c->v_head_dim) * (double)(c->n_layers * c->n_kv_heads) /
                  r.bytes;
        memcpy(point->name, r.name, sizeof point->name);
        point->bytes[way] = r.bytes;
        point->error[way] = r.attention;
        point->n_ways = way + 1;
        if (o->json)
            report_json(&r, c->head_dim);
        else
            report_row(t, &r);
    }
    return 1;
}

static int measure_formats(comparison *b, const options *o, int total, table *t, points *p)
{
    const capture *c = b->c;
    int status = EXIT_OK;
    char *list = o->formats;
    format_pair f;
    while (next_format(&list, o->is_selection, c->head_dim, c->v_head_dim, &f, &status)) {
        progress("measuring", (uint64_t)p->n, (uint64_t)total);
        if (!measure_format(b, o, &f, t, p)) {
            status = EXIT_FAILED;
            break;
        }
    }
    progress_end();
    return status;
}

static int run_formats(comparison *b, const options *o)
{
    static const char *const columns[] = {"format", "as", "bytes/token", "vs f16", "K error",
                                          "V error", "attention", "top-1", "attend", "encode",
                                          "decode"};
    int total = 1;
    table t;
    for (const char *c = o->formats; *c; c++)
        total += *c == ',';
    points p = {.at = allocate((size_t)total, sizeof *p.at)};
    if (!p.at)
        return EXIT_FAILED;
    table_start(&t, columns, 11);
    int status = measure_formats(b, o, total, &t, &p);
    int has_table = status == EXIT_OK && !o->json;
    if (has_table)
        print_head(b->c, o, b->original.n_queries);
    else
        t.n_rows = 0;
    if (!table_finish(&t) && status == EXIT_OK)
        status = EXIT_FAILED;
    if (status == EXIT_OK && o->plot && !plot_write(o->plot, p.at, p.n))
        status = EXIT_FAILED;
    free(p.at);
    return status;
}

/* ---- the run ---- */

static int prepare(comparison *b, const options *o)
{
    const capture *c = b->c;
    if (c->n_tokens < 2)
        return !failed("eval needs at least 2 tokens");
    b->keys = allocate((size_t)c->k.n_rows, c->head_dim * sizeof *b->keys);
    b->values = allocate((size_t)c->v.n_rows, c->v_head_dim * sizeof *b->values);
    if (o->device) { /* a byte a value at most, and scales */
        b->key_rows = allocate((size_t)c->k.n_rows, c->head_dim + 64u);
        b->value_rows = allocate((size_t)c->v.n_rows, c->v_head_dim + 64u);
        if (!b->key_rows || !b->value_rows)
            return 0;
    }
    return b->keys && b->values && attention_init(&b->original, c, o->queries) &&
           attention_init(&b->decoded, c, o->queries);
}

/* The balances of rows and of pages, from the first half. */
static int fit_balances(comparison *b)
{
    const capture *c = b->c;
    for (int i = 0; i < 2; i++) {
        tqkv_status status = tqkv_profile_create((uint32_t)c->n_layers, c->n_kv_heads,
                                                 c->head_dim, NULL, &b->balance[i]);
        if (status != TQKV_OK)
            return !failed("head_dim %u: %s", (unsigned)c->head_dim, tqkv_status_string(status));
        if (!fit_profile(c, c->n_tokens / 2, i, b->balance[i]))
            return 0;
    }
    return 1;
}

static void release(comparison *b)
{
    attention_free(&b->original);
    attention_free(&b->decoded);
    free(b->keys);
    free(b->values);
    free(b->key_rows);
    free(b->value_rows);
    tqkv_profile_free(b->balance[0]);
    tqkv_profile_free(b->balance[1]);
}

static int run(const options *o, char **paths, int n_paths)
{
    capture c;
    comparison b = {.c = &c};
    device d;
    int result = EXIT_FAILED, ok = capture_load(&c, paths, n_paths, o->bf16);
    if (ok && o->device) {
        ok = device_open(&d, o->device, NULL);
        b.device = ok ? &d : NULL;
    }
    if (ok && prepare(&b, o) && fit_balances(&b)) {
        attention_run(&b.original, &c, c.keys, c.values);
        result = run_formats(&b, o);
    }
    release(&b);
    if (b.device)
        device_close(&d);
    capture_free(&c);
    return result;
}

int command_eval(int argc, char **argv)
{
    static const struct option names[] = {
        {"formats", required_argument, NULL, 'f'},
        {"queries", required_argument, NULL, 'q'}, {"plot", required_argument, NULL, 'p'},
        {"bf16", no_argument, NULL, 'b'}, {"json", no_argument, NULL, 'j'},
        {"device", required_argument, NULL, 'D'}, {"help", no_argument, NULL, 'h'}, {0}};
    static char selection[sizeof default_formats];
    options o = {.queries = 256, .formats = selection, .is_selection = 1};
    int option, ok = 1;
    memcpy(selection, default_formats, sizeof selection);
    while (ok && (option = getopt_long(argc, argv, "f:q:h", names, NULL)) != -1) {
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return EXIT_OK;
        case 'f':
            o.formats = optarg;
            o.is_selection = 0;
            ok = optarg[strspn(optarg, ",")] != 0;
            break;
        case 'q':
            ok = parse_number(optarg, UINT32_MAX, &o.queries) && o.queries;
            break;
        case 'p':
            o.plot = optarg;
            if (!plot_check(optarg))
                return EXIT_USAGE;
            break;
        case 'b':
            o.bf16 = 1;
            break;
        case 'D':
            o.device = optarg;
            break;
        case 'j':
            o.json = 1;
            break;
        default:
            return misused_option("eval", argv);
        }
    }
    if (!ok)
        return misused("'%s' is outside its option's range; see 'tqkv eval --help'", optarg);
    if (argc - optind != 1 && argc - optind != 3)
        return misused("eval takes DIR or Q.npy K.npy V.npy; see 'tqkv eval --help'");
    return run(&o, argv + optind, argc - optind);
}

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "error.h"
#include "eval_attention.h"
#include "eval_cache.h"
#include "eval_device.h"
#include "fit.h"
#include "format_list.h"
#include "json.h"
#include "plot.h"
#include "table.h"

static const char help[] =
    "usage: tqkv eval [OPTION]... DIR\n"
    "       tqkv eval [OPTION]... Q.npy K.npy V.npy\n"
    "\n"
    "Puts captured keys and values into a cache of each format and compares causal\n"
    "attention on its codes with attention over the originals in double precision, for\n"
    "queries of the second half: plain, with a key profile that is fitted to the first\n"
    "half, and with page means. DIR has q.npy, k.npy and v.npy. Arrays are [tokens,\n"
    "heads, head_dim] or have a leading layer axis.\n"
    "\n"
    "  -f, --formats A,B,..  formats to measure (default: a selection)\n"
    "  -m, --centres N       centres of the profile, 1 to 256 (default 1); more than\n"
    "                        one costs a byte a key\n"
    "  -q, --queries N       query positions to attend from (default 256)\n"
    "      --plot FILE       draw error against bytes, as .svg or .png\n"
    "      --bf16            uint16 in the arrays is bfloat16\n"
    "      --device NAME     measure a device (see 'tqkv devices') instead of the\n"
    "                        processor; it has no page means\n"
    "      --json            one JSON object a line\n"
    "  -h, --help            this text\n";

static const char default_formats[] =
    "tq2,tq2.5,tq3,tq3.5,tq4,tq4.25,tq4.5,tq5,tq6,tq8,lm2,lm3,lm4,mlx4,mlx5,mlx6,mlx8";

typedef struct options {
    char *formats;
    uint64_t centres, queries;
    const char *plot, *device;
    int bf16, json, is_selection; /* the default formats */
} options;

/* What all formats are measured with. */
typedef struct comparison {
    const capture *c;
    const tqkv_profile *profile;
    attention original, decoded;
    float *keys, *values; /* decoded */
    uint8_t *rows;
    const device *device; /* null: the processor */
    uint8_t *key_rows, *value_rows; /* of all layers, for the device */
} comparison;

typedef struct measurement {
    char name[TQKV_FORMAT_NAME_SIZE];
    double bytes, ratio, k_error, v_error;
    double attention, top1, attention_profile, top1_profile;
    double attention_means, means_bytes, means_time; /* the last two as ratios */
    double encode_speed, decode_speed; /* values a second */
} measurement;

typedef struct span {
    double encode_seconds, decode_seconds, values;
} span;

/* Round trip of all rows of one array, head by head. */
static tqkv_status round_trip(const comparison *b, const tqkv_format *f,
                              const tqkv_profile *profile, const float *src, float *dst,
                              span *time)
{
    const capture *c = b->c;
    tqkv_status status = TQKV_OK;
    size_t stride = (size_t)c->n_kv_heads * f->head_dim, n = (size_t)c->n_tokens;
    int centres = tqkv_profile_n_centres(profile) > 1;
    for (uint64_t i = 0; status == TQKV_OK && i < c->n_layers * c->n_kv_heads; i++) {
        uint64_t layer = i / c->n_kv_heads, head = i % c->n_kv_heads;
        size_t first = (size_t)(layer * n * c->n_kv_heads + head) * f->head_dim;
        tqkv_key_profile p;
        tqkv_rows rows;
        if (profile)
            tqkv_profile_get(profile, (uint32_t)layer, (uint32_t)head, &p);
        status = tqkv_rows_at(f, b->rows, 0, centres, &rows);
        double start = seconds();
        if (status == TQKV_OK)
            status = tqkv_encode(f, profile ? &p : NULL, src + first, TQKV_F32, stride, n, &rows);
        double between = seconds();
        if (status == TQKV_OK)
            status = tqkv_decode(f, profile ? &p : NULL, &rows, n, TQKV_ORIGINAL, dst + first,
                                 stride);
        time->encode_seconds += between - start;
        time->decode_seconds += seconds() - between;
        time->values += (double)n * f->head_dim;
    }
    return status;
}

/* Name and size of a format; all else 0. */
static void measure_size(const capture *c, const tqkv_format *fk, const tqkv_format *fv,
                         measurement *r)
{
    size_t k_row, v_row;
    memset(r, 0, sizeof *r);
    tqkv_format_name(fk, r->name, sizeof r->name);
    tqkv_format_row_bytes(fk, 0, &k_row);
    tqkv_format_row_bytes(fv, 0, &v_row);
    r->bytes = (double)(k_row + v_row) * (double)(c->n_layers * c->n_kv_heads);
    r->ratio = 2.0 * (c->head_dim + c->v_head_dim) / (double)(k_row + v_row);
}

static tqkv_status measure(comparison *b, const tqkv_format *fk, const tqkv_format *fv,
                           measurement *r)
{
    const capture *c = b->c;
    size_t rows = (size_t)c->k.n_rows;
    span time = {0}, ignored = {0};
    measure_size(c, fk, fv, r);
    tqkv_status status = round_trip(b, fk, NULL, c->keys, b->keys, &time);
    if (status == TQKV_OK)
        status = round_trip(b, fv, NULL, c->values, b->values, &time);
    if (status != TQKV_OK)
        return status;
    r->encode_speed = time.values / time.encode_seconds;
    r->decode_speed = time.values / time.decode_seconds;
    r->k_error = relative_error(c->keys, b->keys, rows * c->head_dim);
    r->v_error = relative_error(c->values, b->values, rows * c->v_head_dim);
    /* which key is attended most, from what keys decode to */
    attention_run(&b->decoded, c, b->keys, b->values);
    r->top1 = attention_agreement(&b->original, &b->decoded, c);
    status = round_trip(b, fk, b->profile, c->keys, b->keys, &ignored);
    if (status != TQKV_OK)
        return status;
    attention_run(&b->decoded, c, b->keys, b->values);
    r->top1_profile = attention_agreement(&b->original, &b->decoded, c);
    return TQKV_OK;
}

/* All of a format on a device. */
static int measure_on_device(comparison *b, const tqkv_format *fk, const tqkv_format *fv,
                             measurement *r)
{
    const capture *c = b->c;
    const device *d = b->device;
    size_t rows = (size_t)c->k.n_rows;
    device_span time = {0}, ignored = {0};
    measure_size(c, fk, fv, r);
    if (!device_round_trip(d, c, fk, NULL, c->keys, b->keys, b->key_rows, &time) ||
        !device_round_trip(d, c, fv, NULL, c->values, b->values, b->value_rows, &time))
        return 0;
    r->encode_speed = time.values / time.encode_seconds;
    r->decode_speed = time.values / time.decode_seconds;
    r->k_error = relative_error(c->keys, b->keys, rows * c->head_dim);
    r->v_error = relative_error(c->values, b->values, rows * c->v_head_dim);
    attention_run(&b->decoded, c, b->keys, b->values);
    r->top1 = attention_agreement(&b->original, &b->decoded, c);
    if (!device_eval_attention(d, &b->decoded, c, fk, fv, NULL, b->key_rows, b->value_rows))
        return 0;
    r->attention = attention_error(&b->original, &b->decoded, c);
    if (!device_round_trip(d, c, fk, b->profile, c->keys, b->keys, b->key_rows, &ignored))
        return 0;
    attention_run(&b->decoded, c, b->keys, b->values);
    r->top1_profile = attention_agreement(&b->original, &b->decoded, c);
    if (!device_eval_attention(d, &b->decoded, c, fk, fv, b->profile, b->key_rows, b->value_rows))
        return 0;
    r->attention_profile = attention_error(&b->original, &b->decoded, c);
    return 1;
}

/* Attention by the library, on codes. */
static int measure_attention(comparison *b, const tqkv_format *fk, const tqkv_format *fv,
                             measurement *r)
{
    const capture *c = b->c;
    cache_run plain, other, means;
    if (!cache_attention(&b->decoded, c, fk, fv, NULL, 0, &plain))
        return 0;
    r->attention = attention_error(&b->original, &b->decoded, c);
    if (!cache_attention(&b->decoded, c, fk, fv, b->profile, 0, &other))
        return 0;
    r->attention_profile = attention_error(&b->original, &b->decoded, c);
    if (!cache_attention(&b->decoded, c, fk, fv, NULL, 1, &means))
        return 0;
    r->attention_means = attention_error(&b->original, &b->decoded, c);
    r->means_bytes = means.token_bytes / plain.token_bytes;
    r->means_time = means.seconds / plain.seconds;
    return 1;
}

static void report_json(const measurement *r, uint32_t head_dim)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "format", r->name);
    cJSON_AddNumberToObject(object, "head_dim", head_dim);
    cJSON_AddNumberToObject(object, "bytes_per_token", r->bytes);
    cJSON_AddNumberToObject(object, "ratio", r->ratio);
    cJSON_AddNumberToObject(object, "k_rel_err", r->k_error);
    cJSON_AddNumberToObject(object, "v_rel_err", r->v_error);
    cJSON_AddNumberToObject(object, "attn_rel_err", r->attention);
    cJSON_AddNumberToObject(object, "top1", r->top1);
    cJSON_AddNumberToObject(object, "attn_rel_err_profile", r->attention_profile);
    cJSON_AddNumberToObject(object, "top1_profile", r->top1_profile);
    if (r->means_bytes > 0) {
        cJSON_AddNumberToObject(object, "attn_rel_err_means", r->attention_means);
        cJSON_AddNumberToObject(object, "means_bytes", r->means_bytes);
        cJSON_AddNumberToObject(object, "means_time", r->means_time);
    }
    cJSON_AddNumberToObject(object, "encode_values_per_second", r->encode_speed);
    cJSON_AddNumberToObject(object, "decode_values_per_second", r->decode_speed);
    json_print_line(object);
}

static void report_row(table *t, const measurement *r)
{
    table_row(t);
    table_cell(t, 0, "%s", r->name);
    table_cell(t, 1, "%.0f", r->bytes);
    table_cell(t, 2, "%.2fx", r->ratio);
    table_cell(t, 3, "%.4f", r->k_error);
    table_cell(t, 4, "%.4f", r->v_error);
    table_cell(t, 5, "%.4f", r->attention);
    table_cell(t, 6, "%.1f%%", 100 * r->top1);
    table_cell(t, 7, "%.4f", r->attention_profile);
    table_cell(t, 8, "%.1f%%", 100 * r->top1_profile);
    if (r->means_bytes > 0)
        table_cell(t, 9, "%.4f", r->attention_means);
    table_cell(t, 10, "%.0f", r->encode_speed / 1e6);
    table_cell(t, 11, "%.0f", r->decode_speed / 1e6);
}

static void print_head(const capture *c, const options *o, uint64_t n_queries)
{
    printf("%llu layers, %llu tokens, %u query heads, %u KV heads, head_dim %u; attention\n"
           "from %llu positions of the second half. Profile: %llu centre%s a head, fitted to\n"
           "the first half. Means: of pages of 64 keys. Speeds in million values a second, %s%s.\n\n",
           (unsigned long long)c->n_layers, (unsigned long long)c->n_tokens, c->n_heads,
           c->n_kv_heads, c->head_dim, (unsigned long long)n_queries,
           (unsigned long long)o->centres, o->centres > 1 ? "s" : "",
           o->device ? "" : "one thread, ", o->device ? o->device : tqkv_isa_name());
}

/* What all formats measured so far come to. */
typedef struct summary {
    plot_point *points;
    int n_points;
    double means_bytes, means_time; /* sums of ratios */
} summary;

static void add_to_summary(summary *s, const measurement *r)
{
    plot_point *p = &s->points[s->n_points++];
    memcpy(p->name, r->name, sizeof p->name);
    p->bytes = r->bytes;
    p->error = r->attention;
    p->error_with_profile = r->attention_profile;
    s->means_bytes += r->means_bytes;
    s->means_time += r->means_time;
}

/* All formats of the list, one after the other. */
static int measure_formats(comparison *b, const options *o, int total, table *t, summary *s)
{
    const capture *c = b->c;
    int status = EXIT_OK;
    char *list = o->formats;
    format_pair f;
    while (next_format(&list, o->is_selection, c->head_dim, c->v_head_dim, &f, &status)) {
        measurement r;
        progress("measuring", (uint64_t)s->n_points, (uint64_t)total);
        if (b->device && !measure_on_device(b, &f.keys, &f.values, &r)) {
            status = EXIT_FAILED;
            break;
        }
        tqkv_status measured = b->device ? TQKV_OK : measure(b, &f.keys, &f.values, &r);
        if (measured != TQKV_OK) {
            status = failed("%s: %s", f.name, tqkv_status_string(measured));
            break;
        }
        if (!b->device && !measure_attention(b, &f.keys, &f.values, &r)) {
            status = EXIT_FAILED;
            break;
        }
        add_to_summary(s, &r);
        if (o->json)
            report_json(&r, c->head_dim);
        else
            report_row(t, &r);
    }
    progress_end();
    return status;
}

static int run_formats(comparison *b, const options *o)
{
    static const char *const columns[] = {
        "format", "bytes/token", "vs f16", "K error", "V error", "attention", "top-1",
        "+profile", "top-1", "+means", "encode", "decode"};
    int total = 1;
    table t;
    for (const char *p = o->formats; *p; p++)
        total += *p == ',';
    summary s = {.points = allocate((size_t)total, sizeof *s.points)};
    if (!s.points)
        return EXIT_FAILED;
    table_start(&t, columns, 12);
    int status = measure_formats(b, o, total, &t, &s);
    int has_table = status == EXIT_OK && !o->json;
    if (has_table)
        print_head(b->c, o, b->original.n_queries);
    else
        t.n_rows = 0;
    if (!table_finish(&t) && status == EXIT_OK)
        status = EXIT_FAILED;
    if (has_table && status == EXIT_OK && s.n_points && !b->device)
        printf("\nPage means take %.1f%% more bytes and %.0f%% more time, averaged over these "
               "formats.\n",
               100 * (s.means_bytes / s.n_points - 1), 100 * (s.means_time / s.n_points - 1));
    if (status == EXIT_OK && o->plot && !plot_write(o->plot, s.points, s.n_points))
        status = EXIT_FAILED;
    free(s.points);
    return status;
}

static int prepare(comparison *b, const options *o)
{
    const capture *c = b->c;
    uint32_t widest = c->head_dim > c->v_head_dim ? c->head_dim : c->v_head_dim;
    if (c->n_tokens < 2)
        return !failed("eval needs at least 2 tokens");
    b->keys = allocate((size_t)c->k.n_rows, c->head_dim * sizeof *b->keys);
    b->values = allocate((size_t)c->v.n_rows, c->v_head_dim * sizeof *b->values);
    /* a byte a value at most, and scales and a centre's number */
    b->rows = allocate((size_t)c->n_tokens, widest + 64);
    if (o->device) {
        b->key_rows = allocate((size_t)c->k.n_rows, c->head_dim + 64u);
        b->value_rows = allocate((size_t)c->v.n_rows, c->v_head_dim + 64u);
        if (!b->key_rows || !b->value_rows)
            return 0;
    }
    return b->keys && b->values && b->rows && attention_init(&b->original, c, o->queries) &&
           attention_init(&b->decoded, c, o->queries);
}

static int run(const options *o, char **paths, int n_paths)
{
    capture c;
    tqkv_profile *profile = NULL;
    comparison b = {.c = &c};
    device d;
    int result = EXIT_FAILED, ok = capture_load(&c, paths, n_paths, o->bf16);
    if (ok) {
        tqkv_status status = tqkv_profile_create((uint32_t)c.n_layers, c.n_kv_heads, c.head_dim,
                                                 (uint32_t)o->centres, NULL, &profile);
        if (status != TQKV_OK)
            ok = !failed("head_dim %u: %s", (unsigned)c.head_dim, tqkv_status_string(status));
    }
    if (ok && o->device) {
        ok = device_open(&d, o->device, NULL);
        b.device = ok ? &d : NULL;
    }
    ok = ok && prepare(&b, o) && fit_profile(&c, c.n_tokens / 2, 1, profile);
    if (ok) {
        b.profile = profile;
        attention_run(&b.original, &c, c.keys, c.values);
        result = run_formats(&b, o);
    }
    attention_free(&b.original);
    attention_free(&b.decoded);
    free(b.keys);
    free(b.values);
    free(b.rows);
    free(b.key_rows);
    free(b.value_rows);
    if (b.device)
        device_close(&d);
    tqkv_profile_free(profile);
    capture_free(&c);
    return result;
}

int command_eval(int argc, char **argv)
{
    static const struct option names[] = {
        {"formats", required_argument, NULL, 'f'}, {"centres", required_argument, NULL, 'm'},
        {"queries", required_argument, NULL, 'q'}, {"plot", required_argument, NULL, 'p'},
        {"bf16", no_argument, NULL, 'b'}, {"json", no_argument, NULL, 'j'},
        {"device", required_argument, NULL, 'D'}, {"help", no_argument, NULL, 'h'}, {0}};
    static char selection[sizeof default_formats];
    options o = {.centres = 1, .queries = 256, .formats = selection, .is_selection = 1};
    int option, ok = 1;
    memcpy(selection, default_formats, sizeof selection);
    while (ok && (option = getopt_long(argc, argv, "f:m:q:h", names, NULL)) != -1) {
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return EXIT_OK;
        case 'f':
            o.formats = optarg;
            o.is_selection = 0;
            ok = optarg[strspn(optarg, ",")] != 0;
            break;
        case 'm':
            ok = parse_number(optarg, 256, &o.centres) && o.centres;
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

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ablate_device.h"
#include "capture.h"
#include "command.h"
#include "device_rows.h"
#include "error.h"
#include "format_list.h"
#include "json.h"
#include "table.h"
#include "tqkv_attention.h"

static const char help[] =
    "usage: tqkv ablate [OPTION]... DIR\n"
    "       tqkv ablate [OPTION]... Q.npy K.npy V.npy\n"
    "\n"
    "Tells a bug in a kernel from the error of a representation, as Leg F of\n"
    "mlx-native does: on the same queries it runs dense attention over the original\n"
    "keys and values, dense attention over decoded rows, and attention on the codes.\n"
    "The second differs from the first by what the format loses; the third from the\n"
    "second only by what the kernel does, for which there is a bound.\n"
    "\n"
    "  -f, --formats A,B,..   formats to run (default: a selection)\n"
    "  -q, --queries N        queries, at the last positions (default 64)\n"
    "      --wrong-scale X    multiply the scales of codes by X, as a kernel with a\n"
    "                         wrong scale would\n"
    "      --device NAME      run the legs on a device (see 'tqkv devices'): those of mlx\n"
    "                         formats by the reference's own dispatches, in the rotated\n"
    "                         domain and a position at a time\n"
    "      --bf16             uint16 in the arrays is bfloat16\n"
    "      --json             one JSON object a line\n"
    "  -h, --help             this text\n"
    "\n"
    "Exit status: 0 if all formats are at their representation's floor, 1 if not.\n";

static const char default_formats[] = "mlx4,mlx5,mlx6,mlx8,lm4,tq2,tq3,tq4,tq5,tq6,tq8";

typedef struct options {
    char *formats;
    uint64_t queries;
    double wrong_scale;
    const char *device;
    int bf16, json, is_selection;
} options;

typedef struct legs {
    const capture *c;
    const options *o;
    const device *device; /* null: the processor */
    uint32_t n_queries;
    size_t out_floats; /* of one leg, all layers */
    int dense_is_rotated; /* the reference's leg took the place of ours */
    float *dense, *decoded, *codes;   /* outputs of the legs */
    float *keys, *values;             /* decoded rows of a layer */
    uint8_t *key_rows, *value_rows;   /* codes of a layer */
} legs;

/* ---- operands ---- */

static tqkv_operand dense(const float *x, uint32_t n_heads, uint32_t dim)
{
    return (tqkv_operand){.format.head_dim = (uint16_t)dim, .type = TQKV_F32,
                          .rows = {.codes = (uint8_t *)x, .code_stride = 4u * n_heads * dim},
                          .head.codes = 4u * dim};
}

/* Heads one after the other, rows of a head together. */
static tqkv_operand coded(const tqkv_format *f, uint8_t *rows, size_t n_tokens)
{
    tqkv_operand o = {.format = *f};
    size_t row;
    tqkv_format_row_bytes(f, &row);
    tqkv_rows_at(f, rows, 0, &o.rows);
    o.head = (tqkv_strides){.codes = n_tokens * row, .scales = n_tokens * row};
    return o;
}

/* Codes of one layer's keys or values, and what they decode to, by the device. */
static tqkv_status round_trip_on_device(const legs *l, const tqkv_format *f, const float *x,
                                        uint8_t *rows, float *decoded)
{
    const capture *c = l->c;
    size_t row, n = (size_t)c->n_tokens;
    tqkv_format_row_bytes(f, &row);
    uint8_t *made = malloc(n * c->n_kv_heads * row); /* [token][head] */
    int ok = made && device_encode(l->device, f, NULL, 0, c->n_kv_heads, x, TQKV_F32, n, made,
                                   NULL) &&
             device_decode(l->device, f, NULL, 0, c->n_kv_heads, made, n, decoded, NULL);
    for (size_t t = 0; ok && t < n; t++)
        for (size_t h = 0; h < c->n_kv_heads; h++)
            memcpy(rows + (h * n + t) * row, made + (t * c->n_kv_heads + h) * row, row);
    free(made);
    return ok ? TQKV_OK : TQKV_ERROR_DEVICE;
}

/* The same by the processor, or by the device if there is one. */
static tqkv_status round_trip(const legs *l, const tqkv_format *f, const float *x,
                              uint8_t *rows, float *decoded)
{
    const capture *c = l->c;
    if (l->device)
        return round_trip_on_device(l, f, x, rows, decoded);
    size_t n = (size_t)c->n_tokens, stride = (size_t)c->n_kv_heads * f->head_dim, row;
    tqkv_status status = tqkv_format_row_bytes(f, &row);
    for (uint32_t h = 0; status == TQKV_OK && h < c->n_kv_heads; h++) {
        tqkv_rows r;
        tqkv_rows_at(f, rows + h * n * row, 0, &r);
        status = tqkv_encode(f, NULL, x + h * f->head_dim, TQKV_F32, stride, n, &r);
        if (status == TQKV_OK)
            status = tqkv_decode(f, NULL, &r, n, TQKV_ORIGINAL, decoded + h * f->head_dim,
                                 stride);
    }
    return status;
}

/* Multiplies a layer's scales, halves or floats. */
static void multiply_scales(const capture *c, const tqkv_format *f, uint8_t *rows, double factor)
{
    size_t scale, code, n = (size_t)c->n_tokens * c->n_kv_heads;
    tqkv_format_code_bytes(f, &code);
    tqkv_format_scale_bytes(f, &scale);
    for (size_t r = 0; r < n; r++) {
        uint8_t *at = rows + r * (code + scale) + code;
        tqkv_type type = scale == 2 ? TQKV_F16 : TQKV_F32;
        for (size_t i = 0; i < scale; i += scale == 2 ? 2 : 4) {
            float x;
            tqkv_to_f32(at + i, type, 1, &x);
            x = (float)(x * factor);
            tqkv_from_f32(&x, 1, at + i, type);
        }
    }
}

/* ---- legs ---- */

/* What a device cannot do it has said; the status says no more than that. */
static tqkv_status attend_on_device(const legs *l, uint64_t layer, tqkv_operand keys,
                                    tqkv_operand values, float *out)
{
    const capture *c = l->c;
    uint64_t first = c->n_tokens - l->n_queries;
    device_attention a = {
        .n_sequences = 1, .n_queries = l->n_queries, .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads, .position = first, .n_tokens = (size_t)c->n_tokens,
        .keys = keys, .values = values, .scale = 1 / sqrtf((float)c->head_dim),
        .queries = c->queries + (layer * c->n_tokens + first) * c->n_heads * c->head_dim,
        .out = out + layer * l->out_floats / c->n_layers};
    return device_attend(l->device, &a) ? TQKV_OK : TQKV_ERROR_DEVICE;
}

static tqkv_status attend(const legs *l, uint64_t layer, tqkv_operand keys, tqkv_operand values,
                          float *out)
{
    const capture *c = l->c;
    if (l->device)
        return attend_on_device(l, layer, keys, values, out);
    uint64_t first = c->n_tokens - l->n_queries;
    tqkv_tokens set = {.n_tokens = (size_t)c->n_tokens, .keys = keys, .values = values};
    tqkv_attention a = {
        .n_queries = l->n_queries, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads,
        .position = first, .causal = 1, .scale = 1 / sqrtf((float)c->head_dim), .sets = &set,
        .n_sets = 1,
        .queries = c->queries + (layer * c->n_tokens + first) * c->n_heads * c->head_dim};
    tqkv_partial result = {out + layer * l->out_floats / c->n_layers, NULL, NULL};
    size_t bytes;
    tqkv_status status = tqkv_attend_workspace(&a, NULL, &bytes);
    void *workspace = status == TQKV_OK ? malloc(bytes) : NULL;
    if (status == TQKV_OK)
        status = workspace ? tqkv_attend(&a, &result, NULL, workspace, bytes)
                           : TQKV_ERROR_MEMORY;
    free(workspace);
    return status;
}

static const float *layer_of(const capture *c, const float *x, uint64_t layer, uint32_t dim)
{
    return x + layer * c->n_tokens * c->n_kv_heads * dim;
}

static tqkv_status run_dense(legs *l)
{
    const capture *c = l->c;
    tqkv_status status = TQKV_OK;
    l->dense_is_rotated = 0;
    for (uint64_t i = 0; status == TQKV_OK && i < c->n_layers; i++)
        status = attend(l, i, dense(layer_of(c, c->keys, i, c->head_dim), c->n_kv_heads,
                                    c->head_dim),
                        dense(layer_of(c, c->values, i, c->v_head_dim), c->n_kv_heads,
                              c->v_head_dim),
                        l->dense);
    return status;
}

static tqkv_status run_format(legs *l, const tqkv_format *fk, const tqkv_format *fv)
{
    const capture *c = l->c;
    tqkv_status status = TQKV_OK;
    if (l->device && fk->codebook == TQKV_CODEBOOK_MLX) {
        l->dense_is_rotated = 1;
        return device_reference_legs(l->device, c, fk, l->n_queries, l->o->wrong_scale, l->dense,
                                     l->decoded, l->codes)
                   ? TQKV_OK
                   : TQKV_ERROR_DEVICE;
    }
    if (l->dense_is_rotated)
        status = run_dense(l);
    for (uint64_t i = 0; status == TQKV_OK && i < c->n_layers; i++) {
        status = round_trip(l, fk, layer_of(c, c->keys, i, c->head_dim), l->key_rows, l->keys);
        if (status == TQKV_OK)
            status = round_trip(l, fv, layer_of(c, c->values, i, c->v_head_dim), l->value_rows,
                                l->values);
        if (status == TQKV_OK)
            status = attend(l, i, dense(l->keys, c->n_kv_heads, c->head_dim),
                            dense(l->values, c->n_kv_heads, c->v_head_dim), l->decoded);
        if (l->o->wrong_scale != 1) {
            multiply_scales(c, fk, l->key_rows, l->o->wrong_scale);
            multiply_scales(c, fv, l->value_rows, l->o->wrong_scale);
        }
        if (status == TQKV_OK)
            status = attend(l, i, coded(fk, l->key_rows, (size_t)c->n_tokens),
                            coded(fv, l->value_rows, (size_t)c->n_tokens), l->codes);
    }
    return status;
}

/* ---- verdicts ---- */

/* What tqkv_attention.h promises. */
static double kernel_bound(const tqkv_format *f)
{
    return f->bits > 6 ? 1e-3 : 1.5e-2;
}

/* 1 if the kernel is within its bound. */
static int report(const legs *l, table *t, const format_pair *f)
{
    double kernel = relative_error(l->decoded, l->codes, l->out_floats);
    double floor = relative_error(l->dense, l->decoded, l->out_floats);
    double total = relative_error(l->dense, l->codes, l->out_floats);
    double bound = fmax(kernel_bound(&f->keys), kernel_bound(&f->values));
    int is_floor = kernel <= bound;
    const char *verdict = is_floor ? "representation floor" : "kernel bug";
    if (l->o->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "format", f->name);
        cJSON_AddNumberToObject(object, "kernel_error", kernel);
        cJSON_AddNumberToObject(object, "kernel_bound", bound);
        cJSON_AddNumberToObject(object, "representation_error", floor);
        cJSON_AddNumberToObject(object, "total_error", total);
        cJSON_AddStringToObject(object, "verdict", verdict);
        json_print_line(object);
        return is_floor;
    }
    table_row(t);
    table_cell(t, 0, "%s", f->name);
    table_cell(t, 1, "%.5f", floor);
    table_cell(t, 2, "%.5f", kernel);
    table_cell(t, 3, "%.4f", bound);
    table_cell(t, 4, "%.5f", total);
    table_cell(t, 5, "%s", verdict);
    return is_floor;
}

/* ---- the command ---- */

static int prepare(legs *l, const capture *c, const options *o)
{
    size_t rows = (size_t)c->n_tokens * c->n_kv_heads;
    l->c = c;
    l->o = o;
    l->n_queries = (uint32_t)(o->queries < c->n_tokens ? o->queries : c->n_tokens);
    l->out_floats = (size_t)(c->n_layers * l->n_queries * c->n_heads) * c->v_head_dim;
    l->dense = allocate(l->out_floats, sizeof *l->dense);
    l->decoded = allocate(l->out_floats, sizeof *l->decoded);
    l->codes = allocate(l->out_floats, sizeof *l->codes);
    l->keys = allocate(rows, c->head_dim * sizeof *l->keys);
    l->values = allocate(rows, c->v_head_dim * sizeof *l->values);
    /* a byte a value at most, and norms */
    l->key_rows = allocate(rows, c->head_dim + 16u);
    l->value_rows = allocate(rows, c->v_head_dim + 16u);
    return l->dense && l->decoded && l->codes && l->keys && l->values && l->key_rows &&
           l->value_rows;
}

static void release(legs *l)
{
    void *memory[] = {l->dense, l->decoded, l->codes, l->keys, l->values, l->key_rows,
                      l->value_rows};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
}

static int run_formats(legs *l, table *t)
{
    const capture *c = l->c;
    int status = EXIT_OK, bugs = 0;
    char *list = l->o->formats;
    format_pair f;
    while (next_format(&list, l->o->is_selection, c->head_dim, c->v_head_dim, &f, &status)) {
        progress("running legs of", 0, 1);
        tqkv_status s = run_format(l, &f.keys, &f.values);
        if (s != TQKV_OK) {
            status = l->device ? EXIT_FAILED : failed("%s: %s", f.name, tqkv_status_string(s));
            break;
        }
        bugs += !report(l, t, &f);
    }
    progress_end();
    return status == EXIT_OK && bugs ? EXIT_FAILED : status;
}

static int run(const options *o, char **paths, int n_paths)
{
    static const char *const columns[] = {"format", "representation", "kernel", "bound",
                                          "together", "verdict"};
    capture c;
    legs l = {0};
    device d;
    table t;
    int result = EXIT_FAILED;
    table_start(&t, columns, 6);
    int ok = capture_load(&c, paths, n_paths, o->bf16) && prepare(&l, &c, o);
    if (ok && o->device) {
        ok = device_open(&d, o->device, NULL);
        l.device = ok ? &d : NULL;
    }
    if (ok) {
        tqkv_status status = run_dense(&l);
        result = status == TQKV_OK ? run_formats(&l, &t)
                                   : failed("dense attention: %s", tqkv_status_string(status));
    }
    if (o->json || result == EXIT_USAGE)
        t.n_rows = 0;
    else if (t.n_rows > 1)
        printf("Errors of attention outputs. Representation: over decoded rows against over the\n"
               "originals. Kernel: on codes against over decoded rows. %s kernels.\n\n",
               o->device ? o->device : tqkv_isa_name());
    if (!table_finish(&t) && result == EXIT_OK)
        result = EXIT_FAILED;
    if (l.device)
        device_close(&d);
    release(&l);
    capture_free(&c);
    return result;
}

int command_ablate(int argc, char **argv)
{
    static const struct option names[] = {
        {"formats", required_argument, NULL, 'f'}, {"queries", required_argument, NULL, 'q'},
        {"wrong-scale", required_argument, NULL, 'w'}, {"device", required_argument, NULL, 'D'},
        {"bf16", no_argument, NULL, 'b'},
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
    static char selection[sizeof default_formats];
    options o = {.queries = 64, .formats = selection, .is_selection = 1, .wrong_scale = 1};
    int option, ok = 1;
    char *end;
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
            ok = parse_number(optarg, 65536, &o.queries) && o.queries;
            break;
        case 'w':
            o.wrong_scale = strtod(optarg, &end);
            ok = end != optarg && !*end && isfinite(o.wrong_scale) && o.wrong_scale > 0;
            break;
        case 'D':
            o.device = optarg;
            break;
        case 'b':
            o.bf16 = 1;
            break;
        case 'j':
            o.json = 1;
            break;
        default:
            return misused_option("ablate", argv);
        }
    }
    if (!ok)
        return misused("'%s' is outside its option's range; see 'tqkv ablate --help'", optarg);
    if (argc - optind != 1 && argc - optind != 3)
        return misused("ablate takes DIR or Q.npy K.npy V.npy; see 'tqkv ablate --help'");
    return run(&o, argv + optind, argc - optind);
}

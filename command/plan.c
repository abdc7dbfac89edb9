#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "format_list.h"
#include "gguf.h"
#include "json.h"
#include "table.h"
#include "tqkv_page.h"

static const char help[] =
    "usage: tqkv plan [OPTION]... --model FILE.gguf [FORMAT]...\n"
    "       tqkv plan [OPTION]... --layers N --kv-heads N --head-dim N [FORMAT]...\n"
    "\n"
    "Says how many bytes the keys and values of a whole model take in each format,\n"
    "beside f16 and llama.cpp's cache types, and the longest context for some memory. A\n"
    "format may be a pair for keys and values, as tq5/tq4. Its bytes are those of one\n"
    "sequence's pages: sealed ones with scales and means, and the most that it takes of\n"
    "staged ones, in f16, in which tokens wait until 64 of them are there.\n"
    "\n"
    "      --model FILE       a model, of which only the metadata are read\n"
    "      --layers N, --kv-heads N, --head-dim N, --value-dim N\n"
    "                         or its shape (values: as keys)\n"
    "      --window N         positions that layers with a sliding window see\n"
    "      --window-layers N  so many of the layers have one (default with --window:\n"
    "                         all)\n"
    "  -c, --context N        tokens (default 32768)\n"
    "  -M, --memory SIZE      memory for keys and values, as 8G or 512M (default 8G)\n"
    "      --no-means         rows without the means of pages\n"
    "      --recent N         newest tokens that stay in f16 (default 0)\n"
    "      --json             one JSON object a line\n"
    "  -h, --help             this text\n";

typedef struct options {
    const char *model;
    uint64_t layers, kv_heads, head_dim, value_dim, window, window_layers;
    uint64_t context, memory, recent;
    int no_means, json;
} options;

/* Bytes of one row of n values: a format, or one of llama.cpp's types. */
typedef struct row_type {
    const char *name;
    unsigned block, block_bytes; /* 0: a format of ours */
} row_type;

enum { PAGE = TQKV_PAGE_TOKENS };

/* A sealed row, with its share of the page's mean. 0 where a format does not have this
 * size. */
static double row_bytes(const row_type *t, uint32_t dim, int is_value, const options *o)
{
    tqkv_format keys, values;
    size_t bytes;
    if (t->block)
        return dim % t->block ? 0 : (double)dim / t->block * t->block_bytes;
    if (parse_pair(t->name, dim, dim, &keys, &values) != TQKV_OK ||
        tqkv_page_bytes(is_value ? &values : &keys, o->no_means ? 0 : 1, &bytes) != TQKV_OK)
        return 0;
    return (double)bytes / PAGE;
}

/* Bytes of a token in all layers; 0 if the type has no rows of some layer's
 * size. */
static double token_bytes(const model_shape *m, const row_type *t, const options *o)
{
    double bytes = 0;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        double k = row_bytes(t, m->layers[i].key_dim, 0, o);
        double v = row_bytes(t, m->layers[i].value_dim, 1, o);
        if (m->layers[i].n_kv_heads && (k == 0 || v == 0))
            return 0;
        bytes += m->layers[i].n_kv_heads * (k + v);
    }
    return bytes;
}

/* Tokens whose pages are sealed, and tokens' worth of staged pages, of which the cache takes
 * up to so many: those that stay, a page that fills up, one on its way, and the page that
 * they begin within. A window of sealed tokens begins anywhere in its first page. */
static void count_pages(double kept, int has_window, const options *o, double *sealed,
                        double *staged)
{
    double waiting = (double)o->recent < kept ? (double)o->recent : kept;
    *sealed = floor((kept - waiting) / PAGE) * PAGE + (has_window ? PAGE : 0);
    *staged = (ceil(((double)o->recent + 2 * PAGE) / PAGE) + 1) * PAGE;
}

static double layer_bytes(const model_layer *l, const row_type *t, const options *o, double kept)
{
    double row = row_bytes(t, l->key_dim, 0, o) + row_bytes(t, l->value_dim, 1, o), sealed, staged;
    if (t->block)
        return kept * row;
    count_pages(kept, l->window && (double)l->window <= kept, o, &sealed, &staged);
    return sealed * row + staged * 2 * (l->key_dim + l->value_dim);
}

static double context_bytes(const model_shape *m, const row_type *t, const options *o,
                            double context)
{
    double bytes = 0;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const model_layer *l = &m->layers[i];
        double kept = l->window && (double)l->window < context ? (double)l->window : context;
        bytes += l->n_kv_heads * layer_bytes(l, t, o, kept);
    }
    return bytes;
}

/* The most tokens that fit, by halving; infinite if all layers have windows. */
static double longest(const model_shape *m, const row_type *t, const options *o)
{
    double low = 0, high = 1 << 20;
    while (context_bytes(m, t, o, high) <= (double)o->memory && high < 1e15)
        high *= 2;
    if (high >= 1e15)
        return INFINITY;
    while (high - low > 1) {
        double middle = (double)(uint64_t)((low + high) / 2);
        *(context_bytes(m, t, o, middle) <= (double)o->memory ? &low : &high) = middle;
    }
    return low;
}

static void size_text(double bytes, char *text, size_t size)
{
    if (bytes < 1e6)
        snprintf(text, size, "%.1f KB", bytes / 1e3);
    else if (bytes < 1e9)
        snprintf(text, size, "%.1f MB", bytes / 1e6);
    else
        snprintf(text, size, "%.2f GB", bytes / 1e9);
}

static int report(table *t, const model_shape *m, const row_type *type, const options *o,
                  double f16)
{
    char text[32];
    double token = token_bytes(m, type, o);
    if (token == 0)
        return 0;
    double context = context_bytes(m, type, o, (double)o->context);
    double most = longest(m, type, o);
    if (o->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "format", type->name);
        cJSON_AddNumberToObject(object, "bytes_per_token", token);
        cJSON_AddNumberToObject(object, "context", (double)o->context);
        cJSON_AddNumberToObject(object, "context_bytes", context);
        cJSON_AddNumberToObject(object, "ratio", f16 / context);
        cJSON_AddNumberToObject(object, "longest_context", isfinite(most) ? most : -1);
        json_print_line(object);
        return 1;
    }
    table_row(t);
    table_cell(t, 0, "%s", type->name);
    table_cell(t, 1, "%.0f", token);
    size_text(context, text, sizeof text);
    table_cell(t, 2, "%s", text);
    table_cell(t, 3, "%.2fx", f16 / context);
    if (isfinite(most))
        table_cell(t, 4, "%.0f", most);
    else
        table_cell(t, 4, "any");
    return 1;
}

static int run(const options *o, const model_shape *m, char **names, int n_names)
{
    static const char *const columns[] = {"format", "bytes/token", "context", "vs f16",
                                          "longest"};
    static const row_type peers[] = {{"f16", 1, 2}, {"q8_0", 32, 34}, {"q4_0", 32, 18}};
    static const char *const formats[] = {"tq2", "tq3", "tq4", "tq5", "tq6", "tq8", "lm2", "lm3",
                                          "lm4", "mlx4", "mlx5", "mlx6", "mlx8"};
    int n = n_names ? n_names : (int)(sizeof formats / sizeof *formats), status = EXIT_OK;
    double f16 = context_bytes(m, &peers[0], o, (double)o->context);
    char memory[32];
    table t;
    if (f16 == 0)
        return failed("this model keeps no keys and values");
    table_start(&t, columns, 5);
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++)
        report(&t, m, &peers[i], o, f16);
    for (int i = 0; i < n && status == EXIT_OK; i++) {
        row_type type = {.name = n_names ? names[i] : formats[i]};
        tqkv_format keys, values;
        if (parse_pair(type.name, 64, 64, &keys, &values) == TQKV_ERROR_FORMAT_NAME)
            status = misused("%s: %s", type.name, tqkv_status_string(TQKV_ERROR_FORMAT_NAME));
        else if (!report(&t, m, &type, o, f16) && n_names)
            status = failed("%s: has no rows of this model's head_dim", type.name);
    }
    size_text((double)o->memory, memory, sizeof memory);
    if (status == EXIT_OK && !o->json)
        printf("%s: %u layers. Context: bytes for %llu tokens; longest: tokens in %s.\n\n", m->name,
               m->n_layers, (unsigned long long)o->context, memory);
    if (status != EXIT_OK || o->json)
        t.n_rows = 0;
    if (!table_finish(&t) && status == EXIT_OK)
        status = EXIT_FAILED;
    return status;
}

/* ---- options ---- */

/* A number of bytes with K, M, G or T behind it. */
static int parse_size(const char *text, uint64_t *bytes)
{
    char *end;
    double value = strtod(text, &end);
    const char *units = "KMGT", *unit = *end ? strchr(units, *end) : NULL;
    double factor = 1;
    if (end == text || (*end && (!unit || end[1])) || !(value > 0))
        return 0;
    for (const char *u = units; unit && u <= unit; u++)
        factor *= 1024;
    if (value * factor >= 1e18)
        return 0;
    *bytes = (uint64_t)(value * factor);
    return *bytes > 0;
}

static int shape_from_options(const options *o, model_shape *m)
{
    if (!o->layers || !o->kv_heads || !o->head_dim)
        return 0;
    snprintf(m->name, sizeof m->name, "shape given");
    m->n_layers = (uint32_t)o->layers;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        m->layers[i].n_kv_heads = (uint32_t)o->kv_heads;
        m->layers[i].key_dim = (uint32_t)o->head_dim;
        m->layers[i].value_dim = (uint32_t)(o->value_dim ? o->value_dim : o->head_dim);
        if (o->window && (!o->window_layers || i < o->window_layers))
            m->layers[i].window = o->window;
    }
    return 1;
}

static int plan(const options *o, char **names, int n_names)
{
    model_shape *m = calloc(1, sizeof *m);
    int result;
    if (!m)
        return failed("out of memory");
    if (o->model)
        result = gguf_read_shape(o->model, m) ? run(o, m, names, n_names) : EXIT_FAILED;
    else if (shape_from_options(o, m))
        result = run(o, m, names, n_names);
    else
        result = misused("plan needs --model FILE, or --layers, --kv-heads and --head-dim");
    free(m);
    return result;
}

int command_plan(int argc, char **argv)
{
    enum { MODEL = 256, LAYERS, KV_HEADS, HEAD_DIM, VALUE_DIM, WINDOW, WINDOW_LAYERS, MEANS,
           RECENT, JSON };
    static const struct option names[] = {
        {"model", required_argument, NULL, MODEL}, {"layers", required_argument, NULL, LAYERS},
        {"kv-heads", required_argument, NULL, KV_HEADS},
        {"head-dim", required_argument, NULL, HEAD_DIM},
        {"value-dim", required_argument, NULL, VALUE_DIM},
        {"window", required_argument, NULL, WINDOW},
        {"window-layers", required_argument, NULL, WINDOW_LAYERS},
        {"context", required_argument, NULL, 'c'}, {"memory", required_argument, NULL, 'M'},
        {"no-means", no_argument, NULL, MEANS}, {"recent", required_argument, NULL, RECENT},
        {"json", no_argument, NULL, JSON}, {"help", no_argument, NULL, 'h'}, {0}};
    options o = {.context = 32768, .memory = (uint64_t)8 << 30};
    const struct {
        int option;
        uint64_t limit, *value;
    } counts[] = {{LAYERS, MODEL_LAYERS, &o.layers}, {KV_HEADS, 65536, &o.kv_heads},
                  {HEAD_DIM, 65536, &o.head_dim}, {VALUE_DIM, 65536, &o.value_dim},
                  {WINDOW, UINT32_MAX, &o.window},
                  {WINDOW_LAYERS, MODEL_LAYERS, &o.window_layers},
                  {'c', UINT32_MAX, &o.context}};
    int option, ok = 1;
    while (ok && (option = getopt_long(argc, argv, "c:M:h", names, NULL)) != -1) {
        int known = 0;
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            if (option == counts[i].option) {
                ok = parse_number(optarg, counts[i].limit, counts[i].value) && *counts[i].value;
                known = 1;
            }
        if (known)
            continue;
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return EXIT_OK;
        case MODEL:
            o.model = optarg;
            break;
        case 'M':
            ok = parse_size(optarg, &o.memory);
            break;
        case MEANS:
            o.no_means = 1;
            break;
        case RECENT:
            ok = parse_number(optarg, UINT32_MAX, &o.recent);
            break;
        case JSON:
            o.json = 1;
            break;
        default:
            return misused_option("plan", argv);
        }
    }
    if (!ok)
        return misused("'%s' is outside its option's range; see 'tqkv plan --help'", optarg);
    return plan(&o, argv + optind, argc - optind);
}

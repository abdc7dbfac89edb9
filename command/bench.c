#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "bench_attention.h"
#include "bench_device.h"
#include "bench_ggml.h"
#include "command.h"
#include "json.h"
#include "sample.h"
#include "table.h"
#include "tqkv_page.h"

static const char help[] =
    "usage: tqkv bench [OPTION]... [FORMAT]...\n"
    "\n"
    "Times encoding and decoding of rows in memory, and sealing them in pages, one thread,\n"
    "or with --attention attention: on codes in rows (tq4), in sealed pages (tq4+means), in\n"
    "those and 64 staged tokens (tq4+staged), and on plain numbers (f16); and with --ggml the\n"
    "same for ggml's cache types on the same data in the same run.\n"
    "\n"
    "  -d, --head-dim N   values in a row (default 128)\n"
    "  -n, --rows N       rows, which should fit the cache (default 256)\n"
    "      --cpu NAME     kernels to use: scalar, avx2, avx512, avx512vbmi, neon,\n"
    "                     neon-dotprod (default: the best); --isa is the same\n"
    "      --attention    a table over shapes, contexts and threads, of which -d,\n"
    "                     -g, -c, -t and -q leave one\n"
    "  -g, --gqa N        query heads for each KV head\n"
    "  -c, --context N    tokens, from 1024 times 1, 8, 32 and 128\n"
    "  -t, --threads N    1 or 2\n"
    "  -q, --queries N    query positions: 1, or 512 for prefill\n"
    "      --ggml DIR     folder with libggml-base.so and libggml-cpu.so\n"
    "      --device NAME  what a device (see 'tqkv devices') does with rows, as shares\n"
    "                     of a copy's bandwidth; --rows says how many. With --attention\n"
    "                     steps of decoding: a table, or the cases given, as\n"
    "                     FORMAT,SEQUENCES,HEADS,KV_HEADS,HEAD_DIM,TOKENS[,QUERIES\n"
    "                     [,PAGE[,EXTRAS]]], EXTRAS of m (means of pages), s (staged rows),\n"
    "                     k (a mask)\n"
    "      --cuda-module F  kernels that nvcc compiled, where there is no NVRTC\n"
    "      --json         one JSON object a line\n"
    "  -h, --help         this text\n";

typedef struct bench {
    uint64_t head_dim, rows;
    const char *ggml;
    int json;
    table t;
    float *x, *y;
    uint8_t *bytes, *page;
    ggml_peer peer;
    /* ns a row, to state ratios by */
    double peer_quantize_iq4_nl, peer_quantize_q4_0, peer_dequantize_q4_0;
} bench;

typedef void (*work)(bench *b, const tqkv_format *f);

/* The least ns a row over repetitions that take about a third of a second, in
 * which a disturbed machine has some undisturbed moments. */
static double time_rows(bench *b, const tqkv_format *f, work w)
{
    double best = 1e30, end = seconds() + 0.3;
    for (int repeats = 0; repeats < 5 || seconds() < end; repeats++) {
        double start = seconds();
        w(b, f);
        double taken = seconds() - start;
        best = taken < best ? taken : best;
    }
    return best / (double)b->rows * 1e9;
}

static void report(bench *b, const char *what, const char *format, const char *isa,
                   double ns, const char *peer, double peer_ns)
{
    if (b->json) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "what", what);
        cJSON_AddStringToObject(object, "format", format);
        cJSON_AddNumberToObject(object, "head_dim", (double)b->head_dim);
        cJSON_AddNumberToObject(object, "gqa", 1);
        cJSON_AddNumberToObject(object, "context", (double)b->rows);
        cJSON_AddNumberToObject(object, "threads", 1);
        cJSON_AddStringToObject(object, "isa", isa);
        cJSON_AddNumberToObject(object, "ns", ns);
        json_print_line(object);
        return;
    }
    table_row(&b->t);
    table_cell(&b->t, 0, "%s", format);
    table_cell(&b->t, 1, "%s", what);
    table_cell(&b->t, 2, "%s", isa);
    table_cell(&b->t, 3, "%.1f", ns);
    table_cell(&b->t, 4, "%.0f", (double)b->head_dim / ns * 1e3);
    if (peer_ns > 0) {
        table_cell(&b->t, 5, "%.2fx", peer_ns / ns);
        table_cell(&b->t, 6, "%s", peer);
    }
}

static void encode(bench *b, const tqkv_format *f)
{
    tqkv_rows rows;
    tqkv_rows_at(f, b->bytes, 0, &rows);
    tqkv_encode(f, NULL, b->x, TQKV_F32, 0, (size_t)b->rows, &rows);
}

/* The same rows, 64 at a time, in one page with a mean. */
static void seal(bench *b, const tqkv_format *f)
{
    tqkv_page page;
    tqkv_page_at(f, 1, b->page, &page);
    for (uint64_t r = 0; r < b->rows; r += TQKV_PAGE_TOKENS) {
        uint64_t left = b->rows - r, n = left < TQKV_PAGE_TOKENS ? left : TQKV_PAGE_TOKENS;
        tqkv_page_seal(&page, NULL, b->x + r * b->head_dim, TQKV_F32, 0,
                       ~(uint64_t)0 >> (TQKV_PAGE_TOKENS - n));
    }
}

static void decode_to(bench *b, const tqkv_format *f, tqkv_domain domain)
{
    tqkv_rows rows;
    tqkv_rows_at(f, b->bytes, 0, &rows);
    tqkv_decode(f, NULL, &rows, (size_t)b->rows, domain, b->y, 0);
}

static void decode_original(bench *b, const tqkv_format *f)
{
    decode_to(b, f, TQKV_ORIGINAL);
}

static void decode_rotated(bench *b, const tqkv_format *f)
{
    decode_to(b, f, TQKV_ROTATED);
}

static void rotate(bench *b, const tqkv_format *f)
{
    tqkv_rotate(f, b->x, 0, (size_t)b->rows, b->y, 0);
}

static void ggml_quantize_q4_0(bench *b, const tqkv_format *f)
{
    (void)f;
    for (uint64_t r = 0; r < b->rows; r++)
        b->peer.quantize_q4_0(b->x + r * b->head_dim, b->bytes + r * b->head_dim,
                              (int64_t)b->head_dim);
}

static void ggml_quantize_iq4_nl(bench *b, const tqkv_format *f)
{
    (void)f;
    for (uint64_t r = 0; r < b->rows; r++)
        b->peer.quantize_iq4_nl(b->x + r * b->head_dim, b->bytes + r * b->head_dim,
                                (int64_t)b->head_dim);
}

static void ggml_search_iq4_nl(bench *b, const tqkv_format *f)
{
    (void)f;
    b->peer.search_iq4_nl(b->x, b->bytes, (int64_t)b->rows, (int64_t)b->head_dim, NULL);
}

static void ggml_dequantize_q4_0(bench *b, const tqkv_format *f)
{
    (void)f;
    for (uint64_t r = 0; r < b->rows; r++)
        b->peer.dequantize_q4_0(b->bytes + r * b->head_dim, b->y + r * b->head_dim,
                                (int64_t)b->head_dim);
}

static int bench_peer(bench *b)
{
    if (!ggml_peer_open(&b->peer, b->ggml))
        return 0;
    b->peer_quantize_q4_0 = time_rows(b, NULL, ggml_quantize_q4_0);
    report(b, "encode", "ggml q4_0", "ggml", b->peer_quantize_q4_0, NULL, 0);
    b->peer_dequantize_q4_0 = time_rows(b, NULL, ggml_dequantize_q4_0);
    report(b, "decode", "ggml q4_0", "ggml", b->peer_dequantize_q4_0, NULL, 0);
    b->peer_quantize_iq4_nl = time_rows(b, NULL, ggml_quantize_iq4_nl);
    report(b, "encode", "ggml iq4_nl", "ggml", b->peer_quantize_iq4_nl, NULL, 0);
    double searched = time_rows(b, NULL, ggml_search_iq4_nl);
    report(b, "encode-search", "ggml iq4_nl", "ggml", searched, NULL, 0);
    return 1;
}

static void bench_format(bench *b, const tqkv_format *f, const char *name)
{
    const char *isa = tqkv_isa_name();
    int scalar = f->codebook == TQKV_CODEBOOK_LLOYD_MAX;
    report(b, "encode", name, isa, time_rows(b, f, encode), scalar ? "q4_0" : "iq4_nl",
           scalar ? b->peer_quantize_q4_0 : b->peer_quantize_iq4_nl);
    report(b, "seal", name, isa, time_rows(b, f, seal), scalar ? "q4_0" : "iq4_nl",
           scalar ? b->peer_quantize_q4_0 : b->peer_quantize_iq4_nl);
    report(b, "decode", name, isa, time_rows(b, f, decode_original), "q4_0",
           b->peer_dequantize_q4_0);
    report(b, "decode-rotated", name, isa, time_rows(b, f, decode_rotated), "q4_0",
           b->peer_dequantize_q4_0);
    report(b, "rotate", name, isa, time_rows(b, f, rotate), NULL, 0);
}

static int run(bench *b, const char *const *names, int n_names)
{
    static const char *const columns[] = {"format", "what", "kernels", "ns/row",
                                          "Mvalues/s", "speed-up", "over ggml's"};
    int result = EXIT_OK;
    uint64_t state = 1;
    size_t n = (size_t)(b->rows * b->head_dim);
    b->x = allocate(n, sizeof *b->x);
    b->y = allocate(n, sizeof *b->y);
    b->bytes = allocate((size_t)b->rows, b->head_dim + 64);
    b->page = allocate(TQKV_PAGE_TOKENS + 1, b->head_dim + 64);
    if (!b->x || !b->y || !b->bytes || !b->page)
        return EXIT_FAILED;
    sample_gaussian(&state, b->x, n);
    memset(b->bytes, 0, b->rows * (b->head_dim + 64));
    table_start(&b->t, columns, b->ggml ? 7 : 5);
    if (b->ggml && !bench_peer(b))
        result = EXIT_FAILED;
    for (int i = 0; i < n_names && result == EXIT_OK; i++) {
        tqkv_format f;
        tqkv_status status = tqkv_format_parse(names[i], (uint32_t)b->head_dim, &f);
        if (status != TQKV_OK)
            result = misused("%s with head_dim %u: %s", names[i], (unsigned)b->head_dim,
                             tqkv_status_string(status));
        else
            bench_format(b, &f, names[i]);
        progress("measuring", (uint64_t)i + 1, (uint64_t)n_names);
    }
    progress_end();
    if (b->json || result != EXIT_OK)
        b->t.n_rows = 0;
    if (!table_finish(&b->t) && result == EXIT_OK)
        result = EXIT_FAILED;
    return result;
}

/* Masks features until the kernels named are the best; 0 if they never are. */
static int choose_isa(const char *name)
{
    static const uint32_t sets[] = {
        0, TQKV_CPU_AVX2 | TQKV_CPU_NEON,
        TQKV_CPU_AVX2 | TQKV_CPU_AVX512 | TQKV_CPU_NEON | TQKV_CPU_DOTPROD, ~(uint32_t)0};
    for (int i = 0; i < 4; i++) {
        tqkv_cpu_mask(sets[i]);
        if (!strcmp(tqkv_isa_name(), name))
            return 1;
    }
    return 0;
}

int command_bench(int argc, char **argv)
{
    static const struct option names[] = {
        {"head-dim", required_argument, NULL, 'd'}, {"rows", required_argument, NULL, 'n'},
        {"isa", required_argument, NULL, 'i'}, {"cpu", required_argument, NULL, 'i'},
        {"attention", no_argument, NULL, 'a'}, {"gqa", required_argument, NULL, 'g'},
        {"context", required_argument, NULL, 'c'}, {"threads", required_argument, NULL, 't'},
        {"queries", required_argument, NULL, 'q'}, {"ggml", required_argument, NULL, 'G'},
        {"device", required_argument, NULL, 'D'}, {"cuda-module", required_argument, NULL, 'M'},
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
    static const char *const formats[] = {"tq2", "tq3", "tq4", "tq5",
                                          "tq6", "tq8", "lm4", "mlx4"};
    static const char *const attended[] = {"f16", "tq2", "tq3", "tq4", "tq4+means",
                                           "tq4+staged", "tq8", "lm4", "mlx4"};
    bench b = {.head_dim = 128, .rows = 256};
    attention_options a = {.formats = attended, .n_formats = 9, .is_selection = 1};
    device_options d = {0};
    int option, ok = 1, attention = 0;
    while (ok && (option = getopt_long(argc, argv, "d:n:g:c:t:q:h", names, NULL)) != -1) {
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return EXIT_OK;
        case 'd':
            ok = parse_number(optarg, TQKV_MAX_HEAD_DIM, &b.head_dim) && b.head_dim;
            a.head_dim = b.head_dim;
            break;
        case 'a':
            attention = 1;
            break;
        case 'g':
            ok = parse_number(optarg, 64, &a.group) && a.group;
            break;
        case 'c':
            ok = parse_number(optarg, 1 << 17, &a.context) && a.context;
            break;
        case 't':
            ok = parse_number(optarg, 2, &a.threads) && a.threads;
            break;
        case 'q':
            ok = parse_number(optarg, 512, &a.queries) && a.queries;
            break;
        case 'n':
            ok = parse_number(optarg, 1 << 24, &b.rows) && b.rows;
            d.rows = b.rows;
            break;
        case 'D':
            d.device = optarg;
            break;
        case 'M':
            d.cuda_module = optarg;
            break;
        case 'i':
            if (!choose_isa(optarg))
                return misused("--cpu %s: this processor has no such kernels", optarg);
            break;
        case 'G':
            a.ggml = b.ggml = optarg;
            break;
        case 'j':
            a.json = b.json = d.json = 1;
            break;
        default:
            return misused_option("bench", argv);
        }
    }
    if (!ok)
        return misused("'%s' is outside its option's range; see 'tqkv bench --help'", optarg);
    d.cases = (const char *const *)argv + optind;
    d.n_cases = argc - optind;
    if (d.device && !attention && optind < argc)
        return misused("'%s': bench --device takes cases only with --attention", argv[optind]);
    if (d.device)
        return attention ? bench_attend(&d) : bench_device(&d);
    if (attention) {
        if (optind < argc) {
            a.formats = (const char *const *)argv + optind;
            a.n_formats = argc - optind;
            a.is_selection = 0;
        }
        return bench_attention(&a);
    }
    if (b.ggml && b.head_dim % 32)
        return misused("--ggml needs a --head-dim that is a multiple of 32");
    int result = optind < argc
                     ? run(&b, (const char *const *)argv + optind, argc - optind)
                     : run(&b, formats, sizeof formats / sizeof *formats);
    free(b.x);
    free(b.y);
    free(b.bytes);
    free(b.page);
    return result;
}

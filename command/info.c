#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "json.h"
#include "rows_file.h"
#include "tqkv_page.h"

static const char help[] =
    "usage: tqkv info [--json] FILE...\n"
    "\n"
    "Says what containers hold, from their headers (and profiles) alone; 'tqkv\n"
    "verify' reads their rows.\n";

static const char *const type_names[] = {"f32", "f16", "bf16"};

/* Codes, scales and whatever else is for each row or each page. */
static double bytes_per_value(const tqkv_container_info *i, size_t row_bytes)
{
    double bytes = (double)row_bytes;
    size_t page;
    if (i->is_paged && tqkv_page_bytes(&i->format, 1, &page) == TQKV_OK) {
        uint64_t n_pages = (i->n_tokens - 1) / TQKV_PAGE_TOKENS + 1;
        double mean = (double)(page - TQKV_PAGE_TOKENS * row_bytes);
        bytes += mean * (double)n_pages / (double)i->n_tokens;
    }
    return bytes / i->format.head_dim;
}

static void print_text(const rows_file *in, const char *name, size_t row_bytes)
{
    const tqkv_container_info *i = in->info;
    const tqkv_profile *p = tqkv_reader_profile(in->reader);
    printf("%s\n", in->path);
    printf("  format        %s, head_dim %u, %zu bytes a row\n", name,
           (unsigned)i->format.head_dim, row_bytes);
    if (i->is_paged)
        printf("  pages         %d tokens and their mean: %.4f bytes a value\n",
               (int)TQKV_PAGE_TOKENS, bytes_per_value(i, row_bytes));
    printf("  shape         %" PRIu64 " layers, %" PRIu64 " tokens, %" PRIu64 " heads%s\n",
           i->n_layers, i->n_tokens, i->n_heads,
           i->has_layer_axis ? "" : " (no layer axis)");
    printf("  encoded from  %s\n", type_names[i->type]);
    if (p)
        printf("  profile       \"%s\"\n",
               tqkv_profile_fingerprint(p));
    else
        printf("  profile       none\n");
}

static void print_json(const rows_file *in, const char *name, size_t row_bytes)
{
    const tqkv_container_info *i = in->info;
    const tqkv_profile *p = tqkv_reader_profile(in->reader);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "file", in->path);
    cJSON_AddStringToObject(object, "format", name);
    cJSON_AddNumberToObject(object, "head_dim", i->format.head_dim);
    cJSON_AddNumberToObject(object, "row_bytes", (double)row_bytes);
    cJSON_AddBoolToObject(object, "pages", i->is_paged);
    cJSON_AddNumberToObject(object, "bytes_per_value", bytes_per_value(i, row_bytes));
    cJSON_AddNumberToObject(object, "layers", (double)i->n_layers);
    cJSON_AddNumberToObject(object, "tokens", (double)i->n_tokens);
    cJSON_AddNumberToObject(object, "heads", (double)i->n_heads);
    cJSON_AddStringToObject(object, "type", type_names[i->type]);
    cJSON_AddBoolToObject(object, "profile", p != NULL);
    cJSON_AddStringToObject(object, "fingerprint", tqkv_profile_fingerprint(p));
    json_print_line(object);
}

static int describe(const char *path, int json)
{
    rows_file in;
    int ok = rows_file_open(&in, path);
    if (ok) {
        char name[TQKV_FORMAT_NAME_SIZE];
        size_t row_bytes;
        tqkv_format_name(&in.info->format, name, sizeof name);
        tqkv_format_row_bytes(&in.info->format, &row_bytes);
        (json ? print_json : print_text)(&in, name, row_bytes);
    }
    rows_file_close(&in);
    return ok;
}

int command_info(int argc, char **argv)
{
    static const struct option names[] = {{"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'}, {0}};
    int option, json = 0, result = EXIT_OK;
    while ((option = getopt_long(argc, argv, "h", names, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return EXIT_OK;
        }
        if (option != 'j')
            return misused_option("info", argv);
        json = 1;
    }
    if (optind == argc)
        return misused("info takes at least one container; see 'tqkv info --help'");
    for (; optind < argc; optind++)
        if (!describe(argv[optind], json))
            result = EXIT_FAILED;
    return result;
}

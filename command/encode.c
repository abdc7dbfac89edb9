#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "device_rows.h"
#include "npy.h"
#include "output.h"

static const char help[] =
    "usage: tqkv encode [OPTION]... IN.npy OUT.tqkv\n"
    "\n"
    "Encodes an array of [tokens, heads, head_dim], or with a leading layer axis,\n"
    "into a container of rows or of pages. \"-\" is standard input or output.\n"
    "\n"
    "  -f, --format F     format of the rows (default tq4); see 'tqkv formats'\n"
    "  -p, --profile P    profile made by 'tqkv fit' for --pages, by 'tqkv fit --no-means'\n"
    "                     for rows; the array must be keys\n"
    "      --pages        pages: each head's mean of 64 tokens is kept apart\n"
    "      --bf16         uint16 in IN.npy is bfloat16\n"
    "      --device NAME  encode rows on a device (see 'tqkv devices'): the same bytes\n"
    "  -h, --help         this text\n";

typedef struct options {
    const char *format, *profile, *in, *out, *device;
    int bf16, pages;
} options;

enum { CHUNK_BYTES = 1 << 20 };

static int encode_rows(npy *in, tqkv_writer *writer, const char *out_path)
{
    size_t row = in->head_dim * npy_element_size(in->type);
    size_t per_chunk = CHUNK_BYTES / row;
    void *chunk = allocate(per_chunk, row);
    int ok = chunk != NULL;
    for (uint64_t done = 0; ok && done < in->n_rows;) {
        uint64_t left = in->n_rows - done;
        size_t count = left < per_chunk ? (size_t)left : per_chunk;
        ok = npy_read_rows(in, chunk, count);
        if (ok) {
            tqkv_status status = tqkv_writer_append(writer, chunk, in->type, count);
            if (status != TQKV_OK)
                ok = !failed_status(out_path, status);
        }
        done += count;
        progress("encoding", done, in->n_rows);
    }
    free(chunk);
    ok = ok && npy_check_end(in);
    tqkv_status status = ok ? tqkv_writer_finish(writer) : TQKV_OK;
    if (status != TQKV_OK)
        ok = !failed_status(out_path, status);
    progress_end();
    return ok;
}

/* The same on a device, whole tokens of one layer at a time. */
static int encode_on(const device *d, npy *in, const tqkv_container_info *info,
                     const tqkv_profile *profile, tqkv_writer *writer, const char *out_path)
{
    size_t row = in->head_dim * npy_element_size(in->type), row_bytes;
    size_t per_chunk = 16 * CHUNK_BYTES / row / in->n_heads + 1;
    tqkv_format_row_bytes(&info->format, &row_bytes);
    void *chunk = allocate(per_chunk * in->n_heads, row);
    uint8_t *rows = allocate(per_chunk * in->n_heads, row_bytes);
    int ok = chunk && rows;
    for (uint64_t done = 0; ok && done < in->n_layers * in->n_tokens;) {
        uint64_t left = in->n_tokens - done % in->n_tokens;
        size_t n = left < per_chunk ? (size_t)left : per_chunk, count = n * (size_t)in->n_heads;
        ok = npy_read_rows(in, chunk, count) &&
             device_encode(d, &info->format, profile, (uint32_t)(done / in->n_tokens),
                           (uint32_t)in->n_heads, chunk, in->type, n, rows, NULL);
        tqkv_status status = ok ? tqkv_writer_append_rows(writer, rows, count) : TQKV_OK;
        if (status != TQKV_OK)
            ok = !failed_status(out_path, status);
        done += n;
        progress("encoding", done, in->n_layers * in->n_tokens);
    }
    progress_end();
    free(chunk);
    free(rows);
    ok = ok && npy_check_end(in);
    tqkv_status status = ok ? tqkv_writer_finish(writer) : TQKV_OK;
    return ok && (status == TQKV_OK || !failed_status(out_path, status));
}

static int failed_create(const char *path, const tqkv_container_info *info, tqkv_status status)
{
    if (info->is_paged && status == TQKV_ERROR_OVERFLOW)
        return failed("%s: 64 tokens of %" PRIu64 " heads take more than 16 MiB, the most that "
                      "--pages allows", path, info->n_heads);
    return failed_status(path, status);
}

static int encode_to(npy *in, const tqkv_container_info *info, const tqkv_profile *profile,
                     const char *path, const device *d)
{
    output out;
    tqkv_writer *writer = NULL;
    if (!output_open(&out, path))
        return EXIT_FAILED;
    tqkv_status status = tqkv_writer_create(info, profile, output_write, &out, &writer);
    int ok = status != TQKV_OK ? !failed_create(out.path, info, status)
             : d               ? encode_on(d, in, info, profile, writer, out.path)
                               : encode_rows(in, writer, out.path);
    tqkv_writer_free(writer);
    if (ok)
        ok = output_commit(&out);
    else
        output_discard(&out);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static int check_profile(const options *o, const npy *in, const tqkv_profile *p)
{
    if (tqkv_profile_n_layers(p) == in->n_layers && tqkv_profile_n_heads(p) == in->n_heads &&
        tqkv_profile_head_dim(p) == in->head_dim)
        return 1;
    failed("%s: is for %" PRIu32 " layers, %" PRIu32 " heads, head_dim %" PRIu32
           "; %s has %" PRIu64 ", %" PRIu64 ", %" PRIu32,
           o->profile, tqkv_profile_n_layers(p), tqkv_profile_n_heads(p),
           tqkv_profile_head_dim(p), in->path, in->n_layers, in->n_heads, in->head_dim);
    return 0;
}

static int run(const options *o, npy *in)
{
    tqkv_container_info info = {0};
    tqkv_profile *profile = NULL;
    if (!npy_open(in, o->in, o->bf16))
        return EXIT_FAILED;
    tqkv_status status = tqkv_format_parse(o->format, in->head_dim, &info.format);
    if (status == TQKV_ERROR_FORMAT_NAME)
        return misused("--format %s: %s", o->format, tqkv_status_string(status));
    if (status != TQKV_OK)
        return failed("%s: head_dim %" PRIu32 ": %s", in->path, in->head_dim,
                      tqkv_status_string(status));
    info.n_layers = in->n_layers;
    info.n_tokens = in->n_tokens;
    info.n_heads = in->n_heads;
    info.type = (uint8_t)in->type;
    info.has_layer_axis = (uint8_t)in->has_layer_axis;
    info.is_paged = (uint8_t)o->pages;
    if (o->profile &&
        (!profile_load(o->profile, &profile) || !check_profile(o, in, profile))) {
        tqkv_profile_free(profile);
        return EXIT_FAILED;
    }
    device d;
    int result = EXIT_FAILED;
    if (!o->device) {
        result = encode_to(in, &info, profile, o->out, NULL);
    } else if (device_open(&d, o->device, NULL)) {
        result = encode_to(in, &info, profile, o->out, &d);
        device_close(&d);
    }
    tqkv_profile_free(profile);
    return result;
}

int command_encode(int argc, char **argv)
{
    static const struct option names[] = {
        {"format", required_argument, NULL, 'f'}, {"profile", required_argument, NULL, 'p'},
        {"bf16", no_argument, NULL, 'b'}, {"pages", no_argument, NULL, 'P'},
        {"device", required_argument, NULL, 'D'}, {"help", no_argument, NULL, 'h'}, {0}};
    options o = {.format = "tq4"};
    int option;
    while ((option = getopt_long(argc, argv, "f:p:h", names, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return EXIT_OK;
        }
        if (option == 'f')
            o.format = optarg;
        else if (option == 'p')
            o.profile = optarg;
        else if (option == 'b')
            o.bf16 = 1;
        else if (option == 'P')
            o.pages = 1;
        else if (option == 'D')
            o.device = optarg;
        else
            return misused_option("encode", argv);
    }
    if (argc - optind != 2)
        return misused("encode takes IN.npy and OUT.tqkv; see 'tqkv encode --help'");
    if (o.pages && o.device)
        return misused("--pages with --device %s: devices encode rows only", o.device);
    o.in = argv[optind];
    o.out = argv[optind + 1];
    npy in;
    int result = run(&o, &in);
    npy_close(&in);
    return result;
}

#include <errno.h>
#include <float.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "npy.h"
#include "output.h"
#include "rows_file.h"

static const char help[] =
    "usage: tqkv decode [OPTION]... IN.tqkv OUT.npy\n"
    "\n"
    "Decodes a container to the array that it was made from, in the same shape.\n"
    "\"-\" is standard input or output.\n"
    "\n"
    "  -t, --type T    f32, f16 or bf16 (as uint16); default: what was encoded.\n"
    "                  Values beyond the type become its largest finite ones\n"
    "      --device N  decode rows on a device (see 'tqkv devices'): the same values\n"
    "  -h, --help      this text\n";

typedef struct sink {
    output out;
    tqkv_type type;
    uint32_t head_dim;
    void *chunk;
    float *clamped;
} sink;

static int write_rows(void *context, const float *values, size_t n_rows)
{
    sink *s = context;
    static const float largest[] = {FLT_MAX, 65504, 0x1.FEp127f};
    size_t n = n_rows * s->head_dim, size = npy_element_size(s->type);
    float most = largest[s->type];
    for (size_t i = 0; i < n; i++)
        s->clamped[i] = values[i] > most ? most : values[i] < -most ? -most : values[i];
    tqkv_from_f32(s->clamped, n, s->chunk, s->type);
    if (fwrite(s->chunk, size, n, s->out.file) == n)
        return 1;
    failed("%s: writing failed: %s", s->out.path, strerror(errno));
    return 0;
}

static int decode_to(rows_file *in, const char *path, int type, const device *d)
{
    enum { ROWS = 1024 };
    const tqkv_container_info *info = in->info;
    sink s = {.type = type < 0 ? (tqkv_type)info->type : (tqkv_type)type,
              .head_dim = info->format.head_dim};
    npy shape = {.has_layer_axis = info->has_layer_axis, .n_layers = info->n_layers,
                 .n_tokens = info->n_tokens, .n_heads = info->n_heads,
                 .head_dim = info->format.head_dim};
    if (d && info->is_paged)
        return failed("%s: has pages; --device decodes rows only", in->path);
    if (!output_open(&s.out, path))
        return EXIT_FAILED;
    s.chunk = allocate(ROWS, s.head_dim * sizeof(float));
    s.clamped = allocate(ROWS, s.head_dim * sizeof *s.clamped);
    int memory = s.chunk && s.clamped;
    int ok = memory && npy_write_header(s.out.file, &shape, s.type);
    if (memory && !ok)
        failed("%s: writing failed: %s", s.out.path, strerror(errno));
    ok = ok && (d ? rows_file_each_on(in, d, "decoding", write_rows, &s)
                  : rows_file_each(in, "decoding", write_rows, &s));
    free(s.chunk);
    free(s.clamped);
    if (ok)
        ok = output_commit(&s.out);
    else
        output_discard(&s.out);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static int parse_type(const char *name)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i]))
            return i;
    return -1;
}

int command_decode(int argc, char **argv)
{
    static const struct option names[] = {{"type", required_argument, NULL, 't'},
                                          {"device", required_argument, NULL, 'D'},
                                          {"help", no_argument, NULL, 'h'}, {0}};
    const char *device_name = NULL;
    int option, type = -1, has_device = 1;
    while ((option = getopt_long(argc, argv, "t:h", names, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return EXIT_OK;
        }
        if (option == 'D') {
            device_name = optarg;
            continue;
        }
        if (option != 't')
            return misused_option("decode", argv);
        type = parse_type(optarg);
        if (type < 0)
            return misused("--type %s: f32, f16 or bf16 is expected", optarg);
    }
    if (argc - optind != 2)
        return misused("decode takes IN.tqkv and OUT.npy; see 'tqkv decode --help'");
    rows_file in;
    device d;
    if (device_name)
        has_device = device_open(&d, device_name, NULL);
    int result = has_device && rows_file_open(&in, argv[optind])
                     ? decode_to(&in, argv[optind + 1], type, device_name ? &d : NULL)
                     : EXIT_FAILED;
    if (has_device)
        rows_file_close(&in);
    if (device_name && has_device)
        device_close(&d);
    return result;
}

#include <getopt.h>
#include <inttypes.h>
#include <math.h>

#include "command.h"
#include "rows_file.h"

static const char help[] =
    "usage: tqkv verify IN.tqkv...\n"
    "\n"
    "Reads containers whole, checks every checksum and decodes every row. Prints a\n"
    "line for each that is whole.\n";

static int check_finite(void *context, const float *values, size_t n_rows)
{
    const rows_file *in = context;
    for (size_t i = 0; i < n_rows * in->info->format.head_dim; i++)
        if (!isfinite(values[i])) {
            failed("%s: a row decodes to a value that is not finite", in->path);
            return 0;
        }
    return 1;
}

int command_verify(int argc, char **argv)
{
    static const struct option names[] = {{"help", no_argument, NULL, 'h'}, {0}};
    int option, result = EXIT_OK;
    while ((option = getopt_long(argc, argv, "h", names, NULL)) != -1) {
        if (option != 'h')
            return misused_option("verify", argv);
        fputs(help, stdout);
        return EXIT_OK;
    }
    if (optind == argc)
        return misused("verify takes at least one container; see 'tqkv verify --help'");
    for (; optind < argc; optind++) {
        rows_file in;
        if (rows_file_open(&in, argv[optind]) &&
            rows_file_each(&in, "verifying", check_finite, &in))
            printf("%s: whole, %" PRIu64 " rows\n", in.path, in.n_rows);
        else
            result = EXIT_FAILED;
        rows_file_close(&in);
    }
    return result;
}

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"formats", command_formats, "list formats with their sizes and errors"},
    {"eval", command_eval, "measure formats on captured queries, keys and values"},
    {"ablate", command_ablate, "tell kernel bugs from the error of a format"},
    {"plan", command_plan, "bytes and longest contexts of a model in each format"},
    {"fit", command_fit, "fit a profile to captured keys and queries"},
    {"llama", command_llama, "run a program of llama.cpp on tqkv's cache"},
    {"profile", command_profile, "run a model once and fit its key profile"},
    {"encode", command_encode, "turn an array into a container of rows or pages"},
    {"decode", command_decode, "turn a container back into an array"},
    {"info", command_info, "say what a container holds"},
    {"verify", command_verify, "check a container whole"},
    {"devices", command_devices, "list devices for --device"},
    {"bench", command_bench, "time the kernels, also against ggml's"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(void)
{
    puts("usage: tqkv COMMAND [ARGUMENT]...\n"
         "\n"
         "A transformer's key/value cache in 2 to 8 bits a value.\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-8s  %s\n", commands[i].name, commands[i].summary);
    puts("\n'tqkv COMMAND --help' says more; 'tqkv --version' tells the version.\n"
         "Exit status: 0 success, 1 failure, 2 wrong use.");
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help();
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help();
        return EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("tqkv %s (%s kernels)\n", tqkv_version(), tqkv_isa_name());
        return EXIT_OK;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    return misused("no command '%s'; see 'tqkv --help'", argv[1]);
}

int main(int argc, char **argv)
{
    opterr = 0; /* misused_option says it */
    int result = run(argc, argv);
    if ((fflush(stdout) || ferror(stdout)) && result == EXIT_OK)
        return failed("standard output: writing failed");
    return result;
}

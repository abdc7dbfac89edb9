#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static void print_message(const char *format, va_list arguments)
{
    progress_end();
    fputs("tqkv: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

int failed(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
    return EXIT_FAILED;
}

int misused(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
    return EXIT_USAGE;
}

int failed_status(const char *path, tqkv_status status)
{
    return failed("%s: %s", path, tqkv_status_string(status));
}

int misused_option(const char *subcommand, char **argv)
{
    return misused("%s: unknown or incomplete option '%s'; see 'tqkv %s --help'",
                   subcommand, argv[optind - 1], subcommand);
}

int parse_number(const char *text, uint64_t limit, uint64_t *value)
{
    char *end;
    errno = 0;
    /* strtoull takes " -1" for a large number */
    if (*text < '0' || *text > '9')
        return 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || *end || number > limit)
        return 0;
    *value = number;
    return 1;
}

void *allocate(size_t count, size_t size)
{
    size_t bytes;
    void *memory = NULL;
    if (!__builtin_mul_overflow(count, size, &bytes))
        memory = malloc(bytes ? bytes : 1);
    if (!memory)
        failed("out of memory (%zu elements of %zu bytes)", count, size);
    return memory;
}

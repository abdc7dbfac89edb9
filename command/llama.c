/* Starts a program of llama.cpp with its KV cache in tqkv's pages. */
#include "llama.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

static const char help[] =
    "usage: tqkv llama [OPTION]... [--] PROGRAM [ARGUMENT]...\n"
    "\n"
    "Runs a program of llama.cpp (llama-cli, llama-server, llama-bench,\n"
    "llama-perplexity, llama-completion) with its KV cache in tqkv's pages. The\n"
    "program gets no extra flags; leave cache types (-ctk, -ctv) away. TQKV_KV and\n"
    "TQKV_PROFILE of the environment do not count.\n"
    "\n"
    "  --kv FORMAT           what keys and values are kept in, or KEYS/VALUES: tq2 to\n"
    "                        tq8, lm2 to lm4 (default tq4; tq5/tq4, tq3)\n"
    "  --profile FILE        balances of this model's keys, as 'tqkv profile' makes them\n"
    "  --print               show the command instead of running it\n"
    "  -h, --help            this text\n";

typedef struct request {
    const char *formats, *profile;
    int print;
    char **program; /* PROGRAM, its arguments, null */
    char path[PATH_SIZE]; /* where PROGRAM was found; empty with print */
} request;

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- formats ---- */

static int is_format(const char *text, size_t n)
{
    char name[TQKV_FORMAT_NAME_SIZE];
    tqkv_format format;
    if (n >= sizeof name)
        return 0;
    memcpy(name, text, n);
    name[n] = 0;
    return tqkv_format_parse(name, 128, &format) == TQKV_OK &&
           format.layout == TQKV_LAYOUT_ROW;
}

static int are_formats(const char *text)
{
    size_t n = strcspn(text, "/");
    return is_format(text, n) && (!text[n] || is_format(text + n + 1, strlen(text + n + 1)));
}

/* ---- what is given to the program ---- */

/* Builds with their backends inside load others only where devices are asked for: for tensors
 * of no name, of which there are none. */
static const char other_variable[] = "LLAMA_ARG_OVERRIDE_TENSOR", other_value[] = "^$=CPU";

typedef struct variable {
    const char *name;
    char *value; /* null: unset it */
} variable;

enum { VARIABLES = 4 };

/* A file's name as TQKV_PROFILE has it, where colons divide names. */
static char *escaped(const char *name)
{
    char *text = malloc(2 * strlen(name) + 1), *to = text;
    for (; text && *name; *to++ = *name++)
        if (*name == ':' || (*name == '\\' && (name[1] == ':' || name[1] == '\\' || !name[1])))
            *to++ = '\\';
    if (text)
        *to = 0;
    return text;
}

/* 0 with a message. */
static int make_variables(const request *r, variable all[VARIABLES], char backend[PATH_SIZE])
{
    const char *given = getenv("TQKV_BACKEND");
    if (!llama_backend(backend))
        return given && *given ? !failed("%s (TQKV_BACKEND): %s", given, strerror(errno))
                               : !failed("libggml-tqkv.so is not beside tqkv; TQKV_BACKEND says "
                                         "where it is");
    const char *other = getenv(other_variable);
    all[0] = (variable){"GGML_BACKEND_PATH", strdup(backend)};
    all[1] = (variable){"TQKV_KV", strdup(r->formats)};
    all[2] = (variable){other_variable, strdup(other ? other : other_value)};
    all[3] = (variable){"TQKV_PROFILE", r->profile ? escaped(r->profile) : NULL};
    for (int i = 0; i < VARIABLES; i++)
        if (!all[i].value && (i < 3 || r->profile))
            return !failed("out of memory");
    return 1;
}

static void print_quoted(FILE *to, const char *text)
{
    if (*text && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                              "_-./=:,+@%") == strlen(text)) {
        fprintf(to, " %s", text);
        return;
    }
    fputs(" '", to);
    for (; *text; text++)
        if (*text == '\'')
            fputs("'\\''", to);
        else
            fputc(*text, to);
    fputc('\'', to);
}

static void print_variable(const char *name, const char *value)
{
    char *both;
    if (asprintf(&both, "%s=%s", name, value) >= 0) {
        print_quoted(stdout, both);
        free(both);
    }
}

/* ---- running ---- */

static void show(const request *r, const variable *all)
{
    fputs(r->profile ? "env" : "env -u TQKV_PROFILE", stdout);
    for (int i = 0; i < VARIABLES; i++)
        if (all[i].value)
            print_variable(all[i].name, all[i].value);
    for (int i = 0; r->program[i]; i++)
        print_quoted(stdout, r->program[i]);
    putchar('\n');
}

/* The flag of another cache type than f16 that the user gave, or null: llama.cpp's own cache
 * is then used. */
static const char *type_flag(const request *r)
{
    static const char *const flags[] = {"-ctk", "--cache-type-k", "-ctv", "--cache-type-v"};
    for (int i = 1; r->program[i]; i++)
        for (size_t f = 0; f < sizeof flags / sizeof *flags; f++)
            if (!strcmp(r->program[i], flags[f]) && r->program[i + 1] &&
                strcmp(r->program[i + 1], "f16"))
                return flags[f];
    return NULL;
}

static int run(const request *r)
{
    char backend[PATH_SIZE];
    variable all[VARIABLES] = {{NULL, NULL}};
    int ok = make_variables(r, all, backend);
    const char *flag = type_flag(r);
    if (ok && r->print) {
        show(r, all);
    } else if (ok) {
        fprintf(stderr, "tqkv: cache in %s, %s%s: %s\n", r->formats,
                r->profile ? "profile " : "no profile", r->profile ? r->profile : "",
                base_name(r->program[0]));
        if (flag)
            fprintf(stderr, "tqkv: with %s other than f16 the cache is llama.cpp's own\n", flag);
        for (int i = 0; i < VARIABLES; i++)
            if (all[i].value)
                setenv(all[i].name, all[i].value, 1);
            else
                unsetenv(all[i].name);
        execvp(r->path, r->program);
        failed("%s: %s", r->program[0], strerror(errno));
    }
    for (int i = 0; i < VARIABLES; i++)
        free(all[i].value);
    return ok && r->print ? EXIT_OK : EXIT_FAILED;
}

static int is_profile_file(const char *path)
{
    tqkv_profile *profile = NULL;
    int ok = profile_load(path, &profile); /* 0 with a message */
    tqkv_profile_free(profile);
    return ok;
}

/* Our own options end at the program's name: getopt would read on. */
int command_llama(int argc, char **argv)
{
    request r = {.formats = "tq4"};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *option = argv[i];
        int is_kv = !strncmp(option, "--kv", 4) && (!option[4] || option[4] == '=');
        int is_profile = !strncmp(option, "--profile", 9) && (!option[9] || option[9] == '=');
        int takes = is_kv || is_profile;
        const char *value = takes ? strchr(option, '=') : NULL;
        value = value ? value + 1 : takes && i + 1 < argc ? argv[++i] : NULL;
        if (!strcmp(option, "--")) {
            i++;
            break;
        }
        if (!strcmp(option, "-h") || !strcmp(option, "--help")) {
            fputs(help, stdout);
            return EXIT_OK;
        }
        if (takes && !value)
            return misused("%s takes a value; see 'tqkv llama --help'", option);
        if (is_profile)
            r.profile = value;
        else if (takes && !are_formats(value))
            return misused("'%s' is no format, nor two as tq5/tq4; see 'tqkv llama --help'", value);
        else if (takes)
            r.formats = value;
        else if (!strcmp(option, "--print"))
            r.print = 1;
        else
            return misused("no option '%s'; see 'tqkv llama --help'", option);
    }
    if (i == argc)
        return misused("llama takes a program of llama.cpp; see 'tqkv llama --help'");
    if (r.profile && !is_profile_file(r.profile))
        return EXIT_FAILED;
    r.program = argv + i;
    if (!r.print && !llama_program(NULL, r.program[0], r.path))
        return failed("%s: %s", r.program[0],
                      strchr(r.program[0], '/') ? strerror(errno) : "not found in $PATH");
    return run(&r);
}

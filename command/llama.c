/* Starts a program of llama.cpp with the backend, its cache types and the
 * model's profile. */
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
    "llama-perplexity, llama-completion) with its KV cache in tqkv's rows, which\n"
    "fill the bytes of one of llama.cpp's cache types.\n"
    "\n"
    "  --k TYPE, --v TYPE    keys' and values' cache type, by llama.cpp's name (q4_0,\n"
    "                        iq4_nl, q4_1, q5_0, q5_1, q8_0) or as tq4 to tq8: the\n"
    "                        smallest type that holds so many bits (default q4_0)\n"
    "  --profile FILE        key profile to use (default: one is made at a model's first\n"
    "                        use and kept in the user's cache folder)\n"
    "  --no-profile          none\n"
    "  --print               show the command instead of running it\n"
    "  -h, --help            this text\n";

/* ---- cache types ---- */

/* Bits a value that a head of 64 values has for codes in each type. */
static const struct {
    const char *name;
    double bits;
} types[] = {{"q4_0", 4.25}, {"q4_1", 4.75}, {"q5_0", 5.25},
             {"q5_1", 5.75}, {"q8_0", 8},    {"iq4_nl", 4.25}};
enum { N_TYPES = sizeof types / sizeof *types };

/* The type's number, or -1. */
static int type_of(const char *name)
{
    for (int i = 0; i < N_TYPES; i++)
        if (!strcmp(name, types[i].name))
            return i;
    if (strncmp(name, "tq", 2))
        return -1;
    char *end;
    double bits = strtod(name + 2, &end);
    for (int i = 0; *end == 0 && bits >= 2 && i < N_TYPES; i++)
        if (types[i].bits >= bits)
            return i;
    return -1;
}

/* ---- the command to run ---- */

typedef struct request {
    int keys, values; /* numbers of types */
    const char *profile;
    int no_profile, print;
    char **program; /* PROGRAM, its arguments, null */
    int n;
    char path[PATH_SIZE]; /* where PROGRAM was found; empty with print */
} request;

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Where an option of the program's stands; 0 if the user did not give it. */
static int is_given(const request *r, const char *one, const char *other)
{
    for (int i = 1; i < r->n; i++)
        if (!strcmp(r->program[i], one) || !strcmp(r->program[i], other))
            return i;
    return 0;
}

/* Its value, or null. */
static const char *given(const request *r, const char *one, const char *other)
{
    int i = is_given(r, one, other);
    return i && i + 1 < r->n ? r->program[i + 1] : NULL;
}

enum { MORE = 8 };

/* The program's arguments and ours: those that the user did not give. */
static char **arguments_of(const request *r)
{
    char **all = calloc((size_t)r->n + MORE, sizeof *all);
    int is_bench = !strcmp(base_name(r->program[0]), "llama-bench"), n = r->n;
    if (!all)
        return NULL;
    memcpy(all, r->program, (size_t)n * sizeof *all);
    if (!is_given(r, "-ctk", "--cache-type-k")) {
        all[n++] = "-ctk";
        all[n++] = (char *)types[r->keys].name;
    }
    if (!is_given(r, "-ctv", "--cache-type-v")) {
        all[n++] = "-ctv";
        all[n++] = (char *)types[r->values].name;
    }
    /* Builds with their backends inside load others only where devices are asked
     * for: for tensors of no name. */
    if (!is_bench && !is_given(r, "-ot", "--override-tensor")) {
        all[n++] = "-ot";
        all[n++] = "^$=CPU";
    }
    return all;
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

/* ---- profiles ---- */

/* llama-perplexity beside the program, or in $PATH; 0 with a message. */
static int find_runner(const request *r, char runner[PATH_SIZE])
{
    char folder[PATH_SIZE];
    strcpy(folder, r->path);
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = 0;
    return (slash && llama_program(slash == folder ? "/" : folder, "llama-perplexity", runner)) ||
           llama_program(NULL, "llama-perplexity", runner) ||
           !failed("llama-perplexity, which key profiles are made with, is neither beside %s nor "
                   "in $PATH", base_name(r->program[0]));
}

/* Whether the file is there and whole. One that is not is made again. */
static int is_usable(const char *place)
{
    tqkv_profile *profile = NULL;
    int ok = access(place, R_OK) == 0 && profile_load(place, &profile);
    tqkv_profile_free(profile);
    return ok;
}

/* The profile of one model file, made if need be; null if there is none, with a message. */
static char *profile_of(const request *r, const char *model)
{
    char place[PATH_SIZE], runner[PATH_SIZE], text[PATH_SIZE];
    if (!llama_profile_place(model, place))
        return NULL;
    if (!r->print && !is_usable(place)) {
        profile_request p = {.model = model, .out = place, .text = text, .program = runner,
                             .centres = PROFILE_CENTRES, .windows = PROFILE_WINDOWS,
                             .threads = given(r, "-t", "--threads")};
        if (!find_runner(r, runner) || !llama_make_folders(place))
            return NULL;
        if (!llama_text(text)) {
            failed("profile.txt, the text that models are run on, was not installed with tqkv");
            return NULL;
        }
        fprintf(stderr, "tqkv: first use of %s: making its key profile\n", base_name(model));
        if (!profile_make(&p))
            return NULL;
    }
    return strdup(place);
}

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

/* Adds a profile's place to the list, at "first:second"; 0 without memory. */
static int append(char **list, const char *place)
{
    char *longer, *name = escaped(place);
    int ok = name && asprintf(&longer, "%s%s%s", *list ? *list : "", *list ? ":" : "", name) >= 0;
    free(name);
    if (ok) {
        free(*list);
        *list = longer;
    }
    return ok;
}

/* Adds the profiles of the model files in `names`, divided by commas, but for those
 * that cannot be made: those models' keys are kept without. */
static void append_models(const request *r, const char *names, char **list)
{
    char *copy = strdup(names), *rest = NULL;
    for (char *name = copy ? strtok_r(copy, ",", &rest) : NULL; name;
         name = strtok_r(NULL, ",", &rest)) {
        char *place = profile_of(r, name);
        if (place)
            append(list, place);
        free(place);
    }
    free(copy);
}

/* The profiles of all models that the program is given, as TQKV_PROFILE takes them. */
static char *profiles(const request *r)
{
    static const char *const options[] = {"-m", "--model", "-md", "--model-draft",
                                          "--spec-draft-model"};
    char *list = NULL;
    for (int i = 1; i + 1 < r->n; i++)
        for (size_t o = 0; o < sizeof options / sizeof *options; o++)
            if (!strcmp(r->program[i], options[o]))
                append_models(r, r->program[i + 1], &list);
    return list;
}

/* ---- running ---- */

static int run(const request *r)
{
    char backend[PATH_SIZE], *profile = NULL;
    if (!llama_backend(backend))
        return failed("libggml-tqkv.so is not beside tqkv; TQKV_BACKEND says where it is");
    char **arguments = arguments_of(r);
    if (!arguments)
        return failed("out of memory");
    if (r->profile)
        append(&profile, r->profile);
    else if (!r->no_profile)
        profile = profiles(r);
    if (r->print) {
        fputs("env", stdout);
        print_variable("GGML_BACKEND_PATH", backend);
        if (profile)
            print_variable("TQKV_PROFILE", profile);
        for (int i = 0; arguments[i]; i++)
            print_quoted(stdout, arguments[i]);
        putchar('\n');
    } else {
        const char *keys = given(r, "-ctk", "--cache-type-k");
        const char *values = given(r, "-ctv", "--cache-type-v");
        fprintf(stderr, "tqkv: keys in %s, values in %s, %s%s: %s\n",
                keys ? keys : types[r->keys].name, values ? values : types[r->values].name,
                profile ? "profile " : "no profile", profile ? profile : "",
                base_name(r->program[0]));
        setenv("GGML_BACKEND_PATH", backend, 1);
        if (profile)
            setenv("TQKV_PROFILE", profile, 1);
        else
            unsetenv("TQKV_PROFILE");
        execvp(r->path, arguments);
        failed("%s: %s", arguments[0], strerror(errno));
    }
    free(arguments);
    free(profile);
    return r->print ? EXIT_OK : EXIT_FAILED;
}

/* Our own options end at the program's name: getopt would read on. */
int command_llama(int argc, char **argv)
{
    request r = {0};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *option = argv[i];
        int takes = !strcmp(option, "--k") || !strcmp(option, "--v") ||
                    !strcmp(option, "--profile");
        const char *value = takes && i + 1 < argc ? argv[++i] : NULL;
        int type = takes && value ? type_of(value) : -1;
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
        if (!strcmp(option, "--profile"))
            r.profile = value;
        else if (takes && type < 0)
            return misused("no cache type of llama.cpp holds '%s'; see 'tqkv llama --help'", value);
        else if (!strcmp(option, "--k"))
            r.keys = type;
        else if (!strcmp(option, "--v"))
            r.values = type;
        else if (!strcmp(option, "--no-profile"))
            r.no_profile = 1;
        else if (!strcmp(option, "--print"))
            r.print = 1;
        else
            return misused("no option '%s'; see 'tqkv llama --help'", option);
    }
    if (i == argc)
        return misused("llama takes a program of llama.cpp; see 'tqkv llama --help'");
    if (r.profile && access(r.profile, R_OK))
        return failed("%s: %s", r.profile, strerror(errno));
    r.program = argv + i;
    r.n = argc - i;
    /* before a model is run for minutes */
    if (!r.print && !llama_program(NULL, r.program[0], r.path))
        return failed("%s: %s", r.program[0],
                      strchr(r.program[0], '/') ? strerror(errno) : "not found in $PATH");
    return run(&r);
}

/* Runs llama.cpp once on a text, with a backend that watches keys and queries
 * and fits the profile in the end. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "llama.h"
#include "output.h"
#include "profile_run.h"

static const char help[] =
    "usage: tqkv profile [OPTION]... -m MODEL.gguf -o OUT.profile\n"
    "\n"
    "Runs a model once, by llama.cpp, and fits a profile of its keys - for each\n"
    "layer and KV head a balance - which 'tqkv llama --profile' and the backend\n"
    "(TQKV_PROFILE) use. Files of the run are kept in TMPDIR while it lasts.\n"
    "\n"
    "  -m, --model FILE      the model\n"
    "  -f, --text FILE       text to run it on, of 5000 tokens or more (default: one\n"
    "                        that comes with tqkv)\n"
    "  -o, --out FILE        the profile\n"
    "  -t, --threads N       llama.cpp's -t\n"
    "  -w, --windows N       windows of 2048 tokens to run (default 2)\n"
    "      --llama DIR       folder of llama-perplexity (default: $PATH)\n"
    "  -h, --help            this text\n";

/* The profile is only written over what was there once it is whole. */
static int make_profile(const profile_request *r)
{
    char backend[PATH_SIZE];
    uint8_t *data = NULL;
    size_t size;
    output out;
    tqkv_profile *profile = NULL;
    if (access(r->text, R_OK))
        return !failed("%s: %s", r->text, strerror(errno));
    if (!llama_backend(backend))
        return !failed("libggml-tqkv.so is not beside tqkv; TQKV_BACKEND says where it is");
    if (!output_open(&out, r->out))
        return 0;
    int ok = profile_run(r, backend, &data, &size);
    tqkv_status status = ok ? tqkv_profile_read(data, size, &profile) : TQKV_OK;
    if (status != TQKV_OK)
        ok = !failed("%s: no profile: what the backend wrote is none: %s", r->model,
                     tqkv_status_string(status));
    tqkv_profile_free(profile);
    if (ok) {
        output_write(&out, data, size); /* a failure shows at commit */
        ok = output_commit(&out);
    } else {
        output_discard(&out);
    }
    free(data);
    return ok;
}

/* Where --llama says, or in $PATH. */
static int find_files(const char *folder, profile_request *r, char program[PATH_SIZE],
                      char text[PATH_SIZE])
{
    if (!llama_program(folder, "llama-perplexity", program))
        return !failed("llama-perplexity is not in %s; --llama says where it is",
                       folder ? folder : "$PATH");
    r->program = program;
    if (r->text)
        return 1;
    r->text = text;
    return llama_text(text) ||
           !failed("profile.txt, the text to run models on, is missing; give one with -f");
}

int command_profile(int argc, char **argv)
{
    static const struct option names[] = {
        {"model", required_argument, NULL, 'm'}, {"text", required_argument, NULL, 'f'},
        {"out", required_argument, NULL, 'o'}, {"threads", required_argument, NULL, 't'},
        {"windows", required_argument, NULL, 'w'}, {"llama", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'}, {0}};
    profile_request r = {.windows = PROFILE_WINDOWS};
    char program[PATH_SIZE], text[PATH_SIZE];
    const char *folder = NULL;
    uint64_t number;
    int option, ok = 1;
    while (ok && (option = getopt_long(argc, argv, "m:f:o:t:w:h", names, NULL)) != -1) {
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return EXIT_OK;
        case 'm':
            r.model = optarg;
            break;
        case 'f':
            r.text = optarg;
            break;
        case 'o':
            r.out = optarg;
            break;
        case 'l':
            folder = optarg;
            break;
        case 't':
            ok = parse_number(optarg, 512, &number) && number;
            r.threads = optarg;
            break;
        case 'w':
            ok = parse_number(optarg, 64, &number) && number;
            r.windows = (unsigned)number;
            break;
        default:
            return misused_option("profile", argv);
        }
    }
    if (!ok)
        return misused("'%s' is outside its option's range; see 'tqkv profile --help'", optarg);
    if (!r.model || !r.out || optind != argc)
        return misused("profile takes -m MODEL and -o OUT; see 'tqkv profile --help'");
    if (access(r.model, R_OK))
        return failed("%s: %s", r.model, strerror(errno));
    return find_files(folder, &r, program, text) && make_profile(&r) ? EXIT_OK : EXIT_FAILED;
}

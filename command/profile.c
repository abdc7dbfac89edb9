/* Runs llama.cpp once on a text, with a backend that watches keys and queries
 * and fits the profile in the end. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "llama.h"

enum { WINDOW = 2048 };

static const char help[] =
    "usage: tqkv profile [OPTION]... -m MODEL.gguf -o OUT.profile\n"
    "\n"
    "Runs a model once, by llama.cpp, and fits a profile of its keys - for each\n"
    "layer and KV head a balance and centres - which 'tqkv llama' and the backend\n"
    "(TQKV_PROFILE) use.\n"
    "\n"
    "  -m, --model FILE      the model\n"
    "  -f, --text FILE       text to run it on, of 5000 tokens or more (default: one\n"
    "                        that comes with tqkv)\n"
    "  -o, --out FILE        the profile\n"
    "  -t, --threads N       llama.cpp's -t\n"
    "  -w, --windows N       windows of 2048 tokens to run (default 2)\n"
    "      --centres N       centres for each head, 1 to 64 (default 64)\n"
    "      --llama DIR       folder of llama-perplexity (default: $PATH)\n"
    "  -h, --help            this text\n";

/* ---- the model's run ---- */

typedef struct child {
    pid_t pid;
    int progress; /* the backend's lines: WHAT DONE TOTAL */
    char log[sizeof "/tmp/tqkv-profile-XXXXXX"];
} child;

static void run_child(const profile_request *r, const char *program, const char *backend,
                      const char *text, int progress_fd, int log_fd)
{
    char number[32], chunks[32], keys[32], centres[32];
    snprintf(number, sizeof number, "%d", progress_fd);
    snprintf(chunks, sizeof chunks, "%u", r->windows);
    snprintf(keys, sizeof keys, "%u", r->windows * WINDOW);
    snprintf(centres, sizeof centres, "%u", r->centres);
    setenv("GGML_BACKEND_PATH", backend, 1);
    setenv("TQKV_CAPTURE", r->out, 1);
    setenv("TQKV_CAPTURE_KEYS", keys, 1);
    setenv("TQKV_CAPTURE_CENTRES", centres, 1);
    setenv("TQKV_CAPTURE_PROGRESS", number, 1);
    unsetenv("TQKV_PROFILE");
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
        dup2(log_fd, STDERR_FILENO) < 0)
        _exit(127);
    const char *arguments[] = {program, "-m", r->model, "-f", text, "-c", "2048", "-b", "2048",
                               "--chunks", chunks, "-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0",
                               "-ot", "^$=CPU", r->threads ? "-t" : NULL, r->threads, NULL};
    execv(program, (char *const *)arguments);
    _exit(127);
}

static int start(const profile_request *r, const char *program, const char *backend,
                 const char *text, child *c)
{
    int ends[2] = {-1, -1};
    strcpy(c->log, "/tmp/tqkv-profile-XXXXXX");
    int log_fd = mkostemp(c->log, O_CLOEXEC);
    if (log_fd < 0 || pipe(ends))
        return !failed("%s", strerror(errno));
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fflush(NULL);
    c->pid = fork();
    if (c->pid == 0)
        run_child(r, program, backend, text, ends[1], log_fd);
    close(ends[1]);
    close(log_fd);
    c->progress = ends[0];
    return c->pid > 0 || !failed("%s", strerror(errno));
}

static void follow(const child *c)
{
    char line[128], what[32];
    unsigned long long done, total;
    FILE *f = fdopen(c->progress, "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%31s %llu %llu", what, &done, &total) == 3)
            progress(strcmp(what, "fit") ? "profile: running the model" : "profile: fitting", done,
                     total);
    progress_end();
    if (f)
        fclose(f);
}

/* The last lines of the program's output that tell what went wrong. */
static void show_end(const char *log)
{
    uint8_t *data = NULL;
    size_t size;
    if (!file_load(log, &data, &size))
        return;
    size_t from = size;
    for (int lines = 0; from > 0 && lines < 12; from--)
        lines += data[from - 1] == '\n';
    fwrite(data + from, 1, size - from, stderr);
    free(data);
}

static int finish(const profile_request *r, const child *c)
{
    int status;
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        ;
    int ok = WIFEXITED(status) && WEXITSTATUS(status) == 0 && access(r->out, R_OK) == 0;
    if (!ok) {
        show_end(c->log);
        failed("%s: no profile: llama.cpp ended with status %d", r->model,
               WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
    unlink(c->log);
    return ok;
}

int profile_make(const profile_request *r)
{
    char program[PATH_SIZE], backend[PATH_SIZE], text[PATH_SIZE];
    child c;
    if (access(r->model, R_OK))
        return !failed("%s: %s", r->model, strerror(errno));
    if (!llama_program(r->folder, "llama-perplexity", program))
        return !failed("llama-perplexity is not in %s; --llama says where it is",
                       r->folder ? r->folder : "$PATH");
    if (!llama_backend(backend))
        return !failed("libggml-tqkv.so is not beside tqkv; TQKV_BACKEND says where it is");
    if (r->text)
        snprintf(text, sizeof text, "%s", r->text);
    else if (!llama_text(text))
        return !failed("profile.txt, the text to run models on, is missing; give one with -f");
    unlink(r->out);
    if (!start(r, program, backend, text, &c))
        return 0;
    follow(&c);
    return finish(r, &c);
}

int command_profile(int argc, char **argv)
{
    static const struct option names[] = {
        {"model", required_argument, NULL, 'm'}, {"text", required_argument, NULL, 'f'},
        {"out", required_argument, NULL, 'o'}, {"threads", required_argument, NULL, 't'},
        {"windows", required_argument, NULL, 'w'}, {"centres", required_argument, NULL, 'c'},
        {"llama", required_argument, NULL, 'l'}, {"help", no_argument, NULL, 'h'}, {0}};
    profile_request r = {.centres = PROFILE_CENTRES, .windows = PROFILE_WINDOWS};
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
            r.folder = optarg;
            break;
        case 't':
            ok = parse_number(optarg, 512, &number) && number;
            r.threads = optarg;
            break;
        case 'w':
            ok = parse_number(optarg, 64, &number) && number;
            r.windows = (unsigned)number;
            break;
        case 'c':
            ok = parse_number(optarg, 64, &number) && number;
            r.centres = (unsigned)number;
            break;
        default:
            return misused_option("profile", argv);
        }
    }
    if (!ok)
        return misused("'%s' is outside its option's range; see 'tqkv profile --help'", optarg);
    if (!r.model || !r.out || optind != argc)
        return misused("profile takes -m MODEL and -o OUT; see 'tqkv profile --help'");
    return profile_make(&r) ? EXIT_OK : EXIT_FAILED;
}

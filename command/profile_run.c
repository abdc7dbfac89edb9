#include "profile_run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"

enum { WINDOW = 2048 };

/* ---- signals ----
 *
 * They are blocked but for the moments of waiting, so that what is made can be removed
 * in order. Those that the caller ignores, as nohup does, stay ignored. */

static const int stop_signals[] = {SIGHUP, SIGINT, SIGTERM};
enum { N_STOP = sizeof stop_signals / sizeof *stop_signals };

typedef struct guard {
    struct sigaction before[N_STOP];
    sigset_t mask; /* of before */
} guard;

static volatile sig_atomic_t stopped; /* by this signal */

static void stop(int number)
{
    stopped = number;
}

static void guard_begin(guard *g)
{
    static const struct sigaction wanted = {.sa_handler = stop};
    sigset_t blocked;
    stopped = 0;
    sigemptyset(&blocked);
    for (int i = 0; i < N_STOP; i++) {
        sigaddset(&blocked, stop_signals[i]);
        sigaction(stop_signals[i], NULL, &g->before[i]);
        if (g->before[i].sa_handler != SIG_IGN)
            sigaction(stop_signals[i], &wanted, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, &g->mask);
}

/* The signal that came does now what it did before. */
static void guard_end(const guard *g)
{
    for (int i = 0; i < N_STOP; i++)
        sigaction(stop_signals[i], &g->before[i], NULL);
    if (stopped)
        raise(stopped);
    sigprocmask(SIG_SETMASK, &g->mask, NULL);
}

/* ---- the folder ---- */

typedef struct run {
    guard signals;
    pid_t pid;
    int progress; /* the backend's lines: WHAT DONE TOTAL, or "failed" and why */
    char *folder, *log, *profile;
    char reason[256];
} run;

static int make_folder(run *c)
{
    const char *place = getenv("TMPDIR");
    if (!place || !*place)
        place = "/tmp";
    if (asprintf(&c->folder, "%s/tqkv-profile-XXXXXX", place) < 0) {
        c->folder = NULL;
        return !failed("out of memory");
    }
    if (!mkdtemp(c->folder)) {
        failed("%s: no temporary folder can be made: %s", place, strerror(errno));
        free(c->folder);
        c->folder = NULL;
        return 0;
    }
    if (asprintf(&c->log, "%s/log", c->folder) < 0)
        c->log = NULL;
    if (asprintf(&c->profile, "%s/profile", c->folder) < 0)
        c->profile = NULL;
    return (c->log && c->profile) || !failed("out of memory");
}

/* With all that is in it: a backend that was killed leaves a file of some name. */
static void remove_folder(run *c)
{
    DIR *d = c->folder ? opendir(c->folder) : NULL;
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0); /* fails for the folder and its parent */
    if (d)
        closedir(d);
    if (c->folder)
        rmdir(c->folder);
    free(c->folder);
    free(c->log);
    free(c->profile);
}

/* ---- the model's run ---- */

static void run_child(const profile_request *r, const run *c, const char *backend,
                      int progress_fd, int log_fd)
{
    char number[32], chunks[32], keys[32];
    snprintf(number, sizeof number, "%d", progress_fd);
    snprintf(chunks, sizeof chunks, "%u", r->windows);
    snprintf(keys, sizeof keys, "%u", r->windows * WINDOW);
    setenv("GGML_BACKEND_PATH", backend, 1);
    setenv("TQKV_CAPTURE", c->profile, 1);
    setenv("TQKV_CAPTURE_KEYS", keys, 1);
    setenv("TQKV_CAPTURE_PROGRESS", number, 1);
    unsetenv("TQKV_PROFILE");
    unsetenv("TQKV_KV");
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
        dup2(log_fd, STDERR_FILENO) < 0 || fcntl(progress_fd, F_SETFD, 0))
        _exit(127);
    const char *arguments[] = {r->program, "-m", r->model, "-f", r->text, "-c", "2048", "-b",
                               "2048", "--chunks", chunks, "-ot", "^$=CPU",
                               r->threads ? "-t" : NULL, r->threads, NULL};
    setpgid(0, 0); /* to be ended with whatever it starts */
    sigprocmask(SIG_SETMASK, &c->signals.mask, NULL);
    execv(r->program, (char *const *)arguments);
    _exit(127);
}

static int start(const profile_request *r, const char *backend, run *c)
{
    int ends[2] = {-1, -1}, log_fd = open(c->log, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int ok = log_fd >= 0 && !pipe2(ends, O_CLOEXEC);
    if (ok) {
        fflush(NULL);
        c->pid = fork();
        if (c->pid == 0)
            run_child(r, c, backend, ends[1], log_fd);
        ok = c->pid > 0;
    }
    if (!ok)
        failed("llama-perplexity cannot be started: %s", strerror(errno));
    else
        setpgid(c->pid, c->pid);
    if (log_fd >= 0)
        close(log_fd);
    if (ends[1] >= 0)
        close(ends[1]);
    if (!ok && ends[0] >= 0)
        close(ends[0]);
    c->progress = ends[0];
    return ok;
}

static void read_line(run *c, const char *line)
{
    char what[32];
    unsigned long long done, total;
    if (!strncmp(line, "failed ", 7))
        snprintf(c->reason, sizeof c->reason, "%s", line + 7);
    else if (sscanf(line, "%31s %llu %llu", what, &done, &total) == 3)
        progress(strcmp(what, "fit") ? "profile: running the model" : "profile: fitting", done,
                 total);
}

/* Until the backend, and whoever has its end of the pipe, is gone, or a signal comes. */
static void follow(run *c)
{
    char text[512];
    size_t n = 0;
    while (!stopped) {
        struct pollfd p = {.fd = c->progress, .events = POLLIN};
        if (ppoll(&p, 1, NULL, &c->signals.mask) < 0) {
            if (errno == EINTR)
                continue;
            break;
        }
        ssize_t got = read(c->progress, text + n, sizeof text - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
        text[n] = 0;
        char *line = text;
        for (char *end; (end = strchr(line, '\n')); line = end + 1) {
            *end = 0;
            read_line(c, line);
        }
        n -= (size_t)(line - text);
        memmove(text, line, n);
        if (n == sizeof text - 1) /* no line of ours */
            n = 0;
    }
    progress_end();
    close(c->progress);
}

/* Its wait status; of a child that a signal to us ends as well, that end. */
static int wait_for(const run *c)
{
    static const struct timespec moment = {0, 20000000};
    int status = 0;
    pid_t waited;
    while ((waited = waitpid(c->pid, &status, WNOHANG)) == 0 && !stopped)
        ppoll(NULL, 0, &moment, &c->signals.mask);
    if (waited == 0) {
        kill(-c->pid, SIGKILL);
        waitpid(c->pid, &status, 0);
    }
    return status;
}

/* The last lines of the program's output, which tell what went wrong. */
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

static int report_end(const profile_request *r, const run *c, int status)
{
    if (*c->reason && !WIFSIGNALED(status))
        return !failed("%s: no profile: %s", r->model, c->reason);
    show_end(c->log);
    if (WIFSIGNALED(status))
        return !failed("%s: no profile: llama-perplexity was ended by signal %d (%s)", r->model,
                       WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status))
        return !failed("%s: no profile: llama-perplexity ended with status %d", r->model,
                       WEXITSTATUS(status));
    return !failed("%s: no profile: llama-perplexity ran without tqkv's backend, or the text is "
                   "too short", r->model);
}

int profile_run(const profile_request *r, const char *backend, uint8_t **data, size_t *size)
{
    run c = {.progress = -1};
    guard_begin(&c.signals);
    int ok = make_folder(&c) && start(r, backend, &c);
    if (ok) {
        follow(&c);
        int status = wait_for(&c);
        ok = !stopped && WIFEXITED(status) && !WEXITSTATUS(status) && !access(c.profile, R_OK);
        if (ok)
            ok = file_load(c.profile, data, size);
        else if (!stopped)
            report_end(r, &c, status);
    }
    remove_folder(&c);
    guard_end(&c.signals);
    return ok;
}

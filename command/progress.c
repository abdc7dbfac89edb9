#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

/* Seconds before the first line and between two: on a terminal it is written over; in
 * a log lines stay, so that there are few. */
static const double terminal_wait[] = {1, .1}, log_wait[] = {10, 30};

static double began, shown; /* all tasks up to progress_end; the last line */
static const char *task;
static double started;
static uint64_t first; /* done when the task started */

double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_remaining(double left)
{
    if (left < 90)
        fprintf(stderr, ", %.0f s left", left);
    else if (left < 90 * 60)
        fprintf(stderr, ", %.0f min left", left / 60);
    else
        fprintf(stderr, ", %.1f h left", left / 3600);
}

void progress(const char *what, uint64_t done, uint64_t total)
{
    int terminal = isatty(STDERR_FILENO);
    const double *wait = terminal ? terminal_wait : log_wait;
    double now = seconds();
    if (!total)
        return;
    if (!task || strcmp(task, what) || done <= first) {
        task = what;
        started = now;
        first = done;
    }
    if (began == 0)
        began = now;
    if (now - began < wait[0] || (shown > 0 && now - shown < wait[1]))
        return;
    shown = now;
    fprintf(stderr, "%s%s %3u%%", terminal ? "\r\033[K" : "tqkv: ", what,
            (unsigned)(100.0 * (double)done / (double)total));
    if (done > first && done <= total)
        print_remaining((now - started) * (double)(total - done) / (double)(done - first));
    if (!terminal)
        fputc('\n', stderr);
    fflush(stderr);
}

void progress_end(void)
{
    if (shown > 0 && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    task = NULL;
    began = shown = 0;
}

#include <time.h>
#include <unistd.h>

#include "command.h"

static double started, shown;

double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress(const char *what, uint64_t done, uint64_t total)
{
    double now = seconds();
    if (!isatty(STDERR_FILENO) || !total)
        return;
    if (done == 0 || started == 0)
        started = now;
    if (now - started < 1 || now - shown < 0.1)
        return;
    shown = now;
    fprintf(stderr, "\r\033[K%s %3u%%", what, (unsigned)(100.0 * (double)done / (double)total));
    fflush(stderr);
}

void progress_end(void)
{
    if (shown > 0)
        fputs("\r\033[K", stderr);
    started = shown = 0;
}

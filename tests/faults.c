/* Preloaded into the command by cli_faults.sh: functions of the system that fail, or
 * take long, when the environment says so. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static const char *wanted(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static void find(const char *name, void *function)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    memcpy(function, &symbol, sizeof symbol);
}

/* FAULT_REALLOC=N: the first block of N bytes. */
void *realloc(void *memory, size_t size)
{
    static void *(*real)(void *, size_t);
    static int failed;
    const char *n = wanted("FAULT_REALLOC");
    if (!real)
        find("realloc", &real);
    if (n && !failed && size == strtoull(n, NULL, 10)) {
        failed = 1;
        errno = ENOMEM;
        return NULL;
    }
    return real(memory, size);
}

/* FAULT_FORK */
pid_t fork(void)
{
    static pid_t (*real)(void);
    if (!real)
        find("fork", &real);
    if (wanted("FAULT_FORK")) {
        errno = EAGAIN;
        return -1;
    }
    return real();
}

/* FAULT_FSYNC */
int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        find("fsync", &real);
    if (wanted("FAULT_FSYNC")) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd);
}

/* FAULT_POPEN: returns when a program that ends at once has ended. */
FILE *popen(const char *command, const char *mode)
{
    static FILE *(*real)(const char *, const char *);
    if (!real)
        find("popen", &real);
    FILE *f = real(command, mode);
    if (wanted("FAULT_POPEN"))
        usleep(500000);
    return f;
}

/* FAULT_CLOCK=N: time passes N times as fast. */
int clock_gettime(clockid_t clock, struct timespec *t)
{
    const char *n = wanted("FAULT_CLOCK");
    long result = syscall(SYS_clock_gettime, clock, t);
    if (n && result == 0) {
        double passed = ((double)t->tv_sec + 1e-9 * (double)t->tv_nsec) * strtod(n, NULL);
        t->tv_sec = (time_t)passed;
        t->tv_nsec = (long)((passed - (double)t->tv_sec) * 1e9);
    }
    return (int)result;
}

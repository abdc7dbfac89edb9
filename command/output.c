#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"

/* The partial file to remove when a signal ends the command. */
static const char *volatile pending;

static void remove_pending(int number)
{
    if (pending)
        unlink(pending);
    signal(number, SIG_DFL);
    raise(number);
}

/* Signals that the caller ignores, as nohup does, stay ignored. */
static void watch_signals(const char *path)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE};
    pending = path;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction now, wanted = {.sa_handler = path ? remove_pending : SIG_DFL};
        if (!sigaction(signals[i], NULL, &now) && now.sa_handler != SIG_IGN)
            sigaction(signals[i], &wanted, NULL);
    }
}

/* Opens and locks the file; -1 with a message. The lock may be won on a file
 * that its last owner has meanwhile renamed: then try again. */
static int open_locked(const output *out)
{
    for (;;) {
        struct stat opened, named;
        int fd = open(out->partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) {
            failed("%s: cannot be written: %s: %s", out->path, out->partial, strerror(errno));
            return -1;
        }
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            failed("%s: another command is writing it", out->path);
            close(fd);
            return -1;
        }
        if (!fstat(fd, &opened) && !stat(out->partial, &named) &&
            opened.st_ino == named.st_ino && opened.st_dev == named.st_dev)
            return fd;
        close(fd);
    }
}

int output_open(output *out, const char *path)
{
    struct stat status;
    memset(out, 0, sizeof *out);
    out->path = path;
    if (!strcmp(path, "-")) {
        out->file = stdout;
        out->path = "standard output";
        return 1;
    }
    if (!stat(path, &status) && S_ISDIR(status.st_mode)) {
        failed("%s: is a directory; a file is expected", path);
        return 0;
    }
    if (!stat(path, &status) && !S_ISREG(status.st_mode)) {
        out->file = fopen(path, "wb"); /* a device or a pipe: nothing to rename */
        if (!out->file)
            failed("%s: cannot be written: %s", path, strerror(errno));
        return out->file != NULL;
    }
    size_t size = strlen(path) + sizeof ".partial";
    out->partial = allocate(size, 1);
    if (!out->partial)
        return 0;
    snprintf(out->partial, size, "%s.partial", path);
    int fd = open_locked(out);
    if (fd >= 0 && (ftruncate(fd, 0) || !(out->file = fdopen(fd, "wb")))) {
        failed("%s: cannot be written: %s", path, strerror(errno));
        close(fd);
    }
    if (!out->file) {
        free(out->partial);
        out->partial = NULL;
        return 0;
    }
    watch_signals(out->partial);
    return 1;
}

static int sync_folder(const char *path)
{
    char *folder = strdup(path);
    if (!folder)
        return 0;
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (fd < 0)
        return 0;
    int ok = !fsync(fd);
    close(fd);
    return ok;
}

int output_commit(output *out)
{
    int ok = !fflush(out->file) && !ferror(out->file);
    if (ok && out->partial)
        ok = !fsync(fileno(out->file)) && !rename(out->partial, out->path);
    if (!ok) {
        failed("%s: writing failed: %s", out->path, strerror(errno));
        output_discard(out);
        return 0;
    }
    watch_signals(NULL);
    if (out->partial)
        sync_folder(out->path); /* some file systems cannot; the file is whole */
    if (out->file != stdout)
        fclose(out->file);
    free(out->partial);
    memset(out, 0, sizeof *out);
    return 1;
}

void output_discard(output *out)
{
    if (!out->file)
        return;
    if (out->partial)
        unlink(out->partial);
    watch_signals(NULL);
    if (out->file != stdout)
        fclose(out->file);
    free(out->partial);
    memset(out, 0, sizeof *out);
}

size_t output_write(void *context, const void *data, size_t size)
{
    return fwrite(data, 1, size, ((output *)context)->file);
}

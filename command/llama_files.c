#include "llama.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* path = the pieces, up to a null; 0 if they are too long. */
static int join(char path[PATH_SIZE], const char *const *pieces)
{
    size_t used = 0;
    for (; *pieces; pieces++) {
        size_t n = strlen(*pieces);
        if (used + n >= PATH_SIZE)
            return 0;
        memcpy(path + used, *pieces, n + 1);
        used += n;
    }
    return 1;
}
#define JOIN(path, ...) join(path, (const char *const[]){__VA_ARGS__, NULL})

static int own_folder(char path[PATH_SIZE])
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_SIZE - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    *strrchr(path, '/') = 0;
    return 1;
}

/* A file beside this program, or in one of the places relative to it. */
static int find_beside(const char *name, const char *const *places, char path[PATH_SIZE])
{
    char folder[PATH_SIZE];
    for (; own_folder(folder) && *places; places++)
        if (JOIN(path, folder, *places, name) && access(path, R_OK) == 0)
            return 1;
    return 0;
}

int llama_backend(char path[PATH_SIZE])
{
    static const char *const places[] = {"/", "/../" TQKV_LIBDIR "/tqkv/", "/../lib/tqkv/", NULL};
    const char *given = getenv("TQKV_BACKEND");
    if (given && *given)
        return JOIN(path, given) && access(path, R_OK) == 0;
    return find_beside("libggml-tqkv.so", places, path);
}

int llama_text(char path[PATH_SIZE])
{
    static const char *const places[] = {"/../data/", "/../../data/", "/../share/tqkv/", NULL};
    return find_beside("profile.txt", places, path);
}

static int is_program(const char *path)
{
    struct stat s;
    if (stat(path, &s) == 0 && !S_ISREG(s.st_mode))
        return errno = EISDIR, 0;
    return access(path, X_OK) == 0;
}

int llama_program(const char *folder, const char *name, char path[PATH_SIZE])
{
    if (folder)
        return JOIN(path, folder, "/", name) && is_program(path);
    if (strchr(name, '/'))
        return JOIN(path, name) && is_program(path);
    const char *at = getenv("PATH");
    for (at = at ? at : "/bin:/usr/bin"; *at;) {
        char place[PATH_SIZE];
        size_t n = strcspn(at, ":");
        if (n < PATH_SIZE) {
            memcpy(place, at, n);
            place[n] = 0;
            if (JOIN(path, n ? place : ".", "/", name) && is_program(path))
                return 1;
        }
        at += n + (at[n] == ':');
    }
    return 0;
}

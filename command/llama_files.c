#include "llama.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"

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

/* FNV-1a, to name a file: collisions are harmless, since the profile says which
 * model it is for. */
static uint64_t hash(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

int llama_make_folders(const char *path)
{
    char folder[PATH_SIZE];
    if (!JOIN(folder, path))
        return !failed("%s: %s", path, strerror(ENAMETOOLONG));
    for (char *at = strchr(folder + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        if (mkdir(folder, 0777) && errno != EEXIST)
            return !failed("%s: this folder for profiles cannot be made: %s", folder,
                           strerror(errno));
        *at = '/';
    }
    return 1;
}

int llama_profile_place(const char *model, char path[PATH_SIZE])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char real[PATH_SIZE], number[32];
    struct stat s;
    if (!realpath(model, real) || stat(real, &s))
        return !failed("%s: %s", model, strerror(errno));
    uint64_t h = hash(0xCBF29CE484222325u, real, strlen(real));
    h = hash(h, &s.st_size, sizeof s.st_size);
    h = hash(h, &s.st_mtim, sizeof s.st_mtim);
    snprintf(number, sizeof number, "%016llx", (unsigned long long)h);
    int has_cache = cache && *cache == '/';
    if (!has_cache && !(home && *home == '/'))
        return !failed("no folder for key profiles: neither HOME nor XDG_CACHE_HOME says one");
    return (has_cache ? JOIN(path, cache, "/tqkv/profiles/", number, ".profile")
                      : JOIN(path, home, "/.cache/tqkv/profiles/", number, ".profile")) ||
           !failed("no folder for key profiles: %s", strerror(ENAMETOOLONG));
}

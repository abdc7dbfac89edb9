#include "profiles.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* ---- fingerprint ---- */

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static int is_norm(const gg_tensor *t)
{
    return t && t->type == GG_F32 && t->buffer && t->buffer->usage == GG_USAGE_WEIGHTS &&
           t->ne[1] == 1 && t->ne[2] == 1 && t->ne[0] > 0 && t->ne[0] < 1 << 20 &&
           (ends_with(t->name, "attn_norm.weight") || !strcmp(t->name, "output_norm.weight"));
}

int fingerprint_of(gg_graph *graph, char text[FINGERPRINT_SIZE])
{
    uint64_t sum = 0;
    unsigned n = 0;
    for (int i = 0; i < gg.graph_n_nodes(graph); i++) {
        const gg_tensor *norm = gg.graph_node(graph, i)->src[1];
        if (!is_norm(norm))
            continue;
        if (!norm->data) /* llama.cpp only measures memory */
            return 0;
        size_t bytes = (size_t)norm->ne[0] * sizeof(float);
        void *data = malloc(bytes);
        if (!data)
            return 0;
        gg.tensor_get(norm, data, 0, bytes);
        /* A sum, so that the order of the nodes does not count. */
        sum += XXH64(data, bytes, XXH64(norm->name, strlen(norm->name), 0));
        n++;
        free(data);
    }
    snprintf(text, FINGERPRINT_SIZE, "norms:%016llx", (unsigned long long)sum);
    if (n == 0)
        snprintf(text, FINGERPRINT_SIZE, "unknown");
    return 1;
}

/* ---- files ---- */

enum { LARGEST_FILE = 1 << 30 };

static tqkv_status read_profile(const char *path, tqkv_profile **profile, uint64_t *id)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return TQKV_ERROR_ARGUMENT;
    long size = fseek(f, 0, SEEK_END) ? -1 : ftell(f);
    tqkv_status status = TQKV_ERROR_ARGUMENT;
    void *data = size > 0 && size <= LARGEST_FILE ? malloc((size_t)size) : NULL;
    rewind(f);
    if (data && fread(data, 1, (size_t)size, f) == (size_t)size) {
        status = tqkv_profile_read(data, (size_t)size, profile);
        *id = XXH64(data, (size_t)size, 0);
    }
    free(data);
    fclose(f);
    return status;
}

const char *profile_for(const char *fingerprint, tqkv_profile **profile, uint64_t *id)
{
    static _Thread_local char message[512];
    const char *list = getenv("TQKV_PROFILE");
    *profile = NULL;
    *id = 0;
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, ":");
        char path[256 + 1];
        if (n >= sizeof path)
            return "a file name in TQKV_PROFILE is longer than 256 bytes";
        memcpy(path, at, n);
        path[n] = 0;
        at += n + (at[n] == ':');
        errno = 0;
        tqkv_status status = read_profile(path, profile, id);
        if (status != TQKV_OK) {
            snprintf(message, sizeof message, "the profile %s cannot be read: %s", path,
                     errno ? strerror(errno) : tqkv_status_string(status));
            return message;
        }
        if (!strcmp(tqkv_profile_fingerprint(*profile), fingerprint))
            return NULL;
        tqkv_profile_free(*profile);
        *profile = NULL;
    }
    if (!list || !*list)
        return NULL;
    snprintf(message, sizeof message,
             "no profile of TQKV_PROFILE (%.200s) is of this model (%s): make one with 'tqkv "
             "profile', or unset the variable (as when a part of the model is on another device)",
             list, fingerprint);
    return message;
}

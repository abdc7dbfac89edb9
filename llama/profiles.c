#include "profiles.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
    return n > 0;
}

/* ---- files ---- */

enum { LARGEST_FILE = 1 << 30, SHOWN = 300 /* bytes of a name in a message */ };

/* All of a file into *data, to be freed; null, or why not. */
static const char *read_file(const char *path, void **data, size_t *size)
{
    struct stat s;
    const char *problem = NULL;
    FILE *f = fopen(path, "rb");
    if (!f)
        return strerror(errno);
    *data = NULL;
    if (fstat(fileno(f), &s))
        problem = strerror(errno);
    else if (!S_ISREG(s.st_mode))
        problem = "it is no regular file";
    else if (s.st_size == 0)
        problem = "the file is empty";
    else if (s.st_size > LARGEST_FILE)
        problem = "the file is larger than any profile";
    *size = problem ? 0 : (size_t)s.st_size;
    if (!problem && !(*data = malloc(*size)))
        problem = "out of memory";
    if (!problem && fread(*data, 1, *size, f) != *size)
        problem = ferror(f) ? strerror(errno) : tqkv_status_string(TQKV_ERROR_TRUNCATED);
    fclose(f);
    if (problem) {
        free(*data);
        *data = NULL;
    }
    return problem;
}

/* Null, or why there is none. */
static const char *read_profile(const char *path, tqkv_profile **profile, uint64_t *id)
{
    void *data = NULL;
    size_t size = 0;
    const char *problem = read_file(path, &data, &size);
    if (problem)
        return problem;
    tqkv_status status = tqkv_profile_read(data, size, profile);
    if (status != TQKV_OK)
        problem = tqkv_status_string(status);
    *id = XXH64(data, size, 0);
    free(data);
    return problem;
}

/* The list's next name, with "\:" as a colon in it and "\\" as a backslash; null if
 * it is longer than a path can be. */
static const char *next_name(const char *at, char name[PATH_MAX])
{
    size_t n = 0;
    for (; *at && *at != ':'; at++) {
        if (*at == '\\' && (at[1] == ':' || at[1] == '\\'))
            at++;
        if (n == PATH_MAX - 1)
            return NULL;
        name[n++] = *at;
    }
    name[n] = 0;
    return at + (*at == ':');
}

const char *profile_for(const char *fingerprint, model_profile *m)
{
    static _Thread_local char message[512];
    const char *list = getenv("TQKV_PROFILE");
    char path[PATH_MAX];
    int is_unread = 0; /* one of them; another may be the model's */
    *m = (model_profile){0};
    for (const char *at = list; at && *at;) {
        tqkv_profile *profile = NULL;
        uint64_t id = 0;
        at = next_name(at, path);
        if (!at)
            return "a file name in TQKV_PROFILE is longer than a path can be";
        if (!*path)
            continue;
        const char *problem = read_profile(path, &profile, &id);
        if (problem) {
            size_t n = strlen(path), from = n > SHOWN ? n - SHOWN : 0;
            snprintf(message, sizeof message, "the profile %s%s cannot be read: %s",
                     from ? "..." : "", path + from, problem);
            is_unread = 1;
            continue;
        }
        if (!strcmp(tqkv_profile_fingerprint(profile), fingerprint)) {
            *m = (model_profile){.profile = profile, .id = id};
            return NULL;
        }
        tqkv_profile_free(profile);
    }
    if (!list || !*list)
        return NULL;
    if (is_unread)
        return message;
    snprintf(message, sizeof message,
             "no profile of TQKV_PROFILE (%.200s) is of this model (%s): make one with 'tqkv "
             "profile', or unset the variable (as when a part of the model is on another device)",
             list, fingerprint);
    return message;
}

/* ---- balances ---- */

float *profile_balances(model_profile *m, uint32_t layer, uint32_t n_heads, uint32_t head_dim,
                        uint64_t *id)
{
    const tqkv_profile *p = m ? m->profile : NULL;
    *id = 0;
    if (!p)
        return NULL;
    if (layer >= tqkv_profile_n_layers(p) || n_heads > tqkv_profile_n_heads(p) ||
        head_dim != tqkv_profile_head_dim(p)) {
        if (!m->has_warned)
            gg.log(GG_LOG_WARN, "tqkv: the profile has nothing for layers as layer %u is, with %u "
                                "heads of %u\n", layer, n_heads, head_dim);
        m->has_warned = 1;
        return NULL;
    }
    float *all = malloc((size_t)n_heads * head_dim * sizeof *all);
    for (uint32_t h = 0; all && h < n_heads; h++) {
        const float *balance = NULL;
        tqkv_profile_balance(p, layer, h, &balance);
        memcpy(all + (size_t)h * head_dim, balance, head_dim * sizeof *all);
    }
    *id = all ? m->id : 0;
    return all;
}

#include "capture.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tqkv_page.h"

typedef struct layer {
    uint32_t n_heads, head_dim;
    size_t n_keys, n_batch;  /* kept so far; rows of the batch at hand */
    uint16_t *keys;          /* [n_heads][max_keys][head_dim], f16 */
    double *squares;         /* [n_heads][head_dim], of queries */
    double n_queries;
} layer;

struct capture {
    int progress; /* file to write progress to, or -1 */
    char *path, fingerprint[FINGERPRINT_SIZE];
    size_t max_keys, seen; /* seen: of all layers */
    uint32_t n_layers;
    layer *layers;
};

capture *capture_create(const char *path, size_t max_keys)
{
    capture *c = calloc(1, sizeof *c);
    if (c)
        c->path = strdup(path);
    if (!c || !c->path) {
        free(c);
        return NULL;
    }
    c->max_keys = max_keys;
    const char *progress = getenv("TQKV_CAPTURE_PROGRESS");
    c->progress = progress ? atoi(progress) : -1;
    return c;
}

/* For whoever started us: a line of what, done and total; or "failed" and why. */
static void report(const capture *c, const char *what, size_t done, size_t total)
{
    if (c->progress >= 0)
        dprintf(c->progress, "%s %zu %zu\n", what, done, total);
}

void capture_name(capture *c, const char *fingerprint)
{
    snprintf(c->fingerprint, sizeof c->fingerprint, "%s", fingerprint);
}

/* The layer, made at its first attention; null before, and without memory. */
static layer *layer_of(capture *c, const cells *k, int may_make)
{
    uint32_t i = (uint32_t)k->layer, dim = k->head_dim;
    if (i >= c->n_layers && may_make) {
        layer *layers = realloc(c->layers, (i + 1) * sizeof *layers);
        if (!layers)
            return NULL;
        memset(layers + c->n_layers, 0, (i + 1 - c->n_layers) * sizeof *layers);
        c->layers = layers;
        c->n_layers = i + 1;
    }
    if (i >= c->n_layers)
        return NULL;
    layer *l = &c->layers[i];
    if (!l->keys && may_make) {
        *l = (layer){.n_heads = k->n_heads, .head_dim = dim};
        l->keys = malloc(k->n_heads * c->max_keys * dim * sizeof *l->keys);
        l->squares = calloc((size_t)k->n_heads * dim, sizeof *l->squares);
    }
    return l->keys && l->squares && l->n_heads == k->n_heads && l->head_dim == dim ? l : NULL;
}

void capture_prepare(capture *c, const cells *keys)
{
    layer_of(c, keys, 1);
}

void capture_keys(capture *c, const cells *k, size_t row, const float *values)
{
    layer *l = layer_of(c, k, 0);
    if (!l || l->n_keys + row >= c->max_keys)
        return;
    for (uint32_t h = 0; h < l->n_heads; h++, values += l->head_dim)
        tqkv_from_f32(values, l->head_dim,
                      l->keys + ((size_t)h * c->max_keys + l->n_keys + row) * l->head_dim,
                      TQKV_F16);
}

void capture_queries(capture *c, const cells *k, const gg_tensor *q)
{
    layer *l = layer_of(c, k, 0);
    if (!l || l->n_keys >= c->max_keys)
        return;
    uint32_t group = (uint32_t)q->ne[2] / l->n_heads;
    for (int64_t h = 0; h < q->ne[2]; h++)
        for (int64_t i = 0; i < q->ne[1]; i++) {
            const float *x = (const float *)((const uint8_t *)q->data + i * (int64_t)q->nb[1] +
                                             h * (int64_t)q->nb[2]);
            double *square = l->squares + (size_t)(h / group) * l->head_dim;
            for (uint32_t d = 0; d < l->head_dim; d++)
                square[d] += (double)x[d] * x[d];
        }
    l->n_queries += (double)(q->ne[1] * group);
    l->n_keys += (size_t)q->ne[1];
    if (l->n_keys > c->max_keys)
        l->n_keys = c->max_keys;
    c->seen += (size_t)q->ne[1];
    report(c, "keys", c->seen, c->max_keys * c->n_layers);
}

/* ---- fitting ---- */

/* Whether there is something to fit: more than a program's warm-up. */
static int has_keys(const layer *l)
{
    return l->n_keys >= TQKV_PAGE_TOKENS;
}

/* The layers' common shape: the largest head count of the commonest head_dim. */
static int shape_of(const capture *c, uint32_t *n_heads, uint32_t *head_dim)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        uint32_t same = 0, heads = 0;
        for (uint32_t j = 0; j < c->n_layers; j++)
            if (has_keys(&c->layers[j]) && c->layers[j].head_dim == c->layers[i].head_dim) {
                same++;
                heads = c->layers[j].n_heads > heads ? c->layers[j].n_heads : heads;
            }
        if (has_keys(&c->layers[i]) && same > most) {
            most = same;
            *n_heads = heads;
            *head_dim = c->layers[i].head_dim;
        }
    }
    return most > 0;
}

static tqkv_status fit_head(const capture *c, tqkv_profile *p, uint32_t layer_number,
                            uint32_t head)
{
    const layer *l = &c->layers[layer_number];
    size_t n = l->n_keys, dim = l->head_dim;
    float query[TQKV_MAX_HEAD_DIM], *keys = malloc(n * dim * sizeof *keys);
    if (!keys)
        return TQKV_ERROR_MEMORY;
    tqkv_to_f32(l->keys + head * c->max_keys * dim, TQKV_F16, n * dim, keys);
    /* One query whose squares are the mean squares of all. */
    for (size_t d = 0; d < dim; d++)
        query[d] = (float)sqrt(l->squares[head * dim + d] / l->n_queries);
    tqkv_status status = tqkv_profile_fit(p, layer_number, head, 1, keys, n, 0, query, 1, 0);
    free(keys);
    return status;
}

static tqkv_status fit(const capture *c, tqkv_profile *p, uint32_t head_dim)
{
    uint32_t done = 0;
    int worst = TQKV_OK;
#pragma omp parallel for schedule(dynamic)
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const layer *l = &c->layers[i];
        for (uint32_t h = 0; has_keys(l) && l->head_dim == head_dim && h < l->n_heads; h++) {
            tqkv_status status = fit_head(c, p, i, h);
            if (status != TQKV_OK)
#pragma omp atomic write
                worst = status;
        }
#pragma omp critical
        report(c, "fit", ++done, c->n_layers);
    }
    return (tqkv_status)worst;
}

/* ---- the file ---- */

/* Makes a rename safe from a crash of the system; where a file system cannot, what is
 * under the name is whole all the same. */
static void sync_folder(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    int fd = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* Writes, flushes and closes; 0, or an errno. */
static int write_all(int fd, const void *data, size_t size)
{
    int error = 0;
    for (size_t done = 0; done < size && !error;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            error = errno;
    }
    if (!error && fsync(fd))
        error = errno;
    if (close(fd) && !error)
        error = errno;
    return error;
}

/* The file appears under its name when it is whole and on the disk: two contexts that
 * end at once, or a crash, leave one of them or none. 0, or an errno. */
static int write_file(const char *path, const void *data, size_t size)
{
    char *beside;
    if (asprintf(&beside, "%s.XXXXXX", path) < 0)
        return ENOMEM;
    int fd = mkostemp(beside, O_CLOEXEC);
    int error = fd < 0 ? errno : write_all(fd, data, size);
    if (!error && rename(beside, path))
        error = errno;
    if (error && fd >= 0)
        unlink(beside);
    if (!error)
        sync_folder(beside);
    free(beside);
    return error;
}

/* Null, or why nothing was written. */
static const char *write_profile(const tqkv_profile *p, const char *path)
{
    size_t size;
    tqkv_status status = tqkv_profile_size(p, &size);
    void *data = status == TQKV_OK ? malloc(size) : NULL;
    if (status == TQKV_OK)
        status = data ? tqkv_profile_write(p, data, size) : TQKV_ERROR_MEMORY;
    int error = status == TQKV_OK ? write_file(path, data, size) : 0;
    free(data);
    return status != TQKV_OK ? tqkv_status_string(status) : error ? strerror(error) : NULL;
}

/* Null, or what is wrong. A context that computed nothing, of which programs make some,
 * writes nothing. */
static const char *fit_and_write(const capture *c)
{
    uint32_t n_heads, head_dim;
    tqkv_profile *p = NULL;
    if (!shape_of(c, &n_heads, &head_dim))
        return NULL;
    tqkv_status status = tqkv_profile_create(c->n_layers, n_heads, head_dim, c->fingerprint, &p);
    if (status == TQKV_OK)
        status = fit(c, p, head_dim);
    const char *problem = status == TQKV_OK ? write_profile(p, c->path)
                                            : tqkv_status_string(status);
    tqkv_profile_free(p);
    return problem;
}

void capture_finish(capture *c)
{
    if (!c)
        return;
    const char *problem = fit_and_write(c);
    if (problem) {
        gg.log(GG_LOG_ERROR, "tqkv: no profile written to %s: %s\n", c->path, problem);
        if (c->progress >= 0)
            dprintf(c->progress, "failed %s\n", problem);
    }
    for (uint32_t i = 0; i < c->n_layers; i++) {
        free(c->layers[i].keys);
        free(c->layers[i].squares);
    }
    free(c->layers);
    free(c->path);
    free(c);
}

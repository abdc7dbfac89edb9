#include "capture.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* One array, whose values must all be finite: an error could not be measured. */
static float *load(npy *array, const char *path, int bf16)
{
    float *values = npy_open(array, path, bf16) ? npy_load(array) : NULL;
    npy_close(array);
    for (uint64_t i = 0; values && i < array->n_rows * array->head_dim; i++)
        if (!isfinite(values[i])) {
            failed("%s: row %" PRIu64 ", value %" PRIu64 " is not finite", path,
                   i / array->head_dim, i % array->head_dim);
            free(values);
            values = NULL;
        }
    return values;
}

static int check_shapes(capture *c, const char *q, const char *k, const char *v)
{
    if (c->q.n_layers != c->k.n_layers || c->v.n_layers != c->k.n_layers)
        return !failed("%s, %s and %s: layers differ: %" PRIu64 ", %" PRIu64 ", %" PRIu64, q,
                       k, v, c->q.n_layers, c->k.n_layers, c->v.n_layers);
    if (c->q.n_tokens != c->k.n_tokens || c->v.n_tokens != c->k.n_tokens)
        return !failed("%s, %s and %s: tokens differ: %" PRIu64 ", %" PRIu64 ", %" PRIu64, q,
                       k, v, c->q.n_tokens, c->k.n_tokens, c->v.n_tokens);
    if (c->v.n_heads != c->k.n_heads)
        return !failed("%s: has %" PRIu64 " heads; as many as %s has, %" PRIu64
                       ", are expected", v, c->v.n_heads, k, c->k.n_heads);
    if (c->q.n_heads % c->k.n_heads)
        return !failed("%s: has %" PRIu64 " heads; a multiple of %s's %" PRIu64
                       " is expected", q, c->q.n_heads, k, c->k.n_heads);
    if (c->q.head_dim != c->k.head_dim)
        return !failed("%s: has head_dim %" PRIu32 "; %s's %" PRIu32 " is expected", q,
                       c->q.head_dim, k, c->k.head_dim);
    if (c->q.n_heads > 65536 || c->k.n_layers > 65536)
        return !failed("%s: more than 65536 heads or layers", q);
    return 1;
}

int capture_load(capture *c, char **paths, int n_paths, int bf16)
{
    char names[3][4096];
    static const char *const parts[] = {"q", "k", "v"};
    memset(c, 0, sizeof *c);
    for (int i = 0; i < 3; i++) {
        int length = n_paths == 1
                         ? snprintf(names[i], sizeof names[i], "%s/%s.npy", paths[0], parts[i])
                         : snprintf(names[i], sizeof names[i], "%s", paths[i]);
        if (length < 0 || (size_t)length >= sizeof names[i])
            return !failed("%s: the path is too long", paths[0]);
    }
    if (!(c->queries = load(&c->q, names[0], bf16)) ||
        !(c->keys = load(&c->k, names[1], bf16)) ||
        !(c->values = load(&c->v, names[2], bf16)))
        return 0;
    if (!check_shapes(c, names[0], names[1], names[2]))
        return 0;
    c->n_layers = c->k.n_layers;
    c->n_tokens = c->k.n_tokens;
    c->n_heads = (uint32_t)c->q.n_heads;
    c->n_kv_heads = (uint32_t)c->k.n_heads;
    c->group = c->n_heads / c->n_kv_heads;
    c->head_dim = c->k.head_dim;
    c->v_head_dim = c->v.head_dim;
    return 1;
}

void capture_free(capture *c)
{
    free(c->queries);
    free(c->keys);
    free(c->values);
}

/* The cache: what attention over it gives, against double precision over what its
 * rows decode to; and everything that changes it. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/cache.h"
#include "reference.h"

/* ---- allocations that fail (see CMakeLists.txt: --wrap) ---- */

static long fail_at = -1, allocations;

static int fails(void)
{
    return allocations++ == fail_at;
}

void *__real_calloc(size_t n, size_t size);
void *__real_malloc(size_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_mprotect(void *at, size_t size, int protection);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_mprotect(void *at, size_t size, int protection);

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}
void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return fails() ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}
int __wrap_mprotect(void *at, size_t size, int protection)
{
    return fails() ? -1 : __real_mprotect(at, size, protection);
}

/* ---- data ---- */

enum { TOKENS = 700, LAYERS = 3 };

/* Two like layers, one with other heads, and a window. */
static tqkv_layer layers[LAYERS];
static float *keys[LAYERS], *values[LAYERS], *queries[LAYERS];

static size_t key_row(int i)
{
    return (size_t)layers[i].n_kv_heads * layers[i].keys.head_dim;
}

static size_t value_row(int i)
{
    return (size_t)layers[i].n_kv_heads * layers[i].values.head_dim;
}

static size_t query_row(int i)
{
    return (size_t)layers[i].n_heads * layers[i].keys.head_dim;
}

static int make_data(void **state)
{
    (void)state;
    layers[0] = (tqkv_layer){.n_heads = 4, .n_kv_heads = 2, .keys = test_format("tq4", 64),
                             .values = test_format("tq4", 64)};
    layers[1] = (tqkv_layer){.n_heads = 2, .n_kv_heads = 1, .keys = test_format("tq5", 128),
                             .values = test_format("lm4", 128), .window = 100};
    layers[2] = (tqkv_layer){.n_heads = 6, .n_kv_heads = 2, .keys = test_format("mlx4", 64),
                             .values = test_format("tq3", 32)};
    for (int i = 0; i < LAYERS; i++) {
        keys[i] = test_rows(100 + (uint64_t)i, TOKENS * key_row(i));
        values[i] = test_rows(200 + (uint64_t)i, TOKENS * value_row(i));
        queries[i] = test_rows(300 + (uint64_t)i, TOKENS * query_row(i));
        for (size_t t = 0; t < TOKENS; t++) /* keys with something in common */
            for (size_t d = 0; d < key_row(i); d++)
                keys[i][t * key_row(i) + d] += (float)(d % 7) * .2f;
    }
    return 0;
}

static int free_data(void **state)
{
    (void)state;
    for (int i = 0; i < LAYERS; i++) {
        free(keys[i]);
        free(values[i]);
        free(queries[i]);
    }
    return 0;
}

static tqkv_cache_config plain(void)
{
    return (tqkv_cache_config){.layers = layers, .n_layers = LAYERS, .capacity = TOKENS,
                               .n_sequences = 3, .fingerprint = "a model", .fit_seed = 3};
}

static tqkv_cache *make_cache(const tqkv_cache_config *config)
{
    tqkv_cache *c = NULL;
    assert_int_equal(tqkv_cache_create(config, &c), TQKV_OK);
    return c;
}

static tqkv_sequence *make_sequence(tqkv_cache *c)
{
    tqkv_sequence *s = NULL;
    assert_int_equal(tqkv_sequence_create(c, &s), TQKV_OK);
    return s;
}

/* Appends the data's tokens [first, first + n) to all layers. */
static tqkv_status append(tqkv_sequence *s, size_t first, size_t n)
{
    tqkv_status status = TQKV_OK;
    for (int i = 0; status == TQKV_OK && i < LAYERS; i++)
        status = tqkv_sequence_append(s, (uint32_t)i, keys[i] + first * key_row(i),
                                      values[i] + first * value_row(i),
                                      queries[i] + first * query_row(i), TQKV_F32, n);
    return status;
}

static void append_in_steps(tqkv_sequence *s, size_t first, size_t n, size_t step)
{
    for (size_t done = 0; done < n; done += step)
        assert_int_equal(append(s, first + done, n - done < step ? n - done : step), TQKV_OK);
}

/* ---- attention ---- */

enum { QUERIES = 2 };

static tqkv_attention call(int layer, size_t length)
{
    return (tqkv_attention){.n_queries = QUERIES, .position = length - QUERIES,
                            .queries = queries[layer], .causal = 1, .scale = .125f};
}

/* The last positions' attention in one layer; the caller frees. */
static float *attend(tqkv_sequence *s, int layer)
{
    size_t bytes, row = (size_t)layers[layer].n_heads * layers[layer].values.head_dim;
    tqkv_attention a = call(layer, tqkv_sequence_length(s, (uint32_t)layer));
    tqkv_executor one = {1, NULL, NULL};
    assert_int_equal(tqkv_cache_workspace(s->cache, (uint32_t)layer, QUERIES, &one, &bytes),
                     TQKV_OK);
    void *workspace = malloc(bytes);
    float *out = malloc(QUERIES * row * sizeof *out);
    tqkv_partial result = {out, NULL, NULL};
    assert_int_equal(tqkv_sequence_attend(s, (uint32_t)layer, &a, &result, &one, workspace, bytes),
                     TQKV_OK);
    free(workspace);
    return out;
}

static void assert_same_attention(tqkv_sequence *a, tqkv_sequence *b)
{
    for (int i = 0; i < LAYERS; i++) {
        float *x = attend(a, i), *y = attend(b, i);
        assert_memory_equal(x, y, QUERIES * layers[i].n_heads *
                                      (size_t)layers[i].values.head_dim * sizeof *x);
        free(x);
        free(y);
    }
}

/* Attention over a layer against double precision over what it holds. */
static double attention_error(tqkv_sequence *s, int layer)
{
    const cache_layer *l = &s->cache->layers[layer];
    const sequence_layer *state = &s->layers[layer];
    size_t n = state->length, oldest = 0, kd = l->shape.keys.head_dim;
    size_t vd = l->shape.values.head_dim, heads = l->shape.n_kv_heads;
    float *k = calloc(n * heads * kd, sizeof *k), *v = calloc(n * heads * vd, sizeof *v);
    uint64_t *positions = malloc(n * sizeof *positions);
    if (l->shape.window && n > l->shape.window + QUERIES)
        oldest = n - (size_t)l->shape.window - QUERIES + 1;
    for (size_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < heads; h++) {
            positions[t] = t;
            if (t < oldest)
                continue;
            layer_read(l, state, s->cache->page_means, KEYS, h, t, k + (t * heads + h) * kd);
            layer_read(l, state, s->cache->page_means, VALUES, h, t, v + (t * heads + h) * vd);
        }
    tqkv_tokens shape = {.keys.format.head_dim = (uint16_t)kd,
                         .values.format.head_dim = (uint16_t)vd};
    tqkv_attention a = call(layer, n);
    a.n_heads = l->shape.n_heads;
    a.n_kv_heads = (uint32_t)heads;
    a.window = l->shape.window;
    a.sets = &shape;
    reference r = {&a, queries[layer], k, v, positions, n};
    float *out = attend(s, layer);
    double error = 0, size = 0, expected[TQKV_MAX_HEAD_DIM], max, sum;
    for (uint32_t i = 0; i < QUERIES; i++)
        for (uint32_t h = 0; h < a.n_heads; h++) {
            reference_row(&r, i, h, expected, &max, &sum);
            for (size_t d = 0; d < vd; d++) {
                double x = out[(i * a.n_heads + h) * vd + d] - expected[d];
                error += x * x;
                size += expected[d] * expected[d];
            }
        }
    free(out);
    free(k);
    free(v);
    free(positions);
    return sqrt(error / size);
}

static void check_attention(tqkv_sequence *s)
{
    for (int i = 0; i < LAYERS; i++)
        assert_true(attention_error(s, i) < 1.5e-2);
}

/* Mean squared error of what a layer holds of the data's keys or values, where
 * token t of the sequence is token from[t] of the data. */
static double storage_error(tqkv_sequence *s, int layer, operand_kind kind, const size_t *from)
{
    const cache_layer *l = &s->cache->layers[layer];
    const sequence_layer *state = &s->layers[layer];
    size_t dim = head_dim_of(l, kind), heads = l->shape.n_kv_heads;
    const float *data = kind == KEYS ? keys[layer] : values[layer];
    double error = 0, size = 0;
    for (size_t t = 0; t < state->length; t++)
        for (uint32_t h = 0; h < heads; h++) {
            float x[TQKV_MAX_HEAD_DIM];
            if (t >= l->n_first && t < state->kept)
                continue;
            layer_read(l, state, s->cache->page_means, kind, h, t, x);
            for (size_t d = 0; d < dim; d++) {
                double y = data[((from ? from[t] : t) * heads + h) * dim + d];
                error += (x[d] - y) * (x[d] - y);
                size += y * y;
            }
        }
    return error / size;
}

static void check_storage(tqkv_sequence *s, const size_t *from)
{
    for (int i = 0; i < LAYERS; i++) {
        assert_true(storage_error(s, i, KEYS, from) < .04);
        assert_true(storage_error(s, i, VALUES, from) < .03);
    }
}

/* ---- appending ---- */

static void configurations(void **state)
{
    (void)state;
    for (int means = 0; means < 2; means++)
        for (size_t first = 0; first < 20; first += 9)
            for (size_t recent = 0; recent < 200; recent += 99)
                for (size_t fit = 0; fit < 300; fit += 150) {
                    tqkv_cache_config config = plain();
                    config.page_means = means;
                    config.n_first = first;
                    config.n_recent = recent;
                    config.fit_tokens = fit;
                    config.fit_centres = 4;
                    tqkv_cache *c = make_cache(&config);
                    tqkv_sequence *s = make_sequence(c), *t = make_sequence(c);
                    append_in_steps(s, 0, 90, 1);
                    if (fit) /* all still wait for the profile */
                        assert_true(s->layers[0].coded == first);
                    check_attention(s);
                    append_in_steps(s, 90, 410, 137);
                    check_attention(s);
                    check_storage(s, NULL);
                    assert_true(s->layers[0].coded >= 500 - recent - 64 * (size_t)means);
                    assert_true(s->layers[0].coded <= 500 - recent);
                    append_in_steps(t, 0, 90, 1); /* steps do not matter */
                    append_in_steps(t, 90, 410, 41);
                    assert_same_attention(s, t);
                    tqkv_sequence_free(s);
                    tqkv_sequence_free(t);
                    tqkv_cache_free(c);
                }
}

static void halves_are_exact(void **state)
{
    (void)state;
    tqkv_cache_config config = plain();
    config.n_first = 5;
    config.n_recent = 30;
    tqkv_cache *c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c);
    append_in_steps(s, 0, 400, 50);
    for (size_t t = 0; t < 400; t++) {
        float x[64];
        double error = 0;
        layer_read(&c->layers[0], &s->layers[0], 0, KEYS, 1, t, x);
        for (int d = 0; d < 64; d++)
            error += fabs(x[d] - keys[0][t * 128 + 64 + (size_t)d]);
        if (t < 5 || t >= 370)
            assert_true(error < 64 * 2e-3);
        else
            assert_true(error > 64 * 2e-3);
    }
    /* beyond f16, and NaN */
    float odd[4][128] = {{1e9f, -1e9f, NAN, INFINITY}};
    assert_int_equal(tqkv_sequence_append(s, 0, odd, odd, NULL, TQKV_F32, 1), TQKV_OK);
    float x[64];
    layer_read(&c->layers[0], &s->layers[0], 0, KEYS, 0, 400, x);
    assert_true(x[0] == 65504 && x[1] == -65504 && x[2] == 0 && x[3] == 65504);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
}

static void types(void **state)
{
    (void)state;
    tqkv_cache_config config = plain();
    tqkv_cache *c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c), *t = make_sequence(c);
    size_t n = 100 * key_row(0);
    uint16_t *half = malloc(2 * n * sizeof *half);
    float *rounded = malloc(n * sizeof *rounded);
    for (int type = TQKV_F16; type <= TQKV_BF16; type++) {
        assert_int_equal(tqkv_from_f32(keys[0], n, half, (tqkv_type)type), TQKV_OK);
        assert_int_equal(tqkv_to_f32(half, (tqkv_type)type, n, rounded), TQKV_OK);
        assert_int_equal(tqkv_sequence_append(s, 0, half, half, NULL, (tqkv_type)type, 100),
                         TQKV_OK);
        assert_int_equal(tqkv_sequence_append(t, 0, rounded, rounded, NULL, TQKV_F32, 100),
                         TQKV_OK);
        float *x = attend(s, 0), *y = attend(t, 0);
        assert_memory_equal(x, y, QUERIES * 4 * 64 * sizeof *x);
        free(x);
        free(y);
    }
    free(half);
    free(rounded);
    tqkv_sequence_free(s);
    tqkv_sequence_free(t);
    tqkv_cache_free(c);
}

/* Means make keys that share something closer to what they were. */
static void means_help(void **state)
{
    double error[2];
    (void)state;
    for (int means = 0; means < 2; means++) {
        tqkv_cache_config config = plain();
        config.page_means = means;
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *s = make_sequence(c);
        append_in_steps(s, 0, 640, 64);
        error[means] = storage_error(s, 0, KEYS, NULL);
        assert_true(tqkv_cache_token_bytes(c) >
                    (means ? 2 * 2 * 34. + 2 * 2. : 2 * 2 * 34. - 1));
        tqkv_sequence_free(s);
        tqkv_cache_free(c);
    }
    assert_true(error[1] < .5 * error[0]);
}

/* A profile that is given is used; a fitted one is, once there are tokens. */
static void profiles_are_used(void **state)
{
    (void)state;
    double error[3];
    tqkv_profile *p;
    assert_int_equal(tqkv_profile_create(1, 2, 64, 4, NULL, &p), TQKV_OK);
    for (uint32_t h = 0; h < 2; h++)
        assert_int_equal(tqkv_profile_fit(p, 0, h, keys[0] + h * 64, TOKENS, 128, NULL, 0, 0, 1),
                         TQKV_OK);
    for (int kind = 0; kind < 3; kind++) {
        tqkv_layer l = layers[0];
        tqkv_cache_config config = {.layers = &l, .n_layers = 1, .capacity = TOKENS};
        if (kind == 1)
            l.profile = p;
        if (kind == 2)
            config.fit_tokens = 200, config.fit_centres = 4;
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *s = make_sequence(c);
        for (size_t t = 0; t < TOKENS; t += 100)
            assert_int_equal(tqkv_sequence_append(s, 0, keys[0] + t * 128, values[0] + t * 128,
                                                  queries[0] + t * 256, TQKV_F32, 100),
                             TQKV_OK);
        error[kind] = storage_error(s, 0, KEYS, NULL);
        assert_true(attention_error(s, 0) < 1.5e-2);
        tqkv_sequence_free(s);
        tqkv_cache_free(c);
    }
    assert_true(error[1] < .5 * error[0]);
    assert_true(error[2] < .5 * error[0]);
    tqkv_profile_free(p);
}

/* A workspace for many queries is one for few, and for fewer threads. */
static void workspaces_are_enough(void **state)
{
    (void)state;
    tqkv_layer l = {.n_heads = 8, .n_kv_heads = 2, .keys = test_format("tq2", 16),
                    .values = test_format("tq2", 16)};
    tqkv_cache_config config = {.layers = &l, .n_layers = 1, .capacity = 5000, .n_recent = 3,
                                .n_first = 1};
    tqkv_cache *c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c);
    float *x = test_rows(5, 5000 * 8 * 16), *out = malloc(300 * 8 * 16 * sizeof *out);
    tqkv_executor two = {2, NULL, NULL};
    tqkv_partial result = {out, NULL, NULL};
    size_t bytes;
    assert_int_equal(tqkv_cache_workspace(c, 0, 300, &two, &bytes), TQKV_OK);
    void *workspace = malloc(bytes);
    for (size_t length = 500; length <= 5000; length += 1500) {
        assert_int_equal(tqkv_sequence_append(s, 0, x, x, NULL, TQKV_F32,
                                              length - tqkv_sequence_length(s, 0)),
                         TQKV_OK);
        for (uint32_t n = 300; n; n = n * 3 / 5) {
            tqkv_attention a = {.n_queries = n, .position = length - n, .queries = x,
                                .causal = 1, .scale = .25f};
            assert_int_equal(tqkv_sequence_attend(s, 0, &a, &result, &two, workspace, bytes),
                             TQKV_OK);
            tqkv_executor many = {64, NULL, NULL};
            assert_int_equal(tqkv_sequence_attend(s, 0, &a, &result, &many, workspace, bytes),
                             TQKV_OK);
            assert_int_equal(tqkv_sequence_attend(s, 0, &a, &result, &two, workspace, 100),
                             TQKV_ERROR_BUFFER);
        }
    }
    free(workspace);
    free(x);
    free(out);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
}

/* ---- truncation ---- */

static void truncation(void **state)
{
    (void)state;
    for (int means = 0; means < 2; means++)
        for (size_t recent = 0; recent <= 40; recent += 40) {
            tqkv_cache_config config = plain();
            config.page_means = means;
            config.n_recent = recent;
            config.n_first = 3;
            config.rollback = 80;
            tqkv_cache *c = make_cache(&config);
            tqkv_sequence *s = make_sequence(c), *t = make_sequence(c);
            append_in_steps(s, 0, 400, 64);
            for (size_t back = 1; back < 80; back += 13) { /* speculation */
                size_t length = tqkv_sequence_length(s, 0);
                append_in_steps(s, length, 20, 20);
                assert_int_equal(tqkv_sequence_truncate(s, length + 20 - back), TQKV_OK);
                append_in_steps(s, length + 20 - back, back, 3);
                check_attention(s);
                check_storage(s, NULL);
            }
            if (!means && !recent) { /* codes do not depend on what was there before */
                append_in_steps(t, 0, tqkv_sequence_length(s, 0), 50);
                assert_same_attention(s, t);
            }
            /* a window of 100 cannot go back to what it has overwritten */
            assert_int_equal(tqkv_sequence_truncate(s, 200), TQKV_ERROR_GONE);
            assert_true(tqkv_sequence_length(s, 0) > 400);
            assert_int_equal(tqkv_sequence_truncate(s, 1000), TQKV_OK);
            assert_int_equal(tqkv_sequence_clear(s), TQKV_OK);
            assert_int_equal(tqkv_sequence_length(s, 0), 0);
            append_in_steps(s, 0, 300, 300);
            check_storage(s, NULL);
            tqkv_sequence_free(s);
            tqkv_sequence_free(t);
            tqkv_cache_free(c);
        }
}

/* ---- forks ---- */

static void forks_share_and_diverge(void **state)
{
    (void)state;
    for (int means = 0; means < 2; means++) {
        tqkv_cache_config config = plain();
        config.page_means = means;
        config.n_recent = 10;
        config.rollback = 64;
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *a = make_sequence(c), *b, *lone = make_sequence(c);
        append_in_steps(a, 0, 330, 30);
        size_t before = tqkv_cache_memory(c);
        assert_int_equal(tqkv_sequence_fork(a, &b), TQKV_OK);
        uint32_t used = 0;
        for (uint32_t i = 0; i < c->layers[0].pool.n_pages; i++)
            used += c->layers[0].pool.users[i] > 1;
        assert_true(used >= 4); /* pages are shared, not copied */
        assert_same_attention(a, b);
        (void)before;
        /* both go on, each its own way */
        append_in_steps(a, 330, 100, 10);
        append_in_steps(b, 500, 100, 25);
        append_in_steps(lone, 0, 330, 30);
        append_in_steps(lone, 330, 100, 10);
        assert_same_attention(a, lone);
        tqkv_sequence_clear(lone);
        append_in_steps(lone, 0, 330, 30);
        append_in_steps(lone, 500, 100, 25);
        assert_same_attention(b, lone);
        /* and back to before the fork, where pages are shared */
        assert_int_equal(tqkv_sequence_truncate(b, 300), TQKV_OK);
        tqkv_sequence_free(a);
        check_attention(b);
        tqkv_sequence_free(b);
        tqkv_sequence_free(lone);
        tqkv_cache_free(c);
    }
}

/* ---- removal ---- */

static void turn(float *x, size_t dim, int interleaved, double delta)
{
    for (size_t i = 0; i < dim / 2; i++) {
        double angle = -delta * .5 * pow(1000, -2. * (double)i / (double)dim);
        size_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + dim / 2;
        double low = x[a], high = x[b];
        x[a] = (float)(low * cos(angle) - high * sin(angle));
        x[b] = (float)(low * sin(angle) + high * cos(angle));
    }
}

/* Removes [first, first + n) of 400 tokens and compares all that is left. */
static void check_removal(const tqkv_cache_config *config, size_t first, size_t n, int kind)
{
    tqkv_cache *c = make_cache(config);
    tqkv_sequence *s = make_sequence(c), *other;
    tqkv_rope rope[LAYERS];
    append_in_steps(s, 0, 400, 77);
    assert_int_equal(tqkv_sequence_fork(s, &other), TQKV_OK);
    float *before[LAYERS];
    for (int i = 0; i < LAYERS; i++) {
        rope[i] = (tqkv_rope){.interleaved = kind == 2, .base = 1000, .scale = .5f};
        before[i] = attend(other, i);
    }
    assert_int_equal(tqkv_sequence_remove(s, first, n, kind ? rope : NULL), TQKV_OK);
    assert_int_equal(tqkv_sequence_length(s, 0), 400 - n);
    for (int i = 0; i < LAYERS; i++) {
        const cache_layer *l = &c->layers[i];
        const sequence_layer *now = &s->layers[i], *then = &other->layers[i];
        double error = 0, size = 0;
        for (size_t t = 0; t < now->length; t++)
            for (uint32_t h = 0; h < l->shape.n_kv_heads; h++) {
                float x[128], y[128];
                size_t from = t < first ? t : t + n;
                int there = t < l->n_first || t >= now->kept;
                there &= from < l->n_first || from >= then->kept;
                if (!there)
                    continue;
                layer_read(l, now, c->page_means, VALUES, h, t, x);
                layer_read(l, then, c->page_means, VALUES, h, from, y);
                for (uint32_t d = 0; d < l->shape.values.head_dim; d++) /* the same codes */
                    assert_true(fabsf(x[d] - y[d]) <= 1e-3f * fabsf(y[d]) + 1e-3f);
                layer_read(l, now, c->page_means, KEYS, h, t, x);
                layer_read(l, then, c->page_means, KEYS, h, from, y);
                if (t >= first && kind)
                    turn(y, l->shape.keys.head_dim, kind == 2, (double)n);
                for (uint32_t d = 0; d < l->shape.keys.head_dim; d++) {
                    error += (x[d] - y[d]) * (x[d] - y[d]);
                    size += y[d] * y[d];
                }
            }
        assert_true(error < .012 * size);
        float *after = attend(other, i); /* the fork has lost nothing */
        assert_memory_equal(after, before[i], QUERIES * l->shape.n_heads *
                                                  (size_t)l->shape.values.head_dim * 4);
        free(after);
        free(before[i]);
    }
    check_attention(s);
    append_in_steps(s, 400, 200, 50); /* and goes on */
    check_attention(s);
    tqkv_sequence_free(s);
    tqkv_sequence_free(other);
    tqkv_cache_free(c);
}

static void removal(void **state)
{
    static const size_t ranges[][2] = {{0, 1}, {0, 64}, {4, 100}, {290, 20}, {305, 95},
                                       {330, 64}, {350, 3}, {395, 5}, {299, 64}};
    (void)state;
    for (int means = 0; means < 2; means++)
        for (size_t recent = 0; recent <= 30; recent += 30)
            for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++) {
                tqkv_cache_config config = plain();
                config.page_means = means;
                config.n_recent = recent;
                config.n_first = 4;
                config.rollback = 200;
                check_removal(&config, ranges[r][0], ranges[r][1], (int)(r % 3));
            }
    /* what a window needs is gone; arguments */
    tqkv_cache_config config = plain();
    tqkv_cache *c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c);
    tqkv_rope bad[LAYERS] = {{.base = -1}};
    append_in_steps(s, 0, 400, 77);
    assert_int_equal(tqkv_sequence_remove(s, 330, 60, NULL), TQKV_ERROR_GONE);
    assert_int_equal(tqkv_sequence_remove(s, 350, 51, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_remove(s, 0, 1, bad), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_append(s, 0, keys[0], values[0], NULL, TQKV_F32, 1), TQKV_OK);
    assert_int_equal(tqkv_sequence_remove(s, 0, 1, NULL), TQKV_ERROR_STATE);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
}

/* ---- memory ---- */

static void memory_is_counted_and_limited(void **state)
{
    (void)state;
    tqkv_cache_config config = plain();
    config.n_recent = 20;
    tqkv_cache *c = make_cache(&config);
    size_t empty = tqkv_cache_memory(c);
    tqkv_sequence *s = make_sequence(c);
    size_t created = tqkv_cache_memory(c);
    append_in_steps(s, 0, 500, 50);
    size_t full = tqkv_cache_memory(c);
    assert_true(empty < created && created < full);
    assert_true((double)(full - created) < 500 * tqkv_cache_token_bytes(c) + 6 * 65536);
    tqkv_sequence_free(s);
    size_t pages = tqkv_cache_memory(c) - empty; /* they stay for the next sequence */
    s = make_sequence(c);
    append_in_steps(s, 0, 500, 50);
    assert_int_equal(tqkv_cache_memory(c), full);
    assert_int_equal(tqkv_sequence_append(s, 0, keys[0], values[0], NULL, TQKV_F32, 201),
                     TQKV_ERROR_BUFFER);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
    /* a limit that the pages do not fit into */
    config.memory_limit = created + pages / 2;
    c = make_cache(&config);
    s = make_sequence(c);
    tqkv_status status = TQKV_OK;
    for (size_t t = 0; t < 700 && status == TQKV_OK; t += 10) {
        status = append(s, t, 10);
        assert_true(tqkv_cache_memory(c) <= config.memory_limit);
    }
    assert_int_equal(status, TQKV_ERROR_MEMORY);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
    config.memory_limit = 1000;
    assert_int_equal(tqkv_cache_create(&config, &c), TQKV_ERROR_MEMORY);
    /* up front: appending takes no more */
    config = plain();
    config.up_front = 1;
    c = make_cache(&config);
    s = make_sequence(c);
    created = tqkv_cache_memory(c);
    long before = allocations;
    append_in_steps(s, 0, 700, 50);
    assert_int_equal(tqkv_cache_memory(c), created);
    assert_true(allocations == before);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
}

/* All a cache does, with the n-th allocation failing: an error, and what was
 * there before is there still. */
static tqkv_status exercise(tqkv_cache *c, tqkv_sequence **s, tqkv_sequence **fork,
                            size_t *length)
{
    tqkv_status status = tqkv_sequence_create(c, s);
    for (size_t t = 0; status == TQKV_OK && t < 300; t += 60) {
        status = append(*s, t, 60);
        if (status == TQKV_OK)
            *length += 60;
    }
    if (status == TQKV_OK)
        status = tqkv_sequence_fork(*s, fork);
    if (status == TQKV_OK)
        status = append(*fork, 300, 30);
    if (status == TQKV_OK)
        status = tqkv_sequence_remove(*fork, 0, 70, NULL);
    return status;
}

typedef struct buffer {
    uint8_t *data;
    size_t size, capacity, at;
} buffer;

static size_t write_buffer(void *context, const void *data, size_t size)
{
    buffer *b = context;
    if (size > b->capacity - b->size)
        return 0;
    memcpy(b->data + b->size, data, size);
    b->size += size;
    return size;
}

static size_t read_buffer(void *context, void *data, size_t size)
{
    buffer *b = context;
    size_t left = b->size - b->at, n = size < left ? size : left;
    memcpy(data, b->data + b->at, n);
    b->at += n;
    return n;
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    long n = 0;
    int finished = 0;
    buffer b = {.capacity = 8 << 20};
    b.data = __real_malloc(b.capacity);
    for (; !finished; n++) {
        tqkv_cache_config config = plain();
        config.n_first = 2;
        config.n_recent = 5;
        config.fit_tokens = 100;
        config.fit_centres = 2;
        tqkv_cache *c = NULL;
        tqkv_sequence *s = NULL, *fork = NULL, *loaded = NULL;
        size_t length = 0;
        b.size = b.at = 0;
        allocations = 0;
        fail_at = n;
        tqkv_status status = tqkv_cache_create(&config, &c);
        if (status == TQKV_OK)
            status = exercise(c, &s, &fork, &length);
        if (status == TQKV_OK)
            status = tqkv_sequence_save(s, write_buffer, &b);
        if (status == TQKV_OK)
            status = tqkv_sequence_load(c, read_buffer, &b, &loaded);
        finished = allocations <= n; /* it has not failed any more */
        fail_at = -1;
        assert_int_equal(status, finished ? TQKV_OK : TQKV_ERROR_MEMORY);
        if (s && length) { /* nothing is lost, and it goes on */
            for (int i = 0; i < LAYERS; i++) { /* layers before the failing one went on */
                size_t l = tqkv_sequence_length(s, (uint32_t)i);
                assert_true(l == length || l == length + 60);
            }
            tqkv_sequence_truncate(s, length);
            assert_int_equal(append(s, length, 40), TQKV_OK);
            check_attention(s);
            check_storage(s, NULL);
        }
        tqkv_sequence_free(s);
        tqkv_sequence_free(fork);
        tqkv_sequence_free(loaded);
        tqkv_cache_free(c); /* leaks are the sanitizer's and valgrind's to find */
    }
    free(b.data);
    assert_true(n > 50);
}

/* ---- snapshots ---- */

static tqkv_cache_config snapshot_config(void)
{
    tqkv_cache_config config = plain();
    config.n_first = 3;
    config.n_recent = 20;
    config.fit_tokens = 150;
    config.fit_centres = 2;
    config.rollback = 150;
    return config;
}

static void snapshots_go_on(void **state)
{
    (void)state;
    for (size_t length = 0; length <= 500; length += 100)
        for (int means = 0; means < 2; means++) {
            tqkv_cache_config config = snapshot_config();
            config.page_means = means;
            tqkv_cache *c = make_cache(&config), *d = make_cache(&config);
            tqkv_sequence *s = make_sequence(c), *t;
            buffer b = {.capacity = 8 << 20};
            b.data = malloc(b.capacity);
            append_in_steps(s, 0, length, 33);
            assert_int_equal(tqkv_sequence_save(s, write_buffer, &b), TQKV_OK);
            assert_int_equal(tqkv_sequence_load(d, read_buffer, &b, &t), TQKV_OK);
            append_in_steps(s, length, 200, 13);
            append_in_steps(t, length, 200, 13);
            assert_same_attention(s, t);
            /* the snapshots of both are the same bytes now, as far as they count */
            tqkv_sequence_free(s);
            tqkv_sequence_free(t);
            tqkv_cache_free(c);
            tqkv_cache_free(d);
            free(b.data);
        }
}

static void snapshots_of_others_are_refused(void **state)
{
    (void)state;
    tqkv_cache_config config = snapshot_config(), other;
    tqkv_cache *c = make_cache(&config), *d;
    tqkv_sequence *s = make_sequence(c), *t = NULL;
    tqkv_layer changed[LAYERS];
    buffer b = {.capacity = 8 << 20};
    b.data = malloc(b.capacity);
    append_in_steps(s, 0, 400, 40);
    assert_int_equal(tqkv_sequence_save(s, write_buffer, &b), TQKV_OK);
#define REFUSED(change, expected)                                              \
    do {                                                                       \
        other = config;                                                        \
        memcpy(changed, layers, sizeof changed);                               \
        other.layers = changed;                                                \
        change;                                                                \
        d = make_cache(&other);                                                \
        size_t memory = tqkv_cache_memory(d);                                  \
        b.at = 0;                                                              \
        assert_int_equal(tqkv_sequence_load(d, read_buffer, &b, &t), expected); \
        assert_null(t);                                                        \
        assert_true(tqkv_cache_memory(d) - memory <= 40 * 65536);              \
        tqkv_cache_free(d);                                                    \
    } while (0)
    REFUSED(other.fingerprint = "another model", TQKV_ERROR_MODEL);
    REFUSED(other.page_means = 1, TQKV_ERROR_FORMAT);
    REFUSED(other.n_layers = 2, TQKV_ERROR_FORMAT);
    REFUSED(other.n_first = 4, TQKV_ERROR_FORMAT);
    REFUSED(changed[0].keys = test_format("tq3", 64), TQKV_ERROR_FORMAT);
    REFUSED(changed[2].values = test_format("tq3s", 32), TQKV_ERROR_FORMAT);
    REFUSED(changed[1].window = 99, TQKV_ERROR_FORMAT);
    REFUSED(other.fit_centres = 3, TQKV_ERROR_PROFILE);
    REFUSED(other.fit_tokens = 0, TQKV_ERROR_PROFILE);
    REFUSED(other.capacity = 399, TQKV_ERROR_BUFFER);
#undef REFUSED
    /* a cache that has fitted another profile */
    d = make_cache(&config);
    tqkv_sequence *u = make_sequence(d);
    append_in_steps(u, 200, 200, 40);
    b.at = 0;
    assert_int_equal(tqkv_sequence_load(d, read_buffer, &b, &t), TQKV_ERROR_PROFILE);
    tqkv_sequence_free(u);
    tqkv_cache_free(d);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
    free(b.data);
}

static void damaged_snapshots_are_refused(void **state)
{
    (void)state;
    tqkv_cache_config config = snapshot_config();
    tqkv_cache *c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c), *t = NULL;
    buffer b = {.capacity = 8 << 20};
    uint64_t seed = 5;
    b.data = malloc(b.capacity);
    append_in_steps(s, 0, 250, 40);
    assert_int_equal(tqkv_sequence_save(s, write_buffer, &b), TQKV_OK);
    size_t size = b.size;
    for (int i = 0; i < 2000; i++) {
        size_t at = test_random(&seed) % (i % 2 ? 3000 : size);
        uint8_t bit = (uint8_t)(1u << test_random(&seed) % 8);
        b.data[at] ^= bit;
        b.at = 0;
        assert_int_not_equal(tqkv_sequence_load(c, read_buffer, &b, &t), TQKV_OK);
        b.data[at] ^= bit;
    }
    for (size_t cut = 0; cut < size; cut += cut < 2000 ? 1 : 977) {
        b.at = 0;
        b.size = cut;
        assert_int_not_equal(tqkv_sequence_load(c, read_buffer, &b, &t), TQKV_OK);
    }
    b.size = size;
    b.size = size;
    b.at = 0;
    assert_int_equal(tqkv_sequence_load(c, read_buffer, &b, &t), TQKV_OK);
    assert_same_attention(s, t);
    tqkv_sequence_free(s);
    tqkv_sequence_free(t);
    tqkv_cache_free(c);
    free(b.data);
}

/* A process that saves again and again is killed at any moment: the file is one
 * snapshot or the other, whole. */
static void killed_while_saving(void **state)
{
    (void)state;
    char folder[] = "/tmp/tqkv-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/snapshot", folder);
    tqkv_cache_config config = snapshot_config();
    tqkv_cache *c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c), *t;
    append_in_steps(s, 0, 500, 100);
    assert_int_equal(tqkv_sequence_save_file(s, path), TQKV_OK);
    uint64_t seed = (uint64_t)getpid();
    for (int i = 0; i < 40; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            for (size_t n = 500;; n = n == 500 ? 600 : 500) {
                if (n == 500)
                    tqkv_sequence_truncate(s, 500);
                else
                    append(s, 500, 100);
                tqkv_sequence_save_file(s, path);
            }
        usleep((useconds_t)(test_random(&seed) % 20000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        assert_int_equal(tqkv_sequence_load_file(c, path, &t), TQKV_OK);
        size_t length = tqkv_sequence_length(t, 0);
        assert_true(length == 500 || length == 600);
        tqkv_sequence_free(t);
    }
    FILE *more = fopen(path, "ab"); /* something follows */
    assert_non_null(more);
    putc(0, more);
    fclose(more);
    assert_int_equal(tqkv_sequence_load_file(c, path, &t), TQKV_ERROR_CORRUPT);
    assert_int_equal(tqkv_sequence_load_file(c, "/nowhere/at/all", &t), TQKV_ERROR_IO);
    assert_int_equal(tqkv_sequence_save_file(s, "/nowhere/at/all"), TQKV_ERROR_IO);
    assert_int_equal(tqkv_sequence_save_file(s, "/dev/full/x"), TQKV_ERROR_IO);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
}

/* ---- arguments ---- */

static void bad_configurations(void **state)
{
    (void)state;
    tqkv_cache *c = NULL;
    tqkv_cache_config config;
    tqkv_layer l[LAYERS];
    tqkv_profile *p;
    assert_int_equal(tqkv_profile_create(1, 3, 64, 1, NULL, &p), TQKV_OK);
#define REFUSED(change, expected)                                              \
    do {                                                                       \
        config = plain();                                                      \
        memcpy(l, layers, sizeof l);                                           \
        config.layers = l;                                                     \
        change;                                                                \
        assert_int_equal(tqkv_cache_create(&config, &c), expected);            \
        assert_null(c);                                                        \
    } while (0)
    REFUSED(config.layers = NULL, TQKV_ERROR_ARGUMENT);
    REFUSED(config.n_layers = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(config.capacity = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(config.capacity = SIZE_MAX, TQKV_ERROR_ARGUMENT);
    REFUSED(config.capacity = SIZE_MAX / 16, TQKV_ERROR_OVERFLOW);
    REFUSED(config.fit_centres = 257, TQKV_ERROR_ARGUMENT);
    REFUSED(l[1].n_kv_heads = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(l[1].n_heads = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(l[0].n_heads = 3, TQKV_ERROR_ARGUMENT);
    REFUSED(l[0].keys.rate = 3, TQKV_ERROR_FORMAT);
    REFUSED(l[0].profile = p, TQKV_ERROR_PROFILE);
#undef REFUSED
    tqkv_profile_free(p);
    config = plain(); /* more than there can be is all */
    config.n_recent = config.n_first = SIZE_MAX / 4;
    c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c);
    append_in_steps(s, 0, TOKENS, 100);
    assert_true(storage_error(s, 0, KEYS, NULL) < 1e-6);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
    config = plain();
    c = make_cache(&config);
    s = make_sequence(c);
    assert_int_equal(tqkv_sequence_append(s, 9, keys[0], values[0], NULL, TQKV_F32, 1),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_append(s, 0, NULL, values[0], NULL, TQKV_F32, 1),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_append(s, 0, keys[0], values[0], NULL, (tqkv_type)7, 1),
                     TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_append(s, 0, NULL, NULL, NULL, TQKV_F32, 0), TQKV_OK);
    assert_int_equal(tqkv_sequence_truncate(NULL, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_fork(s, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_length(NULL, 0), 0);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
    tqkv_cache_free(NULL);
    tqkv_sequence_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configurations),
        cmocka_unit_test(halves_are_exact),
        cmocka_unit_test(types),
        cmocka_unit_test(means_help),
        cmocka_unit_test(profiles_are_used),
        cmocka_unit_test(workspaces_are_enough),
        cmocka_unit_test(truncation),
        cmocka_unit_test(forks_share_and_diverge),
        cmocka_unit_test(removal),
        cmocka_unit_test(memory_is_counted_and_limited),
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(snapshots_go_on),
        cmocka_unit_test(snapshots_of_others_are_refused),
        cmocka_unit_test(damaged_snapshots_are_refused),
        cmocka_unit_test(killed_while_saving),
        cmocka_unit_test(bad_configurations),
    };
    return cmocka_run_group_tests(tests, make_data, free_data);
}

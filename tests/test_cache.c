/* The cache: appending, and everything that changes a sequence. */
#include "cache_case.h"

/* ---- appending ---- */

static void configurations(void **state)
{
    (void)state;
    for (int means = 0; means < 2; means++)
        for (size_t first = 0; first < 20; first += 9)
            for (size_t recent = 0; recent < 200; recent += 99)
                for (size_t fit = 0; fit < 300; fit += 150) {
                    tqkv_cache_config config = plain();
                    config.no_means = !means;
                    config.n_first = first;
                    config.n_recent = recent;
                    config.fit_tokens = fit;
                    tqkv_cache *c = make_cache(&config);
                    tqkv_sequence *s = make_sequence(c), *t = make_sequence(c);
                    append_in_steps(s, 0, 90, 1);
                    if (fit) /* all still wait for the profile */
                        assert_true(s->layers[0].coded == first);
                    check_attention(s);
                    append_in_steps(s, 90, 410, 137);
                    check_attention(s);
                    check_storage(s, NULL);
                    assert_true(s->layers[0].coded > 500 - recent - 64);
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
        layer_read(&c->layers[0], &s->layers[0], KEYS, 1, t, x);
        for (int d = 0; d < 64; d++)
            error += fabs(x[d] - keys[0][t * 128 + 64 + (size_t)d]);
        if (t < 5 || t >= 370) /* and what waits with them for its page to be full */
            assert_true(error < 64 * 2e-3);
        else if (t < 5 + 5 * 64)
            assert_true(error > 64 * 2e-3);
    }
    /* beyond f16, and NaN */
    float odd[4][128] = {{1e9f, -1e9f, NAN, INFINITY}};
    assert_int_equal(tqkv_sequence_append(s, 0, odd, odd, NULL, TQKV_F32, 1), TQKV_OK);
    float x[64];
    layer_read(&c->layers[0], &s->layers[0], KEYS, 0, 400, x);
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
        config.no_means = !means;
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *s = make_sequence(c);
        append_in_steps(s, 0, 640, 64);
        error[means] = storage_error(s, 0, KEYS, NULL);
        assert_true(tqkv_cache_token_bytes(c) >
                    (means ? 2 * 2 * 34. + 2 * 2 * 66 / 64. - 1e-9 : 2 * 2 * 34. - 1e-9));
        tqkv_sequence_free(s);
        tqkv_cache_free(c);
    }
    assert_true(error[1] < .5 * error[0]);
}

/* Mean squared error of the logits of layer 0, over the keys' own. */
static double logit_error(tqkv_sequence *s, const float *own_keys, const float *own_queries)
{
    double error = 0, size = 0;
    for (size_t t = 0; t < tqkv_sequence_length(s, 0); t++) {
        float x[64];
        layer_read(&s->cache->layers[0], &s->layers[0], KEYS, 0, t, x);
        for (size_t q = 0; q < 50; q++) {
            double logit = 0, difference = 0;
            for (size_t d = 0; d < 64; d++) {
                double query = own_queries[q * 256 + d];
                logit += query * own_keys[t * 128 + d];
                difference += query * (x[d] - own_keys[t * 128 + d]);
            }
            error += difference * difference;
            size += logit * logit;
        }
    }
    return error / size;
}

/* A balance that is given is used; a fitted one is, once there are tokens. Keys vary where
 * queries are small. */
static void balances_are_used(void **state)
{
    (void)state;
    double error[3];
    tqkv_profile *p;
    float *k = test_rows(71, TOKENS * 128), *q = test_rows(72, TOKENS * 256);
    for (size_t i = 0; i < (size_t)TOKENS * 128; i++)
        k[i] *= i % 64 < 32 ? .1f : 10;
    for (size_t i = 0; i < (size_t)TOKENS * 256; i++)
        q[i] *= i % 64 < 32 ? 10 : .1f;
    assert_int_equal(tqkv_profile_create(1, 2, 64, NULL, &p), TQKV_OK);
    for (uint32_t h = 0; h < 2; h++)
        assert_int_equal(tqkv_profile_fit(p, 0, h, 1, k + h * 64, TOKENS, 128, q, TOKENS, 256),
                         TQKV_OK);
    for (int kind = 0; kind < 3; kind++) {
        tqkv_layer l = layers[0];
        tqkv_cache_config config = {.layers = &l, .n_layers = 1, .capacity = TOKENS};
        if (kind == 1)
            l.profile = p;
        if (kind == 2)
            config.fit_tokens = 200;
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *s = make_sequence(c);
        for (size_t t = 0; t < TOKENS; t += 100)
            assert_int_equal(tqkv_sequence_append(s, 0, k + t * 128, values[0] + t * 128,
                                                  q + t * 256, TQKV_F32, 100),
                             TQKV_OK);
        error[kind] = logit_error(s, k, q);
        assert_true(attention_error(s, 0) < 1.5e-2);
        tqkv_sequence_free(s);
        tqkv_cache_free(c);
    }
    assert_true(error[1] < .1 * error[0]);
    assert_true(error[2] < .1 * error[0]);
    tqkv_profile_free(p);
    free(k);
    free(q);
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
            config.no_means = !means;
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
        config.no_means = !means;
        config.n_recent = 10;
        config.rollback = 64;
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *a = make_sequence(c), *b, *lone = make_sequence(c);
        append_in_steps(a, 0, 330, 30);
        assert_int_equal(tqkv_sequence_fork(a, &b), TQKV_OK);
        uint32_t used = 0;
        for (uint32_t i = 0; i < c->layers[0].pools[SEALED].n_pages; i++)
            used += c->layers[0].pools[SEALED].users[i] > 1;
        assert_true(used >= 4); /* pages are shared, not copied */
        assert_same_attention(a, b);
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

/* ---- arguments ---- */

static void bad_configurations(void **state)
{
    (void)state;
    tqkv_cache *c = NULL;
    tqkv_cache_config config;
    tqkv_layer l[LAYERS];
    tqkv_profile *p;
    assert_int_equal(tqkv_profile_create(1, 3, 64, NULL, &p), TQKV_OK);
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
    REFUSED(l[1].n_kv_heads = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(l[1].n_heads = 0, TQKV_ERROR_ARGUMENT);
    REFUSED(l[0].n_heads = 3, TQKV_ERROR_ARGUMENT);
    REFUSED(l[0].keys.bits = 1, TQKV_ERROR_FORMAT);
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
    assert_int_equal(tqkv_sequence_append(s, 0, keys[0], values[0], NULL, TQKV_F32, TOKENS + 1),
                     TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_sequence_truncate(NULL, 0), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_fork(s, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_length(NULL, 0), 0);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
    l[0] = layers[0]; /* a window's pages are few, whatever the capacity */
    l[0].window = 64;
    config.layers = l;
    config.n_layers = 1;
    config.capacity = SIZE_MAX / 16;
    c = make_cache(&config);
    s = make_sequence(c);
    assert_int_equal(tqkv_sequence_append(s, 0, keys[0], values[0], NULL, TQKV_F32, SIZE_MAX / 32),
                     TQKV_ERROR_OVERFLOW);
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
        cmocka_unit_test(balances_are_used),
        cmocka_unit_test(workspaces_are_enough),
        cmocka_unit_test(truncation),
        cmocka_unit_test(forks_share_and_diverge),
        cmocka_unit_test(bad_configurations),
    };
    return cmocka_run_group_tests(tests, make_data, free_data);
}

/* One writer and many readers on one sequence, forks beside them, and two
 * sequences that fit one cache's profile: run under ThreadSanitizer. */
#include <pthread.h>

#include "test.h"
#include "tqkv_cache.h"

enum { READERS = 3, TOKENS = 600, HEADS = 2, DIM = 32, ROUNDS = 30 };

static float *keys, *values;
static tqkv_sequence *shared;
static _Atomic int done;

static tqkv_status append(tqkv_sequence *s, size_t first, size_t n)
{
    return tqkv_sequence_append(s, 0, keys + first * HEADS * DIM, values + first * HEADS * DIM,
                                keys + first * HEADS * DIM, TQKV_F32, n);
}

static tqkv_status attend(tqkv_sequence *s, const tqkv_cache *c, float *out)
{
    tqkv_executor one = {1, NULL, NULL};
    size_t bytes;
    tqkv_attention a = {.n_queries = 1, .position = TOKENS, .queries = keys, .scale = .2f};
    tqkv_partial result = {out, NULL, NULL};
    tqkv_status status = tqkv_cache_workspace(c, 0, 1, &one, &bytes);
    void *workspace = malloc(bytes);
    if (status == TQKV_OK)
        status = tqkv_sequence_attend(s, 0, &a, &result, &one, workspace, bytes);
    free(workspace);
    return status;
}

static size_t count_bytes(void *context, const void *data, size_t size)
{
    (void)data;
    *(size_t *)context += size;
    return size;
}

static void *read_all_the_time(void *cache)
{
    float out[HEADS * DIM];
    size_t failures = 0, bytes = 0;
    for (int i = 0; !done; i++) {
        tqkv_sequence *fork;
        failures += attend(shared, cache, out) != TQKV_OK;
        for (int d = 0; d < HEADS * DIM; d++)
            failures += !isfinite(out[d]);
        if (i % 8 == 0 && tqkv_sequence_fork(shared, &fork) == TQKV_OK) {
            failures += attend(fork, cache, out) != TQKV_OK;
            tqkv_sequence_free(fork);
        }
        if (i % 16 == 0)
            failures += tqkv_sequence_save(shared, count_bytes, &bytes) != TQKV_OK;
        tqkv_cache_memory(cache);
    }
    return (void *)failures;
}

/* Its own sequence, in the same cache. */
static void *write_another(void *cache)
{
    tqkv_sequence *s;
    float out[HEADS * DIM];
    size_t failures = tqkv_sequence_create(cache, &s) != TQKV_OK;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t t = 0; t < 200; t += 50)
            failures += append(s, t, 50) != TQKV_OK;
        failures += attend(s, cache, out) != TQKV_OK;
        tqkv_sequence_clear(s);
    }
    tqkv_sequence_free(s);
    return (void *)failures;
}

static void one_writer_many_readers(void **state)
{
    (void)state;
    tqkv_layer layer = {.n_heads = HEADS, .n_kv_heads = HEADS, .keys = test_format("tq4", DIM),
                        .values = test_format("tq4", DIM)};
    tqkv_cache_config config = {.layers = &layer, .n_layers = 1, .capacity = TOKENS,
                                .n_sequences = 8, .n_recent = 20, .n_first = 2,
                                .fit_tokens = 100};
    tqkv_cache *c;
    pthread_t readers[READERS], writer;
    void *failures;
    keys = test_rows(1, TOKENS * HEADS * DIM);
    values = test_rows(2, TOKENS * HEADS * DIM);
    assert_int_equal(tqkv_cache_create(&config, &c), TQKV_OK);
    assert_int_equal(tqkv_sequence_create(c, &shared), TQKV_OK);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_all_the_time, c), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_another, c), 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t t = 0; t < 300; t += 30)
            assert_int_equal(append(shared, t, 30), TQKV_OK);
        assert_int_equal(tqkv_sequence_truncate(shared, 250), TQKV_OK);
        assert_int_equal(tqkv_sequence_remove(shared, 10, 30, NULL), TQKV_OK);
        assert_int_equal(tqkv_sequence_clear(shared), TQKV_OK);
    }
    done = 1;
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i], &failures);
        assert_null(failures);
    }
    pthread_join(writer, &failures);
    assert_null(failures);
    tqkv_sequence_free(shared);
    tqkv_cache_free(c);
    free(keys);
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_writer_many_readers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

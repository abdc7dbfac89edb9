/* The cache: tokens removed from the middle. */
#include "cache/angles.h"
#include "cache_case.h"

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
                layer_read(l, now, VALUES, h, t, x);
                layer_read(l, then, VALUES, h, from, y);
                int both_coded = is_coded(now, t) && is_coded(then, from);
                if (both_coded) /* the same codes, with the same mean */
                    assert_memory_equal(x, y, l->shape.values.head_dim * sizeof *x);
                for (uint32_t d = 0; d < l->shape.values.head_dim; d++)
                    assert_true(fabsf(x[d] - y[d]) <= 1e-3f * fabsf(y[d]) + 1e-3f);
                layer_read(l, now, KEYS, h, t, x);
                layer_read(l, then, KEYS, h, from, y);
                if (both_coded && !kind)
                    assert_memory_equal(x, y, l->shape.keys.head_dim * sizeof *x);
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
                config.no_means = !means;
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
    append_in_steps(s, 0, 450, 77);
    assert_int_equal(tqkv_sequence_remove(s, 300, 100, NULL), TQKV_ERROR_GONE);
    assert_int_equal(tqkv_sequence_remove(s, 350, 101, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_remove(s, 0, 1, bad), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_sequence_append(s, 0, keys[0], values[0], NULL, TQKV_F32, 1), TQKV_OK);
    assert_int_equal(tqkv_sequence_remove(s, 0, 1, NULL), TQKV_ERROR_STATE);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
}

/* Rows of more pages than one can name means of: all is still near what it was, and what
 * mixed pages hold is saved and loaded. */
static size_t write_memory(void *context, const void *data, size_t size)
{
    return fwrite(data, 1, size, context);
}

static size_t read_memory(void *context, void *data, size_t size)
{
    return fread(data, 1, size, context);
}

static void many_removals(void **state)
{
    (void)state;
    for (int turned = 0; turned < 2; turned++) {
        tqkv_cache_config config = plain();
        config.rollback = 600; /* windows keep all */
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *s = make_sequence(c), *loaded;
        tqkv_rope rope[LAYERS] = {{.base = 1000, .scale = 0}, {.base = 1000, .scale = 0},
                                  {.base = 1000, .scale = 0}}; /* which turns nothing */
        size_t from[TOKENS], n = 640, n_mixed = 0;
        append_in_steps(s, 0, n, 64);
        for (size_t t = 0; t < n; t++)
            from[t] = t;
        for (int i = 0; i < 9; i++) {
            size_t first = 130 - 7 * (size_t)i, count = 21;
            assert_int_equal(tqkv_sequence_remove(s, first, count, turned ? rope : NULL), TQKV_OK);
            n -= count;
            memmove(from + first, from + first + count, (n - first) * sizeof *from);
            check_attention(s);
        }
        check_storage(s, from);
        for (size_t t = 0; t < s->layers[0].coded; t += 64)
            n_mixed += entry_kind(*sealed_entry(&c->layers[0], &s->layers[0], t)) == MIXED;
        assert_true(n_mixed >= 4);
        FILE *file = tmpfile();
        assert_non_null(file);
        assert_int_equal(tqkv_sequence_save(s, write_memory, file), TQKV_OK);
        rewind(file);
        assert_int_equal(tqkv_sequence_load(c, read_memory, file, &loaded), TQKV_OK);
        fclose(file);
        assert_same_attention(s, loaded);
        assert_int_equal(tqkv_sequence_remove(s, 11, 5, NULL), TQKV_OK);
        assert_int_equal(tqkv_sequence_remove(loaded, 11, 5, NULL), TQKV_OK);
        assert_same_attention(s, loaded);
        tqkv_sequence_free(loaded);
        tqkv_sequence_free(s);
        tqkv_cache_free(c);
    }
}

/* One sequence that fills its cache: pages that are mixed already are not wanted again. */
static void removals_from_a_full_sequence(void **state)
{
    (void)state;
    tqkv_cache_config config = plain();
    config.n_sequences = 1;
    config.rollback = TOKENS;
    tqkv_cache *c = make_cache(&config);
    tqkv_sequence *s = make_sequence(c);
    append_in_steps(s, 0, TOKENS, 100);
    for (int i = 0; i < 8; i++)
        assert_int_equal(tqkv_sequence_remove(s, 10, 16, NULL), TQKV_OK);
    for (int i = 0; i < LAYERS; i++)
        assert_int_equal(c->layers[i].pools[MIXED].n_reserved, 0);
    check_attention(s);
    tqkv_sequence_free(s);
    tqkv_cache_free(c);
}

static void *remove_often(void *sequence)
{
    size_t failures = 0;
    for (size_t i = 0; i < 4; i++)
        failures += tqkv_sequence_remove(sequence, 3 + 7 * i, 5, NULL) != TQKV_OK;
    return (void *)failures;
}

/* Forks that remove at the same time take mixed pages that were free for each of them. */
static void removals_at_the_same_time(void **state)
{
    enum { FORKS = 8 };
    (void)state;
    for (int round = 0; round < 10; round++) {
        tqkv_cache_config config = plain();
        config.n_sequences = FORKS;
        config.rollback = TOKENS;
        tqkv_cache *c = make_cache(&config);
        tqkv_sequence *s = make_sequence(c), *forks[FORKS];
        pthread_t threads[FORKS];
        void *failures;
        append_in_steps(s, 0, 500, 100);
        for (int i = 0; i < FORKS; i++)
            assert_int_equal(tqkv_sequence_fork(s, &forks[i]), TQKV_OK);
        tqkv_sequence_free(s);
        for (int i = 0; i < FORKS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, remove_often, forks[i]), 0);
        for (int i = 0; i < FORKS; i++) {
            assert_int_equal(pthread_join(threads[i], &failures), 0);
            assert_null(failures);
        }
        for (int i = 0; i < FORKS; i++) {
            assert_same_attention(forks[0], forks[i]);
            if (i)
                tqkv_sequence_free(forks[i]);
        }
        check_attention(forks[0]);
        tqkv_sequence_free(forks[0]);
        tqkv_cache_free(c);
    }
}

/* The angles' cosines and sines: near long double's, and these very bits everywhere. */
static void angles_are_the_same_everywhere(void **state)
{
    static const double bases[] = {10000, 1e6, 500000, 2, 150.7};
    static const size_t deltas[] = {1, 64, 1000, 131072, 10000000};
    (void)state;
    uint64_t hash = 0;
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++)
        for (size_t d = 0; d < sizeof deltas / sizeof *deltas; d++) {
            tqkv_rope rope = {.base = (float)bases[b], .scale = .75f};
            angle_table t;
            angles_fill(&t, &rope, 128, deltas[d]);
            for (unsigned i = 0; i < 64; i++) {
                long double frequency = powl(rope.base, -2.0L * i / 128) * .75L;
                long double angle = -(long double)deltas[d] * frequency;
                double bound = 2e-15 + (double)fabsl(angle) * 4e-15; /* of the frequency */
                assert_true(fabs(t.cosine[i] - (double)cosl(angle)) < bound);
                assert_true(fabs(t.sine[i] - (double)sinl(angle)) < bound);
                uint64_t bits[2];
                memcpy(&bits[0], &t.cosine[i], 8);
                memcpy(&bits[1], &t.sine[i], 8);
                hash = (hash ^ bits[0]) * 0x9E3779B97F4A7C15u;
                hash = (hash ^ bits[1] ^ hash >> 29) * 0xBF58476D1CE4E5B9u;
            }
        }
    assert_true(hash == 0x679e93c76aaca8feu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(removal),
        cmocka_unit_test(many_removals),
        cmocka_unit_test(removals_from_a_full_sequence),
        cmocka_unit_test(removals_at_the_same_time),
        cmocka_unit_test(angles_are_the_same_everywhere),
    };
    return cmocka_run_group_tests(tests, make_data, free_data);
}

/* The cache in memory and in files: counted bytes, allocations that fail,
 * snapshots. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache_case.h"

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
    double staged = 0, rounding = 3 * LAYERS * 65536;
    for (int i = 0; i < LAYERS; i++)
        staged += (double)c->layers[i].n_tail_slots * 64 * 2 * (double)token_values(&c->layers[i]);
    assert_true((double)(full - created) < 500 * tqkv_cache_token_bytes(c) + staged + rounding);
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
    config.rollback = 150;
    return config;
}

static void snapshots_go_on(void **state)
{
    (void)state;
    for (size_t length = 0; length <= 500; length += 100)
        for (int means = 0; means < 2; means++) {
            tqkv_cache_config config = snapshot_config();
            config.no_means = !means;
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
    REFUSED(other.no_means = 1, TQKV_ERROR_FORMAT);
    REFUSED(other.n_layers = 2, TQKV_ERROR_FORMAT);
    REFUSED(other.n_first = 4, TQKV_ERROR_FORMAT);
    REFUSED(changed[0].keys = test_format("tq3", 64), TQKV_ERROR_FORMAT);
    REFUSED(changed[2].values = test_format("tq3s", 32), TQKV_ERROR_FORMAT);
    REFUSED(changed[1].window = 99, TQKV_ERROR_FORMAT);
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
    for (uint8_t version = 0; version < 5; version++) { /* 1 and 2 had other codes */
        b.data[8] = version;
        b.at = 0;
        if (version != 3)
            assert_int_equal(tqkv_sequence_load(c, read_buffer, &b, &t), TQKV_ERROR_VERSION);
    }
    b.data[8] = 3;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_counted_and_limited),
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(snapshots_go_on),
        cmocka_unit_test(snapshots_of_others_are_refused),
        cmocka_unit_test(damaged_snapshots_are_refused),
        cmocka_unit_test(killed_while_saving),
    };
    return cmocka_run_group_tests(tests, make_data, free_data);
}

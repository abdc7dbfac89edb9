/*
 * llama.cpp itself on tqkv's cache, in this process: models of random weights
 * and, if TQKV_TEST_MODEL names its file, a real one. What llama.cpp does to a
 * cache (saving, copying, moving, going back) against never having done it, and
 * its answers against its own f16 cache.
 */
#include <llama.h>
#include <pthread.h>
#include <unistd.h>

#include "divergence.h"
#include "tiny_model.h"

enum { CONTEXT = 512, PROMPT = 100, MAX_VOCAB = 1 << 17 };

static char folder[] = "/tmp/tqkv-test-XXXXXX";

static void silent(enum ggml_log_level level, const char *text, void *data)
{
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR && !strncmp(text, "tqkv", 4))
        fputs(text, stderr);
}

/* ---- models and contexts ---- */

/* Without weights packed for the processor: those kernels give a token other bits
 * in another batch, and AMX, which some of them use, is not everywhere that the
 * processor tells. */
static struct llama_model *open_model(const char *path)
{
    struct llama_model_params p = llama_model_default_params();
    p.use_extra_bufts = false;
    return llama_model_load_from_file(path, p);
}

static struct llama_model *open_tiny(const tiny_model *m)
{
    char path[64];
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    tiny_write(m, path);
    struct llama_model *model = open_model(path);
    assert_non_null(model);
    unlink(path);
    return model;
}

/* Of contexts whose cache is in this format; llama.cpp's own if it is empty. */
static struct llama_context_params params_of(const char *format)
{
    setenv("TQKV_KV", format, 1);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = CONTEXT;
    p.n_batch = p.n_ubatch = 128;
    p.n_threads = p.n_threads_batch = 2;
    return p;
}

static struct llama_context *open_context(struct llama_model *m, const char *format)
{
    struct llama_context *c = llama_init_from_model(m, params_of(format));
    assert_non_null(c);
    return c;
}

static int vocab_of(const struct llama_context *c)
{
    return llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(c)));
}

static llama_token token_at(const struct llama_context *c, int i)
{
    return (llama_token)(((unsigned)i * 2654435761u >> 7) % (unsigned)vocab_of(c));
}

/* Tokens [from, to) of a fixed text into a sequence; the last one's logits. */
static int32_t feed(struct llama_context *c, int from, int to, llama_seq_id seq)
{
    int32_t status = 0;
    for (int at = from; at < to && status == 0; at += 64) {
        int n = to - at < 64 ? to - at : 64;
        struct llama_batch b = llama_batch_init(n, 0, 1);
        for (int i = 0; i < n; i++) {
            b.token[i] = token_at(c, at + i);
            b.pos[i] = at + i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = seq;
            b.logits[i] = at + i == to - 1;
        }
        b.n_tokens = n;
        status = llama_decode(c, b);
        llama_batch_free(b);
    }
    return status;
}

static float *logits_of(struct llama_context *c)
{
    size_t bytes = (size_t)vocab_of(c) * sizeof(float);
    float *copy = malloc(bytes);
    llama_synchronize(c);
    memcpy(copy, llama_get_logits_ith(c, -1), bytes);
    return copy;
}

/* ---- comparing ---- */

static void assert_same_logits(struct llama_context *a, struct llama_context *b)
{
    float *x = logits_of(a), *y = logits_of(b);
    assert_memory_equal(x, y, (size_t)vocab_of(a) * sizeof *x);
    free(x);
    free(y);
}

/* n tokens from `from` on, one by one, give both the same logits. */
static void assert_same_steps(struct llama_context *a, struct llama_context *b, int from, int n)
{
    for (int i = from; i < from + n; i++) {
        assert_int_equal(feed(a, i, i + 1, 0), 0);
        assert_int_equal(feed(b, i, i + 1, 0), 0);
    }
    assert_same_logits(a, b);
}

static void assert_near(struct llama_context *exact, struct llama_context *c, double bound,
                        const char *what)
{
    float *x = logits_of(exact), *y = logits_of(c);
    double kl = divergence(x, y, vocab_of(c));
    print_message("%-40s KL divergence %.2e\n", what, kl);
    assert_true(kl < bound);
    free(x);
    free(y);
}

/* ---- kinds of models ---- */

static const tiny_model models[] = {
    {"llama", 64, 4, 4, 0, 0},  {"llama", 64, 8, 1, 0, 0},  {"llama", 96, 4, 2, 0, 0},
    {"llama", 128, 4, 2, 0, 0}, {"llama", 256, 2, 1, 0, 0}, {"deci", 64, 8, 4, 1, 0},
    {"gemma2", 64, 4, 2, 0, 0}, {"gemma2", 128, 4, 1, 0, 0}, {"mpt", 64, 6, 6, 0, 0},
};

static void test_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char what[64];
        struct llama_model *m = open_tiny(&models[i]);
        struct llama_context *exact = open_context(m, "");
        struct llama_context *fine = open_context(m, "tq8");
        struct llama_context *coarse = open_context(m, "tq4");
        for (int step = 0; step < 3; step++) {
            int from = step ? PROMPT + step - 1 : 0, to = PROMPT + step;
            assert_int_equal(feed(exact, from, to, 0), 0);
            assert_int_equal(feed(fine, from, to, 0), 0);
            assert_int_equal(feed(coarse, from, to, 0), 0);
        }
        snprintf(what, sizeof what, "%s %u, %u of %u%s", models[i].architecture,
                 models[i].head_dim, models[i].n_heads, models[i].n_kv_heads,
                 models[i].is_mixed ? ", mixed" : "");
        assert_near(exact, fine, 3e-3, what);
        assert_near(exact, coarse, .15, what);
        llama_free(exact);
        llama_free(fine);
        llama_free(coarse);
        llama_model_free(m);
    }
}

/* ---- what is done to a cache ---- */

static void test_rollback(void **state)
{
    struct llama_model *m = *state;
    struct llama_context *a = open_context(m, "tq4"), *b = open_context(m, "tq4");
    assert_int_equal(feed(a, 0, PROMPT, 0), 0);
    assert_int_equal(feed(b, 0, PROMPT, 0), 0);
    /* Drafted tokens, of which none is taken. */
    struct llama_batch draft = llama_batch_init(5, 0, 1);
    for (int i = 0; i < 5; i++) {
        draft.token[i] = token_at(b, 1000 + i);
        draft.pos[i] = PROMPT + i;
        draft.n_seq_id[i] = 1;
        draft.seq_id[i][0] = 0;
        draft.logits[i] = 1;
    }
    draft.n_tokens = 5;
    assert_int_equal(llama_decode(b, draft), 0);
    llama_batch_free(draft);
    assert_true(llama_memory_seq_rm(llama_get_memory(b), 0, PROMPT, -1));
    assert_same_steps(a, b, PROMPT, 3);
    llama_free(a);
    llama_free(b);
}

static void test_threads(void **state)
{
    struct llama_context *a = open_context(*state, "tq4");
    struct llama_context *b = open_context(*state, "tq4");
    llama_set_n_threads(a, 1, 1);
    assert_int_equal(feed(a, 0, PROMPT, 0), 0);
    assert_int_equal(feed(b, 0, PROMPT, 0), 0);
    assert_same_steps(a, b, PROMPT, 2);
    llama_free(a);
    llama_free(b);
}

static void test_save_and_restore(void **state)
{
    struct llama_context *a = open_context(*state, "tq4");
    struct llama_context *b = open_context(*state, "tq4");
    assert_int_equal(feed(a, 0, PROMPT, 0), 0);
    size_t size = llama_state_seq_get_size(a, 0);
    uint8_t *saved = malloc(size), *again = malloc(size);
    assert_int_equal(llama_state_seq_get_data(a, saved, size, 0), size);
    assert_int_equal(llama_state_seq_set_data(b, saved, size, 0), size);
    assert_int_equal(llama_state_seq_get_data(b, again, size, 0), size);
    assert_memory_equal(saved, again, size);
    assert_same_steps(a, b, PROMPT, 1);
    /* In a context that has been used, too; and all of it at once. */
    size_t whole = llama_state_get_size(a);
    uint8_t *all = malloc(whole);
    whole = llama_state_get_data(a, all, whole);
    assert_int_equal(feed(b, PROMPT + 1, PROMPT + 30, 0), 0);
    assert_int_equal(llama_state_set_data(b, all, whole), whole);
    assert_same_steps(a, b, PROMPT + 1, 1);
    free(saved);
    free(again);
    free(all);
    llama_free(a);
    llama_free(b);
}

/* A state of another format is refused where it would be read. */
static void test_foreign_state(void **state)
{
    struct llama_context *a = open_context(*state, "tq5");
    struct llama_context *b = open_context(*state, "tq5/tq4");
    assert_int_equal(feed(a, 0, PROMPT, 0), 0);
    size_t size = llama_state_seq_get_size(a, 0);
    uint8_t *saved = malloc(size);
    assert_int_equal(llama_state_seq_get_data(a, saved, size, 0), size);
    assert_int_equal(feed(b, 0, PROMPT, 0), 0);
    llama_memory_clear(llama_get_memory(b), true);
    assert_int_equal(llama_state_seq_set_data(b, saved, size, 0), size);
    assert_int_not_equal(feed(b, PROMPT, PROMPT + 1, 0), 0);
    /* Without it the context goes on. */
    llama_memory_clear(llama_get_memory(b), true);
    assert_int_equal(feed(b, 0, PROMPT, 0), 0);
    free(saved);
    llama_free(a);
    llama_free(b);
}

/* Sequences in one stream, and each in its own. */
static void test_sequences(void **state)
{
    for (int unified = 0; unified < 2; unified++) {
        struct llama_context_params p = params_of("tq4");
        p.n_seq_max = 3;
        p.kv_unified = unified;
        p.n_ctx = 3 * CONTEXT;
        struct llama_context *a = llama_init_from_model(*state, p);
        struct llama_context *alone = open_context(*state, "tq4");
        assert_non_null(a);
        assert_int_equal(feed(a, 0, PROMPT, 0), 0);
        assert_int_equal(feed(a, 0, 40, 1), 0);
        llama_memory_seq_cp(llama_get_memory(a), 0, 2, -1, -1);
        assert_int_equal(feed(a, PROMPT, PROMPT + 1, 2), 0);
        assert_int_equal(feed(alone, 0, PROMPT + 1, 0), 0);
        /* In one stream sequences share pages, and their means. */
        double bound = unified ? .03 : 1e-4;
        assert_near(alone, a, bound, unified ? "copied, unified" : "copied, streams");
        /* All three in one batch. */
        struct llama_batch b = llama_batch_init(3, 0, 1);
        const int pos[] = {PROMPT, 40, PROMPT + 1};
        for (int i = 0; i < 3; i++) {
            b.token[i] = token_at(a, pos[i]);
            b.pos[i] = pos[i];
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = i;
            b.logits[i] = 1;
        }
        b.n_tokens = 3;
        assert_int_equal(llama_decode(a, b), 0);
        llama_batch_free(b);
        assert_int_equal(feed(alone, PROMPT + 1, PROMPT + 2, 0), 0);
        assert_near(alone, a, bound, unified ? "batch, unified" : "batch, streams");
        llama_free(a);
        llama_free(alone);
    }
}

static void test_context_shift(void **state)
{
    struct llama_context *exact = open_context(*state, "");
    struct llama_context *c = open_context(*state, "tq8");
    struct llama_context *both[] = {exact, c};
    for (int i = 0; i < 2; i++) {
        llama_memory_t memory = llama_get_memory(both[i]);
        assert_int_equal(feed(both[i], 0, PROMPT, 0), 0);
        assert_true(llama_memory_can_shift(memory));
        assert_true(llama_memory_seq_rm(memory, 0, 20, 50));
        llama_memory_seq_add(memory, 0, 50, -1, -30);
        assert_int_equal(feed(both[i], PROMPT - 30, PROMPT - 28, 0), 0);
    }
    assert_near(exact, c, 3e-3, "shifted");
    llama_free(exact);
    llama_free(c);
}

static bool every_node(struct ggml_tensor *t, bool asks, void *data)
{
    (void)t, (void)asks, (void)data;
    return true;
}

/* With a callback for every node llama.cpp computes graphs in pieces of one. */
static void test_pieces(void **state)
{
    struct llama_context_params p = params_of("tq4");
    p.cb_eval = every_node;
    struct llama_context *whole = open_context(*state, "tq4");
    struct llama_context *pieces = llama_init_from_model(*state, p);
    assert_non_null(pieces);
    struct llama_context *both[] = {whole, pieces};
    for (int i = 0; i < 2; i++) {
        llama_memory_t memory = llama_get_memory(both[i]);
        assert_int_equal(feed(both[i], 0, PROMPT, 0), 0);
        assert_true(llama_memory_seq_rm(memory, 0, 20, 50));
        llama_memory_seq_add(memory, 0, 50, -1, -30);
        assert_int_equal(feed(both[i], PROMPT - 30, PROMPT - 28, 0), 0);
    }
    assert_near(whole, pieces, 1e-6, "in pieces");
    llama_free(whole);
    llama_free(pieces);
}

static void *feed_alone(void *context)
{
    assert_int_equal(feed(context, 0, PROMPT, 0), 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(feed(context, PROMPT + i, PROMPT + i + 1, 0), 0);
    return NULL;
}

static void test_two_contexts(void **state)
{
    struct llama_context *a = open_context(*state, "tq4");
    struct llama_context *b = open_context(*state, "tq4");
    struct llama_context *alone = open_context(*state, "tq4");
    pthread_t thread;
    feed_alone(alone);
    assert_int_equal(pthread_create(&thread, NULL, feed_alone, a), 0);
    feed_alone(b);
    pthread_join(thread, NULL);
    assert_same_logits(alone, a);
    assert_same_logits(alone, b);
    llama_free(a);
    llama_free(b);
    llama_free(alone);
}

/* The logits of the prompt's last token. */
static float *logits_with(struct llama_model *m, const char *format)
{
    struct llama_context *c = open_context(m, format);
    assert_int_equal(feed(c, 0, PROMPT, 0), 0);
    float *x = logits_of(c);
    llama_free(c);
    return x;
}

/* A profile that cannot be read, or is another model's, is done without. */
static void assert_no_profile(struct llama_model *m, const char *path)
{
    size_t n = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(m));
    float *without = logits_with(m, "tq4");
    setenv("TQKV_PROFILE", path, 1);
    float *with = logits_with(m, "tq4");
    unsetenv("TQKV_PROFILE");
    assert_memory_equal(with, without, n * sizeof *with);
    free(with);
    free(without);
}

static void test_no_profile(void **state)
{
    assert_no_profile(*state, "/nonexistent.profile");
    assert_no_profile(*state, "");
}

/* ---- profiles ---- */

static void test_profile(void **state)
{
    char path[64];
    snprintf(path, sizeof path, "%s/keys.profile", folder);
    setenv("TQKV_CAPTURE", path, 1);
    setenv("TQKV_CAPTURE_KEYS", "300", 1);
    struct llama_context *c = open_context(*state, "tq8");
    assert_int_equal(feed(c, 0, 400, 0), 0);
    llama_free(c);
    unsetenv("TQKV_CAPTURE");
    assert_int_equal(access(path, R_OK), 0);
    struct llama_context *exact = open_context(*state, "");
    struct llama_context *without = open_context(*state, "tq4");
    setenv("TQKV_PROFILE", path, 1);
    struct llama_context *with = open_context(*state, "tq4");
    assert_int_equal(feed(exact, 0, PROMPT, 0), 0);
    assert_int_equal(feed(with, 0, PROMPT, 0), 0);
    assert_int_equal(feed(without, 0, PROMPT, 0), 0);
    assert_near(exact, with, .15, "with a profile");
    float *x = logits_of(with), *y = logits_of(without);
    assert_memory_not_equal(x, y, (size_t)vocab_of(with) * sizeof *x);
    free(x);
    free(y);
    /* A state of a context without it is none of this one's. */
    size_t size = llama_state_seq_get_size(without, 0);
    uint8_t *saved = malloc(size);
    assert_int_equal(llama_state_seq_get_data(without, saved, size, 0), size);
    llama_memory_clear(llama_get_memory(with), true);
    assert_int_equal(llama_state_seq_set_data(with, saved, size, 0), size);
    assert_int_not_equal(feed(with, PROMPT, PROMPT + 1, 0), 0);
    free(saved);
    unsetenv("TQKV_PROFILE");
    /* It is of no use to another model, and a damaged file to none. */
    const tiny_model other = {"llama", 128, 2, 2, 0, 0};
    struct llama_model *m = open_tiny(&other);
    assert_no_profile(m, path);
    assert_int_equal(truncate(path, 1000), 0);
    assert_no_profile(*state, path);
    llama_model_free(m);
    llama_free(exact);
    llama_free(with);
    llama_free(without);
    unlink(path);
}

/* ---- a real model ---- */

static const char text[] =
    "The lighthouse keeper climbed the stairs every evening at dusk. He trimmed the wick, polished "
    "the great lens and wrote the weather into his book. In winter the waves struck the rock so "
    "hard that the lamp trembled, and he had to shout to be heard by his daughter, who was";

static void test_real_model(void **state)
{
    (void)state;
    const char *path = getenv("TQKV_TEST_MODEL");
    struct llama_model *m = open_model(path);
    assert_non_null(m);
    const struct llama_vocab *vocab = llama_model_get_vocab(m);
    llama_token tokens[256];
    int n = llama_tokenize(vocab, text, sizeof text - 1, tokens, 256, true, false);
    assert_true(n > 40);
    static const struct {
        const char *format;
        double bound;
    } cases[] = {{"", 0}, {"tq8", .02}, {"tq5/tq4", .03}, {"tq4", .05}, {"tq3", .15}, {"tq2", .4},
                 {"lm4", .05}}; /* a part is of sums in another order */
    struct llama_context *exact = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct llama_context *c = open_context(m, cases[i].format);
        assert_int_equal(llama_decode(c, llama_batch_get_one(tokens, n)), 0);
        llama_token next = tokens[n / 2];
        for (int step = 0; step < 10; step++)
            assert_int_equal(llama_decode(c, llama_batch_get_one(&next, 1)), 0);
        if (exact)
            assert_near(exact, c, cases[i].bound, cases[i].format);
        if (exact)
            llama_free(c);
        else
            exact = c;
    }
    llama_free(exact);
    llama_model_free(m);
}

/* ---- */

static int load(void **state)
{
    const tiny_model m = {"llama", 64, 6, 2, 0, 0};
    llama_log_set(silent, NULL);
    if (!load_backends() || !mkdtemp(folder))
        return -1;
    llama_backend_init();
    *state = open_tiny(&m);
    return 0;
}

static int unload(void **state)
{
    llama_model_free(*state);
    llama_backend_free();
    return rmdir(folder);
}

int main(int argc, char **argv)
{
    const char *model = getenv("TQKV_TEST_MODEL");
    const struct CMUnitTest real[] = {cmocka_unit_test(test_real_model)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models), cmocka_unit_test(test_rollback),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_save_and_restore),
        cmocka_unit_test(test_foreign_state), cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_context_shift), cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_two_contexts),
        cmocka_unit_test(test_no_profile), cmocka_unit_test(test_profile),
    };
    if (argc > 1 && !strcmp(argv[1], "real")) {
        if (!model || access(model, R_OK)) {
            puts("skipped: TQKV_TEST_MODEL names no model that is there");
            return 77;
        }
        return cmocka_run_group_tests_name("real model", real, load, unload);
    }
    return cmocka_run_group_tests(tests, load, unload);
}

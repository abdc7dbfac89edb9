/*
 * A token's logits follow from the tokens that it sees: the same bits in batches of
 * any size, after drafts that were taken back, beside other sequences, with any number
 * of threads. Weights are of a type in which ggml's own products are so (Q4_1, not
 * packed for the processor).
 */
#include <llama.h>
#include <unistd.h>

#include "tiny_model.h"

enum { CONTEXT = 4096, BATCH = 128, PROMPT = 210, GREEDY = 1000 };
static const double NEAR = .6; /* of the logits' norm, as codes are of f16 here */

static const tiny_model models[] = {
    {"llama", 64, 6, 2, 0, GGML_TYPE_Q4_1},
    {"llama", 128, 4, 1, 0, GGML_TYPE_Q4_1},
    {"gemma2", 64, 4, 2, 0, GGML_TYPE_Q4_1}, /* windows of 24, softcap */
    {"mpt", 64, 4, 4, 0, GGML_TYPE_Q4_1},    /* ALiBi: masks with numbers */
};
enum { MODELS = sizeof models / sizeof *models };

static void silent(enum ggml_log_level level, const char *text, void *data)
{
    (void)level, (void)text, (void)data;
}

static struct llama_model *open_file(const char *path)
{
    struct llama_model_params p = llama_model_default_params();
    p.use_extra_bufts = false;
    return llama_model_load_from_file(path, p);
}

static struct llama_model *open_model(const tiny_model *m)
{
    char path[] = "/tmp/tqkv-invariance-XXXXXX";
    close(mkstemp(path));
    tiny_write(m, path);
    struct llama_model *model = open_file(path);
    assert_non_null(model);
    unlink(path);
    return model;
}

static struct llama_context *open_context(struct llama_model *m, uint32_t n_seq, int unified)
{
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = CONTEXT;
    p.n_batch = p.n_ubatch = BATCH;
    p.n_threads = p.n_threads_batch = 1; /* small models */
    p.n_seq_max = n_seq;
    p.kv_unified = unified;
    struct llama_context *c = llama_init_from_model(m, p);
    assert_non_null(c);
    return c;
}

static int vocab_of(const struct llama_context *c)
{
    return llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(c)));
}

/* The text of a sequence. */
static llama_token token_at(const struct llama_context *c, int seq, int i)
{
    return (llama_token)(((unsigned)(i + 1000 * seq) * 2654435761u >> 7) % (unsigned)vocab_of(c));
}

typedef struct entry {
    llama_token token;
    int pos, seq;
} entry;

static void decode(struct llama_context *c, const entry *entries, int n)
{
    struct llama_batch b = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; i++) {
        b.token[i] = entries[i].token;
        b.pos[i] = entries[i].pos;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = entries[i].seq;
        b.logits[i] = 1;
    }
    b.n_tokens = n;
    assert_int_equal(llama_decode(c, b), 0);
    llama_batch_free(b);
}

/* Tokens [from, to) of a sequence, `chunk` at once; the logits of each to `logits`,
 * where it is not null. */
static void feed(struct llama_context *c, int seq, int from, int to, int chunk, float *logits)
{
    size_t each = (size_t)vocab_of(c);
    entry entries[BATCH];
    for (int at = from; at < to; at += chunk) {
        int n = to - at < chunk ? to - at : chunk;
        for (int i = 0; i < n; i++)
            entries[i] = (entry){token_at(c, seq, at + i), at + i, seq};
        decode(c, entries, n);
        for (int i = 0; logits && i < n; i++)
            memcpy(logits + (size_t)(at - from + i) * each, llama_get_logits_ith(c, i),
                   each * sizeof *logits);
    }
}

static float *all_logits(struct llama_context *c, int seq, int from, int to, int chunk)
{
    float *logits = malloc((size_t)(to - from) * (size_t)vocab_of(c) * sizeof *logits);
    feed(c, seq, from, to, chunk, logits);
    return logits;
}

static void assert_same(const struct llama_context *c, const float *a, const float *b, int n)
{
    assert_memory_equal(a, b, (size_t)n * (size_t)vocab_of(c) * sizeof *a);
}

typedef void check_function(struct llama_model *m);

static void for_all(check_function *check)
{
    for (int i = 0; i < MODELS; i++) {
        struct llama_model *m = open_model(&models[i]);
        check(m);
        llama_model_free(m);
    }
}

/* ---- */

static void check_chunks(struct llama_model *m)
{
    static const int chunks[] = {2, 4, 16, 64, BATCH};
    struct llama_context *c = open_context(m, 1, 0);
    float *one = all_logits(c, 0, 0, PROMPT, 1);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        llama_memory_clear(llama_get_memory(c), true);
        int n_threads = chunks[i] < 64 ? 1 : 2;
        llama_set_n_threads(c, n_threads, n_threads);
        float *many = all_logits(c, 0, 0, PROMPT, chunks[i]);
        assert_same(c, one, many, PROMPT);
        free(many);
    }
    free(one);
    llama_free(c);
}

static void test_chunks(void **state)
{
    (void)state;
    for_all(check_chunks);
}

/* Beside the prompt's tokens lie drafts that were taken back, after every few. */
static void check_drafts(struct llama_model *m)
{
    struct llama_context *c = open_context(m, 1, 0);
    float *plain = all_logits(c, 0, 0, PROMPT, 1);
    llama_memory_clear(llama_get_memory(c), true);
    size_t each = (size_t)vocab_of(c);
    float *drafted = malloc(PROMPT * each * sizeof *drafted);
    for (int at = 0; at < PROMPT; at += 6) {
        entry wrong[7];
        int n = 1 + at / 6 % 7;
        feed(c, 0, at, at + 6, 1 + at % 5, drafted + (size_t)at * each);
        for (int i = 0; i < n; i++)
            wrong[i] = (entry){token_at(c, 5, at + i), at + 6 + i, 0};
        decode(c, wrong, n);
        assert_true(llama_memory_seq_rm(llama_get_memory(c), 0, at + 6, -1));
    }
    assert_same(c, plain, drafted, PROMPT);
    free(plain);
    free(drafted);
    llama_free(c);
}

static void test_drafts(void **state)
{
    (void)state;
    for_all(check_drafts);
}

static double distance(const float *a, const float *b, size_t n)
{
    double square = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        square += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)a[i] * a[i];
    }
    return sqrt(square / size);
}

/* Three sequences: prompts one after the other, then a token each in one batch. Where their
 * cells lie in one stream they share pages, and so the means of these: near, not the same. */
static void check_sequences(struct llama_model *m)
{
    enum { STEPS = 80 };
    static const int prompts[] = {150, 90, 201};
    float *alone[3];
    for (int seq = 0; seq < 3; seq++) {
        struct llama_context *c = open_context(m, 1, 0);
        entry e[BATCH];
        size_t each = (size_t)vocab_of(c);
        alone[seq] = malloc(STEPS * each * sizeof(float));
        for (int at = 0; at < prompts[seq]; at++) {
            e[0] = (entry){token_at(c, seq, at), at, 0};
            decode(c, e, 1);
        }
        for (int i = 0; i < STEPS; i++) {
            e[0] = (entry){token_at(c, seq, prompts[seq] + i), prompts[seq] + i, 0};
            decode(c, e, 1);
            memcpy(alone[seq] + (size_t)i * each, llama_get_logits_ith(c, 0), each * sizeof(float));
        }
        llama_free(c);
    }
    for (int unified = 0; unified < 2; unified++) {
        struct llama_context *c = open_context(m, 3, unified);
        size_t each = (size_t)vocab_of(c);
        for (int seq = 0; seq < 3; seq++)
            feed(c, seq, 0, prompts[seq], BATCH, NULL);
        for (int i = 0; i < STEPS; i++) {
            entry e[3];
            for (int seq = 0; seq < 3; seq++)
                e[seq] = (entry){token_at(c, seq, prompts[seq] + i), prompts[seq] + i, seq};
            decode(c, e, 3);
            for (int seq = 0; seq < 3; seq++) {
                const float *beside = llama_get_logits_ith(c, seq);
                if (unified)
                    assert_true(distance(alone[seq] + (size_t)i * each, beside, each) < NEAR);
                else
                    assert_memory_equal(alone[seq] + (size_t)i * each, beside,
                                        each * sizeof(float));
            }
        }
        llama_free(c);
    }
    for (int seq = 0; seq < 3; seq++)
        free(alone[seq]);
}

static void test_sequences(void **state)
{
    (void)state;
    for_all(check_sequences);
}

/* ---- greedy decoding ---- */

static llama_token likeliest(struct llama_context *c, int i)
{
    const float *x = llama_get_logits_ith(c, i);
    int best = 0;
    for (int t = 1; t < vocab_of(c); t++)
        best = x[t] > x[best] ? t : best;
    return best;
}

/* tokens[0] is given. */
static void decode_greedily(struct llama_context *c, llama_token *tokens, int n)
{
    for (int i = 0; i + 1 < n; i++) {
        decode(c, &(entry){tokens[i], i, 0}, 1);
        tokens[i + 1] = likeliest(c, 0);
    }
}

/* The same with drafts of 1 to 7 tokens, of which some are right. */
static void decode_with_drafts(struct llama_context *c, const llama_token *right,
                               llama_token *tokens, int n)
{
    uint64_t seed = 3;
    int known = 1; /* tokens[known - 1] is not yet in the cache */
    while (known < n) {
        entry e[8];
        int drafts = 1 + (int)(random_unit(&seed) * 7), wrong_from = (int)(random_unit(&seed) * 8);
        int most = n - known;
        drafts = drafts < most ? drafts : most;
        e[0] = (entry){tokens[known - 1], known - 1, 0};
        for (int i = 0; i < drafts; i++) {
            llama_token token = right[known + i];
            e[1 + i] = (entry){i < wrong_from ? token : (token + 1) % vocab_of(c), known + i, 0};
        }
        decode(c, e, 1 + drafts);
        int taken = 0;
        do
            tokens[known + taken] = likeliest(c, taken);
        while (++taken <= drafts && known + taken < n && e[taken].token == tokens[known + taken - 1]);
        known += taken;
        assert_true(llama_memory_seq_rm(llama_get_memory(c), 0, known - 1, -1));
    }
}

static void compare_greedily(struct llama_model *m)
{
    llama_token plain[GREEDY] = {11}, drafted[GREEDY] = {11};
    struct llama_context *c = open_context(m, 1, 0);
    decode_greedily(c, plain, GREEDY);
    llama_memory_clear(llama_get_memory(c), true);
    decode_with_drafts(c, plain, drafted, GREEDY);
    assert_memory_equal(plain, drafted, sizeof plain);
    llama_free(c);
}

static void test_speculation(void **state)
{
    (void)state;
    struct llama_model *m = open_model(&models[0]);
    compare_greedily(m);
    llama_model_free(m);
}

static void test_real_speculation(void **state)
{
    (void)state;
    struct llama_model *m = open_file(getenv("TQKV_TEST_MODEL"));
    assert_non_null(m);
    compare_greedily(m);
    llama_model_free(m);
}

/* ---- */

static int load(void **state)
{
    (void)state;
    llama_log_set(silent, NULL);
    if (!load_backends())
        return -1;
    llama_backend_init();
    return 0;
}

int main(int argc, char **argv)
{
    const char *model = getenv("TQKV_TEST_MODEL");
    const struct CMUnitTest real[] = {cmocka_unit_test(test_real_speculation)};
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chunks), cmocka_unit_test(test_drafts),
                                       cmocka_unit_test(test_sequences),
                                       cmocka_unit_test(test_speculation)};
    if (argc > 1 && !strcmp(argv[1], "real")) {
        if (!model || access(model, R_OK)) {
            puts("skipped: TQKV_TEST_MODEL names no model that is there");
            return 77;
        }
        return cmocka_run_group_tests_name("real model", real, load, NULL);
    }
    return cmocka_run_group_tests(tests, load, NULL);
}

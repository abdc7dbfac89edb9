/*
 * What pages do to a real model's answers: KL divergence to llama.cpp's f16 cache, with
 * pages_backend.c, in windows of a text. doc/quality.md has more of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <ggml-backend.h>
#include <llama.h>

#include "divergence.h"

/* The first half of a window is what the second is measured behind. */
enum { WINDOW = 512, SEEN = WINDOW / 2, N_WINDOWS = 2, MAX_TEXT = 1 << 16, MAX_TOKENS = 1 << 15 };

typedef struct fixture {
    struct llama_model *model;
    llama_token tokens[MAX_TOKENS];
    int n_vocab;
    float *exact[N_WINDOWS]; /* [WINDOW - SEEN][n_vocab], of llama.cpp alone */
} fixture;

static fixture f;
static char balances[] = "/tmp/tqkv-test-XXXXXX";
static char weights[] = "/tmp/tqkv-test-XXXXXX";

static void silent(enum ggml_log_level level, const char *text, void *data)
{
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static struct llama_context *open_context(void)
{
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = WINDOW;
    p.n_threads = p.n_threads_batch = 2;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    struct llama_context *c = llama_init_from_model(f.model, p);
    assert_non_null(c);
    return c;
}

/* A window's logits, of the second half; they belong to the context. */
static const float *feed(struct llama_context *c, int window)
{
    struct llama_batch b = llama_batch_init(WINDOW, 0, 1);
    for (int i = 0; i < WINDOW; i++) {
        b.token[i] = f.tokens[window * WINDOW + i];
        b.pos[i] = i;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = 0;
        b.logits[i] = i >= SEEN;
    }
    b.n_tokens = WINDOW;
    llama_memory_clear(llama_get_memory(c), true);
    assert_int_equal(llama_decode(c, b), 0);
    llama_batch_free(b);
    return llama_get_logits(c);
}

/* ---- configurations ---- */

static void set(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

/* Mean KL divergence with rows of this format, or as they are. */
static double divergence_of(const char *format, int has_means, const char *balance)
{
    set("TQKV_PAGES_KEYS", format);
    set("TQKV_PAGES_VALUES", format);
    set("TQKV_PAGES_MEANS", has_means ? "1" : "0");
    set("TQKV_PAGES_BALANCE", balance);
    struct llama_context *c = open_context();
    double sum = 0;
    for (int w = 0; w < N_WINDOWS; w++) {
        const float *x = feed(c, w);
        for (int i = 0; i < WINDOW - SEEN; i++) {
            size_t at = (size_t)i * (size_t)f.n_vocab;
            sum += divergence(f.exact[w] + at, x + at, f.n_vocab);
        }
    }
    llama_free(c);
    sum /= N_WINDOWS * (WINDOW - SEEN);
    print_message("%-5s%s%s KL divergence %.2e\n", format ? format : "as is",
                  has_means ? ", means" : "", balance ? ", balances:" : ":", sum);
    return sum;
}

/* Without it, all figures below could be those of something else. */
static void test_backend_alone_changes_nothing(void **state)
{
    (void)state;
    assert_true(divergence_of(NULL, 1, NULL) < 1e-9);
}

static void test_means(void **state)
{
    (void)state;
    double rows = divergence_of("tq4", 0, NULL), pages = divergence_of("tq4", 1, NULL);
    assert_true(pages < .45 * rows);
    assert_true(pages < .02);
    assert_true(divergence_of("tq8", 1, NULL) < .02 * pages);
}

static void test_balances(void **state)
{
    (void)state;
    double rows = divergence_of("tq4", 0, NULL);
    set("TQKV_PAGES_FIT", balances);
    set("TQKV_PAGES_MEANS", "1");
    struct llama_context *c = open_context();
    feed(c, N_WINDOWS); /* other text than what is measured */
    feed(c, N_WINDOWS + 1);
    llama_free(c);
    set("TQKV_PAGES_FIT", NULL);
    assert_true(divergence_of("tq4", 1, balances) < .35 * rows);
}

/* ---- */

/* Weights as f16: products with quantised ones round what they multiply to 8 bits, and
 * that alone turns the least change of a cache into a divergence of .003. Nor are they packed
 * for the processor: its own kernels move the figures by a tenth. */
static struct llama_model *open_model(const char *path)
{
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    struct llama_model_params plain = llama_model_default_params();
    plain.use_extra_bufts = false;
    p.ftype = LLAMA_FTYPE_MOSTLY_F16;
    p.allow_requantize = true;
    p.nthread = 2;
    int file = mkstemp(weights);
    if (file < 0)
        return NULL;
    close(file);
    struct llama_model *m = NULL;
    if (!llama_model_quantize(path, weights, &p))
        m = llama_model_load_from_file(weights, plain);
    unlink(weights);
    return m;
}

static int load(void **state)
{
    (void)state;
    static char text[MAX_TEXT];
    FILE *in = fopen(getenv("TQKV_TEST_TEXT"), "rb");
    size_t size = in ? fread(text, 1, sizeof text, in) : 0;
    if (in)
        fclose(in);
    llama_log_set(silent, NULL);
    llama_backend_init();
    f.model = open_model(getenv("TQKV_TEST_MODEL"));
    int file = mkstemp(balances);
    if (!f.model || file < 0)
        return -1;
    close(file);
    const struct llama_vocab *vocab = llama_model_get_vocab(f.model);
    f.n_vocab = llama_vocab_n_tokens(vocab);
    if (llama_tokenize(vocab, text, (int32_t)size, f.tokens, MAX_TOKENS, true, false) <
        (N_WINDOWS + 2) * WINDOW)
        return -1;
    struct llama_context *c = open_context();
    for (int w = 0; w < N_WINDOWS; w++) {
        size_t bytes = (size_t)(WINDOW - SEEN) * (size_t)f.n_vocab * sizeof(float);
        const float *x = feed(c, w);
        f.exact[w] = malloc(bytes);
        memcpy(f.exact[w], x, bytes);
    }
    llama_free(c);
    return ggml_backend_load(getenv("TQKV_TEST_PAGES")) ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    for (int w = 0; w < N_WINDOWS; w++)
        free(f.exact[w]);
    llama_model_free(f.model);
    llama_backend_free();
    return unlink(balances);
}

int main(void)
{
    const char *model = getenv("TQKV_TEST_MODEL");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_backend_alone_changes_nothing),
                                       cmocka_unit_test(test_means),
                                       cmocka_unit_test(test_balances)};
    if (!model || access(model, R_OK)) {
        puts("skipped: TQKV_TEST_MODEL names no model that is there");
        return 77;
    }
    return cmocka_run_group_tests_name("pages in a model", tests, load, unload);
}

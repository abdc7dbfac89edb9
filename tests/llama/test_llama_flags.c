/*
 * Default flags and the others: every -fa with every pair of cache types, with
 * tqkv loaded, beside the same in a process without it. A cache that is not
 * tqkv's has to be as if it were not loaded: the same logits, the same lines in
 * the log, the same refusals.
 */
#include <llama.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tiny_model.h"

enum { PROMPT = 50, LOG_SIZE = 1 << 14 };

static const enum ggml_type types[] = {GGML_TYPE_F16, GGML_TYPE_Q4_0, GGML_TYPE_Q8_0};
static const enum llama_flash_attn_type attentions[] = {
    LLAMA_FLASH_ATTN_TYPE_AUTO, LLAMA_FLASH_ATTN_TYPE_ENABLED, LLAMA_FLASH_ATTN_TYPE_DISABLED};
static const tiny_model models[] = {{"llama", 64, 4, 2, 0, 0}, {"gemma2", 64, 4, 2, 0, 0}};

enum { TYPES = 3, ATTENTIONS = 3, MODELS = 2, CASES = MODELS * ATTENTIONS * TYPES * TYPES };

typedef struct flags {
    int model, attention, k, v;
} flags;

static flags flags_of(int i)
{
    return (flags){i / (TYPES * TYPES * ATTENTIONS), i / (TYPES * TYPES) % ATTENTIONS,
                   i / TYPES % TYPES, i % TYPES};
}

typedef struct outcome {
    int is_made, n_ours; /* n_ours: lines of tqkv's in the log */
    float logits[TINY_VOCAB];
    char log[LOG_SIZE]; /* of making the context, but for those lines */
} outcome;

/* ---- one case ---- */

static outcome *listening;

static int is_of_memory_or_time(const char *line)
{
    return strstr(line, " ms") || strstr(line, "0x");
}

static void listen(enum ggml_log_level level, const char *line, void *data)
{
    static int is_ours; /* whether a continued line is one of tqkv's */
    (void)data;
    if (level != GGML_LOG_LEVEL_CONT)
        is_ours = !strncmp(line, "tqkv", 4);
    if (!listening || level == GGML_LOG_LEVEL_DEBUG)
        return;
    size_t at = strlen(listening->log);
    if (is_ours)
        listening->n_ours++;
    else if (!is_of_memory_or_time(line) && at + strlen(line) < LOG_SIZE)
        strcpy(listening->log + at, line);
}

static struct llama_model *make_model(const tiny_model *m)
{
    char path[] = "/tmp/tqkv-flags-XXXXXX";
    int file = mkstemp(path);
    close(file);
    tiny_write(m, path);
    struct llama_model *model =
        llama_model_load_from_file(path, llama_model_default_params());
    unlink(path);
    return model;
}

static void try_flags(struct llama_model *m, flags f, outcome *o)
{
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = 256;
    p.n_threads = p.n_threads_batch = 2;
    p.type_k = types[f.k];
    p.type_v = types[f.v];
    p.flash_attn_type = attentions[f.attention];
    memset(o, 0, sizeof *o);
    listening = o;
    struct llama_context *c = llama_init_from_model(m, p);
    o->is_made = c != NULL;
    llama_token tokens[PROMPT];
    for (int i = 0; i < PROMPT; i++)
        tokens[i] = (llama_token)((unsigned)i * 2654435761u >> 7) % TINY_VOCAB;
    if (c && !llama_decode(c, llama_batch_get_one(tokens, PROMPT)))
        memcpy(o->logits, llama_get_logits_ith(c, -1), sizeof o->logits);
    listening = NULL;
    llama_free(c);
}

static void try_all(outcome *all)
{
    load_backends();
    llama_backend_init();
    llama_log_set(listen, NULL);
    for (int model = 0; model < MODELS; model++) {
        struct llama_model *m = make_model(&models[model]);
        for (int i = 0; i < CASES; i++)
            if (flags_of(i).model == model)
                try_flags(m, flags_of(i), &all[i]);
        llama_model_free(m);
    }
    llama_backend_free();
}

/* ---- beside a process without tqkv ---- */

static outcome *stock, *loaded;

static void print_case(int i)
{
    flags f = flags_of(i);
    print_message("%s -fa %s -ctk %s -ctv %s\n", models[f.model].architecture,
                  llama_flash_attn_type_name(attentions[f.attention]), ggml_type_name(types[f.k]),
                  ggml_type_name(types[f.v]));
}

static void test_made_alike(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        if (stock[i].is_made != loaded[i].is_made)
            print_case(i);
        assert_int_equal(stock[i].is_made, loaded[i].is_made);
    }
}

/* Nothing of ours: no cache of a type that tqkv takes, or no flash attention. */
static int is_ggmls(flags f)
{
    int is_f16 = types[f.k] == GGML_TYPE_F16 && types[f.v] == GGML_TYPE_F16;
    return is_f16 || attentions[f.attention] == LLAMA_FLASH_ATTN_TYPE_DISABLED;
}

static void test_invisible(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        if (!is_ggmls(flags_of(i)) || !stock[i].is_made)
            continue;
        print_case(i);
        assert_memory_equal(stock[i].logits, loaded[i].logits, sizeof stock[i].logits);
        assert_string_equal(stock[i].log, loaded[i].log);
        /* One warning where flags ask for a cache that tqkv would have taken. */
        assert_int_equal(loaded[i].n_ours, types[flags_of(i).k] != GGML_TYPE_F16);
        assert_int_equal(stock[i].n_ours, 0);
    }
}

static double distance(const float *exact, const float *x)
{
    double square = 0, size = 0;
    for (int i = 0; i < TINY_VOCAB; i++) {
        square += ((double)x[i] - exact[i]) * ((double)x[i] - exact[i]);
        size += (double)exact[i] * exact[i];
    }
    return sqrt(square / size);
}

/* The others: tqkv's rows, with one line that says so, and llama.cpp's log else. */
static void test_taken(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        flags f = flags_of(i);
        if (is_ggmls(f) || !stock[i].is_made)
            continue;
        int exact = i - f.k * TYPES - f.v;
        double theirs = distance(stock[exact].logits, stock[i].logits);
        double ours = distance(stock[exact].logits, loaded[i].logits);
        print_case(i);
        print_message("    from f16: llama.cpp %.4f, tqkv %.4f\n", theirs, ours);
        assert_memory_not_equal(stock[i].logits, loaded[i].logits, sizeof stock[i].logits);
        assert_true(ours < 1.5 * theirs);
        assert_string_equal(stock[i].log, loaded[i].log);
        assert_int_equal(loaded[i].n_ours, 1);
    }
}

/* ---- */

/* In a child, before this process has loaded anything. */
static int run_without_tqkv(void)
{
    int ends[2];
    if (pipe(ends))
        return -1;
    pid_t child = fork();
    if (child == 0) {
        unsetenv("GGML_BACKEND_PATH");
        try_all(stock);
        const uint8_t *at = (const uint8_t *)stock;
        size_t left = CASES * sizeof *stock;
        ssize_t n;
        while (left && (n = write(ends[1], at, left)) > 0)
            at += n, left -= (size_t)n;
        _exit(left != 0);
    }
    close(ends[1]);
    uint8_t *at = (uint8_t *)stock;
    size_t left = CASES * sizeof *stock;
    ssize_t n;
    while (left && (n = read(ends[0], at, left)) > 0)
        at += n, left -= (size_t)n;
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    return left || status ? -1 : 0;
}

static int run_both(void **state)
{
    (void)state;
    stock = calloc(CASES, sizeof *stock);
    loaded = calloc(CASES, sizeof *loaded);
    if (run_without_tqkv())
        return -1;
    try_all(loaded);
    return load_backends() ? 0 : -1;
}

static int free_both(void **state)
{
    (void)state;
    free(stock);
    free(loaded);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_made_alike),
                                       cmocka_unit_test(test_invisible),
                                       cmocka_unit_test(test_taken)};
    return cmocka_run_group_tests(tests, run_both, free_both);
}

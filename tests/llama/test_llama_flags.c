/*
 * Default flags and the others: every -fa with every pair of cache types, in three
 * processes: without tqkv, with it and nothing asked of it, and with TQKV_KV. A cache
 * that is not tqkv's has to be as if it were not loaded: the same logits, the same
 * lines in the log, the same refusals.
 */
#include <llama.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tiny_model.h"

enum { PROMPT = 130, LOG_SIZE = 1 << 14 };

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

/* Which names the memory that the cache is in. */
static int is_of_cache(const char *line)
{
    return strstr(line, "KV buffer size") != NULL;
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
    else if (!is_of_memory_or_time(line) && !is_of_cache(line) && at + strlen(line) < LOG_SIZE)
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

enum { STOCK, IDLE, ASKED, SIDES };
static outcome *sides[SIDES];

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
    for (int i = 0; i < CASES; i++)
        for (int side = IDLE; side < SIDES; side++) {
            if (sides[STOCK][i].is_made != sides[side][i].is_made)
                print_case(i);
            assert_int_equal(sides[STOCK][i].is_made, sides[side][i].is_made);
        }
}

static void assert_invisible(int side, int i)
{
    const outcome *stock = &sides[STOCK][i], *loaded = &sides[side][i];
    print_case(i);
    assert_memory_equal(stock->logits, loaded->logits, sizeof stock->logits);
    assert_string_equal(stock->log, loaded->log);
}

static void test_idle(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        assert_invisible(IDLE, i);
        assert_int_equal(sides[IDLE][i].n_ours + sides[STOCK][i].n_ours, 0);
    }
}

static int is_f16(flags f)
{
    return types[f.k] == GGML_TYPE_F16 && types[f.v] == GGML_TYPE_F16;
}

/* A type that the flags name, or no flash attention: llama.cpp's own, with a line that says
 * so. (That the cache would be tqkv's is said before attention is seen.) */
static void test_left(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        flags f = flags_of(i);
        int is_off = attentions[f.attention] == LLAMA_FLASH_ATTN_TYPE_DISABLED;
        if (!sides[STOCK][i].is_made || (is_f16(f) && !is_off))
            continue;
        assert_invisible(ASKED, i);
        assert_int_equal(sides[ASKED][i].n_ours, models[f.model].architecture[0] == 'g' ? 2 : 1);
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

/* The others: tqkv's pages, with one line for each cache that says so, and llama.cpp's log
 * else. */
static void test_taken(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        flags f = flags_of(i);
        if (!is_f16(f) || attentions[f.attention] == LLAMA_FLASH_ATTN_TYPE_DISABLED)
            continue;
        double q4_0 = distance(sides[STOCK][i].logits, sides[STOCK][i + TYPES + 1].logits);
        double ours = distance(sides[STOCK][i].logits, sides[ASKED][i].logits);
        print_case(i);
        print_message("    from f16: q4_0 %.4f, tq4 %.4f\n", q4_0, ours);
        assert_memory_not_equal(sides[STOCK][i].logits, sides[ASKED][i].logits,
                                sizeof sides[STOCK][i].logits);
        assert_true(ours < q4_0);
        assert_string_equal(sides[STOCK][i].log, sides[ASKED][i].log);
        assert_int_equal(sides[ASKED][i].n_ours, models[f.model].architecture[0] == 'g' ? 2 : 1);
    }
}

/* ---- */

/* In a child, before this process has loaded anything. */
static int run_side(int side)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (side == STOCK)
            unsetenv("GGML_BACKEND_PATH");
        if (side == ASKED)
            setenv("TQKV_KV", "tq4", 1);
        else
            unsetenv("TQKV_KV");
        try_all(sides[side]);
        _exit((ggml_backend_reg_by_name("tqkv") == NULL) != (side == STOCK));
    }
    int status;
    return child < 0 || waitpid(child, &status, 0) < 0 || status;
}

static int run_all(void **state)
{
    size_t bytes = SIDES * CASES * sizeof(outcome);
    outcome *all = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    (void)state;
    if (all == MAP_FAILED)
        return -1;
    for (int side = 0; side < SIDES; side++) {
        sides[side] = all + side * CASES;
        if (run_side(side))
            return -1;
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_alike), cmocka_unit_test(test_idle),
        cmocka_unit_test(test_left), cmocka_unit_test(test_taken)};
    return cmocka_run_group_tests(tests, run_all, NULL);
}

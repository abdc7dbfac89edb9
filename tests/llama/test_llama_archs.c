/*
 * Every architecture that llama.cpp can make with random weights: its answers on
 * tqkv's cache against those on llama.cpp's f16 cache, beside those on its own quantised
 * caches of about as many bits.
 *
 *     test_llama_archs [--verbose] [--flash=on|auto] [NAME...]
 *
 * A backend that is loaded stays, and llama.cpp may abort: so each case runs in two
 * processes, the one without tqkv and the one with it, which leave their logits in
 * memory that this one shares and compares. This one never uses ggml.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch_model.h"
#include "divergence.h"

enum {
    CONTEXT = 256, MAX_VOCAB = 10240, SECONDS = 60,
    /* What is decoded, one after the other, each in a cleared cache but for the last. */
    SINGLES = 16, SHORT = 20, STEPS = 20, LONG = 150, MORE = 4,
    POSITIONS = SINGLES + SHORT + STEPS + LONG + MORE, N_PARTS = 4
};

static const int part_sizes[N_PARTS] = {SINGLES, SHORT, STEPS, LONG + MORE};
static const char *const part_names[N_PARTS] = {"1 token", "20 tokens", "20 steps", "154 tokens"};

static const arch_shape shapes[] = {{64, 4, 2}, {128, 2, 1}, {96, 4, 4}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* ---- what the processes share ---- */

enum { F16, FOUR, EIGHT, N_CACHES };
enum { FLASH_ON, FLASH_AUTO, N_FLASH };
enum { ALONE, WITH_TQKV, N_SIDES };

static const enum ggml_type types[N_CACHES] = {GGML_TYPE_F16, GGML_TYPE_Q4_0, GGML_TYPE_Q8_0};
static const char *const formats[N_CACHES] = {"", "tq4", "tq8"};
static const char *const cache_names[N_CACHES] = {"f16", "tq4 (q4_0)", "tq8 (q8_0)"};
static const char *const flash_names[N_FLASH] = {"on", "auto"};

typedef enum run_status { NOT_RUN, NO_CONTEXT, NOT_DECODED, DONE } run_status;

typedef struct run {
    run_status status;
    char message[512]; /* the last errors that were logged */
    float logits[(size_t)POSITIONS * MAX_VOCAB];
} run;

typedef struct shared {
    int is_made, vocab;
    char message[512]; /* before there is a context */
    run runs[N_SIDES][N_FLASH][N_CACHES];
} shared;

static shared *both;
static char *message; /* where the child's log goes now */

/* ---- a child: one model, its contexts ---- */

static void note(const char *text)
{
    size_t n = strlen(message), room = sizeof both->message;
    snprintf(message + n, room - n, "%s%s", n ? " | " : "", text);
    for (char *at = message + n; *at; at++)
        *at = *at == '\n' ? ' ' : *at;
}

static void listen(enum ggml_log_level level, const char *text, void *data)
{
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR || (level == GGML_LOG_LEVEL_WARN && !strncmp(text, "tqkv", 4)))
        note(text);
}

static void fill(struct llama_batch *b, int from, int n, int vocab, int pos)
{
    b->n_tokens = n;
    for (int i = 0; i < n; i++) {
        b->token[i] = (llama_token)(((unsigned)(from + i) * 2654435761u >> 7) % (unsigned)vocab);
        b->pos[i] = pos + i;
        b->n_seq_id[i] = 1;
        b->seq_id[i][0] = 0;
        b->logits[i] = 1;
    }
}

static int decode(struct llama_context *c, struct llama_batch *b, int from, int n, int pos,
                  float *out)
{
    const struct llama_model *m = llama_get_model(c);
    fill(b, from, n, both->vocab, pos);
    if (llama_model_has_encoder(m) && pos == 0 && llama_encode(c, *b))
        return 0;
    if (llama_decode(c, *b))
        return 0;
    for (int i = 0; i < n; i++) {
        const float *x = llama_get_logits_ith(c, i);
        if (!x)
            return 0;
        memcpy(out + (size_t)i * (size_t)both->vocab, x, (size_t)both->vocab * sizeof *x);
    }
    return 1;
}

static void clear(struct llama_context *c)
{
    if (llama_get_memory(c))
        llama_memory_clear(llama_get_memory(c), true);
}

/* All parts; `at` counts the positions of all of them. */
static int decode_all(struct llama_context *c, float *out)
{
    struct llama_batch b = llama_batch_init(LONG, 0, 1);
    size_t row = (size_t)both->vocab;
    int ok = 1, at = 0;
    for (int i = 0; ok && i < SINGLES; i++, at++) {
        clear(c);
        ok = decode(c, &b, 300 + i, 1, 0, out + (size_t)at * row);
    }
    clear(c);
    ok = ok && decode(c, &b, 0, SHORT, 0, out + (size_t)at * row);
    at += SHORT;
    clear(c);
    for (int i = 0; ok && i < STEPS; i++, at++)
        ok = decode(c, &b, i, 1, i, out + (size_t)at * row);
    clear(c);
    ok = ok && decode(c, &b, 0, LONG, 0, out + (size_t)at * row);
    at += LONG;
    for (int i = 0; ok && i < MORE; i++, at++)
        ok = decode(c, &b, LONG + i, 1, LONG + i, out + (size_t)at * row);
    llama_batch_free(b);
    return ok;
}

static void run_one(struct llama_model *m, run *r, int side, int flash, int cache)
{
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = CONTEXT;
    p.n_batch = p.n_ubatch = CONTEXT;
    p.n_threads = p.n_threads_batch = 1; /* the models are small */
    if (side == ALONE)
        p.type_k = p.type_v = types[cache];
    else
        setenv("TQKV_KV", formats[cache], 1);
    p.flash_attn_type =
        flash == FLASH_ON ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_AUTO;
    message = r->message;
    r->status = NO_CONTEXT;
    struct llama_context *c = llama_init_from_model(m, p);
    if (!c)
        return;
    r->status = NOT_DECODED;
    if (decode_all(c, r->logits))
        r->status = DONE;
    llama_free(c);
}

static void load_backends(int side)
{
    const char *folder = getenv("TQKV_TEST_GGML");
    if (side == ALONE)
        unsetenv("GGML_BACKEND_PATH");
    if (folder)
        ggml_backend_load_all_from_path(folder);
    else
        ggml_backend_load_all();
    if ((ggml_backend_reg_by_name("tqkv") != NULL) != (side == WITH_TQKV)) {
        note(side == ALONE ? "tqkv is there without having been asked for"
                           : "tqkv is not loaded: GGML_BACKEND_PATH has to name it");
        _exit(1);
    }
}

static int n_caches_of(const arch_row *row, int side)
{
    return side == ALONE && row->flags & ARCH_F16_ONLY ? F16 + 1 : N_CACHES;
}

static void child(const arch_row *row, const arch_shape *shape, int side, const int *flashes)
{
    alarm(SECONDS);
    message = both->message;
    setenv("TQKV_KV", "tq4", 1);
    llama_log_set(listen, NULL);
    ggml_set_abort_callback(note);
    load_backends(side);
    struct llama_model *m = arch_model_make(row, shape);
    if (!m)
        _exit(0);
    both->is_made = 1;
    both->vocab = llama_vocab_n_tokens(llama_model_get_vocab(m));
    if (both->vocab < 1 || both->vocab > MAX_VOCAB)
        _exit(1);
    for (int f = 0; f < N_FLASH; f++)
        for (int c = 0; c < n_caches_of(row, side) && flashes[f]; c++)
            run_one(m, &both->runs[side][f][c], side, f, c);
    _exit(0);
}

/* ---- comparing ---- */

typedef struct options {
    int is_verbose, flashes[N_FLASH], n_names;
    char **names;
    const char *program;
} options;

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Mean over the positions of a part, or the median. */
static double summary(const float *exact, const float *x, int rows, int n, int is_median)
{
    double kls[POSITIONS], sum = 0;
    for (int r = 0; r < rows; r++)
        sum += kls[r] = divergence(exact + (size_t)r * (size_t)n, x + (size_t)r * (size_t)n, n);
    if (!is_median || !isfinite(sum))
        return sum / rows;
    qsort(kls, (size_t)rows, sizeof *kls, by_size);
    return kls[rows / 2];
}

static int are_same(const run *a, const run *b)
{
    return !memcmp(a->logits, b->logits,
                   (size_t)POSITIONS * (size_t)both->vocab * sizeof *a->logits);
}

static int are_finite(const run *r)
{
    for (size_t i = 0; i < (size_t)POSITIONS * (size_t)both->vocab; i++)
        if (!isfinite(r->logits[i]))
            return 0;
    return 1;
}

static const run *run_of(int side, int flash, int cache)
{
    return &both->runs[side][flash][cache];
}

/* What is wrong, and how to see it again. */
static int fail(const options *o, const arch_row *row, const arch_shape *s, const char *what,
                const char *why)
{
    static const char *const variables[] = {"GGML_BACKEND_PATH", "LD_LIBRARY_PATH",
                                            "TQKV_TEST_GGML"};
    printf("FAIL %s%s%s %ux%u/%u: %s%s%s\n     again:", row->name, row->variant ? " " : "",
           row->variant ? row->variant : "", s->head_dim, s->n_heads, s->n_kv_heads, what,
           why && *why ? ": " : "", why ? why : "");
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        if (getenv(variables[i]))
            printf(" %s=%s", variables[i], getenv(variables[i]));
    printf(" %s --verbose %s\n", o->program, row->name);
    return 1;
}

/* The bar for tqkv's divergence: twice llama.cpp's own, or thrice with q8_0. Values of
 * random models are normal, and there 8 bits with one scale a row leave more error than
 * 8 bits with a scale for each 32: about as much in the mean of all models, but 1.2 to
 * 1.8 times where there is one token, and now and then 2.5 times by chance. Below the
 * floor both are only the rounding of sums. */
static const double bars[N_CACHES] = {0, 2, 3}, floor_of_noise = 1e-6;

/* Answers that have nothing in common diverge by about 1. Where llama.cpp's own come
 * near to that, tqkv's could be anything. */
static const double most_seen[N_CACHES] = {0, .4, .05};

static int compare_cache(const options *o, const arch_row *row, const arch_shape *s, int flash,
                         int cache)
{
    const run *exact = run_of(ALONE, FLASH_ON, F16), *own = run_of(ALONE, FLASH_ON, cache);
    const run *ours = run_of(WITH_TQKV, flash, cache);
    int n = both->vocab;
    size_t at = 0;
    double worst = 0;
    char text[256], worst_text[256] = "";
    int failures = 0;
    for (int p = 0; p < N_PARTS; at += (size_t)part_sizes[p++] * (size_t)n) {
        int is_rough = (row->flags & ARCH_ROUGH) != 0;
        double a = summary(exact->logits + at, own->logits + at, part_sizes[p], n, is_rough);
        double b = summary(exact->logits + at, ours->logits + at, part_sizes[p], n, is_rough);
        if (!(a < most_seen[cache]))
            failures += fail(o, row, s, "of so rough a model no error is seen", NULL);
        double excess = b / (bars[cache] * a + floor_of_noise);
        snprintf(text, sizeof text, "%s, flash attention %s, %s: KL %.2e, llama.cpp's own %.2e",
                 cache_names[cache], flash_names[flash], part_names[p], b, a);
        if (o->is_verbose)
            printf("     %-16s %3ux%u/%u %s\n", row->name, s->head_dim, s->n_heads,
                   s->n_kv_heads, text);
        if (!(excess <= worst)) {
            worst = excess;
            memcpy(worst_text, text, sizeof text);
        }
    }
    return failures + (worst <= 1 ? 0 : fail(o, row, s, worst_text, NULL));
}

static int is_left(const run *r)
{
    return strstr(r->message, "in f16: ") != NULL;
}

static arch_fate fate_of_case(const arch_row *row)
{
    const run *exact = run_of(ALONE, FLASH_ON, F16);
    if (exact->status != DONE || !are_finite(exact))
        return ARCH_UNMADE;
    for (int f = 0; f < N_FLASH; f++) {
        const run *ours = run_of(WITH_TQKV, f, FOUR);
        if (ours->status == NOT_RUN)
            continue;
        if (is_left(ours))
            return ARCH_LEFT_BY_TQKV;
        return ours->status == DONE && are_same(exact, ours) ? ARCH_NO_CACHE : ARCH_COMPARED;
    }
    return row->fate;
}

static const char *const fate_names[] = {"is compared", "has no cache", "is not made",
                                         "stays in f16"};

static const char *why_not(const run *r)
{
    return r->message[0] ? r->message : both->message;
}

static int compare_flash(const options *o, const arch_row *row, const arch_shape *s, int flash)
{
    char text[64];
    int failures = 0;
    const run *f16 = run_of(WITH_TQKV, flash, F16);
    if (f16->status != DONE)
        failures += fail(o, row, s, "no f16 cache with tqkv loaded", why_not(f16));
    else if (!are_same(run_of(ALONE, flash, F16), f16)) {
        snprintf(text, sizeof text, "f16, flash attention %s: tqkv changes bits",
                 flash_names[flash]);
        failures += fail(o, row, s, text, NULL);
    }
    for (int c = FOUR; c < N_CACHES; c++) {
        const run *r = run_of(WITH_TQKV, flash, c);
        snprintf(text, sizeof text, "%s, flash attention %s: no %s", cache_names[c],
                 flash_names[flash], r->status == NO_CONTEXT ? "context" : "logits");
        if (r->status != DONE)
            failures += fail(o, row, s, text, why_not(r));
        else if (row->fate == ARCH_NO_CACHE && !are_same(f16, r))
            failures += fail(o, row, s, "another answer without a cache", NULL);
        else if (row->fate == ARCH_LEFT_BY_TQKV && !strstr(r->message, row->reason))
            failures += fail(o, row, s, "in f16 for another reason", why_not(r));
        else if (row->fate == ARCH_COMPARED || row->flags & ARCH_LEFT_IN_PART)
            failures += compare_cache(o, row, s, flash, c);
        else if (row->fate == ARCH_LEFT_BY_TQKV && !are_same(run_of(ALONE, flash, F16), r))
            failures += fail(o, row, s, "not as llama.cpp's f16", why_not(r));
    }
    return failures;
}

/* ---- the sweep ---- */

static void run_side(const arch_row *row, const arch_shape *s, int side, const int *flashes)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (!getenv("TQKV_TEST_STDERR") && !freopen("/dev/null", "w", stderr))
            _exit(1);
        child(row, s, side, flashes);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return;
    if (WIFSIGNALED(status)) {
        char text[64];
        message = both->message;
        snprintf(text, sizeof text, "signal %d", WTERMSIG(status));
        note(text);
    }
}

static int sweep_case(const options *o, const arch_row *row, const arch_shape *s)
{
    /* `auto` is another path of deciding and the same path of computing: one shape. */
    const int flashes[N_FLASH] = {o->flashes[FLASH_ON],
                                  o->flashes[FLASH_AUTO] && s == shapes};
    const int alone[N_FLASH] = {1, flashes[FLASH_AUTO]};
    if (madvise(both, sizeof *both, MADV_REMOVE))
        memset(both, 0, sizeof *both);
    run_side(row, s, ALONE, alone);
    if (both->is_made && run_of(ALONE, FLASH_ON, F16)->status == DONE)
        run_side(row, s, WITH_TQKV, flashes);
    arch_fate fate = fate_of_case(row);
    if (o->is_verbose)
        printf("     %-16s %3ux%u/%u %s %s\n", row->name, s->head_dim, s->n_heads, s->n_kv_heads,
               fate_names[fate], fate == ARCH_UNMADE ? why_not(run_of(ALONE, FLASH_ON, F16)) : "");
    if (fate != row->fate && (row->fate == ARCH_UNMADE || fate == ARCH_UNMADE))
        return fail(o, row, s, fate_names[fate], why_not(run_of(ALONE, FLASH_ON, F16)));
    if (fate != row->fate)
        return fail(o, row, s, fate_names[fate],
                    why_not(run_of(WITH_TQKV, flashes[FLASH_ON] ? FLASH_ON : FLASH_AUTO, FOUR)));
    int failures = 0;
    for (int f = 0; f < N_FLASH && fate != ARCH_UNMADE; f++)
        if (flashes[f])
            failures += compare_flash(o, row, s, f);
    return failures;
}

static int is_wanted(const options *o, const char *name)
{
    for (int i = 0; i < o->n_names; i++)
        if (!strcmp(o->names[i], name))
            return 1;
    return !o->n_names;
}

static int is_known(const char *name, size_t n)
{
    for (size_t i = 0; i < arch_n_rows; i++)
        if (strlen(arch_rows[i].name) == n && !strncmp(arch_rows[i].name, name, n))
            return 1;
    return 0;
}

/* The names that llama.cpp's source lists are all in the table: `{ LLM_ARCH_X, "x" },`. */
static int check_names(void)
{
    const char *path = getenv("TQKV_TEST_ARCHS");
    FILE *f = path ? fopen(path, "r") : NULL;
    char line[512];
    int failures = 0, found = 0;
    while (f && fgets(line, sizeof line, f)) {
        const char *at = strstr(line, "{ LLM_ARCH_"), *from = at ? strchr(at, '"') : NULL;
        size_t n = from ? strcspn(from + 1, "\"") : 0;
        if (!n || from[1] == '(')
            continue;
        found++;
        if (!is_known(from + 1, n)) {
            printf("FAIL %.*s: not in our list\n", (int)n, from + 1);
            failures++;
        }
    }
    if (f)
        fclose(f);
    if (path && !found) {
        printf("FAIL %s: no names of architectures\n", path);
        failures++;
    }
    return failures;
}

static int parse(options *o, int argc, char **argv)
{
    int i = 1;
    *o = (options){.flashes = {1, 1}, .program = argv[0]};
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (!strcmp(argv[i], "--verbose"))
            o->is_verbose = 1;
        else if (!strcmp(argv[i], "--flash=on"))
            o->flashes[FLASH_AUTO] = 0;
        else if (!strcmp(argv[i], "--flash=auto"))
            o->flashes[FLASH_ON] = 0;
        else
            return 0;
    }
    o->names = argv + i;
    o->n_names = argc - i;
    return 1;
}

int main(int argc, char **argv)
{
    options o;
    int counts[4] = {0}, failures = check_names(), failed = 0;
    if (!parse(&o, argc, argv)) {
        fprintf(stderr, "usage: %s [--verbose] [--flash=on|auto] [NAME...]\n", argv[0]);
        return 2;
    }
    setenv("GGML_NO_BACKTRACE", "1", 1); /* a debugger for each refusal takes long */
    both = mmap(NULL, sizeof *both, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (both == MAP_FAILED)
        return 2;
    for (int i = 0; i < o.n_names; i++)
        if (!is_known(o.names[i], strlen(o.names[i]))) {
            printf("FAIL %s: not in our list\n", o.names[i]);
            failures++;
        }
    for (size_t i = 0; i < arch_n_rows; i++) {
        const arch_row *row = &arch_rows[i];
        int n = row->flags & ARCH_FIRST_SHAPE_ONLY ? 1 : N_SHAPES, of_row = 0;
        if (!is_wanted(&o, row->name))
            continue;
        for (int s = 0; s < n; s++)
            of_row += sweep_case(&o, row, &shapes[s]);
        counts[row->fate] += !row->variant;
        failed += of_row > 0;
        failures += of_row;
    }
    printf("%d architectures compared, %d without a cache, %d cannot be made, %d left in f16; "
           "%d failed\n",
           counts[ARCH_COMPARED], counts[ARCH_NO_CACHE], counts[ARCH_UNMADE],
           counts[ARCH_LEFT_BY_TQKV], failed);
    return failures ? 1 : 0;
}

/*
 * Checks every kernel of every instruction set that this processor has against
 * the scalar table (byte for byte where kernels are exact) on random and
 * adversarial input, with guard bytes around outputs, in the manner of dav1d's
 * checkasm; or times them.
 *
 *   harness [--seed N] [--rounds N] [--isa NAME] [--kernel NAME] [--bench]
 *
 * A failure prints the kernel, the format and the seed that repeats it.
 */
#include "harness.h"

#include <time.h>

enum { GUARD = 64, GUARD_BYTE = 0xA5 };

uint64_t random_state = 1;

uint64_t next_random(void)
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

float gaussian(void)
{
    double u = ((double)(next_random() >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(next_random() >> 11) + 0.5) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

void random_bytes(void *out, size_t n)
{
    uint8_t *p = out;
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(next_random() >> 32);
}

guarded guarded_new(size_t size, size_t align)
{
    guarded g = {.memory = malloc(size + 4 * GUARD), .size = size};
    if (!g.memory)
        exit(2);
    memset(g.memory, GUARD_BYTE, size + 4 * GUARD);
    g.data = g.memory + GUARD + next_random() % (GUARD / align) * align;
    return g;
}

int guarded_check(const guarded *g)
{
    for (const uint8_t *p = g->memory; p < g->memory + g->size + 4 * GUARD; p++)
        if ((p < g->data || p >= g->data + g->size) && *p != GUARD_BYTE)
            return 0;
    return 1;
}

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int near(double got, double expected, double bound)
{
    return fabs(got - expected) <= bound;
}

int harness_runs(const harness_options *o, uint32_t needs, const char *name)
{
    if (!(needs & ~tqkv_cpu_features()) && (!o->isa || !strcmp(o->isa, name)))
        return 1;
    printf("%-12s not run\n", name);
    return 0;
}

int harness_wants(const harness_options *o, const char *kernel)
{
    return !o->kernel || !strcmp(o->kernel, kernel);
}

void harness_count(harness_counts *c, int ok, const char *isa, const char *kernel,
                   const char *format, unsigned head_dim, uint64_t seed)
{
    c->passed += !!ok;
    c->failed += !ok;
    if (!ok)
        printf("%s: %s differs, %s, head_dim %u, seed %llu\n", isa, kernel, format, head_dim,
               (unsigned long long)seed);
}

int main(int argc, char **argv)
{
    harness_options o = {.seed = 1, .rounds = 3};
    harness_counts c = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench"))
            o.timing = 1;
        else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
            o.seed = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--rounds"))
            o.rounds = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--isa"))
            o.isa = argv[++i];
        else if (i + 1 < argc && !strcmp(argv[i], "--kernel"))
            o.kernel = argv[++i];
        else {
            fprintf(stderr, "usage: harness [--seed N] [--rounds N] [--isa NAME] "
                            "[--kernel NAME] [--bench]\n");
            return 2;
        }
    }
    harness_codec(&o, &c);
    harness_attend(&o, &c);
    harness_plain(&o, &c);
    if (!o.timing)
        printf("%lu passed, %lu failed\n", c.passed, c.failed);
    return c.failed != 0;
}

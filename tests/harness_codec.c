/* The codec's kernels: all are exact. */
#include "codec/kernels.h"
#include "format/mlx.h"
#include "harness.h"

/* Rows that have broken codecs before: one spike, all equal, alternating,
 * zeros, subnormals, huge, scales over 6 orders of magnitude. */
static void random_row(float *x, unsigned n)
{
    unsigned kind = (unsigned)(next_random() % 10);
    float size = exp2f((float)(next_random() % 40) - 20.0f);
    for (unsigned i = 0; i < n; i++) {
        float g = gaussian();
        switch (kind) {
        case 0:
            x[i] = i == (unsigned)(next_random() % n) ? 1e4f * size : 1e-4f * g;
            break;
        case 1:
            x[i] = size;
            break;
        case 2:
            x[i] = i % 2 ? -size : size;
            break;
        case 3:
            x[i] = 0;
            break;
        case 4:
            x[i] = g * 0x1p-140f;
            break;
        case 5:
            x[i] = g * 0x1p38f;
            break;
        case 6:
            x[i] = g * exp2f((float)(next_random() % 20) - 10.0f);
            break;
        case 7:
            x[i] = (float)(int)(next_random() % 9) - 4.0f;
            break;
        default:
            x[i] = g * size;
        }
    }
}

/* ---- one case ---- */

typedef struct input {
    tqkv_format format;
    unsigned n;
    stream_plan stream;
    trellis_plan trellis;
    rotation rotation;
    const lloyd_code *lloyd;
    unsigned mlx_bits;
    const float *codebook;
    float x[MAX_DIM], norms[4], factor;
    int8_t levels[MAX_DIM], index[MAX_DIM];
    int16_t targets[MAX_DIM];
    uint8_t codes[MAX_DIM];
    int transposed;
} input;

/* Output of a kernel; its size and alignment. */
typedef struct output_shape {
    size_t size, align;
} output_shape;

typedef struct check {
    const char *name;
    output_shape (*shape)(const input *in);
    void (*run)(const codec_kernels *k, const input *in, void *out);
    int (*applies)(const input *in);
} check;

static int is_trellis(const input *in)
{
    return in->format.codebook == TQKV_CODEBOOK_TRELLIS;
}

static int has_search(const input *in)
{
    return is_trellis(in) && in->format.bits < 8;
}

static int is_lloyd(const input *in)
{
    return in->lloyd != NULL;
}

static int is_mlx(const input *in)
{
    return in->codebook != NULL;
}

static int is_stream(const input *in)
{
    return !is_mlx(in);
}

static int always(const input *in)
{
    (void)in;
    return 1;
}

static output_shape floats(const input *in)
{
    return (output_shape){in->n * sizeof(float), sizeof(float)};
}

static output_shape bytes(const input *in)
{
    return (output_shape){in->n, 1};
}

static output_shape half_bytes(const input *in)
{
    return (output_shape){in->n / 2, 1};
}

static output_shape sums_and_bytes(const input *in)
{
    return (output_shape){2 * sizeof(int32_t) + in->n, sizeof(int32_t)};
}

static output_shape words(const input *in)
{
    return (output_shape){in->n * sizeof(int16_t), sizeof(int16_t)};
}

static output_shape two_floats(const input *in)
{
    (void)in;
    return (output_shape){2 * sizeof(float), sizeof(float)};
}

static output_shape mlx_row(const input *in)
{
    size_t codes = in->mlx_bits == 4 ? in->n / 2 : in->n;
    return (output_shape){(in->n > 256 ? in->n / 256 : 1) * sizeof(float) + codes,
                          sizeof(float)};
}

static void run_hadamard(const codec_kernels *k, const input *in, void *out)
{
    memcpy(out, in->x, in->n * sizeof(float));
    k->hadamard(out, &in->rotation, in->transposed, in->factor);
}

static void run_moments(const codec_kernels *k, const input *in, void *out)
{
    float *o = out;
    k->moments(in->x, in->n, o, o + 1);
}

static void run_quantize(const codec_kernels *k, const input *in, void *out)
{
    float square, peak;
    k->moments(in->x, in->n, &square, &peak);
    k->quantize(in->x, in->n, peak > 1e-30f ? 400 / peak : 1, TARGET_LIMIT, out);
}

static void run_viterbi(const codec_kernels *k, const input *in, void *out)
{
    static uint8_t survivors[SURVIVOR_BYTES];
    k->viterbi(&in->trellis, in->targets, out, survivors);
}

static void run_levels(const codec_kernels *k, const input *in, void *out)
{
    k->levels(in->codes, &in->stream, out);
}

static void run_scale_levels(const codec_kernels *k, const input *in, void *out)
{
    k->scale_levels(in->levels, in->n, in->factor, out);
}

static void run_project_levels(const codec_kernels *k, const input *in, void *out)
{
    float *o = out;
    int32_t ll;
    k->project_levels(in->x, in->levels, in->n, o, &ll);
    memcpy(o + 1, &ll, sizeof ll);
}

static void run_lloyd_index(const codec_kernels *k, const input *in, void *out)
{
    float square, peak;
    int32_t *sums = out;
    k->moments(in->x, in->n, &square, &peak);
    float root = sqrtf(square / (float)in->n);
    k->lloyd_index(in->x, in->n, root > 1e-15f ? LLOYD_UNIT / root : 1, in->lloyd,
                   (uint8_t *)(sums + 2), sums, sums + 1);
}

static void run_pack_nibbles(const codec_kernels *k, const input *in, void *out)
{
    k->pack_nibbles((const uint8_t *)in->levels, in->n, out);
}

static void run_lloyd_values(const codec_kernels *k, const input *in, void *out)
{
    k->lloyd_values(in->index, in->n, in->lloyd, in->factor, out);
}

static void run_mlx_encode(const codec_kernels *k, const input *in, void *out)
{
    float *norms = out;
    unsigned n_norms = in->n > 256 ? in->n / 256 : 1;
    k->mlx_encode(in->x, in->n, in->mlx_bits, in->codebook, (uint8_t *)(norms + n_norms),
                  norms);
}

static void run_mlx_decode(const codec_kernels *k, const input *in, void *out)
{
    k->mlx_decode(in->codes, in->norms, in->n, in->mlx_bits, in->codebook, in->factor, out);
}

static const check checks[] = {
    {"hadamard", floats, run_hadamard, always},
    {"moments", two_floats, run_moments, always},
    {"quantize", words, run_quantize, is_stream},
    {"viterbi", bytes, run_viterbi, has_search},
    {"levels", bytes, run_levels, is_stream},
    {"scale_levels", floats, run_scale_levels, is_trellis},
    {"project_levels", two_floats, run_project_levels, is_trellis},
    {"lloyd_index", sums_and_bytes, run_lloyd_index, is_lloyd},
    {"pack_nibbles", half_bytes, run_pack_nibbles, is_lloyd},
    {"lloyd_values", floats, run_lloyd_values, is_lloyd},
    {"mlx_encode", mlx_row, run_mlx_encode, is_mlx},
    {"mlx_decode", floats, run_mlx_decode, is_mlx},
};
enum { N_CHECKS = sizeof checks / sizeof *checks };

/* Targets that a real row gives, or extremes in random places. */
static void random_targets(input *in)
{
    int extreme = next_random() % 4 == 0;
    for (unsigned i = 0; i < in->n; i++) {
        float t = rintf(gaussian() * 74);
        if (extreme)
            t = next_random() & 1 ? TARGET_LIMIT : -TARGET_LIMIT;
        t = t > TARGET_LIMIT ? TARGET_LIMIT : t < -TARGET_LIMIT ? -TARGET_LIMIT : t;
        in->targets[i] = (int16_t)t;
    }
}

static void fill_input(input *in, const char *format, unsigned head_dim)
{
    memset(in, 0, sizeof *in);
    if (tqkv_format_parse(format, head_dim, &in->format) != TQKV_OK)
        exit(2);
    in->n = head_dim;
    rotation_init(&in->rotation, head_dim, TQKV_ROTATION_HADAMARD);
    if (in->format.codebook != TQKV_CODEBOOK_MLX)
        stream_plan_init(&in->stream, &in->format);
    if (is_trellis(in))
        trellis_plan_init(&in->trellis, &in->format);
    if (in->format.codebook == TQKV_CODEBOOK_LLOYD_MAX)
        in->lloyd = lloyd_code_of(in->format.bits);
    if (in->format.codebook == TQKV_CODEBOOK_MLX) {
        in->mlx_bits = in->format.bits;
        in->codebook = mlx_codebook(in->mlx_bits);
    }
    random_row(in->x, head_dim);
    for (unsigned i = 0; i < 4; i++)
        in->norms[i] = fabsf(gaussian());
    random_bytes(in->levels, sizeof in->levels);
    random_bytes(in->codes, sizeof in->codes);
    for (unsigned i = 0; in->lloyd && i < head_dim; i++)
        in->index[i] = (int8_t)(next_random() & ((1u << in->lloyd->bits) - 1));
    random_targets(in);
    in->transposed = (int)(next_random() & 1);
    in->factor = next_random() & 1 ? 1 : gaussian();
}

/* 1: equal to scalar and inside its output. */
static int run_check(const check *c, const codec_kernels *k, const input *in)
{
    output_shape shape = c->shape(in);
    guarded expected = guarded_new(shape.size, shape.align);
    guarded got = guarded_new(shape.size, shape.align);
    c->run(&codec_scalar, in, expected.data);
    c->run(k, in, got.data);
    int ok = !memcmp(expected.data, got.data, shape.size) && guarded_check(&got) &&
             guarded_check(&expected);
    free(expected.memory);
    free(got.memory);
    return ok;
}

static const char *const formats[] = {
    "tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8",
    "lm2", "lm3", "lm4", "mlx4", "mlx5", "mlx6", "mlx8"};
enum { N_FORMATS = sizeof formats / sizeof *formats };
static const unsigned dims[] = {16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 256,
                                288, 320, 448, 512, 576, 640, 768, 896, 1024};
enum { N_DIMS = sizeof dims / sizeof *dims };

/* ---- timing ---- */

static double time_check(const check *c, const codec_kernels *k, const input *in, void *out)
{
    double best = 1e30;
    for (int batch = 0; batch < 20; batch++) {
        double start = now();
        for (int i = 0; i < 64; i++)
            c->run(k, in, out);
        double taken = (now() - start) / 64;
        best = taken < best ? taken : best;
    }
    return best * 1e9;
}

static void bench(const char *kernel)
{
    static const char *const timed[] = {"tq2", "tq3", "tq4", "tq6", "lm4", "mlx4"};
    static uint8_t out[2 * MAX_DIM * sizeof(float)];
    input in;
    printf("%-15s %-7s", "kernel, d = 128", "format");
    for (unsigned i = 0; i < codec_n_isas; i++)
        if (!(codec_isas[i].needs & ~tqkv_cpu_features()))
            printf(" %12s", codec_isas[i].kernels->name);
    puts("  (ns, and times faster than scalar)");
    for (int c = 0; c < N_CHECKS; c++)
        for (unsigned f = 0; f < sizeof timed / sizeof *timed; f++) {
            random_state = 9;
            fill_input(&in, timed[f], 128);
            for (unsigned i = 0; i < in.n; i++)
                in.x[i] = gaussian();
            if (!checks[c].applies(&in) || (kernel && strcmp(kernel, checks[c].name)))
                continue;
            double scalar = time_check(&checks[c], &codec_scalar, &in, out);
            printf("%-15s %-7s %12.1f", checks[c].name, timed[f], scalar);
            for (unsigned i = 1; i < codec_n_isas; i++)
                if (!(codec_isas[i].needs & ~tqkv_cpu_features())) {
                    double t = time_check(&checks[c], codec_isas[i].kernels, &in, out);
                    printf(" %6.1f %4.1fx", t, scalar / t);
                }
            puts("");
        }
}

void harness_codec(const harness_options *o, harness_counts *count)
{
    if (o->timing) {
        bench(o->kernel);
        return;
    }
    for (unsigned t = 0; t < codec_n_isas; t++) {
        const codec_kernels *k = codec_isas[t].kernels;
        unsigned long before = count->passed;
        if (!harness_runs(o, codec_isas[t].needs, k->name))
            continue;
        for (uint64_t round = 0; round < o->rounds; round++)
            for (unsigned f = 0; f < N_FORMATS; f++)
                for (unsigned d = 0; d < N_DIMS; d++) {
                    input in;
                    if (!strncmp(formats[f], "mlx", 3) && (dims[d] & (dims[d] - 1)))
                        continue;
                    uint64_t seed = random_state = o->seed + round * 1000003 + f * 1009 + d;
                    fill_input(&in, formats[f], dims[d]);
                    for (int c = 0; c < N_CHECKS; c++)
                        if (checks[c].applies(&in) &&
                            (!o->kernel || !strcmp(o->kernel, checks[c].name)))
                            harness_count(count, run_check(&checks[c], k, &in), k->name,
                                          checks[c].name, formats[f], dims[d], seed);
                }
        printf("%-12s %lu checks of the codec\n", k->name, count->passed - before);
    }
}

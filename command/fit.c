#include "fit.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "output.h"

static const char help[] =
    "usage: tqkv fit [OPTION]... DIR OUT.profile\n"
    "       tqkv fit [OPTION]... Q.npy K.npy V.npy OUT.profile\n"
    "\n"
    "Fits a profile of keys - for each layer and KV head a balance - to captured keys and\n"
    "queries, as the cache sees them (DIR: q.npy, k.npy, v.npy). The balance is for keys in\n"
    "pages: it is fitted to what the mean of 64 consecutive keys leaves of them.\n"
    "\n"
    "  -t, --tokens N        use only the first N tokens\n"
    "      --no-means        fit to the keys themselves, for rows without means\n"
    "      --fingerprint T   text that says which model this is for\n"
    "      --bf16            uint16 in the arrays is bfloat16\n"
    "  -h, --help            this text\n";

/* The queries of one KV head's group, one after the other. */
static void gather_queries(const capture *c, uint64_t layer, uint32_t kv_head,
                           uint64_t n_tokens, float *queries)
{
    size_t group = (size_t)c->group * c->head_dim;
    for (uint64_t t = 0; t < n_tokens; t++)
        memcpy(queries + t * group,
               c->queries + ((layer * c->n_tokens + t) * c->n_heads) * c->head_dim +
                   kv_head * group,
               group * sizeof *queries);
}

/* One head. */
static tqkv_status fit_head(const capture *c, uint64_t layer, uint32_t head, uint64_t n_tokens,
                            int has_means, float *queries, tqkv_profile *profile)
{
    const float *keys = c->keys + (layer * c->n_tokens * c->n_kv_heads + head) * c->head_dim;
    size_t stride = (size_t)c->n_kv_heads * c->head_dim, n_queries = n_tokens * c->group;
    gather_queries(c, layer, head, n_tokens, queries);
    return tqkv_profile_fit(profile, (uint32_t)layer, head, has_means, keys, n_tokens, stride,
                            queries, n_queries, 0);
}

int fit_profile(const capture *c, uint64_t n_tokens, int has_means, tqkv_profile *profile)
{
    float *queries = allocate((size_t)n_tokens * c->group, c->head_dim * sizeof *queries);
    int ok = queries != NULL;
    for (uint64_t layer = 0; ok && layer < c->n_layers; layer++)
        for (uint32_t h = 0; ok && h < c->n_kv_heads; h++) {
            progress("fitting the profile", layer * c->n_kv_heads + h,
                     c->n_layers * c->n_kv_heads);
            tqkv_status status = fit_head(c, layer, h, n_tokens, has_means, queries, profile);
            if (status != TQKV_OK)
                ok = !failed("layer %u, head %u: fitting failed: %s", (unsigned)layer,
                             (unsigned)h, tqkv_status_string(status));
        }
    progress_end();
    free(queries);
    return ok;
}

typedef struct options {
    uint64_t tokens;
    const char *fingerprint;
    int bf16, no_means;
} options;

static int write_profile(const tqkv_profile *profile, const char *path)
{
    output out;
    size_t size;
    tqkv_profile_size(profile, &size);
    void *data = allocate(size, 1);
    int ok = data && output_open(&out, path);
    if (ok) {
        tqkv_profile_write(profile, data, size);
        output_write(&out, data, size); /* a failure shows at commit */
        ok = output_commit(&out);
    }
    free(data);
    return ok;
}

static int run(const options *o, char **paths, int n_paths, const char *out)
{
    capture c;
    tqkv_profile *profile = NULL;
    int ok = capture_load(&c, paths, n_paths, o->bf16);
    if (ok) {
        uint64_t tokens = o->tokens && o->tokens < c.n_tokens ? o->tokens : c.n_tokens;
        tqkv_status status =
            tqkv_profile_create((uint32_t)c.n_layers, c.n_kv_heads, c.head_dim, o->fingerprint,
                                &profile);
        ok = status == TQKV_OK ? fit_profile(&c, tokens, !o->no_means, profile)
                               : !failed("head_dim %u: %s", (unsigned)c.head_dim,
                                         tqkv_status_string(status));
    }
    ok = ok && write_profile(profile, out);
    tqkv_profile_free(profile);
    capture_free(&c);
    return ok ? EXIT_OK : EXIT_FAILED;
}

int command_fit(int argc, char **argv)
{
    static const struct option names[] = {
        {"tokens", required_argument, NULL, 't'}, {"no-means", no_argument, NULL, 'n'},
        {"fingerprint", required_argument, NULL, 'F'},
        {"bf16", no_argument, NULL, 'b'}, {"help", no_argument, NULL, 'h'}, {0}};
    options o = {0};
    int option, ok = 1;
    while (ok && (option = getopt_long(argc, argv, "t:h", names, NULL)) != -1) {
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return EXIT_OK;
        case 't':
            ok = parse_number(optarg, UINT64_MAX, &o.tokens) && o.tokens;
            break;
        case 'n':
            o.no_means = 1;
            break;
        case 'F':
            ok = strlen(optarg) <= TQKV_MAX_FINGERPRINT;
            o.fingerprint = optarg;
            break;
        case 'b':
            o.bf16 = 1;
            break;
        default:
            return misused_option("fit", argv);
        }
    }
    if (!ok)
        return misused("'%s' is outside its option's range; see 'tqkv fit --help'", optarg);
    int n_paths = argc - optind - 1;
    if (n_paths != 1 && n_paths != 3)
        return misused("fit takes DIR or Q.npy K.npy V.npy, then OUT; see 'tqkv fit --help'");
    return run(&o, argv + optind, n_paths, argv[argc - 1]);
}

/*
 * What pages (tqkv_page.h) do to a model: a backend for ggml that stores rows into
 * llama.cpp's f16 cache, once they have been sealed and read back. Any tool of llama.cpp that
 * loads it measures a format, at none of its speed and in none of its memory.
 *
 * The rows of a batch are cut, for each KV head, into runs of 64, the last of which may be
 * shorter, and each run is a page. Batches should begin at multiples of 64 positions and be of
 * one sequence: llama-perplexity with as large a batch as its windows. No row stays staged,
 * so that attention sees every row through its codes, those of its own batch too.
 *
 * Of the environment, read when a context is made:
 *
 *   TQKV_PAGES_KEYS, _VALUES   formats' names; unset: these rows stay as they are
 *   TQKV_PAGES_MEANS           0: pages without means, that is rows alone (default 1)
 *   TQKV_PAGES_HEAD_DIM        values of a head, which a cache does not tell (default 64)
 *   TQKV_PAGES_BALANCE         profile whose balances stretch the keys
 *   TQKV_PAGES_FIT             profile to write, when the context ends: balances fitted by
 *                              tqkv_profile_fit, for pages with as many means, to the
 *                              first 4096 keys of each head and to all its queries. Rows
 *                              stay as they are.
 */
#include <ggml-backend.h>
#include <ggml-backend-impl.h>
#include <ggml.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tqkv_page.h>

#define NAME "pages"

enum { PAGE = TQKV_PAGE_TOKENS, MAX_DIM = 256, MAX_LAYERS = 256, FIT_TOKENS = 4096 };

/* What balances are fitted to. */
typedef struct layer {
    uint32_t n_heads;
    size_t n_keys;
    float *keys;     /* [n_heads][FIT_TOKENS][head_dim] */
    double *squares; /* [n_heads][head_dim], of queries */
    double n_queries;
} layer;

typedef struct pages {
    uint32_t head_dim, n_means;
    int is_coded[2]; /* values, keys */
    tqkv_format formats[2];
    tqkv_profile *balances; /* may be null */
    char *fit;              /* path, or null */
    ggml_backend_t cpu;     /* computes attention while balances are fitted */
    layer layers[MAX_LAYERS];
} pages;

static int failed(const char *what, const char *why)
{
    fprintf(stderr, NAME ": %s: %s\n", what, why);
    return 0;
}

/* Whether a tensor is one of llama.cpp's caches or lies in one, and which. */
static int is_cache(const struct ggml_tensor *t, int *is_key, int *number)
{
    char kind;
    const char *name = t->view_src ? t->view_src->name : t->name;
    if (sscanf(name, "cache_%c_l%d", &kind, number) != 2 || (kind != 'k' && kind != 'v'))
        return 0;
    *is_key = kind == 'k';
    return *number >= 0 && *number < MAX_LAYERS;
}

/* ---- rows ---- */

static const float *row_of(const struct ggml_tensor *t, int64_t row, size_t value)
{
    return (const float *)((const char *)t->data + (size_t)row * t->nb[1]) + value;
}

static int64_t index_of(const struct ggml_tensor *indices, int64_t i)
{
    const char *at = (const char *)indices->data + (size_t)i * indices->nb[0];
    return indices->type == GGML_TYPE_I64 ? *(const int64_t *)at : *(const int32_t *)at;
}

/* The rows of one page as attention is to see them. */
static tqkv_status pass(const pages *p, int is_key, int number, uint32_t head, const float *src,
                        size_t stride, size_t n, float *dst)
{
    uint8_t bytes[PAGE * (MAX_DIM + 4) + MAX_DIM + 2];
    tqkv_page page;
    const float *balance = NULL;
    tqkv_status status = tqkv_page_at(&p->formats[is_key], p->n_means, bytes, &page);
    if (status == TQKV_OK && is_key && p->balances)
        status = tqkv_profile_balance(p->balances, (uint32_t)number, head, &balance);
    if (status == TQKV_OK)
        status = tqkv_page_seal(&page, balance, src, TQKV_F32, stride,
                                ~(uint64_t)0 >> (PAGE - n));
    if (status == TQKV_OK)
        status = tqkv_page_read(&page, balance, 0, n, TQKV_ORIGINAL, dst, 0);
    return status;
}

static tqkv_status store_page(const pages *p, const struct ggml_tensor *t, int64_t first,
                              uint32_t head)
{
    int is_key, number;
    const struct ggml_tensor *src = t->src[0];
    size_t dim = p->head_dim, n = (size_t)(src->ne[1] - first);
    float decoded[PAGE * MAX_DIM];
    n = n < PAGE ? n : PAGE;
    if (!is_cache(t, &is_key, &number))
        return TQKV_ERROR_ARGUMENT;
    if (p->is_coded[is_key]) {
        tqkv_status status = pass(p, is_key, number, head, row_of(src, first, head * dim),
                                  src->nb[1] / sizeof(float), n, decoded);
        if (status != TQKV_OK)
            return status;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t row = first + (int64_t)i;
        const float *x = p->is_coded[is_key] ? decoded + i * dim : row_of(src, row, head * dim);
        char *to = (char *)t->data + (size_t)index_of(t->src[1], row) * t->nb[1];
        tqkv_from_f32(x, dim, to + head * dim * sizeof(uint16_t), TQKV_F16);
    }
    return TQKV_OK;
}

static enum ggml_status store(const pages *p, const struct ggml_tensor *t)
{
    const struct ggml_tensor *src = t->src[0];
    int64_t n_heads = src->ne[0] / p->head_dim, n_pages = (src->ne[1] + PAGE - 1) / PAGE;
    int worst = TQKV_OK;
    if (src->ne[0] % p->head_dim) {
        failed("TQKV_PAGES_HEAD_DIM", "rows are no multiple of it");
        return GGML_STATUS_FAILED;
    }
#pragma omp parallel for
    for (int64_t i = 0; i < n_heads * n_pages; i++) {
        tqkv_status status = store_page(p, t, i / n_heads * PAGE, (uint32_t)(i % n_heads));
        if (status != TQKV_OK)
#pragma omp atomic write
            worst = status;
    }
    if (worst != TQKV_OK)
        failed(t->name, tqkv_status_string((tqkv_status)worst));
    return worst == TQKV_OK ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}

/* ---- fitting ---- */

/* Whole pages only, and no queries but of batches of such: a warm-up of a few tokens does not
 * count. */
static void note_keys(pages *p, const struct ggml_tensor *t)
{
    int is_key, number;
    const struct ggml_tensor *src = t->src[0];
    if (!is_cache(t, &is_key, &number) || !is_key || src->ne[1] < PAGE)
        return;
    layer *l = &p->layers[number];
    size_t dim = p->head_dim, n = (size_t)(src->ne[1] / PAGE * PAGE);
    if (!l->keys) {
        l->n_heads = (uint32_t)src->ne[0] / p->head_dim;
        l->keys = calloc((size_t)l->n_heads * FIT_TOKENS * dim, sizeof *l->keys);
        l->squares = calloc((size_t)l->n_heads * dim, sizeof *l->squares);
        if (!l->keys || !l->squares)
            abort();
    }
    for (size_t i = 0; i < n && l->n_keys < FIT_TOKENS; i++, l->n_keys++)
        for (uint32_t h = 0; h < l->n_heads; h++)
            memcpy(l->keys + ((size_t)h * FIT_TOKENS + l->n_keys) * dim,
                   row_of(src, (int64_t)i, h * dim), dim * sizeof *l->keys);
}

static void note_queries(pages *p, const struct ggml_tensor *t)
{
    int is_key, number;
    const struct ggml_tensor *q = t->src[0];
    if (!is_cache(t->src[1], &is_key, &number) || q->ne[1] < PAGE || !p->layers[number].keys)
        return;
    layer *l = &p->layers[number];
    int64_t group = q->ne[2] / l->n_heads;
    for (int64_t h = 0; h < q->ne[2]; h++)
        for (int64_t i = 0; i < q->ne[1]; i++) {
            const float *x = (const float *)((const char *)q->data + (size_t)i * q->nb[1] +
                                             (size_t)h * q->nb[2]);
            for (uint32_t d = 0; d < p->head_dim; d++)
                l->squares[(size_t)(h / group) * p->head_dim + d] += (double)x[d] * x[d];
        }
    l->n_queries += (double)(q->ne[1] * group);
}

/* One query whose squares are the mean squares of all stands for them. */
static tqkv_status fit(const pages *p, tqkv_profile *profile, uint32_t n_layers)
{
    tqkv_status status = TQKV_OK;
    for (uint32_t i = 0; i < n_layers && status == TQKV_OK; i++) {
        const layer *l = &p->layers[i];
        for (uint32_t h = 0; h < l->n_heads && status == TQKV_OK; h++) {
            float query[MAX_DIM];
            for (uint32_t d = 0; d < p->head_dim; d++)
                query[d] = (float)sqrt(l->squares[h * p->head_dim + d] / l->n_queries);
            status = tqkv_profile_fit(profile, i, h, p->n_means > 0,
                                              l->keys + (size_t)h * FIT_TOKENS * p->head_dim,
                                              l->n_keys, 0, query, l->n_queries > 0, 0);
        }
    }
    return status;
}

static void write_balances(const pages *p)
{
    uint32_t n_layers = 0, n_heads = 0;
    for (uint32_t i = 0; i < MAX_LAYERS; i++)
        if (p->layers[i].n_keys && p->layers[i].n_queries > 0) {
            n_layers = i + 1;
            n_heads = p->layers[i].n_heads > n_heads ? p->layers[i].n_heads : n_heads;
        }
    tqkv_profile *profile = NULL;
    void *data = NULL;
    size_t size = 0;
    if (!n_layers) /* a context that computed nothing, of which tools make some */
        return;
    tqkv_status status = tqkv_profile_create(n_layers, n_heads, p->head_dim, NULL, &profile);
    if (status == TQKV_OK)
        status = fit(p, profile, n_layers);
    if (status == TQKV_OK)
        status = tqkv_profile_size(profile, &size);
    if (status == TQKV_OK)
        status = (data = malloc(size)) ? tqkv_profile_write(profile, data, size)
                                       : TQKV_ERROR_MEMORY;
    FILE *out = status == TQKV_OK ? fopen(p->fit, "wb") : NULL;
    int is_written = out && fwrite(data, 1, size, out) == size;
    if (!out || fclose(out) || !is_written)
        failed(p->fit, status == TQKV_OK ? "cannot be written" : tqkv_status_string(status));
    free(data);
    tqkv_profile_free(profile);
}

/* ---- the backend ---- */

static const char *backend_name(ggml_backend_t b)
{
    (void)b;
    return NAME;
}

static void pages_free(pages *p)
{
    if (p->cpu)
        ggml_backend_free(p->cpu);
    for (int i = 0; i < MAX_LAYERS; i++) {
        free(p->layers[i].keys);
        free(p->layers[i].squares);
    }
    tqkv_profile_free(p->balances);
    free(p->fit);
    free(p);
}

static void backend_free(ggml_backend_t b)
{
    pages *p = b->context;
    if (p->fit)
        write_balances(p);
    pages_free(p);
    free(b);
}

static enum ggml_status compute(ggml_backend_t b, struct ggml_cgraph *graph)
{
    pages *p = b->context;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    for (int i = 0; i < ggml_graph_n_nodes(graph) && status == GGML_STATUS_SUCCESS; i++) {
        struct ggml_tensor *t = ggml_graph_node(graph, i);
        if (p->fit && t->op == GGML_OP_SET_ROWS)
            note_keys(p, t);
        else if (p->fit && t->op == GGML_OP_FLASH_ATTN_EXT)
            note_queries(p, t);
        else if (t->op == GGML_OP_SET_ROWS)
            status = store(p, t);
    }
    return p->fit ? ggml_backend_graph_compute(p->cpu, graph) : status;
}

static int read_profile(const char *path, tqkv_profile **profile)
{
    FILE *in = fopen(path, "rb");
    long size = in && !fseek(in, 0, SEEK_END) ? ftell(in) : -1;
    void *data = size > 0 ? malloc((size_t)size) : NULL;
    int is_read = data && !fseek(in, 0, SEEK_SET) && fread(data, (size_t)size, 1, in) == 1;
    tqkv_status status = is_read ? tqkv_profile_read(data, (size_t)size, profile)
                                 : TQKV_ERROR_IO;
    free(data);
    if (in)
        fclose(in);
    return status == TQKV_OK || failed(path, tqkv_status_string(status));
}

static int configure(pages *p)
{
    static const char *const names[] = {"TQKV_PAGES_VALUES", "TQKV_PAGES_KEYS"};
    const char *dim = getenv("TQKV_PAGES_HEAD_DIM"), *means = getenv("TQKV_PAGES_MEANS");
    const char *balance = getenv("TQKV_PAGES_BALANCE"), *path = getenv("TQKV_PAGES_FIT");
    p->head_dim = dim ? (uint32_t)atoi(dim) : 64;
    p->n_means = !means || strcmp(means, "0");
    if (p->head_dim < 1 || p->head_dim > MAX_DIM)
        return failed("TQKV_PAGES_HEAD_DIM", "not from 1 to 256");
    for (int i = 0; i < 2; i++) {
        const char *name = getenv(names[i]);
        p->is_coded[i] = name != NULL;
        tqkv_status status =
            name ? tqkv_format_parse(name, p->head_dim, &p->formats[i]) : TQKV_OK;
        if (status != TQKV_OK)
            return failed(name, tqkv_status_string(status));
    }
    if (balance && !read_profile(balance, &p->balances))
        return 0;
    if (p->balances && tqkv_profile_head_dim(p->balances) != p->head_dim)
        return failed(balance, "of another head_dim");
    if (path && !(p->fit = strdup(path)))
        return 0;
    if (path)
        p->cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    return !path || p->cpu || failed(path, "ggml has no CPU backend");
}

/* ---- the device ---- */

static ggml_backend_t init_backend(ggml_backend_dev_t d, const char *params)
{
    static ggml_guid guid = "tqkv-test-pages";
    (void)params;
    pages *p = calloc(1, sizeof *p);
    struct ggml_backend *b = calloc(1, sizeof *b);
    if (!p || !b || !configure(p)) {
        if (p)
            pages_free(p);
        free(b);
        return NULL;
    }
    *b = (struct ggml_backend){
        .guid = &guid, .device = d, .context = p,
        .iface = {.get_name = backend_name, .free = backend_free, .graph_compute = compute}};
    return b;
}

static const char *device_name(ggml_backend_dev_t d)
{
    (void)d;
    return NAME;
}

static void device_memory(ggml_backend_dev_t d, size_t *free_bytes, size_t *total)
{
    (void)d;
    *free_bytes = *total = 0;
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t d)
{
    (void)d;
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static void device_properties(ggml_backend_dev_t d, struct ggml_backend_dev_props *properties)
{
    *properties = (struct ggml_backend_dev_props){
        .name = NAME, .description = NAME, .type = device_type(d)};
}

static ggml_backend_buffer_type_t device_buffers(ggml_backend_dev_t d)
{
    (void)d;
    return ggml_backend_cpu_buffer_type();
}

static bool supports(ggml_backend_dev_t d, const struct ggml_tensor *t)
{
    int is_key, number;
    const struct ggml_tensor *src = t->src[0];
    (void)d;
    switch (t->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    case GGML_OP_SET_ROWS:
        return t->type == GGML_TYPE_F16 && src->type == GGML_TYPE_F32 && src->ne[2] == 1 &&
               src->ne[3] == 1 && is_cache(t, &is_key, &number);
    case GGML_OP_FLASH_ATTN_EXT: /* for its queries */
        return getenv("TQKV_PAGES_FIT") && src->ne[3] == 1;
    default:
        return false;
    }
}

static bool supports_buffers(ggml_backend_dev_t d, ggml_backend_buffer_type_t type)
{
    (void)d;
    return ggml_backend_buft_is_host(type);
}

/* ---- the registry ---- */

static const char *registry_name(ggml_backend_reg_t r)
{
    (void)r;
    return NAME;
}

static size_t registry_count(ggml_backend_reg_t r)
{
    (void)r;
    return 1;
}

static ggml_backend_dev_t registry_device(ggml_backend_reg_t r, size_t i)
{
    static struct ggml_backend_device device = {
        .iface = {.get_name = device_name, .get_description = device_name,
                  .get_memory = device_memory, .get_type = device_type,
                  .get_props = device_properties, .init_backend = init_backend,
                  .get_buffer_type = device_buffers, .supports_op = supports,
                  .supports_buft = supports_buffers}};
    (void)i;
    device.reg = r;
    return &device;
}

/* What ggml calls when it loads the library. */
__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void);

ggml_backend_reg_t ggml_backend_init(void)
{
    static struct ggml_backend_reg registry = {
        .api_version = GGML_BACKEND_API_VERSION,
        .iface = {.get_name = registry_name, .get_device_count = registry_count,
                  .get_device = registry_device}};
    return &registry;
}

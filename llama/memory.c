#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "reserve.h"

/* A tensor whose size was asked for: a buffer of the sum of the last ones is theirs. */
typedef struct wish {
    size_t size;
    int is_cache;
} wish;

enum { PLAIN_SIZE = 64 };

typedef struct memory {
    gg_buffer_iface plain_iface; /* of the small buffer of the CPU's that this one was */
    void *plain_context;
    uint8_t *base;
    size_t reserved;
    cells *all;
    size_t n, expected;
    int is_described, has_warned; /* in the log */
    settings settings;
} memory;

/* Of the thread that makes a context. */
static _Thread_local struct {
    wish *all;
    size_t n, max;
    memory *open; /* waits for its tensors */
} wishes;

static struct gg_buffer_type ours;
static gg_buffer_t (*cpu_alloc)(gg_buffer_type_t, size_t);
static size_t (*cpu_alloc_size)(gg_buffer_type_t, const gg_tensor *);

/* ---- which tensors ---- */

/* llama.cpp names them cache_k_l0, cache_v_l0, with something between for some kinds of
 * cache: cache_<name>k_l0. */
static const char *letter_of(const char *name)
{
    if (strncmp(name, "cache_", 6))
        return NULL;
    const char *key = strstr(name, "k_l"), *value = strstr(name, "v_l"), *at = key ? key : value;
    return at && at[3] >= '0' && at[3] <= '9' ? at : NULL;
}

static int is_cache(const gg_tensor *t)
{
    return letter_of(t->name) && t->type == GG_F16 && t->ne[3] == 1 && t->nb[0] == 2 &&
           t->nb[1] == 2 * (size_t)t->ne[0] && t->nb[2] == t->nb[1] * (size_t)t->ne[1] &&
           t->ne[0] > 0 && t->ne[0] <= UINT32_MAX && t->ne[1] > 0 && t->ne[2] > 0 &&
           t->ne[1] <= INT32_MAX / t->ne[2];
}

/* ---- buffers ---- */

static memory *memory_of(gg_buffer_t b)
{
    return b->context;
}

static void free_memory(memory *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n; i++)
        cells_free(&m->all[i]);
    reserve_free(m->base, m->reserved);
    free(m->all);
    free(m);
}

static void free_buffer(gg_buffer_t b)
{
    memory *m = memory_of(b);
    if (wishes.open == m)
        wishes.open = NULL;
    b->context = m->plain_context;
    b->size = PLAIN_SIZE;
    m->plain_iface.free_buffer(b);
    free_memory(m);
}

/* Until all tensors have come it is memory like any other: should somebody else's buffer have
 * the very sum's size, nothing happens. */
static int is_complete(gg_buffer_t b)
{
    return b->type == &ours;
}

static void *get_base(gg_buffer_t b)
{
    return memory_of(b)->base;
}

static void count(gg_buffer_t b)
{
    const memory *m = memory_of(b);
    b->size = 0;
    for (size_t i = 0; i < m->n; i++)
        b->size += cells_bytes(&m->all[i]);
}

static void describe(cells *c, const gg_tensor *t)
{
    const char *letter = letter_of(t->name);
    memcpy(c->name, t->name, sizeof c->name);
    c->is_key = *letter == 'k';
    c->layer = atoi(letter + 3);
    c->nominal = t->data;
    c->nominal_bytes = gg.nbytes(t);
    c->row_bytes = t->nb[1];
    c->row_values = (uint32_t)t->ne[0];
    c->n_cells = (uint32_t)t->ne[1];
    c->n_streams = (uint32_t)t->ne[2];
}

static int init_tensor(gg_buffer_t b, gg_tensor *t)
{
    memory *m = memory_of(b);
    if (t->view_src || is_complete(b))
        return GG_STATUS_SUCCESS;
    if (!is_cache(t) || m->n == m->expected) { /* of somebody else after all */
        m->n = m->expected = 0;
        return GG_STATUS_SUCCESS;
    }
    describe(&m->all[m->n], t);
    m->all[m->n].settings = &m->settings;
    m->all[m->n].has_warned = &m->has_warned;
    t->extra = &m->all[m->n];
    if (++m->n < m->expected)
        return GG_STATUS_SUCCESS;
    wishes.open = NULL;
    reserve_close(m->base, m->reserved);
    b->type = &ours;
    count(b); /* until now places were checked against the size */
    return GG_STATUS_SUCCESS;
}

static cells *cells_at(gg_buffer_t b, const gg_tensor *t)
{
    memory *m = is_complete(b) ? memory_of(b) : NULL;
    const uint8_t *at = t->data;
    for (size_t i = 0; m && i < m->n; i++)
        if (at >= m->all[i].nominal && at < m->all[i].nominal + m->all[i].nominal_bytes)
            return &m->all[i];
    return NULL;
}

static size_t offset_in(const cells *c, const gg_tensor *t)
{
    return (size_t)((const uint8_t *)t->data - c->nominal);
}

static void get_tensor(gg_buffer_t b, const gg_tensor *t, void *data, size_t offset, size_t size)
{
    const cells *c = cells_at(b, t);
    if (!c)
        memcpy(data, (const uint8_t *)t->data + offset, size);
    else
        cells_get(c, offset_in(c, t) + offset, data, size);
}

static void set_tensor(gg_buffer_t b, gg_tensor *t, const void *data, size_t offset, size_t size)
{
    cells *c = cells_at(b, t);
    if (!c) {
        memcpy((uint8_t *)t->data + offset, data, size);
        return;
    }
    const char *problem = cells_set(c, offset_in(c, t) + offset, data, size);
    if (!problem)
        return;
    if (memory_make_plain(c, problem))
        cells_set(c, offset_in(c, t) + offset, data, size);
    count(b);
}

static void memset_tensor(gg_buffer_t b, gg_tensor *t, uint8_t value, size_t offset, size_t size)
{
    uint8_t *data = malloc(size);
    if (data) {
        memset(data, value, size);
        set_tensor(b, t, data, offset, size);
    }
    free(data);
}

/* Whole streams; anything else goes through get_tensor and set_tensor. */
static bool cpy_tensor(gg_buffer_t b, const gg_tensor *src, gg_tensor *dst)
{
    cells *to = cells_at(b, dst), *from = memory_cells(src);
    if (!to || !from || to->is_plain || !to->n_heads || !from->n_heads || from->tag != to->tag ||
        from->n_cells != to->n_cells)
        return false;
    size_t bytes = from->n_cells * from->row_bytes, at = offset_in(from, src);
    size_t into = offset_in(to, dst);
    if (gg.nbytes(src) != bytes || at % bytes || into % bytes || (from == to && at == into))
        return false;
    return cells_copy_stream(from, at / bytes, to, into / bytes);
}

static void clear(gg_buffer_t b, uint8_t value)
{
    memory *m = memory_of(b);
    if (!is_complete(b))
        memset(m->base, value, b->size);
    for (size_t i = 0; is_complete(b) && i < m->n; i++)
        if (m->all[i].is_plain)
            memset(m->all[i].nominal, value, m->all[i].nominal_bytes);
        else
            cells_clear(&m->all[i]);
}

static const gg_buffer_iface iface = {.free_buffer = free_buffer, .get_base = get_base,
                                      .init_tensor = init_tensor, .memset_tensor = memset_tensor,
                                      .set_tensor = set_tensor, .get_tensor = get_tensor,
                                      .cpy_tensor = cpy_tensor, .clear = clear};

/* Null where there is no memory, or where the settings cannot be read. */
static memory *make_memory(size_t size, size_t n)
{
    memory *m = calloc(1, sizeof *m);
    const char *problem = m ? settings_read(&m->settings) : "out of memory";
    if (problem) {
        gg.log(GG_LOG_ERROR, "tqkv: a cache is kept by llama.cpp: %s\n", problem);
        free(m);
        return NULL;
    }
    m->all = calloc(n, sizeof *m->all);
    m->reserved = size;
    m->base = reserve_memory(size);
    m->expected = n;
    if (m->all && m->base)
        return m;
    gg.log(GG_LOG_ERROR, "tqkv: a cache is kept by llama.cpp: there are no addresses for it\n");
    free_memory(m);
    return NULL;
}

/* Turns a small buffer of the CPU's into one of ours: ggml deletes what it made itself. */
static gg_buffer_t make_buffer(size_t size, size_t n)
{
    memory *m = make_memory(size, n);
    gg_buffer_t b = m ? cpu_alloc(gg.cpu_buffer_type(), PLAIN_SIZE) : NULL;
    if (!b) {
        free_memory(m);
        return NULL;
    }
    m->plain_iface = b->iface;
    m->plain_context = b->context;
    b->iface = iface;
    b->context = m;
    b->size = size;
    wishes.open = m;
    return b;
}

/* ---- the CPU's buffer type ---- */

static size_t padded(size_t size)
{
    size_t unit = gg.cpu_buffer_type()->iface.get_alignment(gg.cpu_buffer_type());
    return (size + unit - 1) / unit * unit;
}

static void note_wish(const gg_tensor *t, size_t size)
{
    if (wishes.n == wishes.max) {
        size_t more = wishes.max ? 2 * wishes.max : 256;
        wish *all = realloc(wishes.all, more * sizeof *all);
        if (!all) {
            wishes.n = 0;
            return;
        }
        wishes.all = all;
        wishes.max = more;
    }
    wishes.all[wishes.n++] = (wish){padded(size), is_cache(t)};
}

/* Sizes are asked for at other times, too: of operations' results, and where memory is only
 * planned, with tensors that have a buffer already. */
static size_t get_alloc_size(gg_buffer_type_t type, const gg_tensor *t)
{
    size_t size = cpu_alloc_size ? cpu_alloc_size(type, t) : gg.nbytes(t);
    if (!wishes.open && !t->data && !t->buffer && !t->view_src && t->op == gg.op_none &&
        letter_of(t->name))
        note_wish(t, size);
    return size;
}

/* How many of the last wishes make up the size, and whether all are of caches in f16. */
static size_t wishes_of(size_t size, int *are_caches)
{
    size_t sum = 0, n = 0;
    *are_caches = 1;
    while (n < wishes.n && sum < size) {
        sum += wishes.all[wishes.n - 1 - n].size;
        *are_caches &= wishes.all[wishes.n - 1 - n++].is_cache;
    }
    return sum == size ? n : 0;
}

static gg_buffer_t alloc_buffer(gg_buffer_type_t t, size_t size)
{
    int are_caches;
    size_t n = settings_are_wanted() ? wishes_of(size, &are_caches) : 0;
    free(wishes.all);
    memset(&wishes, 0, sizeof wishes);
    if (n && !are_caches)
        gg.log(GG_LOG_WARN, "tqkv: a cache is kept by llama.cpp, in the type that the flags name; "
                            "leave cache types away, and TQKV_KV counts\n");
    gg_buffer_t b = n && are_caches ? make_buffer(size, n) : NULL;
    return b ? b : cpu_alloc(t, size);
}

/* ---- our buffer type ---- */

static const char *type_name(gg_buffer_type_t t)
{
    (void)t;
    return "tqkv";
}

/* Copies of states, that llama.cpp makes in the cache's own kind of memory. */
static gg_buffer_t type_alloc(gg_buffer_type_t t, size_t size)
{
    (void)t;
    return cpu_alloc(gg.cpu_buffer_type(), size);
}

static size_t type_alignment(gg_buffer_type_t t)
{
    (void)t;
    return gg.cpu_buffer_type()->iface.get_alignment(gg.cpu_buffer_type());
}

static bool type_is_host(gg_buffer_type_t t)
{
    (void)t;
    return false;
}

static const char *look_at_buffer(gg_buffer_type_t cpu)
{
    gg_buffer_t b = cpu->iface.alloc_buffer(cpu, 256);
    if (!b)
        return "out of memory";
    int fits = b->type == cpu && b->size == 256 && b->iface.free_buffer && b->iface.get_base &&
               b->iface.get_base(b) && b->iface.memset_tensor && b->iface.set_tensor &&
               b->iface.get_tensor && b->iface.cpy_tensor && b->iface.clear &&
               !b->iface.init_tensor && !b->iface.reset;
    gg.buffer_free(b);
    return fits ? NULL : "ggml's buffers lie otherwise than this backend was made for";
}

const char *memory_hook(void)
{
    gg_buffer_type_t cpu = gg.cpu_buffer_type();
    const char *problem = look_at_buffer(cpu);
    if (problem)
        return problem;
    ours = (struct gg_buffer_type){
        .iface = {type_name, type_alloc, type_alignment, NULL, NULL, type_is_host},
        .device = cpu->device};
    cpu_alloc = cpu->iface.alloc_buffer;
    cpu_alloc_size = cpu->iface.get_alloc_size;
    cpu->iface.alloc_buffer = alloc_buffer;
    cpu->iface.get_alloc_size = get_alloc_size;
    return NULL;
}

int memory_is_ours(gg_buffer_type_t t)
{
    return t == &ours;
}

/* ---- what operations ask ---- */

static gg_buffer_t buffer_of(const gg_tensor *t)
{
    const gg_tensor *root = t && t->view_src ? t->view_src : t;
    gg_buffer_t b = root ? root->buffer : NULL;
    return b && b->type == &ours && b->iface.free_buffer == free_buffer ? b : NULL;
}

cells *memory_cells(const gg_tensor *t)
{
    if (!buffer_of(t))
        return NULL;
    cells *c = (t->view_src ? t->view_src : t)->extra;
    return c && !c->is_plain ? c : NULL;
}

int memory_make_plain(cells *c, const char *why)
{
    if (!cells_make_plain(c))
        return 0;
    if (!*c->has_warned)
        gg.log(GG_LOG_WARN, "tqkv: %s, and others like it, stay in f16: %s\n", c->name, why);
    *c->has_warned = 1;
    return 1;
}

/* On one line what a cache is kept in, once all of it is known. */
static void describe_all(memory *m)
{
    const cells *known[2] = {NULL, NULL}; /* values, keys */
    char names[2][TQKV_FORMAT_NAME_SIZE] = {"f16", "f16"};
    double bytes = 0, staged = 0, values = 0;
    int has_balances = 0;
    for (size_t i = 0; i < m->n; i++) {
        const cells *c = &m->all[i];
        if (c->is_plain)
            continue;
        if (!c->n_heads)
            return;
        known[c->is_key] = c;
        has_balances |= c->balances != NULL;
        staged += (double)cells_quota(c) * c->n_streams * PAGE * (double)c->row_bytes;
        bytes += (double)cells_bytes(c);
        values += (double)c->nominal_bytes / 2;
    }
    for (int k = 0; k < 2; k++)
        if (known[k])
            tqkv_format_name(&known[k]->format, names[k], sizeof names[k]);
    if (m->is_described || values == 0)
        return;
    m->is_described = 1;
    gg.log(GG_LOG_INFO, "tqkv: keeps keys in %s, values in %s, %.3f bits a value, and up to %.1f MiB "
                        "of the newest in f16; %s a profile\n", names[1], names[0],
           8 * (bytes - staged) / values, staged / (1 << 20), has_balances ? "with" : "without");
}

void memory_count(const gg_tensor *t)
{
    gg_buffer_t b = buffer_of(t);
    if (!b)
        return;
    count(b);
    describe_all(memory_of(b));
}

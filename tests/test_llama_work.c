/* The backend's operations on threads, with a stand-in for ggml that runs custom operations as
 * ggml does, a barrier behind each: graphs of two layers, prompts and tokens, by any number of
 * threads. Built with ThreadSanitizer where there is one. */
#include <pthread.h>

#include "test.h"

#include "reserve.h"
#include "work.h"

enum { DIM = 32, HEADS = 2, GROUP = 2, CELLS = 384, LAYERS = 2, MOST = 150, N_NODES = 4 * LAYERS };
enum { OP_NONE, OP_VIEW, OP_RESHAPE, OP_PERMUTE, OP_TRANSPOSE, OP_SET_ROWS, OP_FLASH, OP_ROPE,
       OP_CUSTOM, OP_OTHER };

/* ---- what graph.c asks of ggml, and of memory.c ---- */

struct gg_graph {
    int n;
    gg_tensor *nodes[N_NODES];
};

static void silent(int level, const char *text, ...)
{
    (void)level, (void)text;
}

static int n_nodes(gg_graph *g)
{
    return g->n;
}

static gg_tensor *node(gg_graph *g, int i)
{
    return g->nodes[i];
}

static const char *name_of_op(const gg_tensor *t)
{
    (void)t;
    return "OTHER";
}

gg_api gg = {.graph_n_nodes = n_nodes, .graph_node = node, .op_desc = name_of_op, .log = silent,
             .op_none = OP_NONE, .op_view = OP_VIEW, .op_reshape = OP_RESHAPE,
             .op_permute = OP_PERMUTE, .op_transpose = OP_TRANSPOSE, .op_set_rows = OP_SET_ROWS,
             .op_flash_attn = OP_FLASH, .op_rope = OP_ROPE, .op_custom = OP_CUSTOM};

cells *memory_cells(const gg_tensor *t)
{
    const gg_tensor *root = t && t->view_src ? t->view_src : t;
    cells *c = root ? root->extra : NULL;
    return c && !c->is_plain ? c : NULL;
}

int memory_make_plain(cells *c, const char *why)
{
    (void)why;
    return cells_make_plain(c);
}

void memory_count(const gg_tensor *t)
{
    (void)t;
}

/* ---- threads, as ggml's ---- */

static int n_threads;
static pthread_barrier_t barrier;
static int n_others; /* operations that were ggml's */

typedef struct worker {
    gg_graph *graph;
    int number;
} worker;

/* RoPE by its shift: here each value grows by it. */
static void move_keys(const gg_tensor *t)
{
    const int32_t *by = t->src[1]->data;
    for (int64_t i = 0; i < t->ne[2]; i++)
        for (int64_t j = 0; j < t->ne[0] * t->ne[1]; j++) {
            uint16_t *half = (uint16_t *)((uint8_t *)t->data + (size_t)i * t->nb[2]) + j;
            float x;
            tqkv_to_f32(half, TQKV_F16, 1, &x);
            x += (float)by[i];
            tqkv_from_f32(&x, 1, half, TQKV_F16);
        }
}

static void *work_on(void *argument)
{
    const worker *w = argument;
    for (int i = 0; i < w->graph->n; i++) {
        gg_tensor *t = w->graph->nodes[i];
        if (t->op == OP_CUSTOM) {
            gg_custom_params p;
            memcpy(&p, t->op_params, sizeof p);
            assert_int_equal(p.n_tasks, GG_ALL_TASKS);
            p.function(t, w->number, n_threads, p.context);
        } else if (w->number == 0 && t->op == OP_ROPE) {
            move_keys(t);
        } else if (w->number == 0) {
            n_others += t->op != OP_NONE;
        }
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static int compute(gg_backend_t b, gg_graph *g)
{
    pthread_t threads[8];
    worker workers[8];
    (void)b;
    pthread_barrier_init(&barrier, NULL, (unsigned)n_threads);
    for (int i = 0; i < n_threads; i++) {
        workers[i] = (worker){g, i};
        if (i)
            assert_int_equal(pthread_create(&threads[i], NULL, work_on, &workers[i]), 0);
    }
    work_on(&workers[0]);
    for (int i = 1; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    return GG_STATUS_SUCCESS;
}

/* ---- a model ---- */

typedef struct model {
    settings asked;
    int has_warned;
    cells cells[LAYERS][2]; /* values, keys */
    gg_tensor roots[LAYERS][2], rows[LAYERS][2], stores[LAYERS][2], views[LAYERS][2];
    gg_tensor queries[LAYERS], attention[LAYERS], index, mask, shift, moves[LAYERS];
    float *values;      /* of all rows, [token][layer][2][HEADS * DIM] */
    float *query_values;
    float *out;         /* [token][layer][HEADS * GROUP][DIM] */
    int64_t slots[MOST];
    uint16_t masks[MOST * CELLS];
    work work;
} model;

static gg_tensor tensor(int type, size_t size, int64_t a, int64_t b, int64_t c, void *data)
{
    gg_tensor t = {.type = type, .ne = {a, b, c, 1}, .data = data};
    t.nb[0] = size;
    t.nb[1] = size * (size_t)a;
    t.nb[2] = t.nb[1] * (size_t)b;
    t.nb[3] = t.nb[2] * (size_t)c;
    return t;
}

static void open_cache(model *m, int layer, int is_key)
{
    cells *c = &m->cells[layer][is_key];
    *c = (cells){.is_key = is_key, .layer = layer, .settings = &m->asked,
                 .has_warned = &m->has_warned, .row_bytes = HEADS * DIM * 2,
                 .row_values = HEADS * DIM, .n_cells = CELLS, .n_streams = 1};
    c->nominal_bytes = CELLS * c->row_bytes;
    c->nominal = reserve_addresses(c->nominal_bytes);
    gg_tensor *root = &m->roots[layer][is_key];
    *root = tensor(GG_F16, 2, HEADS * DIM, CELLS, 1, c->nominal);
    root->extra = c;
}

static model *open_model(const char *formats)
{
    model *m = calloc(1, sizeof *m);
    setenv("TQKV_KV", formats, 1);
    assert_null(settings_read(&m->asked));
    for (int i = 0; i < 2 * LAYERS; i++)
        open_cache(m, i / 2, i % 2);
    m->values = test_rows(7, (size_t)CELLS * LAYERS * 2 * HEADS * DIM);
    m->query_values = test_rows(8, (size_t)CELLS * LAYERS * HEADS * GROUP * DIM);
    m->out = calloc((size_t)CELLS * LAYERS * HEADS * GROUP * DIM, sizeof(float));
    return m;
}

static void close_model(model *m)
{
    work_free(&m->work);
    for (int i = 0; i < 2 * LAYERS; i++) {
        cells *c = &m->cells[i / 2][i % 2];
        cells_free(c);
        reserve_free(c->nominal, c->nominal_bytes);
    }
    free(m->values);
    free(m->query_values);
    free(m->out);
    free(m);
}

/* A layer's nodes for tokens [from, from + n), which lie in cells of their numbers. */
static void build_layer(model *m, gg_graph *g, int layer, int64_t from, int64_t n)
{
    size_t row = (size_t)LAYERS * 2 * HEADS * DIM;
    for (int k = 0; k < 2; k++) {
        gg_tensor *rows = &m->rows[layer][k], *store = &m->stores[layer][k];
        *rows = tensor(GG_F32, 4, HEADS * DIM, n, 1,
                       m->values + (size_t)from * row + (size_t)(layer * 2 + k) * HEADS * DIM);
        rows->nb[1] = row * 4;
        *store = m->roots[layer][k];
        store->op = OP_SET_ROWS;
        store->view_src = &m->roots[layer][k];
        store->src[0] = rows;
        store->src[1] = &m->index;
        g->nodes[g->n++] = store;
        gg_tensor *view = &m->views[layer][k];
        *view = tensor(GG_F16, 2, DIM, (from + n + 63) / 64 * 64, HEADS, m->cells[layer][k].nominal);
        view->op = OP_PERMUTE;
        view->nb[1] = m->cells[layer][k].row_bytes;
        view->nb[2] = DIM * 2;
        view->view_src = &m->roots[layer][k];
    }
    size_t query = (size_t)HEADS * GROUP * DIM;
    gg_tensor *q = &m->queries[layer], *t = &m->attention[layer];
    *q = tensor(GG_F32, 4, DIM, n, HEADS * GROUP,
                m->query_values + ((size_t)from * LAYERS + (size_t)layer) * query);
    q->nb[1] = LAYERS * query * 4;
    q->nb[2] = DIM * 4;
    *t = tensor(GG_F32, 4, DIM, HEADS * GROUP, n, calloc((size_t)n * query, 4));
    t->op = OP_FLASH;
    t->src[0] = q;
    t->src[1] = &m->views[layer][1];
    t->src[2] = &m->views[layer][0];
    t->src[3] = &m->mask;
    const float scale = .2f;
    memcpy(t->op_params, &scale, sizeof scale);
    g->nodes[g->n++] = t;
}

static void compute_graph(model *m, gg_graph *g)
{
    int status;
    assert_null(graph_learn(g, NULL));
    assert_null(work_compute(&m->work, g, compute, NULL, &status));
    assert_int_equal(status, GG_STATUS_SUCCESS);
}

static void decode(model *m, int64_t from, int64_t n)
{
    gg_graph g = {0};
    int64_t seen = (from + n + 63) / 64 * 64;
    m->index = tensor(GG_I64, 8, n, 1, 1, m->slots);
    m->mask = tensor(GG_F16, 2, seen, n, 1, m->masks);
    for (int64_t i = 0; i < n; i++) {
        m->slots[i] = from + i;
        for (int64_t j = 0; j < seen; j++)
            m->masks[i * seen + j] = j <= from + i ? 0 : 0xFC00;
    }
    for (int layer = 0; layer < LAYERS; layer++)
        build_layer(m, &g, layer, from, n);
    compute_graph(m, &g);
    size_t query = (size_t)HEADS * GROUP * DIM;
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int64_t i = 0; i < n; i++)
            memcpy(m->out + ((size_t)(from + i) * LAYERS + (size_t)layer) * query,
                   (float *)m->attention[layer].data + (size_t)i * query, query * 4);
        free(m->attention[layer].data);
    }
}

static void decode_in_chunks(model *m, int64_t to, int64_t chunk)
{
    for (int64_t from = 0; from < to; from += chunk)
        decode(m, from, chunk < to - from ? chunk : to - from);
}

static void shift(model *m, int32_t *by)
{
    gg_graph g = {0};
    m->shift = tensor(GG_I32, 4, CELLS, 1, 1, by);
    for (int layer = 0; layer < LAYERS; layer++) {
        gg_tensor *t = &m->moves[layer];
        *t = tensor(GG_F16, 2, DIM, HEADS, CELLS, m->cells[layer][1].nominal);
        t->op = OP_ROPE;
        t->view_src = t->src[0] = &m->roots[layer][1];
        t->src[1] = &m->shift;
        g.nodes[g.n++] = t;
    }
    compute_graph(m, &g);
}

/* ---- */

enum { TOKENS = 330 };

static void check_batches(const char *formats)
{
    static const struct {
        int64_t chunk;
        int threads;
    } cases[] = {{1, 1}, {1, 4}, {MOST, 4}, {MOST, 2}, {64, 3}, {37, 4}};
    size_t bytes = (size_t)TOKENS * LAYERS * HEADS * GROUP * DIM * sizeof(float);
    float *first = malloc(bytes);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        model *m = open_model(formats);
        n_threads = cases[i].threads;
        n_others = 0;
        decode_in_chunks(m, TOKENS, cases[i].chunk);
        assert_int_equal(n_others, 0);
        if (i == 0)
            memcpy(first, m->out, bytes);
        else
            assert_memory_equal(first, m->out, bytes);
        for (int j = 0; j < 2 * LAYERS; j++) {
            const cells *c = &m->cells[j / 2][j % 2];
            assert_true(c->n_staged[0] <= cells_quota(c));
        }
        close_model(m);
    }
    free(first);
}

/* What tokens give does not depend on batches and threads. */
static void batches_and_threads(void **state)
{
    (void)state;
    check_batches("tq4/tq3");
    setenv("TQKV_RECENT", "100", 1);
    check_batches("tq8");
    unsetenv("TQKV_RECENT");
}

static double distance(const float *x, const float *y, size_t n)
{
    double square = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        square += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        size += (double)y[i] * y[i];
    }
    return sqrt(square / size);
}

/* With recent tokens in f16 attention is nearer to the exact one. */
static void recent_tokens_count(void **state)
{
    static const char *const recent[] = {"0", "128", "100000"};
    size_t n = (size_t)TOKENS * LAYERS * HEADS * GROUP * DIM;
    float *exact = malloc(n * sizeof *exact);
    double before = 0;
    (void)state;
    n_threads = 2;
    for (int i = 2; i >= 0; i--) {
        setenv("TQKV_RECENT", recent[i], 1);
        model *m = open_model("tq2");
        decode_in_chunks(m, TOKENS, 50);
        if (i == 2)
            memcpy(exact, m->out, n * sizeof *exact);
        double error = distance(m->out, exact, n);
        assert_true(error >= before);
        assert_true(i == 2 || error > before + .01);
        before = error;
        close_model(m);
    }
    unsetenv("TQKV_RECENT");
    free(exact);
}

/* Saved states give keys and values back one after the other, and perhaps of several kinds:
 * staged keys beside sealed values, mixed pages beside others. */
static void keys_and_values_apart(void **state)
{
    size_t row = HEADS * DIM * 2, n = (size_t)HEADS * GROUP * DIM;
    uint8_t *rows = malloc(CELLS * row);
    (void)state;
    n_threads = 2;
    for (int i = 0; i < 4; i++) {
        model *m = open_model("tq4");
        decode_in_chunks(m, TOKENS, 64);
        cells *c = &m->cells[0][i % 2];
        cells_get(c, 0, rows, CELLS * row);
        if (i < 2) { /* numbers: of rows that were codes */
            for (size_t j = 0; j < 10 * HEADS * DIM; j++)
                tqkv_from_f32(&m->values[j / (HEADS * DIM) * LAYERS * 2 * HEADS * DIM +
                                         (size_t)(i % 2) * HEADS * DIM + j % (HEADS * DIM)],
                              1, rows + 2 * j, TQKV_F16);
            assert_null(cells_set(c, 0, rows, 10 * row));
            assert_true(c->pages[0].is_staged);
        } else { /* rows of page 0 beside those of page 1 */
            assert_null(cells_set(c, 70 * row, rows + 6 * row, 20 * row));
            assert_true(c->pages[1].is_mixed);
        }
        decode(m, TOKENS, 1);
        const float *x = m->out + (size_t)TOKENS * LAYERS * n;
        model *other = open_model("tq4");
        decode_in_chunks(other, TOKENS, 64);
        decode(other, TOKENS, 1);
        double error = distance(x, other->out + (size_t)TOKENS * LAYERS * n, n);
        assert_true(error > 0 && error < (i < 2 ? .1 : .6));
        assert_int_equal(m->cells[0][0].clock[0], m->cells[0][1].clock[0]);
        assert_memory_equal(m->cells[0][0].table, m->cells[0][1].table,
                            m->cells[0][0].n_pages * sizeof(uint32_t));
        close_model(m);
        close_model(other);
    }
    free(rows);
}

/* Keys move; those that stay, and all values, keep their bytes. */
static void keys_move(void **state)
{
    model *m = open_model("tq4");
    int32_t by[CELLS] = {0};
    size_t row = HEADS * DIM * 2;
    uint8_t *before = malloc(CELLS * row), *after = malloc(CELLS * row);
    (void)state;
    n_threads = 3;
    decode_in_chunks(m, TOKENS, 64);
    cells *keys = &m->cells[1][1];
    cells_get(keys, 0, before, 64 * row);
    for (int i = 10; i < TOKENS; i++)
        by[i] = -2;
    shift(m, by);
    assert_true(keys->n_staged[0] <= cells_quota(keys));
    assert_int_equal(keys->clock[0], m->cells[1][0].clock[0]);
    cells_get(keys, 0, after, 64 * row);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(!memcmp(before + i * row, after + i * row, row), !by[i]);
    assert_true(cells_make_plain(keys));
    double error = 0, size = 0;
    for (size_t i = 0; i < TOKENS; i++) {
        float x[HEADS * DIM];
        const float *y = m->values + (i * LAYERS * 2 + 3) * HEADS * DIM;
        tqkv_to_f32(keys->nominal + i * row, TQKV_F16, HEADS * DIM, x);
        for (int j = 0; j < HEADS * DIM; j++) {
            double wanted = (double)y[j] + by[i];
            error += (x[j] - wanted) * (x[j] - wanted);
            size += wanted * wanted;
        }
    }
    assert_true(sqrt(error / size) < .08);
    free(before);
    free(after);
    close_model(m);
}

/* An operation that comes later makes plain what it works on, and what attends with it. */
static void other_operations(void **state)
{
    model *m = open_model("tq4");
    gg_graph g = {0};
    (void)state;
    n_threads = 2;
    decode(m, 0, 100);
    gg_tensor other = {.op = OP_OTHER, .src = {&m->views[0][1]}};
    build_layer(m, &g, 0, 100, 1);
    free(m->attention[0].data);
    g.nodes[g.n++] = &other;
    assert_null(graph_learn(&g, NULL));
    assert_true(m->cells[0][0].is_plain && m->cells[0][1].is_plain);
    assert_false(m->cells[1][0].is_plain || m->cells[1][1].is_plain);
    close_model(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_and_threads), cmocka_unit_test(recent_tokens_count),
        cmocka_unit_test(keys_and_values_apart), cmocka_unit_test(keys_move),
        cmocka_unit_test(other_operations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Pages on a device are those of tqkv_page_seal, tqkv_page_write and tqkv_page_read, byte for
 * byte, and nothing beside them changes, whatever numbers lie on the device. */
#include "gpu_case.h"
#include "tqkv_page.h"

enum { LAYERS = 3, HEADS = 2, PAGES = 5, STAGED = 3, TOKENS = TQKV_PAGE_TOKENS };

typedef struct shape {
    const char *keys, *values;
    uint32_t key_dim, value_dim;
    tqkv_type staged_type;
    int is_balanced, has_means;
    int is_odd; /* parts of pages at any address, with gaps */
} shape;

/* Keys or values: pages and staged pages in host memory, as on the device. */
typedef struct side {
    tqkv_format f;
    size_t code, scale, size, staged_size, row;
    uint8_t *memory, *staged;
    tqkv_buffer *buffer, *staged_buffer;
    tqkv_gpu_operand sealed_at, staged_at;
    float *balance; /* [LAYERS][HEADS][dim], or null */
} side;

typedef struct fixture {
    const gpu_case *g;
    const shape *s;
    side sides[2];
    tqkv_buffer *balances;
    tqkv_gpu_pages pages;
} fixture;

/* Rows that have something in common, and others; NaN, infinities, huge and tiny numbers. */
static float *page_numbers(uint64_t seed, size_t n_rows, uint32_t dim)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -1e30f, 1e-41f, 1.2e12f};
    float *x = test_rows(seed, n_rows * dim), *common = test_rows(seed + 100, dim);
    for (size_t r = 0; r < n_rows; r++)
        for (uint32_t i = 0; i < dim; i++) {
            float *at = &x[r * dim + i];
            *at = r % 7 == 3 ? *at * 1e-3f : *at + 1.5f * common[i];
            if (r % 29 == 5)
                *at = 0;
            if (r % 31 == 9 && i % 17 == 2)
                *at = odd[(r + i) % 7];
        }
    free(common);
    return x;
}

static void odd_layout(side *s, tqkv_gpu_operand *o)
{
    size_t code = s->code + 3, scale = s->scale + 1, mean = s->f.head_dim + 5;
    size_t scales = LAYERS * PAGES * HEADS * TOKENS * code + 7;
    o->rows = (tqkv_gpu_rows){NULL, NULL, 1, scales, code, scale};
    o->mean_offset = scales + LAYERS * PAGES * HEADS * TOKENS * scale + 5;
    /* heads outermost, layers innermost */
    o->layer = (tqkv_gpu_strides){TOKENS * code, TOKENS * scale, mean};
    o->page = (tqkv_gpu_strides){LAYERS * o->layer.codes, LAYERS * o->layer.scales, LAYERS * mean};
    o->head = (tqkv_gpu_strides){PAGES * o->page.codes, PAGES * o->page.scales, PAGES * o->page.means};
    s->size = o->mean_offset + HEADS * o->head.means;
}

static void side_make(fixture *x, int i)
{
    const shape *c = x->s;
    const gpu_case *g = x->g;
    side *s = &x->sides[i];
    uint32_t dim = i ? c->value_dim : c->key_dim;
    size_t size = c->staged_type == TQKV_F32 ? 4 : 2, block;
    tqkv_gpu_operand *o = &s->sealed_at, *t = &s->staged_at;
    s->f = test_format(i ? c->values : c->keys, dim);
    tqkv_format_code_bytes(&s->f, &s->code);
    tqkv_format_scale_bytes(&s->f, &s->scale);
    assert_int_equal(tqkv_gpu_page_bytes(&s->f, &block), TQKV_OK);
    assert_int_equal(block % 16, 0);
    *o = (tqkv_gpu_operand){.format = s->f};
    s->size = LAYERS * PAGES * HEADS * block;
    if (c->is_odd)
        odd_layout(s, o);
    s->memory = malloc(s->size);
    memset(s->memory, 0xA5, s->size);
    s->buffer = gpu_buffer(g, s->memory, s->size);
    if (!c->is_odd) {
        gpu_ok(g, tqkv_gpu_pages_at(&s->f, s->buffer, 0, HEADS, o));
        o->layer = (tqkv_gpu_strides){PAGES * HEADS * block, PAGES * HEADS * block,
                                      PAGES * HEADS * block};
    }
    o->rows.codes = o->rows.scales = s->buffer;
    o->means = c->has_means ? s->buffer : NULL;

    size_t gap = c->is_odd ? size : 0;
    s->row = dim * size + gap;
    s->staged_size = LAYERS * STAGED * HEADS * TOKENS * s->row + 2 * gap;
    s->staged = malloc(s->staged_size);
    memset(s->staged, 0, s->staged_size);
    float *numbers = page_numbers(10 + (uint64_t)i, LAYERS * STAGED * HEADS * TOKENS, dim);
    for (size_t r = 0; r < LAYERS * STAGED * HEADS * TOKENS; r++)
        tqkv_from_f32(numbers + r * dim, dim, s->staged + gap + r * s->row, c->staged_type);
    free(numbers);
    s->staged_buffer = gpu_buffer(g, s->staged, s->staged_size);
    gpu_ok(g, tqkv_gpu_staged_at(dim, c->staged_type, s->staged_buffer, gap, HEADS, t));
    t->rows.code_stride = s->row;
    t->head.codes = TOKENS * s->row;
    t->page.codes = HEADS * t->head.codes;
    t->layer.codes = STAGED * t->page.codes;
}

static void fixture_make(fixture *x, const gpu_case *g, const shape *s)
{
    *x = (fixture){.g = g, .s = s};
    for (int i = 0; i < 2; i++)
        side_make(x, i);
    if (s->is_balanced) {
        size_t n = (size_t)LAYERS * HEADS * s->key_dim;
        x->sides[0].balance = test_rows(5, n);
        for (size_t i = 0; i < n; i++)
            x->sides[0].balance[i] = 0.5f + fabsf(x->sides[0].balance[i]);
        x->balances = gpu_buffer(g, x->sides[0].balance, n * 4);
        x->sides[0].sealed_at.balances = x->balances;
    }
    x->pages = (tqkv_gpu_pages){.n_layers = LAYERS, .n_kv_heads = HEADS, .n_pages = PAGES,
                                .keys = x->sides[0].sealed_at, .values = x->sides[1].sealed_at,
                                .staged = {.keys = x->sides[0].staged_at,
                                           .values = x->sides[1].staged_at, .n_pages = STAGED}};
}

static void fixture_free(fixture *x)
{
    for (int i = 0; i < 2; i++) {
        free(x->sides[i].memory);
        free(x->sides[i].staged);
        free(x->sides[i].balance);
        tqkv_buffer_free(x->sides[i].buffer);
        tqkv_buffer_free(x->sides[i].staged_buffer);
    }
    tqkv_buffer_free(x->balances);
}

static tqkv_page page_at(const side *s, uint32_t layer, uint32_t head, uint32_t page)
{
    const tqkv_gpu_operand *o = &s->sealed_at;
    tqkv_page p = {.format = s->f, .n_means = o->means != NULL};
    p.rows.codes = s->memory + o->rows.code_offset + layer * o->layer.codes +
                   page * o->page.codes + head * o->head.codes;
    p.rows.scales = s->memory + o->rows.scale_offset + layer * o->layer.scales +
                    page * o->page.scales + head * o->head.scales;
    p.rows.code_stride = o->rows.code_stride;
    p.rows.scale_stride = o->rows.scale_stride;
    if (o->means)
        p.means = s->memory + o->mean_offset + layer * o->layer.means + page * o->page.means +
                  head * o->head.means;
    return p;
}

static uint8_t *staged_at(const side *s, uint32_t layer, uint32_t head, uint32_t page)
{
    const tqkv_gpu_operand *o = &s->staged_at;
    return s->staged + o->rows.code_offset + layer * o->layer.codes + page * o->page.codes +
           head * o->head.codes;
}

static const float *balance_at(const side *s, uint32_t layer, uint32_t head)
{
    return s->balance ? s->balance + (size_t)(layer * HEADS + head) * s->f.head_dim : NULL;
}

static void check_same(const fixture *x, const char *what)
{
    for (int i = 0; i < 2; i++) {
        const side *s = &x->sides[i];
        uint8_t *got = malloc(s->size), *staged = malloc(s->staged_size);
        gpu_ok(x->g, tqkv_buffer_download(s->buffer, 0, got, s->size));
        gpu_ok(x->g, tqkv_buffer_download(s->staged_buffer, 0, staged, s->staged_size));
        for (size_t b = 0; b < s->size; b++)
            if (got[b] != s->memory[b])
                fail_msg("%s: byte %zu of %s pages %s is %02x, not %02x", what, b, i ? "values" : "keys",
                         i ? x->s->values : x->s->keys, got[b], s->memory[b]);
        assert_memory_equal(staged, s->staged, s->staged_size);
        free(got);
        free(staged);
    }
}

/* What a seal of these jobs has to make of the pages. */
static void expect_seal(fixture *x, const uint32_t (*jobs)[4], uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        uint64_t present = jobs[j][2] | (uint64_t)jobs[j][3] << 32;
        if (jobs[j][0] >= STAGED || jobs[j][1] >= PAGES || !present)
            continue;
        for (int i = 0; i < 2; i++)
            for (uint32_t at = 0; at < LAYERS * HEADS; at++) {
                side *s = &x->sides[i];
                uint32_t layer = at / HEADS, head = at % HEADS;
                tqkv_page p = page_at(s, layer, head, jobs[j][1]);
                size_t size = x->s->staged_type == TQKV_F32 ? 4 : 2;
                assert_int_equal(tqkv_page_seal(&p, balance_at(s, layer, head),
                                                staged_at(s, layer, head, jobs[j][0]),
                                                x->s->staged_type, s->row / size, present),
                                 TQKV_OK);
            }
    }
}

static const shape shapes[] = {
    {"tq4", "tq4", 128, 128, TQKV_F16, 0, 1, 0},
    {"tq4", "tq4", 64, 64, TQKV_F32, 1, 1, 1},
    {"tq4", "tq3", 80, 80, TQKV_BF16, 1, 1, 0},
    {"tq2", "tq8", 64, 64, TQKV_F16, 1, 1, 1},
    {"tq5", "lm4", 96, 32, TQKV_F16, 0, 1, 0},
    {"lm3", "lm4", 64, 64, TQKV_F32, 1, 1, 1},
    {"mlx4", "mlx8", 64, 64, TQKV_F16, 1, 1, 0},
    {"mlx5", "tq6", 512, 16, TQKV_BF16, 0, 1, 1},
    {"tq4", "tq4", 192, 256, TQKV_F16, 1, 1, 1},
    {"tq4", "mlx4", 32, 32, TQKV_BF16, 0, 0, 0},
    {"tq7", "lm2", 16, 48, TQKV_F32, 0, 0, 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void seals_are_the_processors(void **state)
{
    static const uint32_t jobs[][4] = {
        {1, 3, ~0u, ~0u},
        {2, 0, 0x80A00F01u, 0x40000000u},
        {0, 4, 0, 1},
        {STAGED, 1, ~0u, ~0u},
        {0, PAGES, ~0u, ~0u},
        {0xFFFFFFFFu, 0xFFFFFFF0u, ~0u, ~0u},
        {0, 1, 0, 0},
        {0, 2, ~0u, 0x00FFFFFFu},
        {1, 1, ~0u, ~0u}, /* behind the count */
    };
    enum { N = sizeof jobs / sizeof *jobs };
    for (size_t i = 0; i < SHAPES; i++) {
        fixture x;
        uint32_t count = N - 1;
        fixture_make(&x, *state, &shapes[i]);
        tqkv_buffer *list = gpu_buffer(x.g, jobs, sizeof jobs), *n = gpu_buffer(x.g, &count, 4);
        gpu_ok(x.g, tqkv_dispatch_seal(x.g->encoder, x.g->registry, &x.pages, list, n, N));
        gpu_run(x.g);
        expect_seal(&x, jobs, count);
        check_same(&x, "seal");
        tqkv_buffer_free(list);
        tqkv_buffer_free(n);
        fixture_free(&x);
    }
}

/* A graph that seals what there is to seal at each of its launches. */
static void graphs_seal_what_is_full(void **state)
{
    fixture x;
    tqkv_graph *graph;
    uint32_t jobs[4][4] = {{0}}, count = 0;
    fixture_make(&x, *state, &shapes[0]);
    tqkv_buffer *list = gpu_buffer(x.g, jobs, sizeof jobs), *n = gpu_buffer(x.g, &count, 4);
    gpu_ok(x.g, tqkv_dispatch_seal(x.g->encoder, x.g->registry, &x.pages, list, n, 4));
    gpu_ok(x.g, tqkv_encoder_finish_graph(x.g->encoder, &graph));
    for (uint32_t round = 0; round < 5; round++) {
        count = round == 4 ? 0xFFFFFFFFu : round % 3;
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t job[4] = {(round + j) % STAGED, (round + j) % PAGES, ~0u << round, j};
            memcpy(jobs[j], job, sizeof job);
        }
        gpu_ok(x.g, tqkv_buffer_upload(list, 0, jobs, sizeof jobs));
        gpu_ok(x.g, tqkv_buffer_upload(n, 0, &count, 4));
        gpu_ok(x.g, tqkv_graph_launch(graph, x.g->encoder));
        gpu_ok(x.g, tqkv_encoder_wait(x.g->encoder));
        expect_seal(&x, (const uint32_t (*)[4])jobs, count < 4 ? count : 4);
        check_same(&x, "a graph");
    }
    tqkv_graph_free(graph);
    tqkv_buffer_free(list);
    tqkv_buffer_free(n);
    fixture_free(&x);
}

/* ---- new rows ---- */

enum { ROWS = 9 };
static const uint32_t places[ROWS] = {3, 64 + 63, 0xFFFFFFFFu, 2 * 64, 5 * 64, 17, 4 * 64 + 9,
                                      0xFFFFFFC0u, 64 + 2};

typedef struct new_rows {
    tqkv_gpu_new_rows r;
    uint8_t *numbers[2];
    size_t size;
} new_rows;

/* Of two layers from layer 1 on, either without gaps or [head][layer][row] with some. */
static void rows_make(const fixture *x, tqkv_type type, int is_odd, new_rows *n)
{
    size_t dims[] = {x->s->key_dim, x->s->value_dim};
    n->size = type == TQKV_F32 ? 4 : 2;
    n->r = (tqkv_gpu_new_rows){.n_rows = ROWS, .type = type};
    n->r.places = gpu_buffer(x->g, places, sizeof places);
    for (int i = 0; i < 2; i++) {
        size_t count = 2 * ROWS * HEADS, row = dims[i] + (is_odd ? 3 : 0);
        float *numbers = page_numbers(30 + (uint64_t)i, count, (uint32_t)row);
        n->numbers[i] = malloc(count * row * n->size);
        tqkv_from_f32(numbers, count * row, n->numbers[i], type);
        free(numbers);
        *(i ? &n->r.values : &n->r.keys) = gpu_buffer(x->g, n->numbers[i], count * row * n->size);
        if (is_odd && i) {
            n->r.value_row_stride = row;
            n->r.value_layer_stride = ROWS * row;
            n->r.value_head_stride = 2 * ROWS * row;
        } else if (is_odd) {
            n->r.key_row_stride = row;
            n->r.key_layer_stride = ROWS * row;
            n->r.key_head_stride = 2 * ROWS * row;
        }
    }
}

static const uint8_t *new_row(const fixture *x, const new_rows *n, int i, int is_odd,
                              uint32_t layer, uint32_t row, uint32_t head)
{
    size_t dim = i ? x->s->value_dim : x->s->key_dim;
    size_t at = is_odd ? ((head * 2 + layer) * ROWS + row) * (dim + 3)
                       : ((layer * ROWS + row) * HEADS + head) * dim;
    return n->numbers[i] + at * n->size;
}

static void rows_free(new_rows *n)
{
    tqkv_buffer_free(n->r.places);
    tqkv_buffer_free(n->r.keys);
    tqkv_buffer_free(n->r.values);
    free(n->numbers[0]);
    free(n->numbers[1]);
}

static void stage_case(const gpu_case *g, const shape *s, tqkv_type type, int is_odd)
{
    fixture x;
    new_rows n;
    fixture_make(&x, g, s);
    rows_make(&x, type, is_odd, &n);
    gpu_ok(g, tqkv_dispatch_stage(g->encoder, g->registry, &x.pages, 1, 2, &n.r));
    gpu_run(g);
    for (int i = 0; i < 2; i++)
        for (uint32_t at = 0; at < 2 * ROWS * HEADS; at++) {
            uint32_t head = at % HEADS, row = at / HEADS % ROWS, layer = at / HEADS / ROWS;
            const uint8_t *from = new_row(&x, &n, i, is_odd, layer, row, head);
            uint32_t place = places[row], dim = x.sides[i].f.head_dim;
            float numbers[512];
            if (place / 64 >= STAGED)
                continue;
            tqkv_to_f32(from, type, dim, numbers);
            tqkv_from_f32(numbers, dim,
                          staged_at(&x.sides[i], layer + 1, head, place / 64) +
                              place % 64 * x.sides[i].row, s->staged_type);
        }
    check_same(&x, "stage");
    rows_free(&n);
    fixture_free(&x);
}

static void staging_copies_and_converts(void **state)
{
    for (int i = 0; i < 18; i++) {
        shape s = {"tq4", "tq4", i % 2 ? 64 : 80, i % 2 ? 128 : 80, (tqkv_type)(i % 3), 0, 1, i >= 9};
        stage_case(*state, &s, (tqkv_type)(i / 3 % 3), i % 4 > 1);
    }
}

/* Over pages that were sealed on the processor. */
static void written_rows_are_the_processors(void **state)
{
    static const uint32_t jobs[][4] = {{0, 0, ~0u, ~0u}, {1, 1, ~0u, 7}, {2, 4, 1, 0}, {1, 2, ~0u, ~0u}};
    for (size_t c = 0; c < SHAPES; c++) {
        fixture x;
        new_rows n;
        fixture_make(&x, *state, &shapes[c]);
        rows_make(&x, (tqkv_type)(c % 3), c % 2, &n);
        expect_seal(&x, jobs, 4);
        if (x.sides[0].sealed_at.means) { /* such as sealing does not make */
            tqkv_page p = page_at(&x.sides[0], 1, 0, 0);
            p.means[x.sides[0].f.head_dim + 1] |= 0x80;
        }
        for (int i = 0; i < 2; i++)
            gpu_ok(x.g, tqkv_buffer_upload(x.sides[i].buffer, 0, x.sides[i].memory, x.sides[i].size));
        gpu_ok(x.g, tqkv_dispatch_write(x.g->encoder, x.g->registry, &x.pages, 1, 2, &n.r));
        gpu_run(x.g);
        for (int i = 0; i < 2; i++)
            for (uint32_t at = 0; at < 2 * ROWS * HEADS; at++) {
                uint32_t head = at % HEADS, row = at / HEADS % ROWS, layer = at / HEADS / ROWS;
                tqkv_page p = page_at(&x.sides[i], layer + 1, head,
                                      places[row] / 64 < PAGES ? places[row] / 64 : 0);
                if (places[row] / 64 < PAGES)
                    assert_int_equal(
                        tqkv_page_write(&p, balance_at(&x.sides[i], layer + 1, head),
                                        places[row] % 64,
                                        new_row(&x, &n, i, c % 2, layer, row, head), n.r.type),
                        TQKV_OK);
            }
        check_same(&x, "write");
        rows_free(&n);
        fixture_free(&x);
    }
}

/* ---- reading ---- */

/* The numbers of page `number`, of head_dim floats a row. */
static void expect_read(const fixture *x, int i, uint32_t layer, uint32_t head, uint32_t number,
                        float *to)
{
    const side *s = &x->sides[i];
    uint32_t dim = s->f.head_dim, staged = number & ~TQKV_PAGE_STAGED;
    memset(to, 0, (size_t)TOKENS * dim * 4);
    if (number < PAGES) {
        tqkv_page p = page_at(s, layer, head, number);
        assert_int_equal(tqkv_page_read(&p, balance_at(s, layer, head), 0, TOKENS, TQKV_ORIGINAL, to, 0),
                         TQKV_OK);
    } else if (number & TQKV_PAGE_STAGED && staged < STAGED) {
        for (uint32_t r = 0; r < TOKENS; r++)
            tqkv_to_f32(staged_at(s, layer, head, staged) + r * s->row, x->s->staged_type, dim,
                        to + r * dim);
    }
}

static int is_nan(const uint8_t *p, tqkv_type type)
{
    float x;
    tqkv_to_f32(p, type, 1, &x);
    return x != x;
}

static void read_case(fixture *x, tqkv_type type, int has_gaps, unsigned sides)
{
    static const uint32_t numbers[] = {2, TQKV_PAGE_STAGED | 1, PAGES, 4, 0xFFFFFFFFu,
                                       TQKV_PAGE_STAGED | STAGED, 0x7FFFFFFFu, 0};
    enum { N = sizeof numbers / sizeof *numbers };
    const gpu_case *g = x->g;
    uint32_t dim = x->s->key_dim > x->s->value_dim ? x->s->key_dim : x->s->value_dim;
    size_t size = type == TQKV_F32 ? 4 : 2, head = dim + (has_gaps ? 1 : 0), row = HEADS * head;
    size_t bytes = N * TOKENS * row * size;
    tqkv_buffer *list = gpu_buffer(g, numbers, sizeof numbers), *to[2] = {NULL};
    float *numbers_f32 = malloc((size_t)TOKENS * 512 * 4);
    for (int i = 0; i < 2; i++)
        to[i] = sides >> i & 1 ? gpu_buffer(g, NULL, bytes) : NULL;
    gpu_ok(g, tqkv_dispatch_read(g->encoder, g->registry, &x->pages, 2, list, N, to[0], to[1], type,
                                 row, head));
    gpu_run(g);
    for (int i = 0; i < 2; i++) {
        uint8_t *got = to[i] ? gpu_take(g, to[i]) : NULL, *want = malloc(bytes);
        uint32_t n = x->sides[i].f.head_dim;
        memset(want, 0xA5, bytes);
        for (uint32_t at = 0; got && at < N * HEADS; at++) {
            expect_read(x, i, 2, at % HEADS, numbers[at / HEADS], numbers_f32);
            for (size_t r = 0; r < TOKENS; r++)
                tqkv_from_f32(numbers_f32 + r * n, n,
                              want + ((at / HEADS * TOKENS + r) * row + at % HEADS * head) * size, type);
        }
        for (size_t b = 0; got && b < bytes; b += size)
            if (memcmp(got + b, want + b, size) && !(is_nan(got + b, type) && is_nan(want + b, type)))
                fail_msg("read: number %zu of %s of %s/%s", b / size, i ? "values" : "keys",
                         x->s->keys, x->s->values);
        free(got);
        free(want);
    }
    free(numbers_f32);
    tqkv_buffer_free(list);
}

static void read_numbers_are_the_processors(void **state)
{
    static const uint32_t jobs[][4] = {{0, 0, ~0u, ~0u}, {1, 2, ~0u, 7}, {2, 4, 1, 0}};
    for (size_t c = 0; c < SHAPES; c++) {
        fixture x;
        fixture_make(&x, *state, &shapes[c]);
        for (int i = 0; i < 2; i++)
            memset(x.sides[i].memory, 0, x.sides[i].size);
        expect_seal(&x, jobs, 3);
        for (int i = 0; i < 2; i++)
            gpu_ok(x.g, tqkv_buffer_upload(x.sides[i].buffer, 0, x.sides[i].memory, x.sides[i].size));
        read_case(&x, (tqkv_type)(c % 3), c % 4 == 1, 3);
        read_case(&x, (tqkv_type)((c + 1) % 3), c % 4 == 2, 1 + c % 2);
        fixture_free(&x);
    }
}

/* ---- misuse ---- */

static void bad_layouts_are_refused(void **state)
{
    const gpu_case *g = *state;
    tqkv_format f = test_format("tq4", 128), bad = f;
    tqkv_gpu_operand o;
    size_t bytes;
    tqkv_buffer *b = gpu_buffer(g, NULL, 8736);
    bad.bits = 9;
    assert_int_equal(tqkv_gpu_page_bytes(&f, &bytes), TQKV_OK);
    assert_int_equal(bytes, 4368);
    assert_int_not_equal(tqkv_gpu_page_bytes(&bad, &bytes), TQKV_OK);
    assert_int_equal(tqkv_gpu_page_bytes(&f, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_gpu_page_bytes(NULL, &bytes), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_gpu_pages_at(&f, b, 0, 2, &o), TQKV_OK);
    assert_int_equal(o.mean_offset, 4224);
    assert_int_equal(o.page.means, 8736);
    assert_int_equal(tqkv_gpu_pages_at(&f, b, 0, 3, &o), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_gpu_pages_at(&f, b, 1, 2, &o), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_gpu_pages_at(&f, b, SIZE_MAX, UINT32_MAX, &o), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_gpu_pages_at(&f, b, 0, 0, &o), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_gpu_pages_at(&f, b, 0, 1, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_not_equal(tqkv_gpu_pages_at(&bad, b, 0, 1, &o), TQKV_OK);
    assert_int_equal(tqkv_gpu_pages_at(&f, NULL, 0, 1, &o), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_gpu_staged_at(72, TQKV_F16, b, 0, 1, &o), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_gpu_staged_at(24, TQKV_F16, b, 2, 2, &o), TQKV_OK);
    assert_int_equal(tqkv_gpu_staged_at(24, TQKV_F16, b, 1, 2, &o), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_gpu_staged_at(20, TQKV_F16, b, 0, 1, &o), TQKV_ERROR_FORMAT);
    assert_int_equal(tqkv_gpu_staged_at(65536 + 16, TQKV_F16, b, 0, 1, &o), TQKV_ERROR_FORMAT);
    assert_int_equal(tqkv_gpu_staged_at(16, (tqkv_type)7, b, 0, 1, &o), TQKV_ERROR_FORMAT);
    tqkv_buffer_free(b);
}

static void bad_calls_are_refused(void **state)
{
    const gpu_case *g = *state;
    static const shape good_shape = {"tq4", "tq4", 64, 64, TQKV_F16, 1, 1, 0};
    fixture x;
    new_rows n;
    fixture_make(&x, g, &good_shape);
    rows_make(&x, TQKV_F16, 0, &n);
    tqkv_buffer *jobs = gpu_buffer(g, NULL, 64), *out = gpu_buffer(g, NULL, 2 * TOKENS * HEADS * 64 * 2);
    tqkv_gpu_pages p;
    tqkv_gpu_new_rows r;
#define CALLS(E, R)                                                                                \
    const tqkv_status status[] = {                                                                 \
        tqkv_dispatch_stage(E, R, &p, 1, 2, &r), tqkv_dispatch_write(E, R, &p, 1, 2, &r),           \
        tqkv_dispatch_seal(E, R, &p, jobs, NULL, 4),                                               \
        tqkv_dispatch_read(E, R, &p, 2, jobs, 2, out, NULL, TQKV_F16, HEADS * 64, 64)}
    /* which: bits of the calls that have to fail: stage, write, seal, read */
#define BAD(change, which)                                                                         \
    do {                                                                                           \
        p = x.pages;                                                                               \
        r = n.r;                                                                                   \
        change;                                                                                    \
        CALLS(g->encoder, g->registry);                                                            \
        for (int i = 0; i < 4; i++)                                                                \
            if ((status[i] != TQKV_OK) != ((which) >> i & 1))                                      \
                fail_msg("line %d, call %d: %s", __LINE__, i, tqkv_status_string(status[i]));      \
    } while (0)
    BAD((void)p, 0);
    BAD(p.n_layers = 0, 15);
    BAD(p.n_layers = 2, 15 - 4);
    BAD(p.n_layers = LAYERS + 1, 15);
    BAD(p.n_layers = UINT32_MAX, 15);
    BAD(p.n_kv_heads = 0, 15);
    BAD(p.n_kv_heads = UINT32_MAX, 15);
    BAD(p.n_pages = 0, 14);
    BAD(p.n_pages = PAGES + 1, 14);
    BAD(p.n_pages = UINT32_MAX, 14);
    BAD(p.staged.n_pages = 0, 5);
    BAD(p.staged.n_pages = STAGED + 1, 13);
    BAD(p.keys.format.codebook = 0, 14);
    BAD(p.values.format.bits = 9, 14);
    BAD(p.keys.format.head_dim = 128, 14);
    BAD(p.staged.keys.format.head_dim = 48, 12);
    BAD(p.staged.values.format = p.keys.format, 13);
    BAD(p.staged.values.type = 9, 13);
    BAD(p.staged.values.rows.code_offset = 1, 13);
    BAD(p.staged.values.layer.codes += 1, 13);
    BAD(p.staged.values.rows.code_stride -= 2, 13);
    BAD(p.keys.rows.codes = NULL, 14);
    BAD(p.keys.rows.scales = NULL, 14);
    BAD(p.values.rows.code_stride = 31, 14);
    BAD(p.values.rows.scale_stride = (size_t)1 << 32, 14);
    BAD(p.values.head.means = SIZE_MAX / 2, 14);
    BAD(p.values.mean_offset = SIZE_MAX, 14);
    BAD(p.values.layer.scales = SIZE_MAX, 14);
    BAD(p.keys.balances = jobs, 14);
    BAD(p.keys.is_rotated = 1, 14);
    BAD(p.keys.means = NULL, 0);
    BAD(r.places = NULL, 3);
    BAD(r.places = p.keys.balances, 0);
    BAD(r.keys = NULL, 3);
    BAD(r.type = TQKV_F32, 3);
    BAD(r.type = (tqkv_type)3, 3);
    BAD(r.n_rows = ROWS + 1, 3);
    BAD(r.n_rows = UINT32_MAX, 3);
    BAD(r.value_layer_stride = 1 << 20, 3);
    BAD(r.value_head_stride = SIZE_MAX, 3);
    BAD(r.n_rows = 0, 0);
    p = x.pages;
    r = n.r;
    {
        CALLS(NULL, g->registry);
        for (int i = 0; i < 4; i++)
            assert_int_equal(status[i], TQKV_ERROR_ARGUMENT);
    }
    tqkv_encoder *e = g->encoder;
    tqkv_registry *registry = g->registry;
    assert_int_equal(tqkv_dispatch_stage(e, registry, NULL, 0, 1, &r), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_write(e, registry, &p, 0, 1, NULL), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_write(e, registry, &p, 3, 1, &r), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_write(e, registry, &p, 2, UINT32_MAX, &r), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_stage(e, registry, &p, 0, 0, &r), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_seal(e, registry, NULL, jobs, NULL, 4), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_seal(e, registry, &p, jobs, NULL, 5), TQKV_ERROR_BUFFER);
    assert_int_equal(tqkv_dispatch_seal(e, registry, &p, NULL, NULL, 4), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_dispatch_seal(e, registry, &p, NULL, NULL, 0), TQKV_OK);
#define READ(layer, list, n, keys, values, row, head) \
    tqkv_dispatch_read(e, registry, &p, layer, list, n, keys, values, TQKV_F16, row, head)
    assert_int_equal(READ(3, jobs, 2, out, out, 128, 64), TQKV_ERROR_ARGUMENT);
    assert_int_equal(READ(0, jobs, 2, NULL, NULL, 128, 64), TQKV_ERROR_ARGUMENT);
    assert_int_equal(READ(0, NULL, 2, out, NULL, 128, 64), TQKV_ERROR_ARGUMENT);
    assert_int_equal(READ(0, jobs, 17, out, NULL, 128, 64), TQKV_ERROR_BUFFER);
    assert_int_equal(READ(0, jobs, 2, out, NULL, 63, 64), TQKV_ERROR_BUFFER);
    assert_int_equal(READ(0, jobs, 2, out, NULL, 128, 63), TQKV_ERROR_BUFFER);
    assert_int_equal(READ(0, jobs, 2, out, NULL, 129, 64), TQKV_ERROR_BUFFER);
    assert_int_equal(READ(0, jobs, 2, out, NULL, SIZE_MAX / 2, 64), TQKV_ERROR_OVERFLOW);
    assert_int_equal(READ(0, jobs, 0, out, NULL, 128, 64), TQKV_OK);
    rows_free(&n);
    tqkv_buffer_free(jobs);
    tqkv_buffer_free(out);
    gpu_run(g); /* what was right */
    fixture_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seals_are_the_processors),
        cmocka_unit_test(graphs_seal_what_is_full),
        cmocka_unit_test(staging_copies_and_converts),
        cmocka_unit_test(written_rows_are_the_processors),
        cmocka_unit_test(read_numbers_are_the_processors),
        cmocka_unit_test(bad_layouts_are_refused),
        cmocka_unit_test(bad_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}

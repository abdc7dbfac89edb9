/* Containers of pages. */
#include "stream.h"
#include "tqkv_page.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* The largest size that was asked for since it was last set to 0. */
static size_t largest;

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size)
{
    largest = size > largest ? size : largest;
    return __real_realloc(old, size);
}

/* 70 tokens: a layer's last page has 6. */
enum { LAYERS = 2, TOKENS = 70, HEADS = 3, DIM = 48, ROWS = LAYERS * TOKENS * HEADS,
       FULL = TQKV_PAGE_TOKENS, LAST = TOKENS - FULL, HEADER = 64 };

static const char *const names[] = {"tq2",  "tq3",  "tq4", "tq5", "tq8",
                                    "tq4s", "tq4n", "lm2", "lm4"};
enum { N_NAMES = sizeof names / sizeof *names };

static tqkv_container_info info_of(const char *format)
{
    tqkv_container_info info = {.format = test_format(format, DIM), .n_layers = LAYERS,
                                .n_tokens = TOKENS, .n_heads = HEADS, .has_layer_axis = 1,
                                .is_paged = 1};
    return info;
}

/* Rows around a mean of two deviations, another for each layer and head. */
static float *some_rows(void)
{
    float *x = test_rows(2, ROWS * DIM), *mean = test_rows(3, LAYERS * HEADS * DIM);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < DIM; i++)
            x[row * DIM + i] +=
                2 * mean[(row / (TOKENS * HEADS) * HEADS + row % HEADS) * DIM + i];
    free(mean);
    return x;
}

static tqkv_profile *profile_of(void)
{
    tqkv_profile *p;
    assert_int_equal(tqkv_profile_create(LAYERS, HEADS, DIM, "m", &p), TQKV_OK);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < HEADS; h++) {
            float balance[DIM];
            for (uint32_t i = 0; i < DIM; i++)
                balance[i] = .5f + (float)((l * 31 + h * 17 + i * 7) % 16) / 8;
            assert_int_equal(tqkv_profile_set(p, l, h, balance), TQKV_OK);
        }
    return p;
}

static memory write_container(const tqkv_container_info *info, const tqkv_profile *p,
                              const float *x, size_t piece)
{
    memory m = {.fail_at = SIZE_MAX};
    tqkv_writer *w;
    assert_int_equal(tqkv_writer_create(info, p, memory_write, &m, &w), TQKV_OK);
    assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, ROWS + 1), TQKV_ERROR_STATE);
    for (size_t done = 0, n; done < ROWS; done += n) {
        assert_int_equal(tqkv_writer_finish(w), TQKV_ERROR_STATE);
        n = ROWS - done < piece ? ROWS - done : piece;
        assert_int_equal(tqkv_writer_append(w, x + done * DIM, TQKV_F32, n), TQKV_OK);
    }
    assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, 1), TQKV_ERROR_STATE);
    assert_int_equal(tqkv_writer_finish(w), TQKV_OK);
    tqkv_writer_free(w);
    return m;
}

/* All rows, or the error that ended reading; the rows before it are in y. */
static tqkv_status read_container(memory *m, float *y, size_t *n_rows, size_t most)
{
    tqkv_reader *r;
    m->at = *n_rows = 0;
    tqkv_status status = tqkv_reader_create(memory_read, m, &r);
    if (status != TQKV_OK)
        return status;
    float *piece = malloc(most * DIM * sizeof *piece);
    assert_non_null(piece);
    for (size_t n = 1; n && status == TQKV_OK;) {
        assert_int_equal(tqkv_reader_info(r)->format.head_dim, DIM);
        status = tqkv_reader_next(r, piece, most, &n);
        if (status == TQKV_OK) {
            assert_true(*n_rows + n <= ROWS);
            memcpy(y + *n_rows * DIM, piece, n * DIM * sizeof *y);
            *n_rows += n;
        }
    }
    free(piece);
    tqkv_reader_free(r);
    return status;
}

/* What the file has to hold from `at` on, and what it decodes to: pages sealed one by one. */
static size_t seal_by_hand(const tqkv_format *f, const tqkv_profile *p, const float *x,
                           const uint8_t *file, float *y)
{
    size_t bytes, at = 0, code, scale;
    tqkv_format_code_bytes(f, &code);
    tqkv_format_scale_bytes(f, &scale);
    assert_int_equal(tqkv_page_bytes(f, 1, &bytes), TQKV_OK);
    uint8_t *base = malloc(bytes);
    tqkv_page page;
    assert_int_equal(tqkv_page_at(f, 1, base, &page), TQKV_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (size_t token = 0, n = FULL; token < TOKENS; token += FULL, n = LAST) {
            at += 16;
            for (uint32_t head = 0; head < HEADS; head++) {
                const float *balance = NULL;
                size_t row = (layer * TOKENS + token) * HEADS + head;
                if (p)
                    tqkv_profile_balance(p, layer, head, &balance);
                assert_int_equal(tqkv_page_seal(&page, balance, x + row * DIM, TQKV_F32,
                                                HEADS * DIM, ~(uint64_t)0 >> (FULL - n)), TQKV_OK);
                assert_int_equal(tqkv_page_read(&page, balance, 0, n, TQKV_ORIGINAL,
                                                y + row * DIM, HEADS * DIM), TQKV_OK);
                assert_memory_equal(file + at, page.rows.codes, n * code);
                at += n * code;
                assert_memory_equal(file + at, page.rows.scales, n * scale);
                at += n * scale;
                assert_memory_equal(file + at, page.means, DIM + 2);
                at += DIM + 2;
            }
            at += 8;
        }
    free(base);
    return at;
}

static void files_are_pages_sealed_one_by_one(void **state)
{
    (void)state;
    float *x = some_rows(), *y = malloc(ROWS * DIM * sizeof *y);
    float *z = malloc(ROWS * DIM * sizeof *z);
    for (uint32_t with = 0; with < 2; with++)
        for (int i = 0; i < N_NAMES; i++) {
            tqkv_profile *p = with ? profile_of() : NULL;
            tqkv_container_info info = info_of(names[i]);
            memory m = write_container(&info, p, x, 100);
            size_t n, profile = 0;
            if (p)
                assert_int_equal(tqkv_profile_size(p, &profile), TQKV_OK);
            size_t begin = HEADER + (p ? profile + 24 : 0);
            size_t pages = seal_by_hand(&info.format, p, x, m.data + begin, z);
            assert_int_equal(m.size, begin + pages + 32);
            assert_int_equal(read_container(&m, y, &n, 50), TQKV_OK);
            assert_int_equal(n, ROWS);
            assert_memory_equal(y, z, ROWS * DIM * sizeof *y);
            free(m.data);
            tqkv_profile_free(p);
        }
    free(x);
    free(y);
    free(z);
}

/* mlx wants a power of two, and over 256 a row has more than one norm. */
static void mlx_rows_have_pages_too(void **state)
{
    enum { WIDE = 512, N = 65 };
    (void)state;
    float *x = test_rows(8, N * WIDE), y[WIDE], z[WIDE];
    tqkv_container_info info = {.format = test_format("mlx5", WIDE), .n_layers = 1, .n_tokens = N,
                                .n_heads = 1, .is_paged = 1};
    memory m = {.fail_at = SIZE_MAX};
    tqkv_writer *w;
    tqkv_reader *r;
    size_t n, bytes;
    for (int i = 0; i < N * WIDE; i++)
        x[i] += 3;
    assert_int_equal(tqkv_writer_create(&info, NULL, memory_write, &m, &w), TQKV_OK);
    assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, N), TQKV_OK);
    assert_int_equal(tqkv_writer_finish(w), TQKV_OK);
    tqkv_writer_free(w);
    assert_int_equal(tqkv_page_bytes(&info.format, 1, &bytes), TQKV_OK);
    uint8_t *base = malloc(bytes);
    tqkv_page page;
    assert_int_equal(tqkv_page_at(&info.format, 1, base, &page), TQKV_OK);
    assert_int_equal(tqkv_reader_create(memory_read, &m, &r), TQKV_OK);
    for (size_t t = 0; t < N; t++) {
        if (t % FULL == 0)
            assert_int_equal(tqkv_page_seal(&page, NULL, x + t * WIDE, TQKV_F32, 0,
                                            ~(uint64_t)0 >> (t ? 2 * FULL - N : 0)), TQKV_OK);
        assert_int_equal(tqkv_page_read(&page, NULL, t % FULL, 1, TQKV_ORIGINAL, z, 0), TQKV_OK);
        assert_int_equal(tqkv_reader_next(r, y, 1, &n), TQKV_OK);
        assert_int_equal(n, 1);
        assert_memory_equal(y, z, sizeof y);
    }
    assert_int_equal(tqkv_reader_next(r, y, 1, &n), TQKV_OK);
    assert_int_equal(n, 0);
    tqkv_reader_free(r);
    free(base);
    free(m.data);
    free(x);
}

/* The same file however rows come, the same rows however they are taken. */
static void pieces_do_not_matter(void **state)
{
    static const size_t pieces[] = {1, 2, 3, 5, 17, FULL * HEADS - 1, FULL * HEADS, TOKENS * HEADS,
                                    TOKENS * HEADS + 1, ROWS};
    (void)state;
    float *x = some_rows(), *y = malloc(ROWS * DIM * sizeof *y);
    float *z = malloc(ROWS * DIM * sizeof *z);
    tqkv_profile *p = profile_of();
    tqkv_container_info info = info_of("tq3");
    memory whole = write_container(&info, p, x, ROWS);
    size_t n;
    assert_int_equal(read_container(&whole, z, &n, ROWS), TQKV_OK);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        memory m = write_container(&info, p, x, pieces[i]);
        assert_int_equal(m.size, whole.size);
        assert_memory_equal(m.data, whole.data, m.size);
        free(m.data);
        memset(y, 0, ROWS * DIM * sizeof *y);
        assert_int_equal(read_container(&whole, y, &n, pieces[i]), TQKV_OK);
        assert_int_equal(n, ROWS);
        assert_memory_equal(y, z, ROWS * DIM * sizeof *y);
    }
    free(whole.data);
    tqkv_profile_free(p);
    free(x);
    free(y);
    free(z);
}

/* Rows of one page may come in different types. */
static void types_mix(void **state)
{
    (void)state;
    float *x = some_rows();
    uint16_t *half = malloc(ROWS * DIM * sizeof *half), *brain = malloc(ROWS * DIM * sizeof *brain);
    tqkv_container_info info = info_of("tq4");
    for (int i = 0; i < ROWS * DIM; i++)
        x[i] = rintf(x[i] * 16) / 16; /* exact in every type */
    assert_int_equal(tqkv_from_f32(x, ROWS * DIM, half, TQKV_F16), TQKV_OK);
    assert_int_equal(tqkv_from_f32(x, ROWS * DIM, brain, TQKV_BF16), TQKV_OK);
    memory one = write_container(&info, NULL, x, ROWS), m = {.fail_at = SIZE_MAX};
    tqkv_writer *w;
    assert_int_equal(tqkv_writer_create(&info, NULL, memory_write, &m, &w), TQKV_OK);
    for (size_t row = 0; row < ROWS; row += 10) {
        size_t at = row * DIM;
        const void *from[] = {x + at, half + at, brain + at};
        size_t type = row / 10 % 3;
        assert_int_equal(tqkv_writer_append(w, from[type], (tqkv_type)type, 10), TQKV_OK);
    }
    assert_int_equal(tqkv_writer_finish(w), TQKV_OK);
    tqkv_writer_free(w);
    assert_int_equal(m.size, one.size);
    assert_memory_equal(m.data, one.data, m.size);
    free(m.data);
    free(one.data);
    free(half);
    free(brain);
    free(x);
}

static void every_truncation_is_noticed(void **state)
{
    (void)state;
    float *x = some_rows(), *y = malloc(ROWS * DIM * sizeof *y);
    tqkv_profile *p = profile_of();
    tqkv_container_info info = info_of("tq2");
    memory m = write_container(&info, p, x, ROWS);
    size_t whole = m.size, n;
    for (m.size = 0; m.size < whole; m.size++)
        assert_int_not_equal(read_container(&m, y, &n, ROWS), TQKV_OK);
    m.data[whole] = 0; /* one byte too many */
    m.size = whole + 1;
    assert_int_equal(read_container(&m, y, &n, ROWS), TQKV_ERROR_CORRUPT);
    free(m.data);
    tqkv_profile_free(p);
    free(x);
    free(y);
}

/* One bit of any byte: an error, and what was decoded before it is what was there. */
static void every_damaged_byte_is_noticed(void **state)
{
    (void)state;
    float *x = some_rows(), *y = malloc(ROWS * DIM * sizeof *y);
    float *good = malloc(ROWS * DIM * sizeof *good);
    tqkv_container_info info = info_of("tq2");
    memory m = write_container(&info, NULL, x, ROWS);
    size_t n;
    assert_int_equal(read_container(&m, good, &n, ROWS), TQKV_OK);
    for (size_t bit = 0; bit < 8 * m.size; bit += bit < 8 * HEADER ? 1 : 7) {
        m.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(read_container(&m, y, &n, ROWS), TQKV_OK);
        assert_memory_equal(y, good, n * DIM * sizeof *y);
        m.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(m.data);
    free(x);
    free(y);
    free(good);
}

static void store(uint8_t *to, uint64_t value)
{
    for (int k = 0; k < 8; k++)
        to[k] = (uint8_t)(value >> 8 * k);
}

/* Makes checksums right, wherever the sizes say that one is. */
static void repair(memory *m)
{
    store(m->data + 56, XXH64(m->data, 56, 0));
    for (size_t at = HEADER; m->size - at >= 24;) {
        size_t size = 0;
        for (int k = 0; k < 8; k++)
            size |= (size_t)m->data[at + 8 + (size_t)k] << 8 * k;
        if (size > m->size - at - 24)
            break;
        store(m->data + at + 16 + size, XXH64(m->data + at, 16 + size, 0));
        at += 24 + size;
    }
}

/* What only checks of values can refuse. `at` is in the header or, from SECTION on, in the
 * first section. */
static void contradictions_are_refused(void **state)
{
    enum { SECTION = 1000 };
    static const struct {
        size_t at;
        uint8_t value;
        tqkv_status expected;
    } cases[] = {
        {8, 2, TQKV_ERROR_VERSION},         {8, 5, TQKV_ERROR_VERSION},
        {8, 3, TQKV_ERROR_CORRUPT}, /* rows that have pages */
        {16, 33, TQKV_ERROR_CORRUPT}, /* no whole number of bits */
        {22, 0, TQKV_ERROR_CORRUPT},        {22, 2, TQKV_ERROR_CORRUPT},
        {23, 1, TQKV_ERROR_CORRUPT},        {32, TOKENS - 1, TQKV_ERROR_CORRUPT},
        {32, TOKENS + 1, TQKV_ERROR_CORRUPT}, {32, FULL, TQKV_ERROR_CORRUPT},
        {40, HEADS - 1, TQKV_ERROR_CORRUPT}, {40, HEADS + 1, TQKV_ERROR_CORRUPT},
        {43, 0xFF, TQKV_ERROR_CORRUPT}, /* sections beyond the limit */
        {47, 0xFF, TQKV_ERROR_CORRUPT},     {39, 0xFF, TQKV_ERROR_CORRUPT},
        {24, LAYERS + 1, TQKV_ERROR_CORRUPT}, {24, LAYERS - 1, TQKV_ERROR_CORRUPT},
        {SECTION, 2, TQKV_ERROR_CORRUPT},   {SECTION, 5, TQKV_ERROR_CORRUPT},
        {SECTION, 3, TQKV_ERROR_CORRUPT},   {SECTION + 4, 1, TQKV_ERROR_CORRUPT},
        {SECTION + 8, 0, TQKV_ERROR_CORRUPT}, {SECTION + 15, 0x80, TQKV_ERROR_CORRUPT},
        {SECTION + 10, 0xFF, TQKV_ERROR_CORRUPT},
    };
    (void)state;
    float *x = some_rows(), *y = malloc(ROWS * DIM * sizeof *y);
    tqkv_container_info info = info_of("tq2");
    memory m = write_container(&info, NULL, x, ROWS);
    uint8_t *original = malloc(m.size);
    size_t n;
    memcpy(original, m.data, m.size);
    repair(&m);
    assert_memory_equal(original, m.data, m.size);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t at = cases[i].at < SECTION ? cases[i].at : cases[i].at - SECTION + HEADER;
        m.data[at] = cases[i].value;
        repair(&m);
        tqkv_status status = read_container(&m, y, &n, ROWS);
        if (status != cases[i].expected)
            fail_msg("case %zu: %d", i, (int)status);
        memcpy(m.data, original, m.size);
    }
    free(m.data);
    free(original);
    free(x);
    free(y);
}

/* Sections of rows, and one page more than there are tokens. */
static void sections_that_do_not_belong(void **state)
{
    (void)state;
    float *x = some_rows(), *y = malloc(ROWS * DIM * sizeof *y);
    tqkv_container_info info = info_of("tq2"), rows = info;
    size_t n, row = DIM / 4 + 2, full = HEADS * (FULL * row + DIM + 2) + 24;
    rows.is_paged = 0;
    memory m = write_container(&rows, NULL, x, ROWS);
    m.data[8] = 4, m.data[22] = 1;
    repair(&m);
    assert_int_equal(read_container(&m, y, &n, ROWS), TQKV_ERROR_CORRUPT);
    free(m.data);
    for (int last = 0; last < 2; last++) { /* the first section again, or the last */
        m = write_container(&info, NULL, x, ROWS);
        size_t end = m.size - 32, bytes = last ? HEADS * (LAST * row + DIM + 2) + 24 : full;
        m.data = realloc(m.data, m.size + bytes);
        assert_non_null(m.data);
        memmove(m.data + end + bytes, m.data + end, 32);
        memcpy(m.data + end, m.data + (last ? end - bytes : HEADER), bytes);
        m.size += bytes;
        assert_int_equal(read_container(&m, y, &n, ROWS), TQKV_ERROR_CORRUPT);
        assert_int_equal(n, ROWS);
        free(m.data);
    }
    free(x);
    free(y);
}

/* What becomes of a writer; if nothing, it has written nothing. */
static tqkv_status create(const tqkv_container_info *info, const tqkv_profile *p)
{
    memory m = {.fail_at = SIZE_MAX};
    tqkv_writer *w = NULL;
    tqkv_status status = tqkv_writer_create(info, p, memory_write, &m, &w);
    if (status != TQKV_OK) {
        assert_null(w);
        assert_int_equal(m.size, 0);
    }
    tqkv_writer_free(w);
    free(m.data);
    return status;
}

static void sections_have_a_limit(void **state)
{
    (void)state;
    tqkv_container_info info = {.format = test_format("tq8", 1024), .n_layers = 1,
                                .n_tokens = 1000, .n_heads = 1, .is_paged = 1};
    uint64_t page = 64 * (1024 + 2) + 1024 + 2, most = (1 << 24) / page;
    info.n_heads = most;
    assert_int_equal(create(&info, NULL), TQKV_OK);
    info.n_heads = most + 1;
    assert_int_equal(create(&info, NULL), TQKV_ERROR_OVERFLOW);
    info.is_paged = 0; /* rows have no such limit */
    assert_int_equal(create(&info, NULL), TQKV_OK);
    info.is_paged = 1;
    info.n_tokens = 20; /* which is all that a page has */
    assert_int_equal(create(&info, NULL), TQKV_OK);
    info.n_heads = (1 << 24) / (21 * 1026);
    assert_int_equal(create(&info, NULL), TQKV_OK);
    info.n_heads++;
    assert_int_equal(create(&info, NULL), TQKV_ERROR_OVERFLOW);
    info.n_heads = UINT64_MAX / 1024 / 8 / 20;
    assert_int_equal(create(&info, NULL), TQKV_ERROR_OVERFLOW);
    info.n_heads = UINT64_MAX;
    assert_int_equal(create(&info, NULL), TQKV_ERROR_OVERFLOW);
}

/* A small file that announces the largest section gets no memory for it. */
static void false_sizes_ask_for_little_memory(void **state)
{
    enum { WIDE = 1024, N_HEADS = 2 };
    (void)state;
    float *x = test_rows(4, N_HEADS * WIDE), y[WIDE];
    tqkv_container_info info = {.format = test_format("tq8", WIDE), .n_layers = 1, .n_tokens = 1,
                                .n_heads = N_HEADS, .is_paged = 1};
    memory m = {.fail_at = SIZE_MAX};
    tqkv_writer *w;
    tqkv_reader *r;
    size_t n;
    assert_int_equal(tqkv_writer_create(&info, NULL, memory_write, &m, &w), TQKV_OK);
    assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, N_HEADS), TQKV_OK);
    assert_int_equal(tqkv_writer_finish(w), TQKV_OK);
    tqkv_writer_free(w);
    m.data[32] = TQKV_PAGE_TOKENS;
    m.data[40] = (1 << 24) / (64 * (WIDE + 2) + WIDE + 2);
    store(m.data + HEADER + 8, m.data[40] * (64 * (WIDE + 2) + WIDE + 2));
    repair(&m);
    largest = 0;
    assert_int_equal(tqkv_reader_create(memory_read, &m, &r), TQKV_OK);
    assert_int_equal(tqkv_reader_next(r, y, 1, &n), TQKV_ERROR_TRUNCATED);
    assert_in_range(largest, 1, 1 << 20);
    tqkv_reader_free(r);
    free(m.data);
    free(x);
}

static void failing_sinks(void **state)
{
    (void)state;
    float *x = some_rows();
    tqkv_profile *p = profile_of();
    tqkv_container_info info = info_of("tq2");
    memory whole = write_container(&info, p, x, ROWS);
    for (size_t limit = 0; limit < whole.size; limit += 37) {
        memory m = {.fail_at = limit};
        tqkv_writer *w = NULL;
        tqkv_status status = tqkv_writer_create(&info, p, memory_write, &m, &w);
        for (size_t row = 0; status == TQKV_OK && row < ROWS; row += 70)
            status = tqkv_writer_append(w, x + row * DIM, TQKV_F32, 70);
        if (status == TQKV_OK)
            status = tqkv_writer_finish(w);
        assert_int_equal(status, TQKV_ERROR_IO);
        if (w) { /* also where there would be room again */
            m.fail_at = SIZE_MAX;
            assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, 0), TQKV_ERROR_IO);
            assert_int_equal(tqkv_writer_append_rows(w, x, 1), TQKV_ERROR_IO);
            assert_int_equal(tqkv_writer_finish(w), TQKV_ERROR_IO);
        }
        tqkv_writer_free(w);
        free(m.data);
    }
    free(whole.data);
    tqkv_profile_free(p);
    free(x);
}

static void wrong_calls(void **state)
{
    (void)state;
    float *x = some_rows(), *y = malloc(ROWS * DIM * sizeof *y);
    tqkv_container_info info = info_of("tq4");
    memory m = {.fail_at = SIZE_MAX};
    tqkv_writer *w;
    tqkv_reader *r;
    size_t n;
    info.is_paged = 2;
    assert_int_equal(create(&info, NULL), TQKV_ERROR_ARGUMENT);
    info.is_paged = 1;
    info.n_tokens = 0;
    assert_int_equal(create(&info, NULL), TQKV_ERROR_ARGUMENT);
    info.n_tokens = UINT64_MAX;
    assert_int_equal(create(&info, NULL), TQKV_ERROR_OVERFLOW);
    info = info_of("tq4");

    /* rows as they are: refused, and nothing has changed by it */
    memory good = write_container(&info, NULL, x, ROWS);
    assert_int_equal(tqkv_writer_create(&info, NULL, memory_write, &m, &w), TQKV_OK);
    assert_int_equal(tqkv_writer_append(w, x, TQKV_F32, 7), TQKV_OK);
    assert_int_equal(tqkv_writer_append_rows(w, x, 1), TQKV_ERROR_STATE);
    assert_int_equal(tqkv_writer_append_rows(w, x, 0), TQKV_ERROR_STATE);
    assert_int_equal(tqkv_writer_append(w, x, (tqkv_type)3, 1), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_writer_append(w, NULL, TQKV_F32, 1), TQKV_ERROR_ARGUMENT);
    assert_int_equal(tqkv_writer_append(w, x + 7 * DIM, TQKV_F32, ROWS - 7), TQKV_OK);
    assert_int_equal(tqkv_writer_finish(w), TQKV_OK);
    tqkv_writer_free(w);
    assert_int_equal(m.size, good.size);
    assert_memory_equal(m.data, good.data, m.size);

    assert_int_equal(tqkv_reader_create(memory_read, &m, &r), TQKV_OK);
    assert_int_equal(tqkv_reader_info(r)->is_paged, 1);
    assert_int_equal(tqkv_reader_next_rows(r, y, 1, &n), TQKV_ERROR_STATE);
    for (size_t row = 0; row < ROWS; row += n) {
        assert_int_equal(tqkv_reader_next(r, y, ROWS, &n), TQKV_OK);
        assert_in_range(n, 1, FULL * HEADS);
        assert_int_equal(tqkv_reader_next_rows(r, y, 1, &n), TQKV_ERROR_STATE);
    }
    assert_int_equal(tqkv_reader_next(r, y, ROWS, &n), TQKV_OK);
    assert_int_equal(n, 0);
    tqkv_reader_free(r);

    free(m.data);
    free(good.data);
    free(x);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_pages_sealed_one_by_one),
        cmocka_unit_test(mlx_rows_have_pages_too),
        cmocka_unit_test(pieces_do_not_matter),
        cmocka_unit_test(types_mix),
        cmocka_unit_test(every_truncation_is_noticed),
        cmocka_unit_test(every_damaged_byte_is_noticed),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(sections_that_do_not_belong),
        cmocka_unit_test(sections_have_a_limit),
        cmocka_unit_test(false_sizes_ask_for_little_memory),
        cmocka_unit_test(failing_sinks),
        cmocka_unit_test(wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

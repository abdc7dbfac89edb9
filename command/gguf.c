#include "gguf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

enum {
    KEY_LIMIT = 256,    /* bytes of a key that is kept; longer ones are none of ours */
    ARRAY_LIMIT = MODEL_LAYERS,
    ENTRIES_LIMIT = 1 << 20
};

/* The file's types of values. */
enum {
    UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64
};

/* A number, or up to ARRAY_LIMIT of them; n is 0 for what was not in the file. */
typedef struct numbers {
    uint64_t n;
    uint32_t value[ARRAY_LIMIT];
} numbers;

/* What counts for us. */
typedef struct metadata {
    char architecture[64], name[64];
    numbers layers, embedding, heads, kv_heads, key_dim, value_dim, window, pattern;
    numbers key_dim_swa, value_dim_swa;
} metadata;

typedef struct gguf {
    FILE *file;
    const char *path;
    metadata *m;
    int failed;
} gguf;

static void fail(gguf *g, const char *what)
{
    if (!g->failed)
        failed("%s: %s", g->path, what);
    g->failed = 1;
}

static uint64_t get(gguf *g, unsigned bytes)
{
    uint8_t data[8];
    uint64_t value = 0;
    if (g->failed || fread(data, 1, bytes, g->file) != bytes) {
        fail(g, "the file ends before its metadata do");
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)data[i] << 8 * i;
    return value;
}

static void skip(gguf *g, uint64_t bytes)
{
    char data[4096];
    while (!g->failed && bytes) {
        size_t step = bytes < sizeof data ? (size_t)bytes : sizeof data;
        if (fread(data, 1, step, g->file) != step)
            fail(g, "the file ends before its metadata do");
        bytes -= step;
    }
}

/* The first size - 1 bytes of a string. */
static void get_string(gguf *g, char *text, size_t size)
{
    uint64_t length = get(g, 8), kept = length < size - 1 ? length : size - 1;
    if (!g->failed && fread(text, 1, (size_t)kept, g->file) != kept)
        fail(g, "the file ends before its metadata do");
    text[g->failed ? 0 : kept] = 0;
    skip(g, length - kept);
}

static unsigned size_of(uint64_t type)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

static void get_value(gguf *g, uint64_t type, numbers *to);

static void get_array(gguf *g, numbers *to)
{
    uint64_t type = get(g, 4), n = get(g, 8);
    if (type == ARRAY) {
        fail(g, "arrays of arrays in metadata are not supported");
        return;
    }
    if (to && n > ARRAY_LIMIT)
        to = NULL; /* no array of layers */
    if (!to && size_of(type)) {
        if (n > UINT64_MAX / 8)
            fail(g, "an array is too long");
        skip(g, n * size_of(type));
        return;
    }
    for (uint64_t i = 0; i < n && !g->failed; i++)
        get_value(g, type, to);
}

/* Adds whole numbers to `to`, or skips what is there if it is null. */
static void get_value(gguf *g, uint64_t type, numbers *to)
{
    if (type == ARRAY) {
        get_array(g, to);
    } else if (type == STRING) {
        char text[1];
        get_string(g, text, sizeof text);
    } else if (!size_of(type)) {
        fail(g, "a value in the metadata has an unknown type");
    } else {
        uint64_t value = get(g, size_of(type));
        if (to && to->n < ARRAY_LIMIT && type != FLOAT32 && type != FLOAT64)
            to->value[to->n++] = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    }
}

/* Where a key's value goes; null for those that do not count. */
static numbers *place_of(metadata *m, const char *key)
{
    const struct {
        const char *suffix;
        numbers *place;
    } places[] = {{".block_count", &m->layers},
                  {".embedding_length", &m->embedding},
                  {".attention.head_count", &m->heads},
                  {".attention.head_count_kv", &m->kv_heads},
                  {".attention.key_length", &m->key_dim},
                  {".attention.value_length", &m->value_dim},
                  {".attention.key_length_swa", &m->key_dim_swa},
                  {".attention.value_length_swa", &m->value_dim_swa},
                  {".attention.sliding_window", &m->window},
                  {".attention.sliding_window_pattern", &m->pattern}};
    size_t prefix = strlen(m->architecture);
    if (!prefix || strncmp(key, m->architecture, prefix))
        return NULL;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (!strcmp(key + prefix, places[i].suffix))
            return places[i].place;
    return NULL;
}

/* general.architecture comes first, as files are written. */
static void get_entry(gguf *g)
{
    char key[KEY_LIMIT];
    get_string(g, key, sizeof key);
    uint64_t type = get(g, 4);
    if (type == STRING && !strcmp(key, "general.architecture"))
        get_string(g, g->m->architecture, sizeof g->m->architecture);
    else if (type == STRING && !strcmp(key, "general.name"))
        get_string(g, g->m->name, sizeof g->m->name);
    else {
        numbers *to = place_of(g->m, key);
        if (to)
            to->n = 0;
        get_value(g, type, to);
    }
}

static void get_metadata(gguf *g)
{
    if (get(g, 4) != 0x46554747) { /* GGUF */
        fail(g, "not a GGUF file");
        return;
    }
    uint64_t version = get(g, 4);
    if (version < 2 || version > 3) {
        fail(g, "a GGUF version that is not supported");
        return;
    }
    get(g, 8);
    uint64_t entries = get(g, 8);
    if (entries > ENTRIES_LIMIT)
        fail(g, "too many metadata");
    for (uint64_t i = 0; i < entries && !g->failed; i++)
        get_entry(g);
}

/* ---- from metadata to layers ---- */

/* The layer's value of what is one number or one for each layer. */
static uint32_t of_layer(const numbers *n, uint32_t layer, uint32_t otherwise)
{
    if (!n->n)
        return otherwise;
    return n->value[n->n == 1 ? 0 : layer < n->n ? layer : n->n - 1];
}

/* Of how many layers all but the last have a window, where the file does not say:
 * as llama.cpp has it for these architectures (src/llama-model.cpp). */
static uint32_t window_period(const char *architecture)
{
    static const struct {
        const char *architecture;
        uint32_t period;
    } periods[] = {{"gemma2", 2}, {"gemma3", 6}, {"gemma3n", 5}, {"gpt-oss", 2},
                   {"cohere2", 4}, {"exaone4", 4}, {"llama4", 4}, {"olmo2", 4}};
    for (size_t i = 0; i < sizeof periods / sizeof *periods; i++)
        if (!strcmp(architecture, periods[i].architecture))
            return periods[i].period;
    return 1; /* all layers */
}

static int has_window(const metadata *m, uint32_t layer)
{
    if (m->pattern.n > 1)
        return of_layer(&m->pattern, layer, 0) != 0;
    uint32_t period = of_layer(&m->pattern, 0, window_period(m->architecture));
    return period <= 1 || layer % period < period - 1;
}

static int check_layers(gguf *g, model_shape *s)
{
    const metadata *m = g->m;
    s->n_layers = of_layer(&m->layers, 0, 0);
    if (!s->n_layers || s->n_layers > MODEL_LAYERS || !m->heads.n) {
        fail(g, "its metadata do not tell layers and heads");
        return 0;
    }
    for (uint32_t i = 0; i < s->n_layers; i++) {
        uint32_t heads = of_layer(&m->heads, i, 0);
        uint32_t dim = heads ? of_layer(&m->embedding, 0, 0) / heads : 0;
        int windowed = m->window.n && m->window.value[0] && has_window(m, i);
        s->layers[i].n_kv_heads = heads ? of_layer(&m->kv_heads, i, heads) : 0;
        s->layers[i].key_dim = of_layer(&m->key_dim, i, dim);
        s->layers[i].value_dim = of_layer(&m->value_dim, i, dim);
        if (windowed) {
            s->layers[i].window = m->window.value[0];
            s->layers[i].key_dim = of_layer(&m->key_dim_swa, i, s->layers[i].key_dim);
            s->layers[i].value_dim = of_layer(&m->value_dim_swa, i, s->layers[i].value_dim);
        }
        if (s->layers[i].n_kv_heads > 65536 || s->layers[i].key_dim > 65536 ||
            s->layers[i].value_dim > 65536) {
            fail(g, "its metadata name sizes beyond reason");
            return 0;
        }
    }
    snprintf(s->name, sizeof s->name, "%s", m->name[0] ? m->name : m->architecture);
    for (char *c = s->name; *c; c++) /* it goes to a terminal */
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    return 1;
}

int gguf_read_shape(const char *path, model_shape *s)
{
    metadata *m = calloc(1, sizeof *m);
    gguf g = {.file = fopen(path, "rb"), .path = path, .m = m};
    int ok = 0;
    memset(s, 0, sizeof *s);
    if (!g.file || !m)
        failed("%s: %s", path, strerror(g.file ? ENOMEM : errno));
    else {
        get_metadata(&g);
        ok = !g.failed && check_layers(&g, s);
    }
    if (g.file)
        fclose(g.file);
    free(m);
    return ok;
}

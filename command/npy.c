/* The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#include "npy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "command.h"

enum { MAX_HEADER = 1 << 16 };

static int wrong(const npy *a, const char *what)
{
    failed("%s: not an array that tqkv takes: %s", a->path, what);
    return 0;
}

/* The text after 'key': in the header's dictionary. */
static const char *find_key(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    if (!at)
        return NULL;
    at += strlen(key);
    while (*at == ' ')
        at++;
    if (*at++ != ':')
        return NULL;
    while (*at == ' ')
        at++;
    return at;
}

static int parse_type(npy *a, const char *header, int bf16)
{
    const char *text = find_key(header, "'descr'");
    if (!text || (*text != '\'' && *text != '"'))
        return wrong(a, "its header has no 'descr'");
    text++;
    if (text[0] == '>')
        return wrong(a, "its numbers are big-endian; little-endian is expected");
    if (!strncmp(text, "<f4'", 4))
        a->type = TQKV_F32;
    else if (!strncmp(text, "<f2'", 4))
        a->type = TQKV_F16;
    else if (!strncmp(text, "<u2'", 4) && bf16)
        a->type = TQKV_BF16;
    else if (!strncmp(text, "<u2'", 4))
        return wrong(a, "its type is uint16; give --bf16 if that means bfloat16");
    else
        return wrong(a, "its type is not float16, float32 or (with --bf16) uint16");
    return 1;
}

static int parse_order(npy *a, const char *header)
{
    const char *text = find_key(header, "'fortran_order'");
    if (!text)
        return wrong(a, "its header has no 'fortran_order'");
    if (strncmp(text, "False", 5))
        return wrong(a, "it is in Fortran order; C order is expected");
    return 1;
}

static int parse_dimension(const char **text, uint64_t *value)
{
    char *end;
    if (**text < '0' || **text > '9')
        return 0;
    errno = 0;
    *value = strtoull(*text, &end, 10);
    if (errno)
        return 0;
    while (*end == ' ')
        end++;
    if (*end == ',')
        end++;
    else if (*end != ')')
        return 0;
    while (*end == ' ')
        end++;
    *text = end;
    return 1;
}

static int set_shape(npy *a, const uint64_t *shape, int n)
{
    a->has_layer_axis = n == 4;
    a->n_layers = n == 4 ? *shape++ : 1;
    a->n_tokens = *shape++;
    a->n_heads = *shape++;
    if (!a->n_layers || !a->n_tokens || !a->n_heads || !*shape)
        return wrong(a, "a dimension is 0; at least one layer, token, head and value are expected");
    if (*shape > UINT16_MAX) {
        failed("%s: head_dim %" PRIu64 ": %s", a->path, *shape,
               tqkv_status_string(TQKV_ERROR_HEAD_DIM_RANGE));
        return 0;
    }
    a->head_dim = (uint32_t)*shape;
    uint64_t bytes;
    if (__builtin_mul_overflow(a->n_layers, a->n_tokens, &a->n_rows) ||
        __builtin_mul_overflow(a->n_rows, a->n_heads, &a->n_rows) ||
        __builtin_mul_overflow(a->n_rows, (uint64_t)a->head_dim * 8, &bytes) ||
        bytes > INT64_MAX)
        return wrong(a, "the product of its dimensions is too large");
    return 1;
}

static int parse_shape(npy *a, const char *header)
{
    const char *text = find_key(header, "'shape'");
    uint64_t shape[4];
    int n = 0;
    if (!text || *text++ != '(')
        return wrong(a, "its header has no 'shape'");
    while (*text == ' ')
        text++;
    while (*text != ')') {
        if (n == 4)
            return wrong(a, "it has more than 4 dimensions");
        if (!parse_dimension(&text, &shape[n++]))
            return wrong(a, "its shape is not a tuple of whole numbers");
    }
    if (n < 3)
        return wrong(a, "it has fewer than 3 dimensions; [tokens, heads, head_dim] or "
                        "[layers, tokens, heads, head_dim] is expected");
    return set_shape(a, shape, n);
}

static int is_directory(FILE *file)
{
    struct stat status;
    return !fstat(fileno(file), &status) && S_ISDIR(status.st_mode);
}

int npy_read_header(npy *a, FILE *file, const char *path, int bf16)
{
    uint8_t start[12];
    memset(a, 0, sizeof *a);
    a->file = file;
    a->path = path;
    if (fileno(file) >= 0 && is_directory(file)) {
        failed("%s: is a directory; a .npy file is expected", path);
        return 0;
    }
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6))
        return wrong(a, "it does not begin as a .npy file does");
    size_t length = start[8] | (size_t)start[9] << 8;
    if (start[6] < 1 || start[6] > 3)
        return wrong(a, "its version is not 1, 2 or 3");
    if (start[6] > 1) {
        if (fread(start + 10, 1, 2, file) != 2)
            return wrong(a, "its header is cut short");
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (length > MAX_HEADER)
        return wrong(a, "its header is longer than 65536 bytes");
    char *header = allocate(length + 1, 1);
    if (!header)
        return 0;
    size_t got = fread(header, 1, length, file);
    header[got] = 0;
    int ok = got == length ? 1 : wrong(a, "its header is cut short");
    ok = ok && parse_type(a, header, bf16) && parse_order(a, header) && parse_shape(a, header);
    free(header);
    return ok;
}

int npy_open(npy *a, const char *path, int bf16)
{
    memset(a, 0, sizeof *a);
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!file) {
        failed("%s: %s", path, strerror(errno));
        return 0;
    }
    return npy_read_header(a, file, strcmp(path, "-") ? path : "standard input", bf16);
}

size_t npy_element_size(tqkv_type type)
{
    return type == TQKV_F32 ? 4 : 2;
}

int npy_read_rows(npy *a, void *rows, size_t n_rows)
{
    size_t row = a->head_dim * npy_element_size(a->type);
    if (fread(rows, row, n_rows, a->file) == n_rows)
        return 1;
    if (ferror(a->file))
        failed("%s: %s", a->path, strerror(errno));
    else
        failed("%s: the data is cut short; %" PRIu64 " rows of %zu bytes are expected",
               a->path, a->n_rows, row);
    return 0;
}

int npy_check_end(npy *a)
{
    if (fgetc(a->file) == EOF)
        return 1;
    failed("%s: data follows the array's last value", a->path);
    return 0;
}

void npy_close(npy *a)
{
    if (a->file && a->file != stdin)
        fclose(a->file);
    a->file = NULL;
}

float *npy_load(npy *a)
{
    size_t values = (size_t)a->n_rows * a->head_dim;
    float *loaded = allocate(values, sizeof *loaded);
    void *chunk = allocate(a->head_dim, npy_element_size(a->type));
    int ok = loaded && chunk;
    for (uint64_t r = 0; ok && r < a->n_rows; r++) {
        ok = npy_read_rows(a, chunk, 1);
        if (ok)
            tqkv_to_f32(chunk, a->type, a->head_dim, loaded + r * a->head_dim);
    }
    ok = ok && npy_check_end(a);
    free(chunk);
    if (!ok) {
        free(loaded);
        return NULL;
    }
    return loaded;
}

int npy_write_header(FILE *file, const npy *shape, tqkv_type type)
{
    static const char *const names[] = {"<f4", "<f2", "<u2"};
    char text[256];
    int length = snprintf(text, sizeof text,
                          "{'descr': '%s', 'fortran_order': False, 'shape': (", names[type]);
    if (shape->has_layer_axis)
        length += snprintf(text + length, sizeof text - (size_t)length, "%" PRIu64 ", ",
                           shape->n_layers);
    length += snprintf(text + length, sizeof text - (size_t)length,
                       "%" PRIu64 ", %" PRIu64 ", %" PRIu32 "), }", shape->n_tokens,
                       shape->n_heads, shape->head_dim);
    int padded = (10 + length + 1 + 63) / 64 * 64 - 10; /* data begins at a multiple of 64 */
    uint8_t start[10] = "\x93NUMPY\x01\x00";
    start[8] = (uint8_t)padded;
    start[9] = (uint8_t)(padded >> 8);
    fwrite(start, 1, sizeof start, file);
    fprintf(file, "%-*s\n", padded - 1, text);
    return !ferror(file);
}

#include "settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tqkv_page.h"

static const char *text_of(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

int settings_are_wanted(void)
{
    return text_of("TQKV_KV") || text_of("TQKV_CAPTURE");
}

/* A number in decimal digits up to `most`; 0 if it is none. */
static int read_number(const char *text, unsigned long long most, unsigned long long *number)
{
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *number <= most;
}

static int read_format(const char *text, size_t n, char name[TQKV_FORMAT_NAME_SIZE])
{
    tqkv_format format;
    if (n >= TQKV_FORMAT_NAME_SIZE)
        return 0;
    memcpy(name, text, n);
    name[n] = 0;
    return tqkv_format_parse(name, 128, &format) == TQKV_OK &&
           format.layout == TQKV_LAYOUT_ROW;
}

static int read_formats(const char *text, settings *s)
{
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    const char *values = slash ? slash + 1 : text;
    return read_format(text, n, s->formats[1]) && read_format(values, strlen(values), s->formats[0]);
}

const char *settings_read(settings *result)
{
    settings s = {.capture = text_of("TQKV_CAPTURE"), .capture_keys = 4096};
    const char *formats = text_of("TQKV_KV"), *recent = text_of("TQKV_RECENT");
    const char *strict = text_of("TQKV_STRICT"), *keys = text_of("TQKV_CAPTURE_KEYS");
    unsigned long long number = 0;
    if (!read_formats(formats ? formats : "tq8", &s))
        return "TQKV_KV is no format, as tq4, or two, as tq5/tq4 (keys/values)";
    if (recent && !read_number(recent, INT32_MAX, &number))
        return "TQKV_RECENT is no number of tokens";
    s.recent_pages = (uint32_t)((number + TQKV_PAGE_TOKENS - 1) / TQKV_PAGE_TOKENS);
    number = 0;
    if (strict && !read_number(strict, 1, &number))
        return "TQKV_STRICT is neither 0 nor 1";
    s.is_strict = (int)number;
    if (keys && (!read_number(keys, INT32_MAX, &number) || !number))
        return "TQKV_CAPTURE_KEYS is no number of keys";
    if (keys)
        s.capture_keys = (size_t)number;
    if (s.capture)
        s.recent_pages = INT32_MAX;
    *result = s;
    return NULL;
}

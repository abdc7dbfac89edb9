/* libnvrtc.so: takes any source but one with "#error" in it. */
#include <stdio.h>

#include "standin.h"
#include "gpu/cuda/api.h"

struct _nvrtcProgram {
    int is_bad;
};

#define DEFINE(name, ...) EXPORT nvrtcResult name(__VA_ARGS__); nvrtcResult name(__VA_ARGS__)
#define CALL()              \
    do {                    \
        if (standin_call()) \
            return 5;       \
    } while (0)

static const char log_text[] = "stand-in: line 1: error";

DEFINE(nvrtcCreateProgram, nvrtcProgram *program, const char *source, const char *name, int n,
       const char *const *headers, const char *const *names)
{
    (void)name;
    (void)n;
    (void)headers;
    (void)names;
    CALL();
    *program = calloc(1, sizeof **program);
    (*program)->is_bad = strstr(source, "#error") != NULL;
    return 0;
}

DEFINE(nvrtcDestroyProgram, nvrtcProgram *program)
{
    free(*program);
    *program = NULL;
    return 0;
}

DEFINE(nvrtcCompileProgram, nvrtcProgram program, int n, const char *const *options)
{
    (void)n;
    (void)options;
    CALL();
    return program->is_bad ? 6 : 0;
}

DEFINE(nvrtcGetProgramLogSize, nvrtcProgram program, size_t *size)
{
    (void)program;
    CALL();
    *size = sizeof log_text;
    return 0;
}

DEFINE(nvrtcGetProgramLog, nvrtcProgram program, char *log)
{
    (void)program;
    CALL();
    memcpy(log, log_text, sizeof log_text);
    return 0;
}

DEFINE(nvrtcGetCUBINSize, nvrtcProgram program, size_t *size)
{
    (void)program;
    CALL();
    *size = 8;
    return 0;
}

DEFINE(nvrtcGetCUBIN, nvrtcProgram program, char *code)
{
    (void)program;
    CALL();
    memcpy(code, "STANDIN", 8);
    return 0;
}

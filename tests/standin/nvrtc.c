/* libnvrtc.so: takes any source but one with "#error" in it. The kernel for tensor cores has
 * no host form: the C++ compiler makes it for cuda_emulation.h, and the machine code names
 * the library. */
#include <stdio.h>
#include <unistd.h>

#include "standin.h"
#include "gpu/cuda/api.h"

struct _nvrtcProgram {
    int is_bad;
    char *source; /* to be emulated, or null */
    char code[64];
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
    (void)n;
    (void)headers;
    (void)names;
    CALL();
    *program = calloc(1, sizeof **program);
    (*program)->is_bad = strstr(source, "#error") != NULL;
    if (!strcmp(name, "attend_tensor"))
        (*program)->source = strdup(source);
    strcpy((*program)->code, "STANDIN");
    return 0;
}

DEFINE(nvrtcDestroyProgram, nvrtcProgram *program)
{
    free((*program)->source);
    free(*program);
    *program = NULL;
    return 0;
}

/* Calls the kernel with arguments as a launch has them. */
static const char launcher[] =
    "extern \"C\" void emulate(unsigned blocks, unsigned threads, void **arguments)\n"
    "{\n"
    "    emulated_launch([](void **a) {\n"
    "        attend_tensor(*(uchar **)a[0], *(float **)a[1], *(uchar **)a[2],\n"
    "                      *(uchar **)a[3], *(uchar **)a[4], *(uchar **)a[5],\n"
    "                      *(uchar **)a[6], *(uchar **)a[7], *(uchar **)a[8],\n"
    "                      *(uchar **)a[9], *(uint **)a[10], *(uint **)a[11],\n"
    "                      *(uint **)a[12], *(float **)a[13], *(float **)a[14],\n"
    "                      *(uchar **)a[15], *(float **)a[16], *(uchar **)a[17],\n"
    "                      *(float **)a[18], *(float **)a[19], *(uint **)a[20], *(tensor_params *)a[21]);\n"
    "    }, blocks, threads, arguments);\n"
    "}\n";

/* "STANDIN", then the library's path. */
static int emulate(nvrtcProgram program, int n, const char *const *options)
{
    char library[] = "/tmp/emulated-XXXXXX", text[64], command[4096];
    int file = mkstemp(library), length;
    if (file < 0)
        return 0;
    close(file);
    snprintf(text, sizeof text, "%s.cpp", library);
    FILE *out = fopen(text, "w");
    if (!out)
        return 0;
    fprintf(out, "%s%s", program->source, launcher);
    fclose(out);
    length = snprintf(command, sizeof command,
                      "c++ -shared -fPIC -O1 -std=c++17 -w -include %s", EMULATION);
    if (getenv("TQKV_TEST_CUDA_ARCH"))
        length += snprintf(command + length, sizeof command - (size_t)length, " -D__CUDA_ARCH__=%s",
                           getenv("TQKV_TEST_CUDA_ARCH"));
    for (int i = 0; i < n; i++)
        if (!strncmp(options[i], "-D", 2))
            length += snprintf(command + length, sizeof command - (size_t)length, " %s", options[i]);
    snprintf(command + length, sizeof command - (size_t)length, " -o %s %s", library, text);
    int status = system(command);
    unlink(text);
    snprintf(program->code, sizeof program->code, "STANDIN%s", library);
    return status == 0;
}

DEFINE(nvrtcCompileProgram, nvrtcProgram program, int n, const char *const *options)
{
    CALL();
    if (program->source && !emulate(program, n, options))
        return 6;
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
    CALL();
    *size = strlen(program->code) + 1;
    return 0;
}

DEFINE(nvrtcGetCUBIN, nvrtcProgram program, char *code)
{
    CALL();
    strcpy(code, program->code);
    return 0;
}

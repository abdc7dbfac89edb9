/* Drivers are opened when a device is, and stay open: several of them do not
 * survive being unloaded. */
#include <dlfcn.h>

#include "gpu/gpu.h"

int driver_open(const char *const *libraries, const char *const *names, void **functions,
                size_t n, const char **missing)
{
    void *library = NULL;
    *missing = libraries[0];
    for (; !library && *libraries; libraries++)
        library = dlopen(*libraries, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0;
    for (size_t i = 0; i < n; i++) {
        functions[i] = dlsym(library, names[i]);
        if (!functions[i]) {
            *missing = names[i];
            return 0;
        }
    }
    return 1;
}

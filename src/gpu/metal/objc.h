/* Metal by the C interface of the Objective-C runtime, so that it builds without
 * Apple's headers. Messages: Metal and Foundation documentation, Apple.
 *
 * A method is called by its implementation, with the types it has: id, integers of
 * the size of a pointer, double, and structs by value. */
#ifndef TQKV_GPU_METAL_OBJC_H
#define TQKV_GPU_METAL_OBJC_H

#include <stddef.h>
#include <stdint.h>

typedef void *object;
typedef struct objc_selector *selector;

typedef struct group_size {
    uintptr_t width, height, depth;
} group_size; /* MTLSize */

#define OBJC_FUNCTIONS(X)                                                     \
    X("objc_getClass", object, get_class, (const char *))                     \
    X("object_getClass", object, class_of, (object))                          \
    X("sel_registerName", selector, get_selector, (const char *))             \
    X("class_getMethodImplementation", void *, implementation, (object, selector)) \
    X("objc_autoreleasePoolPush", void *, pool_push, (void))                  \
    X("objc_autoreleasePoolPop", void, pool_pop, (void *))

typedef struct objc_api {
#define MEMBER(symbol, type, member, parameters) type(*member) parameters;
    OBJC_FUNCTIONS(MEMBER)
#undef MEMBER
} objc_api;

static inline void *method_of(const objc_api *api, object o, const char *name, selector *s)
{
    *s = api->get_selector(name);
    return api->implementation(api->class_of(o), *s);
}

/* [o name], of a method that takes nothing more and returns `type`. */
#define DEFINE_SEND(function, type)                                                    \
    static inline type function(const objc_api *api, object o, const char *name)       \
    {                                                                                  \
        selector s;                                                                    \
        union {                                                                        \
            void *pointer;                                                             \
            type (*call)(object, selector);                                            \
        } method = {method_of(api, o, name, &s)};                                      \
        return method.call(o, s);                                                      \
    }

/* The same of one that takes `parameters` more, named in `arguments`. */
#define DEFINE_SEND_WITH(function, type, types, parameters, arguments)                 \
    static inline type function(const objc_api *api, object o, const char *name,       \
                                EXPAND parameters)                                     \
    {                                                                                  \
        selector s;                                                                    \
        union {                                                                        \
            void *pointer;                                                             \
            type (*call)(object, selector, EXPAND types);                              \
        } method = {method_of(api, o, name, &s)};                                      \
        return method.call(o, s, EXPAND arguments);                                    \
    }
#define EXPAND(...) __VA_ARGS__

DEFINE_SEND(send, object)
DEFINE_SEND(send_integer, uintptr_t)
DEFINE_SEND(send_double, double)
DEFINE_SEND(send_string, const char *)
DEFINE_SEND(send_nothing, void)
DEFINE_SEND_WITH(send_object, object, (object), (object a), (a))
DEFINE_SEND_WITH(send_text, object, (const char *), (const char *a), (a))
DEFINE_SEND_WITH(send_index, object, (uintptr_t), (uintptr_t a), (a))
DEFINE_SEND_WITH(send_flag, void, (signed char), (signed char a), (a))
DEFINE_SEND_WITH(set_object, void, (object), (object a), (a))
DEFINE_SEND_WITH(send_allocate, object, (uintptr_t, uintptr_t), (uintptr_t a, uintptr_t b), (a, b))
DEFINE_SEND_WITH(set_length, void, (uintptr_t, uintptr_t), (uintptr_t a, uintptr_t b), (a, b))
DEFINE_SEND_WITH(send_compile, object, (object, object, object *),
                 (object a, object b, object *error), (a, b, error))
DEFINE_SEND_WITH(send_pipeline, object, (object, object *), (object a, object *error), (a, error))
DEFINE_SEND_WITH(set_buffer, void, (object, uintptr_t, uintptr_t),
                 (object a, uintptr_t b, uintptr_t c), (a, b, c))
DEFINE_SEND_WITH(set_bytes, void, (const void *, uintptr_t, uintptr_t),
                 (const void *a, uintptr_t b, uintptr_t c), (a, b, c))
DEFINE_SEND_WITH(send_groups, void, (group_size, group_size), (group_size a, group_size b), (a, b))
DEFINE_SEND_WITH(send_copy, void, (object, uintptr_t, object, uintptr_t, uintptr_t),
                 (object a, uintptr_t b, object c, uintptr_t d, uintptr_t e), (a, b, c, d, e))

#endif

/* CUDA C on this processor: the threads of a block have a stack each, and meet where warps
 * or blocks do. For kernels whose blocks wait for no others; copies of the copy engine
 * are done at once, and their bytes are counted. */
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>

#define EMULATED 1
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif
#define __device__
#define __host__
#define __global__
#define __shared__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) ulong2 { unsigned long x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x; };

static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
static inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
static inline int __float2int_rn(float x) { return (int)lrintf(x); }
static inline float __fadd_rz(float x, float y) /* of numbers that are not negative */
{
    float sum = x + y;
    return (double)sum > (double)x + y ? nextafterf(sum, 0) : sum;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (n & 31));
}

/* ---- threads ---- */

enum { EMULATED_MAX_THREADS = 512, EMULATED_STACK = 256 << 10, WAITS_FOR_NONE = 0,
       WAITS_FOR_WARP, WAITS_FOR_BLOCK, HAS_ENDED };

struct emulated_block {
    ucontext_t scheduler, threads[EMULATED_MAX_THREADS];
    int waits[EMULATED_MAX_THREADS];
    unsigned n, current;
    uint32_t exchange[EMULATED_MAX_THREADS][8]; /* between the lanes of a warp */
    char *stacks;
    void (*body)(void **);
    void **arguments;
};

static emulated_block emulated;
static dim3 threadIdx, blockIdx, gridDim, blockDim;
alignas(128) ulong2 shared_memory[(256 << 10) / 16];

static void emulated_wait(int what)
{
    unsigned i = emulated.current;
    emulated.waits[i] = what;
    swapcontext(&emulated.threads[i], &emulated.scheduler);
    threadIdx.x = i;
}

static void emulated_main(void)
{
    emulated.body(emulated.arguments);
    emulated.waits[emulated.current] = HAS_ENDED;
    setcontext(&emulated.scheduler);
}

/* Lets those go on who wait for a warp, or the block, that is all there. */
static int emulated_release(unsigned first, unsigned end, int what)
{
    int n = 0;
    for (unsigned i = first; i < end; i++) {
        if (emulated.waits[i] != what && emulated.waits[i] != HAS_ENDED)
            return 0;
        n += emulated.waits[i] == what;
    }
    for (unsigned i = first; i < end; i++)
        if (emulated.waits[i] == what)
            emulated.waits[i] = WAITS_FOR_NONE;
    return n;
}

static void emulated_run_block(void)
{
    for (unsigned i = 0; i < emulated.n; i++) {
        ucontext_t *t = &emulated.threads[i];
        getcontext(t);
        t->uc_stack.ss_sp = emulated.stacks + (size_t)i * EMULATED_STACK;
        t->uc_stack.ss_size = EMULATED_STACK;
        t->uc_link = NULL;
        makecontext(t, emulated_main, 0);
        emulated.waits[i] = WAITS_FOR_NONE;
    }
    memset(shared_memory, 0xA5, sizeof shared_memory);
    for (int released = 1; released;) {
        for (unsigned i = 0; i < emulated.n; i++)
            if (emulated.waits[i] == WAITS_FOR_NONE) {
                emulated.current = i;
                threadIdx.x = i;
                swapcontext(&emulated.scheduler, &emulated.threads[i]);
            }
        released = emulated_release(0, emulated.n, WAITS_FOR_BLOCK);
        for (unsigned i = 0; i < emulated.n; i += 32)
            released += emulated_release(i, i + 32, WAITS_FOR_WARP);
    }
    for (unsigned i = 0; i < emulated.n; i++)
        if (emulated.waits[i] != HAS_ENDED) {
            fprintf(stderr, "emulation: thread %u waits for ever\n", i);
            abort();
        }
}

static void emulated_launch(void (*body)(void **), unsigned blocks, unsigned threads,
                            void **arguments)
{
    emulated.body = body;
    emulated.arguments = arguments;
    emulated.n = threads;
    emulated.stacks = (char *)mmap(NULL, (size_t)threads * EMULATED_STACK, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        emulated_run_block();
    munmap(emulated.stacks, (size_t)threads * EMULATED_STACK);
}

static inline void __syncthreads(void) { emulated_wait(WAITS_FOR_BLOCK); }
static inline void __syncwarp(void) { emulated_wait(WAITS_FOR_WARP); }

/* ---- between lanes ---- */

static inline uint32_t *emulated_lane(unsigned lane)
{
    return emulated.exchange[emulated.current / 32 * 32 + lane];
}

/* What each lane of the warp has, seen by all until the next such call. */
static inline void emulated_give(const uint32_t *x, int n)
{
    __syncwarp(); /* until all have read what was there before */
    memcpy(emulated_lane(emulated.current % 32), x, 4 * (size_t)n);
    __syncwarp();
}

template <class T> static inline T emulated_from(T x, unsigned lane)
{
    uint32_t words[2] = {};
    memcpy(words, &x, sizeof x);
    emulated_give(words, 2);
    memcpy(&x, emulated_lane(lane % 32), sizeof x);
    return x;
}

template <class T> static inline T __shfl_sync(unsigned, T x, unsigned lane) { return emulated_from(x, lane); }
template <class T> static inline T __shfl_xor_sync(unsigned, T x, unsigned mask)
{
    return emulated_from(x, emulated.current % 32 ^ mask);
}
template <class T> static inline T __shfl_up_sync(unsigned, T x, unsigned n)
{
    unsigned lane = emulated.current % 32;
    return emulated_from(x, lane < n ? lane : lane - n);
}

static inline unsigned __ballot_sync(unsigned, int x)
{
    uint32_t mine = x != 0, all = 0;
    emulated_give(&mine, 1);
    for (unsigned i = 0; i < 32; i++)
        all |= *emulated_lane(i) << i;
    return all;
}

static inline int __any_sync(unsigned mask, int x) { return __ballot_sync(mask, x) != 0; }

static inline unsigned __reduce_add_sync(unsigned, unsigned x)
{
    uint32_t sum = 0;
    emulated_give(&x, 1);
    for (unsigned i = 0; i < 32; i++)
        sum += *emulated_lane(i);
    return sum;
}

/* ---- instructions (kernels/tensor_instructions.h) ---- */

typedef unsigned char uchar;
typedef unsigned short ushort;

static inline unsigned prmt(unsigned a, unsigned b, unsigned selector)
{
    uint64_t table = (uint64_t)b << 32 | a;
    unsigned d = 0;
    for (int i = 0; i < 4; i++) {
        unsigned n = selector >> 4 * i & 15, byte = table >> 8 * (n & 7) & 255;
        d |= (n & 8 ? byte & 128 ? 255u : 0u : byte) << 8 * i;
    }
    return d;
}

static inline unsigned complement(unsigned x, unsigned) { return ~x; }

/* PTX ISA, "Matrix fragments for mma.m16n8k32". */
template <class B> static inline void emulated_mma(int *c, const unsigned *a, const unsigned *b)
{
    uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    unsigned lane = emulated.current % 32;
    emulated_give(words, 6);
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 32; k++) {
            const uint32_t *from_a = emulated_lane(row % 8 * 4 + k % 16 / 4);
            const uint32_t *from_b = emulated_lane(column * 4 + k % 16 / 4);
            int8_t x = (int8_t)(from_a[row / 8 + k / 16 * 2] >> k % 4 * 8);
            B y = (B)(from_b[4 + k / 16] >> k % 4 * 8);
            c[i] += x * y;
        }
    }
}

static inline void mma_signed(int *c, const unsigned *a, const unsigned *b) { emulated_mma<int8_t>(c, a, b); }
static inline void mma_signed_first(int *c, const unsigned *a, const unsigned *b)
{
    c[0] = c[1] = c[2] = c[3] = 0;
    mma_signed(c, a, b);
}
static inline void mma_unsigned(int *c, const unsigned *a, const unsigned *b) { emulated_mma<uint8_t>(c, a, b); }

static inline unsigned transposed(unsigned x)
{
    unsigned lane = emulated.current % 32, row = lane / 4, d = 0;
    emulated_give(&x, 1);
    for (unsigned i = 0; i < 2; i++) {
        unsigned column = lane % 4 * 2 + i; /* element (row, column) of the result is (column, row) */
        d |= (*emulated_lane(column * 4 + row / 2) >> row % 2 * 16 & 0xFFFF) << 16 * i;
    }
    return d;
}

static inline float power2(float x) { return exp2f(x); }
static inline float logarithm2(float x) { return log2f(x); }
static inline unsigned counter_add(unsigned *counter) { return (*counter)++; }

enum { HAS_ENGINE = __CUDA_ARCH__ >= 900 };
static inline bool is_elected(void) { return threadIdx.x % 32 == 0; }
static inline void barrier_init(unsigned long *b) { *b = 0; }
static inline void barrier_expect(unsigned long *b, unsigned n) { *b += n; }
static inline void barriers_publish(void) {}
static inline void await_launch_before(void) {}

static inline void emulated_check(bool is_good, const char *what)
{
    if (!is_good) {
        fprintf(stderr, "emulation: %s\n", what);
        abort();
    }
}

static inline void barrier_wait(unsigned long *b, unsigned)
{
    __syncwarp(); /* all lanes have started their copies */
    emulated_check(*b == 0, "a barrier counts other bytes than are copied");
}

static inline void engine_copy(void *to, const uchar *from, unsigned n, unsigned long *b)
{
    emulated_check((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0 && n % 16 == 0 && n,
                   "the copy engine moves 16 bytes");
    memcpy(to, from, n);
    *b -= n;
}

static inline void warp_copy(uchar *to, const uchar *from, unsigned n, unsigned lane)
{
    emulated_check((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0 && n % 16 == 0,
                   "copies move 16 bytes");
    for (unsigned i = 16 * lane; i < n; i += 512)
        memcpy(to + i, from + i, 16);
}

static inline void piece_copy(uchar *to, const uchar *from, unsigned n)
{
    emulated_check((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0 && n && n <= 16,
                   "a piece has 1 to 16 bytes");
    memset(to, 0, 16);
    memcpy(to, from, n);
}

static inline void warp_copies_mark(void) {}
static inline void warp_copies_wait(void) {}

static inline float f16_to_float(ushort x)
{
    unsigned sign = (x & 0x8000u) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
    if (exponent == 31)
        return __uint_as_float(sign | 0x7F800000u | fraction << 13);
    if (exponent)
        return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
}

static inline ushort f16_from_float(float x)
{
    _Float16 h = (_Float16)x;
    ushort u;
    memcpy(&u, &h, 2);
    return u;
}

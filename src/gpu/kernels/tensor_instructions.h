#pragma once
/* The instructions of attend_tensor.cu that CUDA C has no name for. Tests on a processor
 * (tests/standin/cuda_emulation.h) have functions in their place. */
#ifndef EMULATED

INLINE uint shared_address(const void *p)
{
    return (uint)__cvta_generic_to_shared(p);
}

INLINE uint prmt(uint a, uint b, uint selector)
{
    uint d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

/* ~x as -x - 1, by multiply-add: the lanes that do logic have more to do. */
INLINE uint complement(uint x, uint minus_one)
{
    uint d;
    asm("mad.lo.u32 %0, %1, %2, %2;" : "=r"(d) : "r"(x), "r"(minus_one));
    return d;
}

/* c += a b; a: levels, b: signed digits of queries, or unsigned ones of weights. */
INLINE void mma_signed(int *c, const uint *a, const uint *b)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* c = a b. */
INLINE void mma_signed_first(int *c, const uint *a, const uint *b)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
        "{%10,%10,%10,%10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(0));
}

INLINE void mma_unsigned(int *c, const uint *a, const uint *b)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* An 8 x 8 matrix of 16-bit elements, transposed over the warp. */
INLINE uint transposed(uint x)
{
    uint d;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(x));
    return d;
}

INLINE float power2(float x)
{
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

INLINE float logarithm2(float x)
{
    float d;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

/* ---- copies into shared memory ----
 * sm_90: the copy engine, whose bytes a barrier counts. Before: 16 bytes a lane. */
#if __CUDA_ARCH__ >= 900
enum { HAS_ENGINE = 1 };

/* One lane of a warp, as the compiler likes it where one lane is enough. */
INLINE bool is_elected(void)
{
    uint d;
    asm volatile("{\n .reg .pred p;\n elect.sync _|p, 0xffffffff;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(d));
    return d != 0;
}

INLINE void barrier_init(ulong *barrier)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)));
}

INLINE void barrier_expect(ulong *barrier, uint n)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 ::"r"(shared_address(barrier)), "r"(n) : "memory");
}

INLINE void barrier_wait(ulong *barrier, uint parity)
{
    asm volatile("{\n .reg .pred p;\n AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 " @!p bra AGAIN;\n}" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
}

INLINE void engine_copy(void *to, const uchar *from, uint n, ulong *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(to)), "l"(from), "r"(n), "r"(shared_address(barrier)) : "memory");
}

INLINE void barriers_publish(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

INLINE void await_launch_before(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
}
#else
enum { HAS_ENGINE = 0 };
INLINE bool is_elected(void)
{
    return threadIdx.x % 32 == 0;
}
INLINE void barrier_init(ulong *) {}
INLINE void barrier_expect(ulong *, uint) {}
INLINE void barrier_wait(ulong *, uint) {}
INLINE void engine_copy(void *, const uchar *, uint, ulong *) {}
INLINE void barriers_publish(void) {}
INLINE void await_launch_before(void) {}
#endif

/* n bytes, a multiple of 16, by a warp. */
INLINE void warp_copy(uchar *to, const uchar *from, uint n, uint lane)
{
    for (uint i = 16 * lane; i < n; i += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to + i)),
                     "l"(from + i) : "memory");
}

/* n bytes from 1 to 16, of 16 that begin at a multiple of it; the others become 0. */
INLINE void piece_copy(uchar *to, const uchar *from, uint n)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(n) : "memory");
}

INLINE void warp_copies_mark(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

INLINE void warp_copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
}

/* One more in memory, where blocks meet: what they wrote before is seen by who reads after. */
INLINE uint counter_add(uint *counter)
{
    uint before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(before) : "l"(counter) : "memory");
    return before;
}

#endif

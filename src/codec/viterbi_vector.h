/*
 * The trellis search of scalar.c on vectors of int32, the same text for every
 * instruction set. The includer defines
 *
 *   TARGET               the function attribute
 *   LANES, vec           4, 8 or 16 int32 and their type
 *   vec_load, vec_store  from and to int32_t[LANES], any alignment
 *   vec_set1, vec_add, vec_sub, vec_min, vec_and, vec_times_16
 *   vec_repeat_4(p)      p[0] ... p[3], p[0] ...
 *   vec_repeat_8(p)      likewise, if there are 16 lanes, and then also
 *   vec_transpose_8(v)   in place, 8 x 8 lanes in 4 vectors
 *   vec_operand(v)       lanes of 16-bit ints as vec_multiply_add takes them
 *   vec_multiply_add(x, y, sum)        x * y + sum, x and y as operands
 *   vec_store_bytes(p, v)              the low bytes of LANES lanes
 *   vec_least(v)                       the least lane
 *
 * Window w of node n (after) is w = n << bits | branch, and its level is
 * a[w >> 4] + b[w & 15] (three taps come below). With A = w >> 4, q = w & 15
 * and u = target - 2 a[A],
 *
 *   (target - level)^2 = u^2 - 2 u (2 b[q]) + (2 b[q])^2,
 *
 * so that over all A side by side (16 of them: the lanes) and one q after the
 * other, a step costs a multiply-add and a minimum: the last term joins the
 * old node's cost, the first is added at the end. From 4 bits on, the old
 * node depends on q alone, and 2^(bits - 4) neighbouring A lead to the same
 * node; with 2 it depends on A's low bits too, and an A leads to 4 nodes, one for
 * each group of q.
 *
 * A lane packs a path's cost, times 16, above its q, so that one minimum keeps
 * both and, of equal costs, the lowest branch, as in the scalar code. Costs
 * are reduced by their minimum every RENORMALISE steps; they stay below
 * 16 (BLOCKED + 8 (TARGET_LIMIT + 256)^2) < 2^27.
 */

#define BLOCKED_COST (1 << 21)
#define RENORMALISE 4
#define VECTORS (16 / LANES)
#define INLINE static inline __attribute__((always_inline))

typedef struct step_tables {
    int32_t a[16];              /* 2 a, to subtract from targets */
    int32_t minus_b[16][LANES]; /* operands of -2 * 16 * 2 b */
    int32_t b_square[16];       /* 16 (2 b)^2 + q */
} step_tables;

TARGET INLINE void step_tables_init(step_tables *s, const trellis_plan *p)
{
    for (unsigned i = 0; i < 16; i++) {
        int b = p->table->b[i] * 2;
        s->a[i] = p->table->a[i] * 2;
        vec_store(s->minus_b[i], vec_operand(vec_set1(-32 * b)));
        s->b_square[i] = 16 * b * b + (int)i;
    }
}

/* Costs of the old nodes, b_square added: cost[q], and for 2 bits
 * cost[q * width + A % width], with width = nodes / 16. */
TARGET INLINE vec old_cost(const int32_t *cost, unsigned q, const unsigned bits)
{
    return bits == 2 ? vec_repeat_4(cost + 4 * q) : vec_set1(cost[q]);
}

/* One step for all windows: best[g * 16 + A] for group g of q, as cost * 16 + q. */
TARGET INLINE void all_windows(const step_tables *s, int target, const int32_t *cost,
                               int32_t *best, const unsigned bits)
{
    const unsigned groups = bits < 4 ? 16u >> bits : 1, size = 16 / groups;
    vec u[VECTORS], square[VECTORS];
    for (unsigned v = 0; v < VECTORS; v++) {
        vec x = vec_sub(vec_set1(target), vec_load(s->a + v * LANES));
        u[v] = vec_operand(x);
        square[v] = vec_multiply_add(u[v], vec_operand(vec_times_16(x)), vec_set1(0));
    }
    for (unsigned g = 0; g < groups; g++) {
        vec least[VECTORS][2];
        for (unsigned v = 0; v < VECTORS; v++)
            least[v][0] = least[v][1] = vec_set1(INT32_MAX);
        for (unsigned q = g * size; q < (g + 1) * size; q++) {
            vec old = old_cost(cost, q, bits);
            vec b = vec_load(s->minus_b[q]);
            for (unsigned v = 0; v < VECTORS; v++)
                least[v][q & 1] = vec_min(least[v][q & 1], vec_multiply_add(u[v], b, old));
        }
        for (unsigned v = 0; v < VECTORS; v++)
            vec_store(best + g * 16 + v * LANES,
                      vec_add(vec_min(least[v][0], least[v][1]), square[v]));
    }
}

/* all_windows for 4 bits, into registers, from NARROW old nodes: several minima
 * side by side, because one chain would be what the step waits for. */
TARGET INLINE void best_of_16(const step_tables *s, int target, const int32_t *cost,
                              unsigned from, vec *best)
{
    enum { CHAINS = LANES == 4 ? 1 : LANES / 4 };
    vec u[VECTORS], square[VECTORS], least[VECTORS][CHAINS];
    for (unsigned v = 0; v < VECTORS; v++) {
        vec x = vec_sub(vec_set1(target), vec_load(s->a + v * LANES));
        u[v] = vec_operand(x);
        square[v] = vec_multiply_add(u[v], vec_operand(vec_times_16(x)), vec_set1(0));
    }
    for (unsigned q = 0; q < NARROW; q++) {
        vec old = vec_set1(cost[from + q]), b = vec_load(s->minus_b[from + q]);
        for (unsigned v = 0; v < VECTORS; v++) {
            vec c = vec_multiply_add(u[v], b, old);
            least[v][q % CHAINS] = q < CHAINS ? c : vec_min(least[v][q % CHAINS], c);
        }
    }
    for (unsigned v = 0; v < VECTORS; v++) {
        vec m = least[v][0];
        for (unsigned c = 1; c < CHAINS; c++)
            m = vec_min(m, least[v][c]);
        best[v] = vec_add(m, square[v]);
    }
}

/* From best to nodes in order: node_cost[n] = cost * 16, survivor[n] = branch. */
TARGET INLINE void into_nodes(const int32_t *best, int32_t *node_cost,
                              uint8_t *survivor, const unsigned bits)
{
    const unsigned nodes = 256u >> bits;
    for (unsigned n = 0; n < nodes; n++) {
        if (bits < 4) {
            unsigned groups = 16u >> bits;
            int32_t packed = best[n % groups * 16 + n / groups];
            survivor[n] = (uint8_t)(packed & ((1 << bits) - 1));
            node_cost[n] = packed & ~15;
        } else {
            const unsigned fold = 1u << (bits - 4);
            int32_t least = best[n * fold];
            unsigned winner = 0;
            for (unsigned h = 1; h < fold; h++) {
                int32_t packed = best[n * fold + h];
                int better = packed >> 4 < least >> 4;
                winner = better ? h : winner;
                least = better ? packed : least;
            }
            survivor[n] = (uint8_t)(winner << 4 | (unsigned)(least & 15));
            node_cost[n] = least & ~15;
        }
    }
}

TARGET INLINE void renormalise(int32_t *cost, const unsigned nodes)
{
    int32_t least = cost[0];
    for (unsigned n = 1; n < nodes; n++)
        least = cost[n] < least ? cost[n] : least;
    for (unsigned n = 0; n < nodes; n++)
        cost[n] -= least;
}

/* Node costs as old_cost wants them. */
TARGET INLINE void into_old(const int32_t *node_cost, const int32_t *b_square,
                            int32_t *cost, const unsigned bits)
{
    const unsigned nodes = 256u >> bits, width = nodes > 16 ? nodes / 16 : 1;
    for (unsigned q = 0; q < 16; q++)
        for (unsigned r = 0; r < width; r++)
            cost[q * width + r] = node_cost[(r * 16 + q) % nodes] + b_square[q];
}

/* 4 bits: 16 nodes stay in registers from step to step; only the costs go through
 * memory once, to come back one by one. The search goes on only from NARROW old
 * nodes, those from first[position before] on. */
TARGET INLINE void narrow_run(const trellis_plan *p, const step_tables *s, const int16_t *t,
                              const uint16_t *first, unsigned i, unsigned count,
                              int32_t *node_cost, uint8_t *survivors)
{
    unsigned from = first[(i ? i : p->head_dim) - 1];
    int32_t cost[16];
    vec node[VECTORS];
    for (unsigned v = 0; v < VECTORS; v++)
        node[v] = vec_load(node_cost + v * LANES);
    for (unsigned step = 0; step < count; step++, survivors += 16) {
        for (unsigned v = 0; v < VECTORS; v++)
            vec_store(cost + v * LANES, vec_add(node[v], vec_load(s->b_square + v * LANES)));
        /* From memory, because compilers would shuffle them out of registers. */
        __asm__ volatile("" : : "r"(cost) : "memory");
        best_of_16(s, t[i], cost, from, node);
        for (unsigned v = 0; v < VECTORS; v++) {
            vec_store_bytes(survivors + v * LANES, vec_and(node[v], vec_set1(15)));
            node[v] = vec_and(node[v], vec_set1(~15));
        }
        if (step % RENORMALISE == RENORMALISE - 1) {
            vec least = node[0];
            for (unsigned v = 1; v < VECTORS; v++)
                least = vec_min(least, node[v]);
            least = vec_set1(vec_least(least));
            for (unsigned v = 0; v < VECTORS; v++)
                node[v] = vec_sub(node[v], least);
        }
        from = first[i];
        i = i + 1 == p->head_dim ? 0 : i + 1;
    }
    for (unsigned v = 0; v < VECTORS; v++)
        vec_store(node_cost + v * LANES, node[v]);
}

TARGET INLINE void vector_run(const trellis_plan *p, const step_tables *s,
                              const int16_t *t, unsigned first, unsigned count,
                              int32_t *node_cost, uint8_t *survivors,
                              const unsigned bits)
{
    const unsigned nodes = 256u >> bits;
    unsigned i = first;
    int32_t cost[64], best[64];
    for (unsigned step = 0; step < count; step++) {
        into_old(node_cost, s->b_square, cost, bits);
        all_windows(s, t[i], cost, best, bits);
        into_nodes(best, node_cost, survivors + step * nodes, bits);
        if (step % RENORMALISE == RENORMALISE - 1)
            renormalise(node_cost, nodes);
        i = i + 1 == p->head_dim ? 0 : i + 1;
    }
}

TARGET INLINE void viterbi_full(const trellis_plan *p, const int16_t *t, uint8_t *symbols,
                                uint8_t *survivors, const unsigned bits)
{
    const unsigned nodes = 256u >> bits;
    const unsigned lead = trellis_lead(bits);
    unsigned cheapest = 0;
    int32_t cost[64] = {0};
    step_tables s;
    step_tables_init(&s, p);
    vector_run(p, &s, t, p->head_dim - lead, 2 * lead, cost, survivors, bits);
    for (unsigned n = 1; n < nodes; n++)
        if (cost[n] < cost[cheapest])
            cheapest = n;
    unsigned seam = viterbi_trace(p, survivors + lead * nodes, lead, cheapest, symbols);
    for (unsigned n = 0; n < nodes; n++)
        cost[n] = n == seam ? 0 : BLOCKED_COST * 16;
    vector_run(p, &s, t, 0, p->head_dim, cost, survivors, bits);
    viterbi_trace(p, survivors, p->head_dim, seam, symbols);
}

TARGET static void viterbi_narrow(const trellis_plan *p, const int16_t *t,
                                  uint8_t *symbols, uint8_t *survivors)
{
    const unsigned n = p->head_dim, lead = trellis_lead(4);
    uint16_t first[MAX_DIM] = {0};
    int32_t cost[16] = {0};
    step_tables s;
    step_tables_init(&s, p);
    for (unsigned k = NARROW / 2; k < 16 - NARROW / 2; k++)
        for (unsigned i = 0; i < n; i++)
            first[i] = (uint16_t)(first[i] + (t[i] > s.a[k]));
    narrow_run(p, &s, t, first, n - lead, 2 * lead, cost, survivors);
    unsigned cheapest = first[lead - 1];
    for (unsigned i = cheapest; i < first[lead - 1] + (unsigned)NARROW; i++)
        cheapest = cost[i] < cost[cheapest] ? i : cheapest;
    unsigned seam = viterbi_trace(p, survivors + lead * 16, lead, cheapest, symbols);
    for (unsigned i = 0; i < 16; i++)
        cost[i] = i == seam ? 0 : BLOCKED_COST * 16;
    narrow_run(p, &s, t, first, 0, n, cost, survivors);
    viterbi_trace(p, survivors, n, seam, symbols);
}

/* ---- three taps ----
 *
 * The node after a value has A, its symbol, and m, the one before; the branch q is
 * the symbol that is dropped. With taps[0][A] + taps[1][m] in place of a[A], and
 * taps[2] in place of b, a step is as above: a multiply-add and a minimum for each
 * of 8 q. The node before has m and q. Costs and survivors of a node are at
 * m << 3 | A, so that those of one old q stand side by side: lanes over m with
 * A = 2 v and 2 v + 1, where there are 16, and the result is transposed; with
 * fewer, lanes over A for one m after the other, and the old cost in all of them. */

typedef struct tap_tables {
    int32_t partial[64]; /* 2 (taps[0][A] + taps[1][m]), in the order of the search */
    int32_t minus_b[8][LANES];
    int32_t b_square[64]; /* for each old node, of its q */
} tap_tables;

TARGET INLINE void tap_tables_init(tap_tables *s, const trellis_plan *p)
{
    const trellis_table *t = p->table;
    for (unsigned i = 0; i < 64; i++) {
        int b = t->taps[2][i >> 3] * 2;
        unsigned symbol = LANES == 16 ? i >> 3 : i & 7, before = LANES == 16 ? i & 7 : i >> 3;
        s->partial[i] = 2 * (t->taps[0][symbol] + t->taps[1][before]);
        s->b_square[i] = 16 * b * b + (int)(i >> 3);
    }
    for (unsigned q = 0; q < 8; q++)
        vec_store(s->minus_b[q], vec_operand(vec_set1(-64 * t->taps[2][q])));
}

TARGET INLINE vec taps_old(const int32_t *old, unsigned q, unsigned v)
{
#if LANES == 16
    (void)v;
    return vec_repeat_8(old + 8 * q);
#else
    return vec_set1(old[8 * q + v * LANES / 8]);
#endif
}

/* From old costs with b_square to new ones with it. */
TARGET INLINE void taps_step(const tap_tables *s, int target, const int32_t *old, int32_t *next,
                             uint8_t *survivor)
{
    vec node[64 / LANES];
    for (unsigned v = 0; v < 64 / LANES; v++) {
        vec x = vec_sub(vec_set1(target), vec_load(s->partial + v * LANES));
        vec u = vec_operand(x), least[2];
        for (unsigned q = 0; q < 8; q++) {
            vec c = vec_multiply_add(u, vec_load(s->minus_b[q]), taps_old(old, q, v));
            least[q & 1] = q < 2 ? c : vec_min(least[q & 1], c);
        }
        node[v] = vec_multiply_add(u, vec_operand(vec_times_16(x)), vec_min(least[0], least[1]));
    }
#if LANES == 16
    vec_transpose_8(node);
#endif
    for (unsigned v = 0; v < 64 / LANES; v++) {
        vec_store_bytes(survivor + v * LANES, vec_and(node[v], vec_set1(7)));
        vec_store(next + v * LANES, vec_add(vec_and(node[v], vec_set1(~15)),
                                            vec_load(s->b_square + v * LANES)));
    }
    /* From memory, because compilers would shuffle them out of registers. */
    __asm__ volatile("" : : "r"(next) : "memory");
}

/* Costs come and go with b_square. */
TARGET INLINE void taps_run(const trellis_plan *p, const tap_tables *s, const int16_t *t,
                            unsigned i, unsigned count, int32_t *cost, uint8_t *survivors)
{
    int32_t other[64];
    for (unsigned step = 0; step < count; step += 2, survivors += 128) {
        taps_step(s, t[i], cost, other, survivors);
        taps_step(s, t[i + 1], other, cost, survivors + 64); /* head_dim is even */
        if (step % RENORMALISE == RENORMALISE - 2) {
            vec least = vec_load(cost);
            for (unsigned v = 1; v < 64 / LANES; v++)
                least = vec_min(least, vec_load(cost + v * LANES));
            least = vec_set1(vec_least(least) & ~15);
            for (unsigned v = 0; v < 64 / LANES; v++)
                vec_store(cost + v * LANES, vec_sub(vec_load(cost + v * LANES), least));
        }
        i = i + 2 == p->head_dim ? 0 : i + 2;
    }
}

/* As viterbi_trace, of nodes m << 3 | A. */
TARGET static inline unsigned taps_trace(const uint8_t *survivors, unsigned count, unsigned node,
                                         uint8_t *symbols)
{
    for (unsigned s = count; s-- > 0;) {
        symbols[s] = (uint8_t)(node & 7);
        node = (unsigned)survivors[s * 64 + node] << 3 | node >> 3;
    }
    return node;
}

TARGET static void viterbi_taps(const trellis_plan *p, const int16_t *t, uint8_t *symbols,
                                uint8_t *survivors)
{
    const unsigned lead = trellis_lead(p->bits);
    unsigned cheapest = 0;
    tap_tables s;
    tap_tables_init(&s, p);
    int32_t cost[64];
    memcpy(cost, s.b_square, sizeof cost);
    taps_run(p, &s, t, p->head_dim - lead, 2 * lead, cost, survivors);
    for (unsigned n = 0; n < 64; n++) { /* the first of equals by A, then by m */
        unsigned i = (n & 7) << 3 | n >> 3;
        cost[i] -= s.b_square[i];
        cheapest = cost[i] < cost[cheapest] ? i : cheapest;
    }
    unsigned seam = taps_trace(survivors + lead * 64, lead, cheapest, symbols);
    for (unsigned i = 0; i < 64; i++)
        cost[i] = s.b_square[i] + (i == seam ? 0 : BLOCKED_COST * 16);
    taps_run(p, &s, t, 0, p->head_dim, cost, survivors);
    taps_trace(survivors, p->head_dim, seam, symbols);
}

TARGET static void viterbi(const trellis_plan *p, const int16_t *t,
                           uint8_t *symbols, uint8_t *survivors)
{
    if (trellis_is_narrow(p)) {
        viterbi_narrow(p, t, symbols, survivors);
        return;
    }
    switch (p->bits) {
    case 2:
        viterbi_full(p, t, symbols, survivors, 2);
        break;
    case 3:
        viterbi_taps(p, t, symbols, survivors);
        break;
    case 5:
        viterbi_full(p, t, symbols, survivors, 5);
        break;
    case 6:
        viterbi_full(p, t, symbols, survivors, 6);
        break;
    case 7:
        viterbi_full(p, t, symbols, survivors, 7);
        break;
    }
}

/*
 * The trellis search of scalar.c on vectors of int32, the same text for every
 * instruction set. The includer defines
 *
 *   TARGET               the function attribute
 *   LANES, vec           4, 8 or 16 int32 and their type
 *   vec_load, vec_store  from and to int32_t[LANES], any alignment
 *   vec_set1, vec_add, vec_sub, vec_min, vec_and, vec_times_16
 *   vec_repeat_2(p), vec_repeat_4(p)   p[0], p[1], p[0] ... ; p[0] ... p[3], p[0] ...
 *   vec_operand(v)       lanes of 16-bit ints as vec_multiply_add takes them
 *   vec_multiply_add(x, y, sum)        x * y + sum, x and y as operands
 *   vec_store_bytes(p, v)              the low bytes of LANES lanes
 *   vec_least(v)                       the least lane
 *   vec_if_greater(a, b, x, y)         lanes of x where a > b, else of y
 *   vec_or                             bitwise
 *   unzip_16(node, even, odd)          nodes 0, 2, 4 ... and 1, 3, 5 ... of 16,
 *                                      twice over if a vector holds them all
 *
 * Window w of node n (after) is w = n << low | branch, and its level is
 * a[w >> 4] + b[w & 15]. With A = w >> 4, q = w & 15 and u = target - 2 a[A],
 *
 *   (target - level)^2 = u^2 - 2 u (2 b[q]) + (2 b[q])^2,
 *
 * so that over all A side by side (16 of them: the lanes) and one q after the
 * other, a step costs a multiply-add and a minimum: the last term joins the
 * old node's cost, the first is added at the end. For 4 bits and more, the old
 * node depends on q alone, and 2^(low - 4) neighbouring A lead to the same
 * node; for less, it depends on A's low bits too, and an A leads to
 * 2^(4 - low) nodes, one for each group of q.
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
    int32_t a[2][16];              /* 2 a, to subtract from targets */
    int32_t minus_b[2][16][LANES]; /* operands of -2 * 16 * 2 b */
    int32_t b_square[2][16];       /* 16 (2 b)^2 + q */
} step_tables;

TARGET INLINE void step_tables_init(step_tables *s, const trellis_plan *p)
{
    for (unsigned high = 0; high <= (unsigned)p->mixed; high++)
        for (unsigned i = 0; i < 16; i++) {
            int b = p->table[high]->b[i] * 2;
            s->a[high][i] = p->table[high]->a[i] * 2;
            vec_store(s->minus_b[high][i], vec_operand(vec_set1(-32 * b)));
            s->b_square[high][i] = 16 * b * b + (int)i;
        }
}

/* Costs of the old nodes, b_square added: cost[q] for rates of 4 bits and
 * more, cost[q * width + A % width] for less, with width = nodes / 16. */
TARGET INLINE vec old_cost(const int32_t *cost, unsigned q, const unsigned low)
{
    if (low == 2)
        return vec_repeat_4(cost + 4 * q);
    return low == 3 ? vec_repeat_2(cost + 2 * q) : vec_set1(cost[q]);
}

/* One step for all windows: best[g * 16 + A] for group g of q, as cost * 16 + q. */
TARGET INLINE void all_windows(const step_tables *s, int target, int is_high,
                               const int32_t *cost, int32_t *best,
                               const unsigned low)
{
    const unsigned groups = low < 4 ? 16u >> low : 1, size = 16 / groups;
    vec u[VECTORS], square[VECTORS];
    for (unsigned v = 0; v < VECTORS; v++) {
        vec x = vec_sub(vec_set1(target), vec_load(s->a[is_high] + v * LANES));
        u[v] = vec_operand(x);
        square[v] = vec_multiply_add(u[v], vec_operand(vec_times_16(x)), vec_set1(0));
    }
    for (unsigned g = 0; g < groups; g++) {
        vec least[VECTORS][2];
        for (unsigned v = 0; v < VECTORS; v++)
            least[v][0] = least[v][1] = vec_set1(INT32_MAX);
        for (unsigned q = g * size; q < (g + 1) * size; q++) {
            vec old = old_cost(cost, q, low);
            vec b = vec_load(s->minus_b[is_high][q]);
            for (unsigned v = 0; v < VECTORS; v++)
                least[v][q & 1] = vec_min(least[v][q & 1], vec_multiply_add(u[v], b, old));
        }
        for (unsigned v = 0; v < VECTORS; v++)
            vec_store(best + g * 16 + v * LANES,
                      vec_add(vec_min(least[v][0], least[v][1]), square[v]));
    }
}

/* all_windows for one group, into registers, from `width` old nodes: several
 * minima side by side, because one chain would be what the step waits for. */
TARGET INLINE void best_of_16(const step_tables *s, int target, int is_high,
                              const int32_t *cost, unsigned from, vec *best,
                              const unsigned width)
{
    enum { CHAINS = LANES == 4 ? 1 : LANES / 4 };
    vec u[VECTORS], square[VECTORS], least[VECTORS][CHAINS];
    for (unsigned v = 0; v < VECTORS; v++) {
        vec x = vec_sub(vec_set1(target), vec_load(s->a[is_high] + v * LANES));
        u[v] = vec_operand(x);
        square[v] = vec_multiply_add(u[v], vec_operand(vec_times_16(x)), vec_set1(0));
    }
    for (unsigned q = 0; q < width; q++) {
        vec old = vec_set1(cost[from + q]), b = vec_load(s->minus_b[is_high][from + q]);
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
                              uint8_t *survivor, const unsigned low)
{
    const unsigned nodes = 256u >> low;
    for (unsigned n = 0; n < nodes; n++) {
        if (low < 4) {
            unsigned groups = 16u >> low;
            int32_t packed = best[n % groups * 16 + n / groups];
            survivor[n] = (uint8_t)(packed & ((1 << low) - 1));
            node_cost[n] = packed & ~15;
        } else {
            const unsigned fold = 1u << (low - 4);
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

/* Before a window of the high rate, pairs of nodes compete, and the rest of the
 * array repeats the winners, so that the next step finds each old node. */
TARGET INLINE void merge_pairs(int32_t *cost, uint8_t *survivor, unsigned nodes)
{
    for (unsigned n = 0; n < nodes / 2; n++) {
        int odd = cost[2 * n + 1] < cost[2 * n];
        cost[n] = cost[2 * n + (unsigned)odd];
        survivor[n] = (uint8_t)(survivor[2 * n + (unsigned)odd] | (odd ? 0x80 : 0));
    }
    memcpy(cost + nodes / 2, cost, nodes / 2 * sizeof *cost);
}

TARGET INLINE void renormalise(int32_t *cost, const unsigned nodes)
{
    int32_t least = cost[0];
    for (unsigned n = 1; n < nodes; n++)
        least = cost[n] < least ? cost[n] : least;
    for (unsigned n = 0; n < nodes; n++)
        cost[n] -= least;
}

/* Node costs as old_cost wants them, with b_square of the value's table. */
TARGET INLINE void into_old(const int32_t *node_cost, const int32_t *b_square,
                            int32_t *cost, const unsigned low)
{
    const unsigned nodes = 256u >> low, width = nodes > 16 ? nodes / 16 : 1;
    for (unsigned q = 0; q < 16; q++)
        for (unsigned r = 0; r < width; r++)
            cost[q * width + r] = node_cost[(r * 16 + q) % nodes] + b_square[q];
}

TARGET INLINE int high_rate(const trellis_plan *p, unsigned i)
{
    return p->mixed && trellis_bits(p->rate, i) > p->low_bits;
}

TARGET INLINE int long_step(const trellis_plan *p, unsigned i)
{
    return p->mixed && trellis_step(p->rate, i) > p->low_bits;
}

/* merge_pairs in registers. */
TARGET INLINE void merge_16(vec *node, uint8_t *survivors)
{
    enum { HALF = VECTORS > 1 ? VECTORS / 2 : 1 };
    const vec cost = vec_set1(~15), branch = vec_set1(15);
    vec even[HALF], odd[HALF];
    unzip_16(node, even, odd);
    for (unsigned v = 0; v < HALF; v++) {
        vec e = vec_and(even[v], cost), o = vec_and(odd[v], cost);
        vec from_even = vec_and(even[v], branch);
        vec from_odd = vec_or(vec_and(odd[v], branch), vec_set1(0x80));
        vec_store_bytes(survivors + v * LANES, vec_if_greater(e, o, from_odd, from_even));
        node[v] = vec_min(e, o);
        if (VECTORS > 1)
            node[v + HALF] = node[v];
    }
}

/* 16 nodes stay in registers from step to step; only the costs go through
 * memory once, to come back one by one. With first, the search goes on only
 * from `width` old nodes, those from first[position before] on. */
TARGET INLINE void vector_run_16(const trellis_plan *p, const step_tables *s,
                                 const int16_t *t, const uint16_t *first, unsigned i,
                                 unsigned count, int32_t *node_cost,
                                 uint8_t *survivors, const unsigned width)
{
    unsigned from = first ? first[(i ? i : p->head_dim) - 1] : 0;
    int32_t cost[16];
    vec node[VECTORS];
    for (unsigned v = 0; v < VECTORS; v++)
        node[v] = vec_load(node_cost + v * LANES);
    for (unsigned step = 0; step < count; step++, survivors += 16) {
        int is_high = !first && high_rate(p, i);
        for (unsigned v = 0; v < VECTORS; v++)
            vec_store(cost + v * LANES,
                      vec_add(node[v], vec_load(s->b_square[is_high] + v * LANES)));
        /* From memory, because compilers would shuffle them out of registers. */
        __asm__ volatile("" : : "r"(cost) : "memory");
        best_of_16(s, t[i], is_high, cost, from, node, width);
        if (!first && long_step(p, i)) {
            merge_16(node, survivors);
        } else {
            for (unsigned v = 0; v < VECTORS; v++) {
                vec_store_bytes(survivors + v * LANES, vec_and(node[v], vec_set1(15)));
                node[v] = vec_and(node[v], vec_set1(~15));
            }
        }
        if (step % RENORMALISE == RENORMALISE - 1) {
            vec least = node[0];
            for (unsigned v = 1; v < VECTORS; v++)
                least = vec_min(least, node[v]);
            least = vec_set1(vec_least(least));
            for (unsigned v = 0; v < VECTORS; v++)
                node[v] = vec_sub(node[v], least);
        }
        from = first ? first[i] : 0;
        i = i + 1 == p->head_dim ? 0 : i + 1;
    }
    for (unsigned v = 0; v < VECTORS; v++)
        vec_store(node_cost + v * LANES, node[v]);
}

TARGET INLINE void vector_run(const trellis_plan *p, const step_tables *s,
                              const int16_t *t, unsigned first, unsigned count,
                              int32_t *node_cost, uint8_t *survivors,
                              const unsigned low)
{
    const unsigned nodes = 256u >> low;
    unsigned i = first;
    int32_t cost[64], best[64];
    if (low == 4) {
        vector_run_16(p, s, t, NULL, first, count, node_cost, survivors, 16);
        return;
    }
    for (unsigned step = 0; step < count; step++) {
        int is_high = high_rate(p, i);
        into_old(node_cost, s->b_square[is_high], cost, low);
        all_windows(s, t[i], is_high, cost, best, low);
        into_nodes(best, node_cost, survivors + step * nodes, low);
        if (long_step(p, i))
            merge_pairs(node_cost, survivors + step * nodes, nodes);
        if (step % RENORMALISE == RENORMALISE - 1)
            renormalise(node_cost, nodes);
        i = i + 1 == p->head_dim ? 0 : i + 1;
    }
}

TARGET INLINE void viterbi_rate(const trellis_plan *p, const int16_t *t,
                                uint8_t *windows, uint8_t *survivors,
                                const unsigned low)
{
    const unsigned nodes = 256u >> low;
    const unsigned lead = trellis_lead(low);
    unsigned live = long_step(p, lead - 1) ? nodes / 2 : nodes, cheapest = 0;
    int32_t cost[64] = {0};
    step_tables s;
    step_tables_init(&s, p);
    vector_run(p, &s, t, p->head_dim - lead, 2 * lead, cost, survivors, low);
    for (unsigned n = 1; n < live; n++)
        if (cost[n] < cost[cheapest])
            cheapest = n;
    unsigned seam = viterbi_trace(p, survivors + lead * nodes, 0, lead, cheapest,
                                  windows);
    for (unsigned n = 0; n < nodes; n++) {
        int free = n == seam || (p->mixed && n == seam + nodes / 2);
        cost[n] = free ? 0 : BLOCKED_COST * 16;
    }
    vector_run(p, &s, t, 0, p->head_dim, cost, survivors, low);
    viterbi_trace(p, survivors, 0, p->head_dim, seam, windows);
}

/* 4 bits: the search goes on only from the nodes that targets allow. */
TARGET static void viterbi_narrow(const trellis_plan *p, const int16_t *t,
                                  uint8_t *windows, uint8_t *survivors)
{
    const unsigned n = p->head_dim, lead = trellis_lead(4);
    uint16_t first[MAX_DIM] = {0};
    int32_t cost[16] = {0};
    step_tables s;
    step_tables_init(&s, p);
    for (unsigned k = NARROW / 2; k < 16 - NARROW / 2; k++)
        for (unsigned i = 0; i < n; i++)
            first[i] = (uint16_t)(first[i] + (t[i] > s.a[0][k]));
    vector_run_16(p, &s, t, first, n - lead, 2 * lead, cost, survivors, NARROW);
    unsigned cheapest = first[lead - 1];
    for (unsigned i = cheapest; i < first[lead - 1] + (unsigned)NARROW; i++)
        cheapest = cost[i] < cost[cheapest] ? i : cheapest;
    unsigned seam = viterbi_trace(p, survivors + lead * 16, 0, lead, cheapest, windows);
    for (unsigned i = 0; i < 16; i++)
        cost[i] = i == seam ? 0 : BLOCKED_COST * 16;
    vector_run_16(p, &s, t, first, 0, n, cost, survivors, NARROW);
    viterbi_trace(p, survivors, 0, n, seam, windows);
}

TARGET static void viterbi(const trellis_plan *p, const int16_t *t,
                           uint8_t *windows, uint8_t *survivors)
{
    if (trellis_is_narrow(p)) {
        viterbi_narrow(p, t, windows, survivors);
        return;
    }
    switch (p->low_bits) {
    case 2:
        viterbi_rate(p, t, windows, survivors, 2);
        break;
    case 3:
        viterbi_rate(p, t, windows, survivors, 3);
        break;
    case 4:
        viterbi_rate(p, t, windows, survivors, 4);
        break;
    case 5:
        viterbi_rate(p, t, windows, survivors, 5);
        break;
    case 6:
        viterbi_rate(p, t, windows, survivors, 6);
        break;
    case 7:
        viterbi_rate(p, t, windows, survivors, 7);
        break;
    }
}

#include "attend/call.h"

#include <math.h>
#include <string.h>

#include <omp.h>

#include "attend/check.h"
#include "common/checked.h"

enum {
    /* Items wanted, so that many threads find work; with fewer blocks tokens are
     * divided. */
    ITEMS = 64,
    /* So many items of a block a task, and it takes all heads of each. */
    ITEMS_A_TASK = 4,
    /* So many elements of a mask are worth another thread's while. */
    MASK_A_TASK = 1 << 17
};

/* Whether the set's values come as levels, and whether as plain numbers or means. */
static void kinds_of_values(const tqkv_tokens *set, int *has_coded, int *has_plain)
{
    *has_coded = set->values.format.codebook != 0;
    *has_plain = !*has_coded || set->values.means || set->staged || set->mixed;
}

/* Whether rows of the set become floats. */
static int needs_floats(const tqkv_tokens *set)
{
    return set->staged || check_is_float(&set->keys.format) || check_is_float(&set->values.format);
}

static size_t groups_of(const attend_call *c, size_t set)
{
    size_t ranges = ranges_of(c->a->sets[set].n_tokens);
    return ranges / c->group_ranges + (ranges % c->group_ranges != 0);
}

static size_t all_groups(const attend_call *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->a->n_sets; i++)
        n += groups_of(c, i);
    return n;
}

/* Groups of ranges grow until a block has as few as it should. */
static void set_groups(attend_call *c)
{
    size_t wanted = c->n_bases ? (ITEMS + c->n_bases - 1) / c->n_bases : 1;
    size_t n_sets = c->a->n_sets, most = wanted > n_sets ? wanted : n_sets;
    c->group_ranges = 1;
    while (all_groups(c) > most)
        c->group_ranges *= 2;
    c->n_items = wanted > 1 && all_groups(c) > n_sets ? all_groups(c) : 1;
    c->fold_depth = fold_depth(ranges_of(c->n_tokens));
}

/* Shapes, and how the work is divided. a has been checked. */
static tqkv_status divide(attend_call *c, const tqkv_attention *a, const tqkv_executor *e)
{
    memset(c, 0, sizeof *c);
    c->a = a;
    c->kernels = attend_kernels_get();
    c->group = a->n_heads / a->n_kv_heads;
    c->key_dim = a->sets[0].keys.format.head_dim;
    c->value_dim = a->sets[0].values.format.head_dim;
    size_t rows = (size_t)a->n_queries * c->group; /* both are 32 bits wide */
    size_t n_blocks = (rows + BLOCK - 1) / BLOCK;
    if (n_blocks > UINT32_MAX || !size_multiply(a->n_kv_heads, n_blocks, &c->n_bases))
        return TQKV_ERROR_OVERFLOW;
    c->n_blocks = (uint32_t)n_blocks;
    c->block_rows = rows < BLOCK ? rows : BLOCK;
    c->part_dim = c->value_dim;
    for (size_t i = 0; i < a->n_sets; i++) {
        const tqkv_tokens *set = &a->sets[i];
        c->n_tokens += set->n_tokens; /* checked */
        c->has_floats |= needs_floats(set);
        int has_coded, has_plain;
        kinds_of_values(set, &has_coded, &has_plain);
        if (has_coded && has_plain)
            c->part_dim = 2 * c->value_dim;
    }
    set_groups(c);
    size_t threads = e && e->n_threads ? e->n_threads : (size_t)omp_get_max_threads();
    size_t items;
    if (!size_multiply(c->n_bases, c->n_items, &items))
        return TQKV_ERROR_OVERFLOW;
    c->n_tasks = threads < items ? threads : items;
    c->items_at_once = c->n_items >= ITEMS_A_TASK * c->n_tasks ? c->n_bases : 1;
    c->max_tasks = threads;
    return TQKV_OK;
}

/* Reserves count elements of size at the next multiple of 64. */
static int reserve(size_t *used, size_t count, size_t size, size_t *at)
{
    size_t bytes;
    *at = *used;
    return size_multiply(count, size, &bytes) && size_add(*used, bytes, used) &&
           size_add(*used, 63, used) && (*used &= ~(size_t)63, *used <= PTRDIFF_MAX);
}

/* Parts, n_bases * n_items, that this call or one with fewer queries or tokens, in
 * whichever of its sets, can have. Only fewer than ITEMS bases are divided: into no more
 * than all ranges, and no more than ceil(ITEMS / n_bases) or n_sets items, which n_bases
 * multiplies to less than 2 * ITEMS or to ITEMS * n_sets. A workspace for many is thus
 * enough for few. */
static size_t most_parts(const attend_call *c)
{
    size_t n_sets = c->a->n_sets, ranges = ranges_of(c->n_tokens) + n_sets - 1;
    if (!c->n_bases || c->n_tokens <= RANGE)
        return 0;
    size_t bases = c->n_bases < ITEMS ? c->n_bases : ITEMS, most = ITEMS * (n_sets > 2 ? n_sets : 2);
    return ranges < most / bases ? bases * ranges : most;
}

/* Lays out the workspace; places it unless base is null. */
static tqkv_status lay_out(attend_call *c, uint8_t *base, size_t *bytes)
{
    attend_scratch unused;
    size_t used = 0, plans, next, unfinished, sights, out, max, sum, scratch, n_sights;
    size_t part_rows = most_parts(c) * c->block_rows, part_values;
    c->scratch_bytes = attend_scratch_place(c, NULL, &unused);
    if (!size_multiply(part_rows, c->part_dim, &part_values) ||
        !size_multiply(sight_rows(c), c->a->n_sets, &n_sights) ||
        !reserve(&used, c->a->n_sets, sizeof *c->plans, &plans) ||
        !reserve(&used, 1, sizeof *c->next_item, &next) ||
        !reserve(&used, c->n_bases, sizeof *c->unfinished, &unfinished) ||
        !reserve(&used, n_sights, sizeof *c->sights, &sights) ||
        !reserve(&used, part_values, sizeof(float), &out) ||
        !reserve(&used, part_rows, sizeof(float), &max) ||
        !reserve(&used, part_rows, sizeof(float), &sum) ||
        !reserve(&used, c->max_tasks, c->scratch_bytes, &scratch))
        return TQKV_ERROR_OVERFLOW;
    *bytes = used;
    if (!base)
        return TQKV_OK;
    c->plans = (set_plans *)(base + plans);
    c->next_item = (atomic_size_t *)(base + next);
    c->unfinished = (atomic_size_t *)(base + unfinished);
    c->sights = (sight *)(base + sights);
    c->parts.out = (float *)(base + out);
    c->parts.max = (float *)(base + max);
    c->parts.sum = (float *)(base + sum);
    c->scratch = base + scratch;
    return TQKV_OK;
}

/* ---- work ---- */

static attend_block block_of(const attend_call *c, size_t base)
{
    size_t rows = (size_t)c->a->n_queries * c->group;
    attend_block b = {.head = (uint32_t)(base / c->n_blocks),
                      .first_row = base % c->n_blocks * BLOCK};
    b.rows = (unsigned)(rows - b.first_row < BLOCK ? rows - b.first_row : BLOCK);
    return b;
}

static tqkv_partial part_of(const attend_call *c, size_t base, size_t item)
{
    size_t row = (base * c->n_items + item) * c->block_rows;
    return (tqkv_partial){.out = c->parts.out + row * c->part_dim,
                          .max = c->parts.max + row,
                          .sum = c->parts.sum + row};
}

/* A sink is a token without a value. */
static void add_sink(float sink, float *max, float *sum, float *out, unsigned dim)
{
    if (sink == -INFINITY)
        return;
    float largest = sink > *max ? sink : *max;
    float old = *sum * expf(*max - largest), total = old + expf(sink - largest);
    for (unsigned i = 0; i < dim; i++)
        out[i] *= old / total;
    *max = largest;
    *sum = total;
}

/* The block's rows to their places in the result. */
static void write_result(const attend_call *c, const attend_block *b, const tqkv_partial *part)
{
    for (unsigned r = 0; r < b->rows; r++) {
        size_t row = b->first_row + r;
        uint32_t head = row_head(c, b, row);
        size_t to = row_query(c, row) * c->a->n_heads + head;
        float max = part->max[r], sum = part->sum[r], *out = part->out + (size_t)r * c->value_dim;
        if (c->a->sinks)
            add_sink(c->a->sinks[head], &max, &sum, out, c->value_dim);
        memcpy(c->result->out + to * c->value_dim, out, c->value_dim * sizeof *out);
        if (c->result->max)
            c->result->max[to] = max;
        if (c->result->sum)
            c->result->sum[to] = sum;
    }
}

static void start_result(const attend_call *c, const attend_scratch *s, const attend_block *b)
{
    for (unsigned r = 0; r < b->rows; r++) {
        s->result.max[r] = -INFINITY;
        s->result.sum[r] = 0;
    }
    memset(s->result.out, 0, (size_t)b->rows * c->value_dim * sizeof *s->result.out);
}

/* All of a block's work. */
static void run_block(const attend_call *c, attend_scratch *s, const attend_block *b)
{
    start_result(c, s, b);
    for (size_t set = 0; set < c->a->n_sets; set++) {
        size_t ranges = ranges_of(c->a->sets[set].n_tokens);
        if (!ranges)
            continue;
        attend_ranges(c, s, b, set, 0, ranges, &s->part);
        attend_finish(c, set, b->rows, &s->part, &s->result);
    }
    write_result(c, b, &s->result);
}

/* What the block's items left becomes its result. */
static void merge_items(const attend_call *c, const attend_scratch *s, const attend_block *b,
                        size_t base)
{
    start_result(c, s, b);
    for (size_t set = 0, item = 0; set < c->a->n_sets; set++) {
        fold f = {.n_rows = b->rows, .dim = c->part_dim};
        for (size_t group = 0; group < groups_of(c, set); group++)
            fold_add(&f, part_of(c, base, item++));
        if (!f.n)
            continue;
        tqkv_partial all = fold_end(&f);
        attend_finish(c, set, b->rows, &all, &s->result);
    }
    write_result(c, b, &s->result);
}

/* One of a block's items where it has several. */
static void run_group(const attend_call *c, attend_scratch *s, const attend_block *b, size_t base,
                      size_t item)
{
    size_t set = 0, group = item;
    while (group >= groups_of(c, set))
        group -= groups_of(c, set++);
    tqkv_partial part = part_of(c, base, item);
    size_t first = group * c->group_ranges;
    attend_ranges(c, s, b, set, first, first + c->group_ranges, &part);
    if (atomic_fetch_sub_explicit(&c->unfinished[base], 1, memory_order_acq_rel) == 1)
        merge_items(c, s, b, base);
}

/* All heads of a group come one after the other, and to one task: where their
 * rows lie side by side, the first brings the others' into its cache. */
static void run_item(const attend_call *c, attend_scratch *s, size_t number)
{
    size_t base = number % c->n_bases, item = number / c->n_bases;
    attend_block b = block_of(c, base);
    if (c->n_items == 1)
        run_block(c, s, &b);
    else
        run_group(c, s, &b, base, item);
}

static void run_task(void *argument, size_t index)
{
    const attend_call *c = argument;
    attend_scratch s;
    size_t items = c->n_bases * c->n_items, item;
    attend_scratch_place(c, c->scratch + index * c->scratch_bytes, &s);
    while ((item = atomic_fetch_add_explicit(c->next_item, c->items_at_once,
                                             memory_order_relaxed)) < items)
        for (size_t i = 0; i < c->items_at_once; i++)
            run_item(c, &s, item + i);
}

/* The index-th of n_tasks equal parts of the sights. */
static void read_sights(void *argument, size_t index)
{
    const attend_call *c = argument;
    size_t n = sight_rows(c) * c->a->n_sets, each = (n + c->n_tasks - 1) / c->n_tasks;
    size_t from = index * each, to = from + each;
    sight_read(c, from < n ? from : n, to < n ? to : n);
}

static void run_tasks(const tqkv_executor *executor, attend_call *c,
                      void (*task)(void *argument, size_t index))
{
    if (c->n_tasks == 1) {
        task(c, 0);
    } else if (executor && executor->run) {
        executor->run(executor->context, c->n_tasks, task, c);
    } else {
#pragma omp parallel for schedule(static, 1) num_threads((int)c->n_tasks)
        for (size_t i = 0; i < c->n_tasks; i++)
            task(c, i);
    }
}

static void read_all_sights(const tqkv_executor *executor, attend_call *c)
{
    size_t n = sight_rows(c) * c->a->n_sets;
    if (!c->a->mask)
        return;
    if (n > 1 && n > MASK_A_TASK / (c->n_tokens + 1))
        run_tasks(executor, c, read_sights);
    else
        sight_read(c, 0, n);
}

/* ---- calls ---- */

tqkv_status tqkv_attend_workspace(const tqkv_attention *a, const tqkv_executor *executor,
                                  size_t *bytes)
{
    attend_call c;
    size_t needed = 0;
    tqkv_status status = check_shape(a);
    if (status == TQKV_OK && !bytes)
        status = TQKV_ERROR_ARGUMENT;
    if (status == TQKV_OK)
        status = divide(&c, a, executor);
    if (status == TQKV_OK)
        status = lay_out(&c, NULL, &needed);
    if (status == TQKV_OK)
        *bytes = needed + 63; /* to align it */
    return status;
}

tqkv_status tqkv_attend(const tqkv_attention *a, const tqkv_partial *result,
                        const tqkv_executor *executor, void *workspace, size_t workspace_size)
{
    attend_call c;
    size_t needed;
    tqkv_status status = check_shape(a);
    if (status == TQKV_OK)
        status = check_data(a);
    if (status == TQKV_OK)
        status = divide(&c, a, executor);
    if (status != TQKV_OK || a->n_queries == 0 || a->n_heads == 0)
        return status;
    if (!result || !result->out || !workspace)
        return TQKV_ERROR_ARGUMENT;
    uint8_t *base = (uint8_t *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    status = lay_out(&c, base, &needed);
    /* A workspace from a thread with another number of OpenMP threads: fewer
     * tasks give the same result. */
    if (status == TQKV_OK && workspace_size < needed + 63) {
        size_t missing = (needed + 63 - workspace_size + c.scratch_bytes - 1) / c.scratch_bytes;
        if (missing >= c.max_tasks)
            status = TQKV_ERROR_BUFFER;
        else if (c.n_tasks > c.max_tasks - missing)
            c.n_tasks = c.max_tasks - missing;
    }
    if (status != TQKV_OK)
        return status;
    c.result = result;
    size_t offset = 0;
    for (size_t i = 0; i < a->n_sets; i++) {
        const tqkv_operand *k = &a->sets[i].keys, *v = &a->sets[i].values;
        c.plans[i].offset = offset;
        offset += a->sets[i].n_tokens;
        kinds_of_values(&a->sets[i], &c.plans[i].has_coded, &c.plans[i].has_plain);
        tile_plan_init(&c.plans[i].keys, &k->format, (tqkv_type)k->type);
        tile_plan_init(&c.plans[i].values, &v->format, (tqkv_type)v->type);
        if (c.plans[i].keys.level_error > 0)
            tile_plan_init_rest(&c.plans[i].key_rest, &c.plans[i].keys, &k->format);
    }
    atomic_init(c.next_item, 0);
    for (size_t i = 0; i < c.n_bases; i++)
        atomic_init(&c.unfinished[i], c.n_items);
    read_all_sights(executor, &c);
    run_tasks(executor, &c, run_task);
    return TQKV_OK;
}

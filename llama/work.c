#include "work.h"

#include <stdlib.h>
#include <string.h>

/* ---- running ---- */

static void run(gg_tensor *dst, int ith, int nth, void *context)
{
    step *s = context;
    (void)dst;
    if (ith > 0) {
        crew_follow(s->crew);
        return;
    }
    crew_reset(s->next_crew); /* all threads have left the node before */
    if (!s->work->failure && s->kind == NODE_STORE)
        store_rows(s);
    else if (!s->work->failure)
        attend(s, nth);
    crew_finish(s->crew);
}

/* ---- sealing ---- */

int work_note_seal(work *w, cells *c, size_t page)
{
    if (w->n_seals == w->max_seals) {
        size_t more = w->max_seals ? 2 * w->max_seals : 64;
        seal *seals = realloc(w->seals, more * sizeof *seals);
        if (!seals)
            return 0;
        w->seals = seals;
        w->max_seals = more;
    }
    if (!cells_seal_begin(c, page))
        return 0;
    w->seals[w->n_seals++] = (seal){c, page};
    return 1;
}

/* A head of a page; the seals' cells have so many each. */
static void seal_head(void *argument, size_t index)
{
    const work *w = argument;
    size_t i = 0;
    while (index >= w->seals[i].cells->n_heads)
        index -= w->seals[i++].cells->n_heads;
    cells_seal_head(w->seals[i].cells, w->seals[i].page, (uint32_t)index);
}

void work_seal(work *w, crew *c)
{
    size_t tasks = 0;
    for (size_t i = 0; i < w->n_seals; i++)
        tasks += w->seals[i].cells->n_heads;
    if (tasks)
        crew_run(c, tasks, seal_head, w);
    for (size_t i = 0; i < w->n_seals; i++)
        cells_seal_end(w->seals[i].cells, w->seals[i].page);
    w->n_seals = 0;
}

/* ---- steps ---- */

static step *new_step(work *w)
{
    if (w->n_steps == w->max_steps) {
        size_t more = w->max_steps ? 2 * w->max_steps : 64;
        step **steps = realloc(w->steps, more * sizeof *steps);
        if (!steps)
            return NULL;
        w->steps = steps;
        memset(steps + w->max_steps, 0, (more - w->max_steps) * sizeof *steps);
        w->max_steps = more;
    }
    step **at = &w->steps[w->n_steps];
    if (!*at)
        *at = calloc(1, sizeof **at);
    if (*at)
        w->n_steps++;
    return *at;
}

static int add(work *w, gg_tensor *t, node_kind kind)
{
    step *s = new_step(w);
    if (!s)
        return 0;
    *s = (step){.work = w, .node = t, .kind = kind, .op = t->op};
    memcpy(s->op_params, t->op_params, sizeof s->op_params);
    s->keys = memory_cells(kind == NODE_ATTEND ? t->src[1] : t);
    s->values = kind == NODE_ATTEND ? memory_cells(t->src[2]) : NULL;
    s->crew = &w->crews[w->n_steps % 2];
    s->next_crew = &w->crews[(w->n_steps + 1) % 2];
    s->is_last_reader = kind == NODE_ATTEND;
    for (size_t i = 0; s->is_last_reader && i + 1 < w->n_steps; i++)
        if (w->steps[i]->keys == s->keys)
            w->steps[i]->is_last_reader = 0;
    return 1;
}

/* Whether all of the graph's nodes are of kinds, and on cells, that have been learnt. */
static int is_learnt(gg_graph *graph)
{
    for (int i = 0; i < gg.graph_n_nodes(graph); i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        node_kind kind = graph_kind(t);
        if (kind == NODE_UNKNOWN || (kind == NODE_STORE && !memory_cells(t)->n_heads) ||
            (kind == NODE_ATTEND && (!memory_cells(t->src[1])->n_heads ||
                                     !memory_cells(t->src[2])->n_heads)))
            return 0;
    }
    return 1;
}

/* A graph that came by itself, without a scheduler, has not been learnt. */
static const char *collect(work *w, gg_graph *graph)
{
    const char *problem = NULL;
    if (!is_learnt(graph)) {
        problem = graph_learn(graph, NULL);
        if (!problem)
            problem = graph_check_stores(graph);
    }
    w->n_steps = 0;
    for (int i = 0; !problem && i < gg.graph_n_nodes(graph); i++) {
        gg_tensor *t = gg.graph_node(graph, i);
        node_kind kind = graph_kind(t);
        if (kind != NODE_OTHER && !add(w, t, kind))
            problem = "out of memory";
    }
    return problem;
}

/* ---- a graph ---- */

/* Shifts are left out here: ggml computes each alone, afterwards (shift.c). */
static size_t begin(work *w)
{
    size_t n_shifts = 0;
    crew_reset(&w->crews[1]); /* the first step's */
    for (size_t i = 0; i < w->n_steps; i++) {
        step *s = w->steps[i];
        gg_custom_params params = {run, GG_ALL_TASKS, s};
        s->node->op = s->kind == NODE_SHIFT ? gg.op_none : gg.op_custom;
        n_shifts += s->kind == NODE_SHIFT;
        if (s->kind != NODE_SHIFT)
            memcpy(s->node->op_params, &params, sizeof params);
    }
    return n_shifts;
}

static void end(work *w)
{
    for (size_t i = 0; i < w->n_steps; i++) {
        step *s = w->steps[i];
        s->node->op = s->op;
        memcpy(s->node->op_params, s->op_params, sizeof s->op_params);
    }
}

const char *work_compute(work *w, gg_graph *graph, int (*compute)(gg_backend_t, gg_graph *),
                         gg_backend_t b, int *status)
{
    *status = GG_STATUS_FAILED;
    w->failure = NULL;
    w->n_seals = 0; /* of a graph that failed */
    const char *problem = collect(w, graph);
    if (problem)
        return problem;
    size_t n_shifts = begin(w);
    *status = compute(b, graph);
    end(w);
    for (size_t i = 0; i < w->n_steps && n_shifts && !w->failure; i++)
        if (w->steps[i]->kind == NODE_SHIFT && *status == GG_STATUS_SUCCESS)
            w->failure = shift_compute(w->steps[i], graph, compute, b, status);
    return w->failure;
}

void work_free(work *w)
{
    for (size_t i = 0; i < w->max_steps; i++)
        free(w->steps[i]);
    free(w->steps);
    free(w->workspace);
    free(w->slopes);
    free(w->seals);
    w->steps = NULL;
}

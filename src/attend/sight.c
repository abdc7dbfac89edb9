#include "attend/sight.h"

#include <string.h>

#include "attend/call.h"

/* ---- masks, 64 tokens at a time ---- */

enum { HALF_MAGNITUDE = 0x7FFF, HALF_INFINITY = 0x7C00, HALF_HIDDEN = 0xFC00 };
#define FLOAT_MAGNITUDE 0x7FFFFFFFu
#define FLOAT_INFINITY 0x7F800000u
#define FLOAT_HIDDEN 0xFF800000u

static inline uint64_t low_bits(unsigned n)
{
    return n < 64 ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
}

/* Most words are all zeros (seen) or all minus infinity (hidden): their elements'
 * conjunction and disjunction tell, which compilers find in vectors. Otherwise the
 * elements are looked at one by one. NaN hides, as minus infinity does. */
#define DEFINE_SEEN(name, type, magnitude, infinity, hidden)                                   \
    static uint64_t name(const type *mask, unsigned n, int *has_bias)                          \
    {                                                                                          \
        type any = 0, all = (type)~(type)0;                                                    \
        for (unsigned i = 0; i < n; i++) {                                                     \
            any |= mask[i];                                                                    \
            all &= mask[i];                                                                    \
        }                                                                                      \
        if (!any)                                                                              \
            return low_bits(n);                                                                \
        if (any == (hidden) && all == (hidden))                                                \
            return 0;                                                                          \
        uint64_t seen = 0;                                                                     \
        for (unsigned i = 0; i < n; i++) {                                                     \
            type size = mask[i] & (magnitude);                                                 \
            int is_seen = size <= (infinity) && mask[i] != (hidden);                           \
            seen |= (uint64_t)is_seen << i;                                                    \
            *has_bias |= is_seen && size;                                                      \
        }                                                                                      \
        return seen;                                                                           \
    }

DEFINE_SEEN(seen_halves, uint16_t, HALF_MAGNITUDE, HALF_INFINITY, HALF_HIDDEN)
DEFINE_SEEN(seen_floats, uint32_t, FLOAT_MAGNITUDE, FLOAT_INFINITY, FLOAT_HIDDEN)

/* Bit i: whether the mask shows the token of its element at + i, i below n (1 to 64). */
static uint64_t seen_word(const attend_call *c, size_t at, unsigned n, int *has_bias)
{
    if (c->a->mask_type == TQKV_F32)
        return seen_floats((const uint32_t *)c->a->mask + at, n, has_bias);
    return seen_halves((const uint16_t *)c->a->mask + at, n, has_bias);
}

static unsigned up_to_64(size_t n)
{
    return n < 64 ? (unsigned)n : 64;
}

/* ---- what causality and window leave ---- */

static size_t within(int64_t x, size_t n)
{
    return x < 0 ? 0 : (uint64_t)x > n ? n : (size_t)x;
}

static void see_positions(const attend_call *c, const tqkv_tokens *set, size_t query, size_t *low,
                          size_t *high)
{
    const tqkv_attention *a = c->a;
    /* positions are below 2^62 */
    int64_t first = (int64_t)set->position, at = (int64_t)(a->position + query);
    *low = 0;
    *high = a->causal ? within(at - first + 1, set->n_tokens) : set->n_tokens;
    if (a->window && a->window <= (uint64_t)at)
        *low = within(at - (int64_t)a->window + 1 - first, set->n_tokens);
    if (*low > *high)
        *low = *high;
}

/* ---- sights ---- */

static int has_mask_a_head(const attend_call *c)
{
    return c->a->mask_head_stride != 0;
}

size_t sight_rows(const attend_call *c)
{
    return (size_t)c->a->n_queries * (has_mask_a_head(c) ? c->a->n_heads : 1);
}

static size_t mask_row(const attend_call *c, const attend_block *b, unsigned r)
{
    size_t row = b->first_row + r, query = row_query(c, row);
    return has_mask_a_head(c) ? query * c->a->n_heads + row_head(c, b, row) : query;
}

static size_t mask_at(const attend_call *c, size_t set, size_t row)
{
    size_t query = row, head = 0;
    if (has_mask_a_head(c)) {
        query = row / c->a->n_heads;
        head = row % c->a->n_heads;
    }
    return head * c->a->mask_head_stride + query * c->a->mask_stride + c->plans[set].offset;
}

size_t sight_mask_at(const attend_call *c, const attend_block *b, size_t set, unsigned r)
{
    return mask_at(c, set, mask_row(c, b, r));
}

const sight *sight_of(const attend_call *c, const attend_block *b, size_t set, unsigned r)
{
    return &c->sights[set * sight_rows(c) + mask_row(c, b, r)];
}

static sight read_sight(const attend_call *c, size_t set, size_t row)
{
    size_t low, high, at = mask_at(c, set, row);
    size_t query = has_mask_a_head(c) ? row / c->a->n_heads : row;
    see_positions(c, &c->a->sets[set], query, &low, &high);
    sight s = {.first = high, .end = low};
    for (size_t token = low; token < high; token += 64) {
        uint64_t seen = seen_word(c, at + token, up_to_64(high - token), &s.has_bias);
        if (!seen)
            continue;
        if (!s.n)
            s.first = token + (unsigned)__builtin_ctzll(seen);
        s.n += (unsigned)__builtin_popcountll(seen);
        s.end = token + 64 - (unsigned)__builtin_clzll(seen);
    }
    return s;
}

void sight_read(const attend_call *c, size_t from, size_t to)
{
    size_t rows = sight_rows(c);
    for (size_t i = from; i < to; i++)
        c->sights[i] = read_sight(c, i / rows, i % rows);
}

/* ---- bands ---- */

static int is_scattered(const sight *s)
{
    return s->n && s->end - s->first != s->n;
}

/* Whether what mask row a shows is the beginning of what mask row b does. */
static int is_beginning(const attend_call *c, size_t set, size_t a, size_t b)
{
    const sight *x = &c->sights[set * sight_rows(c) + a], *y = &c->sights[set * sight_rows(c) + b];
    int ignored = 0;
    if (a == b || x->n == 0)
        return 1;
    if (x->first != y->first || x->n > y->n || x->end > y->end)
        return 0;
    if (!is_scattered(x) && !is_scattered(y))
        return 1;
    size_t at = mask_at(c, set, a), bt = mask_at(c, set, b);
    for (size_t token = x->first; token < x->end; token += 64) {
        unsigned n = up_to_64(x->end - token);
        if (seen_word(c, at + token, n, &ignored) != seen_word(c, bt + token, n, &ignored))
            return 0;
    }
    return 1;
}

/* Without a mask all rows count from the set's first token. */
static unsigned band_of_positions(const attend_call *c, const attend_block *b, size_t set,
                                  size_t *lows, size_t *highs, sight_walk *walk)
{
    *walk = (sight_walk){0};
    for (unsigned r = 0; r < b->rows; r++) {
        see_positions(c, &c->a->sets[set], row_query(c, b->first_row + r), &lows[r], &highs[r]);
        if (highs[r] > walk->n)
            walk->n = highs[r];
    }
    return b->rows;
}

unsigned sight_band(const attend_call *c, const attend_block *b, size_t set, unsigned r,
                    size_t *lows, size_t *highs, sight_walk *walk)
{
    if (!c->a->mask)
        return band_of_positions(c, b, set, lows, highs, walk);
    unsigned end = r + 1;
    while (end < b->rows && is_beginning(c, set, mask_row(c, b, end - 1), mask_row(c, b, end)))
        end++;
    for (unsigned i = r; i < end; i++) {
        lows[i] = 0;
        highs[i] = sight_of(c, b, set, i)->n;
    }
    const sight *last = sight_of(c, b, set, end - 1);
    *walk = (sight_walk){.first = last->first, .n = last->n, .is_scattered = is_scattered(last),
                         .mask_at = sight_mask_at(c, b, set, end - 1), .token = last->first,
                         .end = last->end};
    return end - r;
}

/* ---- walking ---- */

/* Passes tokens until the next one has this rank, or is unseen behind it. */
static void skip_to(const attend_call *c, sight_walk *w, size_t rank)
{
    int ignored = 0;
    while (w->rank < rank) {
        uint64_t seen = seen_word(c, w->mask_at + w->token, up_to_64(w->end - w->token), &ignored);
        size_t n = (size_t)__builtin_popcountll(seen);
        if (n <= rank - w->rank) {
            w->rank += n;
            w->token += 64;
            continue;
        }
        for (; w->rank < rank; w->rank++)
            seen &= seen - 1;
        w->token += (unsigned)__builtin_ctzll(seen);
    }
}

static void add_run(token_runs *t, size_t token, unsigned n)
{
    unsigned at = t->n_runs ? t->runs[t->n_runs - 1].end : 0;
    unsigned before = t->n_runs > 1 ? t->runs[t->n_runs - 2].end : 0;
    if (t->n_runs && t->runs[t->n_runs - 1].token + (at - before) == token) {
        t->runs[t->n_runs - 1].end += n;
        return;
    }
    t->runs[t->n_runs].token = token;
    t->runs[t->n_runs++].end = at + n;
}

void sight_tokens(const attend_call *c, sight_walk *w, size_t rank, unsigned n, token_runs *t)
{
    int ignored = 0;
    t->n_runs = 0;
    if (!w->is_scattered) {
        add_run(t, w->first + rank, n);
        return;
    }
    skip_to(c, w, rank);
    while (n) {
        uint64_t seen = seen_word(c, w->mask_at + w->token, up_to_64(w->end - w->token), &ignored);
        unsigned at = 0;
        while (n && seen) {
            unsigned hidden = (unsigned)__builtin_ctzll(seen);
            seen >>= hidden;
            at += hidden;
            unsigned run = ~seen ? (unsigned)__builtin_ctzll(~seen) : 64;
            run = run < n ? run : n;
            add_run(t, w->token + at, run);
            seen = run < 64 ? seen >> run : 0;
            at += run;
            n -= run;
            w->rank += run;
        }
        w->token += n ? 64 : at;
    }
}

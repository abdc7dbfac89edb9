#include "attend/fold.h"

#include "attend/call.h"

tqkv_partial fold_add(fold *f, tqkv_partial part)
{
    unsigned bit = 0;
    for (; f->n >> bit & 1; bit++) {
        merge_rows(f->n_rows, f->dim, &part, &f->level[bit]);
        tqkv_partial merged = f->level[bit];
        f->level[bit] = part;
        part = merged;
    }
    tqkv_partial free_memory = f->level[bit];
    f->level[bit] = part;
    f->n++;
    return free_memory;
}

tqkv_partial fold_end(const fold *f)
{
    tqkv_partial all = {0};
    for (unsigned bit = 0; f->n >> bit; bit++) {
        if (!(f->n >> bit & 1))
            continue;
        if (all.out)
            merge_rows(f->n_rows, f->dim, &all, &f->level[bit]);
        all = f->level[bit];
    }
    return all;
}

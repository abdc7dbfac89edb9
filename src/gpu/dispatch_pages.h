/* Pages on devices: what their dispatches share. */
#ifndef TQKV_GPU_DISPATCH_PAGES_H
#define TQKV_GPU_DISPATCH_PAGES_H

#include "gpu/dispatch_cache.h"
#include "tqkv_page.h"

/* Views of codes, scales and means of keys and of values, and of staged keys and values. */
enum { STAGED_KEYS = 6, PAGES_VIEWS = 8 };

/* One call: its arguments, and what they come to. */
typedef struct pages_call {
    tqkv_encoder *e;
    tqkv_registry *registry;
    const tqkv_gpu_pages *pages;
    uint32_t first_layer, n_layers;
    size_t from_layer[2], from_row[2], from_head[2]; /* of new keys and values, in bytes */
    tqkv_buffer *views[PAGES_VIEWS];
    const void *arguments; /* the call's own */
} pages_call;

/* Encoder and registry are good. */
tqkv_status pages_begin(pages_call *c);
/* Layers are there, and no row of sealed or staged pages lies outside its buffers. */
tqkv_status pages_check(pages_call *c, int is_sealed, int is_staged);
/* The same for new rows of keys and values of these head_dims; sets c->from_... */
tqkv_status pages_check_rows(pages_call *c, const tqkv_gpu_new_rows *rows, const uint32_t *dims);

/* A side of sealed pages, and where its rows come from. */
pages_side pages_side_of(const tqkv_gpu_pages *p, int is_key);
void pages_side_from_staged(pages_side *s, const tqkv_gpu_pages *p, int is_key);
void pages_side_from_rows(pages_call *c, pages_side *s, const tqkv_gpu_new_rows *rows, int is_key);

/* Codebook, head_dim and rotation of keys are those of values. */
int pages_are_one_launch(const tqkv_gpu_pages *p);

/* Records the launch for n_sides sides from `first` on: keys are side 0, values 1. */
typedef tqkv_status (*pages_recorder)(pages_call *c, uint32_t first, uint32_t n_sides);
/* All launches for these sides (bits), or none: one for both if is_one. */
tqkv_status pages_record(pages_call *c, pages_recorder record, int is_sealed, int is_staged,
                         int is_one, unsigned sides);

#endif

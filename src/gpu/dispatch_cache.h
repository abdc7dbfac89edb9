/* A cache as tqkv_gpu_attention lays it out: what attention and append check of it. */
#ifndef TQKV_GPU_DISPATCH_CACHE_H
#define TQKV_GPU_DISPATCH_CACHE_H

#include "gpu/dispatch.h"

int operand_format_is_good(const tqkv_gpu_operand *o);
int balances_are_good(const tqkv_gpu_operand *keys);

/* Pages, rings and lengths have a meaning, and no row of keys or values lies outside its
 * buffers. */
tqkv_status cache_check(tqkv_encoder *e, const tqkv_gpu_attention *a);

/* The same for kernels. */
operand_params operand_of(const tqkv_gpu_attention *a, const tqkv_gpu_operand *o);
place_params places_of(const tqkv_gpu_attention *a);

/* An operand's rotation; none where its rows' domain is the caller's. */
void operand_rotation_set(rotation_params *p, const tqkv_gpu_operand *o, int inverse);

/* Views of keys' codes and scales, and of values' codes and scales, from the first row of
 * slot `first` on; null where nothing is read. The caller frees them, also after an error. */
enum { CACHE_VIEWS = 4 };
tqkv_status cache_views(const tqkv_gpu_attention *a, uint64_t first, tqkv_buffer **views);

/* What pages add to a cache: means of keys and of values, staged keys and values. */
enum { PAGE_VIEWS = 4 };
int cache_has_means(const tqkv_gpu_attention *a);
staged_params staged_of(const tqkv_gpu_operand *o);
tqkv_status page_views(const tqkv_gpu_attention *a, tqkv_buffer **views);
void views_free(tqkv_buffer **views, int n);

#endif

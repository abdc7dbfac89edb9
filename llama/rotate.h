/*
 * llama.cpp's own rotation. With quantised caches it multiplies queries, keys
 * and values with a Hadamard matrix, and attention's output once more: products
 * that cancel, and that tqkv's formats do not need, since they rotate inside.
 * tqkv leaves them out: stores and attention read what was to be rotated, which
 * ggml is asked to keep for so long, and the product of attention's output is a
 * copy. (The output is written to attention's own memory and nowhere else: what
 * the product will be written to may hold other tensors until then, as in models
 * whose feed-forward network stands beside attention.) Where ggml cannot be asked,
 * rotations stay, and rows hold rotated keys and values.
 */
#ifndef TQKV_LLAMA_ROTATE_H
#define TQKV_LLAMA_ROTATE_H

#include "graph.h"

/* Whether t is llama.cpp's product of queries or keys with its matrix, whether
 * tqkv leaves it out or not. */
int rotate_is_of_keys(const gg_tensor *t);

/* The rotation that t is, or is a view of; null if it is none that tqkv leaves
 * out. */
const gg_tensor *rotate_of(const gg_tensor *t);

/* Where the values of t lie, or would if they had not been rotated. */
void *rotate_data(const gg_tensor *t);

/* Whether the graph rotates this attention's output. */
int rotate_follows(gg_graph *graph, const gg_tensor *attention);

/* How far RoPE moved the keys of each slot, if it is RoPE, and rotations perhaps,
 * that they come from; null if not. */
const gg_tensor *rotate_shifts(const gg_tensor *keys);

/* Asks for the memory that leaving out rotations takes. */
void rotate_reserve(gg_graph *graph, const gg_optimize_params *params);

#endif

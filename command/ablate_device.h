/* The legs of ablate on a device. */
#ifndef TQKV_COMMAND_ABLATE_DEVICE_H
#define TQKV_COMMAND_ABLATE_DEVICE_H

#include "capture.h"
#include "device.h"

/* Leg F of mlx-native, by its own dispatches: hadamard_quantize_kv, dequantize_kv (a
 * position at a time) and flash_attn_vec on what that gives, flash_attn_vec_tq or _hb
 * on the codes, and flash_attn_vec on the rotated originals; for the last n_queries
 * positions of every layer and head. Outputs are [layer][query][head][head_dim], in
 * the rotated domain. 0 with a message. */
int device_reference_legs(const device *d, const capture *c, const tqkv_format *f,
                          uint32_t n_queries, double wrong_scale, float *dense, float *decoded,
                          float *codes);

#endif

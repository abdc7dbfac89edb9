/* eval's round trips and attention on a device. */
#ifndef TQKV_COMMAND_EVAL_DEVICE_H
#define TQKV_COMMAND_EVAL_DEVICE_H

#include "device.h"
#include "eval_attention.h"

/* Seconds of the device, over values. */
typedef struct device_span {
    double encode_seconds, decode_seconds, values;
} device_span;

/* src[n_layers][n_tokens][n_kv_heads][head_dim] to rows and back, to dst; rows may be
 * null or hold all layers' rows. 0 with a message. */
int device_round_trip(const device *d, const capture *c, const tqkv_format *f,
                      const tqkv_profile *profile, const float *src, float *dst, uint8_t *rows,
                      device_span *time);

/* Attention from a's query positions on these rows; fills a's outputs. */
int device_eval_attention(const device *d, attention *a, const capture *c, const tqkv_format *keys,
                          const tqkv_format *values, const tqkv_profile *profile,
                          uint8_t *key_rows, uint8_t *value_rows);

#endif

/* The levels of a row of three taps (codec/kernels.h), the same text for every instruction set.
 * The includer has TARGET and lane_levels, which is compiled for each known size. */
#include "codec/kernels.h"

/* Known sizes spare the search for what a vector needs. */
TARGET static void plane_levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    switch (p->head_dim / 8) {
    case 8:
        lane_levels(codes, p, 8, out);
        break;
    case 10:
        lane_levels(codes, p, 10, out);
        break;
    case 12:
        lane_levels(codes, p, 12, out);
        break;
    case 14:
        lane_levels(codes, p, 14, out);
        break;
    case 16:
        lane_levels(codes, p, 16, out);
        break;
    case 20:
        lane_levels(codes, p, 20, out);
        break;
    case 24:
        lane_levels(codes, p, 24, out);
        break;
    case 32:
        lane_levels(codes, p, 32, out);
        break;
    default:
        if (p->head_dim < 64)
            codec_scalar.levels(codes, p, out);
        else
            lane_levels(codes, p, p->head_dim / 8, out);
    }
}

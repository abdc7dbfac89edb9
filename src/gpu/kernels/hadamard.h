#pragma once
/* Rotation of one row in local memory, by `lanes` items that all come here
 * together with the rest of the group. The order of the sums is the codec's. */

/* x = H x, without the factor, or x as it is if the rotation is not active; y is as
 * long as x. `outer` is transposed for the inverse. Ends behind a barrier.
 *
 * No barrier is under a condition: PoCL copies what follows one that is, for every
 * such condition again. */
INLINE void hadamard(LOCAL float *x, LOCAL float *y, uint dim, PARAM const rotation_params *r,
                     uint lane, uint lanes, uint n_items)
{
    uint block = r->active ? dim / r->order : 1, outer = r->order > 1 ? dim : 0;
    for (uint h = 1; h < block; h *= 2) {
        for (uint k = lane; k < dim / 2; k += lanes) {
            uint i = (k & ~(h - 1)) * 2 + (k & (h - 1));
            float low = x[i], high = x[i + h];
            x[i] = low + high;
            x[i + h] = low - high;
        }
        BARRIER(n_items);
    }
    for (uint k = lane; k < outer; k += lanes) {
        ulong row = r->outer[k / block];
        uint column = k % block;
        float sum = row & 1 ? -x[column] : x[column];
        for (uint j = 1; j < r->order; j++)
            sum = row >> j & 1 ? sum - x[j * block + column] : sum + x[j * block + column];
        y[k] = sum;
    }
    BARRIER(n_items);
    for (uint k = lane; k < outer; k += lanes)
        x[k] = y[k];
    BARRIER(n_items);
}

INLINE float flipped(PARAM const rotation_params *r, uint i, float x)
{
    return r->has_signs && (r->signs[i / 64] >> i % 64 & 1) ? -x : x;
}

/* The order in which vectors of 4, 8 and 16 lanes add. */
INLINE float lanes_sum(LOCAL const float *lane)
{
    float four[4];
    for (uint i = 0; i < 4; i++)
        four[i] = (lane[i] + lane[i + 8]) + (lane[i + 4] + lane[i + 12]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* Attention on codes for NVIDIA GPUs, sm_80 and later, by the tensor cores' 8-bit integers.
 *
 * What there is to do. Decoding reads every row once: at 4 bits and head_dim 128, 132 bytes
 * a token and KV head for 256 values. On an H100 a copy moves 3 TB/s, so that 5.8 values
 * pass a nanosecond; 132 multiprocessors of 64 integer lanes at 1.75 GHz do 15 integer
 * operations in that time: 2.5 a value, for everything. Decoding in floating point, or
 * with a shift and a mask a code, is over that alone. So:
 *
 * Look-up. `prmt` picks for each of four selector nibbles one of 8 bytes or, where the
 * nibble's bit 3 is set, 0 or -1, the sign of the byte. A table f of 16 levels becomes
 * two of 8 bytes, T1 looked up with the code n and T2 with its complement, so that
 *     f(n) = T1[n] + sign(T2[7 - n]),    f(n + 8) = T2[7 - n] + sign(T1[n]),   n < 8;
 * such bytes exist for all levels up to 126 (tables_make in dispatch_tensor.c). The sum
 * is the tensor core's: one mma for T1, one for T2. 4 prmt, a shift (integer lanes) and 2
 * complements (as multiply-adds, on other lanes) look up 8 codes in one table.
 *
 * The trellis adds a[high nibble of the window] and b[low nibble]. At 4 bits the window's
 * high nibble is the next value's low one: sum(q_i * level_i) = sum(n_i's b * q_i + n_i's a *
 * q_(i-1)), so that the codes are selectors as they are, b's with the query and a's with
 * the query shifted by one. At 2 bits the same holds for each of the two streams of nibbles
 * that begin at bit 0 and bit 2, with a shift of two. For other rates nibbles are brought
 * in place by shifts. Lloyd-Max and mlx levels are no integers: the multiples of a fitted unit
 * next to them are, to 0.3% of the root mean square, and one look-up is enough. 8-bit codes
 * are levels.
 *
 * Keys. Tokens on M, query rows on N, coordinates on K of m16n8k32. A lane's piece of a
 * row is its A fragment if the query is permuted alike, so keys are not rearranged. Queries
 * have 16 bits, in two digits: up to 4 rows these are the columns 0-3 and 4-7, which N = 8
 * would leave empty; beyond, sets of columns of their own.
 *
 * Weights are 16-bit integers P = 2^(logit - ref) * (the value's scale), against an integer
 * ref per query row and warp. The largest is 2^14 when ref is set, and may grow fourfold
 * before ref moves and the sums are shifted. No maximum is worked out otherwise: a weight
 * that is too large shows in the bits of the rounded one. movmatrix transposes weights from
 * accumulators to B fragments.
 *
 * Values. Coordinates on M, tokens on K: four tokens' words of 8 nibbles are transposed (12
 * operations for 32) into selectors of four tokens of one coordinate. The shift of a trellis
 * is one of rows of A: the fragment of nibble i + 1 multiplies into the sum of coordinate i;
 * what belongs to the coordinate before a lane's first has an accumulator of its own, and
 * is added at the end.
 *
 * Pages. A mean is 8-bit levels, as codes of 8 bits are: query . mean is one more product on the
 * tensor cores, of the query in the original domain, whose result all lanes get because all rows
 * of M are the mean. Weights of rows with a choice are added up in floats, a sum a page and query
 * row, and that times the mean goes to sums in the original domain, which the warp keeps beside
 * those in the rows'. So do staged tiles, in floats throughout (tensor_staged.h).
 *
 * Work. The tiles of all heads of all sequences form one list; each block takes an equal
 * share, each warp of it tiles in turn, through a ring of its own that the copy engine
 * fills. Warps meet where a head ends; the last block that is done with a head adds up
 * what the blocks have, in order, so that results are the same every time.
 *
 * Integer operations a value, counted in the machine code, are in doc/gpu.md. */
#include "tensor_merge.h"

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attend_tensor(const uchar *queries, const float *balances, const uchar *key_codes,
                  const uchar *key_scales, const uchar *key_means, const uchar *value_codes,
                  const uchar *value_scales, const uchar *value_means, const uchar *staged_keys,
                  const uchar *staged_values_at, const uint *pages, const uint *lengths,
                  const uint *starts, const float *sinks, const float *slopes, const uchar *mask,
                  const float *mask_slopes, uchar *out, float *state, float *partials,
                  uint *counters, const __grid_constant__ tensor_params params)
{
    const tensor_params *p = &params;
    uchar *shared = (uchar *)shared_memory;
    uchar *raw_queries = shared + WARPS * STAGES * STAGE; /* [2][ROWS][D] of up to 4 bytes */
    float *x = (float *)(raw_queries + 2 * ROWS * D * 4);  /* [ROWS][2 D] */
    float *original = x + ROWS * 2 * D;                    /* [ROWS][D]: queries, then sums */
    uchar *staged = (uchar *)(original + (ORIGINAL ? ROWS * D : 0));
    float *merge = (float *)(staged + CASE.staged_bytes);
    workplace *b = (workplace *)(merge + MERGE_WARPS * ROWS * MERGE_STRIDE);
    uint thread = threadIdx.x, lane = thread % 32;
    uint warp = __shfl_sync(~0u, thread / 32, 0); /* the compiler sees that it is uniform */
    counts numbers = {lengths, starts};
    share mine = share_of(p, &numbers, blockIdx.x, gridDim.x, lane);
    uint begin = mine.begin, end = mine.end;
    if (begin >= end)
        return;

    ulong *ring_barriers = b->barriers + warp * STAGES, *query_barriers = b->barriers + WARPS * STAGES,
          *staged_barrier = query_barriers + 2 + warp;
    uchar *ring = shared + warp * STAGES * STAGE;
    if (lane == 0) {
        for (uint i = 0; i < STAGES; i++)
            barrier_init(ring_barriers + i);
        barrier_init(staged_barrier);
        if (warp == 0)
            barrier_init(query_barriers), barrier_init(query_barriers + 1);
        barriers_publish();
    }
    __syncwarp();
    sources from;
    UNROLL for (int i = 0; i < PARTS; i++)
        from.parts[i] = part_kind(i) == CODES    ? part_is_value(i) ? value_codes : key_codes
                        : part_kind(i) == SCALES ? part_is_value(i) ? value_scales : key_scales
                        : part_is_value(i)       ? value_means
                                                 : key_means;
    segment s = segment_at(p, &numbers, begin, lane), ahead = s;
    fetcher f;
    f.at = s;
    f.index = begin + warp;
    while (f.index < end && f.index >= f.at.begin + f.at.n_tiles)
        segment_next(p, &numbers, &f.at);
    fetcher_place(p, &from, &f);
    if (LAYOUT)
        page_read(p, pages, &f, end, lane);

    /* Queries first; then not the whole ring yet: a tile or two a warp keep memory busy, and
     * the deeper the queue, the later the first tile. */
    enum { EARLY = 64 / TILE };
    uint n_fetched = 0; /* segments whose queries are asked for */
    uint filled = 0;
    auto fetch_queries = [&]() {
        if (warp == 0 && ahead.begin < end && ahead.sequence < p->n_sequences)
            queries_fetch(p, &ahead, queries, raw_queries + n_fetched % 2 * ROWS * D * 4,
                          query_barriers + n_fetched % 2, lane);
        n_fetched++;
        segment_next(p, &numbers, &ahead);
    };
    auto fetch_tile = [&](uint stage) {
        if (f.index < end) {
            if (LAYOUT >= 2)
                units_fetch(p, &f, ring + stage * STAGE, lane);
            else
                whole_fetch(p, &f, mask, ring + stage * STAGE, ring_barriers + stage, lane);
        }
        warp_copies_mark();
        fetcher_next(p, &from, &numbers, pages, &f, end, lane);
    };
    if (!p->overlaps)
        fetch_queries(), fetch_queries();
    for (; filled < (p->overlaps ? STAGES : min_of(EARLY, STAGES)); filled++)
        fetch_tile(filled);
    await_launch_before();
    if (p->overlaps)
        fetch_queries(), fetch_queries();
    __syncthreads();

    uint stage = 0, phase = 0, staged_phase = 0, index = begin + warp;
    if (STAGED_BY_ENGINE)
        staged += warp * STAGED_PART;
    for (uint n = 0; s.begin < end; n++, segment_next(p, &numbers, &s)) {
        uint n_rows = rows_of(p, &s), stop = min_of(end, s.begin + s.n_tiles);
        uint first = s.begin < begin ? begin - s.begin : 0; /* of the head's tiles, the block's first */
        barrier_wait(query_barriers + n % 2, n / 2 % 2);
        for (uint r = warp; r < n_rows; r += WARPS)
            query_prepare(p, &s, r,
                          HAS_ENGINE ? raw_queries + n % 2 * ROWS * D * 4 + r * query_bytes(p)
                                     : queries + query_row(p, &s, r) * query_bytes(p),
                          balances, x + r * 2 * D, original + r * D, b, lane);
        if (thread < ROWS)
            row_terms_set(p, &s, thread, slopes, mask_slopes, b);
        if (STAGED)
            staged_mark(p, pages, &s, first, stop - s.begin - first, b, warp, lane);
        __syncthreads();
        fragments_make(x, b, n_rows, thread);
        __syncthreads();
        for (; filled < STAGES; filled++)
            fetch_tile(filled);
        staged_rows rows = {};
        uint next_staged = ~0u; /* tile of the share whose rows are on their way */
        auto fetch_staged = [&](uint from) {
            uint n = stop - s.begin - first;
            next_staged = staged_next(b, from, n);
            if (next_staged >= n)
                return;
            rows = staged_find(p, &s, pages, staged_keys, staged_values_at,
                               (s.first_tile + first + next_staged) * TILE, warp);
            if (STAGED_BY_ENGINE) {
                staged_fetch(&rows, staged, staged_barrier);
                rows = staged_fetched(staged);
            }
        };
        if (STAGED)
            fetch_staged(0);
        progress w = {};
        lane_terms terms = terms_load(b, n_rows, lane % 4);
        UNROLL for (int k = 0; k < LANE_ROWS; k++)
        {
            w.ref[k] = REF_BEGIN;
            w.largest[k] = -INFINITY;
        }
        uint low_most = b->low[n_rows - 1], high_least = b->high[0];

        for (; index < stop; index += WARPS) {
            uint tile = index - s.begin, at = (s.first_tile + tile) * TILE - p->skipped;
            bool is_edge = at > 0x7FFFFFFF || at < low_most || at + TILE > high_least;
            if (USES_ENGINE) {
                barrier_wait(ring_barriers + stage, phase);
            } else {
                warp_copies_wait();
                __syncwarp();
            }
            if (!STAGED || !(b->staged[(tile - first) / 32] >> (tile - first) % 32 & 1))
                tile_attend(p, b, ring + stage * STAGE, is_edge, at, s.length, mask, &terms, lane, &w);
            __syncwarp();
            fetch_tile(stage);
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
        }
        while (STAGED && next_staged < stop - s.begin - first) {
            if (STAGED_BY_ENGINE) {
                barrier_wait(staged_barrier, staged_phase);
                staged_phase ^= 1;
            }
            staged_attend(p, &s, b, &rows, (s.first_tile + first + next_staged) * TILE, mask, original,
                          warp, lane, &w);
            __syncwarp();
            fetch_staged(next_staged + 1);
        }

        warps_merge(&w, b, merge, warp, lane);
        fetch_queries();
        uint first_block = owner_of(&mine, s.begin);
        uint n_parts = owner_of(&mine, s.begin + s.n_tiles - 1) - first_block + 1;
        float *part = partials + ((ulong)2 * blockIdx.x + (blockIdx.x == first_block)) * PART;
        for (uint i = thread; i < n_rows * (PADDED / 2); i += THREADS) {
            uint row = i / (PADDED / 2), place = i % (PADDED / 2) * 2;
            float2 sum = merged_pair(merge, row, place);
            if (n_parts == 1) {
                pair_place(x, row, place, sum);
                continue;
            }
            *(float2 *)(part + row * PART_ROW + place) = sum;
            if (place == 0)
                *(float4 *)(part + row * PART_ROW + PADDED) =
                    make_float4(b->total_ref[row], b->total[row], b->total_largest[row], 0);
        }
        if (ORIGINAL) {
            originals_merge(&w, b, merge, original, n_rows, thread);
            for (uint i = thread; n_parts > 1 && i < n_rows * D; i += THREADS)
                part[i / D * PART_ROW + PADDED + 4 + i % D] = original[i];
        }
        __syncthreads();
        if (n_parts > 1) {
            if (thread == 0) {
                uint before = counter_add(counters + first_block);
                b->is_last = before == n_parts - 1;
                if (b->is_last)
                    counters[first_block] = 0;
            }
            __syncthreads();
            if (!b->is_last)
                continue;
            parts_merge(partials, first_block, n_parts, n_rows, b, x, original, thread);
            __syncthreads();
        }
        for (uint r = warp; r < n_rows; r += WARPS)
            row_finish(p, &s, r, b, sinks, x + r * 2 * D, original + r * D, out, state, lane);
        __syncthreads();
    }
}

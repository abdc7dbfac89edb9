/* Zero start against tail-biting: mean squared error on N(0,1) of the same
 * trellis with the same bits in a row. The zero start fixes the first node and
 * leaves the last one free; tail-biting is what the library does. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/trellis.h"
#include "tqkv.h"

enum { ROWS = 8192, MAX_DIM = 128 };

static double gaussian(void)
{
    static unsigned long long state = 1;
    double u[2];
    for (int i = 0; i < 2; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        u[i] = ((double)(state >> 11) + 0.5) * 0x1p-53;
    }
    return sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]);
}

/* Squared error of one row after its least-squares scale. */
static double zero_start_error(const float *x, unsigned n, unsigned bits)
{
    static unsigned char from[MAX_DIM][64];
    const trellis_table *t = trellis_table_of(bits);
    unsigned nodes = trellis_nodes(bits);
    double cost[64], best[64], square = 0, peak = 0, xl = 0, ll = 0;
    for (unsigned i = 0; i < n; i++) {
        square += (double)x[i] * x[i];
        peak = fmax(peak, fabs(x[i]));
    }
    double gain = bits <= 5 ? 37 / sqrt(square / n) : 127 / peak;
    for (unsigned i = 0; i < nodes; i++)
        cost[i] = i ? 1e30 : 0;
    for (unsigned i = 0; i < n; i++) {
        for (unsigned node = 0; node < nodes; node++) {
            best[node] = 1e31;
            for (unsigned j = 0; j < 1u << bits; j++) {
                unsigned w = node << bits | j;
                double e = x[i] * gain - trellis_level(t, bits, w);
                double c = cost[w & (nodes - 1)] + e * e;
                if (c < best[node]) {
                    best[node] = c;
                    from[i][node] = (unsigned char)j;
                }
            }
        }
        memcpy(cost, best, sizeof cost);
    }
    unsigned node = 0;
    for (unsigned i = 1; i < nodes; i++)
        node = cost[i] < cost[node] ? i : node;
    for (unsigned i = n; i-- > 0;) {
        unsigned w = node << bits | from[i][node];
        double level = trellis_level(t, bits, w);
        xl += x[i] * level;
        ll += level * level;
        node = w & (nodes - 1);
    }
    return square - xl * xl / ll;
}

int main(void)
{
    static float x[ROWS * MAX_DIM], y[ROWS * MAX_DIM];
    static unsigned char memory[ROWS * (MAX_DIM + 2)];
    puts("bits  head_dim  zero start  tail-biting  gain");
    for (unsigned bits = 2; bits <= 6; bits++)
        for (unsigned n = 64; n <= 128; n += 64) {
            char name[8];
            tqkv_format f;
            tqkv_rows rows;
            double zero = 0, biting = 0;
            snprintf(name, sizeof name, "tq%un", bits);
            for (size_t i = 0; i < (size_t)ROWS * n; i++)
                x[i] = (float)gaussian();
            if (tqkv_format_parse(name, n, &f) != TQKV_OK ||
                tqkv_rows_at(&f, memory, 0, &rows) != TQKV_OK ||
                tqkv_encode(&f, NULL, x, TQKV_F32, 0, ROWS, &rows) != TQKV_OK ||
                tqkv_decode(&f, NULL, &rows, ROWS, TQKV_ORIGINAL, y, 0) != TQKV_OK)
                return 1;
            for (size_t r = 0; r < ROWS; r++)
                zero += zero_start_error(x + r * n, n, bits);
            for (size_t i = 0; i < (size_t)ROWS * n; i++)
                biting += pow((double)x[i] - y[i], 2);
            printf("%4u  %8u  %10.6f  %11.6f  %.2f dB\n", bits, n, zero / ROWS / n,
                   biting / ROWS / n, 10 * log10(zero / biting));
        }
    return 0;
}

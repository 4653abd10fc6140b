/* Peak rates of products of int8 and of bf16 in tile registers. */
#include "fill.h"
#include "tiles.h"

/* Tiles of zeros, which take as long as others; four sums, so that none waits for the one before. */
#define PEAK(name, product, k)                                                                                         \
    static double name(int64_t n)                                                                                      \
    {                                                                                                                  \
        pl_tiles_on(16, 64);                                                                                           \
        _tile_zero(4);                                                                                                 \
        _tile_zero(5);                                                                                                 \
        _tile_zero(6);                                                                                                 \
        _tile_zero(7);                                                                                                 \
        _tile_zero(0);                                                                                                 \
        _tile_zero(1);                                                                                                 \
        _tile_zero(2);                                                                                                 \
        _tile_zero(3);                                                                                                 \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            product(0, 4, 6);                                                                                          \
            product(1, 4, 7);                                                                                          \
            product(2, 5, 6);                                                                                          \
            product(3, 5, 7);                                                                                          \
        }                                                                                                              \
        pl_tiles_off();                                                                                                \
        return 4 * 2.0 * 16 * 16 * (k) * (double)n;                                                                    \
    }
PEAK(i8, _tile_dpbssd, 64)
PEAK(bf16, _tile_dpbf16ps, 32)

void pl_fill_peak_amx(pl_kernels *k)
{
    k->peak.i8 = i8;
    k->peak.bf16 = bf16;
}

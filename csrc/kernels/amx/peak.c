/* Peak rates of products of int8 and of bf16 in tile registers. */
#include "fill.h"
#include "tiles.h"

/* Four sums, so that none waits for the one before. The numbers matter: with tiles of zeros the clock rises by a fifth
 * above that of any real product (Xeon, Emerald Rapids: 2.8 GHz; 2.3 with any others). */
#define PEAK(name, product, k)                                                                                         \
    static double name(int64_t n)                                                                                      \
    {                                                                                                                  \
        uint16_t codes[512];                                                                                           \
        for (int i = 0; i < 512; i++)                                                                                  \
            codes[i] = (uint16_t)(0x3f80 + (i * 37) % 64 + ((i & 1) << 15)); /* bf16: 1 to 1.5, of either sign */      \
        pl_tiles_on(16, 64);                                                                                           \
        _tile_loadd(4, codes, 64);                                                                                     \
        _tile_loadd(5, codes, 64);                                                                                     \
        _tile_loadd(6, codes, 64);                                                                                     \
        _tile_loadd(7, codes, 64);                                                                                     \
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

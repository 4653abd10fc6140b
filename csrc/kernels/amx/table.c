/* The tier of tile registers (AMX: TILE, INT8, BF16), laid over AVX-512 with bf16, which all processors with AMX
 * have. */
#include "fill.h"

void pl_kernels_amx(pl_kernels *k)
{
    k->isa = "amx";
    pl_fill_attend_amx(k);
    pl_fill_matmul_amx(k);
    pl_fill_matmul_bf16_amx(k);
    pl_fill_peak_amx(k);
}

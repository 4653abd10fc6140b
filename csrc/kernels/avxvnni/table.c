/* The AVX-VNNI tier (AVX2 and the 256-bit vpdpbusd): laid over the AVX2 one. */
#include "fill.h"

void pl_kernels_avxvnni(pl_kernels *k)
{
    k->isa = "avxvnni";
    pl_fill_matmul_avxvnni(k);
    pl_fill_peak_avxvnni(k);
}

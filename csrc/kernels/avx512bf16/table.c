/* The AVX-512 tier with dot products of bf16: laid over the AVX-512 one. */
#include "fill.h"

void pl_kernels_avx512bf16(pl_kernels *k)
{
    k->isa = "avx512bf16";
    pl_fill_matmul_avx512bf16(k);
    pl_fill_attend_avx512bf16(k);
    pl_fill_peak_avx512bf16(k);
}

/* The NEON tier (aarch64: Advanced SIMD with the dot products of Armv8.2): laid over the scalar one. */
#include "fill.h"

void pl_kernels_neon(pl_kernels *k)
{
    k->isa = "neon";
    pl_fill_matmul_neon(k);
    pl_fill_rows_neon(k);
    pl_fill_recurrent_neon(k);
    pl_fill_fit_neon(k);
    pl_fill_attend_neon(k);
    pl_fill_vocab_neon(k);
    pl_fill_peak_neon(k);
}

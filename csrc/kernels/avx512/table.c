/* The AVX-512 tier (F, BW, DQ, VL, VNNI): laid over the AVX2 one. */
#include "fill.h"

void pl_kernels_avx512(pl_kernels *k)
{
    k->isa = "avx512";
    pl_fill_matmul_avx512(k);
    pl_fill_rows_avx512(k);
    pl_fill_recurrent_avx512(k);
    pl_fill_fit_avx512(k);
    pl_fill_attend_avx512(k);
    pl_fill_vocab_avx512(k);
    pl_fill_peak_avx512(k);
}

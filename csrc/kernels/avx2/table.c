/* The AVX2 tier (AVX2, FMA, F16C, BMI2): laid over the scalar one. */
#include "fill.h"

void pl_kernels_avx2(pl_kernels *k)
{
    k->isa = "avx2";
    pl_fill_matmul_avx2(k);
    pl_fill_rows_avx2(k);
    pl_fill_recurrent_avx2(k);
    pl_fill_fit_avx2(k);
    pl_fill_attend_avx2(k);
    pl_fill_vocab_avx2(k);
    pl_fill_peak_avx2(k);
}

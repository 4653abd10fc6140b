/* The scalar tier: the reference, and what every other tier is laid over. */
#include "fill.h"

void pl_kernels_scalar(pl_kernels *k)
{
    k->isa = "scalar";
    pl_fill_matmul_scalar(k);
    pl_fill_rows_scalar(k);
    pl_fill_recurrent_scalar(k);
    pl_fill_fit_scalar(k);
    pl_fill_attend_scalar(k);
    pl_fill_vocab_scalar(k);
    pl_fill_peak_scalar(k);
}

/* The i8mm tier (NEON and the int8 matrix products of Armv8.6): laid over the NEON one. */
#include "fill.h"

void pl_kernels_i8mm(pl_kernels *k)
{
    k->isa = "i8mm";
    pl_fill_matmul_int_i8mm(k);
    pl_fill_peak_i8mm(k);
}

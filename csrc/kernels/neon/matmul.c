/* The matrix family of this tier: multiplying. */
#include "fill.h"
#include "simd.h"

void pl_fill_matmul_neon(pl_kernels *k)
{
    pl_fill_matmul_int_neon(k);
    pl_fill_matmul_float_neon(k);
}

/* The matrix family of this tier: packing, reading back, multiplying. */
#include "fill.h"
#include "simd.h"

void pl_fill_matmul_avx2(pl_kernels *k)
{
    pl_fill_matmul_int_avx2(k);
    pl_fill_matmul_float_avx2(k);
}

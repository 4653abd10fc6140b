/* The matrix family of this tier; packing and reading back are those of the tiers below. */
#include "simd.h"

void pl_fill_matmul_avx512(pl_kernels *k)
{
    pl_fill_matmul_int_avx512(k);
    pl_fill_matmul_float_avx512(k);
}

/* The matrix family of this tier: packing, reading back, multiplying. */
#include "fill.h"
#include "simd.h"

void pl_fill_matmul_scalar(pl_kernels *k)
{
    pl_fill_pack_scalar(k);
    pl_fill_unpack_scalar(k);
    pl_fill_matmul_int_scalar(k);
    pl_fill_matmul_float_scalar(k);
}

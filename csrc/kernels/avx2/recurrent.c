/* Recurrent layers, AVX2 with FMA: the scalar reference's bits. */
#include <immintrin.h>

#define PL_VEC 8
#define PL_VEC_FMA(a, b, c) ((pl_vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))

#include "../recurrent.h"
#include "fill.h"

void pl_fill_recurrent_avx2(pl_kernels *k)
{
    k->conv = pl_conv_row;
    k->scan = pl_scan_rows;
}

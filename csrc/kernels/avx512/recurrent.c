/* Recurrent layers, AVX-512: the scalar reference's bits. */
#include <immintrin.h>

#define PL_VEC 16
#define PL_VEC_FMA(a, b, c) ((pl_vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))

#include "../recurrent.h"
#include "fill.h"

void pl_fill_recurrent_avx512(pl_kernels *k)
{
    k->conv = pl_conv_row;
    k->scan = pl_scan_rows;
}

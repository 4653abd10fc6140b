/* Recurrent layers, NEON: the scalar reference's bits. */
#include <arm_neon.h>

#define PL_VEC 4
#define PL_VEC_FMA(a, b, c) ((pl_vec)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))

#include "../recurrent.h"
#include "fill.h"

void pl_fill_recurrent_neon(pl_kernels *k)
{
    k->conv = pl_conv_row;
    k->scan = pl_scan_rows;
}

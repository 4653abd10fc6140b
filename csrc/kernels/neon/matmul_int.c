/* Matrix products with quantised weights, using sdot: four rows of w x four k a vector, times four k of x, one of the
 * four lanes of a vector of 16 codes. Dots are exact in int32 and start from -offset * sum(y). Half a block by a row is
 * sixteen sdot for three loads of activations and one of sums that wait in L1. */
#include "block.h"
#include "fill.h"

PL_INLINE void times_rows(const pl_shape f, int terms, const half_block *w, int n, const uint8_t *panel,
                          float (*acc)[PL_TILE], int at)
{
    for (int i = 0; i < n; i++, panel += pl_entry_bytes(f, terms)) {
        float32x4_t a[2] = {vld1q_f32(acc[i] + at), vld1q_f32(acc[i] + at + 4)};
        times_row(f, terms, 0, w, panel, a);
        vst1q_f32(acc[i] + at, a[0]);
        vst1q_f32(acc[i] + at + 4, a[1]);
    }
}

#include "matmul_int.h"

void pl_fill_matmul_int_neon(pl_kernels *k)
{
    fill_matmul_int(k);
}

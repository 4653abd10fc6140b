/* The quick search for scales, NEON. */
#include <arm_neon.h>

#define PL_VEC 4
#define PL_VEC_MIN(a, b) ((pl_fit_vec)vminq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define PL_VEC_MAX(a, b) ((pl_fit_vec)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_neon(pl_kernels *k)
{
    k->fit = pl_fit_sixteen;
    k->fit_codes = pl_fit_codes;
}

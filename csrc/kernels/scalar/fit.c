/* The quick search for scales. */
#define PL_VEC 4
#define PL_VEC_MIN(a, b) pl_fit_pick((a) < (b), a, b)
#define PL_VEC_MAX(a, b) pl_fit_pick((a) > (b), a, b)

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_scalar(pl_kernels *k)
{
    k->from_f16 = NULL;
    k->from_bf16 = pl_fit_from_bf16;
    k->fit = pl_fit_groups;
    k->fit_codes = pl_fit_codes;
    k->fit_whole = pl_fit_whole;
}

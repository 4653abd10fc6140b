/* What each file of this folder puts into the table of kernels. */
#ifndef PL_FILL_I8MM_H
#define PL_FILL_I8MM_H

#include "../kernels.h"

void pl_fill_matmul_int_i8mm(pl_kernels *k); /* products with quantised weights */
void pl_fill_peak_i8mm(pl_kernels *k);       /* peak */

#endif

/* What each file of this folder puts into the table of kernels. */
#ifndef PL_FILL_AVX512BF16_H
#define PL_FILL_AVX512BF16_H

#include "../kernels.h"

void pl_fill_attend_avx512bf16(pl_kernels *k); /* keys and values in bf16 */
void pl_fill_matmul_avx512bf16(pl_kernels *k); /* BF16 weights */
void pl_fill_peak_avx512bf16(pl_kernels *k);   /* peak */

#endif

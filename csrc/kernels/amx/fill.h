/* What each file of this folder puts into the table of kernels. */
#ifndef PL_FILL_AMX_H
#define PL_FILL_AMX_H

#include "../kernels.h"

void pl_fill_attend_amx(pl_kernels *k);      /* keys and values in bf16 */
void pl_fill_matmul_amx(pl_kernels *k);      /* products of many rows with quantised weights */
void pl_fill_matmul_bf16_amx(pl_kernels *k); /* products with bf16 weights */
void pl_fill_peak_amx(pl_kernels *k);        /* peak */

#endif

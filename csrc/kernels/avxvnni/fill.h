/* What each file of this folder puts into the table of kernels. */
#ifndef PL_FILL_AVXVNNI_H
#define PL_FILL_AVXVNNI_H

#include "../kernels.h"

#ifdef PL_EVEX /* the folder is built once for either encoding */
#define pl_kernels_avxvnni pl_kernels_avxvnni_evex
#define pl_fill_matmul_avxvnni pl_fill_matmul_avxvnni_evex
#define pl_fill_peak_avxvnni pl_fill_peak_avxvnni_evex
#endif

void pl_fill_matmul_avxvnni(pl_kernels *k); /* products with quantised weights */
void pl_fill_peak_avxvnni(pl_kernels *k);   /* peak */

#endif

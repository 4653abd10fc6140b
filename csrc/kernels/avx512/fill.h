/* What each file of this folder puts into the table of kernels. */
#ifndef PL_FILL_AVX512_H
#define PL_FILL_AVX512_H

#include "../kernels.h"

void pl_fill_matmul_avx512(pl_kernels *k);    /* pack, unpack_row, matmul */
void pl_fill_rows_avx512(pl_kernels *k);      /* quantize .. softcap */
void pl_fill_recurrent_avx512(pl_kernels *k); /* conv, scan */
void pl_fill_fit_avx512(pl_kernels *k);       /* from_f16 .. fit_whole */
void pl_fill_attend_avx512(pl_kernels *k);    /* k_bytes .. attend_merge */
void pl_fill_vocab_avx512(pl_kernels *k);     /* max .. exp */
void pl_fill_peak_avx512(pl_kernels *k);      /* peak */

#endif

/* What each file of this folder puts into the table of kernels. */
#ifndef PL_FILL_AVX2_H
#define PL_FILL_AVX2_H

#include "../kernels.h"

void pl_fill_matmul_avx2(pl_kernels *k);    /* pack, unpack_row, matmul */
void pl_fill_rows_avx2(pl_kernels *k);      /* quantize .. softcap */
void pl_fill_recurrent_avx2(pl_kernels *k); /* conv, scan */
void pl_fill_fit_avx2(pl_kernels *k);       /* from_f16 .. fit_whole */
void pl_fill_attend_avx2(pl_kernels *k);    /* k_bytes .. attend_merge */
void pl_fill_vocab_avx2(pl_kernels *k);     /* max .. exp */
void pl_fill_peak_avx2(pl_kernels *k);      /* peak */

/* Kernels of rows.c that attend.c also uses. */
void pl_quantize_avx2(const float *x, int k, int terms, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                      int16_t *sums_lo);
void pl_to_bf16_avx2(const float *x, int n, uint16_t *y);

#endif

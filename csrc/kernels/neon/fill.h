/* What each file of this folder puts into the table of kernels. */
#ifndef PL_FILL_NEON_H
#define PL_FILL_NEON_H

#include "../kernels.h"

void pl_fill_matmul_neon(pl_kernels *k);    /* matmul; pack and unpack_row are inherited */
void pl_fill_rows_neon(pl_kernels *k);      /* quantize .. softcap */
void pl_fill_recurrent_neon(pl_kernels *k); /* conv, scan */
void pl_fill_fit_neon(pl_kernels *k);       /* from_f16 .. fit_whole */
void pl_fill_attend_neon(pl_kernels *k);    /* kv_append .. attend_merge */
void pl_fill_vocab_neon(pl_kernels *k);     /* max .. exp */
void pl_fill_peak_neon(pl_kernels *k);      /* peak */

#endif

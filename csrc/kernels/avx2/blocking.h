/* How much the kernels of this tier do at a time. Repeat the measurement beside a number when changing it. */
#ifndef PL_BLOCKING_AVX2_H
#define PL_BLOCKING_AVX2_H

/* Products with quantised weights (../chunks.h):
 * pytest benchmarks/test_matmul.py --benchmark-enable -k "test_matmul and avx2" */
enum { INT_ROWS = 16 }; /* rows of x that share an unpacked block */

/* Products with float weights: the same command. */
enum { FLOAT_AT_ONCE = 6 }; /* tiles by rows of x: leaves registers for the weights and the broadcast */

/* Attention: pytest benchmarks/test_rows.py --benchmark-enable -k "test_attend and avx2" */
enum { ATTEND_ROWS = 4 }; /* query rows at a time */

#endif

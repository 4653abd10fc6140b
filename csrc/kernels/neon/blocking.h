/* How much the kernels of this tier do at a time. Repeat the measurement beside a number when changing it. */
#ifndef PL_BLOCKING_NEON_H
#define PL_BLOCKING_NEON_H

/* Products with quantised weights (../chunks.h):
 * pytest benchmarks/test_matmul.py --benchmark-enable -k "test_matmul and neon" */
enum { INT_ROWS = 16 }; /* rows of x that share an unpacked block */

/* Products with float weights: the same command. */
enum { FLOAT_AT_ONCE = 4 }; /* tiles by rows of x: leaves half of the registers for weights and activations */

/* Attention: pytest benchmarks/test_rows.py --benchmark-enable -k "test_attend and neon" */
enum { ATTEND_ROWS = 4 }; /* query rows at a time */

#endif

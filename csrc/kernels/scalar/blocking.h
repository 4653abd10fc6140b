/* How much the kernels of this tier do at a time. Repeat the measurement beside a number when changing it. */
#ifndef PL_BLOCKING_SCALAR_H
#define PL_BLOCKING_SCALAR_H

/* Products with quantised weights: pytest benchmarks/test_matmul.py --benchmark-enable -k "test_matmul and scalar" */
enum { INT_ROWS = 8 }; /* rows of x that share the reading of a block */

/* Attention: pytest benchmarks/test_rows.py --benchmark-enable -k "test_attend and scalar" */
enum { ATTEND_ROWS = 1 }; /* query rows at a time */

#endif

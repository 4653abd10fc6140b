/* How much the kernels of this tier take at once. Change a number only with the measurement beside it. */
#ifndef PL_BLOCKING_SCALAR_H
#define PL_BLOCKING_SCALAR_H

/* Products on quantised weights: pytest benchmarks/test_matmul.py --benchmark-enable -k "test_matmul and scalar" */
enum { INT_ROWS = 8 }; /* rows of x that share the reading of a block */

/* Attention: pytest benchmarks/test_rows.py --benchmark-enable -k "test_attend and scalar" */
enum { ATTEND_ROWS = 1 }; /* query rows at a time */

#endif

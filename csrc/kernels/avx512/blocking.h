/* How much the kernels of this tier do at a time. Repeat the measurement beside a number when changing it. */
#ifndef PL_BLOCKING_AVX512_H
#define PL_BLOCKING_AVX512_H

/* Products with quantised weights: pytest benchmarks/test_matmul.py --benchmark-enable -k "test_matmul and avx512" */
enum {
    INT_ROWS = 12,  /* rows of x that meet a block in registers; four or five meet two */
    INT_SHARE = 48, /* rows of x that a pass over the weights serves, if there are as many */
};

/* Products with float weights: the same command. */
enum {
    FLOAT_ROWS = 12,
    FLOAT_TILES = 4,
    FLOAT_PANEL_K = 512, /* k of copied activations: 25 KB, in a first-level cache */
};

/* Attention: pytest benchmarks/test_rows.py --benchmark-enable -k "test_attend and avx512" */
enum { ATTEND_ROWS = 6 }; /* query rows at a time */

#endif

/* How much the kernels of this tier do at a time. Repeat the measurement beside a number when changing it. */
#ifndef PL_BLOCKING_AVX512BF16_H
#define PL_BLOCKING_AVX512BF16_H

/* Products with BF16 weights: pytest benchmarks/test_matmul.py --benchmark-enable -k "test_matmul and avx512bf16" */
enum {
    BF16_ROWS = 12, /* by BF16_TILES: accumulators that hide a dot's latency */
    BF16_TILES = 2,
};

/* Attention in bf16: pytest benchmarks/test_rows.py --benchmark-enable -k "test_attend and avx512bf16" */
enum {
    ATTEND_ROWS = 6,      /* query rows at a time */
    ATTEND_Q_PAIRS = 128, /* pairs of d of which the queries are held in bf16 at a time, ... */
    ATTEND_Q_HELD = 6144, /* ... unless there is room for those of all rows */
};

#endif

/* How much the kernels of this tier do at a time. Repeat the measurement beside a number when changing it. */
#ifndef PL_BLOCKING_AMX_H
#define PL_BLOCKING_AMX_H

/* Products with quantised weights: pytest benchmarks/test_matmul.py --benchmark-enable -k "test_matmul and amx" */
enum {
    AMX_ROWS = 16,   /* rows of a tile register: rows of x that are multiplied at once */
    AMX_GROUP = 13,  /* rows of x from which on one group of them by tiles is faster than vectors */
    AMX_LEAST = 28,  /* likewise, two groups and more */
    AMX_DOTS = 4,    /* products of a step, whose sums are scaled during the next one */
    AMX_LAG = 2,     /* products that begin after one before its sums are stored */
    AMX_PART = 16,   /* blocks of k that are unpacked at a time: 10 to 14 KB, in a first-level cache of 48 */
    AMX_MOST = 20,   /* up to this many, all at once; places for unpacked blocks */
    AMX_GROUPS = 16, /* groups of sixteen rows that meet a part, at most */
};

/* Products with bf16 weights: pytest benchmarks/test_matmul.py --benchmark-enable -k "bf16 and amx" */
enum {
    BF16_BLOCK = 64,       /* steps of 32 k of a panel, which lies in a second-level cache of 2 MB */
    BF16_SLICE = 16,       /* steps of two tiles that all rows meet, 32 KB in a first-level cache of 48 */
    BF16_GROUPS = 16,      /* groups of 32 rows of a panel, at most */
    BF16_WINDOW = 16,      /* steps of a tile that few rows prefetch while they meet those before (../prefetch.h) */
    BF16_CACHED = 1 << 18, /* floats of y's rows that a second-level cache may keep: more go past it */
};

/* Attention in bf16: pytest benchmarks/test_rows.py --benchmark-enable -k "test_attend and amx" */
enum {
    ATTEND_ROWS = 16,  /* query rows at a time, at most: those of a tile register */
    ATTEND_PAIRS = 16, /* pairs of d, or of slots, that one product adds up */
    FEW_ROWS = 4,      /* rows, at most, of which vectors do the same sums faster */
    FEW_WHOLE = 3,     /* likewise, if they see more than two groups of a page */
};

#endif

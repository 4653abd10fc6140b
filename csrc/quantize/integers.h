/* Weights of Hugging Face folders that are integers with a scale and a zero point for each group of columns (GPTQ, AWQ,
 * compressed-tensors) -> blocks of the engine's formats. */
#ifndef PL_INTEGERS_H
#define PL_INTEGERS_H

#include <stdint.h>

/* w[row][column] = scale * (code - zero). A code is in the word of its row and column, and there at a place. Words have
 * `step_column` and `step_row` bytes between them. */
typedef struct pl_integers {
    const uint8_t *codes;
    int64_t step_column, step_row;
    int bits;         /* 4 or 8 */
    int columns;      /* of a word: 8 (4 bits), 4 (8 bits), or k */
    int rows_of_word; /* 1; or 8 (AWQ, 4 bits), and then `columns` is 1 */
    int flip;         /* 0x80 if codes are signed bytes, else 0 */
    int64_t k, groups;
    const int32_t *order; /* (k): the column at each place; NULL: each in its own */
    const int32_t *group; /* (k): the group of the column at each place */
    const float *scale;   /* (rows, groups) */
    const int16_t *zero;  /* (rows, groups) */
} pl_integers;

typedef enum {
    PL_INTEGERS_F32,  /* exact except for the rounding of each product */
    PL_INTEGERS_INT4, /* scales in F16, zero points 0..255; each block of 32 columns in one group */
    PL_INTEGERS_Q8_0, /* scales in F16; code - zero in a signed byte, likewise */
} pl_integers_to;

/* Rows [from, to) -> out, in `format`. */
void pl_integers_make(const pl_integers *w, pl_integers_to format, int64_t from, int64_t to, uint8_t *out);

/* A matrix in FP8 (OCP 8-bit floating point, e4m3 without infinities), a scale for each block of (block_rows,
 * block_columns). */
typedef struct pl_fp8 {
    int64_t k, block_rows, block_columns;
    const float *scale; /* (rows / block_rows, k / block_columns), each rounded up */
} pl_fp8;

/* Codes (to - from, k) of rows [from, to) -> out, of the same shape. */
void pl_fp8_make(const pl_fp8 *w, const uint8_t *codes, int64_t from, int64_t to, float *out);

#endif

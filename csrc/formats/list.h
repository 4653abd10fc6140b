/* The weight formats: what distinguishes one from another. formats.h explains the layout. */
#ifndef PL_FORMATS_LIST_H
#define PL_FORMATS_LIST_H

/* A row: name, number in GGUF files, bits of a value. */
#define PL_FLOAT_FORMATS(DO) DO(F32, 0, 32) DO(F16, 1, 16) DO(BF16, 30, 16)

/* A row:
 *   name, number in GGUF files
 *   weights  of a block of the file: 32, 64, 128, or 256 (a super block)
 *   bytes    of a block of the file
 *   bits     of a code
 *   group    weights that share a scale
 *   offset   what is subtracted from a code
 *   min      1: each group also has a min, in the form of the scale; then no offset
 *   scale    PL_SCALE_*, the form of a scale in a packed block
 *   table    what 4-bit codes stand for (formats.h), or NONE: codes stand for themselves */
/* clang-format off */
#define PL_INT_FORMATS(DO)                                                        \
    /* name  gguf  weights bytes bits  group offset min  scale  table */          \
    DO(Q4_0,    2,      32,   18,   4,    32,     8,  0,   F16,  NONE)            \
    DO(Q4_1,    3,      32,   20,   4,    32,     0,  1,   F16,  NONE)            \
    DO(Q5_0,    6,      32,   22,   5,    32,    16,  0,   F16,  NONE)            \
    DO(Q5_1,    7,      32,   24,   5,    32,     0,  1,   F16,  NONE)            \
    DO(Q8_0,    8,      32,   34,   8,    32,   128,  0,   F16,  NONE)            \
    DO(Q2_K,   10,     256,   84,   2,    16,     0,  1,    U4,  NONE)            \
    DO(Q3_K,   11,     256,  110,   3,    16,     4,  0,    I8,  NONE)            \
    DO(Q4_K,   12,     256,  144,   4,    32,     0,  1,    U8,  NONE)            \
    DO(Q5_K,   13,     256,  176,   5,    32,     0,  1,    U8,  NONE)            \
    DO(Q6_K,   14,     256,  210,   6,    16,    32,  0,    I8,  NONE)            \
    DO(IQ4_NL, 20,      32,   18,   4,    32,   128,  0,   F16,   IQ4)            \
    DO(IQ4_XS, 23,     256,  136,   4,    32,   128,  0,    I8,   IQ4)            \
    DO(MXFP4,  39,      32,   17,   4,    32,    12,  0,  E8M0,   FP4)            \
    DO(NVFP4,  40,      64,   36,   4,    16,    12,  0,   F16,   FP4)            \
    /* not a GGUF format: 4-bit weights of Hugging Face folders with a zero point for each group (legacy.c) */ \
    DO(INT4, 1004,      32,   19,   4,    32,     0,  1,  F16Z,  NONE)

/* Rarer formats, which share the kernels of a family, named last: it has a format's bits, group and form of scale. */
#define PL_SHARED_FORMATS(DO)                                                               \
    /* name   gguf  weights bytes bits  group offset min  scale  table     family */        \
    DO(IQ2_XXS, 16,    256,   66,   4,    32,    43,  0,    U8,   IQ2,     TABLE32)         \
    DO(IQ2_XS,  17,    256,   74,   4,    16,    43,  0,    U8,   IQ2,     TABLE16)         \
    DO(IQ3_XXS, 18,    256,   98,   4,    32,    31,  0,    U8,   IQ3_XXS, TABLE32)         \
    DO(IQ1_S,   19,    256,   50,   4,    32,     9,  0,    U8,   IQ1,     TABLE32)         \
    DO(IQ3_S,   21,    256,  110,   4,    32,    15,  0,    U8,   IQ3_S,   TABLE32)         \
    DO(IQ2_S,   22,    256,   82,   4,    16,    43,  0,    U8,   IQ2,     TABLE16)         \
    DO(IQ1_M,   29,    256,   56,   4,    16,     9,  0,    U8,   IQ1,     TABLE16)         \
    DO(TQ1_0,   34,    256,   54,   2,    32,     1,  0,   F16,   NONE,    TERNARY)         \
    DO(TQ2_0,   35,    256,   66,   2,    32,     1,  0,   F16,   NONE,    TERNARY)         \
    DO(Q1_0,    41,    128,   18,   2,    32,     1,  0,   F16,   NONE,    TERNARY)         \
    DO(Q2_0,    42,     64,   18,   2,    32,     1,  0,   F16,   NONE,    TERNARY)

/* The families, by the format with the greatest values. */
#define PL_FAMILIES(DO)                                                                     \
    DO(TABLE32, 16,    256,   66,   4,    32,    43,  0,    U8,   IQ2)                      \
    DO(TABLE16, 17,    256,   74,   4,    16,    43,  0,    U8,   IQ2)                      \
    DO(TERNARY, 35,    256,   66,   2,    32,     1,  0,   F16,   NONE)
/* clang-format on */

/* Forms of scales: bits in a packed block (U4: a min lies in the same byte); 1: integers under the f16 factors of a
 * super block. */
#define PL_SCALE_BITS_F16 16
#define PL_SCALE_BITS_U8 8
#define PL_SCALE_BITS_I8 8
#define PL_SCALE_BITS_U4 4
#define PL_SCALE_BITS_E8M0 8
#define PL_SCALE_BITS_F16Z 12 /* on average: a zero point has 8 */
#define PL_SUPER_F16 0
#define PL_SUPER_U8 1
#define PL_SUPER_I8 1
#define PL_SUPER_U4 1
#define PL_SUPER_E8M0 0
#define PL_SUPER_F16Z 0

/* Bytes of a packed block of 16 rows x 32 k, and of the header before eight such blocks of a super format. */
#define PL_PACKED_BYTES(bits, group, min, scale)                                                                       \
    (PL_TILE * (32 * (bits) + 32 / (group) * (1 + (min)) * PL_SCALE_BITS_##scale) / 8)
#define PL_HEADER_BYTES(min, scale) (PL_SUPER_##scale ? PL_TILE * 2 * (1 + (min)) : 0)

#endif

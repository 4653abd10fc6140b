/* The weight formats: what distinguishes one from another. formats.h explains the layout. */
#ifndef PL_FORMATS_LIST_H
#define PL_FORMATS_LIST_H

/* A row: name, number in GGUF files, bits of a value. */
#define PL_FLOAT_FORMATS(DO) DO(F32, 0, 32) DO(F16, 1, 16) DO(BF16, 30, 16)

/* A row:
 *   name, number in GGUF files
 *   weights  of a block of the file: 32, or 256 (a super block, with f16 factors of its scales and mins)
 *   bits     of a code
 *   group    weights that share a scale
 *   offset   what is subtracted from a code
 *   min      1: a min as well for each group, in the form of the scale
 *   scale    PL_SCALE_*, the form of a scale in a packed block
 *   in file  bits of a scale (and of a min) in the file
 *   table    16 unsigned bytes that 4-bit codes stand for, or NULL: codes stand for themselves */
/* clang-format off */
#define PL_INT_FORMATS(DO)                                                   \
    /* name gguf  weights bits  group offset min  scale  in file  table */   \
    DO(Q4_0,   2,      32,   4,    32,     8,  0,   F16,      16,  NULL)     \
    DO(Q4_1,   3,      32,   4,    32,     0,  1,   F16,      16,  NULL)     \
    DO(Q5_0,   6,      32,   5,    32,    16,  0,   F16,      16,  NULL)     \
    DO(Q5_1,   7,      32,   5,    32,     0,  1,   F16,      16,  NULL)     \
    DO(Q8_0,   8,      32,   8,    32,   128,  0,   F16,      16,  NULL)     \
    DO(Q4_K,  12,     256,   4,    32,     0,  1,    U8,       6,  NULL)     \
    DO(Q5_K,  13,     256,   5,    32,     0,  1,    U8,       6,  NULL)     \
    DO(Q6_K,  14,     256,   6,    16,    32,  0,    I8,       8,  NULL)
/* clang-format on */

/* Sizes in bytes: of a block of the file; of a packed block of 16 rows x 32 k; of the header before eight such blocks
 * of a super format. */
#define PL_FILE_BYTES(weights, bits, group, min, in_file)                                                              \
    ((weights) * (bits) / 8 + (weights) / (group) * (in_file) * (1 + (min)) / 8 +                                      \
     ((weights) > 32 ? 2 * (1 + (min)) : 0))
#define PL_PACKED_BYTES(bits, group, min, scale)                                                                       \
    (PL_TILE * (32 * (bits) / 8 + (32 / (group) + (min)) * PL_SCALE_BYTES(scale)))
#define PL_HEADER_BYTES(weights, min) ((weights) > 32 ? PL_TILE * 2 * (1 + (min)) : 0)
#define PL_SCALE_BYTES(scale) (PL_SCALE_##scale == PL_SCALE_F16 ? 2 : 1)

#endif

/* Weight formats: what a block of each holds in a model file, and how Pellucid packs it.
 *
 * The packed layout "W16" interleaves sixteen rows. A matrix of (rows, k) is stored as
 * ceil(rows / 16) tiles, one after the other, `pl_tile_bytes` each; rows that pad the last tile
 * have zero codes and zero scales, so that they decode to zero.
 *
 * Integer formats. A tile is a list of blocks of 16 rows x 32 k, in ascending k:
 *
 *   codes   2 bits: 2 vectors of 64 bytes, one per half h. Byte 4r+b of vector h, bits 2i and 2i+1 (i 0..3): the code
 *                   of w[r][16h+4i+b].
 *           3 bits: the same of the codes' two low bits.
 *           4 bits: 4 vectors of 64 bytes. In vector j, byte 4r+b holds the code of w[r][4j+b]
 *                   in its low nibble and of w[r][16+4j+b] in its high nibble.
 *           8 bits: 8 vectors of 64 bytes. In vector j, byte 4r+b holds the code of w[r][4j+b].
 *           5, 6:   the same of the codes' four low bits.
 *   plane   the bits above: absent for 2, 4 and 8 bits.
 *           3 bits: 64 bytes. Byte 4r+b, bit pl_plane3[i] (i 0..7): bit 2 of the code of w[r][4i+b].
 *           5 bits: 64 bytes. Byte 4r+b, bit i (0..7): bit 4 of the code of w[r][4i+b].
 *           6 bits: 2 vectors of 64 bytes, one per half h. Byte 4r+b of vector h, bits 2i and 2i+1:
 *                   bits 4 and 5 of the code of w[r][16h+4i+b].
 *   scales  [groups of the block][16 rows], scaled formats [16 rows][groups], in the format's form; then, with a min,
 *           the mins likewise.
 *           plain formats: F16, or bytes E8M0: 2^(e - 128), half of the power of two that e8m0 stands for, since the
 *                   values of its table are doubled; or F16Z: F16 scales, then a byte for each,
 *                   its zero point: the min is -(scale * zero point), exact in float32.
 *           super formats (256 weights share f16 factors): 8-bit integers, unsigned (U8) or signed (I8), or both as
 *                   nibbles of a byte (U4): the scale in the low one, the min in the high one.
 *
 *   A super format puts a header before each 8 blocks: f16[16] factors of the scales, then, with
 *   a min, f16[16] factors of the mins.
 *
 * Codes are unsigned. A weight is
 *   w = s * (code - offset) + m
 * with s = scale (plain) or unit * d * sc (super, exact in float32), m = min (plain) or -(dmin * mn), or 0.
 * If the format has a table, table[code] takes the place of the code.
 * With groups of 16, a block has two scales per row: the first for k 0..15, the second for k 16..31.
 *
 * Float formats. F32 and F16: [k][16 rows]. BF16: [ceil(k/2)][16 rows][2], zero beyond k: the order
 * that vdpbf16ps needs.
 *
 * Source of the file formats: ggml-common.h and gguf-py's quants.py of the GGUF project (facts only).
 */
#ifndef PL_FORMATS_H
#define PL_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "list.h"

#define PL_TILE 16  /* rows of a tile */
#define PL_BLOCK 32 /* k of a packed block: one activation scale */

/* The bit of the plane's byte that holds the third bit of code i. Codes i and i + 2 (i 0, 1, 4, 5) have theirs four
 * bits apart, like their two low bits, so that one shift and one mask serve both. */
static const uint8_t pl_plane3[8] = {2, 1, 6, 5, 0, 3, 4, 7};

/* Form of a scale in a packed block. */
typedef enum { PL_SCALE_F16, PL_SCALE_U8, PL_SCALE_I8, PL_SCALE_U4, PL_SCALE_E8M0, PL_SCALE_F16Z } pl_scale_kind;

/* What the codes of formats with a table stand for, plus the format's offset. IQ4: int8 values that lie denser around
 * zero; FP4: twice the values of e2m1 (0, 0.5, 1, 1.5, 2, 3, 4, 6), codes 8..15 the negative ones. IQ1 to IQ3: what a
 * grid's places stand for (grids.c), in the format's unit, from code 8 on negated. */
static const uint8_t pl_table_IQ4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t pl_table_FP4[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
static const uint8_t pl_table_IQ1[16] = {2, 10, 18, 9, 9, 9, 9, 9, 0, 8, 16, 9, 9, 9, 9, 9};
static const uint8_t pl_table_IQ2[16] = {51, 68, 86, 43, 43, 43, 43, 43, 35, 18, 0, 43, 43, 43, 43, 43};
static const uint8_t pl_table_IQ3_XXS[16] = {33, 37, 41, 45, 49, 53, 57, 62, 29, 25, 21, 17, 13, 9, 5, 0};
static const uint8_t pl_table_IQ3_S[16] = {16, 18, 20, 22, 24, 26, 28, 30, 14, 12, 10, 8, 6, 4, 2, 0};
#define PL_TABLE_NONE NULL
#define PL_TABLE_IQ1 pl_table_IQ1
#define PL_TABLE_IQ2 pl_table_IQ2
#define PL_TABLE_IQ3_XXS pl_table_IQ3_XXS
#define PL_TABLE_IQ3_S pl_table_IQ3_S
#define PL_TABLE_IQ4 pl_table_IQ4
#define PL_TABLE_FP4 pl_table_FP4

/* Their greatest values. */
#define PL_TOP_NONE_OF(bits) ((1 << (bits)) - 1)
#define PL_TOP_IQ4_OF(bits) 241
#define PL_TOP_FP4_OF(bits) 24
#define PL_TOP_IQ1_OF(bits) 18
#define PL_TOP_IQ2_OF(bits) 86
#define PL_TOP_IQ3_XXS_OF(bits) 62
#define PL_TOP_IQ3_S_OF(bits) 30

/* What a step of their values is worth: a power of two, by which f16 factors are multiplied. */
#define PL_UNIT_NONE 1.0f
#define PL_UNIT_IQ4 1.0f
#define PL_UNIT_FP4 1.0f
#define PL_UNIT_IQ1 0.125f
#define PL_UNIT_IQ2 0.125f
#define PL_UNIT_IQ3_XXS 0.5f
#define PL_UNIT_IQ3_S 1.0f

/* Pellucid's own indices; `pl_format.gguf` has the number that a GGUF file uses. */
#define PL_ID_OF(name, ...) PL_##name,
typedef enum {
    PL_FLOAT_FORMATS(PL_ID_OF) PL_INT_FORMATS(PL_ID_OF) PL_SHARED_FORMATS(PL_ID_OF) PL_N_FORMATS
} pl_format_id;
#undef PL_ID_OF

/* What kernels of a quantised format depend on. */
typedef struct pl_shape {
    int bits;    /* of a code: 2, 3, 4, 5, 6, 8 */
    int group;   /* weights that share a scale: 16 or 32 */
    int offset;  /* what is subtracted from a code */
    int top;     /* the greatest code, or value of the table */
    int has_min; /* each group has one */
    int super;   /* scales and mins are integers under the f16 factors of 256 weights */
    int scaled;  /* their products with codes fit into bytes: a block has one dot (kernels/kernels.h); two groups */
    pl_scale_kind scale;
    const uint8_t *table; /* (16) what codes stand for, or NULL */
    float unit;           /* what factors of super formats are multiplied by */
    int file_block;       /* weights of a block of the file */
    int file_bytes;       /* of that block */
    int packed_block;     /* bytes of a packed 16 x 32 block */
    int packed_header;    /* bytes of a packed header before each 8 blocks (super) */
    /* kernels' choices, for their entries of activations (kernels/matmul.h) */
    int padded;   /* have four words */
    int paired;   /* scaled formats: k of both groups side by side */
    int products; /* scaled formats: are multiplied by codes times scales, with one offset per block */
    int signs;    /* have codes' magnitudes and, separately, which are negative */
} pl_shape;

/* A row of PL_INT_FORMATS -> an initialiser. */
#define PL_SHAPE(name, gguf, weights, bytes, n_bits, n, less, min, kind, codes, ...)                                   \
    {.bits = n_bits,                                                                                                   \
     .group = n,                                                                                                       \
     .offset = less,                                                                                                   \
     .top = PL_TOP_##codes##_OF(n_bits),                                                                               \
     .has_min = min,                                                                                                   \
     .super = PL_SUPER_##kind,                                                                                         \
     .scaled = PL_SUPER_##kind && (n) == 16 && (n_bits) < 4,                                                           \
     .scale = PL_SCALE_##kind,                                                                                         \
     .table = PL_TABLE_##codes,                                                                                        \
     .unit = PL_UNIT_##codes,                                                                                          \
     .file_block = weights,                                                                                            \
     .file_bytes = bytes,                                                                                              \
     .packed_block = PL_PACKED_BYTES(n_bits, n, min, kind),                                                            \
     .packed_header = PL_HEADER_BYTES(min, kind)}

typedef struct pl_format {
    pl_format_id id;
    const char *name; /* "Q4_K" */
    int gguf;         /* ggml type number */
    int block;        /* weights of a file block: 1, 32, 64, 128, 256 */
    int block_bytes;  /* bytes of a file block */
    int is_float;     /* F32, F16, BF16: `shape` is empty */
    pl_shape shape;
    /* One 32-weight slice (index `slice` within its file block) -> codes[32]; NULL for float formats.
     * Scales of its groups as stored (f16 bits, or the integer) -> scale[2], their mins -> min[2], the f16 factors of a
     * super block -> factor[2] (scale's, min's). */
    void (*split)(const uint8_t *block, int slice, uint8_t *codes, uint16_t *scale, uint16_t *min, uint16_t *factor);
} pl_format;

/* NULL if unknown. */
const pl_format *pl_format_get(pl_format_id id);
const pl_format *pl_format_from_gguf(int gguf_type);

/* Bytes of a row of k weights in a file; -1 if k is not a multiple of the block. */
int64_t pl_row_bytes(const pl_format *f, int64_t k);
/* File bytes of one row of k weights -> float32, bit-identical to gguf-py. k: a multiple of block. */
void pl_decode(const pl_format *f, const uint8_t *src, float *dst, int64_t k);
/* Bytes of one packed tile of k weights; integer formats: k is a multiple of 32 (256 for super formats). */
int64_t pl_tile_bytes(const pl_format *f, int64_t k);

/* Exact conversions, also the scalar kernels'. */
float pl_f16_to_f32(uint16_t h);
uint16_t pl_f32_to_f16(float f); /* round to nearest even; overflow to infinity */
float pl_bf16_to_f32(uint16_t h);
float pl_e8m0_half(uint8_t e);    /* 2^(e - 128) */
uint16_t pl_f32_to_bf16(float f); /* round to nearest even; NaN stays NaN */

#endif

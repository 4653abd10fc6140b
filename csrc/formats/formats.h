/* Weight formats: what a block of each holds in a model file, and how Pellucid packs it.
 *
 * The packed layout "W16" interleaves sixteen rows. A matrix of (rows, k) is stored as
 * ceil(rows / 16) tiles, one after the other, `pl_tile_bytes` each; rows that pad the last tile
 * have zero codes and zero scales, so that they decode to zero.
 *
 * Integer formats. A tile is a list of blocks of 16 rows x 32 k, in ascending k:
 *
 *   codes   4 bits: 4 vectors of 64 bytes. In vector j, byte 4r+b holds the code of w[r][4j+b]
 *                   in its low nibble and of w[r][16+4j+b] in its high nibble.
 *           8 bits: 8 vectors of 64 bytes. In vector j, byte 4r+b holds the code of w[r][4j+b].
 *   plane   bits 4..: absent for 4 and 8 bits.
 *           5 bits: 64 bytes. Byte 4r+b, bit i (0..3): bit 4 of the code of w[r][4i+b];
 *                   bit 4+i: bit 4 of the code of w[r][16+4i+b].
 *           6 bits: 2 vectors of 64 bytes, one per half h. Byte 4r+b of vector h, bits 2i and 2i+1:
 *                   bits 4 and 5 of the code of w[r][16h+4i+b].
 *   scales  plain formats: f16[16], the scale of each row, or e8m0[16], powers of two; then, with a min, 16 mins.
 *           super formats (256 weights share f16 factors): 8-bit integers, [groups of the block][16 rows],
 *                   unsigned (U8) or signed (I8); then, with a min, uint8[16] mins.
 *
 *   A super format puts a header before each 8 blocks: f16[16] factors of the scales, then, with
 *   a min, f16[16] factors of the mins.
 *
 * Codes are unsigned. A weight is
 *   w = s * (code - offset) + m
 * with s = scale (plain) or d * sc (super, exact in float32), m = min (plain) or -(dmin * mn), or 0.
 * Where the format has a table, table[code] stands in place of the code.
 * A group of 16 has two scales a block: the first for k 0..15 (low nibbles), the second for
 * k 16..31 (high nibbles).
 *
 * Float formats. F32 and F16: [k][16 rows]. BF16: [ceil(k/2)][16 rows][2], zero beyond k: the order
 * that vdpbf16ps wants.
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

/* Form of a scale in a packed block. */
typedef enum { PL_SCALE_F16, PL_SCALE_U8, PL_SCALE_I8, PL_SCALE_E8M0 } pl_scale_kind;

/* Pellucid's own indices; `pl_format.gguf` has the number that a GGUF file uses. */
#define PL_ID_OF(name, ...) PL_##name,
typedef enum { PL_FLOAT_FORMATS(PL_ID_OF) PL_INT_FORMATS(PL_ID_OF) PL_N_FORMATS } pl_format_id;
#undef PL_ID_OF

/* What kernels of a quantised format depend on. */
typedef struct pl_shape {
    int bits;    /* of a code: 4, 5, 6, 8 */
    int group;   /* weights that share a scale: 16 or 32 */
    int offset;  /* what is subtracted from a code */
    int has_min; /* each group has one */
    int super;   /* scales and mins are integers under the f16 factors of 256 weights */
    pl_scale_kind scale;
    const uint8_t *table; /* (16) what codes stand for, or NULL */
    int file_bytes;       /* of a block of the file: 32 weights, super 256 */
    int packed_block;     /* bytes of a packed 16 x 32 block */
    int packed_header;    /* bytes of a packed header before each 8 blocks (super) */
    int padded;           /* a kernel's choice: its entries of activations have four words (kernels/matmul.h) */
} pl_shape;

/* A row of PL_INT_FORMATS -> an initialiser. */
#define PL_SHAPE(name, gguf, weights, n_bits, n, less, min, kind, in_file, codes)                                      \
    {.bits = n_bits,                                                                                                   \
     .group = n,                                                                                                       \
     .offset = less,                                                                                                   \
     .has_min = min,                                                                                                   \
     .super = (weights) > PL_BLOCK,                                                                                    \
     .scale = PL_SCALE_##kind,                                                                                         \
     .table = codes,                                                                                                   \
     .file_bytes = PL_FILE_BYTES(weights, n_bits, n, min, in_file),                                                    \
     .packed_block = PL_PACKED_BYTES(n_bits, n, min, kind),                                                            \
     .packed_header = PL_HEADER_BYTES(weights, min)}

typedef struct pl_format {
    pl_format_id id;
    const char *name; /* "Q4_K" */
    int gguf;         /* ggml type number */
    int block;        /* weights of a file block: 1, 32, 256 */
    int block_bytes;  /* bytes of a file block */
    int is_float;     /* F32, F16, BF16: `shape` is empty */
    pl_shape shape;
    /* One 32-weight slice (index `slice` within its file block) -> codes[32]; NULL for float formats.
     * Scales of its groups as stored (f16 bits, or the 8-bit integer) -> scale[2], its min -> min[1],
     * the f16 factors of a super block -> factor[2] (scale's, min's). */
    void (*split)(const uint8_t *block, int slice, uint8_t *codes, uint16_t *scale, uint16_t *min, uint16_t *factor);
} pl_format;

/* NULL where unknown. */
const pl_format *pl_format_get(pl_format_id id);
const pl_format *pl_format_from_gguf(int gguf_type);

/* Bytes of a row of k weights in a file; -1 where k is no multiple of the block. */
int64_t pl_row_bytes(const pl_format *f, int64_t k);
/* File bytes of one row of k weights -> float32, bit-identical to gguf-py. k: a multiple of block. */
void pl_decode(const pl_format *f, const uint8_t *src, float *dst, int64_t k);
/* Bytes of one packed tile of k weights; integer formats: k is a multiple of 32 (256 for super formats). */
int64_t pl_tile_bytes(const pl_format *f, int64_t k);

/* Exact conversions, also the scalar kernels'. */
float pl_f16_to_f32(uint16_t h);
uint16_t pl_f32_to_f16(float f); /* round to nearest even; overflow to infinity */
float pl_bf16_to_f32(uint16_t h);
float pl_e8m0_to_f32(uint8_t e);  /* 2^(e - 127); 255 is NaN */
uint16_t pl_f32_to_bf16(float f); /* round to nearest even; NaN stays NaN */

#endif

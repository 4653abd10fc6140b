/* Small inline helpers of the scalar kernels. */
#ifndef PL_SCALAR_SIMD_H
#define PL_SCALAR_SIMD_H

#include <stdint.h>
#include <string.h>

#include "../common.h"
#include "vmath.h" /* pl_fma1: a * b + c, rounded once */

PL_INLINE uint32_t pl_load32(const void *p)
{
    uint32_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

PL_INLINE void pl_store32(void *p, uint32_t u)
{
    memcpy(p, &u, sizeof u);
}

PL_INLINE uint16_t pl_load16(const void *p)
{
    uint16_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

/* ---- a packed block of 16 x 32, as formats.h lays it out ------------------------------------------------------- */

typedef struct pl_block {
    uint8_t codes[8][64];  /* [j][4r + b]: the code of w[r][4j + b] */
    float s[2][PL_TILE];   /* scale of each group (one or two); scaled formats: s[0], the factor */
    float m[2][PL_TILE];   /* mins; 0 if the format has none; scaled formats: m[0], the factor, negated */
    int whole[2][PL_TILE]; /* scaled formats: the groups' integer scales */
    int low[2][PL_TILE];   /* and mins */
} pl_block;

/* Which of a block's scales of 8 bits belongs to group g and row r. */
PL_INLINE int pl_scale_at(const pl_shape f, int g, int r)
{
    return f.scaled ? 2 * r + g : PL_TILE * g + r;
}

/* Scale of group g and row r; `scales`: where a block's scales begin, `header`: that of its super block. */
PL_INLINE float pl_scale(const pl_shape f, const uint8_t *header, const uint8_t *scales, int g, int r)
{
    const uint8_t *byte = scales + pl_scale_at(f, g, r);
    switch (f.scale) {
    case PL_SCALE_U8: return pl_f16_to_f32(pl_load16(header + 2 * r)) * f.unit * (float)*byte;
    case PL_SCALE_I8: return pl_f16_to_f32(pl_load16(header + 2 * r)) * (float)(int8_t)*byte;
    case PL_SCALE_U4: return pl_f16_to_f32(pl_load16(header + 2 * r)) * (float)(*byte & 15);
    case PL_SCALE_E8M0: return pl_e8m0_half(*byte);
    case PL_SCALE_F16:
    case PL_SCALE_F16Z: break;
    }
    return pl_f16_to_f32(pl_load16(scales + 32 * g + 2 * r));
}

/* The same for its min, in formats that have one. */
PL_INLINE float pl_min(const pl_shape f, const uint8_t *header, const uint8_t *scales, int g, int r)
{
    if (f.scale == PL_SCALE_U4)
        return -(pl_f16_to_f32(pl_load16(header + 32 + 2 * r)) * (float)(scales[pl_scale_at(f, g, r)] >> 4));
    if (f.scale == PL_SCALE_F16Z)
        return pl_scale(f, NULL, scales, g, r) * (float)-(int)scales[32 * (32 / f.group) + 16 * g + r];
    const float min = pl_scale(f, f.super ? header + 32 : NULL, scales, 32 / f.group + g, r);
    return f.super ? -min : min;
}

/* What a code stands for. */
PL_INLINE uint8_t pl_code(const pl_shape f, int code)
{
    return f.table ? f.table[code] : (uint8_t)code;
}

/* Which bit of the plane belongs to codes of k 4i.., of 3 or 5 bits. */
PL_INLINE int pl_plane_bit(int bits, int i)
{
    return bits == 3 ? pl_plane3[i] : i;
}

/* The codes of k 4j.. (low) and 16 + 4j.. (high) of byte i of the block at `p`, 2 to 6 bits. */
PL_INLINE void pl_read_codes(const pl_shape f, const uint8_t *p, int j, int i, int *low, int *high)
{
    const uint8_t *plane = p + (f.bits < 4 ? 128 : 256);
    if (f.bits < 4) {
        *low = p[i] >> 2 * j & 3;
        *high = p[64 + i] >> 2 * j & 3;
    } else {
        *low = p[64 * j + i] & 15;
        *high = p[64 * j + i] >> 4;
    }
    if (f.bits == 3 || f.bits == 5) {
        *low |= (plane[i] >> pl_plane_bit(f.bits, j) & 1) << (f.bits - 1);
        *high |= (plane[i] >> pl_plane_bit(f.bits, 4 + j) & 1) << (f.bits - 1);
    }
    if (f.bits == 6) {
        *low |= (plane[i] >> 2 * j & 3) << 4;
        *high |= (plane[64 + i] >> 2 * j & 3) << 4;
    }
}

/* The block at `p`. */
PL_INLINE void pl_read_block(const pl_shape f, const uint8_t *header, const uint8_t *p, pl_block *out)
{
    const uint8_t *scales = p + 64 * f.bits;
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 64; i++) {
            int low, high;
            if (f.bits == 8) {
                low = p[64 * j + i];
                high = p[64 * (4 + j) + i];
            } else
                pl_read_codes(f, p, j, i, &low, &high);
            out->codes[j][i] = pl_code(f, low);
            out->codes[4 + j][i] = pl_code(f, high);
        }

    for (int g = 0; g < 32 / f.group; g++)
        for (int r = 0; r < PL_TILE; r++) {
            const uint8_t byte = scales[pl_scale_at(f, g, r)]; /* scaled formats */
            out->whole[g][r] = f.scale == PL_SCALE_U4 ? byte & 15 : (int8_t)byte;
            out->low[g][r] = byte >> 4;
            out->s[g][r] = f.scaled ? pl_f16_to_f32(pl_load16(header + 2 * r)) : pl_scale(f, header, scales, g, r);
            out->m[g][r] = !f.has_min ? 0
                           : f.scaled ? -pl_f16_to_f32(pl_load16(header + 32 + 2 * r))
                                      : pl_min(f, header, scales, g, r);
        }
}

/* Where block b of a tile begins, and the header of its super block. */
PL_INLINE const uint8_t *pl_block_at(const pl_shape f, const uint8_t *tile, int b, const uint8_t **header)
{
    *header = tile + (int64_t)(b / 8) * (8 * f.packed_block + f.packed_header);
    return tile + (int64_t)b * f.packed_block + (int64_t)(b / 8 + 1) * f.packed_header;
}

/* ---- this folder's parts of the matrix family, put together by matmul.c ---------------------------------------- */

void pl_fill_pack_scalar(pl_kernels *k);
void pl_fill_unpack_scalar(pl_kernels *k);
void pl_fill_matmul_int_scalar(pl_kernels *k);
void pl_fill_matmul_float_scalar(pl_kernels *k);

#endif

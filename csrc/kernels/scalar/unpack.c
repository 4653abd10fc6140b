/* One row out of the tiles, with the bits that the format's decode gives. Reads that row's words alone. */
#include "simd.h"

#define UNPACK_ARGS const pl_mat *w, int row, float *dst

/* The codes of row r of a block, k ascending. */
PL_INLINE void row_codes(int bits, const uint8_t *p, int r, uint8_t codes[32])
{
    p += 4 * r;
    for (int j = 0; j < 4; j++) {
        uint32_t word = pl_load32(p + 64 * j), low = word & 0x0f0f0f0fu, high = word >> 4 & 0x0f0f0f0fu;
        if (bits == 8) {
            low = word;
            high = pl_load32(p + 64 * (4 + j));
        }
        if (bits == 5) {
            uint32_t plane = pl_load32(p + 256);
            low |= (plane >> j & 0x01010101u) << 4;
            high |= (plane >> (4 + j) & 0x01010101u) << 4;
        }
        if (bits == 6) {
            low |= (pl_load32(p + 256) >> 2 * j & 0x03030303u) << 4;
            high |= (pl_load32(p + 320) >> 2 * j & 0x03030303u) << 4;
        }
        pl_store32(codes + 4 * j, low);
        pl_store32(codes + 16 + 4 * j, high);
    }
}

PL_INLINE void unpack(int bits, UNPACK_ARGS)
{
    const pl_format *f = w->format;
    const uint8_t *tile = w->data + row / PL_TILE * w->tile_bytes;
    const int r = row % PL_TILE, group = bits == 6 ? 16 : 32;
    for (int b = 0; b < w->k / PL_BLOCK; b++, dst += PL_BLOCK) {
        uint8_t codes[PL_BLOCK];
        const uint8_t *header, *p = pl_block_at(f, tile, b, &header), *scales = p + 64 * bits;
        float s[2], m = 0;
        row_codes(bits, p, r, codes);
        for (int g = 0; g < 32 / group; g++)
            s[g] = pl_scale(f, header, scales, g, r);
        if (f->flags & PL_HAS_MIN)
            m = pl_min(f, header, scales, r);
        for (int i = 0; i < PL_BLOCK; i++)
            dst[i] = s[i / group] * (float)(codes[i] - f->offset);
        if (f->flags & PL_HAS_MIN) /* adding 0 would turn -0 into 0 */
            for (int i = 0; i < PL_BLOCK; i++)
                dst[i] += m;
    }
}

static void unpack_4(UNPACK_ARGS)
{
    unpack(4, w, row, dst);
}
static void unpack_5(UNPACK_ARGS)
{
    unpack(5, w, row, dst);
}
static void unpack_6(UNPACK_ARGS)
{
    unpack(6, w, row, dst);
}
static void unpack_8(UNPACK_ARGS)
{
    unpack(8, w, row, dst);
}

static void unpack_f32(UNPACK_ARGS)
{
    const uint8_t *p = w->data + row / PL_TILE * w->tile_bytes + 4 * (row % PL_TILE);
    for (int k = 0; k < w->k; k++)
        memcpy(dst + k, p + (int64_t)k * 4 * PL_TILE, sizeof *dst);
}

static void unpack_f16(UNPACK_ARGS)
{
    const uint8_t *p = w->data + row / PL_TILE * w->tile_bytes + 2 * (row % PL_TILE);
    for (int k = 0; k < w->k; k++)
        dst[k] = pl_f16_to_f32(pl_load16(p + (int64_t)k * 2 * PL_TILE));
}

static void unpack_bf16(UNPACK_ARGS)
{
    const uint8_t *p = w->data + row / PL_TILE * w->tile_bytes + 4 * (row % PL_TILE);
    for (int k = 0; k < w->k; k++)
        dst[k] = pl_bf16_to_f32(pl_load16(p + (int64_t)(k / 2) * 4 * PL_TILE + k % 2 * 2));
}

void pl_fill_unpack_scalar(pl_kernels *k)
{
    k->unpack_row[PL_F32] = unpack_f32;
    k->unpack_row[PL_F16] = unpack_f16;
    k->unpack_row[PL_BF16] = unpack_bf16;
    k->unpack_row[PL_Q4_0] = k->unpack_row[PL_Q4_1] = k->unpack_row[PL_Q4_K] = unpack_4;
    k->unpack_row[PL_Q5_0] = k->unpack_row[PL_Q5_1] = k->unpack_row[PL_Q5_K] = unpack_5;
    k->unpack_row[PL_Q6_K] = unpack_6;
    k->unpack_row[PL_Q8_0] = unpack_8;
}

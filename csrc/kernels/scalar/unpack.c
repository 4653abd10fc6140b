/* One row from the tiles, with the bits that the format's decode gives. Reads only that row's words. */
#include "simd.h"

#define UNPACK_ARGS const pl_mat *w, int row, float *dst

/* The codes of row r of a block, k ascending. */
PL_INLINE void row_codes(int bits, const uint8_t *p, int r, uint8_t codes[32])
{
    p += 4 * r;
    const uint8_t *above = p + (bits < 4 ? 128 : 256);
    for (int j = 0; j < 4; j++) {
        uint32_t low, high;
        if (bits < 4) {
            low = pl_load32(p) >> 2 * j & 0x03030303u;
            high = pl_load32(p + 64) >> 2 * j & 0x03030303u;
        } else {
            const uint32_t word = pl_load32(p + 64 * j);
            low = bits == 8 ? word : word & 0x0f0f0f0fu;
            high = bits == 8 ? pl_load32(p + 64 * (4 + j)) : word >> 4 & 0x0f0f0f0fu;
        }
        if (bits == 3 || bits == 5) {
            uint32_t plane = pl_load32(above);
            low |= (plane >> pl_plane_bit(bits, j) & 0x01010101u) << (bits - 1);
            high |= (plane >> pl_plane_bit(bits, 4 + j) & 0x01010101u) << (bits - 1);
        }
        if (bits == 6) {
            low |= (pl_load32(above) >> 2 * j & 0x03030303u) << 4;
            high |= (pl_load32(above + 64) >> 2 * j & 0x03030303u) << 4;
        }
        pl_store32(codes + 4 * j, low);
        pl_store32(codes + 16 + 4 * j, high);
    }
}

PL_INLINE void unpack(const pl_shape f, UNPACK_ARGS)
{
    const uint8_t *tile = w->data + row / PL_TILE * w->tile_bytes;
    const int r = row % PL_TILE;
    for (int b = 0; b < w->k / PL_BLOCK; b++, dst += PL_BLOCK) {
        uint8_t codes[PL_BLOCK];
        const uint8_t *header, *p = pl_block_at(f, tile, b, &header), *scales = p + 64 * f.bits;
        row_codes(f.bits, p, r, codes);
        for (int g = 0; g < 32 / f.group; g++) {
            const int from = g * f.group, to = from + f.group;
            const float s = pl_scale(f, header, scales, g, r);
            for (int i = from; i < to; i++)
                dst[i] = s * (float)(pl_code(f, codes[i]) - f.offset);
            if (!f.has_min) /* adding 0 would turn -0 into 0 */
                continue;
            const float m = pl_min(f, header, scales, g, r);
            for (int i = from; i < to; i++)
                dst[i] += m;
        }
    }
}

#define UNPACK_OF(name, ...)                                                                                           \
    static void unpack_##name(UNPACK_ARGS)                                                                             \
    {                                                                                                                  \
        unpack(pl_shape_##name, w, row, dst);                                                                          \
    }
PL_INT_FORMATS(UNPACK_OF)
PL_SHARED_FORMATS(UNPACK_OF)

static void unpack_F32(UNPACK_ARGS)
{
    const uint8_t *p = w->data + row / PL_TILE * w->tile_bytes + 4 * (row % PL_TILE);
    for (int k = 0; k < w->k; k++)
        memcpy(dst + k, p + (int64_t)k * 4 * PL_TILE, sizeof *dst);
}

static void unpack_F16(UNPACK_ARGS)
{
    const uint8_t *p = w->data + row / PL_TILE * w->tile_bytes + 2 * (row % PL_TILE);
    for (int k = 0; k < w->k; k++)
        dst[k] = pl_f16_to_f32(pl_load16(p + (int64_t)k * 2 * PL_TILE));
}

static void unpack_BF16(UNPACK_ARGS)
{
    const uint8_t *p = w->data + row / PL_TILE * w->tile_bytes + 4 * (row % PL_TILE);
    for (int k = 0; k < w->k; k++)
        dst[k] = pl_bf16_to_f32(pl_load16(p + (int64_t)(k / 2) * 4 * PL_TILE + k % 2 * 2));
}

#define PUT(name, ...) k->unpack_row[PL_##name] = unpack_##name;

void pl_fill_unpack_scalar(pl_kernels *k)
{
    PL_FLOAT_FORMATS(PUT)
    PL_INT_FORMATS(PUT)
    PL_SHARED_FORMATS(PUT)
}

/* One row out of the tiles, with the bits that the format's decode gives. */
#include "simd.h"

#define UNPACK_ARGS const pl_mat *w, int row, float *dst

static void unpack_int(UNPACK_ARGS)
{
    const pl_format *f = w->format;
    const uint8_t *tile = w->data + row / PL_TILE * w->tile_bytes;
    int r = row % PL_TILE, per_group = f->group / 4;
    for (int b = 0; b < w->k / PL_BLOCK; b++, dst += PL_BLOCK) {
        pl_block block;
        const uint8_t *header, *p = pl_block_at(f, tile, b, &header);
        pl_read_block(f, header, p, &block);
        for (int j = 0; j < 8; j++)
            for (int i = 0; i < 4; i++) {
                float v = block.s[j / per_group][r] * (float)(block.codes[j][4 * r + i] - f->offset);
                dst[4 * j + i] = f->flags & PL_HAS_MIN ? v + block.m[r] : v;    /* adding 0 would turn -0 into 0 */
            }
    }
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
    for (int id = 0; id < PL_N_FORMATS; id++)
        k->unpack_row[id] = unpack_int;
    k->unpack_row[PL_F32] = unpack_f32;
    k->unpack_row[PL_F16] = unpack_f16;
    k->unpack_row[PL_BF16] = unpack_bf16;
}

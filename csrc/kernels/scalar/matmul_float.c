/* Matrix products with float weights: one accumulator, ascending k. */
#include "../matmul.h"
#include "simd.h"

enum { SCRATCH = 0 };

/* w[r][k] of a tile */
PL_INLINE float weight(pl_format_id id, const uint8_t *tile, int r, int k)
{
    if (id == PL_F32) {
        float f;
        memcpy(&f, tile + 4 * ((int64_t)k * PL_TILE + r), sizeof f);
        return f;
    }
    if (id == PL_F16)
        return pl_f16_to_f32(pl_load16(tile + 2 * ((int64_t)k * PL_TILE + r)));
    return pl_bf16_to_f32(pl_load16(tile + 4 * ((int64_t)(k / 2) * PL_TILE + r) + k % 2 * 2));
}

PL_INLINE float activation(pl_format_id id, const pl_acts *x, int i, int k)
{
    if (id == PL_BF16)
        return pl_bf16_to_f32(x->b[(int64_t)i * (x->k + (x->k & 1)) + k]);
    return x->f[i * x->f_stride + k];
}

PL_INLINE void matmul(pl_format_id id, PL_MATMUL_ARGS)
{
    for (int t = tile0; t < tile1; t++) {
        const uint8_t *tile = w->data + t * w->tile_bytes;
        int rows = w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE;
        for (int i = 0; i < n; i++) {
            float acc[PL_TILE] = {0};
            for (int k = 0; k < w->k; k++) {
                float a = activation(id, x, i, k);
                for (int r = 0; r < PL_TILE; r++)
                    acc[r] = pl_fma1(weight(id, tile, r, k), a, acc[r]);
            }
            memcpy(y + i * y_stride + PL_TILE * t, acc, (size_t)rows * sizeof(float));
        }
    }
}

PL_FLOAT_FORMATS(PL_FLOAT_MATMUL_OF)

void pl_fill_matmul_float_scalar(pl_kernels *k)
{
    PL_FLOAT_FORMATS(PL_PUT_MATMUL)
}

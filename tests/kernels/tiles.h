/* Tile registers in memory, and what their instructions do, for processors that have none: included before each file of
 * csrc/kernels/amx, it takes the place of the compiler's intrinsics. Intel SDM vol. 2: LDTILECFG, TILELOADD, TILESTORED,
 * TILEZERO, TDPBSSD, TDPBF16PS. What a processor would refuse ends the program. */
#ifndef PL_TILES_EMULATE_H
#define PL_TILES_EMULATE_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct tile {
    int rows, bytes;
    uint8_t data[16][64];
} tile;

/* One state for all files: serve.c has one thread. */
__attribute__((weak)) tile pl_tiles[8];
__attribute__((weak)) int pl_tiles_ready;

static inline tile *tile_at(int i)
{
    if (i < 0 || i > 7 || !pl_tiles_ready || !pl_tiles[i].rows)
        abort();
    return &pl_tiles[i];
}

static inline void tiles_config(const void *config)
{
    const uint8_t *c = config;
    if (c[0] != 1)
        abort();
    for (int i = 0; i < 8; i++) {
        uint16_t bytes;
        memcpy(&bytes, c + 16 + 2 * i, 2);
        pl_tiles[i] = (tile){c[48 + i], bytes, {{0}}};
        if (pl_tiles[i].rows > 16 || bytes > 64 || bytes % 4)
            abort();
    }
    pl_tiles_ready = 1;
}

static inline void tile_zero(int i)
{
    memset(tile_at(i)->data, 0, sizeof pl_tiles[i].data);
}

static inline void tile_load(int i, const void *p, int64_t stride)
{
    tile *t = tile_at(i);
    tile_zero(i);
    for (int r = 0; r < t->rows; r++)
        memcpy(t->data[r], (const char *)p + r * stride, (size_t)t->bytes);
}

static inline void tile_store(int i, void *p, int64_t stride)
{
    const tile *t = tile_at(i);
    for (int r = 0; r < t->rows; r++)
        memcpy((char *)p + r * stride, t->data[r], (size_t)t->bytes);
}

/* Sizes of a product: c (rows, columns) += a (rows, 4k bytes) by b (k, 4 columns bytes). */
static inline void tile_check(const tile *c, const tile *a, const tile *b)
{
    if (c == a || c == b || a == b || c->rows != a->rows || c->bytes != b->bytes || a->bytes != 4 * b->rows)
        abort();
}

static inline void tile_dot_i8(int ci, int ai, int bi)
{
    tile *c = tile_at(ci), *a = tile_at(ai), *b = tile_at(bi);
    tile_check(c, a, b);
    for (int m = 0; m < c->rows; m++)
        for (int n = 0; n < c->bytes / 4; n++) {
            int32_t sum;
            memcpy(&sum, c->data[m] + 4 * n, 4);
            for (int k = 0; k < b->rows; k++)
                for (int i = 0; i < 4; i++)
                    sum += (int8_t)a->data[m][4 * k + i] * (int8_t)b->data[k][4 * n + i];
            memcpy(c->data[m] + 4 * n, &sum, 4);
        }
}

/* Below the normal range: 0. */
static inline float tile_flush(float x)
{
    return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x;
}

static inline float tile_bf16(const uint8_t *p)
{
    uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float x;
    memcpy(&x, &bits, 4);
    return tile_flush(x);
}

static inline void tile_dot_bf16(int ci, int ai, int bi)
{
    tile *c = tile_at(ci), *a = tile_at(ai), *b = tile_at(bi);
    tile_check(c, a, b);
    for (int m = 0; m < c->rows; m++)
        for (int n = 0; n < c->bytes / 4; n++) {
            float sum, half[2] = {0, 0};
            for (int k = 0; k < b->rows; k++)
                for (int i = 0; i < 2; i++)
                    half[i] = tile_flush(__builtin_fmaf(tile_bf16(a->data[m] + 4 * k + 2 * i),
                                                        tile_bf16(b->data[k] + 4 * n + 2 * i), half[i]));
            memcpy(&sum, c->data[m] + 4 * n, 4);
            sum = tile_flush(tile_flush(sum) + tile_flush(half[0] + half[1]));
            memcpy(c->data[m] + 4 * n, &sum, 4);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) tiles_config(config)
#define _tile_release() ((void)(pl_tiles_ready = 0))
#define _tile_zero(i) tile_zero(i)
#define _tile_loadd(i, p, stride) tile_load(i, p, stride)
#define _tile_stream_loadd(i, p, stride) tile_load(i, p, stride)
#define _tile_stored(i, p, stride) tile_store(i, p, stride)
#define _tile_dpbssd(c, a, b) tile_dot_i8(c, a, b)
#define _tile_dpbf16ps(c, a, b) tile_dot_bf16(c, a, b)

#endif

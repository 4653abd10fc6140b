/* Matrix products on quantised weights, with sdot: four rows of w x four k a vector, times four k of x, one of the
 * four lanes of a vector of 16 codes. Codes of 4 to 6 bits are below 128 as they are; those of 8 bits become signed
 * with their top bit turned. Dots are exact in int32 and start from -offset * sum(y).
 *
 * Activations are first laid out as they will be read, a panel of [block][row] entries. Half a tile, eight rows x 32 k,
 * is unpacked into sixteen registers and meets every row of the panel: sixteen sdot for three loads of activations and
 * one of sums that wait in L1. One row keeps its sums in registers. */
#include "simd.h"

typedef struct shape {
    int bits, group, offset, has_min, super, is_signed;
    int block, header; /* bytes of a packed block and of a super block's header */
} shape;

enum {
    CHUNK = 16,              /* rows of x that share an unpacked block */
    PANEL = 64 << 10,        /* bytes of entries */
    GROUP_BYTES = 256 << 10, /* tiles that stay in L2 while the chunks of x pass by */
};

/* ---- a panel of activations -------------------------------------------------------------------------------------- */

/* An entry: 32 codes per term, then four words: s_y (float); -offset * sum of the first group, and of the second
 * (int32); what multiplies mins (float). */
PL_INLINE int entry_bytes(int terms)
{
    return 32 * terms + 16;
}

/* Entries [block][row] of blocks [b0, b0 + blocks) of rows [i0, i0 + n). */
PL_INLINE void make_panel(const shape f, int terms, const pl_acts *x, int i0, int n, int b0, int blocks, uint8_t *panel)
{
    const int size = entry_bytes(terms), all = x->k / PL_BLOCK;
    for (int i = 0; i < n; i++) {
        const int64_t row = i0 + i;
        const float *s = x->s + row * all + b0;
        const int8_t *q = x->q + row * x->stored * x->k + (int64_t)PL_BLOCK * b0, *q_low = q + (terms - 1) * x->k;
        const int16_t *sums = x->sums + row * x->stored * 2 * all + 2 * b0, *low = sums + (terms - 1) * 2 * all;
        uint8_t *out = panel + i * size;
        for (int b = 0; b < blocks; b++, out += n * size) {
            const float s_y = terms == 2 ? s[b] / 254.0f : s[b];
            int32_t first = sums[2 * b], second = sums[2 * b + 1];
            memcpy(out, q + PL_BLOCK * b, 32);
            if (terms == 2) {
                memcpy(out + 32, q_low + PL_BLOCK * b, 32);
                first = 254 * first + low[2 * b];
                second = 254 * second + low[2 * b + 1];
            }
            const float sum = s_y * (float)(first + second);
            const int32_t offset[2] = {-f.offset * (f.group == 16 ? first : first + second), -f.offset * second};
            memcpy(out + 32 * terms, &s_y, 4);
            memcpy(out + 32 * terms + 4, offset, 8);
            memcpy(out + 32 * terms + 12, &sum, 4);
        }
    }
}

/* ---- half a block of weights: eight rows x 32 k -------------------------------------------------------------------- */

typedef struct half_block {
    int8x16_t v[2][8];         /* v[c][j]: rows 8 * half + 4c.., k 4j.. */
    float32x4_t s[2][2], m[2]; /* s[group][c] and m[c]; super: the min negated */
} half_block;

PL_INLINE void load_codes(const shape f, const uint8_t *p, int half, half_block *w)
{
    const uint8x16_t nibble = vdupq_n_u8(15), bit = vdupq_n_u8(16), pair = vdupq_n_u8(48);
    p += 32 * half;
    for (int c = 0; c < 2; c++, p += 16) {
        uint8x16_t low[4], high[4];
        for (int j = 0; j < 4; j++) {
            const uint8x16_t packed = vld1q_u8(p + 64 * j);
            low[j] = vandq_u8(packed, nibble);
            high[j] = vshrq_n_u8(packed, 4);
            if (f.bits == 8) {
                low[j] = veorq_u8(packed, vdupq_n_u8(0x80));
                high[j] = veorq_u8(vld1q_u8(p + 256 + 64 * j), vdupq_n_u8(0x80));
            }
        }
        if (f.bits == 5) { /* bits j and 4 + j of the plane are bits 4 of k 4j.. and 16 + 4j.. */
            const uint8x16_t plane = vld1q_u8(p + 256);
            low[0] = vorrq_u8(low[0], vandq_u8(vshlq_n_u8(plane, 4), bit));
            low[1] = vorrq_u8(low[1], vandq_u8(vshlq_n_u8(plane, 3), bit));
            low[2] = vorrq_u8(low[2], vandq_u8(vshlq_n_u8(plane, 2), bit));
            low[3] = vorrq_u8(low[3], vandq_u8(vshlq_n_u8(plane, 1), bit));
            high[0] = vorrq_u8(high[0], vandq_u8(plane, bit));
            high[1] = vorrq_u8(high[1], vandq_u8(vshrq_n_u8(plane, 1), bit));
            high[2] = vorrq_u8(high[2], vandq_u8(vshrq_n_u8(plane, 2), bit));
            high[3] = vorrq_u8(high[3], vandq_u8(vshrq_n_u8(plane, 3), bit));
        }
        if (f.bits == 6) { /* bits 2j and 2j + 1 of a half's plane are bits 4 and 5 */
            const uint8x16_t first = vld1q_u8(p + 256), second = vld1q_u8(p + 320);
            low[0] = vorrq_u8(low[0], vandq_u8(vshlq_n_u8(first, 4), pair));
            low[1] = vorrq_u8(low[1], vandq_u8(vshlq_n_u8(first, 2), pair));
            low[2] = vorrq_u8(low[2], vandq_u8(first, pair));
            low[3] = vorrq_u8(low[3], vandq_u8(vshrq_n_u8(first, 2), pair));
            high[0] = vorrq_u8(high[0], vandq_u8(vshlq_n_u8(second, 4), pair));
            high[1] = vorrq_u8(high[1], vandq_u8(vshlq_n_u8(second, 2), pair));
            high[2] = vorrq_u8(high[2], vandq_u8(second, pair));
            high[3] = vorrq_u8(high[3], vandq_u8(vshrq_n_u8(second, 2), pair));
        }
        for (int j = 0; j < 4; j++) {
            w->v[c][j] = vreinterpretq_s8_u8(low[j]);
            w->v[c][4 + j] = vreinterpretq_s8_u8(high[j]);
        }
    }
}

PL_INLINE void load_scales(const shape f, const uint8_t *header, const uint8_t *p, int half, half_block *w)
{
    p += 64 * f.bits + (f.super ? 8 : 16) * half;
    header += 16 * half;
    if (!f.super) {
        for (int c = 0; c < 2; c++) {
            w->s[0][c] = pl_load_f16(p + 8 * c);
            if (f.has_min)
                w->m[c] = pl_load_f16(p + 32 + 8 * c);
        }
        return;
    }
    for (int g = 0; g < 32 / f.group; g++) {
        if (f.is_signed)
            pl_load_i8(p + 16 * g, w->s[g]);
        else
            pl_load_u8(p + 16 * g, w->s[g]);
        for (int c = 0; c < 2; c++)
            w->s[g][c] = vmulq_f32(pl_load_f16(header + 8 * c), w->s[g][c]);
    }
    if (f.has_min) {
        pl_load_u8(p + 16, w->m);
        for (int c = 0; c < 2; c++)
            w->m[c] = vmulq_f32(pl_load_f16(header + 32 + 8 * c), w->m[c]);
    }
}

/* ---- half a block by one row of x ---------------------------------------------------------------------------------- */

/* d + v[0..3] by the 16 codes y */
PL_INLINE int32x4_t dot16(int32x4_t d, const int8x16_t *v, int8x16_t y)
{
    d = vdotq_laneq_s32(d, v[0], y, 0);
    d = vdotq_laneq_s32(d, v[1], y, 1);
    d = vdotq_laneq_s32(d, v[2], y, 2);
    return vdotq_laneq_s32(d, v[3], y, 3);
}

/* Dots of group g (all 32 k where the group is 32) with the term at y, from `start`. An sdot waits for the one before:
 * with `split` there are two chains of them, where no other rows of x give the processor something to do. */
PL_INLINE int32x4_t dot_group(const shape f, const int split, int g, int32x4_t start, const int8x16_t *v,
                              const int8x16_t y[2])
{
    if (f.group == 16)
        return dot16(start, v + 4 * g, y[g]);
    if (split)
        return vaddq_s32(dot16(start, v, y[0]), dot16(vdupq_n_s32(0), v + 4, y[1]));
    return dot16(dot16(start, v, y[0]), v + 4, y[1]);
}

/* acc[c] += the block's eight rows by the entry's codes. */
PL_INLINE void times_row(const shape f, int terms, const int split, const half_block *w, const uint8_t *entry,
                         float32x4_t acc[2])
{
    const int32x4_t words = vld1q_s32((const int32_t *)(const void *)(entry + 32 * terms)), zero = vdupq_n_s32(0);
    const float32x4_t s_y = vreinterpretq_f32_s32(words);
    const int8_t *q = (const int8_t *)entry;
    int8x16_t high[2] = {vld1q_s8(q), vld1q_s8(q + 16)}, low[2] = {high[0], high[1]};
    if (terms == 2) {
        low[0] = vld1q_s8(q + 32);
        low[1] = vld1q_s8(q + 48);
    }
    for (int g = 0; g < 32 / f.group; g++) {
        int32x4_t start = zero;
        if (f.offset && f.bits != 8)
            start = g ? vdupq_laneq_s32(words, 2) : vdupq_laneq_s32(words, 1);
        for (int c = 0; c < 2; c++) {
            int32x4_t d = dot_group(f, split, g, start, w->v[c], low);
            if (terms == 2)
                d = vmlaq_s32(d, dot_group(f, split, g, zero, w->v[c], high), vdupq_n_s32(254));
            acc[c] = vfmaq_f32(acc[c], vcvtq_f32_s32(d), vmulq_laneq_f32(w->s[g][c], s_y, 0));
        }
    }
    for (int c = 0; c < 2 && f.has_min; c++)
        acc[c] = f.super ? vfmsq_laneq_f32(acc[c], w->m[c], s_y, 3) : vfmaq_laneq_f32(acc[c], w->m[c], s_y, 3);
}

/* ---- a tile ------------------------------------------------------------------------------------------------------ */

/* A half of the block at p with one row: a is that half of its sums. */
PL_INLINE void half_one(const shape f, int terms, const uint8_t *header, const uint8_t *p, const int half,
                        const uint8_t *entry, float32x4_t a[2])
{
    half_block w;
    load_codes(f, p, half, &w);
    load_scales(f, header, p, half, &w);
    times_row(f, terms, 1, &w, entry, a);
}

/* One row: acc[16] += blocks [0, blocks) of the tile at p. */
PL_INLINE void tile_one(const shape f, int terms, const uint8_t *p, int blocks, const uint8_t *panel, float *acc)
{
    float32x4_t a[4];
    const uint8_t *header = p;
    for (int c = 0; c < 4; c++)
        a[c] = vld1q_f32(acc + 4 * c);
    for (int b = 0; b < blocks; b++, p += f.block, panel += entry_bytes(terms)) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.header;
        }
        half_one(f, terms, header, p, 0, panel, a);
        half_one(f, terms, header, p, 1, panel, a + 2);
    }
    for (int c = 0; c < 4; c++)
        vst1q_f32(acc + 4 * c, a[c]);
}

/* A half of the block at p with n rows. */
PL_INLINE void half_many(const shape f, int terms, const uint8_t *header, const uint8_t *p, const int half, int n,
                         const uint8_t *panel, float acc[CHUNK][PL_TILE])
{
    half_block w;
    load_codes(f, p, half, &w);
    load_scales(f, header, p, half, &w);
    for (int i = 0; i < n; i++, panel += entry_bytes(terms)) {
        float *sums = acc[i] + 8 * half;
        float32x4_t a[2] = {vld1q_f32(sums), vld1q_f32(sums + 4)};
        times_row(f, terms, 0, &w, panel, a);
        vst1q_f32(sums, a[0]);
        vst1q_f32(sums + 4, a[1]);
    }
}

/* n rows: acc[i][16] += the same. */
PL_INLINE void tile_many(const shape f, int terms, const uint8_t *p, int blocks, int n, const uint8_t *panel,
                         float acc[CHUNK][PL_TILE])
{
    const int size = entry_bytes(terms);
    const uint8_t *header = p;
    for (int b = 0; b < blocks; b++, p += f.block, panel += n * size) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.header;
        }
        half_many(f, terms, header, p, 0, n, panel, acc);
        half_many(f, terms, header, p, 1, n, panel, acc);
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

#define MATMUL_ARGS const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y, ptrdiff_t y_stride

/* Rows [i0, i0 + n) of x, n <= CHUNK, by tiles [t0, t1). Where k goes on beyond a panel, the next one starts from the
 * sums that y holds. */
PL_INLINE void chunk(const shape f, int terms, const pl_mat *w, int t0, int t1, const pl_acts *x, int i0, int n,
                     float *y, ptrdiff_t y_stride)
{
    uint8_t panel[PANEL];
    const int all = x->k / PL_BLOCK, most = PANEL / (n * entry_bytes(terms)) & ~7;
    for (int b0 = 0; b0 < all; b0 += most) {
        const int blocks = all - b0 < most ? all - b0 : most;
        make_panel(f, terms, x, i0, n, b0, blocks, panel);
        for (int t = t0; t < t1; t++) {
            const uint8_t *p = w->data + t * w->tile_bytes + (int64_t)b0 * f.block + (int64_t)(b0 / 8) * f.header;
            float acc[CHUNK][PL_TILE], *out = y + i0 * y_stride + PL_TILE * t;
            const int rows = w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE;
            const size_t bytes = sizeof(float) * (size_t)rows;
            for (int i = 0; i < n; i++) {
                memset(acc[i], 0, sizeof acc[i]);
                if (b0)
                    memcpy(acc[i], out + i * y_stride, bytes);
            }
            if (n == 1)
                tile_one(f, terms, p, blocks, panel, acc[0]);
            else
                tile_many(f, terms, p, blocks, n, panel, acc);
            for (int i = 0; i < n; i++)
                memcpy(out + i * y_stride, acc[i], bytes);
        }
    }
}

PL_INLINE void matmul(const shape f, MATMUL_ARGS)
{
    const int chunks = (n + CHUNK - 1) / CHUNK, size = chunks ? (n + chunks - 1) / chunks : 0;
    int group = w->tile_bytes < GROUP_BYTES ? (int)(GROUP_BYTES / w->tile_bytes) : 1;
    if (chunks == 1)
        group = tile1 - tile0;
    for (int t0 = tile0; t0 < tile1; t0 += group) {
        const int t1 = tile1 - t0 < group ? tile1 : t0 + group;
        for (int i0 = 0; i0 < n; i0 += size) {
            const int rows = n - i0 < size ? n - i0 : size;
            if (x->terms == 2)
                chunk(f, 2, w, t0, t1, x, i0, rows, y, y_stride);
            else
                chunk(f, 1, w, t0, t1, x, i0, rows, y, y_stride);
        }
    }
}

static const shape Q4_0 = {.bits = 4, .group = 32, .offset = 8, .block = 288},
                   Q4_1 = {.bits = 4, .group = 32, .has_min = 1, .block = 320},
                   Q5_0 = {.bits = 5, .group = 32, .offset = 16, .block = 352},
                   Q5_1 = {.bits = 5, .group = 32, .has_min = 1, .block = 384},
                   Q8_0 = {.bits = 8, .group = 32, .offset = 128, .block = 544},
                   Q4_K = {.bits = 4, .group = 32, .has_min = 1, .super = 1, .block = 288, .header = 64},
                   Q5_K = {.bits = 5, .group = 32, .has_min = 1, .super = 1, .block = 352, .header = 64},
                   Q6_K = {
                       .bits = 6, .group = 16, .offset = 32, .super = 1, .is_signed = 1, .block = 416, .header = 32};

static void matmul_q4_0(MATMUL_ARGS)
{
    matmul(Q4_0, w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q4_1(MATMUL_ARGS)
{
    matmul(Q4_1, w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q5_0(MATMUL_ARGS)
{
    matmul(Q5_0, w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q5_1(MATMUL_ARGS)
{
    matmul(Q5_1, w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q8_0(MATMUL_ARGS)
{
    matmul(Q8_0, w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q4_k(MATMUL_ARGS)
{
    matmul(Q4_K, w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q5_k(MATMUL_ARGS)
{
    matmul(Q5_K, w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q6_k(MATMUL_ARGS)
{
    matmul(Q6_K, w, tile0, tile1, x, n, y, y_stride);
}

void pl_fill_matmul_int_neon(pl_kernels *k)
{
    k->matmul[PL_Q4_0] = matmul_q4_0;
    k->matmul[PL_Q4_1] = matmul_q4_1;
    k->matmul[PL_Q5_0] = matmul_q5_0;
    k->matmul[PL_Q5_1] = matmul_q5_1;
    k->matmul[PL_Q8_0] = matmul_q8_0;
    k->matmul[PL_Q4_K] = matmul_q4_k;
    k->matmul[PL_Q5_K] = matmul_q5_k;
    k->matmul[PL_Q6_K] = matmul_q6_k;
}

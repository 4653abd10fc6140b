/* Matrix products on quantised weights with 256-bit vectors: what AVX2 and AVX-VNNI share. The file that includes it
 * says first how codes are multiplied:
 *
 *     enum { SIGNED_BYTES };  1: codes of 8 bits become signed and need no offset
 *     narrow(bits, terms):    1: dots of half a block are left in int16, of which two still fit
 *     dot(bits, v, y, narrow, factor, d)
 *
 * A vector holds eight rows of w (half a tile) x four k, which meet activations that are broadcast from memory. Offsets
 * enter exactly, as -offset * sum(y).
 *
 * Activations are first laid out as they will be read, a panel of [block][row] entries. A block of weights then meets
 * them in two steps, 16 k each: the codes of sixteen rows x 16 k fill eight registers, each broadcast serves two
 * vectors, and what a row has gathered waits in L1 in between. (Eight rows x 32 k would need every broadcast twice, and
 * loads, two a cycle, are what this loop runs out of.) One row of x takes the same steps straight from memory. */
#ifndef PL_AVX2_MATMUL_INT_H
#define PL_AVX2_MATMUL_INT_H

#include "simd.h"

typedef struct shape {
    int bits, group, offset, has_min, super, is_signed;
    int block, header; /* bytes of a packed block and of a super block's header */
} shape;

enum {
    CHUNK = 16,              /* rows of x that share an unpacked block */
    PANEL = 64 << 10,        /* bytes of entries: 3072 k or more of CHUNK rows */
    GROUP_BYTES = 256 << 10, /* tiles that stay in L2 while the chunks of x pass by */
    AHEAD = 4096,            /* bytes to prefetch ahead in a decode step */
};

/* ---- a panel of activations -------------------------------------------------------------------------------------- */

PL_INLINE int has_offset(const shape f)
{
    return f.offset && !(f.bits == 8 && SIGNED_BYTES);
}

/* An entry: 32 codes per term, then words of 32 bits: s_y; then -offset * sum per group, or the sum that multiplies
 * mins. */
PL_INLINE int entry_bytes(const shape f, int terms)
{
    return 32 * terms + 4 * (1 + (has_offset(f) ? 32 / f.group : 0) + f.has_min);
}

/* Entries [block][row] of blocks [b0, b0 + blocks) of rows [i0, i0 + n). */
PL_INLINE void make_panel(const shape f, int terms, const pl_acts *x, int i0, int n, int b0, int blocks, uint8_t *panel)
{
    const int size = entry_bytes(f, terms), all = x->k / PL_BLOCK;
    for (int i = 0; i < n; i++) {
        int64_t row = i0 + i;
        const float *s = x->s + row * all + b0;
        const int8_t *q = x->q + row * x->stored * x->k + (int64_t)PL_BLOCK * b0, *q_low = q + (terms - 1) * x->k;
        const int16_t *sums = x->sums + row * x->stored * 2 * all + 2 * b0, *low = sums + (terms - 1) * 2 * all;
        uint8_t *out = panel + i * size;
        for (int b = 0; b < blocks; b++, out += n * size) {
            float s_y = terms == 2 ? s[b] / 254.0f : s[b];
            int32_t first = sums[2 * b], second = sums[2 * b + 1];
            uint8_t *words = out + 32 * terms;
            pl_store256(out, pl_load256(q + PL_BLOCK * b));
            if (terms == 2) {
                pl_store256(out + 32, pl_load256(q_low + PL_BLOCK * b));
                first = 254 * first + low[2 * b];
                second = 254 * second + low[2 * b + 1];
            }
            memcpy(words, &s_y, 4);
            if (f.has_min) {
                float sum = s_y * (float)(first + second);
                memcpy(words + 4, &sum, 4);
            } else if (has_offset(f)) {
                int32_t offset[2] = {-f.offset * (f.group == 16 ? first : first + second), -f.offset * second};
                memcpy(words + 4, offset, f.group == 16 ? 8 : 4);
            }
        }
    }
}

/* ---- a block of weights ------------------------------------------------------------------------------------------ */

/* Codes of step h (k 16h..16h+15): v[half][j] holds rows 8 * half.., k 16h + 4j.. as unsigned bytes, or signed ones. */
PL_INLINE void load_codes(const shape f, const uint8_t *p, int h, __m256i v[2][4])
{
    const __m256i nibble = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16), pair = _mm256_set1_epi8(48);
    for (int half = 0; half < 2; half++, p += 32)
        for (int j = 0; j < 4; j++) {
            if (f.bits == 8) {
                v[half][j] =
                    _mm256_xor_si256(pl_load256(p + 256 * h + 64 * j), _mm256_set1_epi8(SIGNED_BYTES ? -128 : 0));
                continue;
            }
            __m256i w = pl_load256(p + 64 * j);
            w = _mm256_and_si256(h ? _mm256_srli_epi16(w, 4) : w, nibble);
            if (f.bits == 5) { /* bit 4h + j of the plane is bit 4 */
                __m256i plane = pl_load256(p + 256);
                plane = h ? _mm256_srli_epi16(plane, j) : _mm256_slli_epi16(plane, 4 - j);
                w = _mm256_or_si256(w, _mm256_and_si256(plane, bit));
            }
            if (f.bits == 6) { /* bits 2j and 2j + 1 are bits 4 and 5 */
                __m256i plane = pl_load256(p + 256 + 64 * h);
                plane = j < 2 ? _mm256_slli_epi16(plane, 4 - 2 * j) : _mm256_srli_epi16(plane, 2 * j - 4);
                w = _mm256_or_si256(w, _mm256_and_si256(plane, pair));
            }
            v[half][j] = w;
        }
}

/* What step h needs of the scales: that of its group, where the group ends with it; after the second, what multiplies
 * sums of activations (plain: the min; super: the min negated). */
PL_INLINE void load_scales(const shape f, const uint8_t *header, const uint8_t *p, int h, __m256 s[2], __m256 m[2])
{
    p += 64 * f.bits;
    for (int half = 0; half < 2; half++) {
        s[half] = m[half] = _mm256_setzero_ps();
        if (h == 0 && f.group == 32)
            continue;
        if (!f.super) {
            s[half] = pl_load_f16(p + 16 * half);
            if (f.has_min)
                m[half] = pl_load_f16(p + 32 + 16 * half);
            continue;
        }
        const uint8_t *at = p + (f.group == 16 ? 16 * h : 0) + 8 * half;
        s[half] = _mm256_mul_ps(pl_load_f16(header + 16 * half), f.is_signed ? pl_load_i8(at) : pl_load_u8(at));
        if (f.has_min)
            m[half] = _mm256_mul_ps(pl_load_f16(header + 32 + 16 * half), pl_load_u8(p + 16 + 8 * half));
    }
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* Step h of a block with one row of x, at `entry`: the first leaves its dots in d, the second adds to them; at the end
 * of a group they are scaled and added to acc, at the end of the block so are the mins. */
PL_INLINE void step(const shape f, int terms, int h, __m256i v[2][4], const __m256 s[2], const __m256 m[2],
                    const uint8_t *entry, __m256i d[2], __m256 acc[2])
{
    const uint8_t *words = entry + 32 * terms;
    __m256i t[2], low[2];
    dot(f.bits, v, entry + 16 * h, narrow(f.bits, terms), terms == 2 ? 254 : 1, t);
    if (terms == 2)
        dot(f.bits, v, entry + 32 + 16 * h, 0, 1, low);
    __m256 s_y = _mm256_castsi256_ps(_mm256_set1_epi32(pl_load_i32(words)));
    __m256i extra =
        _mm256_set1_epi32(f.has_min || has_offset(f) ? pl_load_i32(words + 4 + (f.group == 16 ? 4 * h : 0)) : 0);
    for (int half = 0; half < 2; half++) {
        if (terms == 2)
            t[half] = _mm256_add_epi32(t[half], low[half]);
        if (f.group == 32 && h == 0) {
            d[half] = t[half];
            continue;
        }
        if (f.group == 32)
            t[half] = narrow(f.bits, terms)
                          ? _mm256_madd_epi16(_mm256_add_epi16(d[half], t[half]), _mm256_set1_epi16(1))
                          : _mm256_add_epi32(d[half], t[half]);
        if (has_offset(f))
            t[half] = _mm256_add_epi32(t[half], extra);
        acc[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(t[half]), _mm256_mul_ps(s[half], s_y), acc[half]);
        if (f.has_min && f.super)
            acc[half] = _mm256_fnmadd_ps(m[half], _mm256_castsi256_ps(extra), acc[half]);
        else if (f.has_min)
            acc[half] = _mm256_fmadd_ps(m[half], _mm256_castsi256_ps(extra), acc[half]);
    }
}

/* ---- a tile ------------------------------------------------------------------------------------------------------ */

/* Step h of the block at p with one row. */
PL_INLINE void step_one(const shape f, int terms, int h, const uint8_t *header, const uint8_t *p, const uint8_t *entry,
                        __m256i d[2], __m256 acc[2])
{
    __m256i v[2][4];
    __m256 s[2], m[2];
    load_codes(f, p, h, v);
    load_scales(f, header, p, h, s, m);
    step(f, terms, h, v, s, m, entry, d, acc);
}

/* One row: acc[16] += blocks [0, blocks) of the tile at p. */
PL_INLINE void tile_one(const shape f, int terms, const uint8_t *p, int blocks, const uint8_t *panel, float *acc)
{
    __m256 a[2] = {_mm256_loadu_ps(acc), _mm256_loadu_ps(acc + 8)};
    const uint8_t *header = p;
    for (int b = 0; b < blocks; b++, p += f.block, panel += entry_bytes(f, terms)) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.header;
        }
        for (int at = 0; at < f.block; at += 64)
            _mm_prefetch((const char *)p + AHEAD + at, _MM_HINT_T0);
        __m256i d[2];
        step_one(f, terms, 0, header, p, panel, d, a);
        step_one(f, terms, 1, header, p, panel, d, a);
    }
    _mm256_storeu_ps(acc, a[0]);
    _mm256_storeu_ps(acc + 8, a[1]);
}

/* Step h of the block at p with n rows. */
PL_INLINE void step_many(const shape f, int terms, int h, const uint8_t *header, const uint8_t *p, int n,
                         const uint8_t *panel, __m256i d[CHUNK][2], float acc[CHUNK][PL_TILE])
{
    const int size = entry_bytes(f, terms);
    __m256i v[2][4];
    __m256 s[2], m[2];
    load_codes(f, p, h, v);
    load_scales(f, header, p, h, s, m);
    for (int i = 0; i < n; i++, panel += size) {
        if (h == 0 && f.group == 32) { /* acc is not touched */
            step(f, terms, h, v, s, m, panel, d[i], NULL);
            continue;
        }
        __m256 a[2] = {_mm256_loadu_ps(acc[i]), _mm256_loadu_ps(acc[i] + 8)};
        step(f, terms, h, v, s, m, panel, d[i], a);
        _mm256_storeu_ps(acc[i], a[0]);
        _mm256_storeu_ps(acc[i] + 8, a[1]);
    }
}

/* n rows: acc[i][16] += the same. */
PL_INLINE void tile_many(const shape f, int terms, const uint8_t *p, int blocks, int n, const uint8_t *panel,
                         float acc[CHUNK][PL_TILE])
{
    __m256i d[CHUNK][2];
    const uint8_t *header = p;
    for (int b = 0; b < blocks; b++, p += f.block, panel += n * entry_bytes(f, terms)) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.header;
        }
        step_many(f, terms, 0, header, p, n, panel, d, acc);
        step_many(f, terms, 1, header, p, n, panel, d, acc);
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
    int all = x->k / PL_BLOCK, most = PANEL / (n * entry_bytes(f, terms)) & ~7;
    for (int b0 = 0; b0 < all; b0 += most) {
        int blocks = all - b0 < most ? all - b0 : most;
        make_panel(f, terms, x, i0, n, b0, blocks, panel);
        for (int t = t0; t < t1; t++) {
            const uint8_t *p = w->data + t * w->tile_bytes + (int64_t)b0 * f.block + (int64_t)(b0 / 8) * f.header;
            float acc[CHUNK][PL_TILE], *out = y + i0 * y_stride + PL_TILE * t;
            size_t row = sizeof(float) * (size_t)(w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE);
            for (int i = 0; i < n; i++) {
                memset(acc[i], 0, sizeof acc[i]);
                if (b0)
                    memcpy(acc[i], out + i * y_stride, row);
            }
            if (n == 1)
                tile_one(f, terms, p, blocks, panel, acc[0]);
            else
                tile_many(f, terms, p, blocks, n, panel, acc);
            for (int i = 0; i < n; i++)
                memcpy(out + i * y_stride, acc[i], row);
        }
    }
}

PL_INLINE void matmul(const shape f, MATMUL_ARGS)
{
    int chunks = (n + CHUNK - 1) / CHUNK, size = chunks ? (n + chunks - 1) / chunks : 0;
    int group = w->tile_bytes < GROUP_BYTES ? (int)(GROUP_BYTES / w->tile_bytes) : 1;
    if (chunks == 1)
        group = tile1 - tile0;
    for (int t0 = tile0; t0 < tile1; t0 += group) {
        int t1 = tile1 - t0 < group ? tile1 : t0 + group;
        for (int i0 = 0; i0 < n; i0 += size) {
            int rows = n - i0 < size ? n - i0 : size;
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

static void fill_matmul_int(pl_kernels *k)
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

#endif

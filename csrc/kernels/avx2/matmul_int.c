/* Matrix products on quantised weights, without VNNI.
 *
 * A vector holds eight rows of w (half a tile) x four k; vpmaddubsw multiplies its unsigned codes by the activations,
 * broadcast from memory, and adds pairs into int16. How many such sums an int16 holds, |y| <= 127:
 *     4 bits: 8 * 2 * 15 * 127 = 30,480     5 bits: 4 * 2 * 31 * 127 = 31,496     6 bits: 2 * 2 * 63 * 127 = 32,004
 *     8 bits: as signed codes, |w| by y with w's sign: 2 * 128 * 127 = 32,512, one
 * Then vpmaddwd widens; for the high term it also multiplies by 254. Offsets enter exactly, as -offset * sum(y).
 *
 * One row of x: a tile at a time straight from memory. Several: the codes of half a block are unpacked into eight
 * registers and meet each row of a chunk, whose accumulators stay in L1. Both take the same steps in the same order. */
#include "simd.h"

typedef struct shape {
    int bits, group, offset, has_min, super, is_signed;
    int block, header;          /* bytes of a packed block and of a super block's header */
} shape;

enum {
    CHUNK = 16,                 /* rows of x that share an unpacked block */
    AUX = 4096,                 /* 32-bit words of what the blocks of a panel need of x: 16 KB */
    GROUP_BYTES = 256 << 10,    /* tiles that stay in L2 while the chunks of x pass by */
    AHEAD = 1024,               /* bytes to prefetch ahead in a decode step */
};

/* Words of `aux` per (block, row of x): s_y; then -offset * sum per group, or the sum that multiplies mins. */
PL_INLINE int aux_words(const shape f)
{
    return 1 + (f.offset && f.bits != 8 ? 32 / f.group : 0) + f.has_min;
}

/* Fills aux[block][row][word] for blocks [b0, b0 + blocks) of rows [i0, i0 + n). */
PL_INLINE void make_aux(const shape f, int terms, const pl_acts *x, int i0, int n, int b0, int blocks, int32_t *aux)
{
    int words = aux_words(f), k_blocks = x->k / PL_BLOCK;
    for (int i = 0; i < n; i++) {
        const float *s = x->s + (int64_t)(i0 + i) * k_blocks + b0;
        const int16_t *sums = x->sums + (int64_t)(i0 + i) * terms * 2 * k_blocks + 2 * b0;
        const int16_t *low = sums + (terms - 1) * 2 * k_blocks;
        int32_t *out = aux + i * words;
        for (int b = 0; b < blocks; b++, out += n * words) {
            float s_y = terms == 2 ? s[b] / 254.0f : s[b];
            int32_t first = sums[2 * b], second = sums[2 * b + 1];
            if (terms == 2) {
                first = 254 * first + low[2 * b];
                second = 254 * second + low[2 * b + 1];
            }
            memcpy(out, &s_y, sizeof s_y);
            if (f.has_min) {
                float sum = s_y * (float)(first + second);
                memcpy(out + 1, &sum, sizeof sum);
            } else if (words == 2) {
                out[1] = -f.offset * (first + second);
            } else if (words == 3) {
                out[1] = -f.offset * first;
                out[2] = -f.offset * second;
            }
        }
    }
}

/* ---- a block of weights ------------------------------------------------------------------------------------------ */

/* Codes of rows 8 * half.. of a block: v[j] holds k 4j..4j+3 as unsigned bytes (8 bits: signed). */
PL_INLINE void load_codes(const shape f, const uint8_t *p, int half, __m256i v[8])
{
    const __m256i low = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16), pair = _mm256_set1_epi8(48);
    p += 32 * half;
    if (f.bits == 8) {
        for (int j = 0; j < 8; j++)
            v[j] = _mm256_xor_si256(pl_load256(p + 64 * j), _mm256_set1_epi8(-128));
        return;
    }
    for (int j = 0; j < 4; j++) {
        __m256i w = pl_load256(p + 64 * j);
        v[j] = _mm256_and_si256(w, low);
        v[4 + j] = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
    }
    if (f.bits == 5) {          /* bit j of the plane is bit 4 of v[j] */
        __m256i w = pl_load256(p + 256);
        for (int j = 0; j < 8; j++) {
            __m256i at = j < 4 ? _mm256_slli_epi16(w, 4 - j) : _mm256_srli_epi16(w, j - 4);
            v[j] = _mm256_or_si256(v[j], _mm256_and_si256(at, bit));
        }
    }
    if (f.bits == 6)            /* bits 2j and 2j + 1 are bits 4 and 5 */
        for (int h = 0; h < 2; h++) {
            __m256i w = pl_load256(p + 256 + 64 * h);
            for (int j = 0; j < 4; j++) {
                __m256i at = j < 2 ? _mm256_slli_epi16(w, 4 - 2 * j) : _mm256_srli_epi16(w, 2 * j - 4);
                v[4 * h + j] = _mm256_or_si256(v[4 * h + j], _mm256_and_si256(at, pair));
            }
        }
}

/* Scales of the groups, and what multiplies sums of activations (plain: the min; super: the min negated). */
PL_INLINE void load_scales(const shape f, const uint8_t *header, const uint8_t *p, int half, __m256 s[2], __m256 *m)
{
    p += 64 * f.bits;
    if (!f.super) {
        s[0] = pl_load_f16(p + 16 * half);
        if (f.has_min)
            *m = pl_load_f16(p + 32 + 16 * half);
        return;
    }
    int groups = 32 / f.group;
    __m256 d = pl_load_f16(header + 16 * half);
    for (int g = 0; g < groups; g++) {
        const uint8_t *at = p + 16 * g + 8 * half;
        s[g] = _mm256_mul_ps(d, f.is_signed ? pl_load_i8(at) : pl_load_u8(at));
    }
    if (f.has_min)
        *m = _mm256_mul_ps(pl_load_f16(header + 32 + 16 * half), pl_load_u8(p + 16 * groups + 8 * half));
}

/* ---- dots -------------------------------------------------------------------------------------------------------- */

/* v[j0 .. j0 + n) by y, times `factor` in every int16: int32 sums of eight rows. */
PL_INLINE __m256i dot(const shape f, const __m256i v[8], int j0, int n, const int8_t *y, __m256i factor)
{
    const int fit = f.bits == 4 ? 8 : f.bits == 5 ? 4 : f.bits == 6 ? 2 : 1;
    __m256i total = _mm256_setzero_si256();
    for (int j = j0; j < j0 + n; j += fit) {
        __m256i sum = _mm256_setzero_si256();
        for (int i = j; i < j + fit && i < j0 + n; i++) {
            __m256i a = _mm256_set1_epi32(pl_load_i32(y + 4 * i)), t;
            if (f.bits == 8)
                t = _mm256_maddubs_epi16(_mm256_abs_epi8(v[i]), _mm256_sign_epi8(a, v[i]));
            else
                t = _mm256_maddubs_epi16(v[i], a);
            sum = i == j ? t : _mm256_add_epi16(sum, t);
        }
        sum = _mm256_madd_epi16(sum, factor);
        total = j == j0 ? sum : _mm256_add_epi32(total, sum);
    }
    return total;
}

/* acc + the block times one row of x, whose codes of the block are at y (low term: k further) and whose words are aux. */
PL_INLINE __m256 block_step(const shape f, int terms, const __m256i v[8], const __m256 s[2], __m256 m, const int8_t *y,
                            int64_t k, const int32_t *aux, __m256 acc)
{
    const __m256i one = _mm256_set1_epi16(1), many = _mm256_set1_epi16(254);
    const int groups = 32 / f.group, n = 8 / groups;
    __m256 s_y = _mm256_castsi256_ps(_mm256_set1_epi32(aux[0]));
    for (int g = 0; g < groups; g++) {
        __m256i d = dot(f, v, g * n, n, y, terms == 2 ? many : one);
        if (terms == 2)
            d = _mm256_add_epi32(d, dot(f, v, g * n, n, y + k, one));
        if (f.offset && f.bits != 8)
            d = _mm256_add_epi32(d, _mm256_set1_epi32(aux[1 + g]));
        acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d), _mm256_mul_ps(s[g], s_y), acc);
    }
    if (f.has_min) {
        __m256 sum = _mm256_castsi256_ps(_mm256_set1_epi32(aux[1]));
        acc = f.super ? _mm256_fnmadd_ps(m, sum, acc) : _mm256_fmadd_ps(m, sum, acc);
    }
    return acc;
}

/* ---- a tile ------------------------------------------------------------------------------------------------------ */

/* One row: acc[16] += blocks [0, blocks) of the tile at p. */
PL_INLINE void tile_one(const shape f, int terms, const uint8_t *p, int blocks, const int8_t *y, int64_t k,
                        const int32_t *aux, float *acc)
{
    __m256 a[2] = {_mm256_loadu_ps(acc), _mm256_loadu_ps(acc + 8)};
    const uint8_t *header = p;
    for (int b = 0; b < blocks; b++, p += f.block, y += PL_BLOCK, aux += aux_words(f)) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.header;
        }
        for (int at = 0; at < f.block; at += 64)
            _mm_prefetch((const char *)p + AHEAD + at, _MM_HINT_T0);
        for (int half = 0; half < 2; half++) {
            __m256i v[8];
            __m256 s[2], m = _mm256_setzero_ps();
            load_codes(f, p, half, v);
            load_scales(f, header, p, half, s, &m);
            a[half] = block_step(f, terms, v, s, m, y, k, aux, a[half]);
        }
    }
    _mm256_storeu_ps(acc, a[0]);
    _mm256_storeu_ps(acc + 8, a[1]);
}

/* n rows, `stride` codes apart: acc[i][16] += the same. */
PL_INLINE void tile_many(const shape f, int terms, const uint8_t *p, int blocks, const int8_t *y, int64_t k, int n,
                         const int32_t *aux, float acc[CHUNK][PL_TILE])
{
    const uint8_t *header = p;
    int words = aux_words(f);
    for (int b = 0; b < blocks; b++, p += f.block, y += PL_BLOCK, aux += n * words) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.header;
        }
        for (int half = 0; half < 2; half++) {
            __m256i v[8];
            __m256 s[2], m = _mm256_setzero_ps();
            load_codes(f, p, half, v);
            load_scales(f, header, p, half, s, &m);
            for (int i = 0; i < n; i++) {
                float *at = acc[i] + 8 * half;
                const int8_t *row = y + i * terms * k;
                _mm256_storeu_ps(at, block_step(f, terms, v, s, m, row, k, aux + i * words, _mm256_loadu_ps(at)));
            }
        }
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

#define MATMUL_ARGS const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y, ptrdiff_t y_stride

/* Rows [i0, i0 + n) of x, n <= CHUNK, by tiles [t0, t1). A panel of k ends where aux is full; the next goes on from
 * the sums that y holds. */
PL_INLINE void chunk(const shape f, int terms, const pl_mat *w, int t0, int t1, const pl_acts *x, int i0, int n,
                     float *y, ptrdiff_t y_stride)
{
    int32_t aux[AUX];
    int all = x->k / PL_BLOCK, most = AUX / (n * aux_words(f)) & ~7;
    for (int b0 = 0; b0 < all; b0 += most) {
        int blocks = all - b0 < most ? all - b0 : most;
        const int8_t *codes = x->q + (int64_t)i0 * terms * x->k + (int64_t)PL_BLOCK * b0;
        make_aux(f, terms, x, i0, n, b0, blocks, aux);
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
                tile_one(f, terms, p, blocks, codes, x->k, aux, acc[0]);
            else
                tile_many(f, terms, p, blocks, codes, x->k, n, aux, acc);
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

static const shape
    Q4_0 = {.bits = 4, .group = 32, .offset = 8, .block = 288},
    Q4_1 = {.bits = 4, .group = 32, .has_min = 1, .block = 320},
    Q5_0 = {.bits = 5, .group = 32, .offset = 16, .block = 352},
    Q5_1 = {.bits = 5, .group = 32, .has_min = 1, .block = 384},
    Q8_0 = {.bits = 8, .group = 32, .offset = 128, .block = 544},
    Q4_K = {.bits = 4, .group = 32, .has_min = 1, .super = 1, .block = 288, .header = 64},
    Q5_K = {.bits = 5, .group = 32, .has_min = 1, .super = 1, .block = 352, .header = 64},
    Q6_K = {.bits = 6, .group = 16, .offset = 32, .super = 1, .is_signed = 1, .block = 416, .header = 32};

static void matmul_q4_0(MATMUL_ARGS) { matmul(Q4_0, w, tile0, tile1, x, n, y, y_stride); }
static void matmul_q4_1(MATMUL_ARGS) { matmul(Q4_1, w, tile0, tile1, x, n, y, y_stride); }
static void matmul_q5_0(MATMUL_ARGS) { matmul(Q5_0, w, tile0, tile1, x, n, y, y_stride); }
static void matmul_q5_1(MATMUL_ARGS) { matmul(Q5_1, w, tile0, tile1, x, n, y, y_stride); }
static void matmul_q8_0(MATMUL_ARGS) { matmul(Q8_0, w, tile0, tile1, x, n, y, y_stride); }
static void matmul_q4_k(MATMUL_ARGS) { matmul(Q4_K, w, tile0, tile1, x, n, y, y_stride); }
static void matmul_q5_k(MATMUL_ARGS) { matmul(Q5_K, w, tile0, tile1, x, n, y, y_stride); }
static void matmul_q6_k(MATMUL_ARGS) { matmul(Q6_K, w, tile0, tile1, x, n, y, y_stride); }

void pl_fill_matmul_int_avx2(pl_kernels *k)
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

/* Packing of the formats whose bits are rearranged (see scalar/pack.c, which moves the others at memory speed): 16
 * words of 16 rows are transposed in registers, so that a vector holds the same word of every row, as a tile has it. */
#include "simd.h"

#define PACK_ARGS const uint8_t *src, int n, int k, uint8_t *dst

/* Sixteen rows of sixteen words -> v[j]: word j of every row. */
PL_INLINE void transpose(__m512i v[16])
{
    __m512i t[16], u[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) /* quarter q of u[i + c]: word 4q + c of rows i..i + 3 */
        for (int c = 0; c < 4; c += 2) {
            u[i + c] = _mm512_unpacklo_epi64(t[i + c / 2], t[i + 2 + c / 2]);
            u[i + c + 1] = _mm512_unpackhi_epi64(t[i + c / 2], t[i + 2 + c / 2]);
        }
    for (int c = 0; c < 4; c++) {
        __m512i even0 = _mm512_shuffle_i32x4(u[c], u[4 + c], 0x88), odd0 = _mm512_shuffle_i32x4(u[c], u[4 + c], 0xdd);
        __m512i even1 = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0x88);
        __m512i odd1 = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0xdd);
        v[c] = _mm512_shuffle_i32x4(even0, even1, 0x88);
        v[4 + c] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
        v[8 + c] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
        v[12 + c] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
    }
}

/* `bytes` (1 to 64) at src of each row -> words, zero beyond the bytes and the rows. */
PL_INLINE void load_words(const uint8_t *src, int64_t row_bytes, int rows, int bytes, __m512i v[16])
{
    const __mmask64 some = ~(__mmask64)0 >> (64 - bytes);
    for (int r = 0; r < PL_TILE; r++)
        v[r] = r < rows ? _mm512_maskz_loadu_epi8(some, src + r * row_bytes) : _mm512_setzero_si512();
    transpose(v);
}

PL_INLINE __m512i and_all(__m512i v, uint32_t bits)
{
    return _mm512_and_si512(v, _mm512_set1_epi32((int32_t)bits));
}

PL_INLINE __m512i or_shifted(__m512i a, __m512i b, int shift)
{
    return _mm512_or_si512(a, _mm512_slli_epi32(b, shift));
}

/* Low (high = 0) or high halves of every row's word, and byte b of it */
PL_INLINE void store_halves(uint8_t *p, __m512i v, int high)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(high ? _mm512_srli_epi32(v, 16) : v));
}

PL_INLINE void store_byte(uint8_t *p, __m512i v, int b)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_srli_epi32(v, 8 * b)));
}

/* Codes of a slice: a holds the nibbles (low or high) of k 0..15, b those of k 16..31. */
PL_INLINE void store_nibbles(uint8_t *p, const __m512i *a, const __m512i *b, int high)
{
    for (int j = 0; j < 4; j++) {
        __m512i low = and_all(high ? _mm512_srli_epi32(a[j], 4) : a[j], 0x0f0f0f0f);
        __m512i top = and_all(high ? b[j] : _mm512_slli_epi32(b[j], 4), 0xf0f0f0f0);
        _mm512_storeu_si512(p + 64 * j, _mm512_or_si512(low, top));
    }
}

/* One super block of Q4_K or Q5_K of 16 rows. File: d, dmin, 12 bytes of scales and mins, fifth bits, nibbles. */
PL_INLINE void pack_k_with_min(const pl_shape f, const uint8_t *src, int64_t row_bytes, int rows, uint8_t *dst)
{
    const int bits = f.bits, words = bits == 5 ? 12 : 4; /* before the nibbles */
    __m512i v[48], scale[2], min[2];
    load_words(src, row_bytes, rows, 64, v);
    load_words(src + 64, row_bytes, rows, 64, v + 16);
    load_words(src + 128, row_bytes, rows, 4 * words, v + 32);
    store_halves(dst, v[0], 0);
    store_halves(dst + 32, v[0], 1);
    scale[0] = and_all(v[1], 0x3f3f3f3f);
    min[0] = and_all(v[2], 0x3f3f3f3f);
    scale[1] = _mm512_or_si512(and_all(v[3], 0x0f0f0f0f), and_all(_mm512_srli_epi32(v[1], 2), 0x30303030));
    min[1] = _mm512_or_si512(and_all(_mm512_srli_epi32(v[3], 4), 0x0f0f0f0f),
                             and_all(_mm512_srli_epi32(v[2], 2), 0x30303030));
    dst += f.packed_header;
#pragma GCC unroll 8
    for (int slice = 0; slice < 8; slice++, dst += f.packed_block) {
        const __m512i *q = v + words + slice / 2 * 8;
        store_nibbles(dst, q, q + 4, slice % 2);
        if (bits == 5) {
            __m512i plane = _mm512_setzero_si512();
            for (int j = 0; j < 8; j++)
                plane = or_shifted(plane, and_all(_mm512_srli_epi32(v[4 + j], slice), 0x01010101), j);
            _mm512_storeu_si512(dst + 256, plane);
        }
        store_byte(dst + 64 * bits, scale[slice / 4], slice % 4);
        store_byte(dst + 64 * bits + 16, min[slice / 4], slice % 4);
    }
}

/* One super block of Q6_K of 16 rows. File: nibbles, pairs of high bits, 16 scales, d. */
PL_INLINE void pack_q6_k_block(const pl_shape f, const uint8_t *src, int64_t row_bytes, int rows, uint8_t *dst)
{
    __m512i v[64];
    for (int i = 0; i < 3; i++)
        load_words(src + 64 * i, row_bytes, rows, 64, v + 16 * i);
    load_words(src + 192, row_bytes, rows, 18, v + 48);
    store_halves(dst, v[52], 0);
    dst += f.packed_header;
#pragma GCC unroll 8
    for (int slice = 0; slice < 8; slice++, dst += f.packed_block) {
        const __m512i *q = v + slice / 4 * 16 + slice % 2 * 8, *high = v + 32 + slice / 4 * 8;
        store_nibbles(dst, q, q + 4, slice % 4 >= 2);
        for (int h = 0; h < 2; h++) {
            __m512i plane = _mm512_setzero_si512();
            for (int j = 0; j < 4; j++)
                plane =
                    or_shifted(plane, and_all(_mm512_srli_epi32(high[4 * h + j], slice % 4 * 2), 0x03030303), 2 * j);
            _mm512_storeu_si512(dst + 256 + 64 * h, plane);
            store_byte(dst + 384 + 16 * h, v[48 + slice / 2], slice % 2 * 2 + h);
        }
    }
}

PL_INLINE void pack(const pl_shape f, PACK_ARGS)
{
    const int blocks = k / 256;
    const int64_t row_bytes = (int64_t)blocks * f.file_bytes;
    for (int row = 0; row < n; row += PL_TILE, src += PL_TILE * row_bytes)
        for (int b = 0; b < blocks; b++, dst += 8 * f.packed_block + f.packed_header) {
            if (f.has_min)
                pack_k_with_min(f, src + (int64_t)b * f.file_bytes, row_bytes, n - row, dst);
            else
                pack_q6_k_block(f, src + (int64_t)b * f.file_bytes, row_bytes, n - row, dst);
        }
}

static void pack_Q4_K(PACK_ARGS)
{
    pack(pl_shape_Q4_K, src, n, k, dst);
}

static void pack_Q5_K(PACK_ARGS)
{
    pack(pl_shape_Q5_K, src, n, k, dst);
}

static void pack_Q6_K(PACK_ARGS)
{
    pack(pl_shape_Q6_K, src, n, k, dst);
}

/* [rows][k] -> [k][16 rows] (pairs: [ceil(k / 2)][16 rows][2], zero beyond k), 64 bytes of every row at a time. */
PL_INLINE void pack_float(int size, int pairs, PACK_ARGS)
{
    const int64_t row_bytes = (int64_t)k * size;
    for (int row = 0; row < n; row += PL_TILE, src += PL_TILE * row_bytes)
        for (int64_t at = 0; at < row_bytes; at += 64) {
            const int bytes = row_bytes - at < 64 ? (int)(row_bytes - at) : 64;
            __m512i v[16];
            load_words(src + at, row_bytes, n - row, bytes, v);
            for (int j = 0; 4 * j < bytes; j++) {
                if (size == 4 || pairs) {
                    _mm512_storeu_si512(dst, v[j]);
                    dst += 64;
                    continue;
                }
                store_halves(dst, v[j], 0);
                dst += 32;
                if (4 * j + 2 < bytes) {
                    store_halves(dst, v[j], 1);
                    dst += 32;
                }
            }
        }
}

static void pack_F32(PACK_ARGS)
{
    pack_float(4, 0, src, n, k, dst);
}

static void pack_F16(PACK_ARGS)
{
    pack_float(2, 0, src, n, k, dst);
}

static void pack_BF16(PACK_ARGS)
{
    pack_float(2, 1, src, n, k, dst);
}

void pl_fill_pack_avx512(pl_kernels *k)
{
    k->pack[PL_F32] = pack_F32;
    k->pack[PL_F16] = pack_F16;
    k->pack[PL_BF16] = pack_BF16;
    k->pack[PL_Q4_K] = pack_Q4_K;
    k->pack[PL_Q5_K] = pack_Q5_K;
    k->pack[PL_Q6_K] = pack_Q6_K;
}

/* From a file's rows to tiles. Everything moves as 32-bit words, because a word is four consecutive k of one row on
 * both sides: so packing is a transposition of words, whose bits are rearranged on the way if the file has them in
 * another order. Words are little-endian, as are the files. */
#include "simd.h"

#define PACK_ARGS const uint8_t *src, int n, int k, uint8_t *dst

PL_INLINE void store16(uint8_t *p, const uint8_t *value)
{
    memcpy(p, value, 2);
}

/* Fifth bits of 32 weights -> the plane's word: bit 4t + b of the file goes to bit t of byte b.
 * x * 0x204081 puts bit b of a nibble at bit 8b (and elsewhere, masked away). */
PL_INLINE uint32_t fifth_bits(uint32_t qh)
{
    uint32_t word = 0;
    for (int t = 0; t < 8; t++)
        word |= ((qh >> 4 * t & 15) * 0x204081u & 0x01010101u) << t;
    return word;
}

/* One 32-weight block of row r whose scale comes first: the file's words are the packed ones already. */
PL_INLINE void pack_plain_block(const pl_shape f, const uint8_t *src, int r, uint8_t *dst)
{
    const int bits = f.bits;
    const uint8_t *q = src + (f.scale == PL_SCALE_E8M0 ? 1 : f.scale == PL_SCALE_F16Z ? 3 : 2 + 2 * f.has_min);
    uint8_t *scales = dst + 64 * bits;
    if (bits == 5) {
        pl_store32(dst + 256 + 4 * r, fifth_bits(pl_load32(q)));
        q += 4;
    }
    for (int j = 0; j < (bits == 8 ? 8 : 4); j++)
        pl_store32(dst + 64 * j + 4 * r, bits == 8 ? pl_load32(q + 4 * j) ^ 0x80808080u : pl_load32(q + 4 * j));
    if (f.scale == PL_SCALE_E8M0) {
        scales[r] = src[0];
        return;
    }
    store16(scales + 2 * r, src);
    if (f.scale == PL_SCALE_F16Z)
        scales[32 + r] = src[2];
    else if (f.has_min)
        store16(scales + 32 + 2 * r, src + 2);
}

/* The eight 6-bit scales and mins of Q4_K and Q5_K (formats/kquants.c), a byte each. */
PL_INLINE void six_bits(const uint8_t *p, uint8_t *scale, uint8_t *min)
{
    uint32_t a = pl_load32(p), b = pl_load32(p + 4), c = pl_load32(p + 8);
    pl_store32(scale, a & 0x3f3f3f3fu);
    pl_store32(min, b & 0x3f3f3f3fu);
    pl_store32(scale + 4, (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u));
    pl_store32(min + 4, (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u));
}

/* One super block of row r of Q4_K or Q5_K. */
PL_INLINE void pack_k_with_min(const pl_shape f, const uint8_t *src, int r, uint8_t *dst)
{
    const int bits = f.bits;
    const uint8_t *high = src + 16, *q = src + (bits == 5 ? 48 : 16);
    uint8_t scale[8], min[8];
    six_bits(src + 4, scale, min);
    store16(dst + 2 * r, src);
    store16(dst + 32 + 2 * r, src + 2);
    dst += f.packed_header;
    for (int slice = 0; slice < 8; slice++, dst += f.packed_block) {
        uint32_t plane = 0;
        for (int j = 0; j < 4; j++) {
            uint32_t a = pl_load32(q + slice / 2 * 32 + 4 * j), b = pl_load32(q + slice / 2 * 32 + 16 + 4 * j);
            if (slice % 2 == 0)
                pl_store32(dst + 64 * j + 4 * r, (a & 0x0f0f0f0fu) | (b & 0x0f0f0f0fu) << 4);
            else
                pl_store32(dst + 64 * j + 4 * r, (a >> 4 & 0x0f0f0f0fu) | (b & 0xf0f0f0f0u));
            if (bits == 5) {
                plane |= (pl_load32(high + 4 * j) >> slice & 0x01010101u) << j;
                plane |= (pl_load32(high + 16 + 4 * j) >> slice & 0x01010101u) << (4 + j);
            }
        }
        if (bits == 5)
            pl_store32(dst + 256 + 4 * r, plane);
        dst[64 * bits + r] = scale[slice];
        dst[64 * bits + 16 + r] = min[slice];
    }
}

/* One super block of row r of Q6_K. */
PL_INLINE void pack_q6_k_block(const pl_shape f, const uint8_t *src, int r, uint8_t *dst)
{
    store16(dst + 2 * r, src + 208);
    dst += f.packed_header;
    for (int slice = 0; slice < 8; slice++, dst += f.packed_block) {
        const uint8_t *q = src + slice / 4 * 64 + slice % 2 * 32, *high = src + 128 + slice / 4 * 32;
        uint32_t plane0 = 0, plane1 = 0;
        for (int j = 0; j < 4; j++) {
            uint32_t a = pl_load32(q + 4 * j), b = pl_load32(q + 16 + 4 * j);
            if (slice % 4 < 2)
                pl_store32(dst + 64 * j + 4 * r, (a & 0x0f0f0f0fu) | (b & 0x0f0f0f0fu) << 4);
            else
                pl_store32(dst + 64 * j + 4 * r, (a >> 4 & 0x0f0f0f0fu) | (b & 0xf0f0f0f0u));
            plane0 |= (pl_load32(high + 4 * j) >> slice % 4 * 2 & 0x03030303u) << 2 * j;
            plane1 |= (pl_load32(high + 16 + 4 * j) >> slice % 4 * 2 & 0x03030303u) << 2 * j;
        }
        pl_store32(dst + 256 + 4 * r, plane0);
        pl_store32(dst + 320 + 4 * r, plane1);
        dst[384 + r] = src[192 + 2 * slice];
        dst[400 + r] = src[193 + 2 * slice];
    }
}

/* A slice of 32 weights of row r, 2 to 4 bits a code, as the format's `split` extracts it from its block. */
PL_INLINE void pack_slice(const pl_shape f, const uint8_t *codes, const uint16_t *scale, const uint16_t *min, int r,
                          uint8_t *dst)
{
    uint32_t word[8], pairs[2] = {0, 0}, plane = 0;
    uint8_t *scales = dst + 64 * f.bits;
    memcpy(word, codes, sizeof word);
    for (int j = 0; j < 4; j++) {
        if (f.bits == 4)
            pl_store32(dst + 64 * j + 4 * r, word[j] | word[4 + j] << 4);
        for (int h = 0; h < 2; h++) {
            pairs[h] |= (word[4 * h + j] & 0x03030303u) << 2 * j;
            plane |= (word[4 * h + j] >> 2 & 0x01010101u) << pl_plane3[4 * h + j];
        }
    }
    for (int h = 0; h < 2 && f.bits < 4; h++)
        pl_store32(dst + 64 * h + 4 * r, pairs[h]);
    if (f.bits == 3)
        pl_store32(dst + 128 + 4 * r, plane);
    for (int g = 0; g < 32 / f.group; g++)
        if (f.scale == PL_SCALE_F16)
            store16(scales + 32 * g + 2 * r, (const uint8_t *)&scale[g]);
        else
            scales[pl_scale_at(f, g, r)] = (uint8_t)(f.scale == PL_SCALE_U4 ? scale[g] | min[g] << 4 : scale[g]);
}

/* A block of the file of row r, slice by slice. */
PL_INLINE void pack_slices(const pl_shape f, const pl_format *format, const uint8_t *src, int r, uint8_t *dst)
{
    uint8_t *header = dst;
    uint16_t scale[2], min[2], factor[2];
    dst += f.packed_header;
    for (int slice = 0; slice < f.file_block / PL_BLOCK; slice++, dst += f.packed_block) {
        uint8_t codes[PL_BLOCK];
        format->split(src, slice, codes, scale, min, factor);
        pack_slice(f, codes, scale, min, r, dst);
    }
    for (int i = 0; f.super && i <= f.has_min; i++)
        store16(header + 32 * i + 2 * r, (const uint8_t *)&factor[i]);
}

PL_INLINE void pack(const pl_shape f, const pl_format *format, PACK_ARGS)
{
    const int blocks = k / f.file_block;
    const int64_t row_bytes = (int64_t)blocks * f.file_bytes;
    const size_t packed = (size_t)(f.file_block / PL_BLOCK * f.packed_block + f.packed_header);
    for (int row = 0; row < n; row += PL_TILE, src += PL_TILE * row_bytes) {
        int rows = n - row < PL_TILE ? n - row : PL_TILE;
        for (int b = 0; b < blocks; b++, dst += packed) {
            if (rows < PL_TILE)
                memset(dst, 0, packed);
            for (int r = 0; r < rows; r++) {
                const uint8_t *block = src + r * row_bytes + b * f.file_bytes;
                if (f.file_block == PL_BLOCK)
                    pack_plain_block(f, block, r, dst);
                else if (f.bits < 4 || f.table)
                    pack_slices(f, format, block, r, dst);
                else if (f.has_min)
                    pack_k_with_min(f, block, r, dst);
                else
                    pack_q6_k_block(f, block, r, dst);
            }
        }
    }
}

#define PACK_OF(name, ...)                                                                                             \
    static void pack_##name(PACK_ARGS)                                                                                 \
    {                                                                                                                  \
        pack(pl_shape_##name, pl_format_get(PL_##name), src, n, k, dst);                                               \
    }
PL_INT_FORMATS(PACK_OF)
PL_SHARED_FORMATS(PACK_OF)

/* [rows][units] -> [units][16 rows], a unit of `size` bytes: F32, F16, and the pairs of BF16. Eight units at a time,
 * so that each line of the source is read once while its line of the destination is near. */
PL_INLINE void pack_units(size_t size, int64_t row_bytes, int units, const uint8_t *src, int rows, uint8_t *dst)
{
    for (int u0 = 0; u0 < units; u0 += 8) {
        int u1 = u0 + 8 < units ? u0 + 8 : units;
        if (rows < PL_TILE)
            memset(dst + (size_t)u0 * PL_TILE * size, 0, (size_t)(u1 - u0) * PL_TILE * size);
        for (int r = 0; r < rows; r++)
            for (int u = u0; u < u1; u++)
                memcpy(dst + ((size_t)u * PL_TILE + (size_t)r) * size, src + r * row_bytes + (size_t)u * size, size);
    }
}

PL_INLINE void pack_float(int size, PACK_ARGS)
{
    int64_t row_bytes = (int64_t)k * size;
    for (int row = 0; row < n; row += PL_TILE, src += PL_TILE * row_bytes, dst += PL_TILE * row_bytes)
        pack_units((size_t)size, row_bytes, k, src, n - row < PL_TILE ? n - row : PL_TILE, dst);
}

static void pack_F32(PACK_ARGS)
{
    pack_float(4, src, n, k, dst);
}
static void pack_F16(PACK_ARGS)
{
    pack_float(2, src, n, k, dst);
}

static void pack_BF16(PACK_ARGS)
{
    int64_t row_bytes = (int64_t)k * 2;
    for (int row = 0; row < n; row += PL_TILE, src += PL_TILE * row_bytes) {
        int rows = n - row < PL_TILE ? n - row : PL_TILE;
        pack_units(4, row_bytes, k / 2, src, rows, dst);
        dst += k / 2 * 64;
        if (k % 2) { /* the last value of each row, beside a zero */
            memset(dst, 0, 64);
            for (int r = 0; r < rows; r++)
                store16(dst + 4 * r, src + r * row_bytes + 2 * (k - 1));
            dst += 64;
        }
    }
}

#define PUT(name, ...) k->pack[PL_##name] = pack_##name;

void pl_fill_pack_scalar(pl_kernels *k)
{
    PL_FLOAT_FORMATS(PUT)
    PL_INT_FORMATS(PUT)
    PL_SHARED_FORMATS(PUT)
}

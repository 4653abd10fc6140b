/* The table of weight formats, and the sizes that follow from it. */
#include "families.h"
#include "names.h"

#include <string.h>

/* Eight packed blocks hold what a super block of each row holds in the file (plain: eight blocks), with scales and mins
 * that may be wider. The other assertions are what kernels rely on. */
#define CHECK(name, gguf, weights, bits, group, offset, min, scale, in_file, table)                                    \
    _Static_assert(8 * PL_PACKED_BYTES(bits, group, min, scale) + PL_HEADER_BYTES(weights, min) ==                     \
                       PL_TILE * (256 / (weights) * PL_FILE_BYTES(weights, bits, group, min, in_file) +                \
                                  256 / (group) * (1 + (min)) * (8 * PL_SCALE_BYTES(scale) - (in_file)) / 8),          \
                   #name ": file and packed sizes agree");                                                             \
    _Static_assert((bits) == 8 || ((bits) >= 4 && (bits) <= 6), #name ": planes that kernels unpack");                 \
    _Static_assert((group) == 32 || ((group) == 16 && !(min)), #name ": one or two scales a block, one min at most");  \
    _Static_assert((weights) == 32 || (weights) == 256, #name ": a block or a super block");                           \
    _Static_assert(((weights) == 256) == (PL_SCALE_##scale == PL_SCALE_U8 || PL_SCALE_##scale == PL_SCALE_I8),         \
                   #name ": integer scales stand under factors");                                                      \
    _Static_assert((offset) >= 0 && (offset) <= 128, #name ": sums of offsets fit");
PL_INT_FORMATS(CHECK)

#define FLOAT_ROW(label, number, bits) [PL_##label] = {PL_##label, #label, number, 1, (bits) / 8, .is_float = 1},
#define INT_ROW(label, number, weights, bits, group, offset, min, scale, in_file, table)                               \
    [PL_##label] = {PL_##label,                                                                                        \
                    #label,                                                                                            \
                    number,                                                                                            \
                    weights,                                                                                           \
                    PL_FILE_BYTES(weights, bits, group, min, in_file),                                                 \
                    .shape = PL_SHAPE(label, number, weights, bits, group, offset, min, scale, in_file, table),        \
                    .split = pl_split_##label},
static const pl_format formats[PL_N_FORMATS] = {PL_FLOAT_FORMATS(FLOAT_ROW) PL_INT_FORMATS(INT_ROW)};

const pl_format *pl_format_get(pl_format_id id)
{
    return (unsigned)id < PL_N_FORMATS ? &formats[id] : NULL;
}

const pl_format *pl_format_from_gguf(int gguf_type)
{
    for (int i = 0; i < PL_N_FORMATS; i++)
        if (formats[i].gguf == gguf_type)
            return &formats[i];
    return NULL;
}

int pl_format_number(const char *name)
{
    for (int i = 0; i < PL_N_FORMATS; i++)
        if (!strcmp(pl_format_get(i)->name, name))
            return pl_format_get(i)->gguf;
    return -1;
}

const char *pl_format_name(int i)
{
    return i < PL_N_FORMATS ? pl_format_get(i)->name : NULL;
}

int64_t pl_row_bytes(const pl_format *f, int64_t k)
{
    if (k < 0 || k % f->block)
        return -1;
    return k / f->block * f->block_bytes;
}

int64_t pl_tile_bytes(const pl_format *f, int64_t k)
{
    if (f->id == PL_BF16)
        k += k & 1; /* pairs of k */
    if (f->is_float)
        return k * PL_TILE * f->block_bytes;
    return k / PL_BLOCK * f->shape.packed_block + k / 256 * f->shape.packed_header;
}

/* Scale of a group, out of what `split` gives. */
static float scale_of(const pl_shape *f, uint16_t scale, uint16_t factor)
{
    switch (f->scale) {
    case PL_SCALE_U8: return pl_f16_to_f32(factor) * (float)(uint8_t)scale;
    case PL_SCALE_I8: return pl_f16_to_f32(factor) * (float)(int8_t)scale;
    case PL_SCALE_E8M0: return pl_e8m0_to_f32((uint8_t)scale);
    case PL_SCALE_F16: break;
    }
    return pl_f16_to_f32(scale);
}

void pl_decode(const pl_format *format, const uint8_t *src, float *dst, int64_t k)
{
    const pl_shape *f = &format->shape;
    if (format->is_float) {
        pl_decode_float(format, src, dst, k);
        return;
    }
    for (int64_t i = 0; i < k; i += PL_BLOCK, dst += PL_BLOCK) {
        uint8_t codes[PL_BLOCK];
        uint16_t scale[2], min[1], factor[2] = {0, 0};
        format->split(src + i / format->block * format->block_bytes, (int)(i % format->block / PL_BLOCK), codes, scale,
                      min, factor);
        for (int j = 0; j < PL_BLOCK; j += f->group) {
            const float s = scale_of(f, scale[j / f->group], factor[0]);
            for (int at = j; at < j + f->group; at++)
                dst[at] = s * (float)((f->table ? f->table[codes[at]] : codes[at]) - f->offset);
        }
        if (!f->has_min) /* adding 0 would turn -0 into 0 */
            continue;
        const float m = f->super ? -scale_of(f, min[0], factor[1]) : scale_of(f, min[0], 0);
        for (int j = 0; j < PL_BLOCK; j++)
            dst[j] += m;
    }
}

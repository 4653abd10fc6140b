/* The table of weight formats, and the sizes that follow from it. */
#include "families.h"
#include "names.h"

#include <string.h>

/* What kernels rely on. */
#define CHECK(name, gguf, weights, bytes, bits, group, offset, min, scale, table, ...)                                 \
    _Static_assert((bits) == 8 || ((bits) >= 2 && (bits) <= 6), #name ": planes that kernels unpack");                 \
    _Static_assert((group) == 32 || (group) == 16, #name ": one or two scales a block");                               \
    _Static_assert(!((offset) && (min)), #name ": sums of activations serve the offset or the min");                   \
    _Static_assert((weights) % 32 == 0 && (!PL_SUPER_##scale || (weights) == 256), #name ": whole headers");           \
    _Static_assert(PL_SCALE_##scale != PL_SCALE_U4 || (min), #name ": a byte holds a scale and a min");                \
    _Static_assert((offset) >= 0 && (offset) <= 128, #name ": sums of offsets fit");                                   \
    _Static_assert((group) == 32 || !(min) || (PL_SUPER_##scale && (bits) < 4), #name ": one dot, then the mins");
PL_INT_FORMATS(CHECK)
PL_SHARED_FORMATS(CHECK)

#define FLOAT_ROW(label, number, bits) [PL_##label] = {PL_##label, #label, number, 1, (bits) / 8, .is_float = 1},
#define INT_ROW(label, number, weights, bytes, ...)                                                                    \
    [PL_##label] = {PL_##label,                                                                                        \
                    #label,                                                                                            \
                    number,                                                                                            \
                    weights,                                                                                           \
                    bytes,                                                                                             \
                    .shape = PL_SHAPE(label, number, weights, bytes, __VA_ARGS__),                                     \
                    .split = pl_split_##label},
static const pl_format formats[PL_N_FORMATS] = {PL_FLOAT_FORMATS(FLOAT_ROW) PL_INT_FORMATS(INT_ROW)
                                                    PL_SHARED_FORMATS(INT_ROW)};

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

int64_t pl_format_row(int number, int64_t k)
{
    const pl_format *f = pl_format_from_gguf(number);
    return f ? pl_row_bytes(f, k) : -1;
}

int pl_format_wide(int number)
{
    const pl_format *f = pl_format_from_gguf(number);
    return f && 2 * (2 * 127 * f->shape.top) > INT16_MAX;
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
    return k / PL_BLOCK * f->shape.packed_block + k / 256 * f->shape.packed_header; /* plain formats: no header */
}

/* A group's scale, from what `split` gives. */
static float scale_of(const pl_shape *f, uint16_t scale, uint16_t factor)
{
    switch (f->scale) {
    case PL_SCALE_U4:
    case PL_SCALE_U8: return pl_f16_to_f32(factor) * f->unit * (float)(uint8_t)scale;
    case PL_SCALE_I8: return pl_f16_to_f32(factor) * (float)(int8_t)scale;
    case PL_SCALE_E8M0: return pl_e8m0_half((uint8_t)scale);
    case PL_SCALE_F16:
    case PL_SCALE_F16Z: break;
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
        uint16_t scale[2], min[2], factor[2] = {0, 0};
        format->split(src + i / format->block * format->block_bytes, (int)(i % format->block / PL_BLOCK), codes, scale,
                      min, factor);
        for (int g = 0; g < PL_BLOCK / f->group; g++) {
            const int from = g * f->group, to = from + f->group;
            const float s = scale_of(f, scale[g], factor[0]);
            for (int j = from; j < to; j++)
                dst[j] = s * (float)((f->table ? f->table[codes[j]] : codes[j]) - f->offset);
            if (!f->has_min) /* adding 0 would turn -0 into 0 */
                continue;
            const float m = f->super                    ? -scale_of(f, min[g], factor[1])
                            : f->scale == PL_SCALE_F16Z ? s * (float)-(int)min[g]
                                                        : scale_of(f, min[g], 0);
            for (int j = from; j < to; j++)
                dst[j] += m;
        }
    }
}

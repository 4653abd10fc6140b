/* Integers with scales and zero points -> blocks; FP8 -> floats. Rows of integers are taken sixteen at a time: where a
 * word's neighbours belong to other rows, its cache line serves them all. */
#include "integers.h"

#include <string.h>

#include "../formats/formats.h"

#define ROWS 16

/* The nibble of a word at which AWQ keeps the row 8 q + i: the order is rows 0, 2, 4, 6, 1, 3, 5, 7. */
static const uint8_t place_of_row[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static inline int code_at(const pl_integers *w, int64_t row, int64_t column)
{
    const uint8_t *word = w->codes + column / w->columns * w->step_column + row / w->rows_of_word * w->step_row;
    const int at = w->rows_of_word > 1 ? place_of_row[row % 8] : (int)(column % w->columns);
    return w->bits == 8 ? word[at] ^ w->flip : word[at / 2] >> 4 * (at % 2) & 15;
}

/* The codes of `n` columns from place `first` on. */
static void read_codes(const pl_integers *w, int64_t row, int64_t first, int n, int16_t *codes)
{
    if (w->order) {
        for (int i = 0; i < n; i++)
            codes[i] = (int16_t)code_at(w, row, w->order[first + i]);
        return;
    }
    if (w->bits == 4 && w->columns == 8 && n % 8 == 0 && first % 8 == 0) { /* whole words */
        const uint8_t *word = w->codes + first / 8 * w->step_column + row * w->step_row;
        for (int i = 0; i < n; i += 8, word += w->step_column)
            for (int j = 0; j < 4; j++) {
                codes[i + 2 * j] = word[j] & 15;
                codes[i + 2 * j + 1] = word[j] >> 4;
            }
        return;
    }
    for (int i = 0; i < n; i++)
        codes[i] = (int16_t)code_at(w, row, first + i);
}

/* A block of 32 columns of a row. */
static void put_block(pl_integers_to format, const int16_t *codes, float scale, int zero, uint8_t *out)
{
    const uint16_t half = pl_f32_to_f16(scale);
    memcpy(out, &half, 2);
    if (format == PL_INTEGERS_Q8_0) {
        for (int i = 0; i < 32; i++)
            out[2 + i] = (uint8_t)(int8_t)(codes[i] - zero);
        return;
    }
    out[2] = (uint8_t)zero;
    for (int i = 0; i < 16; i++)
        out[3 + i] = (uint8_t)(codes[i] | codes[16 + i] << 4);
}

static void put_floats(const pl_integers *w, int64_t row, int64_t first, int n, const int16_t *codes, uint8_t *out)
{
    for (int i = 0; i < n; i++) {
        const int64_t at = row * w->groups + w->group[first + i];
        const float value = w->scale[at] * (float)(codes[i] - w->zero[at]);
        memcpy(out + sizeof value * (size_t)(first + i), &value, sizeof value);
    }
}

void pl_integers_make(const pl_integers *w, pl_integers_to format, int64_t from, int64_t to, uint8_t *out)
{
    const int64_t block = format == PL_INTEGERS_INT4 ? 19 : 34;
    const int64_t bytes = format == PL_INTEGERS_F32 ? 4 * w->k : w->k / 32 * block;
    int16_t codes[32];
    for (int64_t r0 = from; r0 < to; r0 += ROWS)
        for (int64_t first = 0; first < w->k; first += 32)
            for (int64_t row = r0; row < r0 + ROWS && row < to; row++) {
                const int n = w->k - first < 32 ? (int)(w->k - first) : 32;
                uint8_t *line = out + (row - from) * bytes;
                const int64_t at = row * w->groups + w->group[first];
                read_codes(w, row, first, n, codes);
                if (format == PL_INTEGERS_F32)
                    put_floats(w, row, first, n, codes, line);
                else
                    put_block(format, codes, w->scale[at], w->zero[at], line + first / 32 * block);
            }
}

/* With masks instead of branches, so that compilers vectorise it. */
static void put_fp8(const uint8_t *restrict codes, int64_t n, float scale, float *restrict out)
{
    for (int64_t i = 0; i < n; i++) {
        const int32_t code = codes[i], a = code & 127, bits = a << 20; /* three bits of fraction */
        const uint32_t above = (uint32_t)bits + 0x3c800000;            /* 2^-6 * (1 + a / 8), where a < 8 */
        float value;
        memcpy(&value, &above, sizeof value);
        value -= 0x1p-6f; /* exact */
        uint32_t tiny;
        memcpy(&tiny, &value, sizeof tiny);
        const uint32_t least = (uint32_t)-(a < 8), nan = (uint32_t)-(a == 127);
        const uint32_t usual = (uint32_t)bits + 0x3c000000, sign = (uint32_t)(code & 128) << 24;
        tiny = (least & tiny) | (~least & usual) | (nan & 0x7fc00000) | sign;
        memcpy(&value, &tiny, sizeof value);
        out[i] = value * scale;
    }
}

void pl_fp8_make(const pl_fp8 *w, const uint8_t *codes, int64_t from, int64_t to, float *out)
{
    const int64_t across = (w->k + w->block_columns - 1) / w->block_columns;
    for (int64_t row = from; row < to; row++, codes += w->k, out += w->k)
        for (int64_t b = 0; b < across; b++) {
            const int64_t at = b * w->block_columns, left = w->k - at;
            put_fp8(codes + at, left < w->block_columns ? left : w->block_columns,
                    w->scale[row / w->block_rows * across + b], out + at);
        }
}

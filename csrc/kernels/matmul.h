/* Matrix products, the parts common to all instruction sets: the kernel of each format, panels of activations. */
#ifndef PL_KERNELS_MATMUL_H
#define PL_KERNELS_MATMUL_H

#include <string.h>

#include "common.h"

#define PL_MATMUL_ARGS const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y, ptrdiff_t y_stride

/* ---- a kernel for each format ------------------------------------------------------------------------------------ */

/* The kernel of a format, made from the file's `matmul`, whose first argument distinguishes formats; and its table
 * entry. */
#define PL_INT_MATMUL_OF(name, ...)                                                                                    \
    static void matmul_##name(PL_MATMUL_ARGS)                                                                          \
    {                                                                                                                  \
        matmul(pl_shape_##name, w, tile0, tile1, x, n, y, y_stride);                                                   \
    }
/* The same for a family, whose formats differ only in their tables, offsets and units. */
#define PL_FAMILY_MATMUL_OF(name, ...)                                                                                 \
    static void matmul_##name(PL_MATMUL_ARGS)                                                                          \
    {                                                                                                                  \
        matmul(pl_family_shape(pl_shape_##name, &w->format->shape), w, tile0, tile1, x, n, y, y_stride);               \
    }
#define PL_FLOAT_MATMUL_OF(name, ...)                                                                                  \
    static void matmul_##name(PL_MATMUL_ARGS)                                                                          \
    {                                                                                                                  \
        matmul(PL_##name, w, tile0, tile1, x, n, y, y_stride);                                                         \
    }
#define PL_PUT_MATMUL(name, ...)                                                                                       \
    k->matmul[PL_##name] = matmul_##name;                                                                              \
    k->matmul_scratch[PL_##name] = SCRATCH; /* the file's */

#define PL_PUT_SHARED(name, gguf, weights, bytes, bits, group, offset, min, scale, table, family)                      \
    k->matmul[PL_##name] = matmul_##family;                                                                            \
    k->matmul_scratch[PL_##name] = SCRATCH;

/* The family's shape: constants, except for what is the format's own. */
PL_INLINE pl_shape pl_family_shape(pl_shape family, const pl_shape *format)
{
    if (family.table) {
        family.table = format->table;
        family.unit = format->unit;
        family.offset = format->offset;
        if (!family.table || family.offset <= 0) /* no family has such a format: for the compiler */
            __builtin_unreachable();
    }
    return family;
}

/* ---- a panel of activations: what is read with a block of weights lies together ---------------------------------- */

/* An entry: 32 codes per term, then words of 32 bits: s_y; then per group, with an offset, -offset * sum(y) (products:
 * for the block); with mins, the sum that multiplies them.
 * Signs: instead of codes y their magnitudes, and behind the words 32 masks m per term, -1 where y is negative: a
 * signed w by y is (w ^ m) |y|, plus |y| where m is set; the sum of the latter is in the word for the offset.
 * Paired: the codes of several rows are those of k 4j and 4j + 1 of the first group, then of 4j + 2 and 4j + 3 of the
 * second, for j 0..3; then, in the second half, 4j + 2 and 4j + 3 of the first, 4j and 4j + 1 of the second. Each
 * word for the offset then holds two numbers of 16 bits, one per group, for each term; in any scaled format, so does
 * each word of the sums that mins multiply, without s_y. */
PL_INLINE int pl_entry_bytes(const pl_shape f, int terms)
{
    const int groups = f.products && f.offset ? 1 : 32 / f.group;
    return 32 * terms * (1 + f.signs) + 4 * (f.padded ? 4 : 1 + (f.offset || f.signs || f.has_min ? groups : 0));
}

/* The 32 codes at q, in the order of an entry. */
PL_INLINE void pl_entry_codes(int paired, const int8_t *q, uint8_t *restrict out)
{
    uint32_t word[8], pair[8];
    if (!paired) {
        memcpy(out, q, 32);
        return;
    }
    memcpy(word, q, 32);
    for (int j = 0; j < 4; j++) {
        pair[j] = (word[j] & 0xffff) | (word[4 + j] & 0xffff0000);
        pair[4 + j] = word[j] >> 16 | word[4 + j] << 16;
    }
    memcpy(out, pair, 32);
}

/* The magnitudes of the 32 codes at q and their masks; adds to sums, 16 codes each, factor times the magnitudes under
 * masks. */
PL_INLINE void pl_entry_signs(const int8_t *q, uint8_t *restrict out, uint8_t *restrict masks, int32_t factor,
                              int32_t sums[2])
{
    typedef int8_t codes __attribute__((vector_size(32)));
    typedef uint8_t bytes __attribute__((vector_size(32)));
    codes y;
    uint64_t taken[4];
    memcpy(&y, q, 32);
    const bytes mask = (bytes)(y < 0), size = ((bytes)y ^ mask) - mask, negative = size & mask; /* up to 128 */
    memcpy(out, &size, 32);
    memcpy(masks, &mask, 32);
    memcpy(taken, &negative, 32);
    for (int i = 0; i < 4; i++) { /* eight bytes, in pairs, then all */
        const uint64_t low = 0x00ff00ff00ff00ff, pairs = (taken[i] & low) + (taken[i] >> 8 & low);
        sums[i / 2] += factor * (int32_t)(pairs * 0x0001000100010001 >> 48);
    }
}

/* The scratch memory of a product: a head that identifies the panel, then the panel. */
enum { PL_PANEL_HEAD = 64, PL_PANEL_MOST = 1 << 20 };

/* Whether the panel that these numbers describe is there already, from the previous product. The head describes it from
 * now on in either case. */
PL_INLINE int pl_panel_is(const pl_shape f, int terms, const pl_acts *x, int i0, int n, int b0, int blocks, int wide)
{
    const struct {
        const int8_t *q;
        int32_t i0, n, b0, blocks, k, terms, wide, offset, group, has_min, scaled, signs;
    } head = {x->q, i0, n, b0, blocks, x->k, terms, wide, f.offset, f.group, f.has_min, f.scaled, f.signs};
    _Static_assert(sizeof head <= PL_PANEL_HEAD, "a head fits into its place");
    const int same = x->again && !memcmp(x->scratch, &head, sizeof head);
    memcpy(x->scratch, &head, sizeof head);
    return same;
}

/* Entries [block][row] of blocks [b0, b0 + blocks) of rows [i0, i0 + n). */
PL_INLINE void pl_make_panel(const pl_shape f, int terms, const pl_acts *x, int i0, int n, int b0, int blocks,
                             uint8_t *restrict panel)
{
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK, paired = f.paired && n > 1;
    for (int i = 0; i < n; i++) {
        const int64_t row = i0 + i;
        const float *s = x->s + row * all + b0;
        const int8_t *q = x->q + row * x->stored * x->k + (int64_t)PL_BLOCK * b0, *q_low = q + (terms - 1) * x->k;
        const int16_t *sums = x->sums + row * x->stored * 2 * all + 2 * b0, *low = sums + (terms - 1) * 2 * all;
        uint8_t *out = panel + i * size;
        for (int b = 0; b < blocks; b++, out += n * size) {
            const float s_y = terms == 2 ? s[b] / PL_TERM : s[b];
            int32_t first = sums[2 * b], second = sums[2 * b + 1], taken[2] = {0, 0};
            for (int term = 0; term < terms; term++) {
                const int8_t *codes = (term ? q_low : q) + PL_BLOCK * b;
                if (f.signs)
                    pl_entry_signs(codes, out + 32 * term, out + size - 32 * (terms - term),
                                   terms == 2 && term == 0 ? PL_TERM : 1, taken);
                else
                    pl_entry_codes(paired, codes, out + 32 * term);
            }
            memcpy(out + 32 * terms, &s_y, 4);
            if (f.scaled && (f.has_min || f.paired)) {
                const int factor = f.has_min ? 1 : -f.offset;
                const int16_t each[4] = {(int16_t)(factor * first), (int16_t)(factor * second),
                                         (int16_t)(factor * low[2 * b]), (int16_t)(factor * low[2 * b + 1])};
                memcpy(out + 32 * terms + 4, each, 8);
                continue;
            }
            if (terms == 2) {
                first = PL_TERM * first + low[2 * b];
                second = PL_TERM * second + low[2 * b + 1];
            }
            if (f.group == 32 || (f.products && f.offset)) {
                first += second;
                taken[0] += taken[1];
            }
            if (f.offset || f.signs) {
                const int32_t offset[2] = {taken[0] - f.offset * first, taken[1] - f.offset * second};
                memcpy(out + 32 * terms + 4, offset, f.group == 16 && !f.products ? 8 : 4);
            }
            if (f.has_min) {
                const float sum[2] = {s_y * (float)first, s_y * (float)second};
                memcpy(out + 32 * terms + 4, sum, f.group == 16 ? 8 : 4);
            }
        }
    }
}

#endif

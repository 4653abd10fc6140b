/* Matrix products of many rows on quantised weights, in tile registers.
 *
 * One instruction multiplies 16 rows of activations by 16 rows of weights over the k of a group, exactly, in int32. A
 * group has scales of its own, so its sums leave the register by way of memory, and vectors multiply them: the same
 * steps, in the same order, as in the AVX-512 tier, and the same bits. Weights are unpacked to signed bytes once per tile, a
 * part of k at a time: few enough that they, the activations that they meet and all sums stay in the first-level cache.
 * The bytes of the part after it are prefetched in between, at an even pace.
 *
 * What limits it is the vectors: while a tile instruction is under way, whichever, floats of 512 bits have one port in
 * place of two (integers, and floats of 256 bits, keep theirs). A block of 16 x 16 x 32 takes three float instructions
 * a row, 48 cycles; products (16), stores (16) and loads of both sides fit in between: 21 ns at 2.4 GHz in a loop of
 * its own, all in the first-level cache, and 25 to 29 here. Vectors alone, in the tier below, take 42. That loop takes
 * as long with the stores of a step in a row; this one gains 1.04 to 1.12 when each comes two products after its own.
 * Beside a neighbour on the same core that uses tiles as well, loading a register seems to wait for the products that
 * read it: 45 to 55.
 *
 * Tried without gain: codes in bf16, whose sums are floats already (two instructions a row, 14 ns while all is in the
 * first-level cache, where twice the bytes of both sides are not); two groups of rows by two tiles, four by one, or two
 * by one at once, which load half or a third as often (up to 1.3 times as fast beside the neighbour, 0.8 to 0.95
 * without); activations prefetched, or shared by two tiles one after another, or by two blocks whose weights have zeros
 * in the other's place. Two groups of a block do share them. Parts of 8 or 32 blocks, and unpacking a part ahead, were
 * slower. */
#include "../avx512/block.h"
#include "../matmul.h"
#include "blocking.h"
#include "fill.h"
#include "tiles.h"

/* Groups of a block that have dots of their own. */
PL_INLINE int dot_groups(const pl_shape f)
{
    return f.products ? 1 : 32 / f.group;
}

/* A panel's entry: what 16 rows of activations have for a block. Codes (16, 32) of each term, then 16 scales, then,
 * with mins, 16 sums per group; scaled formats: per term, those of both groups in 16 bits each, without the scale. */
PL_INLINE int entry_bytes(const pl_shape f, int terms)
{
    return 512 * terms + 64 * (1 + (f.has_min ? 32 / f.group : 0));
}

/* Of a block's weights as signed bytes (8, 16, 4); with two groups zeros lie between them. */
PL_INLINE int code_bytes(const pl_shape f)
{
    return dot_groups(f) == 2 ? 768 : 512;
}

/* Scratch memory: a head, a panel, then a part of unpacked weights, and sums. */
enum {
    CODES = PL_PANEL_HEAD + PL_PANEL_MOST,
    SCALES = CODES + 768 * AMX_MOST,  /* (groups, 16) float32 a block; scaled formats: both factors a super block */
    MINS = SCALES + 128 * AMX_MOST,   /* likewise; scaled formats: integers, both groups in 16 bits each */
    DOTS = MINS + 128 * AMX_MOST,     /* AMX_DOTS x (16, 16) int32, of two steps */
    RESULTS = DOTS + 2048 * AMX_DOTS, /* (AMX_GROUPS, 16, 16) float32 */
    SCRATCH = RESULTS + 1024 * AMX_GROUPS,
};

/* What row i of an entry has of block b of `row` of x. */
PL_INLINE void put_row(const pl_shape f, int terms, const pl_acts *x, int64_t row, int b, uint8_t *restrict entry,
                       int i)
{
    const int all = x->k / PL_BLOCK, groups = 32 / f.group;
    const int8_t *const q = x->q + row * x->stored * x->k + (int64_t)PL_BLOCK * b;
    const int16_t *const sums = x->sums + row * x->stored * 2 * all + 2 * b, *const low = sums + (terms - 1) * 2 * all;
    const float s = x->s[row * all + b], s_y = terms == 2 ? s / 254.0f : s;
    float *const words = (float *)(entry + 512 * terms) + i;
    memcpy(entry + 32 * i, q, 32);
    if (terms == 2)
        memcpy(entry + 512 + 32 * i, q + x->k, 32);
    words[0] = s_y;
    for (int term = 0; term < terms && f.scaled && f.has_min; term++)
        memcpy(words + 16 * (1 + term), term ? low : sums, 4);
    for (int g = 0; g < groups && f.has_min && !f.scaled; g++) {
        int32_t sum = 0;
        for (int part = 2 * g / groups; part < 2 * (g + 1) / groups; part++)
            sum += terms == 2 ? 254 * sums[part] + low[part] : sums[part];
        words[16 * (1 + g)] = s_y * (float)sum;
    }
}

/* Entries [group of 16 rows][block] of blocks [b0, b0 + blocks) of rows [i0, i0 + n), one after another, so that each line
 * is written once; rows beyond the last are zero. */
PL_INLINE void make_panel(const pl_shape f, int terms, const pl_acts *x, int i0, int n, int b0, int blocks,
                          uint8_t *restrict panel)
{
    const int size = entry_bytes(f, terms);
    for (; n > 0; n -= AMX_ROWS, i0 += AMX_ROWS)
        for (int b = 0; b < blocks; b++, panel += size) {
            if (n < AMX_ROWS)
                memset(panel, 0, (size_t)size);
            for (int i = 0; i < AMX_ROWS && i < n; i++)
                put_row(f, terms, x, i0 + i, b0 + b, panel, i);
        }
}

/* Where block b of the tile at `tile` begins, behind the header of its super block. */
PL_INLINE const uint8_t *block_at(const pl_shape f, const uint8_t *tile, int b)
{
    return tile + (int64_t)b * f.packed_block + (int64_t)(b / 8 + 1) * f.packed_header;
}

/* Blocks [b0, b0 + n) of a tile, b0 a multiple of 8, as signed bytes, scales and mins in float32; of scaled formats a super
 * block's factors, and mins as integers. Products of formats with an offset are negated, and so is what multiplies their
 * sums: they are -124..128, and 128 is no signed byte. */
PL_INLINE void unpack(const pl_shape f, const uint8_t *tile, int b0, int n, uint8_t *scratch)
{
    const __m512i offset = _mm512_set1_epi8((char)f.offset);
    const int negated = f.products && f.offset;
    float *scales = (float *)(scratch + SCALES), *mins = (float *)(scratch + MINS);
    __m512 d[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, s[2], m[2];
    __m512i bytes[2];
    for (int i = 0; i < n; i++) {
        const uint8_t *p = block_at(f, tile, b0 + i);
        uint8_t *const to = scratch + CODES + i * code_bytes(f);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            if (f.products && j % 4 == 0)
                load_products(f, p, j / 4, bytes);
            const __m512i v = codes(f, p, NULL, j, 1, bytes);
            if (dot_groups(f) == 2 && j < 4)
                _mm512_storeu_si512(to + 256 + 64 * j, _mm512_setzero_si512());
            _mm512_storeu_si512(to + (dot_groups(f) == 2 ? j / 4 * 256 : 0) + 64 * j,
                                negated ? _mm512_sub_epi8(offset, v) : _mm512_sub_epi8(v, offset));
        }
        if (f.super && i % 8 == 0)
            load_header(f, p - f.packed_header, d);
        if (f.scaled) {
            if (f.has_min)
                _mm512_storeu_si512((uint8_t *)mins + 64 * i, load_mins(f, p));
            for (int j = 0; j < 1 + f.has_min && i % 8 == 0; j++)
                _mm512_storeu_ps(scales + 4 * i + 16 * j, negated ? _mm512_sub_ps(_mm512_set1_ps(-0.0f), d[j]) : d[j]);
            continue;
        }
        load_scales(f, d, p, s, m);
        for (int g = 0; g < dot_groups(f); g++, scales += 16)
            _mm512_storeu_ps(scales, s[g]);
        for (int g = 0; g < 32 / f.group && f.has_min; g++, mins += 16)
            _mm512_storeu_ps(mins, f.super ? _mm512_sub_ps(_mm512_set1_ps(-0.0f), m[g]) : m[g]);
    }
}

/* ---- sixteen rows by a tile -------------------------------------------------------------------------------------- */

/* What a step multiplies: up to AMX_DOTS products of a group of rows, one after another. */
typedef struct step {
    const uint8_t *entry, *codes; /* of its first block: activations, weights */
    int dots;
} step;

/* Product j of a step into its register. Both terms meet the same weights, both groups the same activations: the k that
 * are not a group's are zeros of its weights. */
PL_INLINE void dot(const pl_shape f, int terms, const step *s, int j)
{
    const int groups = dot_groups(f), block = j / (groups * terms), term = j % terms, g = j / terms % groups;
    const uint8_t *a = s->entry + block * entry_bytes(f, terms) + 512 * term;
    const uint8_t *w = s->codes + block * code_bytes(f) + 256 * g;
    __asm__ volatile("" ::: "memory"); /* what was written is read here */
    if (j >= s->dots)
        return;
#define DOT(C, A, B)                                                                                                   \
    do {                                                                                                               \
        if (g == 0)                                                                                                    \
            _tile_loadd(A, a, 32);                                                                                     \
        if (term == 0)                                                                                                 \
            _tile_loadd(B, w, 64);                                                                                     \
        _tile_zero(C);                                                                                                 \
        _tile_dpbssd(C, A, B);                                                                                         \
    } while (0)
    if (j == 0)
        DOT(0, 4, 6);
    else if (j == 1 && terms == 2)
        DOT(1, 5, 6);
    else if (j == 1 && groups == 2)
        DOT(1, 4, 7);
    else if (j == 1)
        DOT(1, 5, 7);
    else if (j == 2 && terms == 2)
        DOT(2, 4, 7);
    else if (j == 2 && groups == 2)
        DOT(2, 5, 6);
    else if (j == 2)
        DOT(2, 4, 6);
    else
        DOT(3, 5, 7);
#undef DOT
    __asm__ volatile("" ::: "memory");
}

/* The sums of product j of a step. */
PL_INLINE void store(const step *s, int j, int32_t *sums)
{
    __asm__ volatile("" ::: "memory");
    if (j >= s->dots)
        return;
    if (j == 0)
        _tile_stored(0, sums, 64);
    else if (j == 1)
        _tile_stored(1, sums + 256, 64);
    else if (j == 2)
        _tile_stored(2, sums + 512, 64);
    else
        _tile_stored(3, sums + 768, 64);
    __asm__ volatile("" ::: "memory");
}

/* acc[i] += the sums of group g of a block, scaled, and after the last group its mins; entry: of the block; s and m: the
 * scales and mins of its groups. Scaled formats: without the factor, and without mins. */
PL_INLINE void scale_sums(const pl_shape f, int terms, int g, const int32_t *sums, const uint8_t *entry, const float *s,
                          const float *m, __m512 acc[AMX_ROWS])
{
    const float *words = (const float *)(entry + 512 * terms);
    const __m512 scale = f.scaled ? _mm512_setzero_ps() : _mm512_loadu_ps(s + 16 * g);
#pragma GCC unroll 16
    for (int i = 0; i < AMX_ROWS; i++) {
        const __m512 s_y = _mm512_set1_ps(words[i]);
        __m512i sum = pl_load512(sums + 16 * i);
        if (terms == 2)
            sum = _mm512_add_epi32(_mm512_mullo_epi32(sum, _mm512_set1_epi32(254)), pl_load512(sums + 256 + 16 * i));
        acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), f.scaled ? s_y : _mm512_mul_ps(scale, s_y), acc[i]);
    }
    for (int j = 0; j < 32 / f.group && f.has_min && !f.scaled && g == dot_groups(f) - 1; j++) {
        const __m512 min = _mm512_loadu_ps(m + 16 * j);
#pragma GCC unroll 16
        for (int i = 0; i < AMX_ROWS; i++)
            acc[i] = _mm512_fmadd_ps(min, _mm512_set1_ps(words[16 * (1 + j) + i]), acc[i]);
    }
}

/* all += what sixteen rows have gathered in a super block of a scaled format, and its mins; d: its factors. acc is reset. */
PL_INLINE void end_super(const pl_shape f, int terms, const float *d, const uint8_t *mins, const uint8_t *entry,
                         __m512 acc[AMX_ROWS], __m512 all[AMX_ROWS])
{
    const __m512 scale = _mm512_loadu_ps(d), zero = _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int i = 0; i < AMX_ROWS; i++) {
        all[i] = _mm512_fmadd_ps(scale, acc[i], all[i]);
        acc[i] = zero;
    }
    __asm__ volatile("" ::"r"(all) : "memory"); /* they stay there */
    if (!f.has_min)
        return;
    const __m512 min = _mm512_loadu_ps(d + 16);
    for (int b = 0; b < 8; b++, mins += 64, entry += entry_bytes(f, terms)) {
        const uint8_t *words = entry + 512 * terms;
        const __m512i m = pl_load512(mins);
#pragma GCC unroll 16
        for (int i = 0; i < AMX_ROWS; i++)
            acc[i] =
                add_mins(terms, m, words + 64 + 4 * i, words + 128 + 4 * i, pl_broadcast_ps(words + 4 * i), acc[i]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < AMX_ROWS; i++) {
        all[i] = _mm512_fnmadd_ps(min, acc[i], all[i]);
        acc[i] = zero;
    }
}

/* out (n rows) = in (NULL: zeros) + the entries of groups of rows by `blocks` unpacked blocks. From one group to the next
 * there are group_bytes, and 16 rows of in and out. With each step it prefetches `share` bytes from next on. */
PL_INLINE void rows_by_part(const pl_shape f, int terms, int blocks, const uint8_t *entries, int64_t group_bytes,
                            uint8_t *scratch, int n, const float *in, ptrdiff_t in_stride, float *out,
                            ptrdiff_t out_stride, __mmask16 rows, const uint8_t *next, int share)
{
    const int groups = dot_groups(f), mins = f.has_min ? 32 / f.group : 0, size = entry_bytes(f, terms);
    const int per_block = groups * terms, at_once = AMX_DOTS / per_block;
    const int first = (blocks < at_once ? blocks : at_once) * per_block;
    int32_t *sums = (int32_t *)(scratch + DOTS), *ahead = sums + 256 * AMX_DOTS;
    __m512 acc[AMX_ROWS], all[AMX_ROWS]; /* all: scaled formats, without the super block under way */
    step now, then = {entries, scratch + CODES, first};
#pragma GCC unroll 4
    for (int j = 0; j < AMX_DOTS; j++)
        dot(f, terms, &then, j);
#pragma GCC unroll 4
    for (int j = 0; j < AMX_DOTS - AMX_LAG; j++)
        store(&then, j, sums);
    for (; n > 0; n -= AMX_ROWS, entries += group_bytes, out += AMX_ROWS * out_stride) {
        /* stores are done in order: one that misses would hold up those of tiles */
        for (int i = 0; i < AMX_ROWS && i < n; i++)
            _mm_prefetch((const char *)(out + i * out_stride), _MM_HINT_T0);
        for (int i = 0; i < AMX_ROWS; i++)
            all[i] = acc[i] = in && i < n ? _mm512_maskz_loadu_ps(rows, in + i * in_stride) : _mm512_setzero_ps();
        if (in)
            in += AMX_ROWS * in_stride;
        for (int i = 0; i < AMX_ROWS && f.scaled; i++)
            acc[i] = _mm512_setzero_ps();
        for (int b = 0; b < blocks; b += at_once) {
            const int after = b + at_once, left = blocks - after;
            const float *s = (const float *)(scratch + SCALES) + 16 * groups * b;
            const float *m = (const float *)(scratch + MINS) + 16 * mins * b;
            now = then;
            if (left > 0)
                then = (step){entries + (int64_t)after * size, scratch + CODES + after * code_bytes(f),
                              left < at_once ? left * per_block : AMX_DOTS};
            else
                then = (step){entries + group_bytes, scratch + CODES, n > AMX_ROWS ? first : 0};
            for (int at = 0; at < share; at += 64)
                _mm_prefetch((const char *)next + at, _MM_HINT_T1);
            next += share;
#pragma GCC unroll 4
            for (int j = 0; j < AMX_DOTS; j++) {
                const int block = j / per_block, g = j / terms % groups;
                dot(f, terms, &then, j);
                if (j < AMX_LAG)
                    store(&now, AMX_DOTS - AMX_LAG + j, sums);
                else
                    store(&then, j - AMX_LAG, ahead);
                if ((j + 1) % terms == 0 && j < now.dots)
                    scale_sums(f, terms, g, sums + 256 * (j - terms + 1), now.entry + block * size,
                               s + 16 * groups * block, m + 16 * mins * block, acc);
            }
            int32_t *const done = sums;
            sums = ahead;
            ahead = done;
            if (f.scaled && after % 8 == 0)
                end_super(f, terms, (const float *)(scratch + SCALES) + 4 * (after - 8),
                          scratch + MINS + 64 * (after - 8), entries + (int64_t)(after - 8) * size, acc, all);
        }
        for (int i = 0; i < AMX_ROWS; i++)
            if (i < n)
                _mm512_mask_storeu_ps(out + i * out_stride, rows, f.scaled ? all[i] : acc[i]);
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

/* Bytes that each step prefetches so that `lines` are there after the dots of all groups. Not inlined, for the size of
 * the library. */
__attribute__((noinline)) static int bytes_a_step(int lines, int dots, int groups)
{
    const int steps = groups * ((dots + AMX_DOTS - 1) / AMX_DOTS);
    return 64 * ((lines + steps - 1) / steps);
}

/* Rows [i0, i0 + n) of x by tiles [tile0, tile1), `most` blocks of k at a time. Where k goes on, y's sums are resumed. */
PL_INLINE void chunk(const pl_shape f, int terms, const pl_mat *w, int tile0, int tile1, const pl_acts *x, int i0,
                     int n, int most, float *y, ptrdiff_t y_stride)
{
    uint8_t *const scratch = x->scratch, *const panel = scratch + PL_PANEL_HEAD;
    float *const results = (float *)(scratch + RESULTS);
    const int size = entry_bytes(f, terms), all = x->k / PL_BLOCK, groups = (n + AMX_ROWS - 1) / AMX_ROWS;
    for (int b0 = 0; b0 < all; b0 += most) {
        const int blocks = all - b0 < most ? all - b0 : most, part = blocks <= AMX_MOST ? blocks : AMX_PART;
        const int share = bytes_a_step((part * f.packed_block + part / 8 * f.packed_header) / 64,
                                       part * dot_groups(f) * terms, groups);
        if (!pl_panel_is(f, terms, x, i0, n, b0, blocks, AMX_ROWS))
            make_panel(f, terms, x, i0, n, b0, blocks, panel);
        for (int t = tile0; t < tile1; t++) {
            const uint8_t *tile = w->data + t * w->tile_bytes;
            const int left = w->rows - PL_TILE * t;
            const __mmask16 rows = (__mmask16)(left >= PL_TILE ? 0xffff : (1 << left) - 1);
            float *const out = y + i0 * y_stride + PL_TILE * t;
            for (int b = 0; b < blocks; b += part) {
                const int last = b + part >= blocks, count = last ? blocks - b : part;
                const uint8_t *next = last ? block_at(f, tile + w->tile_bytes, b0) : block_at(f, tile, b0 + b + count);
                const float *in = b ? results : b0 ? out : NULL;
                unpack(f, tile, b0 + b, count, scratch);
                rows_by_part(f, terms, count, panel + (int64_t)b * size, (int64_t)blocks * size, scratch, n, in,
                             b ? 16 : y_stride, last ? out : results, last ? y_stride : 16, rows, next, share);
            }
        }
    }
}

/* Groups of rows in chunks about alike, as many as a panel has room for with some blocks of k. */
PL_INLINE void product(const pl_shape f, int terms, PL_MATMUL_ARGS)
{
    const int size = entry_bytes(f, terms), all = x->k / PL_BLOCK, whole = (n + AMX_ROWS - 1) / AMX_ROWS;
    const int limit = x->tuning->panel_bytes / size; /* entries */
    int groups = limit / AMX_PART < AMX_GROUPS ? limit / AMX_PART : AMX_GROUPS;
    if (groups > whole)
        groups = whole;
    const int most = limit / groups / AMX_PART * AMX_PART, blocks = most < all ? most : all;
    const int chunks = (whole + groups - 1) / groups, each = (whole + chunks - 1) / chunks * AMX_ROWS;
    pl_tiles_on(AMX_ROWS, 32);
    for (int i0 = 0; i0 < n; i0 += each)
        chunk(f, terms, w, tile0, tile1, x, i0, n - i0 < each ? n - i0 : each, blocks, y, y_stride);
    pl_tiles_off();
}

static void (*few[PL_N_FORMATS])(PL_MATMUL_ARGS); /* the kernels of the tier below */

PL_INLINE void matmul(pl_shape f, PL_MATMUL_ARGS)
{
    f.products = f.scaled;
    if (f.scaled && f.offset)
        f.offset = PL_PRODUCT_OFFSET;
    if (x->terms == 2)
        product(f, 2, w, tile0, tile1, x, n, y, y_stride);
    else
        product(f, 1, w, tile0, tile1, x, n, y, y_stride);
}

/* Few rows: a tile always has sixteen, and unpacking for few of them costs as much. */
#define MATMUL_OF(name, ...)                                                                                           \
    static void matmul_##name(PL_MATMUL_ARGS)                                                                          \
    {                                                                                                                  \
        if (n < AMX_LEAST)                                                                                             \
            few[PL_##name](w, tile0, tile1, x, n, y, y_stride);                                                        \
        else                                                                                                           \
            matmul(pl_shape_##name, w, tile0, tile1, x, n, y, y_stride);                                               \
    }
PL_INT_FORMATS(MATMUL_OF)

#define PUT_MATMUL(name, ...)                                                                                          \
    few[PL_##name] = k->matmul[PL_##name];                                                                             \
    k->matmul[PL_##name] = matmul_##name;                                                                              \
    if (k->matmul_scratch[PL_##name] < SCRATCH)                                                                        \
        k->matmul_scratch[PL_##name] = SCRATCH;

void pl_fill_matmul_amx(pl_kernels *k)
{
    PL_INT_FORMATS(PUT_MATMUL)
}

/* Matrix products of many rows with quantised weights, in tile registers.
 *
 * One instruction multiplies 16 rows of activations by 16 rows of weights over the k of a group, exactly, in int32. A
 * group has scales of its own, so its sums leave the register by way of memory, and vectors multiply them: the same
 * steps, in the same order, as in the AVX-512 tier, and the same bits. Weights are unpacked to signed bytes, a part of
 * k at a time, beside the sums of the last rows of the part before, as places become free: few enough that they, the
 * activations that they meet and all sums stay in the first-level cache. One group of sixteen rows at 3.9 GHz then
 * takes 19 to 21 ns per block of Q4_0 (vectors: 33 to 40; unpacked before all rows: 28 to 33), Q3_K with 112 rows 0.75
 * of its time.
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
 * in the other's place. Two groups of a block do share them. Parts of 8 or 32 blocks, and more places than a part has
 * blocks, were slower. */
#include "../prefetch.h"
#include "fill.h"
#include "operands.h"
#include "tiles.h"

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

/* acc[i] += the sums of group g of a block, scaled, and after the last group its mins; entry: of the block; s and m:
 * the scales and mins of its groups. Scaled formats: without the factor, and without mins. */
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
            sum = _mm512_add_epi32(_mm512_slli_epi32(sum, PL_TERM_BITS), pl_load512(sums + 256 + 16 * i));
        acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), f.scaled ? s_y : _mm512_mul_ps(scale, s_y), acc[i]);
    }
    for (int j = 0; j < 32 / f.group && f.has_min && !f.scaled && g == dot_groups(f) - 1; j++) {
        const __m512 min = _mm512_loadu_ps(m + 16 * j);
#pragma GCC unroll 16
        for (int i = 0; i < AMX_ROWS; i++)
            acc[i] = _mm512_fmadd_ps(min, _mm512_set1_ps(words[16 * (1 + j) + i]), acc[i]);
    }
}

/* all += what sixteen rows have gathered in a super block of a scaled format, and its mins; d: its factors. acc is
 * reset. */
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

/* ---- steps, one after another
 * ------------------------------------------------------------------------------------- */

/* Blocks [b, b + blocks) of the weights at `tile`, in steps, unpacked into places from that of step `at` on. */
typedef struct part {
    const uint8_t *tile;
    int b, blocks, steps, at;
} part;

/* What is carried from one step to the next. */
typedef struct state {
    step step;            /* its products are under way */
    int32_t *done, *next; /* AMX_DOTS x (16, 16): where its sums are stored, and those of the step after it */
    int ring, keep;       /* places of steps, used in turn; steps that must have followed one whose place is free */
    int to, more;         /* the place of the step that is unpacked next; unpacked steps behind the part's first */
    pl_ahead ahead;
} state;

PL_INLINE int blocks_of_step(const pl_shape f, int terms)
{
    return AMX_DOTS / (dot_groups(f) * terms);
}

PL_INLINE part make_part(const pl_shape f, int terms, const uint8_t *tile, int b, int blocks, int at)
{
    const int each = blocks_of_step(f, terms);
    return (part){tile, b, blocks, (blocks + each - 1) / each, at};
}

/* Step i of a part, in place `at`; `entries` are of the part's first block. */
PL_INLINE step step_of(const pl_shape f, int terms, const part *p, int i, int at, const uint8_t *entries,
                       const uint8_t *scratch)
{
    const int each = blocks_of_step(f, terms), left = p->blocks - i * each;
    return (step){entries + (int64_t)i * each * entry_bytes(f, terms), scratch + CODES + at * each * code_bytes(f),
                  left < each ? left * dot_groups(f) * terms : AMX_DOTS};
}

/* The products of the first step, and what is stored of them by then. */
PL_INLINE void begin(const pl_shape f, int terms, const state *x)
{
#pragma GCC unroll 4
    for (int j = 0; j < AMX_DOTS; j++)
        dot(f, terms, &x->step, j);
#pragma GCC unroll 4
    for (int j = 0; j < AMX_DOTS - AMX_LAG; j++)
        store(&x->step, j, x->done);
}

/* Scales the sums of the step under way, which is in place `at`, between the products of the step `then`; unpacks
 * `blocks` of `tile` from b on; and prefetches what lies ahead. */
PL_INLINE void next_step(const pl_shape f, int terms, state *x, step then, uint8_t *scratch, int at,
                         const uint8_t *tile, int b, int blocks, __m512 acc[AMX_ROWS])
{
    const int groups = dot_groups(f), mins = f.has_min ? 32 / f.group : 0, each = blocks_of_step(f, terms);
    const float *s = (const float *)(scratch + SCALES) + 16 * groups * each * at;
    const float *m = (const float *)(scratch + MINS) + 16 * mins * each * at;
#pragma GCC unroll 4
    for (int j = 0; j < AMX_DOTS; j++) {
        const int block = j / (groups * terms), g = j / terms % groups;
        if (j % (groups * terms) == 0) {
            pl_ask(&x->ahead, 0);
            if (block < blocks)
                unpack(f, tile, b + block, scratch, x->to * each + block);
        }
        dot(f, terms, &then, j);
        if (j < AMX_LAG)
            store(&x->step, AMX_DOTS - AMX_LAG + j, x->done);
        else
            store(&then, j - AMX_LAG, x->next);
        if ((j + 1) % terms == 0 && j < x->step.dots)
            scale_sums(f, terms, g, x->done + 256 * (j - terms + 1), x->step.entry + block * entry_bytes(f, terms),
                       s + 16 * groups * block, m + 16 * mins * block, acc);
    }
    int32_t *const done = x->done;
    x->done = x->next;
    x->next = done;
    x->step = then;
}

/* out (n rows) = in (NULL: zeros) + the entries of groups of rows by a part. The panel has `all` blocks of each group.
 * Beside the first group what is left of the part is unpacked, beside the last one the part `next`, as places become
 * free, and its first step begins. */
PL_INLINE void rows_by_part(const pl_shape f, int terms, const part *now, const part *next, const uint8_t *panel,
                            int all, state *x, uint8_t *scratch, int n, const float *in, ptrdiff_t in_stride,
                            float *out, ptrdiff_t out_stride, __mmask16 rows)
{
    const int size = entry_bytes(f, terms), each = blocks_of_step(f, terms);
    const uint8_t *entries = panel + (int64_t)now->b * size;
    __m512 acc[AMX_ROWS], sums[AMX_ROWS]; /* sums: scaled formats, without the super block under way */
    for (; n > 0; n -= AMX_ROWS, entries += (int64_t)all * size, out += AMX_ROWS * out_stride) {
        const int last = n <= AMX_ROWS, most = now->steps + (last ? next->steps : 0);
        /* stores are done in order: one that misses would hold up those of tiles */
        for (int i = 0; i < AMX_ROWS && i < n; i++)
            pl_prefetch_write(out + i * out_stride, 1);
        for (int i = 0; i < AMX_ROWS; i++)
            sums[i] = acc[i] = in && i < n ? _mm512_maskz_loadu_ps(rows, in + i * in_stride) : _mm512_setzero_ps();
        if (in)
            in += AMX_ROWS * in_stride;
        for (int i = 0; i < AMX_ROWS && f.scaled; i++)
            acc[i] = _mm512_setzero_ps();
        for (int i = 0, at = now->at, to; i < now->steps; i++, at = to) {
            const int after = (i + 1) * each;
            step then;
            to = at + 1 < x->ring ? at + 1 : 0;
            if (i + 1 < now->steps)
                then = step_of(f, terms, now, i + 1, to, entries, scratch);
            else if (last)
                then = step_of(f, terms, next, 0, to, panel + (int64_t)next->b * size, scratch);
            else
                then = step_of(f, terms, now, 0, now->at, entries + (int64_t)all * size, scratch);
            if (x->more < most && x->more <= i + x->ring - x->keep) {
                const part *const p = x->more < now->steps ? now : next;
                const int b = (p == now ? x->more : x->more - now->steps) * each, left = p->blocks - b;
                next_step(f, terms, x, then, scratch, at, p->tile, p->b + b, left < each ? left : each, acc);
                x->more++;
                x->to = x->to + 1 < x->ring ? x->to + 1 : 0;
            } else
                next_step(f, terms, x, then, scratch, at, NULL, 0, 0, acc);
            if (f.scaled && after % 8 == 0) {
                const int first = (at + 1) * each - 8;
                end_super(f, terms, (const float *)(scratch + SCALES) + 4 * first, scratch + MINS + 64 * first,
                          entries + (int64_t)(after - 8) * size, acc, sums);
            }
        }
        for (int i = 0; i < AMX_ROWS; i++)
            if (i < n)
                _mm512_mask_storeu_ps(out + i * out_stride, rows, f.scaled ? sums[i] : acc[i]);
    }
    x->more -= now->steps;
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

/* Blocks of a part, out of `blocks` of k: parts are of equal size, and have whole steps, or super blocks. One group of
 * rows meets all of them in one part. */
PL_INLINE int part_blocks(const pl_shape f, int blocks, int n)
{
    const int parts = n <= AMX_ROWS || blocks <= AMX_MOST ? 1 : (blocks + AMX_PART - 1) / AMX_PART;
    const int whole = f.scaled ? 8 : AMX_DOTS;
    return ((blocks + parts - 1) / parts + whole - 1) / whole * whole;
}

/* Rows [i0, i0 + n) of x by tiles [tile0, tile1), `most` blocks of k at a time. If k goes on, the sums in y are
 * continued. */
PL_INLINE void chunk(const pl_shape f, int terms, const pl_mat *w, int tile0, int tile1, const pl_acts *x, int i0,
                     int n, int most, float *y, ptrdiff_t y_stride)
{
    uint8_t *const scratch = x->scratch, *const panel = scratch + PL_PANEL_HEAD;
    float *const results = (float *)(scratch + RESULTS);
    const int turns = f.bits == 8 ? x->tuning->ahead8_turns : x->tuning->ahead_turns, all = x->k / PL_BLOCK;
    const pl_reading r = pl_read(w->data + tile0 * w->tile_bytes, w->tile_bytes, tile1 - tile0, turns && all <= most);
    const int met = (n + AMX_ROWS - 1) / AMX_ROWS, share = (f.packed_block + f.packed_header / 8 + met - 1) / met;
    for (int b0 = 0; b0 < all && r.tiles > 0; b0 += most) {
        const int blocks = all - b0 < most ? all - b0 : most, each = part_blocks(f, blocks, n);
        const uint8_t *tile = r.from + (int64_t)b0 * f.packed_block + (int64_t)(b0 / 8) * f.packed_header;
        int32_t *const dots = (int32_t *)(scratch + DOTS);
        const int first = blocks < each ? blocks : each, at_once = blocks_of_step(f, terms);
        part now = make_part(f, terms, tile, 0, first, 0), next;
        /* a super block's mins and factors are needed until its end; one group's part has all of k */
        const int keep = f.scaled ? 8 / at_once : 1, least = f.scaled ? 2 * keep : 2, most_steps = AMX_PART / at_once;
        const int ring = n <= AMX_ROWS && now.steps > most_steps ? most_steps : now.steps;
        state s = {.done = dots, .next = dots + 256 * AMX_DOTS, .keep = keep, .ring = ring < least ? least : ring};
        if (!pl_panel_is(f, terms, x, i0, n, b0, blocks, AMX_ROWS))
            make_panel(f, terms, x, i0, n, b0, blocks, panel);
        s.step = step_of(f, terms, &now, 0, 0, panel, scratch);
        for (s.more = 0; s.more < now.steps && s.more < s.ring - keep; s.more++)
            for (int j = s.more * at_once; j < now.blocks && j < (s.more + 1) * at_once; j++)
                unpack(f, tile, j, scratch, j);
        s.to = s.more < s.ring ? s.more : 0;
        begin(f, terms, &s);
        for (int t = 0; t < r.tiles; t++, tile += w->tile_bytes) {
            const int left = w->rows - PL_TILE * (tile0 + t);
            const __mmask16 rows = (__mmask16)(left >= PL_TILE ? 0xffff : (1 << left) - 1);
            float *const out = y + i0 * y_stride + PL_TILE * (tile0 + t);
            s.ahead = pl_ahead_of(&r, t, share, tile + w->tile_bytes, 64);
            for (int b = 0; b < blocks; b += each, now = next) {
                const int after = b + each, last = after >= blocks;
                const float *in = b ? results : b0 ? out : NULL;
                const int at = (now.at + now.steps) % s.ring;
                next = last ? make_part(f, terms, tile + w->tile_bytes, 0, t + 1 < r.tiles ? first : 0, at)
                            : make_part(f, terms, tile, after, blocks - after < each ? blocks - after : each, at);
                rows_by_part(f, terms, &now, &next, panel, blocks, &s, scratch, n, in, b ? 16 : y_stride,
                             last ? out : results, last ? y_stride : 16, rows);
            }
        }
    }
}

/* Groups of rows in chunks of about equal size, as many as a panel has room for with some blocks of k. */
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
        if (n < AMX_GROUP || (n > AMX_ROWS && n < AMX_LEAST))                                                          \
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
    k->tile_rows = AMX_GROUP;
}

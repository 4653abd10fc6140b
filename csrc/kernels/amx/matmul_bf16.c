/* Matrix products with BF16 weights and BF16 activations, in tile registers.
 *
 * A packed tile holds pairs of k of sixteen rows of w, which is what the right side of a product of tiles looks like.
 * One instruction adds 32 k to the sums of 16 x 16, in the order of TDPBF16PS (Intel SDM vol. 2): even k and odd k
 * apart, each rounded, then both. Every row uses that order, however many rows there are, so that its bits do not
 * depend on them.
 *
 * Few rows of activations are read as they are. Many are laid out in a panel, in which what a register takes lies
 * together. They meet two tiles of w, a slice of k at a time, which stays in the first-level cache meanwhile. Sums wait
 * between slices in memory that stays in the second-level cache, and go to y while the next rows are multiplied: y lies
 * in no cache, and storing registers there took a quarter of the time.
 *
 * One thread on an Intel Xeon with 2 MB of L2, in ns for four products and the loads that they need: 23 if everything
 * lies in the first-level cache; with 512 rows of k 2048, 60 with rows as they are and sums in y, 36 as it
 * is. */
#include "../common.h"
#include "../matmul.h"
#include "blocking.h"
#include "fill.h"
#include "tiles.h"

enum {
    GROUP = 2 * AMX_ROWS,    /* rows of x that are multiplied at once */
    STEP_BYTES = 64 * GROUP, /* of a group's 32 k in a panel: two registers */
    SUMS_BYTES = 4 * 1024,   /* of a group by two tiles: four registers */
};

/* Scratch memory: a head, a panel, then the last k of 32 rows of x and of two tiles of w, followed by zeros, and
 * sums of each group. */
enum {
    X_END = PL_PANEL_HEAD + PL_PANEL_MOST,
    W_END = X_END + STEP_BYTES,
    SUMS = W_END + 2 * 1024,
    SCRATCH = SUMS + SUMS_BYTES * BF16_GROUPS,
};

/* A group of rows of x by one or two tiles of w. */
typedef struct part {
    const pl_mat *w;
    int t, from, to, whole; /* from, to: steps of 32 k; whole: steps that w has in full */
    const uint8_t *rows;    /* of x, at `from` */
    ptrdiff_t row_bytes;    /* of rows that are not laid out */
    uint8_t *scratch;
    float *sums;          /* as four registers, one after another */
    int again;            /* the sums of earlier steps are there */
    const uint8_t *after; /* few rows: the next tiles, or NULL */
    const uint8_t *next;  /* of the next slice, and of the tile behind it, each step of many rows prefetches `lines` */
    int lines;
} part;

/* Sums being moved to y: those of m rows, of which `done` have been moved. */
typedef struct moved {
    float *sums;
    float *y; /* of the first row and tile */
    ptrdiff_t y_stride;
    int m, done, tiles;
    __mmask16 last; /* rows of w in the last tile */
    int past;       /* past the caches: whole lines that nothing will add to */
} moved;

PL_INLINE float *sums_at(float *sums, int i, int c)
{
    return sums + 256 * (c + 2 * (i / AMX_ROWS)) + 16 * (i % AMX_ROWS);
}

/* Up to n rows. */
PL_INLINE void move_sums(moved *v, int n)
{
    for (; n && v->done < v->m; n--, v->done++)
        for (int c = 0; c < v->tiles; c++) {
            const __m512 sums = _mm512_loadu_ps(sums_at(v->sums, v->done, c));
            float *y = v->y + v->done * v->y_stride + PL_TILE * c;
            if (c + 1 == v->tiles && v->last != 0xffff)
                _mm512_mask_storeu_ps(y, v->last, sums);
            else if (v->past)
                _mm512_stream_ps(y, sums);
            else
                _mm512_storeu_ps(y, sums);
        }
}

/* Up to n rows from y. */
PL_INLINE void take_sums(moved *v, int n)
{
    for (; n && v->done < v->m; n--, v->done++)
        for (int c = 0; c < v->tiles; c++) {
            const float *y = v->y + v->done * v->y_stride + PL_TILE * c;
            const __mmask16 rows = c + 1 == v->tiles ? v->last : 0xffff;
            _mm512_storeu_ps(sums_at(v->sums, v->done, c), _mm512_maskz_loadu_ps(rows, y));
        }
}

/* Registers 0, 1: sums of sixteen rows by two tiles; 2, 3: of the others. 4, 5: these rows; 6, 7: these tiles. */
PL_INLINE void tiles_on(int m)
{
    pl_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        const int first = i < 2 || i == 4 || m <= AMX_ROWS;
        config.bytes[i] = 64;
        config.rows[i] = (uint8_t)(i > 5 ? 16 : first ? m < 16 ? m : 16 : m - 16);
    }
    _tile_loadconfig(&config);
}

#define STEP(G, T, LOAD, A, SECOND, A_STRIDE, B0, B1)                                                                  \
    LOAD(4, A, A_STRIDE);                                                                                              \
    _tile_loadd(6, B0, 64);                                                                                            \
    _tile_dpbf16ps(0, 4, 6);                                                                                           \
    if (T > 1) {                                                                                                       \
        _tile_loadd(7, B1, 64);                                                                                        \
        _tile_dpbf16ps(1, 4, 7);                                                                                       \
    }                                                                                                                  \
    if (G > 1) {                                                                                                       \
        LOAD(5, (A) + (SECOND), A_STRIDE);                                                                             \
        _tile_dpbf16ps(2, 5, 6);                                                                                       \
        if (T > 1)                                                                                                     \
            _tile_dpbf16ps(3, 5, 7);                                                                                   \
    }

#define EACH_SUM(G, T, DO)                                                                                             \
    do {                                                                                                               \
        DO(0, p->sums, 64);                                                                                            \
        if (T > 1)                                                                                                     \
            DO(1, p->sums + 256, 64);                                                                                  \
        if (G > 1)                                                                                                     \
            DO(2, p->sums + 512, 64);                                                                                  \
        if (G > 1 && T > 1)                                                                                            \
            DO(3, p->sums + 768, 64);                                                                                  \
    } while (0)
#define ZERO(C, AT, STRIDE) _tile_zero(C)

/* G groups of sixteen rows by T tiles. many: rows are laid out, and each step moves two rows of the sums of the group
 * before, and of those that the group after needs. */
PL_INLINE void multiply(const int G, const int T, const int many, part *p, moved *before, moved *after)
{
    const ptrdiff_t tile_bytes = p->w->tile_bytes;
    const uint8_t *ahead = NULL, *a = p->rows, *b = p->w->data + p->t * tile_bytes + 1024 * (ptrdiff_t)p->from;
    __asm__ volatile("" ::: "memory"); /* what was written is read here */
    if (p->again)
        EACH_SUM(G, T, _tile_loadd);
    else
        EACH_SUM(G, T, ZERO);
    const int whole = p->to < p->whole ? p->to : p->whole;
    for (int s = p->from; s < whole; s++, b += 1024) {
        if (many) {
            for (int i = 0; i < p->lines; i++, p->next += 64) {
                _mm_prefetch((const char *)p->next, _MM_HINT_T1);
                if (T > 1)
                    _mm_prefetch((const char *)p->next + tile_bytes, _MM_HINT_T1);
            }
            move_sums(before, 2);
            take_sums(after, 2);
            STEP(G, T, _tile_stream_loadd, a, STEP_BYTES / 2, 64, b, b + tile_bytes);
            a += STEP_BYTES;
        } else {
            if ((s - p->from) % BF16_WINDOW == 0)
                ahead = s + BF16_WINDOW < p->to ? b + 1024 * BF16_WINDOW : p->after;
            if (ahead) {
                for (int i = 0; i < 4; i++)
                    for (int line = 0; line < 256; line += 64) {
                        _mm_prefetch((const char *)ahead + 256 * BF16_WINDOW * i + line, _MM_HINT_T0);
                        if (T > 1)
                            _mm_prefetch((const char *)ahead + tile_bytes + 256 * BF16_WINDOW * i + line, _MM_HINT_T0);
                    }
                ahead += 256;
            }
            STEP(G, T, _tile_loadd, a, 16 * p->row_bytes, p->row_bytes, b, b + tile_bytes);
            a += 64;
        }
    }
    if (whole < p->to) {
        const uint8_t *end = many ? a : p->scratch + X_END;
        b = p->scratch + W_END;
        STEP(G, T, _tile_loadd, end, STEP_BYTES / 2, 64, b, b + 1024);
    }
    EACH_SUM(G, T, _tile_stored);
    __asm__ volatile("" ::: "memory");
}

PL_INLINE void multiply_any(const moved *own, int many, part *p, moved *before, moved *after)
{
    p->sums = own->sums;
    if (own->m > AMX_ROWS) {
        if (own->tiles > 1)
            multiply(2, 2, many, p, before, after);
        else
            multiply(2, 1, many, p, before, after);
    } else if (own->tiles > 1) {
        multiply(1, 2, many, p, before, after);
    } else {
        multiply(1, 1, many, p, before, after);
    }
}

/* Steps [from, to) of rows [i0, i0 + n) as [group of 32 rows][step][row][32], with zeros behind the last k and, up to a
 * multiple of sixteen, behind the last row. Four steps of each row at a time: what is written lies together then.
 * Not inlined, to keep the library small. */
__attribute__((noinline)) static void lay_out(const pl_acts *x, int i0, int n, int from, int to, uint8_t *panel)
{
    const ptrdiff_t row_bytes = 4 * (ptrdiff_t)((x->k + 1) / 2);
    for (int g = 0; g < n; g += GROUP) {
        const int rows = n - g < GROUP ? n - g : GROUP, all = (rows + AMX_ROWS - 1) / AMX_ROWS * AMX_ROWS;
        const uint8_t *group = (const uint8_t *)x->b + (i0 + g) * row_bytes;
        for (int s = from, steps; s < to; s += steps, panel += STEP_BYTES * steps) {
            steps = to - s < 4 ? to - s : 4;
            for (int i = 0; i < all; i++)
                for (int j = 0; j < steps; j++) {
                    const ptrdiff_t at = 64 * (ptrdiff_t)(s + j), left = i < rows ? row_bytes - at : 0;
                    const __mmask16 pairs = left >= 64 ? 0xffff : (__mmask16)((1 << left / 4) - 1);
                    _mm512_storeu_si512(panel + STEP_BYTES * j + 64 * i,
                                        _mm512_maskz_loadu_epi32(pairs, group + i * row_bytes + at));
                }
        }
    }
}

/* The last k of one or two tiles, followed by zeros. */
static void lay_out_end(const part *p, int T)
{
    const int pairs = (p->w->k + 1) / 2 - 16 * p->whole;
    memset(p->scratch + W_END, 0, 2 * 1024);
    for (int c = 0; c < T; c++)
        memcpy(p->scratch + W_END + 1024 * c, p->w->data + (p->t + c) * p->w->tile_bytes + 1024 * (ptrdiff_t)p->whole,
               (size_t)(64 * pairs));
}

/* The sums of group g of n rows by T tiles, and where they go. */
PL_INLINE moved sums_of(const part *p, int T, int n, int g, float *y, ptrdiff_t y_stride)
{
    const int left = p->w->rows - PL_TILE * (p->t + T - 1);
    return (moved){
        .sums = (float *)(p->scratch + SUMS + SUMS_BYTES * g),
        .y = y + GROUP * g * y_stride + PL_TILE * p->t,
        .y_stride = y_stride,
        .m = n - GROUP * g < GROUP ? n - GROUP * g : GROUP,
        .tiles = T,
        .last = left < PL_TILE ? (__mmask16)((1 << left) - 1) : 0xffff,
    };
}

/* One group, read as it is; weights come from memory. */
static void few_rows(part *p, int tile0, int tile1, const pl_acts *x, int n, int steps, float *y, ptrdiff_t y_stride)
{
    p->rows = (const uint8_t *)x->b;
    p->to = steps;
    if (p->whole < steps)
        lay_out(x, 0, n, p->whole, steps, p->scratch + X_END);
    tiles_on(n);
    for (int T; p->t = tile0, tile0 < tile1; tile0 += T) {
        T = tile1 - tile0 > 1 ? 2 : 1;
        moved own = sums_of(p, T, n, 0, y, y_stride), none = {0};
        p->after = tile0 + T < tile1 ? p->w->data + (tile0 + T) * p->w->tile_bytes : NULL;
        if (p->whole < steps)
            lay_out_end(p, T);
        multiply_any(&own, 0, p, &none, &none);
        move_sums(&own, GROUP);
    }
}

/* Steps [from, to) of the n rows in the panel. last: nothing is added to y after them. */
static void many_rows(part *p, int tile0, int tile1, int from, int to, int n, int last, float *y, ptrdiff_t y_stride)
{
    const int groups = (n + GROUP - 1) / GROUP, large = n * y_stride > BF16_CACHED;
    const int past = last && large && !((uintptr_t)y % 64 || y_stride % 16);
    moved before = {0};
    p->lines = (16 + groups - 1) / groups;
    for (int T; p->t = tile0, tile0 < tile1; tile0 += T) {
        T = tile1 - tile0 > 1 ? 2 : 1;
        if (p->whole < to)
            lay_out_end(p, T);
        if (groups == 1) /* whose sums are about to take that place */
            move_sums(&before, GROUP);
        for (p->from = from; p->from < to; p->from = p->to) {
            p->to = to - p->from < BF16_SLICE ? to : p->from + BF16_SLICE;
            p->again = p->from > 0;
            p->next = p->w->data + (p->to < to ? tile0 : tile0 + T) * p->w->tile_bytes +
                      1024 * (ptrdiff_t)(p->to < to ? p->to : from);
            for (int g = 0; g < groups; g++) {
                moved own = sums_of(p, T, n, g, y, y_stride), after = {0};
                if (from && p->from == from) { /* y has the sums of earlier blocks of k */
                    moved first = own;
                    if (g == 0)
                        take_sums(&first, GROUP);
                    after = sums_of(p, T, n, g + 1, y, y_stride);
                }
                p->rows = p->scratch + PL_PANEL_HEAD + STEP_BYTES * ((ptrdiff_t)g * (to - from) + p->from - from);
                multiply_any(&own, 1, p, &before, &after);
                move_sums(&before, GROUP);
                take_sums(&after, GROUP);
                if (p->to == to) {
                    before = own;
                    before.past = past;
                }
            }
        }
    }
    move_sums(&before, GROUP);
}

static void matmul_bf16(PL_MATMUL_ARGS)
{
    const int pairs = (w->k + 1) / 2, steps = (pairs + 15) / 16, groups = (n + GROUP - 1) / GROUP;
    const int block = steps < BF16_BLOCK ? steps : BF16_BLOCK; /* steps at once */
    const int room = PL_PANEL_MOST / (STEP_BYTES * block), most = room < BF16_GROUPS ? room : BF16_GROUPS;
    part p = {.w = w, .whole = pairs / 16, .row_bytes = 4 * (ptrdiff_t)pairs, .scratch = x->scratch};
    if (!n)
        return;
    if (groups == 1) {
        few_rows(&p, tile0, tile1, x, n, steps, y, y_stride);
        pl_tiles_off();
        return;
    }
    const int blocks = (groups + most - 1) / most, each = GROUP * ((groups + blocks - 1) / blocks);
    pl_acts known = *x;
    known.q = (const int8_t *)x->b; /* what distinguishes panels */
    tiles_on(GROUP);
    for (int i0 = 0; i0 < n; i0 += each) {
        const int rows = n - i0 < each ? n - i0 : each;
        for (int from = 0, to; from < steps; from = to) {
            to = steps - from < block ? steps : from + block;
            if (!pl_panel_is((pl_shape){0}, 0, &known, i0, rows, from, to - from, 0))
                lay_out(x, i0, rows, from, to, p.scratch + PL_PANEL_HEAD);
            many_rows(&p, tile0, tile1, from, to, rows, to == steps, y + i0 * y_stride, y_stride);
        }
    }
    _mm_sfence(); /* what went past the caches is there before other threads read it */
    pl_tiles_off();
}

void pl_fill_matmul_bf16_amx(pl_kernels *k)
{
    k->matmul[PL_BF16] = matmul_bf16;
    k->matmul_scratch[PL_BF16] = SCRATCH;
}

/* Matrix products on BF16 weights and BF16 activations, in tile registers.
 *
 * A packed tile holds pairs of k of sixteen rows of w, which is what the right side of a product of tiles looks like, and
 * activations are read as they are: nothing is laid out. One instruction adds 32 k to the sums of 16 x 16, in the order
 * of TDPBF16PS (Intel SDM vol. 2): even k and odd k apart, each rounded, then both. A row takes that order however many
 * rows there are, so that its bits do not depend on them.
 *
 * Both sides come from the second-level cache, for which blocks of rows and of k are chosen; sums wait in y between blocks
 * of k. Many rows prefetch the next two tiles at an even pace, few rows a fixed distance ahead. One thread on an Intel
 * Xeon with 2 MB of L2: four products and the loads that they need take 23 ns alone, 40 from the second-level cache, and
 * 60 with 512 rows of k 2048. Sums that wait while slices of k stay in the first-level cache cost what that saves (68 to
 * 83 ns), since rows of y lie far apart. */
#include "../common.h"
#include "../matmul.h"
#include "blocking.h"
#include "fill.h"
#include "tiles.h"

/* Scratch memory, behind what products on quantised weights use again: the last k of 32 rows of x and of two tiles of w,
 * with zeros behind them, and sums of a tile that goes beyond w. */
enum {
    X_END = PL_PANEL_HEAD + PL_PANEL_MOST,
    W_END = X_END + 2 * 1024,
    SUMS = W_END + 2 * 1024,
    SCRATCH = SUMS + 2 * 1024,
};

enum { GROUP = 2 * AMX_ROWS }; /* rows of x that are multiplied at once */

/* What is multiplied: a group of rows of x by one or two tiles of w. */
typedef struct part {
    const pl_mat *w;
    int t, from, to, whole; /* from, to: steps of 32 k; whole: steps that are */
    const uint8_t *rows;    /* of the first row of x */
    ptrdiff_t row_bytes;
    int m; /* rows */
    float *y;
    ptrdiff_t y_stride;
    uint8_t *scratch;
    int ahead;           /* bytes ahead that each step prefetches; 0: none */
    const uint8_t *next; /* of which each step prefetches `lines`, and of the tile behind it */
    int lines;
} part;

/* Registers 0, 1: sums of sixteen rows by two tiles; 2, 3: of the others. */
PL_INLINE void tiles_on(int m)
{
    pl_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        const int first = i < 2 || i == 4 || m <= 16;
        config.bytes[i] = 64;
        config.rows[i] = (uint8_t)(i > 5 ? 16 : first ? m < 16 ? m : 16 : m - 16);
    }
    _tile_loadconfig(&config);
}

#define STEP(G, T, A, A_STRIDE, B0, B1)                                                                                \
    _tile_loadd(4, A, A_STRIDE);                                                                                       \
    _tile_loadd(6, B0, 64);                                                                                            \
    _tile_dpbf16ps(0, 4, 6);                                                                                           \
    if (T > 1) {                                                                                                       \
        _tile_loadd(7, B1, 64);                                                                                        \
        _tile_dpbf16ps(1, 4, 7);                                                                                       \
    }                                                                                                                  \
    if (G > 1) {                                                                                                       \
        _tile_loadd(5, (A) + 16 * (A_STRIDE), A_STRIDE);                                                               \
        _tile_dpbf16ps(2, 5, 6);                                                                                       \
        if (T > 1)                                                                                                     \
            _tile_dpbf16ps(3, 5, 7);                                                                                   \
    }

/* What is done with each register of sums, and where these lie. */
#define EACH_SUM(G, T, DO)                                                                                             \
    do {                                                                                                               \
        DO(0, y[0], stride[0]);                                                                                        \
        if (T > 1)                                                                                                     \
            DO(1, y[1], stride[1]);                                                                                    \
        if (G > 1)                                                                                                     \
            DO(2, (uint8_t *)y[0] + 16 * stride[0], stride[0]);                                                        \
        if (G > 1 && T > 1)                                                                                            \
            DO(3, (uint8_t *)y[1] + 16 * stride[1], stride[1]);                                                        \
    } while (0)
#define ZERO(C, AT, STRIDE) _tile_zero(C)

/* The last k, fewer than 32, of the rows and of the tiles, with zeros behind them. */
PL_INLINE void lay_out_end(const part *p, int T)
{
    const int pairs = (p->w->k + 1) / 2 - 16 * p->whole;
    memset(p->scratch + X_END, 0, SUMS - X_END);
    for (int i = 0; i < p->m; i++)
        memcpy(p->scratch + X_END + 64 * i, p->rows + i * p->row_bytes + 64 * p->whole, (size_t)(4 * pairs));
    for (int c = 0; c < T; c++)
        memcpy(p->scratch + W_END + 1024 * c, p->w->data + (p->t + c) * p->w->tile_bytes + 1024 * p->whole,
               (size_t)(64 * pairs));
}

/* Sums of a tile that goes beyond w: from y to scratch memory, or back. */
PL_INLINE void move_sums(const part *p, int c, int back)
{
    const int left = p->w->rows - PL_TILE * (p->t + c);
    const __mmask16 rows = (__mmask16)((1 << left) - 1);
    float *sums = (float *)(p->scratch + SUMS), *y = p->y + PL_TILE * (p->t + c);
    for (int i = 0; i < p->m; i++, y += p->y_stride, sums += 16)
        if (back)
            _mm512_mask_storeu_ps(y, rows, _mm512_loadu_ps(sums));
        else
            _mm512_storeu_ps(sums, _mm512_maskz_loadu_ps(rows, y));
}

/* G groups of sixteen rows, the last one of fewer, by T tiles. */
PL_INLINE void multiply(const int G, const int T, part *p)
{
    const uint8_t *tile = p->w->data + p->t * p->w->tile_bytes, *other = tile + p->w->tile_bytes;
    float *y[2] = {p->y + PL_TILE * p->t, p->y + PL_TILE * (p->t + 1)};
    ptrdiff_t stride[2] = {4 * p->y_stride, 4 * p->y_stride};
    const int last = p->t + T - 1, beyond = p->w->rows < PL_TILE * (last + 1);
    if (beyond) {
        y[T - 1] = (float *)(p->scratch + SUMS);
        stride[T - 1] = 64;
        if (p->from)
            move_sums(p, T - 1, 0);
    }
    const int ended = p->to > p->whole;
    if (ended)
        lay_out_end(p, T);
    __asm__ volatile("" ::: "memory"); /* what was written is read here */
    if (p->from)
        EACH_SUM(G, T, _tile_loadd);
    else
        EACH_SUM(G, T, ZERO);
    for (int s = p->from; s < p->to - ended; s++) {
        const uint8_t *a = p->rows + 64 * (ptrdiff_t)s, *b = tile + 1024 * (ptrdiff_t)s;
        const uint8_t *c = other + 1024 * (ptrdiff_t)s;
        if (p->ahead)
            for (int i = 0; i < 16; i++) {
                _mm_prefetch((const char *)b + p->ahead + 64 * i, _MM_HINT_T0);
                if (T > 1)
                    _mm_prefetch((const char *)c + p->ahead + 64 * i, _MM_HINT_T0);
            }
        for (int i = 0; i < p->lines; i++, p->next += 64) {
            _mm_prefetch((const char *)p->next, _MM_HINT_T1);
            if (T > 1)
                _mm_prefetch((const char *)p->next + p->w->tile_bytes, _MM_HINT_T1);
        }
        STEP(G, T, a, p->row_bytes, b, c);
    }
    if (ended) {
        const uint8_t *a = p->scratch + X_END, *b = p->scratch + W_END;
        STEP(G, T, a, 64, b, b + 1024);
    }
    EACH_SUM(G, T, _tile_stored);
    __asm__ volatile("" ::: "memory");
    if (beyond)
        move_sums(p, T - 1, 1);
}

PL_INLINE void multiply_any(int T, part *p)
{
    if (p->m > 16) {
        if (T > 1)
            multiply(2, 2, p);
        else
            multiply(2, 1, p);
    } else if (T > 1) {
        multiply(1, 2, p);
    } else {
        multiply(1, 1, p);
    }
}

static void matmul_bf16(PL_MATMUL_ARGS)
{
    const int pairs = (w->k + 1) / 2, steps = (pairs + 15) / 16, groups = (n + GROUP - 1) / GROUP, few = groups <= 1;
    const int block = few || steps < BF16_BLOCK ? steps : BF16_BLOCK; /* steps at once */
    const int room = BF16_ROWS_BYTES / (64 * GROUP * block), most = room > 1 ? room : 1;
    const int blocks = (groups + most - 1) / most, each = n ? GROUP * ((groups + blocks - 1) / blocks) : 1;
    part p = {.w = w,
              .whole = pairs / 16,
              .row_bytes = 4 * (ptrdiff_t)pairs,
              .y_stride = y_stride,
              .scratch = x->scratch,
              .ahead = few ? BF16_AHEAD : 0};
    for (int i0 = 0; i0 < n; i0 += each) {
        const int i1 = n - i0 < each ? n : i0 + each, met = (i1 - i0 + GROUP - 1) / GROUP;
        int config = 0;
        p.lines = few ? 0 : (16 + met - 1) / met;
        for (p.from = 0; p.from < steps; p.from = p.to) {
            p.to = steps - p.from < block ? steps : p.from + block;
            for (int t = tile0, T; t < tile1; t += T) {
                T = tile1 - t > 1 ? 2 : 1;
                p.t = t;
                p.next = w->data + (t + T) * w->tile_bytes + 1024 * (ptrdiff_t)p.from;
                for (int i = i0; i < i1; i += GROUP) {
                    p.m = i1 - i < GROUP ? i1 - i : GROUP;
                    p.rows = (const uint8_t *)x->b + i * p.row_bytes;
                    p.y = y + i * y_stride;
                    if (config != p.m)
                        tiles_on(config = p.m);
                    multiply_any(T, &p);
                }
            }
        }
    }
    pl_tiles_off();
}

void pl_fill_matmul_bf16_amx(pl_kernels *k)
{
    k->matmul[PL_BF16] = matmul_bf16;
    k->matmul_scratch[PL_BF16] = SCRATCH;
}

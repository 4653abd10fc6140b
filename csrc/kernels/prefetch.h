/* How a product prefetches the weights that it reads from memory, tile after tile. */
#ifndef PL_KERNELS_PREFETCH_H
#define PL_KERNELS_PREFETCH_H

#include "common.h"

/* Tiles [0, tiles) at `from`, one after another. In turns: in windows of `each` tiles; while one is multiplied, the
 * next is prefetched, a line of each of its parts in turn. Intel's cores (Emerald Rapids) follow several pages of
 * memory at once and then have more requests in flight: two threads read weights of four bits at 1.3 times the speed of
 * lines in order, and at 1.1 times that of plain loads. */
typedef struct pl_reading {
    const uint8_t *from;
    ptrdiff_t tile; /* bytes; of two tiles if rows meet two at once */
    int tiles, each;
    int turns;
} pl_reading;

enum { PL_WINDOW = 16 << 10 }; /* bytes of a window, at least */

/* The lines that each block prefetches: the first block `lines` lines, `apart` bytes apart, each later block those
 * `step` bytes further on. */
typedef struct pl_ahead {
    const uint8_t *next;
    ptrdiff_t apart;
    int lines, step;
} pl_ahead;

/* Prefetches the beginning of the first window. */
PL_INLINE pl_reading pl_read(const uint8_t *from, ptrdiff_t tile, int tiles, int turns)
{
    for (ptrdiff_t at = 0; turns && at < PL_WINDOW && at < tile * tiles; at += 64)
        __builtin_prefetch(from + at, 0, 2);
    return (pl_reading){from, tile, tiles, (int)((PL_WINDOW + tile - 1) / tile), turns};
}

/* What blocks prefetch while tile t is multiplied, `bytes` each. In order: from `next` on, at most `lines` lines. */
PL_INLINE pl_ahead pl_ahead_of(const pl_reading *r, int t, int bytes, const uint8_t *next, int lines)
{
    const int all = (bytes + 63) / 64, window = (t / r->each + 1) * r->each, i = t % r->each;
    const int tiles = r->tiles - window < r->each ? r->tiles - window : r->each;
    if (!r->turns)
        return (pl_ahead){next, 64, lines < all ? lines : all, bytes};
    if (i >= tiles)
        return (pl_ahead){.next = r->from};
    return (pl_ahead){r->from + window * r->tile + i * r->tile / all, tiles * r->tile / all, all,
                      (bytes + all - 1) / all};
}

/* Prefetches for the next block. near: into the first-level cache, because it is read soon. */
PL_INLINE void pl_ask(pl_ahead *a, int near)
{
    const uint8_t *p = a->next;
#pragma GCC unroll 1
    for (int i = a->lines; i > 0; i--, p += a->apart)
        if (near)
            __builtin_prefetch(p, 0, 3);
        else
            __builtin_prefetch(p, 0, 2);
    a->next += a->step;
}

/* Likewise for plain reading: as many lines of the next window as are read at p, `at` bytes after the start. */
PL_INLINE void pl_ask_window(const char *p, size_t at, int lines)
{
    const char *window = p - at % PL_WINDOW + PL_WINDOW;
    for (int j = 0; j < lines; j++)
        __builtin_prefetch(window + 4096 * (j % 4) + at % PL_WINDOW / 4 + 64 * (j / 4), 0, 3);
}

#endif

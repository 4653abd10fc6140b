/* Matrix products of segments, divided by tiles of 16 columns. */
#include <string.h>

#include "ops.h"

void pl_product_run(const pl_run *r, const pl_segment *seg, const pl_mat *w, int first, int tile0, int tile1,
                    const pl_buf *in, int row0, int n, float *y, ptrdiff_t y_stride, int tid, int again)
{
    const pl_model_tables *m = r->m;
    int rows = m->tuning.float_bytes / (w->k * 4), tiles = (int)(m->tuning.float_bytes / w->tile_bytes);
    if (rows < PL_HEAD_ROWS)
        rows = PL_HEAD_ROWS;
    if (tiles < 1)
        tiles = 1;
    if (!w->format->is_float || pl_divides(m, w))
        rows = n;
    if (w->format->is_float && !again) /* a panel there, made for integer formats, may be of earlier rows */
        memset(r->kernel_scratch[tid], 0, 64);
    if (n <= rows)
        tiles = tile1 - tile0;
    for (int t = tile0; t < tile1; t += tiles) {
        int t1 = t + tiles < tile1 ? t + tiles : tile1;
        for (int i = 0; i < n; i += rows) {
            pl_acts x = pl_buf_acts(in, row0 + i);
            x.terms = seg->terms;
            x.scratch = r->kernel_scratch[tid];
            x.tuning = &m->tuning;
            x.again = again;
            m->kernels->matmul[w->format->id](w, t, t1, &x, i + rows < n ? rows : n - i, y + i * y_stride, y_stride);
        }
    }
    if (seg->bias < 0 && seg->row_scale < 0 && seg->scale == 1.0f)
        return;
    int from = tile0 * PL_TILE, to = tile1 * PL_TILE < w->rows ? tile1 * PL_TILE : w->rows;
    for (int i = 0; i < n; i++) {
        float *yi = y + i * y_stride + from;
        if (seg->row_scale >= 0)
            m->kernels->glu[PL_ACT_NONE](yi, m->vecs[seg->row_scale] + first + from, NULL, to - from, yi);
        if (seg->scale != 1.0f)
            m->kernels->scale(yi, seg->scale, to - from, yi);
        if (seg->bias >= 0)
            m->kernels->add(yi, m->vecs[seg->bias] + first + from, to - from, yi);
    }
}

void pl_segment_run(const pl_run *r, const pl_segment *seg, int tile0, int tile1, const pl_buf *in, int row0, int n,
                    float *y, ptrdiff_t y_stride, int tid, int again)
{
    pl_product_run(r, seg, &r->m->mats[seg->mat], 0, tile0, tile1, in, row0, n, y + seg->column, y_stride, tid, again);
}

pl_products pl_products_at(const pl_run *r, const pl_buf *b, int row, int n, int c0, int c1, int i, int tid)
{
    const int stride = (c1 - c0 + PL_TILE - 1) / PL_TILE * PL_TILE;
    if (r->watched || r->n_rows <= PL_FEW_ROWS || (int64_t)n * stride > PL_PRODUCTS)
        return (pl_products){b->f + (size_t)row * b->dim, b->dim};
    return (pl_products){r->products[tid] + i * PL_PRODUCTS - c0, stride};
}

int pl_segment_tiles(const pl_model_tables *m, const pl_segment *seg)
{
    return (m->mats[seg->mat].rows + PL_TILE - 1) / PL_TILE;
}

/* Half instructions of a row with a block. With vectors, eight instructions per term and three per scale; a tile
 * register adds up while vectors scale, and a second term adds half of the latter. Measured with AVX-512 and AMX: two
 * terms of Q4_0 take 1.8 and 1.5 times as long as one, of Q4_1 with tiles 1.3; with tiles, Q6_K takes 1.9 times as long
 * as Q4_0. */
static int steps_of(const pl_run *r, const pl_segment *seg)
{
    const pl_format *format = r->m->mats[seg->mat].format;
    const pl_shape *f = &format->shape;
    const int by_tiles = r->m->kernels->tile_rows && r->n_rows >= r->m->kernels->tile_rows;
    if (format->is_float)
        return 22;
    const int scales = f->scaled ? 1 : PL_BLOCK / f->group, mins = f->has_min ? PL_BLOCK / f->group : 0;
    return 6 * scales + 2 * mins + (by_tiles ? 3 * scales * (seg->terms - 1) : 16 * seg->terms);
}

/* Work of a tile: reading it or computing with it, whichever takes longer. */
static int64_t work_of(const pl_run *r, const pl_segment *seg)
{
    const pl_mat *w = &r->m->mats[seg->mat];
    const int64_t four_bits = PL_TILE / 2 * (int64_t)w->k;
    const int64_t reading = 22 * r->m->tuning.few_rows * w->tile_bytes;
    const int64_t computing = steps_of(r, seg) * r->n_rows * four_bits;
    return reading > computing ? reading : computing;
}

/* Tiles of all matrices of a segment's stack. */
static int stack_tiles(const pl_model_tables *m, const pl_segment *seg)
{
    return pl_segment_tiles(m, seg) * m->stacks[seg->mat];
}

/* Most rows that meet the segment at once: if the kernel divides them, as many as it lays out at once with a k of
 * 2048, so that the next tiles meet the same ones. */
static int most_rows(const pl_run *r, const pl_segment *seg)
{
    return pl_divides(r->m, &r->m->mats[seg->mat]) ? 256 : r->m->tuning.step_rows;
}

int pl_divides_rows(const pl_run *r, const pl_op *op)
{
    const int segments = pl_op_table[op->kind].segments;
    const int n = r->n_rows, size = pl_team_size(r->team), most = r->m->tuning.step_rows;
    if (op->kind == PL_OP_ATTEND)
        return r->own_keys;
    if (segments != PL_SEGS_SIDE_BY_SIDE && segments != PL_SEGS_WHOLE)
        return 0;
    if (size == 1 || n / size < most / 4 || n / size < (n < most ? n : most) / 2)
        return 0;
    int64_t bytes = 0;
    int more = 0; /* are more weights read than by tiles? */
    for (int i = 0; i < op->n_seg; i++) {
        const pl_segment *seg = &r->m->segs[op->seg + i];
        const int step = most_rows(r, seg), all = size * step;
        bytes += stack_tiles(r->m, seg) * r->m->mats[seg->mat].tile_bytes;
        more |= size * ((n + all - 1) / all) > (n + step - 1) / step;
    }
    return !more || bytes <= r->m->tuning.rows_bytes;
}

void pl_product_rows(const pl_run *r, const pl_op *op, int tid, int *from, int *to)
{
    *from = 0;
    *to = r->n_rows;
    if (pl_divides_rows(r, op))
        pl_my_rows(r, tid, from, to);
}

int pl_rows_at_once(const pl_run *r, const pl_op *op, const pl_segment *seg, int left)
{
    int most = most_rows(r, seg);
    if (pl_divides_rows(r, op)) { /* whole registers of tiles */
        const int steps = (left + most - 1) / most, each = ((left + steps - 1) / steps + 15) / 16 * 16;
        most = each < most ? each : most;
    }
    return left < most ? left : most;
}

void pl_my_tiles(const pl_run *r, const pl_op *op, int s, int tid, int *from, int *to)
{
    const int size = pl_team_size(r->team);
    const int beside = pl_op_table[op->kind].segments == PL_SEGS_SIDE_BY_SIDE;
    const pl_segment *own = &r->m->segs[op->seg + s];
    const int n = beside ? stack_tiles(r->m, own) : pl_segment_tiles(r->m, own);
    int64_t before = 0, total = 0, work = 1, a, b;
    *from = 0;
    *to = n;
    if (pl_divides_rows(r, op))
        return;
    if (beside) {
        for (int i = 0; i < op->n_seg; i++) {
            const pl_segment *seg = &r->m->segs[op->seg + i];
            if (i == s)
                before = total, work = work_of(r, seg);
            total += work_of(r, seg) * stack_tiles(r->m, seg);
        }
        pl_share(total, 1, tid, size, &a, &b);
        /* a tile belongs to the thread to which its first unit of work belongs */
        a = a > before ? (a - before + work - 1) / work : 0;
        b = b > before ? (b - before + work - 1) / work : 0;
    } else {
        pl_share(n, pl_finishes(r, op) ? 2 : 1, tid, size, &a, &b); /* 2: whole blocks of 32 to quantise */
    }
    *from = (int)(a < n ? a : n);
    *to = (int)(b < n ? b : n);
}

void pl_op_prefetch(const pl_run *r, const pl_op *op, int tid)
{
    const pl_op_desc *d = &pl_op_table[op->kind];
    if (!d->multiplies || d->segments == PL_SEGS_EXPERTS) /* which experts is not known yet */
        return;
    int segs = d->segments == PL_SEGS_SIDE_BY_SIDE ? op->n_seg : op->n_seg > 0; /* an encoder's head has none */
    for (int s = 0; s < segs; s++) {
        const pl_segment *seg = &r->m->segs[op->seg + s];
        int from, to;
        pl_my_tiles(r, op, s, tid, &from, &to);
        if (from == to) /* no tiles in this segment */
            continue;
        const pl_mat *w = &r->m->mats[seg->mat];
        const uint8_t *p = w->data + from * w->tile_bytes;
        for (int64_t i = 0; i < r->m->tuning.barrier_bytes && i < (to - from) * w->tile_bytes; i += 64)
            __builtin_prefetch(p + i, 0, 2);
        return;
    }
}

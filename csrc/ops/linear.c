/* Linear, linear into the residual stream, and the gated unit: matrix products shared out by tiles of 16 columns. */
#include "ops.h"

/* Weights and activations of one block of a large product on float weights: both stay in the second-level cache (1 MB on
 * the machines of interest, 256 KB on small ones) while every pair of them is multiplied. Kernels of quantised weights lay
 * activations out anew in every call, so they get all of a product and divide it themselves. */
#define BLOCK_BYTES (192 << 10)

void pl_segment_run(const pl_model_tables *m, const pl_segment *seg, int tile0, int tile1, const pl_buf *in, int row0,
                    int n, float *y, ptrdiff_t y_stride)
{
    const pl_mat *w = &m->mats[seg->mat];
    int rows = BLOCK_BYTES / (w->k * 4), tiles = (int)(BLOCK_BYTES / w->tile_bytes);
    if (rows < PL_HEAD_ROWS)
        rows = PL_HEAD_ROWS;
    if (tiles < 1)
        tiles = 1;
    if (!(w->format->flags & PL_FLOAT))
        rows = n;
    if (n <= rows)
        tiles = tile1 - tile0;
    for (int t = tile0; t < tile1; t += tiles) {
        int t1 = t + tiles < tile1 ? t + tiles : tile1;
        for (int i = 0; i < n; i += rows) {
            pl_acts x = pl_buf_acts(in, row0 + i);
            x.terms = seg->terms;
            m->kernels->matmul[w->format->id](w, t, t1, &x, i + rows < n ? rows : n - i, y + i * y_stride + seg->column,
                                              y_stride);
        }
    }
    if (seg->bias < 0)
        return;
    int from = tile0 * PL_TILE, to = tile1 * PL_TILE < w->rows ? tile1 * PL_TILE : w->rows;
    for (int i = 0; i < n; i++) {
        float *yi = y + i * y_stride + seg->column + from;
        m->kernels->add(yi, m->vecs[seg->bias] + from, to - from, yi);
    }
}

static int tiles_of(const pl_model_tables *m, const pl_segment *seg)
{
    return (m->mats[seg->mat].rows + PL_TILE - 1) / PL_TILE;
}

/* Up to so many rows a product waits for memory, and takes as long with two terms as with one: tiles count alike. Beyond
 * it computing counts, so that a thread with keys and values in two terms gets fewer tiles than one with queries. */
#define FEW_ROWS 4

/* Of a tile, in fifths of one with one term: a second one takes four of them more (Q4_0 and Q8_0, 512 rows: 0.76 of the
 * int8 peak with one term, 0.85 with two). */
static int work_of(const pl_run *r, const pl_segment *seg)
{
    const int computing = r->n_rows > FEW_ROWS && !(r->m->mats[seg->mat].format->flags & PL_FLOAT);
    return computing && seg->terms == 2 ? 9 : 5;
}

/* This thread's tiles [*from, *to) of segment s. A linear's segments are shared out together; other operations have one, or
 * two with the same tiles. */
static void my_tiles(const pl_run *r, const pl_op *op, int s, int tid, int *from, int *to)
{
    const int size = pl_team_size(r->team), n = tiles_of(r->m, &r->m->segs[op->seg + s]);
    int64_t before = 0, total = 0, work = 1, a, b;
    if (op->kind == PL_OP_LINEAR) {
        for (int i = 0; i < op->n_seg; i++) {
            const pl_segment *seg = &r->m->segs[op->seg + i];
            if (i == s)
                before = total, work = work_of(r, seg);
            total += (int64_t)work_of(r, seg) * tiles_of(r->m, seg);
        }
        pl_share(total, 1, tid, size, &a, &b);
        /* a tile is the thread's that its first unit of work belongs to */
        a = a > before ? (a - before + work - 1) / work : 0;
        b = b > before ? (b - before + work - 1) / work : 0;
    } else {
        pl_share(n, op->kind == PL_OP_GLU ? 2 : 1, tid, size, &a, &b); /* 2: whole blocks of 32 to quantise */
    }
    *from = (int)(a < n ? a : n);
    *to = (int)(b < n ? b : n);
}

/* What the hardware's own prefetching needs to get going, and no more than the second-level cache can keep. */
#define PREFETCH_BYTES 8192

void pl_op_prefetch(const pl_run *r, const pl_op *op, int tid)
{
    if (op->kind == PL_OP_EMBED || !op->n_seg)
        return;
    int segs = op->kind == PL_OP_LINEAR ? op->n_seg : 1;
    for (int s = 0; s < segs; s++) {
        const pl_segment *seg = &r->m->segs[op->seg + s];
        int from, to;
        my_tiles(r, op, s, tid, &from, &to);
        if (from == to) /* nothing of this segment */
            continue;
        const pl_mat *w = &r->m->mats[seg->mat];
        const uint8_t *p = w->data + from * w->tile_bytes;
        for (int64_t i = 0; i < PREFETCH_BYTES && i < (to - from) * w->tile_bytes; i += 64)
            __builtin_prefetch(p + i, 0, 2);
        return;
    }
}

void pl_op_linear(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    for (int s = 0; s < op->n_seg; s++) {
        int from, to;
        my_tiles(r, op, s, tid, &from, &to);
        if (from < to)
            pl_segment_run(m, &m->segs[op->seg + s], from, to, in, 0, r->n_rows, out->f, out->dim);
    }
    if (out->forms) {
        int64_t from, to;
        pl_team_barrier(r->team);
        pl_share(r->n_rows, 1, tid, pl_team_size(r->team), &from, &to);
        for (int64_t i = from; i < to; i++)
            pl_buf_finish(m->kernels, out, (int)i, 0, out->dim);
    }
}

/* Rows whose products are used again at once: so many that weights are read from memory seldom, so few that the products
 * of 32 tiles are still in the second-level cache. */
#define ROWS_AT_ONCE 96

static int next_rows(const pl_run *r, int row)
{
    return r->n_rows - row < ROWS_AT_ONCE ? r->n_rows - row : ROWS_AT_ONCE;
}

void pl_op_linear_add(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_kernels *k = m->kernels;
    const pl_buf *tmp = &m->bufs[op->tmp], *out = &m->bufs[op->out];
    const pl_segment *seg = &m->segs[op->seg];
    int dim = out->dim;
    int first, end;
    my_tiles(r, op, 0, tid, &first, &end);
    for (int row = 0, n; row < r->n_rows && first < end; row += n) {
        n = next_rows(r, row);
        pl_segment_run(m, seg, first, end, &m->bufs[op->in], row, n, tmp->f + (size_t)row * dim, dim);
        int c0 = first * PL_TILE, c1 = end * PL_TILE < dim ? end * PL_TILE : dim;
        for (int i = row; i < row + n && op->vec < 0; i++)
            k->add(out->f + (size_t)i * dim + c0, tmp->f + (size_t)i * dim + c0, c1 - c0,
                   out->f + (size_t)i * dim + c0);
    }
    if (op->vec < 0)
        return;
    int64_t from, to;
    pl_team_barrier(r->team); /* a norm needs the whole row */
    pl_share(r->n_rows, 1, tid, pl_team_size(r->team), &from, &to);
    for (int64_t i = from; i < to; i++) {
        float *t = tmp->f + (size_t)i * dim, *x = out->f + (size_t)i * dim;
        k->rms_norm(t, m->vecs[op->vec], dim, op->eps, t);
        k->add(x, t, dim, x);
    }
}

void pl_op_glu(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_kernels *k = m->kernels;
    const pl_buf *in = &m->bufs[op->in], *up = &m->bufs[op->tmp], *out = &m->bufs[op->out];
    const pl_segment *seg = &m->segs[op->seg];
    /* Tiles at once: the columns of both halves are still cached when they are multiplied; few rows take all. */
    int dim = out->dim, step = r->n_rows <= 16 ? tiles_of(m, seg) : 32;
    int from, to;
    my_tiles(r, op, 0, tid, &from, &to);
    for (int row = 0, n; row < r->n_rows; row += n) {
        n = next_rows(r, row);
        for (int t = from; t < to; t += step) {
            int t1 = t + step < to ? t + step : to;
            int c0 = t * PL_TILE, c1 = t1 * PL_TILE < dim ? t1 * PL_TILE : dim;
            float *gate = out->f + (size_t)row * dim;
            const float *other = up->f + (size_t)row * dim;
            pl_segment_run(m, &seg[0], t, t1, in, row, n, gate, dim);
            pl_segment_run(m, &seg[1], t, t1, in, row, n, up->f + (size_t)row * dim, dim);
            for (int i = 0; i < n; i++) {
                float *g = gate + (size_t)i * dim + c0;
                k->glu[op->act](g, other + (size_t)i * dim + c0, c1 - c0, g);
                pl_buf_finish(k, out, row + i, c0, c1);
            }
        }
    }
}

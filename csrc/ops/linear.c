/* Matrix products whose outputs lie side by side, also those of heads: stacks of matrices, each with its own
 * columns. */
#include <string.h>

#include "ops.h"

enum { MOST_SEGMENTS = 32 /* of an operation with stacks */ };

/* ---- what does not fit ------------------------------------------------------------------------------------------- */

static const char *check_segment(const pl_plan *p, const pl_op *op, const pl_segment *s)
{
    const pl_mat_desc *m = &p->mats[s->mat];
    if (s->in != -1 && (!pl_inside(s->in, p->n_bufs) || s->in == op->out))
        return "a segment's input";
    int in = p->buf_dim[pl_segment_in(op, s)];
    if (m->k != in && (int64_t)m->k * m->stack != in)
        return "a matrix's columns";
    return m->stack == 1 ? (s->step == 0 ? NULL : "a segment's step") : s->step >= m->rows ? NULL : "a segment's step";
}

/* The matrices of all segments cover the columns of `out` once: walked from left to right, each begins where another
 * ends. */
const char *pl_check_linear(const pl_plan *p, const pl_op *op)
{
    int done[MOST_SEGMENTS] = {0}, column = 0, out = p->buf_dim[op->out];
    if (op->n_seg > MOST_SEGMENTS)
        return "its list of segments";
    for (int s = 0; s < op->n_seg; s++) {
        const char *wrong = check_segment(p, op, &p->segs[op->seg + s]);
        if (wrong)
            return wrong;
    }
    for (int s = 0, left = 0; s < op->n_seg; s++) {
        const pl_segment *seg = &p->segs[op->seg + s];
        const pl_mat_desc *m = &p->mats[seg->mat];
        left |= done[s] < m->stack;
        if (done[s] < m->stack && seg->column + (int64_t)done[s] * seg->step == column) {
            if (m->rows > out - column)
                return "a segment's columns";
            column += m->rows;
            done[s]++;
            left = 0;
            s = -1; /* look for the next from the first segment on */
        } else if (s == op->n_seg - 1 && left) {
            return "a segment's columns";
        }
    }
    return column == out ? NULL : "its segments' columns";
}

/* ---- the operation ----------------------------------------------------------------------------------------------- */

/* Whether products are written to `out` directly, as those of gathered rows are; else they wait in the thread's memory
 * until a step has all its products. */
static int direct(const pl_run *r, const pl_buf *in, const pl_mat *w)
{
    return r->n_rows <= PL_FEW_ROWS || w->format->is_float || in->dim != w->k;
}

/* Tiles [from, to) of w, for n rows from `row` on, to y (row, column 0). */
static void product(const pl_run *r, const pl_segment *seg, const pl_mat *w, int first, const pl_buf *in, int from,
                    int to, int row, int n, float *y, int stride, int tid, int again)
{
    if (direct(r, in, w)) {
        pl_product_run(r, seg, w, first, from, to, in, row, n, y, stride, tid, again);
        return;
    }
    const int step = pl_tiles_or_all(r, w, n, to - from);
    for (int t = from; t < to; t += step) {
        const int t1 = t + step < to ? t + step : to;
        const int c0 = t * PL_TILE, c1 = t1 * PL_TILE < w->rows ? t1 * PL_TILE : w->rows;
        const pl_buf place = {.f = y, .dim = stride};
        const pl_products made = pl_products_at(r, &place, 0, n, c0, c1, 0, tid);
        pl_product_run(r, seg, w, first, t, t1, in, row, n, made.y, made.stride, tid, again || t > from);
        for (int i = 0; i < n && made.y != y; i++)
            memcpy(y + (size_t)i * stride + c0, made.y + i * made.stride + c0, sizeof(float) * (size_t)(c1 - c0));
    }
}

/* Matrix e of a stack likewise. */
static void head(const pl_run *r, const pl_segment *seg, const pl_buf *in, int e, int from, int to, int row, int n,
                 const pl_buf *out, int tid, int again)
{
    const pl_mat *stack = &r->m->mats[seg->mat], w = pl_mat_part(stack, e);
    float *y = out->f + (size_t)row * out->dim + seg->column + (ptrdiff_t)e * seg->step;
    if (in->dim == w.k) {
        product(r, seg, &w, e * w.rows, in, from, to, row, n, y, out->dim, tid, again);
        return;
    }
    pl_buf rows;
    for (int i = 0, some; i < n; i += some) {
        some = n - i < PL_GATHERED ? n - i : PL_GATHERED;
        pl_gather_begin(&rows, r->gathered[tid], in, w.k, pl_format_form(w.format), some);
        for (int j = 0; j < some; j++)
            pl_gather_row(&rows, in, row + i + j, e * w.k, j, !pl_format_form(w.format));
        pl_product_run(r, seg, &w, e * w.rows, from, to, &rows, 0, some, y + (ptrdiff_t)i * out->dim, out->dim, tid, 0);
    }
}

/* How many of the `left` rows all segments multiply before the next ones; all, if any segment writes to `out`
 * directly. */
static int rows_at_once(const pl_run *r, const pl_op *op, int left)
{
    int n = left;
    for (int s = 0; s < op->n_seg; s++) {
        const pl_segment *seg = &r->m->segs[op->seg + s];
        if (direct(r, &r->m->bufs[pl_segment_in(op, seg)], &r->m->mats[seg->mat]))
            return left;
        n = pl_rows_at_once(r, op, seg, left);
    }
    return n;
}

void pl_op_linear(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *out = &m->bufs[op->out];
    int from, to, row, rows_end, forms = pl_finishes(r, op);
    pl_product_rows(r, op, tid, &row, &rows_end);
    for (int n; row < rows_end; row += n) {
        const pl_buf *last = NULL;
        n = rows_at_once(r, op, rows_end - row);
        for (int s = 0; s < op->n_seg; s++) {
            const pl_segment *seg = &m->segs[op->seg + s];
            const pl_buf *in = &m->bufs[pl_segment_in(op, seg)];
            int tiles = pl_segment_tiles(m, seg);
            pl_my_tiles(r, op, s, tid, &from, &to);
            for (int t = from, end; t < to; t = end) {
                end = (t / tiles + 1) * tiles < to ? (t / tiles + 1) * tiles : to;
                head(r, seg, in, t / tiles, t % tiles, t % tiles + end - t, row, n, out, tid, last == in);
                last = in->dim == m->mats[seg->mat].k ? in : NULL;
            }
        }
    }
    if (forms) {
        if (!pl_divides_rows(r, op))
            pl_team_barrier(r->team);
        pl_my_rows(r, tid, &from, &to);
        for (int i = from; i < to; i++)
            pl_buf_finish(m->kernels, out, forms, i, 0, out->dim);
    }
}

/* Mixture of experts: products in which each row meets only the matrices of its own experts.
 *
 * Every thread makes the same list of the rows of each expert and walks the experts in ascending order. The rows of an
 * expert are gathered, so that a kernel sees them side by side; a thread reads its part of an expert's matrix in one
 * piece. The sum over a row's experts is taken in ascending order of their numbers, whatever other rows there are. */
#include <string.h>

#include "ops.h"

enum {
    FEW = 16,               /* up to this many rows of an expert, a piece is one step */
    STEP = 16 * PL_TILE,    /* columns of a step otherwise: gate and up of PL_GATHERED rows fit into the second cache */
    COLUMNS = 64 * PL_TILE, /* columns of a step of few rows */
    LEAST_WORK = 4          /* reading a tile from memory takes as long as multiplying it by this many rows */
};

/* ---- what does not fit ------------------------------------------------------------------------------------------- */

static int shaped(const pl_plan *p, const pl_op *op, int rows, int k)
{
    for (int s = op->seg; s < op->seg + op->n_seg; s++) {
        const pl_mat_desc *m = &p->mats[p->segs[s].mat];
        if (m->rows != rows || m->k != k || p->segs[s].column != 0 || m->stack != p->mats[p->segs[op->seg].mat].stack)
            return 0;
    }
    return 1;
}

static const char *check(const pl_plan *p, const pl_op *op, int rows, int k)
{
    if (op->tmp == op->in || op->tmp == op->out || op->top_k < 1 || p->buf_dim[op->tmp] != 2 * op->top_k)
        return "its route";
    return shaped(p, op, rows, k) ? NULL : "a matrix's shape";
}

const char *pl_check_experts(const pl_plan *p, const pl_op *op)
{
    if (op->top_k < 1 || p->buf_dim[op->out] % op->top_k)
        return "its output's width";
    const char *wrong = check(p, op, p->buf_dim[op->out] / op->top_k, p->buf_dim[op->in]);
    return wrong ? wrong : pl_check_glu(p, op);
}

const char *pl_check_experts_add(const pl_plan *p, const pl_op *op)
{
    if (op->top_k < 1 || p->buf_dim[op->in] % op->top_k)
        return "its input's width";
    return check(p, op, p->buf_dim[op->out], p->buf_dim[op->in] / op->top_k);
}

/* ---- memory of a thread ------------------------------------------------------------------------------------------ */

/* A place of a row: its expert number `slot`, in ascending order. */
typedef struct place {
    int32_t row, slot;
} place;

struct pl_expert_room {
    int32_t *first; /* (experts + 1): each expert's first place */
    place *places;  /* (rows, top_k), by expert, rows ascending */
    pl_buf rows;    /* gathered; `dim`, `forms` and `stored` are set for each operation */
    float *y[2];    /* products */
};

static int least(int a, int b)
{
    return a < b ? a : b;
}

size_t pl_experts_layout(const pl_plan *p, int max_rows, struct pl_expert_room **room, void *base)
{
    size_t at = 0, experts = 0, top_k = 0;
    int n = least(max_rows, PL_GATHERED);
    for (int i = 0; i < p->n_ops; i++) {
        const pl_op *op = &p->ops[i];
        if (!pl_op_table[op->kind].routed)
            continue;
        const pl_mat_desc *mat = &p->mats[p->segs[op->seg].mat];
        experts = (size_t)mat->stack > experts ? (size_t)mat->stack : experts;
        top_k = (size_t)op->top_k > top_k ? (size_t)op->top_k : top_k;
    }
    if (!experts)
        return 0;
    struct pl_expert_room *made = pl_cut(base, &at, sizeof *made), none;
    made = made ? made : &none;
    made->first = pl_cut(base, &at, (experts + 2) * sizeof *made->first);
    made->places = pl_cut(base, &at, (size_t)max_rows * top_k * sizeof *made->places);
    size_t few = (size_t)least(n, FEW) * COLUMNS, many = (size_t)n * STEP;
    for (int i = 0; i < 2; i++)
        made->y[i] = pl_cut(base, &at, (few > many ? few : many) * sizeof(float));
    if (base)
        *room = made;
    return at;
}

/* ---- the list, and gathered rows --------------------------------------------------------------------------------- */

/* The expert in a place of a route; -1 if there is none (an inspection may have written anything). */
static int expert_at(const pl_buf *route, int top_k, int stack, int row, int slot)
{
    float e = route->f[(size_t)row * 2 * top_k + slot];
    return e >= 0.0f && e < (float)stack ? (int)e : -1;
}

/* A counting sort of all places by expert. */
static struct pl_expert_room *list(const pl_run *r, const pl_op *op, int stack, int tid)
{
    struct pl_expert_room *room = r->expert_room[tid];
    const pl_buf *route = &r->m->bufs[op->tmp];
    int32_t *first = room->first;
    memset(first, 0, sizeof *first * (size_t)(stack + 2));
    for (int row = 0; row < r->n_rows; row++)
        for (int slot = 0; slot < op->top_k; slot++)
            first[expert_at(route, op->top_k, stack, row, slot) + 2]++; /* places without an expert: first[1] */
    first[1] = 0;
    for (int e = 0; e < stack; e++)
        first[e + 2] += first[e + 1];
    for (int row = 0; row < r->n_rows; row++) /* first[e + 1] runs from e's first place to the next expert's */
        for (int slot = 0; slot < op->top_k; slot++) {
            int e = expert_at(route, op->top_k, stack, row, slot);
            if (e >= 0)
                room->places[first[e + 1]++] = (place){row, slot};
        }
    return room;
}

/* The forms in which an operation's matrices read their rows; FLOATS: float32 as well. */
enum { FLOATS = 1 << 8 };

static int forms_of(const pl_run *r, const pl_op *op)
{
    int forms = 0;
    for (int s = op->seg; s < op->seg + op->n_seg; s++) {
        int form = pl_format_form(r->m->mats[r->m->segs[s].mat].format);
        forms |= form ? form : FLOATS;
    }
    return forms;
}

/* The rows of n places, `k` columns each: those from 0 on or, each: 1, those of its slot. */
static void gather(const pl_run *r, struct pl_expert_room *room, const pl_buf *in, int k, int each, int forms,
                   const place *at, int n, int tid)
{
    pl_gather_begin(&room->rows, r->gathered[tid], in, k, forms & ~FLOATS, n);
    for (int i = 0; i < n; i++)
        pl_gather_row(&room->rows, in, at[i].row, each ? at[i].slot * k : 0, i, forms & FLOATS);
}

static int same_rows(const place *a, const place *b, int n)
{
    for (int i = 0; i < n; i++)
        if (a[i].row != b[i].row)
            return 0;
    return 1;
}

/* y (n, stride): the gathered rows by tiles [t, t1) of expert e's matrix of a segment, + its bias. */
static void product(const pl_run *r, const pl_segment *seg, int e, int t, int t1, const pl_buf *rows, int n, float *y,
                    ptrdiff_t stride, int tid, int again)
{
    const pl_mat w = pl_mat_part(&r->m->mats[seg->mat], e);
    pl_product_run(r, seg, &w, e * w.rows, t, t1, rows, 0, n, y - t * PL_TILE, stride, tid, again);
}

static void prefetch(const pl_run *r, const pl_segment *seg, int e, int tile)
{
    const pl_mat w = pl_mat_part(&r->m->mats[seg->mat], e);
    const uint8_t *p = w.data + tile * w.tile_bytes;
    for (int64_t i = 0; i < r->m->tuning.barrier_bytes && i < w.tile_bytes; i += 64)
        __builtin_prefetch(p + i, 0, 2);
}

static int columns_at_once(int n)
{
    return n <= FEW ? COLUMNS : STEP;
}

/* ---- the operations ---------------------------------------------------------------------------------------------- */

/* Tiles [*from, *to) of `tiles` of an expert that are this thread's: of all pairs of tiles of all experts, weighted by
 * their rows, it has a contiguous share [a, b). before: the work of earlier experts; advanced. */
static void my_part(int64_t a, int64_t b, int rows, int tiles, int64_t *before, int *from, int *to)
{
    int64_t cost = rows < LEAST_WORK ? LEAST_WORK : rows, pairs = (tiles + 1) / 2;
    int64_t first = a > *before ? (a - *before + cost - 1) / cost : 0;
    int64_t end = b > *before ? (b - *before + cost - 1) / cost : 0;
    *from = (int)(2 * first < tiles ? 2 * first : tiles);
    *to = (int)(2 * end < tiles ? 2 * end : tiles);
    *before += pairs * cost;
}

/* Places [at, at + n) of expert e through tiles [from, to) of gate and up, or of the one matrix. */
static void gated(const pl_run *r, const pl_op *op, struct pl_expert_room *room, int e, const place *at, int n,
                  int from, int to, int tid, int again)
{
    const pl_model_tables *m = r->m;
    const pl_segment *seg = &m->segs[op->seg];
    const pl_buf *out = &m->bufs[op->out];
    int ff = out->dim / op->top_k, step = columns_at_once(n) / PL_TILE, forms = pl_finishes(r, op);
    for (int t = from; t < to; t += step) {
        int t1 = least(t + step, to), c0 = t * PL_TILE, width = least(t1 * PL_TILE, ff) - c0;
        for (int s = 0; s < op->n_seg; s++)
            product(r, &seg[s], e, t, t1, &room->rows, n, room->y[s], width, tid, again || s || t > from);
        for (int i = 0; i < n; i++) {
            int c = at[i].slot * ff + c0;
            pl_act_row(m, op, room->y[0] + (size_t)i * width, op->n_seg == 2 ? room->y[1] + (size_t)i * width : NULL,
                       width, out->f + (size_t)at[i].row * out->dim + c);
            pl_buf_finish(m->kernels, out, forms, at[i].row, c, c + width);
        }
    }
}

void pl_op_experts(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_segment *seg = &m->segs[op->seg];
    const int stack = m->stacks[seg->mat];
    const pl_buf *in = &m->bufs[op->in];
    struct pl_expert_room *room = list(r, op, stack, tid);
    int tiles = pl_segment_tiles(m, seg), from, to, forms = forms_of(r, op);
    int64_t work = 0, before = 0, a, b;
    for (int e = 0; e < stack; e++)
        if (room->first[e + 1] > room->first[e])
            my_part(0, 0, room->first[e + 1] - room->first[e], tiles, &work, &from, &to);
    pl_share(work, 1, tid, pl_team_size(r->team), &a, &b);
    const place *last = NULL;
    int n_last = 0;
    for (int e = 0; e < stack; e++) {
        int n = room->first[e + 1] - room->first[e];
        if (!n)
            continue;
        my_part(a, b, n, tiles, &before, &from, &to);
        if (from == to)
            continue;
        prefetch(r, &seg[op->n_seg - 1], e, from);
        for (int i = 0; i < n; i += PL_GATHERED) {
            const place *at = room->places + room->first[e] + i;
            int count = least(n - i, PL_GATHERED), again = last && n_last == count && same_rows(at, last, count);
            if (!again)
                gather(r, room, in, in->dim, 0, forms, at, count, tid);
            gated(r, op, room, e, at, count, from, to, tid, again);
            last = at, n_last = count;
        }
    }
}

/* Adds scale * weight * (the product + bias) of tiles [from, to) of expert e to the rows of n places. */
static void add_weighted(const pl_run *r, const pl_op *op, struct pl_expert_room *room, int e, const place *at, int n,
                         int from, int to, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *out = &m->bufs[op->out], *route = &m->bufs[op->tmp];
    int step = columns_at_once(n) / PL_TILE;
    for (int t = from; t < to; t += step) {
        int t1 = least(t + step, to), c = t * PL_TILE, width = least(t1 * PL_TILE, out->dim) - c;
        product(r, &m->segs[op->seg], e, t, t1, &room->rows, n, room->y[0], width, tid, t > from);
        for (int i = 0; i < n; i++) {
            float *y = room->y[0] + (size_t)i * width, *x = out->f + (size_t)at[i].row * out->dim + c;
            float weight = route->f[(size_t)at[i].row * route->dim + op->top_k + at[i].slot];
            m->kernels->scale(y, weight * op->scale, width, y);
            m->kernels->add(x, y, width, x);
        }
    }
}

void pl_op_experts_add(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_segment *seg = &m->segs[op->seg];
    const int stack = m->stacks[seg->mat];
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    struct pl_expert_room *room = list(r, op, stack, tid);
    int from, to, forms = forms_of(r, op), finish = pl_finishes(r, op);
    pl_my_tiles(r, op, 0, tid, &from, &to);
    if (from == to)
        return;
    for (int row = 0, c = from * PL_TILE; op->flags & PL_FRESH && row < r->n_rows; row++)
        memset(out->f + (size_t)row * out->dim + c, 0, sizeof(float) * (size_t)(least(to * PL_TILE, out->dim) - c));
    for (int e = 0; e < stack; e++) {
        const place *at = room->places + room->first[e];
        for (int i = 0, count, n = room->first[e + 1] - room->first[e]; i < n; i += count) {
            count = least(n - i, PL_GATHERED);
            gather(r, room, in, m->mats[seg->mat].k, 1, forms, at + i, count, tid);
            add_weighted(r, op, room, e, at + i, count, from, to, tid);
        }
    }
    for (int row = 0; row < r->n_rows; row++)
        pl_buf_finish(m->kernels, out, finish, row, from * PL_TILE, least(to * PL_TILE, out->dim));
}

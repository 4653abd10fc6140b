/* Reads the weights and packs them: one job of the team, in which each thread packs the tiles that it will multiply. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

#include "../cpu/arena.h"
#include "../cpu/file.h"

/* File bytes that a thread reads and packs at a time (one tile of rows if that is more): few enough to stay in the
 * second-level cache between reading and packing. */
#define SLICE_BYTES ((int64_t)1 << 20)

typedef struct body {
    uint8_t *room; /* (threads, slice): bytes read, not yet packed */
    size_t slice, bytes;
    int first, end;     /* the matrices */
    const uint8_t *src; /* the bytes of the first, or NULL: where the plan says */
    atomic_int failed;  /* the thread that sets it first fills in the fields below */
    int mat, part, why; /* why: errno; 0: the file has ended */
    int64_t offset;
} body;

/* Rows of a matrix read at a time. */
static int64_t slice_rows(const pl_mat *w)
{
    int64_t tiles = SLICE_BYTES / (pl_row_bytes(w->format, w->k) * PL_TILE);
    return (tiles < 1 ? 1 : tiles) * PL_TILE;
}

static int64_t at_least_0(int64_t n)
{
    return n < 0 ? 0 : n;
}

static int fetch(body *b, int mat, int part, int fd, uint8_t *dst, int64_t n, int64_t offset)
{
    int64_t got = pl_file_read(fd, dst, (size_t)n, offset);
    if (got == n)
        return 0;
    if (!atomic_exchange(&b->failed, 1)) {
        b->mat = mat;
        b->part = part;
        b->why = got < 0 ? (int)-got : 0;
        b->offset = offset + at_least_0(got);
    }
    return -1;
}

/* Where matrix e of a stack is. */
static pl_source source_of(const pl_mat_desc *d, const uint8_t *src, int e, int64_t row)
{
    pl_source s = src ? (pl_source){-1, 0, src} : d->parts ? d->parts[e] : d->from;
    int64_t before = d->parts && !src ? 0 : e * d->rows * row;
    s.offset += before;
    s.src = s.src ? s.src + before : NULL;
    return s;
}

/* Reads and packs rows [r, r + n) of matrix e of a stack. */
static int pack_rows(pl_model *m, body *b, int mat, int e, int64_t r, int64_t n, int tid)
{
    const pl_mat_desc *d = &m->plan.mats[mat];
    const pl_mat whole = m->mats[mat], part = pl_mat_part(&whole, e), *w = &part;
    int64_t row = pl_row_bytes(w->format, w->k);
    const pl_source s = source_of(d, b->src, e, row);
    uint8_t *to = (uint8_t *)w->data + (d->plain ? r * row : r / PL_TILE * w->tile_bytes);
    uint8_t *room = d->plain ? to : b->room + (size_t)tid * b->slice;
    const uint8_t *from = s.src ? s.src + r * row : room;
    const int64_t bytes = d->plain ? n * row : (n + PL_TILE - 1) / PL_TILE * w->tile_bytes;
    if (bytes > 0)
        pl_settle_touch(&m->settle, to, (size_t)bytes);
    if (!s.src && fetch(b, mat, e, s.fd, room, n * row, s.offset + r * row))
        return -1;
    if (!d->plain)
        m->tables.kernels->pack[w->format->id](from, (int)n, w->k, to);
    else if (s.src)
        memcpy(to, from, (size_t)(n * row));
    return 0;
}

/* Packs this thread's rows of matrix e of a stack; 0, or -1 if packing ends early. */
static int pack_part(pl_task *task, int mat, int e, const pl_team *team, int tid)
{
    pl_model *m = task->model;
    body *b = task->body;
    const pl_mat_desc *d = &m->plan.mats[mat];
    int64_t row = pl_row_bytes(m->mats[mat].format, d->k), step = slice_rows(&m->mats[mat]), from, to;
    const pl_source s = source_of(d, b->src, e, row);
    pl_share(d->rows, PL_TILE, tid, pl_team_size(team), &from, &to); /* the same shares as in products */
    for (int64_t r = from; r < to; r += step) {
        int64_t n = r + step < to ? step : to - r;
        if (!s.src && r + n < to)
            pl_file_expect(s.fd, (size_t)(step * row), s.offset + (r + n) * row);
        if (atomic_load_explicit(&task->cancel, memory_order_relaxed) ||
            atomic_load_explicit(&b->failed, memory_order_relaxed) || pack_rows(m, b, mat, e, r, n, tid))
            return -1;
        atomic_fetch_add_explicit(&task->done, n * row, memory_order_relaxed);
    }
    return 0;
}

static void pack_job(void *arg, const pl_team *team, int tid)
{
    pl_task *task = arg;
    const pl_plan *p = &task->model->plan;
    const body *b = task->body;
    for (int i = b->first; i < b->end; i++)
        for (int e = 0; e < p->mats[i].stack; e++)
            if (pack_part(task, i, e, team, tid))
                return;
}

static pl_status pack_finish(pl_task *task, pl_error *error)
{
    body *b = task->body;
    pl_status status = PL_OK;
    if (atomic_load(&b->failed)) {
        status = pl_fail(error, PL_E_FILE, "%s", b->why ? strerror(b->why) : "the file ends here");
        error->mat = b->mat;
        error->part = b->part;
        error->offset = b->offset;
    } else if (atomic_load(&task->cancel)) {
        status = pl_fail(error, PL_E_CANCELLED, "loading was cancelled");
    }
    pl_arena_free(b->room, b->bytes);
    free(b);
    return status;
}

pl_status pl_pack_start(pl_model *m, int first, int end, const uint8_t *src, pl_task **out, pl_error *error)
{
    if (m->packed)
        return pl_fail(error, PL_E_ARGUMENT, "the weights are packed already, by another process");
    pl_task *task = calloc(1, sizeof *task);
    body *b = calloc(1, sizeof *b);
    for (int i = first; b && i < end; i++) {
        size_t slice = (size_t)(slice_rows(&m->mats[i]) * pl_row_bytes(m->mats[i].format, m->mats[i].k));
        b->slice = slice > b->slice ? slice : b->slice;
    }
    if (b) {
        b->bytes = b->slice * (size_t)m->options.threads;
        b->room = pl_arena_alloc(b->bytes, NULL);
    }
    if (!task || !b || !b->room) {
        if (b)
            pl_arena_free(b->room, b->bytes);
        free(task);
        free(b);
        return pl_fail(error, PL_E_MEMORY, "no memory for reading the weights");
    }
    b->first = first;
    b->end = end;
    b->src = src;
    *task = (pl_task){.model = m, .body = b, .finish = pack_finish};
    for (int i = first; i < end; i++)
        task->total += m->plan.mats[i].bytes;
    return pl_task_start(task, pack_job, out, error);
}

/* Runs a plan: one job of the team per forward pass, operations in order, with a barrier between two operations that
 * divide their work differently. */
#include "pass.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MASK_YIELDS = 200 }; /* before a thread that waits for masks sleeps: about 0.1 ms if nothing else runs */

/* Waits until the caller has written the masks. Returns 1, or 0 if the pass is cancelled instead. */
static int await_masks(pl_task *task)
{
    for (int i = 0; !atomic_load_explicit(&task->masks_ready, memory_order_acquire); i++) {
        if (atomic_load_explicit(&task->cancel, memory_order_relaxed))
            return 0;
        if (i < MASK_YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return 1;
}

static int consume(void *arg, int want, float *logits, int tid)
{
    pl_task *task = arg;
    pl_pass_body *b = task->body;
    pl_model *m = task->model;
    if (b->pass.late_masks && b->sample[want].mask && !await_masks(task))
        return 0;
    int wrong = pl_sample(m->tables.kernels, &b->sample[want], logits, m->plan.vocab, b->step[want],
                          m->sample_scratch[tid], &b->sampled[want]);
    return wrong == PL_SAMPLE_OPTIONS ? PL_BAD_OPTIONS : wrong ? PL_BAD_LOGITS : 0;
}

/* Copies this thread's rows of the caller's feeds into their buffers. */
static void feed(const pl_run *r, const pl_pass_body *b, int tid)
{
    int from, to;
    pl_my_rows(r, tid, &from, &to);
    for (int i = 0; i < b->pass.n_feeds; i++) {
        const pl_buf *buf = &r->m->bufs[b->feeds[i].buf];
        size_t dim = (size_t)buf->dim;
        for (int row = from; row < to; row++) {
            memcpy(buf->f + (size_t)row * dim, b->feeds[i].data + (size_t)row * dim, sizeof(float) * dim);
            pl_buf_finish(r->m->kernels, buf, buf->forms, row, 0, buf->dim);
        }
    }
}

static void tap(const pl_run *r, const pl_pass_body *b, int op)
{
    for (int i = 0; i < b->pass.n_taps; i++)
        if (b->taps[i].op == op) {
            const pl_buf *buf = &r->m->bufs[b->taps[i].buf];
            memcpy(b->taps[i].data, buf->f, sizeof(float) * (size_t)r->n_rows * buf->dim);
        }
}

/* No barrier is needed if both operations are divided by rows: each row then stays on its thread. */
static int barrier_between(const pl_run *r, const pl_op *a, const pl_op *b)
{
    const pl_op_desc *d = &pl_op_table[a->kind];
    const int ends = (a->vec >= 0 ? d->end_vec : d->end) == PL_BY_ROWS || pl_divides_rows(r, a);
    return !ends || !(pl_op_table[b->kind].start == PL_BY_ROWS || pl_divides_rows(r, b));
}

static void forward_job(void *arg, const pl_team *team, int tid)
{
    pl_task *task = arg;
    pl_pass_body *b = task->body;
    pl_run run = b->run; /* a copy per thread, read-only except for `team` */
    run.team = team;
    run.own_keys = pl_attend_by_rows(&run);
    const pl_op *ops = run.ops;
    int from = b->pass.op_from, to = b->pass.op_to, watched = b->pass.n_taps || b->pass.op_ns;
    feed(&run, b, tid);
    pl_rope_angles(&run, tid);
    pl_team_barrier(team);
    int64_t start = tid == 0 && watched ? pl_now_ns() : 0;
    for (int i = from; i < to; i++) {
        pl_op_table[ops[i].kind].run(&run, &ops[i], tid);
        if (i + 1 < to && !watched && !barrier_between(&run, &ops[i], &ops[i + 1]))
            continue;
        if (i + 1 < to)
            pl_op_prefetch(&run, &ops[i + 1], tid);
        if (tid == 0) {
            if (atomic_load_explicit(&task->cancel, memory_order_relaxed) &&
                atomic_load_explicit(&b->stop_at, memory_order_relaxed) > i + 1)
                atomic_store_explicit(&b->stop_at, i + 1, memory_order_relaxed);
            atomic_store_explicit(&task->done, i + 1, memory_order_relaxed);
        }
        pl_team_barrier(team);
        if (watched && tid == 0) {
            int64_t end = pl_now_ns();
            if (b->pass.op_ns)
                b->pass.op_ns[i] = end - start;
            tap(&run, b, i);
            start = pl_now_ns();
        }
        if (watched && b->pass.n_taps)
            pl_team_barrier(team); /* the others wait while thread 0 copies */
        /* Thread 0 changes stop_at only before a barrier, so that all threads stop after the same operation. */
        if (atomic_load_explicit(&b->stop_at, memory_order_relaxed) <= i + 1)
            return;
    }
}

static pl_status forward_finish(pl_task *task, pl_error *error)
{
    pl_pass_body *b = task->body;
    int cancelled = atomic_load(&task->cancel); /* even if every operation had run */
    pl_pass_settle(b, task->job && !cancelled);
    pl_pass_free(b);
    return cancelled ? pl_fail(error, PL_E_CANCELLED, "the forward pass was cancelled") : PL_OK;
}

pl_status pl_forward_start(pl_model *m, const pl_pass *pass, pl_task **out, pl_error *error)
{
    pl_pass_body *b;
    pl_status status = pl_pass_check(m, pass, error);
    status = status ? status : pl_pass_new(m, pass, &b, error);
    if (status)
        return status;
    pl_task *task = calloc(1, sizeof *task);
    if (!task) {
        pl_pass_settle(b, 0);
        pl_pass_free(b);
        return pl_fail(error, PL_E_MEMORY, "no memory for a forward pass");
    }
    *task = (pl_task){.model = m, .body = b, .finish = forward_finish, .total = pass->op_to};
    b->run.consume = consume;
    b->run.consume_arg = task;
    return pl_task_start(task, forward_job, out, error);
}

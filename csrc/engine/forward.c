/* Runs a plan: one job on the team per forward pass, operations in order, a barrier where one shares out its work
 * differently from the next. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

typedef struct body {
    pl_run run;
    pl_pass pass;
    pl_row *rows;
    pl_seq **seqs;
    pl_qtile *qtiles;
    int32_t *wants;
    pl_sample_params *sample;
    uint64_t *step;
    pl_sampled *sampled;
    pl_tap *feeds, *taps;
    atomic_int bad;
    atomic_int stop_at; /* operations from here on do not run; set by thread 0 before a barrier, read after it */
} body;

/* ---- the job ------------------------------------------------------------------------------------- */

static int consume(void *arg, int want, float *logits, int tid)
{
    pl_task *task = arg;
    body *b = task->body;
    pl_model *m = task->model;
    return pl_sample(m->tables.kernels, &b->sample[want], logits, m->plan.vocab, b->step[want], m->sample_scratch[tid],
                     &b->sampled[want]);
}

/* This thread's rows of what the caller puts into buffers. */
static void feed(const pl_run *r, const body *b, int tid)
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

static void tap(const pl_run *r, const body *b, int op)
{
    for (int i = 0; i < b->pass.n_taps; i++)
        if (b->taps[i].op == op) {
            const pl_buf *buf = &r->m->bufs[b->taps[i].buf];
            memcpy(b->taps[i].data, buf->f, sizeof(float) * (size_t)r->n_rows * buf->dim);
        }
}

/* Rows stay on their thread from one operation to the next where both share by rows. */
static int barrier_between(const pl_op *a, const pl_op *b)
{
    const pl_op_desc *d = &pl_op_table[a->kind];
    return (a->vec >= 0 ? d->end_vec : d->end) != PL_BY_ROWS || pl_op_table[b->kind].start != PL_BY_ROWS;
}

static void forward_job(void *arg, const pl_team *team, int tid)
{
    pl_task *task = arg;
    body *b = task->body;
    pl_run run = b->run; /* each thread its own, read-only */
    run.team = team;
    const pl_op *ops = run.ops;
    int from = b->pass.op_from, to = b->pass.op_to, watched = b->pass.n_taps || b->pass.op_ns;
    feed(&run, b, tid);
    pl_rope_angles(&run, tid);
    pl_team_barrier(team);
    int64_t start = tid == 0 && watched ? pl_now_ns() : 0;
    for (int i = from; i < to; i++) {
        pl_op_table[ops[i].kind].run(&run, &ops[i], tid);
        if (i + 1 < to && !watched && !barrier_between(&ops[i], &ops[i + 1]))
            continue;
        if (i + 1 < to)
            pl_op_prefetch(&run, &ops[i + 1], tid);
        if (tid == 0) {
            if (atomic_load_explicit(&task->cancel, memory_order_relaxed))
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
            pl_team_barrier(team); /* nobody writes on while thread 0 copies */
        /* A later stop is set only before a later barrier, so that all threads stop at the same one. */
        if (atomic_load_explicit(&b->stop_at, memory_order_relaxed) <= i + 1)
            return;
    }
}

/* ---- before and after ---------------------------------------------------------------------------- */

/* A pass over part of the plan looks at tokens that are stored already, and stores none. */
static int whole(const pl_model *m, const pl_pass *p)
{
    return p->op_from == 0 && p->op_to == m->plan.n_ops;
}

/* The pass's sequences grow by its rows, or go back to what they were. */
static void settle(const body *b, int done)
{
    for (int i = 0; b->rows && b->seqs && i < b->pass.n_rows; i++)
        if (i + 1 == b->pass.n_rows || b->rows[i + 1].seq != b->rows[i].seq) {
            if (done)
                pl_seq_commit(b->seqs[b->rows[i].seq], b->rows[i].slot + 1);
            else
                pl_seq_roll_back(b->seqs[b->rows[i].seq]);
        }
}

static pl_status forward_finish(pl_task *task, pl_error *error)
{
    body *b = task->body;
    pl_status status = PL_OK;
    if (!task->job)
        status = PL_E_MEMORY;
    else if (atomic_load(&b->stop_at) < b->pass.op_to)
        status = pl_fail(error, PL_E_CANCELLED, "the forward pass was cancelled");
    else if (atomic_load(&b->bad))
        status = pl_fail(error, PL_E_NUMERICS, "the model's %s",
                         atomic_load(&b->bad) & PL_BAD_CACHE
                             ? "keys or values are not finite numbers, or too large for the cache's type"
                             : "logits are not finite numbers");
    if (whole(task->model, &b->pass))
        settle(b, status == PL_OK);
    void *parts[] = {b->rows,    b->seqs,  b->qtiles, b->wants,       b->sample,  b->step,
                     b->sampled, b->feeds, b->taps,   b->run.partial, b->run.next};
    if (status == PL_OK && b->run.n_wants && b->sampled) /* no rows, no room for them: not even an empty copy */
        memcpy(b->pass.sampled, b->sampled, sizeof *b->sampled * (size_t)b->run.n_wants);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
    free(b);
    return status;
}

static void *duplicate(const void *src, size_t n, size_t size)
{
    void *p = malloc(n * size + 1);
    if (p && n)
        memcpy(p, src, n * size);
    return p;
}

/* Whether any of the pass's operations reads or writes keys and values: others run on any rows, stored or not. */
static int uses_cache(const pl_model *m, const pl_pass *p)
{
    for (int i = p->op_from; i < p->op_to; i++)
        if (pl_op_table[m->plan.ops[i].kind].stores || pl_op_table[m->plan.ops[i].kind].attends)
            return 1;
    return whole(m, p);
}

/* Whether a slot, and all that it sees, is in the cache. */
static int stored(const pl_model *m, const pl_seq *seq, int32_t slot)
{
    if (slot < 0 || slot >= seq->length)
        return 0;
    for (int g = 0; g < m->plan.n_caches; g++) {
        int32_t window = m->groups[g].window, oldest = window && slot >= window ? slot - window + 1 : 0;
        if (oldest / PL_PAGE < seq->store[g].first)
            return 0;
    }
    return 1;
}

static pl_status check_pass(const pl_model *m, const pl_pass *p, pl_error *error)
{
    if (p->n_rows < 1 || p->n_rows > m->options.max_rows)
        return pl_fail(error, PL_E_ARGUMENT, "%d rows in a pass, expected 1 to %d", p->n_rows, m->options.max_rows);
    if (p->op_from < 0 || p->op_from >= p->op_to || p->op_to > m->plan.n_ops)
        return pl_fail(error, PL_E_ARGUMENT, "operations %d to %d of %d", p->op_from, p->op_to, m->plan.n_ops);
    for (int i = 0; i < p->n_feeds + p->n_taps; i++) {
        const pl_tap *t = i < p->n_feeds ? &p->feeds[i] : &p->taps[i - p->n_feeds];
        if (t->buf < 0 || t->buf >= m->plan.n_bufs || !t->data)
            return pl_fail(error, PL_E_ARGUMENT, "no such buffer: %d", t->buf);
        if (i >= p->n_feeds && (t->op < p->op_from || t->op >= p->op_to))
            return pl_fail(error, PL_E_ARGUMENT, "a tap of operation %d, which does not run", t->op);
    }
    uint64_t wants = 0;
    int cached = uses_cache(m, p);
    for (int i = 0; i < p->n_rows; i++) {
        const pl_row *r = &p->rows[i];
        if (r->token < 0 || r->token >= m->plan.vocab)
            return pl_fail(error, PL_E_ARGUMENT, "token id %d, expected 0 to %d", r->token, m->plan.vocab - 1);
        if (r->seq < 0 || r->seq >= p->n_seqs || r->pos < 0 || r->slot < 0)
            return pl_fail(error, PL_E_ARGUMENT, "row %d: sequence %d, position %d", i, r->seq, r->pos);
        int first = i == 0 || p->rows[i - 1].seq != r->seq;
        const pl_seq *seq = p->seqs[r->seq];
        if (cached && !whole(m, p) && !stored(m, seq, r->slot))
            return pl_fail(error, PL_E_ARGUMENT, "row %d: slot %d is not stored", i, r->slot);
        int32_t expected = first ? (whole(m, p) ? seq->length : r->slot) : p->rows[i - 1].slot + 1;
        if (r->slot != expected)
            return pl_fail(error, PL_E_ARGUMENT, "row %d: slot %d, expected %d", i, r->slot, expected);
        for (int j = 0; first && j < i; j++)
            if (p->rows[j].seq == r->seq || p->seqs[p->rows[j].seq] == p->seqs[r->seq])
                return pl_fail(error, PL_E_ARGUMENT, "row %d: its sequence's rows do not stand together", i);
        wants += r->want != 0;
    }
    if (wants && (m->head_op < p->op_from || m->head_op >= p->op_to))
        return pl_fail(error, PL_E_ARGUMENT, "rows want logits, but the head does not run");
    if (wants && !p->store && !(p->sample && p->step && p->sampled))
        return pl_fail(error, PL_E_ARGUMENT, "rows want logits that nobody takes");
    return PL_OK;
}

/* Query tiles, wanted rows and, for few rows at depth, room for the states of chunks. */
static int prepare(pl_model *m, body *b)
{
    pl_run *r = &b->run;
    int n = b->pass.n_rows, deepest = 0, most_kv = 0;
    size_t state = 0;
    for (int i = 0; i < n; i++) {
        pl_qtile *last = r->n_qtiles ? &b->qtiles[r->n_qtiles - 1] : NULL;
        if (last && b->rows[last->row].seq == b->rows[i].seq && last->n < m->qtile_rows)
            last->n++;
        else
            b->qtiles[r->n_qtiles++] = (pl_qtile){i, 1};
        if (b->rows[i].want)
            b->wants[r->n_wants++] = i;
        deepest = b->rows[i].slot > deepest ? b->rows[i].slot : deepest;
    }
    for (int i = 0; i < m->plan.n_caches; i++) {
        const pl_cache_desc *c = &m->plan.caches[i];
        size_t s = pl_attend_state(m->qtile_rows * (c->n_q / c->n_kv), c->dv);
        state = s > state ? s : state;
        most_kv = c->n_kv > most_kv ? c->n_kv : most_kv;
    }
    r->max_chunks = deepest / PL_CHUNK_KEYS + 1;
    size_t items = (size_t)r->n_qtiles * most_kv;
    if (r->max_chunks > 1 && items < 4 * (size_t)m->options.threads) {
        r->partial = malloc(items * r->max_chunks * state * sizeof(float));
        return r->partial ? 0 : -1;
    }
    return 0;
}

pl_status pl_forward_start(pl_model *m, const pl_pass *pass, pl_task **out, pl_error *error)
{
    pl_status status = check_pass(m, pass, error);
    if (status)
        return status;
    size_t n = (size_t)pass->n_rows, wants = 0;
    for (int i = 0; i < pass->n_rows; i++)
        wants += pass->rows[i].want != 0;
    pl_task *task = calloc(1, sizeof *task);
    body *b = calloc(1, sizeof *b);
    if (!task || !b) {
        free(task);
        free(b);
        return pl_fail(error, PL_E_MEMORY, "no memory for a forward pass");
    }
    *task = (pl_task){.model = m, .body = b, .finish = forward_finish, .total = pass->op_to};
    b->pass = *pass;
    atomic_init(&b->stop_at, m->plan.n_ops + 1);
    b->rows = duplicate(pass->rows, n, sizeof *pass->rows);
    b->seqs = duplicate(pass->seqs, (size_t)pass->n_seqs, sizeof *pass->seqs);
    b->qtiles = malloc(n * sizeof *b->qtiles);
    b->wants = malloc(n * sizeof *b->wants);
    b->feeds = duplicate(pass->feeds, (size_t)pass->n_feeds, sizeof *pass->feeds);
    b->taps = duplicate(pass->taps, (size_t)pass->n_taps, sizeof *pass->taps);
    b->run.next = calloc((size_t)m->plan.n_ops * 2, sizeof *b->run.next);
    int ok = b->rows && b->seqs && b->qtiles && b->wants && b->feeds && b->taps && b->run.next;
    if (!pass->store) {
        b->sample = duplicate(pass->sample, wants, sizeof *b->sample);
        b->step = duplicate(pass->step, wants, sizeof *b->step);
        b->sampled = duplicate(pass->sampled, wants, sizeof *b->sampled);
        ok = ok && b->sample && b->step && b->sampled;
    }
    ok = ok && prepare(m, b) == 0;
    int room = PL_CACHE_OK;
    for (int i = 0, first = 0; ok && !room && uses_cache(m, pass) && i < pass->n_rows; i++)
        if (i + 1 == pass->n_rows || b->rows[i + 1].seq != b->rows[i].seq) {
            room = pl_seq_reserve(b->seqs[b->rows[i].seq], b->rows[first].slot, b->rows[i].slot + 1);
            first = i + 1;
        }
    if (!ok || room) {
        task->finish(task, error);
        free(task);
        if (room == PL_CACHE_FULL)
            return pl_fail(error, PL_E_MEMORY, "the cache is full: cache_bytes=%lld has no room for a pass of %d rows",
                           (long long)m->options.cache_bytes, pass->n_rows);
        return pl_fail(error, PL_E_MEMORY, "no memory for the pass's keys and values");
    }
    pl_run *r = &b->run;
    r->m = &m->tables;
    r->ops = m->plan.ops;
    r->n_rows = pass->n_rows;
    r->rows = b->rows;
    r->seqs = b->seqs;
    r->rope_cos = m->rope_cos;
    r->rope_sin = m->rope_sin;
    r->qtiles = b->qtiles;
    r->qtile_rows = m->qtile_rows;
    r->scratch = m->scratch;
    r->kernel_scratch = m->kernel_scratch;
    r->wants = b->wants;
    r->head_rows = &m->head_rows;
    r->logits = m->logits;
    r->store = pass->store;
    r->consume = consume;
    r->consume_arg = task;
    r->bad = &b->bad;
    return pl_task_start(task, forward_job, out, error);
}

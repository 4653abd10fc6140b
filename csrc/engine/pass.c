/* Before and after a forward pass: checks and copies its rows, reserves their slots, and commits them or rolls back. */
#include "pass.h"

#include <stdlib.h>
#include <string.h>

/* ---- checks ---------------------------------------------------------------------------------------- */

/* A pass over part of the plan inspects tokens already stored and does not lengthen its sequences. */
static int is_whole(const pl_model *m, const pl_pass *p)
{
    return p->op_from == 0 && p->op_to == m->plan.n_ops;
}

static int attends(const pl_model *m, const pl_pass *p)
{
    for (int i = p->op_from; i < p->op_to; i++)
        if (pl_op_table[m->plan.ops[i].kind].attends)
            return 1;
    return 0;
}

static int stores(const pl_model *m, const pl_pass *p)
{
    for (int i = p->op_from; i < p->op_to; i++)
        if (pl_op_stores(&m->plan.ops[i]))
            return 1;
    return 0;
}

static int is_causal(const pl_model *m)
{
    for (int i = 0; i < m->plan.n_caches; i++)
        if (!m->plan.caches[i].causal)
            return 0;
    return 1;
}

static int recurs(const pl_model *m, const pl_pass *p)
{
    for (int i = p->op_from; i < p->op_to; i++)
        if (pl_op_table[m->plan.ops[i].kind].recurs)
            return 1;
    return 0;
}

/* Whether a slot, and every slot that it sees, is in the cache. */
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

static pl_status check_taps(const pl_model *m, const pl_pass *p, pl_error *error)
{
    for (int i = 0; i < p->n_feeds + p->n_taps; i++) {
        const pl_tap *t = i < p->n_feeds ? &p->feeds[i] : &p->taps[i - p->n_feeds];
        if (t->buf < 0 || t->buf >= m->plan.n_bufs || !t->data)
            return pl_fail(error, PL_E_ARGUMENT, "no such buffer: %d", t->buf);
        if (i >= p->n_feeds && (t->op < p->op_from || t->op >= p->op_to))
            return pl_fail(error, PL_E_ARGUMENT, "a tap of operation %d, which does not run", t->op);
    }
    return PL_OK;
}

/* Row i must take its sequence's next slot or, in a pass over part of the plan, slots already stored. cached: the pass
 * reads or writes keys and values. */
static pl_status check_row(const pl_model *m, const pl_pass *p, int i, int cached, pl_error *error)
{
    const pl_row *r = &p->rows[i];
    int whole = is_whole(m, p), first = i == 0 || p->rows[i - 1].seq != r->seq;
    if (r->token < 0 || r->token >= m->plan.vocab)
        return pl_fail(error, PL_E_ARGUMENT, "token id %d, expected 0 to %d", r->token, m->plan.vocab - 1);
    if (r->seq < 0 || r->seq >= p->n_seqs || r->pos < 0 || r->slot < 0 || r->want < 0 || r->want >= PL_N_WANTS)
        return pl_fail(error, PL_E_ARGUMENT, "row %d: sequence %d, position %d, want %d", i, r->seq, r->pos, r->want);
    const pl_seq *seq = p->seqs[r->seq];
    if (cached && !whole && !stored(m, seq, r->slot))
        return pl_fail(error, PL_E_ARGUMENT, "row %d: slot %d is not stored", i, r->slot);
    if (first && !whole && recurs(m, p) && !pl_seq_reaches(seq, r->slot))
        return pl_fail(error, PL_E_ARGUMENT, "row %d: no state of the recurrent layers before slot %d is stored", i,
                       r->slot);
    int64_t expected = !first ? (int64_t)p->rows[i - 1].slot + 1 : whole ? seq->length : r->slot;
    if (r->slot != expected || r->slot == INT32_MAX)
        return pl_fail(error, PL_E_ARGUMENT, "row %d: slot %d, expected %lld", i, r->slot, (long long)expected);
    for (int j = 0; first && j < i; j++)
        if (p->rows[j].seq == r->seq || p->seqs[p->rows[j].seq] == seq)
            return pl_fail(error, PL_E_ARGUMENT, "row %d: its sequence's rows are not consecutive", i);
    int last = i == p->n_rows - 1 || p->rows[i + 1].seq != r->seq;
    if (cached && !is_causal(m) && ((first && r->slot) || (last && !whole && r->slot != seq->length - 1)))
        return pl_fail(error, PL_E_ARGUMENT, "row %d: a token sees later ones: its sequence must be one pass", i);
    return PL_OK;
}

pl_status pl_pass_check(const pl_model *m, const pl_pass *p, pl_error *error)
{
    if (p->n_rows < 1 || p->n_rows > m->options.max_rows)
        return pl_fail(error, PL_E_ARGUMENT, "%d rows in a pass, expected 1 to %d", p->n_rows, m->options.max_rows);
    if (p->op_from < 0 || p->op_from >= p->op_to || p->op_to > m->plan.n_ops)
        return pl_fail(error, PL_E_ARGUMENT, "operations %d to %d of %d", p->op_from, p->op_to, m->plan.n_ops);
    pl_status status = check_taps(m, p, error);
    int cached = attends(m, p) || stores(m, p) || recurs(m, p), wanted[PL_N_WANTS] = {0};
    for (int i = 0; i < p->n_rows && !status; i++) {
        status = check_row(m, p, i, cached, error);
        if (!status)
            wanted[p->rows[i].want] = 1;
    }
    if (status)
        return status;
    int wants = wanted[PL_WANT_LOGITS], hiddens = wanted[PL_WANT_HIDDEN];
    if ((wants || hiddens) && (m->head_op < p->op_from || m->head_op >= p->op_to))
        return pl_fail(error, PL_E_ARGUMENT, "rows want logits or hidden states, but the head does not run");
    if (wants && !m->plan.ops[m->head_op].n_seg)
        return pl_fail(error, PL_E_ARGUMENT, "rows want logits, but the model is an encoder, which has none");
    if (hiddens && !p->hidden)
        return pl_fail(error, PL_E_ARGUMENT, "rows want hidden states, but the pass does not store them");
    if (wants && !p->store && !(p->sample && p->step && p->sampled))
        return pl_fail(error, PL_E_ARGUMENT, "rows want logits, but the pass neither stores nor samples them");
    return PL_OK;
}

/* ---- what a pass needs ------------------------------------------------------------------------------- */

/* Copies the caller's arrays and allocates the pass's own; nonzero if out of memory. */
static int copy_pass(pl_pass_body *b, const pl_model *m, const pl_pass *p)
{
    size_t n = (size_t)p->n_rows, n_seqs = (size_t)p->n_seqs, wants = 0;
    for (int i = 0; i < p->n_rows; i++)
        wants += p->rows[i].want == PL_WANT_LOGITS;
    b->pass = *p;
    b->whole = is_whole(m, p);
    atomic_init(&b->stop_at, m->plan.n_ops + 1);
    b->rows = pl_copy_of(p->rows, n, sizeof *p->rows);
    b->seqs = pl_copy_of(p->seqs, n_seqs, sizeof *p->seqs);
    b->status = calloc(n_seqs + 1, sizeof *b->status);
    b->parts = malloc(n * sizeof *b->parts);
    b->qtiles = malloc(n * sizeof *b->qtiles);
    b->wants = malloc(n * sizeof *b->wants);
    b->hiddens = malloc(n * sizeof *b->hiddens);
    b->feeds = pl_copy_of(p->feeds, (size_t)p->n_feeds, sizeof *p->feeds);
    b->taps = pl_copy_of(p->taps, (size_t)p->n_taps, sizeof *p->taps);
    b->run.next = calloc((size_t)m->plan.n_ops * 2, sizeof *b->run.next);
    int ok = b->rows && b->seqs && b->status && b->parts && b->qtiles && b->wants && b->hiddens && b->feeds &&
             b->taps && b->run.next;
    if (!p->store) {
        b->sample = pl_copy_of(p->sample, wants, sizeof *b->sample);
        b->step = pl_copy_of(p->step, wants, sizeof *b->step);
        b->sampled = pl_copy_of(p->sampled, wants, sizeof *b->sampled);
        ok = ok && b->sample && b->step && b->sampled;
    }
    return !ok;
}

/* Groups the rows by sequence and into query tiles, and lists those that want something. */
static void sort_rows(const pl_model *m, pl_pass_body *b)
{
    pl_run *r = &b->run;
    for (int i = 0; i < b->pass.n_rows; i++) {
        int first = i == 0 || b->rows[i - 1].seq != b->rows[i].seq;
        if (first)
            b->parts[b->n_parts++] = (pl_part){.row = i, .seq = b->rows[i].seq};
        b->parts[b->n_parts - 1].n++;
        if (first || b->qtiles[r->n_qtiles - 1].n == m->qtile_rows)
            b->qtiles[r->n_qtiles++] = (pl_qtile){.row = i};
        if (++b->qtiles[r->n_qtiles - 1].n > r->qtile_rows)
            r->qtile_rows = b->qtiles[r->n_qtiles - 1].n;
        if (b->rows[i].want == PL_WANT_LOGITS)
            b->wants[r->n_wants++] = i;
        else if (b->rows[i].want == PL_WANT_HIDDEN)
            b->hiddens[r->n_hiddens++] = i;
    }
    for (int i = 0, part = 0; i < r->n_qtiles; i++) {
        while (b->qtiles[i].row >= b->parts[part].row + b->parts[part].n)
            part++;
        b->qtiles[i].end = b->rows[b->parts[part].row + b->parts[part].n - 1].slot + 1;
    }
}

/* Bound for the states of chunks that are computed side by side, exceeded only if threads would otherwise be idle.
 * Without it they would grow with threads times keys: 4 GB with 96 threads, 512 rows and 131,072 keys. */
#define PARTIAL_BYTES ((size_t)16 << 20)
/* Work items per thread: enough that threads wait little for the last ones. */
#define ITEMS_PER_THREAD 4

/* Allocates the states of chunks if few rows attend to many keys. Nonzero if out of memory. */
static int take_partial(const pl_model *m, pl_pass_body *b)
{
    pl_run *r = &b->run;
    int deepest = 0, most_kv = 0;
    size_t state = 0;
    if (!attends(m, &b->pass))
        return 0;
    for (int i = 0; i < b->pass.n_rows; i++)
        deepest = b->rows[i].slot > deepest ? b->rows[i].slot : deepest;
    for (int i = 0; i < m->plan.n_caches; i++) {
        const pl_cache_desc *c = &m->plan.caches[i];
        size_t s = pl_attend_state(r->qtile_rows * (c->n_q / c->n_kv), c->dv);
        state = s > state ? s : state;
        most_kv = c->n_kv > most_kv ? c->n_kv : most_kv;
    }
    size_t items = (size_t)r->n_qtiles * (size_t)most_kv, wanted = ITEMS_PER_THREAD * (size_t)m->options.threads;
    size_t chunks = (size_t)deepest / PL_CHUNK_KEYS + 1, bytes = items * state * sizeof(float);
    if (chunks == 1 || items >= wanted)
        return 0;
    size_t most = PARTIAL_BYTES / bytes, least = (wanted + items - 1) / items;
    most = most < least ? least : most;
    r->at_once = (int)(chunks < most ? chunks : most);
    r->partial = malloc(bytes * (size_t)(r->at_once + 1));
    return !r->partial;
}

/* Makes the slots of the pass's rows writable: PL_CACHE_*. A whole pass writes to its sequences; a pass over part of
 * the plan writes to forks of them, so that the stored keys and values do not change. */
static int reserve(const pl_model *m, pl_pass_body *b)
{
    if (!b->whole && !stores(m, &b->pass) && !recurs(m, &b->pass))
        return PL_CACHE_OK;
    if (!b->whole) {
        b->forked = 1;
        memset(b->seqs, 0, sizeof *b->seqs * (size_t)b->pass.n_seqs);
    }
    for (int i = 0; i < b->n_parts; i++) {
        const pl_part *p = &b->parts[i];
        int32_t slot = b->rows[p->row].slot;
        if (b->forked)
            b->seqs[p->seq] = pl_seq_fork(b->pass.seqs[p->seq]);
        int status = b->seqs[p->seq] ? pl_seq_reserve(b->seqs[p->seq], slot, slot + p->n) : PL_CACHE_NO_MEMORY;
        if (status)
            return status;
    }
    return PL_CACHE_OK;
}

static void set_run(pl_model *m, pl_pass_body *b)
{
    pl_run *r = &b->run;
    r->m = &m->tables;
    r->ops = m->plan.ops;
    r->n_rows = b->pass.n_rows;
    r->rows = b->rows;
    r->seqs = b->seqs;
    r->status = b->status;
    r->rope_cos = m->rope_cos;
    r->rope_sin = m->rope_sin;
    r->parts = b->parts;
    r->n_parts = b->n_parts;
    r->gates = m->gates;
    r->qtiles = b->qtiles;
    r->scratch = m->scratch;
    r->kernel_scratch = m->kernel_scratch;
    r->expert_room = m->expert_room;
    r->gathered = m->gathered;
    r->products = m->products;
    r->watched = b->pass.n_taps > 0 || !b->whole;
    r->wants = b->wants;
    r->hiddens = b->hiddens;
    r->head_rows = &m->head_rows;
    r->logits = m->logits;
    r->store = b->pass.store;
    r->hidden = b->pass.hidden;
}

pl_status pl_pass_new(pl_model *m, const pl_pass *pass, pl_pass_body **out, pl_error *error)
{
    pl_pass_body *b = calloc(1, sizeof *b);
    if (!b || copy_pass(b, m, pass)) {
        pl_pass_free(b);
        return pl_fail(error, PL_E_MEMORY, "no memory for a forward pass");
    }
    sort_rows(m, b);
    set_run(m, b);
    int room = take_partial(m, b) ? PL_CACHE_NO_MEMORY : reserve(m, b);
    if (room) {
        pl_pass_settle(b, 0);
        pl_pass_free(b);
        if (room == PL_CACHE_FULL)
            return pl_fail(error, PL_E_MEMORY, "the cache is full: cache_bytes=%lld has no room for a pass of %d rows",
                           (long long)m->options.cache_bytes, pass->n_rows);
        return pl_fail(error, PL_E_MEMORY, "no memory for the pass's keys, values and states");
    }
    *out = b;
    return PL_OK;
}

/* ---- after it ------------------------------------------------------------------------------------------ */

void pl_pass_settle(pl_pass_body *b, int ran)
{
    for (int i = 0; i < b->n_parts && b->whole; i++) {
        const pl_part *p = &b->parts[i];
        if (ran && !atomic_load(&b->status[p->seq]))
            pl_seq_commit(b->seqs[p->seq], b->rows[p->row].slot + p->n);
        else
            pl_seq_roll_back(b->seqs[p->seq]);
    }
    if (!ran)
        return;
    for (int i = 0; i < b->pass.n_seqs && b->pass.status; i++)
        b->pass.status[i] = atomic_load(&b->status[i]);
    if (b->run.n_wants && b->sampled) /* memcpy takes no NULL, even for 0 bytes */
        memcpy(b->pass.sampled, b->sampled, sizeof *b->sampled * (size_t)b->run.n_wants);
}

void pl_pass_free(pl_pass_body *b)
{
    if (!b)
        return;
    for (int i = 0; b->forked && i < b->pass.n_seqs; i++)
        pl_seq_free(b->seqs[i]);
    void *parts[] = {b->rows,   b->seqs, b->status,  b->parts, b->qtiles, b->wants,       b->hiddens,
                     b->sample, b->step, b->sampled, b->feeds, b->taps,   b->run.partial, b->run.next};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
    free(b);
}

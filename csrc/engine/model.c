/* Makes a model from a plan: copies its tables and lays out memory. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

#include "../cpu/arena.h"
#include "../cpu/detect.h"
#include "../cpu/topology.h"
#include "../kernels/select.h"

void *pl_copy_of(const void *src, size_t n, size_t size)
{
    void *p = malloc(n * size + 1);
    if (p && n)
        memcpy(p, src, n * size);
    return p;
}

static int copy_tables(pl_model *m, const pl_plan *p)
{
    m->plan = *p;
    /* clear the caller's pointers first, so that pl_model_free is safe whatever fails below */
    m->plan.ops = NULL, m->plan.buf_dim = NULL, m->plan.segs = NULL, m->plan.mats = NULL, m->plan.vecs = NULL,
    m->plan.ropes = NULL;
    m->plan.caches = NULL;
    m->plan.states = NULL;
    m->vecs = calloc((size_t)p->n_vecs + 1, sizeof *m->vecs);
    pl_rope_desc *ropes = calloc((size_t)p->n_ropes + 1, sizeof *ropes);
    m->plan.ropes = ropes;
    pl_mat_desc *mats = pl_copy_of(p->mats, (size_t)p->n_mats, sizeof *p->mats);
    m->plan.mats = mats;
    for (int i = 0; mats && i < p->n_mats; i++)
        mats[i].parts = NULL; /* until it has its own */
    if (!m->vecs || !ropes || !(m->plan.ops = pl_copy_of(p->ops, (size_t)p->n_ops, sizeof *p->ops)) ||
        !(m->plan.buf_dim = pl_copy_of(p->buf_dim, (size_t)p->n_bufs, sizeof *p->buf_dim)) ||
        !(m->plan.segs = pl_copy_of(p->segs, (size_t)p->n_segs, sizeof *p->segs)) || !mats ||
        !(m->plan.vecs = pl_copy_of(p->vecs, (size_t)p->n_vecs, sizeof *p->vecs)) ||
        !(m->plan.caches = pl_copy_of(p->caches, (size_t)p->n_caches, sizeof *p->caches)) ||
        !(m->plan.states = pl_copy_of(p->states, (size_t)p->n_states, sizeof *p->states)))
        return -1;
    for (int i = 0; i < p->n_vecs; i++)
        if (!(m->vecs[i] = pl_copy_of(p->vecs[i].data, (size_t)p->vecs[i].n, sizeof(float))))
            return -1;
    for (int i = 0; i < p->n_mats; i++) {
        const pl_source *parts = p->mats[i].parts;
        mats[i].parts = parts ? pl_copy_of(parts, (size_t)mats[i].stack, sizeof *parts) : NULL;
        if (parts && !mats[i].parts)
            return -1;
    }
    for (int i = 0; i < p->n_ropes; i++) {
        ropes[i] = p->ropes[i];
        ropes[i].freq = NULL;
        if (!(ropes[i].freq = pl_copy_of(p->ropes[i].freq, (size_t)p->ropes[i].n_rot / 2, sizeof(double))))
            return -1;
    }
    return 0;
}

/* Assigns the working memory of a pass from `base` and returns its size; base NULL: only the size. */
static size_t layout_work(pl_model *m, void *base)
{
    size_t at = 0, rows = (size_t)m->options.max_rows, scratch = 0;
    for (int i = 0; i < m->plan.n_bufs; i++)
        pl_buf_layout(&m->bufs[i], rows, base, &at);
    if (m->head_op >= 0) {
        pl_buf_layout(&m->head_rows, PL_HEAD_ROWS, base, &at);
        if (m->plan.ops[m->head_op].n_seg)
            m->logits = pl_cut(base, &at, (size_t)PL_HEAD_ROWS * m->plan.vocab * sizeof(float));
    }
    for (int i = 0; i < m->plan.n_ropes; i++) {
        m->rope_cos[i] = pl_cut(base, &at, rows * (size_t)m->plan.ropes[i].n_rot / 2 * sizeof(float));
        m->rope_sin[i] = pl_cut(base, &at, rows * (size_t)m->plan.ropes[i].n_rot / 2 * sizeof(float));
    }
    for (int i = 0; i < m->plan.n_caches; i++) {
        size_t n = pl_attend_scratch(&m->plan.caches[i], m->qtile_rows);
        scratch = n > scratch ? n : scratch;
    }
    size_t channels = 0;
    for (int i = 0; i < m->plan.n_states; i++)
        if ((size_t)m->plan.states[i].channels > channels)
            channels = (size_t)m->plan.states[i].channels;
    m->gates = pl_cut(base, &at, rows * (size_t)m->tables.gates * sizeof(float));
    m->zeros = pl_cut(base, &at, channels * sizeof(float));
    m->tables.zeros = m->zeros;
    for (int t = 0; t < m->options.threads; t++) {
        m->scratch[t] = pl_cut(base, &at, scratch * sizeof(float));
        m->sample_scratch[t] = pl_cut(base, &at, pl_sample_scratch(m->plan.vocab));
        m->expert_room[t] = NULL;
        at += pl_experts_layout(&m->plan, m->options.max_rows, &m->expert_room[t], base ? (char *)base + at : NULL);
        m->products[t] = pl_cut(base, &at, sizeof(float[2][PL_PRODUCTS]));
        m->gathered[t] = pl_cut(base, &at, pl_gather_bytes(&m->plan, m->bufs, m->options.max_rows));
        m->kernel_scratch[t] = pl_cut(base, &at, pl_kernels_scratch(m->tables.kernels));
    }
    return at;
}

static void set_caches(pl_model *m)
{
    const pl_kernels *k = m->tables.kernels;
    pl_kv_type kv = m->tables.kv;
    m->qtile_rows = 16;
    for (int i = 0; i < m->plan.n_caches; i++) {
        const pl_cache_desc *c = &m->plan.caches[i];
        /* if tokens see later ones, no page is ever out of a window's reach */
        m->groups[i] = (pl_group){c->n_layers,
                                  c->n_kv,
                                  c->causal ? c->window : 0,
                                  (k->k_bytes[kv](c->dk) + 63) / 64 * 64,
                                  (k->v_bytes[kv](c->dv) + 63) / 64 * 64,
                                  0,
                                  0};
        int rows = pl_attend_tile_rows(c);
        m->qtile_rows = rows < m->qtile_rows ? rows : m->qtile_rows;
    }
}

/* The states of all recurrent layers lie in one block. */
static void set_states(pl_model *m)
{
    size_t floats = 0;
    for (int i = 0; i < m->plan.n_states; i++) {
        const pl_state_desc *d = &m->plan.states[i];
        m->state_at[i] = floats;
        floats += (size_t)d->n_layers * pl_state_floats(d);
        const int heads = d->n_v ? d->n_v + d->n_k : 0; /* without value heads the other sizes mean nothing */
        if (2 * heads > m->tables.gates)
            m->tables.gates = 2 * heads;
    }
    for (int i = 0; i < m->plan.n_ops; i++) {
        const pl_op *op = &m->plan.ops[i];
        if (op->kind != PL_OP_SCAN || !(op->flags & PL_SCAN_EACH))
            continue;
        const pl_state_desc *d = &m->plan.states[op->state];
        const int floats_of_row = 2 * (d->n_v + d->n_k) + d->n_v * d->dk; /* a plan's sizes are checked */
        if (floats_of_row > m->tables.gates)
            m->tables.gates = floats_of_row;
    }
    if (floats) {
        int64_t bytes = (int64_t)(floats * sizeof(float)), most = m->options.checkpoints / bytes;
        most = m->options.checkpoints == 0 || most > PL_MAX_MARKS ? PL_MAX_MARKS : most < 1 ? 1 : most;
        m->groups[m->plan.n_caches] = (pl_group){.state_bytes = (size_t)bytes, .marks = (int32_t)most};
    }
}

static int64_t mat_bytes(const pl_mat *w, int stack)
{
    return w->tile_bytes ? w->tile_bytes * ((w->rows + PL_TILE - 1) / PL_TILE) * stack
                         : pl_row_bytes(w->format, w->k) * w->rows;
}

/* A matrix without its data. */
static pl_mat matrix_of(const pl_mat_desc *d)
{
    pl_mat w = {.format = pl_format_from_gguf(d->gguf_type), .rows = d->rows, .k = d->k};
    w.tile_bytes = d->plain ? 0 : pl_tile_bytes(w.format, d->k);
    return w;
}

/* Bytes of the arena for a matrix; each matrix begins at a multiple of 64, the size of a cache line. */
static size_t arena_part(const pl_mat *w, int stack)
{
    return ((size_t)mat_bytes(w, stack) + 63) / 64 * 64;
}

/* base: the model whose packed matrices are used, or NULL. */
static pl_status build(pl_model *m, const pl_plan *plan, const pl_model *base, pl_error *error)
{
    const pl_status no_memory = pl_fail(error, PL_E_MEMORY, "no memory for the model");
    m->head_op = -1;
    if (copy_tables(m, plan))
        return no_memory;
    size_t threads = (size_t)m->options.threads;
    m->mats = calloc((size_t)plan->n_mats + 1, sizeof *m->mats);
    m->stacks = calloc((size_t)plan->n_mats + 1, sizeof *m->stacks);
    m->bufs = calloc((size_t)plan->n_bufs, sizeof *m->bufs);
    m->groups = calloc((size_t)plan->n_caches + 1, sizeof *m->groups);
    m->state_at = calloc((size_t)plan->n_states + 1, sizeof *m->state_at);
    m->finish = calloc((size_t)plan->n_ops, sizeof *m->finish);
    m->scratch = calloc(threads, sizeof *m->scratch);
    m->sample_scratch = calloc(threads, sizeof *m->sample_scratch);
    m->expert_room = calloc(threads, sizeof *m->expert_room);
    m->gathered = calloc(threads, sizeof *m->gathered);
    m->products = calloc(threads, sizeof *m->products);
    m->kernel_scratch = calloc(threads, sizeof *m->kernel_scratch);
    m->rope_cos = calloc((size_t)plan->n_ropes + 1, sizeof *m->rope_cos);
    m->rope_sin = calloc((size_t)plan->n_ropes + 1, sizeof *m->rope_sin);
    if (!m->mats || !m->stacks || !m->bufs || !m->groups || !m->state_at || !m->finish || !m->scratch ||
        !m->sample_scratch || !m->kernel_scratch || !m->expert_room || !m->gathered || !m->products || !m->rope_cos ||
        !m->rope_sin)
        return no_memory;
    m->tables = (pl_model_tables){.kernels = pl_kernels_get(m->options.isa),
                                  .tuning = m->options.tuning,
                                  .segs = m->plan.segs,
                                  .mats = m->mats,
                                  .stacks = m->stacks,
                                  .vecs = (const float *const *)m->vecs,
                                  .ropes = m->plan.ropes,
                                  .n_ropes = plan->n_ropes,
                                  .caches = m->plan.caches,
                                  .groups = m->groups,
                                  .states = m->plan.states,
                                  .state_at = m->state_at,
                                  .state_group = plan->n_caches,
                                  .kv = m->options.kv,
                                  .vocab = plan->vocab,
                                  .bufs = m->bufs,
                                  .finish = m->finish};
    if (!m->tables.kernels)
        return pl_fail(error, PL_E_ISA, "the kernels of %s are not available", pl_isa_name(m->options.isa));
    for (int i = 0; i < plan->n_mats; i++) {
        m->mats[i] = base ? base->mats[i] : matrix_of(&plan->mats[i]);
        m->stacks[i] = plan->mats[i].stack;
        m->arena_bytes += base ? 0 : arena_part(&m->mats[i], m->stacks[i]);
    }
    if (m->arena_bytes) {
        const int fd = m->options.share_fd;
        m->packed = fd >= 0 && m->options.share_packed;
        m->arena =
            fd >= 0 ? pl_arena_map(fd, m->arena_bytes, !m->packed, &m->huge) : pl_arena_alloc(m->arena_bytes, &m->huge);
        if (!m->arena)
            return pl_fail(error, PL_E_MEMORY, "no memory for %zu MB of weights", m->arena_bytes >> 20);
        if (fd < 0 && m->huge)
            pl_settle_init(&m->settle, m->arena, m->arena_bytes, m->options.slow_page_ns);
    }
    size_t at = 0;
    for (int i = 0; i < plan->n_mats; i++) {
        pl_mat *w = &m->mats[i];
        if (!base) {
            w->data = (uint8_t *)m->arena + at;
            at += arena_part(w, m->stacks[i]);
        }
    }
    pl_forms_set(m, (pl_segment *)m->plan.segs, m->finish); /* the model's own copy */
    set_caches(m);
    set_states(m);
    m->work_bytes = layout_work(m, NULL);
    m->work = pl_arena_alloc(m->work_bytes, &(int){0});
    m->pool = pl_pool_new(m->groups, plan->n_caches + (plan->n_states > 0), m->options.cache_bytes);
    if (!m->work || !m->pool)
        return no_memory;
    layout_work(m, m->work);
    pl_settle_beside(&m->settle, m->work, m->work_bytes);
    return PL_OK;
}

static pl_status make(const pl_plan *plan, const pl_options *options, const pl_model *base, pl_model **model,
                      pl_error *error)
{
    *model = NULL;
    pl_status status = pl_plan_check(plan, error);
    if (status)
        return status;
    if (options->threads < 1 || options->threads > PL_MOST_THREADS || options->kv < 0 || options->kv >= PL_N_KV ||
        options->least_terms < 1 || options->least_terms > 2 || options->max_rows < 1 || options->max_rows > 65536 ||
        options->cache_bytes < 0 || options->checkpoints < 0)
        return pl_fail(error, PL_E_ARGUMENT, "an option is out of range");
    if (pl_tuning_wrong(&options->tuning))
        return pl_fail(error, PL_E_ARGUMENT, "%s of the tuning is out of range", pl_tuning_wrong(&options->tuning));
    pl_model *m = calloc(1, sizeof *m);
    if (!m)
        return pl_fail(error, PL_E_MEMORY, "no memory for the model");
    m->options = *options;
    if (m->options.isa < 0)
        m->options.isa = pl_isa_best();
    status = build(m, plan, base, error);
    if (status) {
        pl_model_free(m);
        return status;
    }
    *model = m;
    return PL_OK;
}

pl_status pl_model_new(const pl_plan *plan, const pl_options *options, pl_model **model, pl_error *error)
{
    return make(plan, options, NULL, model, error);
}

pl_status pl_model_view(const pl_model *base, const pl_plan *plan, pl_model **view, pl_error *error)
{
    *view = NULL;
    if (plan->n_mats != base->plan.n_mats || plan->vocab != base->plan.vocab)
        return pl_fail(error, PL_E_PLAN, "a view must have the matrices and the vocabulary of its model");
    for (int i = 0; i < plan->n_mats; i++) {
        const pl_mat_desc *a = &plan->mats[i], *b = &base->plan.mats[i];
        if (a->gguf_type != b->gguf_type || a->rows != b->rows || a->k != b->k || a->stack != b->stack ||
            a->plain != b->plain)
            return pl_fail(error, PL_E_PLAN, "matrix %d of a view differs from its model's", i);
    }
    return make(plan, &base->options, base, view, error);
}

pl_status pl_plan_bytes(const pl_plan *plan, int64_t *bytes, pl_error *error)
{
    pl_status status = pl_plan_check(plan, error);
    *bytes = 0;
    for (int i = 0; !status && i < plan->n_mats; i++) {
        const pl_mat w = matrix_of(&plan->mats[i]);
        *bytes += (int64_t)arena_part(&w, plan->mats[i].stack);
    }
    return status;
}

int pl_share_huge(int fd, size_t bytes)
{
    int huge;
    void *p = pl_arena_map(fd, bytes, 1, &huge);
    pl_arena_free(p, bytes);
    return huge;
}

void pl_model_seal(pl_model *m)
{
    if (m->options.share_fd >= 0 && m->arena)
        pl_arena_seal(m->arena, m->arena_bytes);
    pl_settle_start(&m->settle);
}

void pl_model_tune(pl_model *m, const pl_tuning *tuning)
{
    m->options.tuning = m->tables.tuning = *tuning;
}

void pl_model_free(pl_model *m)
{
    if (!m)
        return;
    if (m->pool)
        pl_pool_free(m->pool);
    pl_settle_stop(&m->settle);
    if (m->arena)
        pl_arena_free(m->arena, m->arena_bytes);
    if (m->work)
        pl_arena_free(m->work, m->work_bytes);
    for (int i = 0; m->vecs && i < m->plan.n_vecs; i++)
        free(m->vecs[i]);
    for (int i = 0; m->plan.mats && i < m->plan.n_mats; i++)
        free((void *)m->plan.mats[i].parts);
    for (int i = 0; m->plan.ropes && i < m->plan.n_ropes; i++)
        free((void *)m->plan.ropes[i].freq);
    const void *tables[] = {m->plan.ops,   m->plan.buf_dim, m->plan.segs,      m->plan.mats,      m->plan.vecs,
                            m->plan.ropes, m->plan.caches,  m->vecs,           m->mats,           m->bufs,
                            m->groups,     m->scratch,      m->sample_scratch, m->kernel_scratch, m->rope_cos,
                            m->rope_sin,   m->finish,       m->expert_room,    m->stacks,         m->plan.states,
                            m->state_at,   m->gathered,     m->products};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        free((void *)tables[i]);
    free(m);
}

void pl_model_info_get(const pl_model *m, pl_model_info *info)
{
    const pl_group *states = &m->groups[m->plan.n_caches];
    *info = (pl_model_info){
        .isa = m->tables.kernels->isa,
        .packed_bytes = (int64_t)m->arena_bytes,
        .work_bytes = (int64_t)m->work_bytes,
        .work = m->work,
        .pages = m->huge ? atomic_load(&m->settle.pages) : PL_PAGES_SMALL,
        .max_rows = m->options.max_rows,
        .checkpoint_bytes = m->plan.n_states ? (int64_t)states->state_bytes * states->marks : 0,
    };
}

pl_pool *pl_model_pool(pl_model *m)
{
    return m->pool;
}

int64_t pl_model_mat_bytes(const pl_model *m, int mat)
{
    return mat_bytes(&m->mats[mat], m->stacks[mat]);
}

const void *pl_model_mat_data(const pl_model *m, int mat)
{
    return m->mats[mat].data;
}

void pl_model_mat_row(const pl_model *m, int mat, int row, float *dst)
{
    const pl_mat *w = &m->mats[mat];
    const pl_mat part = pl_mat_part(w, row / w->rows);
    if (w->tile_bytes)
        m->tables.kernels->unpack_row[w->format->id](&part, row % w->rows, dst);
    else
        pl_decode(w->format, w->data + pl_row_bytes(w->format, w->k) * row, dst, w->k);
}

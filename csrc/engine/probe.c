/* The machine's limits, measured on the engine's threads with the peak loops of a tier. */
#include <stdlib.h>
#include <string.h>

#include "../cpu/arena.h"
#include "../cpu/team.h"
#include "../cpu/topology.h"
#include "../kernels/select.h"
#include "model.h"

#define UNIT 4096 /* shares are whole pages */

struct pl_probe {
    const pl_kernels *kernels;
    int threads;
    size_t bytes;
    int huge;     /* the second buffer has huge pages */
    int turns;    /* this processor reads fastest in turns (kernels/prefetch.h) */
    void *buf[2]; /* in 4 KB pages, or NULL; in 2 MB pages */
    /* the current run */
    int part, parts; /* of what is touched */
    int kind;
    int64_t n, ns;
    double done;
    struct each {
        double done;
        int64_t ns;
        char line[48]; /* each has a cache line */
    } *each;
    const pl_product *products;
    int count;
    int64_t until; /* no product begins later */
    int64_t *took; /* nanoseconds of each product */
    void *work; /* what a product needs besides its weights; kept, so that a measurement does not wait for new memory */
    size_t work_bytes;
};

#define CHAIN 16

/* Additions that each wait for the one before: one per cycle, whatever else uses the core's ports. */
static double count_cycles(int64_t n)
{
    uint64_t x = 0, y = (uint64_t)n;
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAIN; j++) {
            x += y;
            __asm__ volatile("" : "+r"(x));
        }
    return (double)CHAIN * (double)n;
}

static double compute(const pl_probe *p)
{
    const pl_peak *peak = &p->kernels->peak;
    switch (p->kind) {
    case PL_PROBE_I8: return peak->i8(p->n);
    case PL_PROBE_WIDE: return peak->wide(p->n);
    case PL_PROBE_BF16: return peak->bf16(p->n);
    case PL_PROBE_F32: return peak->f32(p->n);
    default: return count_cycles(p->n);
    }
}

static void run_job(void *arg, const pl_team *team, int tid)
{
    pl_probe *p = arg;
    int size = pl_team_size(team), reads = p->kind == PL_PROBE_READ_SMALL || p->kind == PL_PROBE_READ_HUGE;
    int64_t start, from, to;
    double done = 0, inverse = 0;
    pl_share((int64_t)p->bytes, UNIT, tid, size, &from, &to);
    pl_team_barrier(team);
    start = reads ? pl_now_ns() : pl_thread_ns();
    if (reads) {
        const char *data = p->buf[p->kind == PL_PROBE_READ_HUGE];
        for (int64_t i = 0; i < p->n; i++) {
            done += (double)(to - from);
            done += p->kernels->peak.read(data + from, (size_t)(to - from), p->turns) == 1 ? 1e-3 : 0;
        }
    } else {
        done = compute(p);
        p->each[tid].ns = pl_thread_ns() - start;
    }
    p->each[tid].done = done;
    pl_team_barrier(team);
    if (tid)
        return;
    p->ns = pl_now_ns() - start;
    p->done = 0;
    for (int i = 0; i < size; i++) {
        p->done += p->each[i].done;
        inverse += 1.0 / (double)(p->each[i].ns > 0 ? p->each[i].ns : 1);
    }
    if (!reads)
        p->ns = (int64_t)((double)size / inverse);
}

/* Each thread touches a part of the share that it will read, as when weights are packed. */
static void touch_job(void *arg, const pl_team *team, int tid)
{
    pl_probe *p = arg;
    int64_t from, to;
    int64_t a, b;
    pl_share((int64_t)p->bytes, UNIT, tid, pl_team_size(team), &from, &to);
    pl_share(to - from, UNIT, p->part, p->parts, &a, &b);
    for (int i = 0; i < 2; i++)
        if (p->buf[i])
            memset((char *)p->buf[i] + from + a, 1, (size_t)(b - a));
}

static pl_status run(pl_probe *p, pl_job_fn fn, pl_error *error)
{
    pl_job *job = pl_job_submit(fn, p, p->threads);
    if (!job)
        return pl_fail(error, PL_E_MEMORY, "no memory or no thread for a measurement");
    while (pl_job_wait(job, 1000) == 0)
        ;
    pl_job_free(job);
    return PL_OK;
}

pl_status pl_probe_new(int isa, int threads, int64_t bytes, int small, pl_probe **out, pl_error *error)
{
    const pl_kernels *kernels = pl_kernels_get(isa);
    pl_tuning tuning;
    *out = NULL;
    if (!kernels)
        return pl_fail(error, PL_E_ISA, "the kernels of that instruction set are not available");
    if (threads < 1 || threads > PL_MOST_THREADS || bytes < UNIT || bytes > (INT64_C(1) << 46))
        return pl_fail(error, PL_E_ARGUMENT, "threads or bytes are out of range");
    pl_probe *p = calloc(1, sizeof *p);
    if (!p)
        return pl_fail(error, PL_E_MEMORY, "no memory for a measurement");
    pl_tuning_default(isa, &tuning);
    p->kernels = kernels;
    p->turns = tuning.ahead_turns;
    p->threads = threads;
    p->bytes = (size_t)bytes / UNIT * UNIT;
    p->each = calloc((size_t)threads, sizeof *p->each);
    p->buf[0] = small ? pl_arena_small(p->bytes) : NULL;
    p->buf[1] = pl_arena_alloc(p->bytes, &p->huge);
    if (!p->each || (small && !p->buf[0]) || !p->buf[1]) {
        size_t size = p->bytes >> 20;
        pl_probe_free(p);
        return pl_fail(error, PL_E_MEMORY, "no memory for buffers of %zu MB", size);
    }
    *out = p;
    return PL_OK;
}

pl_status pl_probe_touch(pl_probe *p, int part, int parts, pl_error *error)
{
    p->part = part;
    p->parts = parts;
    return run(p, touch_job, error);
}

void pl_probe_free(pl_probe *p)
{
    if (!p)
        return;
    for (int i = 0; i < 2; i++)
        if (p->buf[i])
            pl_arena_free(p->buf[i], p->bytes);
    free(p->work);
    free(p->each);
    free(p);
}

int pl_probe_has(const pl_probe *p, int kind)
{
    return kind == PL_PROBE_READ_SMALL  ? p->buf[0] != NULL
           : kind == PL_PROBE_READ_HUGE ? p->huge
           : kind == PL_PROBE_WIDE      ? p->kernels->peak.wide != NULL
           : kind == PL_PROBE_BF16      ? p->kernels->peak.bf16 != NULL
                                        : 1;
}

pl_status pl_probe_run(pl_probe *p, int kind, int64_t n, double *done, int64_t *ns, pl_error *error)
{
    if (kind < 0 || kind >= PL_N_PROBES || n < 1 || !pl_probe_has(p, kind))
        return pl_fail(error, PL_E_ARGUMENT, "this measurement is not available on this machine");
    p->kind = kind;
    p->n = n;
    pl_status status = run(p, run_job, error);
    *done = p->done;
    *ns = p->ns;
    return status;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

typedef struct laid {
    pl_mat weights;
    pl_acts acts;          /* of the first thread */
    size_t kernel_scratch; /* bytes for each thread */
    float *y;              /* (n, rows of all tiles) */
    size_t bytes;          /* of all but the weights */
} laid;

/* A product's memory from `base` on; base NULL: only its bytes. */
static laid lay_out(const pl_probe *p, const pl_product *o, void *base)
{
    const pl_format *f = pl_format_from_gguf(o->format);
    const size_t n = (size_t)o->n, k = (size_t)o->k, terms = (size_t)o->terms;
    const int64_t tile_bytes = pl_tile_bytes(f, o->k);
    laid l = {{f, (int)(o->bytes / tile_bytes) * PL_TILE, o->k, tile_bytes, (const uint8_t *)p->buf[1] + o->from},
              .kernel_scratch = (pl_kernels_scratch(p->kernels) + 63) / 64 * 64};
    void *const scratch = pl_cut(base, &l.bytes, l.kernel_scratch * (size_t)p->threads);
    l.y = pl_cut(base, &l.bytes, n * (size_t)l.weights.rows * sizeof *l.y);
    int8_t *q = pl_cut(base, &l.bytes, n * terms * k);
    float *s = pl_cut(base, &l.bytes, n * k / 32 * sizeof *s);
    int16_t *sums = pl_cut(base, &l.bytes, n * terms * k / 16 * sizeof *sums);
    l.acts = (pl_acts){.k = o->k,
                       .terms = o->terms,
                       .stored = o->terms,
                       .q = q,
                       .s = s,
                       .sums = sums,
                       .scratch = scratch,
                       .tuning = &o->tuning};
    return l;
}

static void fill(const laid *l, const pl_product *o)
{
    const size_t n = (size_t)o->n, k = (size_t)o->k, terms = (size_t)o->terms;
    for (size_t i = 0; i < n * terms * k; i++)
        ((int8_t *)l->acts.q)[i] = (int8_t)(i * 37 % 255 - 127);
    for (size_t i = 0; i < n * k / 32; i++)
        ((float *)l->acts.s)[i] = 1;
    memset((int16_t *)l->acts.sums, 0, n * terms * k / 16 * sizeof *l->acts.sums);
}

static void product_job(void *arg, const pl_team *team, int tid)
{
    const pl_probe *p = arg;
    for (int i = 0; i < p->count; i++) {
        const pl_product *o = &p->products[i];
        const laid l = lay_out(p, o, p->work);
        const pl_mat *w = &l.weights;
        pl_acts x = l.acts;
        int64_t from, to;
        pl_share(w->rows / PL_TILE, 1, tid, pl_team_size(team), &from, &to);
        x.scratch = (uint8_t *)x.scratch + (size_t)tid * l.kernel_scratch;
        if (tid == 0) {
            fill(&l, o);
            p->took[i] = pl_now_ns() < p->until ? 0 : -1;
        }
        if (o->cold)
            pl_flush(w->data + from * w->tile_bytes, (size_t)((to - from) * w->tile_bytes));
        pl_team_barrier(team);
        if (p->took[i])
            return;
        const int64_t start = pl_now_ns();
        for (int t = 0; t < o->times && from < to; t++)
            p->kernels->matmul[w->format->id](w, (int)from, (int)to, &x, o->n, l.y, w->rows);
        pl_team_barrier(team);
        if (tid == 0)
            p->took[i] = pl_now_ns() - start;
    }
}

pl_status pl_probe_products(pl_probe *p, const pl_product *products, int count, int64_t limit, int64_t *ns,
                            pl_error *error)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++) {
        const pl_product *o = &products[i];
        const pl_format *f = o->format < 0 ? NULL : pl_format_from_gguf(o->format);
        if (!f || f->is_float || o->k < 256 || o->k > 65536 || o->k % 256 || o->n < 1 || o->n > 4096 || o->terms < 1 ||
            o->terms > 2 || o->times < 1 || o->from < 0 || o->from % 64 || o->bytes < 1 ||
            o->bytes > (int64_t)p->bytes - o->from || pl_tuning_wrong(&o->tuning))
            return pl_fail(error, PL_E_ARGUMENT, "a number of the product is out of range");
        const int64_t tiles = o->bytes / pl_tile_bytes(f, o->k);
        if (tiles < 1 || tiles > INT32_MAX / PL_TILE)
            return pl_fail(error, PL_E_ARGUMENT, "the part of the buffer has room for no tile, or for too many");
        const laid l = lay_out(p, o, NULL);
        bytes = l.bytes > bytes ? l.bytes : bytes;
    }
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > p->work_bytes) {
        free(p->work);
        p->work_bytes = 0;
        p->work = aligned_alloc(64, bytes);
        if (!p->work)
            return pl_fail(error, PL_E_MEMORY, "no memory for a product");
        memset(p->work, 0, bytes);
        p->work_bytes = bytes;
    }
    p->products = products;
    p->count = count;
    p->took = ns;
    for (int i = 0; i < count; i++)
        ns[i] = -1;
    p->until = pl_now_ns() + limit;
    return run(p, product_job, error);
}

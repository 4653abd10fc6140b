/* Quantises the rows of a matrix on the threads of the team. */
#include "fit.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "../cpu/detect.h"
#include "../cpu/team.h"
#include "../kernels/select.h"

enum { PL_LINE_FLOATS = 16 };

struct pl_quantizing {
    const pl_quantizer *q;
    const pl_kernels *quick; /* or NULL: the whole search */
    const pl_format *from;
    const uint8_t *src;
    const float *importance;
    float *ones; /* (block) the importance if none is given */
    float *room; /* (threads, stride) a decoded row of each thread, at a cache line of its own */
    int64_t stride;
    int64_t rows, k;
    uint8_t *out;
    pl_job *job;
    atomic_int cancel;
    atomic_llong done;
    atomic_llong wrong; /* first row that cannot be held, or `rows` */
};

static int quantize_row(const pl_quantizing *w, int64_t row, float *x)
{
    const pl_quantizer *q = w->q;
    uint8_t *out = w->out + row * (w->k / q->block * q->block_bytes);
    int wrong = 0;
    const uint8_t *src = w->src + row * pl_row_bytes(w->from, w->k);
    if (w->quick && w->from->id == PL_BF16)
        w->quick->from_bf16(src, w->k, x);
    else if (w->quick && w->quick->from_f16 && w->from->id == PL_F16)
        w->quick->from_f16(src, w->k, x);
    else
        pl_decode(w->from, src, x, w->k);
    if (w->quick)
        return pl_quick(q, w->quick, x, w->k / q->block, out);
    for (int64_t i = 0; i < w->k; i += q->block, out += q->block_bytes)
        wrong |= q->run(q, x + i, w->importance ? w->importance + i : w->ones, out);
    return wrong;
}

static void work_on(void *arg, const pl_team *team, int tid)
{
    pl_quantizing *w = arg;
    int64_t from, to;
    pl_share(w->rows, 1, tid, pl_team_size(team), &from, &to);
    for (int64_t row = from; row < to && !atomic_load_explicit(&w->cancel, memory_order_relaxed); row++) {
        if (quantize_row(w, row, w->room + tid * w->stride)) {
            long long known = atomic_load(&w->wrong);
            while (row < known && !atomic_compare_exchange_weak(&w->wrong, &known, row)) {}
            return;
        }
        atomic_fetch_add_explicit(&w->done, 1, memory_order_relaxed);
    }
}

static void free_all(pl_quantizing *w)
{
    free(w->ones);
    free(w->room);
    free(w);
}

pl_quantizing *pl_quantizing_start(const pl_quantizer *q, int from, const uint8_t *src, const float *importance,
                                   int64_t rows, int64_t k, uint8_t *out, int quick, int threads)
{
    pl_quantizing *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->q = q;
    w->quick = quick && !importance && pl_quick_has(q) ? pl_kernels_get((int)pl_isa_best()) : NULL;
    w->from = pl_format_from_gguf(from);
    w->src = src;
    w->importance = importance;
    w->ones = malloc((size_t)q->block * sizeof(float));
    w->stride = (k + PL_LINE_FLOATS - 1) / PL_LINE_FLOATS * PL_LINE_FLOATS;
    w->room = aligned_alloc(64, (size_t)threads * (size_t)w->stride * sizeof(float));
    w->rows = rows;
    w->k = k;
    w->out = out;
    atomic_init(&w->wrong, rows);
    for (int i = 0; w->ones && i < q->block; i++)
        w->ones[i] = 1.0f;
    if (w->from && w->ones && w->room)
        w->job = pl_job_submit(work_on, w, threads);
    if (w->job)
        return w;
    free_all(w);
    return NULL;
}

int pl_quantizing_wait(pl_quantizing *w, int ms)
{
    return pl_job_wait(w->job, ms);
}

void pl_quantizing_cancel(pl_quantizing *w)
{
    atomic_store(&w->cancel, 1);
}

double pl_quantizing_progress(pl_quantizing *w)
{
    return w->rows > 0 ? (double)atomic_load(&w->done) / (double)w->rows : 1.0;
}

int64_t pl_quantizing_finish(pl_quantizing *w)
{
    const int64_t wrong = atomic_load(&w->wrong);
    const int64_t found = wrong < w->rows ? wrong : -1;
    pl_job_free(w->job);
    free_all(w);
    return found;
}

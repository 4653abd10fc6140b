/* Scores and attention weights of one layer, recomputed for inspection from the queries and keys of a pass. The
 * attention of a pass never holds them in memory. */
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 64 /* query rows per work item: their scores of 512 keys fit the second-level cache */

typedef struct body {
    pl_attention a; /* its arrays are the caller's */
    const pl_format *format;
    pl_mat *keys;   /* (kv_heads), packed */
    uint8_t *tiles; /* packed data of `keys` */
    atomic_int next;
} body;

/* The keys [*from, *to) that a row sees. */
static void seen(const pl_attention *a, int pos, int *from, int *to)
{
    *from = a->window && pos >= a->window ? pos - a->window + 1 : 0;
    *to = a->causal ? pos + 1 : !a->window || a->window > a->n - pos ? a->n : pos + a->window;
}

/* Scores -> weights, in place. sink: one more score, whose weight is left out; or NULL. */
static void weigh(const pl_kernels *k, float *w, int n, const float *sink)
{
    float top = k->max(w, n), share = 1;
    if (sink) {
        float e = *sink - top;
        k->exp(&e, 1, &e);
        double sum = k->sum_exp(w, n, top, 1.0f);
        share = (float)(sum / (sum + e));
    }
    k->softmax(w, n);
    if (sink)
        k->scale(w, share, n, w);
}

/* One head's rows [r0, r1). */
static void run_item(const pl_model_tables *m, const body *b, int head, int r0, int r1, void *scratch)
{
    const pl_kernels *k = m->kernels;
    const pl_attention *a = &b->a;
    size_t first = ((size_t)head * a->m + r0);
    int from, to;
    seen(a, a->position[r0], &from, &to);
    int tile0 = from / PL_TILE;
    seen(a, a->position[r1 - 1], &from, &to);
    int tile1 = (to - 1) / PL_TILE + 1;
    int end = tile1 * PL_TILE < a->n ? tile1 * PL_TILE : a->n;
    float *y = (a->scores ? a->scores : a->weights) + first * a->n;
    pl_acts q = {
        .k = a->d, .terms = 1, .f = a->q + first * a->d, .f_stride = a->d, .scratch = scratch, .tuning = &m->tuning};
    k->matmul[b->format->id](&b->keys[a->group[head]], tile0, tile1, &q, r1 - r0, y, a->n);
    for (int i = r0; i < r1; i++, y += a->n) {
        seen(a, a->position[i], &from, &to);
        k->scale(y + from, a->scale, to - from, y + from);
        if (a->cap > 0)
            k->softcap(y + from, a->cap, to - from, y + from);
        float *w = a->weights ? a->weights + ((size_t)head * a->m + i) * a->n : NULL;
        if (a->scores) {
            for (int j = 0; j < from; j++)
                y[j] = -INFINITY;
            for (int j = to; j < a->n; j++)
                y[j] = -INFINITY;
            if (w)
                memcpy(w + from, y + from, sizeof(float) * (size_t)(to - from));
        } else {
            memset(y + tile0 * PL_TILE, 0, sizeof(float) * (size_t)(from - tile0 * PL_TILE));
            memset(y + to, 0, sizeof(float) * (size_t)(end - to));
        }
        if (w)
            weigh(k, w + from, to - from, a->sinks ? a->sinks + head : NULL);
    }
}

static void attention_job(void *arg, const pl_team *team, int tid)
{
    pl_task *task = arg;
    body *b = task->body;
    const pl_attention *a = &b->a;
    const pl_kernels *k = task->model->tables.kernels;
    int64_t from, to;
    pl_share(a->n, PL_TILE, tid, pl_team_size(team), &from, &to);
    for (int g = 0; g < a->kv_heads && from < to; g++)
        k->pack[b->format->id]((const uint8_t *)(a->k + ((size_t)g * a->n + from) * a->d), (int)(to - from), a->d,
                               (uint8_t *)b->keys[g].data + from / PL_TILE * b->keys[g].tile_bytes);
    pl_team_barrier(team);
    int blocks = (a->m + ROWS - 1) / ROWS, i;
    while ((i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed)) < blocks * a->heads) {
        if (atomic_load_explicit(&task->cancel, memory_order_relaxed))
            return;
        int r0 = i % blocks * ROWS;
        run_item(&task->model->tables, b, i / blocks, r0, r0 + ROWS < a->m ? r0 + ROWS : a->m,
                 task->model->kernel_scratch[tid]);
    }
}

static pl_status attention_finish(pl_task *task, pl_error *error)
{
    body *b = task->body;
    free(b->tiles);
    free(b->keys);
    free(b);
    return atomic_load(&task->cancel) ? pl_fail(error, PL_E_CANCELLED, "the attention was cancelled") : PL_OK;
}

static pl_status check(const pl_attention *a, pl_error *error)
{
    if (a->heads < 1 || a->kv_heads < 1 || a->m < 1 || a->n < 1 || a->d < 1 || a->window < 0 || !a->q || !a->k ||
        !a->group || !a->position || !(a->scores || a->weights) || (int64_t)a->heads * a->m > INT32_MAX)
        return pl_fail(error, PL_E_ARGUMENT, "attention of %d heads, %d rows, %d keys, %d wide", a->heads, a->m, a->n,
                       a->d);
    for (int i = 0; i < a->heads; i++)
        if (a->group[i] < 0 || a->group[i] >= a->kv_heads)
            return pl_fail(error, PL_E_ARGUMENT, "head %d: KV head %d of %d", i, a->group[i], a->kv_heads);
    for (int i = 0; i < a->m; i++)
        if (a->position[i] < 0 || a->position[i] >= a->n || (i && a->position[i] <= a->position[i - 1]))
            return pl_fail(error, PL_E_ARGUMENT, "row %d: position %d does not ascend below %d", i, a->position[i],
                           a->n);
    return PL_OK;
}

pl_status pl_attention_start(pl_model *m, const pl_attention *a, pl_task **out, pl_error *error)
{
    pl_status status = check(a, error);
    if (status)
        return status;
    const pl_format *format = pl_format_get(PL_F32);
    size_t tile = (size_t)pl_tile_bytes(format, a->d), one = tile * (size_t)((a->n + PL_TILE - 1) / PL_TILE);
    pl_task *task = calloc(1, sizeof *task);
    body *b = calloc(1, sizeof *b);
    if (task && b) {
        b->keys = calloc((size_t)a->kv_heads, sizeof *b->keys);
        b->tiles = aligned_alloc(64, (one * (size_t)a->kv_heads + 63) / 64 * 64);
    }
    if (!task || !b || !b->keys || !b->tiles) {
        if (b) {
            free(b->keys);
            free(b->tiles);
        }
        free(task);
        free(b);
        return pl_fail(error, PL_E_MEMORY, "no memory for the attention of %d keys", a->n);
    }
    b->a = *a;
    b->format = format;
    for (int g = 0; g < a->kv_heads; g++)
        b->keys[g] = (pl_mat){
            .format = format, .rows = a->n, .k = a->d, .tile_bytes = (int64_t)tile, .data = b->tiles + g * one};
    *task = (pl_task){.model = m, .body = b, .finish = attention_finish, .total = 1};
    return pl_task_start(task, attention_job, out, error);
}

/* Routing: which experts each row is given to, and with what weights. */
#include <math.h>
#include <string.h>

#include "ops.h"

const char *pl_check_route(const pl_plan *p, const pl_op *op)
{
    int n = p->buf_dim[op->tmp], k = op->top_k;
    if (op->tmp == op->in || op->tmp == op->out)
        return "its temporary";
    if (n > PL_MAX_EXPERTS || k < 1 || k > PL_MAX_TOP_K || k > n)
        return "its number of experts";
    if (p->buf_dim[op->out] != 2 * k)
        return "its output's width";
    if (op->route & ~PL_ROUTE_ALL || !(op->limit >= 0))
        return "its kind of weights";
    if (op->route & PL_ROUTE_SPARSE && (op->route != PL_ROUTE_SPARSE || op->groups || op->vec >= 0))
        return "its kind of weights";
    if (op->groups && (op->groups < 1 || n % op->groups || op->group_k < 1 || op->group_k > op->groups ||
                       n / op->groups * op->group_k < k))
        return "its groups";
    return (op->vec < 0 || pl_has_vec(p, op->vec, n)) && (op->vec2 < 0 || pl_has_vec(p, op->vec2, n)) ? NULL
                                                                                                      : "its vector";
}

/* The free place with the greatest score, the first of equal ones; of n places, at least one is free. */
static int best(const float *score, const uint8_t *taken, int n)
{
    int at = -1;
    for (int i = 0; i < n; i++)
        if (!taken[i] && (at < 0 || score[i] > score[at]))
            at = i;
    return at;
}

/* Marks the experts of all groups but the best ones as taken. */
static void leave_groups(const pl_op *op, const float *score, int n, uint8_t *taken)
{
    int each = n / op->groups;
    float of[PL_MAX_EXPERTS];
    uint8_t chosen[PL_MAX_EXPERTS] = {0};
    for (int g = 0; g < op->groups; g++) {
        const float *s = score + g * each;
        uint8_t *t = taken + g * each;
        int first = best(s, t, each);
        of[g] = s[first];
        if (op->route & PL_ROUTE_GROUP_SUM2 && each > 1) {
            t[first] = 1;
            of[g] += s[best(s, t, each)];
            t[first] = 0;
        }
    }
    for (int i = 0; i < op->group_k; i++)
        chosen[best(of, chosen, op->groups)] = 1;
    for (int g = 0; g < op->groups; g++)
        if (!chosen[g])
            memset(taken + g * each, 1, (size_t)each);
}

/* Marks the top_k experts of a row. score: what they are chosen by. */
static void choose(const pl_op *op, const float *score, int n, uint8_t *chosen)
{
    uint8_t taken[PL_MAX_EXPERTS] = {0};
    if (op->groups)
        leave_groups(op, score, n, taken);
    memset(chosen, 0, (size_t)n);
    for (int i = 0; i < op->top_k; i++) {
        int e = best(score, taken, n);
        taken[e] = chosen[e] = 1;
    }
}

static void sigmoid(const pl_kernels *k, float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = -x[i];
    k->exp(x, n, x);
    for (int i = 0; i < n; i++)
        x[i] = 1.0f / (1.0f + x[i]);
}

/* SparseMixer (Liu et al. 2023), without training's noise: the best expert's weight is its share of a softmax over
 * those whose scores are near its own, within 2 limit times the greater of the best score and the other's magnitude.
 * Then the same for the best of the experts left. x (n): a row's scores; y (2 k): experts, then weights. */
static void sparse_row(const pl_kernels *k, const pl_op *op, const float *x, int n, float *y)
{
    uint8_t taken[PL_MAX_EXPERTS] = {0};
    float weight[PL_MAX_EXPERTS];
    for (int i = 0; i < op->top_k; i++) {
        float near[PL_MAX_EXPERTS];
        int at = 0, found = 0, e = best(x, taken, n);
        for (int j = 0; j < n; j++) {
            float size = fabsf(x[j]) > x[e] ? fabsf(x[j]) : x[e];
            if (taken[j] || (x[e] - x[j]) / size > 2.0f * op->limit)
                continue;
            if (j == e)
                at = found;
            near[found++] = x[j];
        }
        k->softmax(near, found);
        taken[e] = 1;
        weight[e] = near[at] * op->scale;
    }
    for (int e = 0, i = 0; e < n; e++)
        if (taken[e]) {
            y[i] = (float)e;
            y[op->top_k + i++] = weight[e];
        }
}

/* The same for other kinds of weights. x (n): overwritten. */
static void usual_row(const pl_model_tables *m, const pl_op *op, float *x, int n, float *y)
{
    const pl_kernels *k = m->kernels;
    float *weight = y + op->top_k, sum = 0.0f;
    uint8_t chosen[PL_MAX_EXPERTS];
    int found = 0, raw = op->vec < 0 && !op->groups; /* scores still differ where softmax rounds to equal values */
    if (raw)
        choose(op, x, n, chosen);
    if (op->route & PL_ROUTE_SIGMOID)
        sigmoid(k, x, n);
    else if (!(op->route & PL_ROUTE_TOP_FIRST))
        k->softmax(x, n);
    if (!raw) {
        float biased[PL_MAX_EXPERTS];
        if (op->vec >= 0)
            k->add(x, m->vecs[op->vec], n, biased);
        choose(op, op->vec >= 0 ? biased : x, n, chosen);
    }
    for (int e = 0; e < n; e++)
        if (chosen[e]) {
            y[found] = (float)e;
            weight[found++] = x[e];
        }
    if (op->route & PL_ROUTE_TOP_FIRST && !(op->route & PL_ROUTE_SIGMOID))
        k->softmax(weight, found);
    for (int i = 0; i < found; i++)
        sum += weight[i];
    sum += op->limit;
    for (int i = 0; i < found; i++) {
        if (op->route & PL_ROUTE_RENORM)
            weight[i] /= sum;
        weight[i] *= op->scale;
    }
}

/* x (n): a row's scores, overwritten; y (2 k): experts, then weights. */
static void route_row(const pl_model_tables *m, const pl_op *op, float *x, int n, float *y)
{
    if (op->route & PL_ROUTE_SPARSE)
        sparse_row(m->kernels, op, x, n, y);
    else
        usual_row(m, op, x, n, y);
    for (int i = 0; op->vec2 >= 0 && i < op->top_k; i++)
        y[op->top_k + i] *= m->vecs[op->vec2][(int)y[i]];
}

void pl_op_route(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *scores = &m->bufs[op->tmp], *out = &m->bufs[op->out];
    float copy[PL_MAX_EXPERTS];
    int from, to, n = scores->dim;
    pl_my_tiles(r, op, 0, tid, &from, &to);
    if (from < to)
        pl_segment_run(r, &m->segs[op->seg], from, to, &m->bufs[op->in], 0, r->n_rows, scores->f, n, tid, 0);
    pl_team_barrier(r->team); /* a choice needs the scores of all experts */
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        memcpy(copy, scores->f + (size_t)i * n, sizeof(float) * (size_t)n);
        route_row(m, op, copy, n, out->f + (size_t)i * out->dim);
    }
}

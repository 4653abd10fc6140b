/* What an operation needs to run, and what the engine knows of each kind (table.c).
 *
 * Every thread of the team calls the same function; an operation shares out its work by rows or by
 * columns (tiles) so that nobody's result depends on how many threads there are. The executor puts a barrier between
 * two operations unless both share by rows.
 */
#ifndef PL_OPS_H
#define PL_OPS_H

#include <stdatomic.h>

#include "../cache/sequence.h"
#include "../cpu/team.h"
#include "../kernels/kernels.h"
#include "table.h"

#define PL_HEAD_ROWS 16   /* logits are computed for this many rows at a time */
#define PL_CHUNK_KEYS 256 /* attention: keys of one chunk, merged left to right */
#define PL_CHUNK_PAGES (PL_CHUNK_KEYS / PL_PAGE)

/* Forms of a buffer's rows that its readers want besides float32. */
enum { PL_FORM_Q8 = 1, PL_FORM_BF16 = 2 };

/* A buffer of the plan: (rows, dim) float32, and the forms that linears read. */
typedef struct pl_buf {
    int dim, forms, terms;
    float *f;      /* (rows, dim) */
    int8_t *q;     /* (rows, terms, dim) */
    float *s;      /* (rows, dim / 32) */
    int16_t *sums; /* (rows, terms, dim / 16) */
    uint16_t *b;   /* (rows, dim rounded up to 2) */
} pl_buf;

/* Query rows of one sequence that attend together. */
typedef struct pl_qtile {
    int32_t row, n; /* rows of the pass */
} pl_qtile;

/* Takes the logits of the wanted row number `want`; may overwrite them. Called once per row, from any thread.
 * Returns 0, or what is wrong with them: PL_BAD_*. */
typedef int (*pl_consume_fn)(void *arg, int want, float *logits, int tid);

typedef struct pl_model_tables {
    const pl_kernels *kernels;
    const pl_tuning *tuning;
    const pl_segment *segs;
    const pl_mat *mats; /* packed; a plain one has its file's rows in `data` */
    const float *const *vecs;
    const pl_rope_desc *ropes;
    int n_ropes;
    const pl_cache_desc *caches;
    const pl_group *groups;
    pl_kv_type kv;
    int vocab;
    pl_buf *bufs;
    const uint8_t *finish; /* per operation: forms of its output that a later one reads */
} pl_model_tables;

/* One forward pass. */
typedef struct pl_run {
    const pl_model_tables *m;
    const pl_team *team;
    const pl_op *ops;
    int n_rows;
    const pl_row *rows;
    pl_seq *const *seqs;
    atomic_int *status;                       /* per sequence: PL_BAD_* */
    float *const *rope_cos, *const *rope_sin; /* per rope: (n_rows, n_rot / 2) */
    const pl_qtile *qtiles;
    int n_qtiles, qtile_rows;    /* at most qtile_rows rows each */
    float *const *scratch;       /* per thread: pl_attend_scratch() floats */
    void *const *kernel_scratch; /* per thread: pl_kernels_scratch() bytes */
    float *partial;              /* states of chunks: (items, max_chunks) x pl_attend_state() floats */
    int max_chunks;              /* of any row of this pass */
    atomic_int *next;            /* (n_ops, 2) work counters, zero at the start */
    const int32_t *wants;        /* (n_wants) rows that ask for logits, ascending */
    int n_wants;
    pl_buf *head_rows;     /* normed rows of one block of the head */
    float *logits;         /* (PL_HEAD_ROWS, vocab), unless stored directly */
    float *store;          /* (n_wants, vocab) or NULL */
    pl_consume_fn consume; /* else */
    void *consume_arg;
} pl_run;

/* The form that products with matrices of this format read besides float32, or 0. */
int pl_format_form(const pl_format *f);
/* Cuts `bytes` off a block that starts at base (NULL: only counts). */
void *pl_cut(void *base, size_t *at, size_t bytes);
/* Memory of a buffer's `rows` rows. */
void pl_buf_layout(pl_buf *b, size_t rows, void *base, size_t *at);
/* Writes columns [from, to) of a row in `forms`; from and to: multiples of 32, or the end. */
void pl_buf_finish(const pl_kernels *k, const pl_buf *b, int forms, int row, int from, int to);
/* Row 0 and following of a buffer, as a kernel reads them. */
pl_acts pl_buf_acts(const pl_buf *b, int row);

/* Something is wrong with a row: its sequence fails. */
static inline void pl_bad(const pl_run *r, int row, int what)
{
    atomic_fetch_or_explicit(&r->status[r->rows[row].seq], what, memory_order_relaxed);
}

/* The forms that an operation of the pass must write of its output. */
static inline int pl_finishes(const pl_run *r, const pl_op *op)
{
    return r->m->finish[op - r->ops];
}

/* This thread's rows [*from, *to) of the pass. */
static inline void pl_my_rows(const pl_run *r, int tid, int *from, int *to)
{
    int64_t a, b;
    pl_share(r->n_rows, 1, tid, pl_team_size(r->team), &a, &b);
    *from = (int)a;
    *to = (int)b;
}

/* Rows whose products are used again at once: so many that weights are read from memory seldom, so few that the products
 * of 32 tiles are still in the second-level cache. */
#define PL_ROWS_AT_ONCE 96

static inline int pl_rows_at_once(const pl_run *r, int row)
{
    return r->n_rows - row < PL_ROWS_AT_ONCE ? r->n_rows - row : PL_ROWS_AT_ONCE;
}

/* y(n, stride)[column + r] = mats[seg.mat] row r . acts + bias for rows of tiles [tile0, tile1) of the segment, on
 * thread tid. */
void pl_segment_run(const pl_run *r, const pl_segment *seg, int tile0, int tile1, const pl_buf *in, int row0, int n,
                    float *y, ptrdiff_t y_stride, int tid);
int pl_segment_tiles(const pl_model_tables *m, const pl_segment *seg);
/* This thread's tiles [*from, *to) of segment s. Segments side by side are shared out together; other operations have one,
 * or two with the same tiles. */
void pl_my_tiles(const pl_run *r, const pl_op *op, int s, int tid, int *from, int *to);

/* Reads the first weights that this thread will need in `op` into its cache: called before a barrier, where time is
 * lost waiting. */
void pl_op_prefetch(const pl_run *r, const pl_op *op, int tid);

/* The norm of a row of n by norm, linear_add or head; y may be x. */
void pl_norm_row(const pl_model_tables *m, const pl_op *op, const float *x, int n, float *y);

void pl_op_embed(const pl_run *r, const pl_op *op, int tid);
void pl_op_norm(const pl_run *r, const pl_op *op, int tid);
void pl_op_linear(const pl_run *r, const pl_op *op, int tid);
void pl_op_head_norm(const pl_run *r, const pl_op *op, int tid);
void pl_op_rope_append(const pl_run *r, const pl_op *op, int tid);
void pl_op_attend(const pl_run *r, const pl_op *op, int tid);
void pl_op_linear_add(const pl_run *r, const pl_op *op, int tid);
void pl_op_glu(const pl_run *r, const pl_op *op, int tid);
void pl_op_head(const pl_run *r, const pl_op *op, int tid);
void pl_op_scale_add(const pl_run *r, const pl_op *op, int tid);

/* Checks of what the table does not say: what does not fit, or NULL. Buffers and segments have been checked. */
const char *pl_check_norm(const pl_plan *p, const pl_op *op);
const char *pl_check_head_norm(const pl_plan *p, const pl_op *op);
const char *pl_check_rope_append(const pl_plan *p, const pl_op *op);
const char *pl_check_attend(const pl_plan *p, const pl_op *op);
const char *pl_check_linear_add(const pl_plan *p, const pl_op *op);
const char *pl_check_glu(const pl_plan *p, const pl_op *op);
const char *pl_check_head(const pl_plan *p, const pl_op *op);
const char *pl_check_scale_add(const pl_plan *p, const pl_op *op);
/* Of an operation that norms rows of n. */
const char *pl_check_norm_of(const pl_plan *p, const pl_op *op, int n);
/* Of operations on queries, keys and values side by side; and of those on a layer of the cache. */
const char *pl_check_heads(const pl_plan *p, const pl_op *op);
const char *pl_check_cache_layer(const pl_plan *p, const pl_op *op);

static inline int pl_inside(int32_t id, int32_t n)
{
    return id >= 0 && id < n;
}

/* A vector of n floats. */
static inline int pl_has_vec(const pl_plan *p, int32_t id, int32_t n)
{
    return pl_inside(id, p->n_vecs) && p->vecs[id].n == n;
}

/* Cosines and sines of this thread's rows, for every rope of the plan. */
void pl_rope_angles(const pl_run *r, int tid);

/* Floats of one attention state (top, sum, acc) of `m` rows of width dv. */
static inline size_t pl_attend_state(int m, int dv)
{
    return (size_t)m * (2 + (size_t)dv);
}
/* Floats of scratch per thread for a cache group with tiles of `rows` rows. */
size_t pl_attend_scratch(const pl_cache_desc *c, int rows);
/* Query rows of a tile for a group: enough heads x rows to share each key among, few enough for the first cache. */
int pl_attend_tile_rows(const pl_cache_desc *c);

#endif

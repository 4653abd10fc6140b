/* The engine's model and task structures. */
#ifndef PL_MODEL_H
#define PL_MODEL_H

#include <stdatomic.h>

#include "../cpu/clock.h"
#include "../cpu/settle.h"
#include "../ops/ops.h"
#include "../pellucid.h"

struct pl_model {
    pl_options options;
    pl_plan plan; /* tables are the model's own copies */
    pl_model_tables tables;
    pl_mat *mats;
    int32_t *stacks; /* per matrix */
    pl_group *groups;
    float **vecs;
    pl_buf *bufs;
    uint8_t *finish; /* per operation: forms in which it writes its output, PL_FORM_FLOAT if floats are read */
    pl_buf head_rows;
    pl_pool *pool;
    int head_op; /* index of the head, -1 if the plan has none */
    int qtile_rows;
    /* memory */
    void *arena, *work;
    size_t arena_bytes, work_bytes;
    int huge;
    pl_settle settle;                    /* of the arena, if it is the model's own */
    int packed;                          /* the arena holds what another model has packed, and is read-only */
    float **scratch;                     /* per thread */
    void **sample_scratch;               /* per thread */
    struct pl_expert_room **expert_room; /* per thread */
    void **gathered;                     /* per thread */
    float **products;                    /* per thread */
    void **kernel_scratch;        /* per thread; shared by all tasks, since the engine thread runs one at a time */
    float *logits;                /* (PL_HEAD_ROWS, vocab) */
    float *gates, *zeros;         /* (max_rows, tables.gates); zeros for convolutions */
    size_t *state_at;             /* per group of recurrent layers */
    float **rope_cos, **rope_sin; /* per rope: (max_rows, n_rot / 2) */
};

/* Fills `error` and returns `status`. */
pl_status pl_fail(pl_error *error, pl_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Checks every id, shape and size of the plan. */
pl_status pl_plan_check(const pl_plan *plan, pl_error *error);

/* Forms in which an operation reads a buffer for matrix products. */
int pl_op_forms(const pl_plan *plan, const pl_op *op, int buf);
/* A copy of n elements of `size` bytes, to be freed; NULL if out of memory. */
void *pl_copy_of(const void *src, size_t n, size_t size);
/* Sets the buffers' forms and stored terms, the head's rows, and `finish` (n_ops); raises the terms in `segs`
 * (n_segs). */
void pl_forms_set(pl_model *m, pl_segment *segs, uint8_t *finish);

struct pl_task {
    pl_model *model;
    pl_job *job;
    atomic_int cancel;
    atomic_int masks_ready;
    atomic_llong done;
    int64_t total;
    pl_status (*finish)(pl_task *task, pl_error *error); /* frees what `body` points to */
    void *body;
};

/* Queues fn(task). Takes ownership of the task; on failure frees it, and its body through `finish`. */
pl_status pl_task_start(pl_task *task, pl_job_fn fn, pl_task **out, pl_error *error);

#endif

/* Pellucid's C interface, all that the binding sees: opaque handles, plain structs and status codes.
 *
 * A model is made from a plan (ops/op.h), packed once, and then runs forward passes. Packing and passes are tasks: they
 * are queued for the engine thread, waited for in slices, and finished by the caller.
 */
#ifndef PELLUCID_H
#define PELLUCID_H

#include "cache/sequence.h"
#include "cpu/detect.h"
#include "cpu/topology.h"
#include "engine/sample.h"
#include "formats/names.h"
#include "kernels/tuning.h"
#include "ops/table.h"
#include "quantize/integers.h"
#include "quantize/quantize.h"

typedef enum {
    PL_OK,
    PL_E_MEMORY,    /* out of memory, or no thread could be started */
    PL_E_PLAN,      /* the plan or its tensors are inconsistent */
    PL_E_ARGUMENT,  /* a row, sequence or option out of range */
    PL_E_ISA,       /* this build or this processor does not have the instruction set */
    PL_E_CANCELLED, /* nothing has changed */
    PL_E_FILE,      /* a matrix's bytes cannot be read: pl_error says where */
} pl_status;

typedef struct pl_error {
    char text[256];
    int32_t mat;    /* PL_E_FILE: the matrix ... */
    int32_t part;   /* ... which of its stack ... */
    int64_t offset; /* ... and where in its file */
} pl_error;

typedef struct pl_model pl_model;
typedef struct pl_task pl_task;

typedef struct pl_options {
    int isa;              /* pl_isa, or -1: the best */
    int threads;          /* >= 1 */
    int kv;               /* pl_kv_type */
    int least_terms;      /* minimum int8 terms of activations: 1, or 2 for high precision; the head always has 2 */
    int max_rows;         /* per pass */
    int64_t cache_bytes;  /* maximum memory for keys and values; 0: no limit */
    int64_t checkpoints;  /* bytes of earlier recurrent states that a sequence keeps; 0: enough for PL_MAX_MARKS */
    int share_fd;         /* an in-memory file of pl_plan_bytes() for the packed matrices; -1: private memory */
    int share_packed;     /* 1: the file holds them already and is only read; 0: this model packs into it */
    int64_t slow_page_ns; /* processor time above which a huge page of weights is slow (cpu/settle.h); 0: 1.5 ms */
    pl_tuning tuning;
} pl_options;

typedef struct pl_model_info {
    const char *isa;
    int64_t packed_bytes; /* packed matrices */
    int64_t work_bytes;   /* buffers of a pass, */
    const void *work;     /* and where they are */
    int pages;            /* that hold the weights: PL_PAGES_* (cpu/settle.h) */
    int max_rows;
    int64_t checkpoint_bytes; /* most that a sequence keeps of earlier recurrent states */
} pl_model_info;

/* Validates the plan and allocates memory. The plan's tables are copied; the weights it points to stay the caller's and
 * must live until packing has finished. */
pl_status pl_model_new(const pl_plan *plan, const pl_options *options, pl_model **model, pl_error *error);
/* Validates a plan and computes the size of its packed matrices. */
pl_status pl_plan_bytes(const pl_plan *plan, int64_t *bytes, pl_error *error);
/* Moves an in-memory file into 2 MB pages, of each of which it must already hold a part -> 1 if all of it lies in such
 * pages. */
int pl_share_huge(int fd, size_t bytes);
/* Call after packing. A shared file becomes read-only, for this model too; in private memory, small pages are gathered
 * into huge ones (cpu/settle.h). */
void pl_model_seal(pl_model *model);
/* A model that runs another plan over the packed matrices of `base`. The plan must list the same matrices; the options
 * are those of `base`, buffers and pool are separate. `base` must be packed and must outlive the view. */
pl_status pl_model_view(const pl_model *base, const pl_plan *plan, pl_model **view, pl_error *error);
/* Replaces the tuning; all fields must be within their limits. Call between passes. */
void pl_model_tune(pl_model *model, const pl_tuning *tuning);
/* Call after the last pass. Frees everything except sequences; the pool is freed with the last sequence. */
void pl_model_free(pl_model *model);
void pl_model_info_get(const pl_model *model, pl_model_info *info);
pl_pool *pl_model_pool(pl_model *model);
/* Packed bytes of matrix `mat`. */
int64_t pl_model_mat_bytes(const pl_model *model, int mat);
/* Matrix `mat` as it lies in memory. */
const void *pl_model_mat_data(const pl_model *model, int mat);
/* Row `row` of a matrix, or of a stack taken as one matrix -> float32 (k), bit-identical to decoding the file's
 * bytes. */
void pl_model_mat_row(const pl_model *model, int mat, int row, float *dst);

/* Packs matrices [first, end). src: NULL, or the bytes of matrix `first`, then the only one, to use instead of those
 * that the plan points to. */
pl_status pl_pack_start(pl_model *model, int first, int end, const uint8_t *src, pl_task **task, pl_error *error);

/* Copies the float32 rows of a buffer after an operation: data (n_rows, dim). */
typedef struct pl_tap {
    int32_t op, buf;
    float *data;
} pl_tap;

typedef struct pl_pass {
    int32_t n_rows;
    const pl_row *rows; /* copied */
    int32_t n_seqs;
    pl_seq *const *seqs;            /* copied; none may be used elsewhere until the task is finished */
    float *store;                   /* (rows that want logits, vocab), or NULL: sample instead */
    const pl_sample_params *sample; /* one per row that wants logits */
    const uint64_t *step;           /* one per row that wants logits */
    pl_sampled *sampled;            /* one per row that wants logits */
    int32_t late_masks;             /* 1: rows with a mask wait for pl_task_masks_ready before they are sampled */
    float *hidden;                  /* (rows that want their hidden state, its width) */
    int32_t *status;                /* (n_seqs) or NULL: PL_BAD_* of each sequence, 0 for those that grew */
    /* For inspection: operations [op_from, op_to) run; feeds fill buffers (n_rows, dim) before the first, each tap
     * copies a buffer after its operation. */
    int32_t op_from, op_to;
    int32_t n_feeds, n_taps;
    const pl_tap *feeds, *taps; /* a feed's op is ignored */
    int64_t *op_ns;             /* (n_ops) nanoseconds of each operation, or NULL */
} pl_pass;

/* Checks the rows and reserves their pages. A pass over part of the plan ([op_from, op_to) is not all of it) does not
 * lengthen its sequences: its rows are in slots already stored. If it computes keys and values, its rows see those; the
 * stored ones do not change. */
pl_status pl_forward_start(pl_model *model, const pl_pass *pass, pl_task **task, pl_error *error);

/* Attention weights of one layer, recomputed in float32 from its queries and keys, because a pass never stores them. A
 * row at position p sees keys as `window` and `causal` of pl_cache_desc say. */
typedef struct pl_attention {
    int32_t heads, kv_heads, m, n, d; /* m query rows, n keys, d wide */
    int32_t window, causal;
    float scale, cap;        /* cap: soft cap of the scores, 0 = none */
    const float *sinks;      /* (heads): each head's score without a value, or NULL */
    const float *q;          /* (heads, m, d) */
    const float *k;          /* (kv_heads, n, d) */
    const int32_t *group;    /* (heads): KV head of each head */
    const int32_t *position; /* (m), ascending */
    float *scores;           /* (heads, m, n) or NULL: q . k * scale, -inf for keys that a row does not see */
    float *weights;          /* (heads, m, n) or NULL, zeroed by the caller: softmax of the scores, and of the sink */
} pl_attention;

/* The arrays must live until the task is finished. Of the model, only kernels, threads and scratch are used. */
pl_status pl_attention_start(pl_model *model, const pl_attention *attention, pl_task **task, pl_error *error);

/* Keys and values of a sequence's first n tokens in one layer of a cache, as attention multiplies them. */
typedef struct pl_keys {
    const pl_seq *seq; /* not used elsewhere until the task is finished */
    int32_t cache, layer, n;
    float *keys, *values; /* (kv heads, n, dk), (kv heads, n, dv), zeroed: pages that the window has passed stay 0 */
} pl_keys;

pl_status pl_keys_start(pl_model *model, const pl_keys *keys, pl_task **task, pl_error *error);

int pl_task_wait(pl_task *task, int ms);      /* 1: ended; 0: not yet; -1: never, in a forked child */
void pl_task_cancel(pl_task *task);           /* ends it soon; allowed any time before finish */
void pl_task_masks_ready(pl_task *task);      /* the masks of a pass with late_masks are written */
double pl_task_progress(const pl_task *task); /* 0..1 */
/* After pl_task_wait returned 1: returns the task's result and frees it. A pass over the whole plan that ended with
 * PL_OK has lengthened the sequences whose status is 0; all others are unchanged. */
pl_status pl_task_finish(pl_task *task, pl_error *error);

/* ---- the machine's limits, for comparison ------------------------------------------------------------------------ */

typedef struct pl_probe pl_probe;
enum {
    PL_PROBE_READ_SMALL,
    PL_PROBE_READ_HUGE,
    PL_PROBE_I8,
    PL_PROBE_WIDE,
    PL_PROBE_BF16,
    PL_PROBE_F32,
    PL_PROBE_CLOCK,
    PL_N_PROBES
};

/* Allocates a buffer of `bytes` (much more than the caches hold) in 2 MB pages, where the system has them, and with
 * `small` another in 4 KB pages. One user at a time. */
pl_status pl_probe_new(int isa, int threads, int64_t bytes, int small, pl_probe **probe, pl_error *error);
/* Touches one of `parts` parts of the buffers, so that the system provides its memory. Call for every part before the
 * first measurement; several GB take seconds. */
pl_status pl_probe_touch(pl_probe *probe, int part, int parts, pl_error *error);
void pl_probe_free(pl_probe *probe);
int pl_probe_has(const pl_probe *probe, int kind); /* 0: no huge pages, or no such instruction in the tier */
/* Runs n rounds on the engine's threads and waits. *done: bytes read, operations or (PL_PROBE_CLOCK) cycles done by all
 * threads; *ns: nanoseconds, of elapsed time for reads, else of processor time (the threads' harmonic mean), so that a
 * thread that waits for a processor does not count as slow. */
pl_status pl_probe_run(pl_probe *probe, int kind, int64_t n, double *done, int64_t *ns, pl_error *error);

/* Products of random numbers, for choosing a tuning. */
typedef struct pl_product {
    int format, k, n, terms; /* n rows of activations, by ... */
    int64_t from, bytes;     /* ... as many tiles of weights as fit into this part of the buffer in 2 MB pages */
    int times;               /* repetitions */
    int cold;                /* 1: no cache holds the weights at the start */
    pl_tuning tuning;
} pl_product;
/* Runs products one after another, without a pause in which threads would sleep; none starts after `limit` nanoseconds.
 * The threads share the tiles. ns: the time of each, -1 for those not started. */
pl_status pl_probe_products(pl_probe *probe, const pl_product *products, int count, int64_t limit, int64_t *ns,
                            pl_error *error);

/* Products on the calling thread, without the engine: n rows of activations, kept in the form that the format's kernel
 * reads, by any packed weights. A trial may run on several threads at once. */
typedef struct pl_trial pl_trial;
/* x: activations (n, k); terms: of the integer form, 1 or 2. */
pl_status pl_trial_new(int isa, int format, int k, int n, int terms, const pl_tuning *tuning, const float *x,
                       pl_trial **trial, pl_error *error);
void pl_trial_free(pl_trial *trial);
size_t pl_trial_scratch(const pl_trial *trial); /* bytes of scratch, which starts at a multiple of 64 */
/* y (n, 16 * tiles) = activations times the weights, `times` times. */
void pl_trial_run(const pl_trial *trial, const uint8_t *packed, int tiles, int times, void *scratch, float *y);

int64_t pl_tile_size(int format, int64_t k); /* bytes of 16 packed rows of k weights; -1: the format has none */
/* Packs a file's rows into ceil(rows / 16) tiles. */
pl_status pl_pack_rows(int format, const uint8_t *raw, int rows, int k, uint8_t *packed, pl_error *error);

#endif

/* Quantisers: rows of float32 -> blocks of a file's weight format.
 *
 * The scale (and min) of each block minimises the squared error of the block's weights, each multiplied by the
 * importance of its column. Which scales are tried, and the sum of every error, depend on the block alone: the bytes
 * are the same for any number of threads.
 */
#ifndef PL_QUANTIZE_H
#define PL_QUANTIZE_H

#include <stdint.h>

struct pl_plain_kind;
struct pl_super_kind;

typedef struct pl_quantizer {
    const char *name; /* "Q4_K" */
    int gguf;         /* ggml's number of the format */
    int block;        /* weights of a block */
    int block_bytes;
    /* A block of x (block) -> out (block_bytes). importance: (block), at least 0. 0, or -1 if the format cannot hold
     * the values (beyond its range, or not finite). */
    int (*run)(const struct pl_quantizer *q, const float *x, const float *importance, uint8_t *out);
    const struct pl_plain_kind *plain; /* what distinguishes formats of one kind (fit.h), or NULL */
    const struct pl_super_kind *super;
} pl_quantizer;

/* Quantiser i = 0, 1, ..., NULL after the last. */
const pl_quantizer *pl_quantizer_get(int i);
/* NULL if there is none of this name. */
const pl_quantizer *pl_quantizer_find(const char *name);

typedef struct pl_quantizing pl_quantizing;
/* Starts to quantise src (rows, k), stored in the format of number `from`, into out, on `threads` threads. importance:
 * (k), or NULL: all equal. quick: the short search (pl_quick), if no importance is given and it can make the format. k:
 * a multiple of both blocks. The memory must live until pl_quantizing_finish. NULL if out of memory or if no thread can
 * be started. */
pl_quantizing *pl_quantizing_start(const pl_quantizer *q, int from, const uint8_t *src, const float *importance,
                                   int64_t rows, int64_t k, uint8_t *out, int quick, int threads);
int pl_quantizing_wait(pl_quantizing *work, int ms); /* as pl_job_wait */
void pl_quantizing_cancel(pl_quantizing *work);
double pl_quantizing_progress(pl_quantizing *work); /* fraction done */
/* After wait returned 1 or -1. Number of the first row that the format cannot hold, or -1. */
int64_t pl_quantizing_finish(pl_quantizing *work);

#endif

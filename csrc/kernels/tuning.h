/* Parameters that change the speed of kernels and operations, but not a bit of their results. The library measures them
 * where it runs (src/pellucid/tuning.py); without a measurement they follow from the processor (tuning.c). */
#ifndef PL_TUNING_H
#define PL_TUNING_H

#include <stdint.h>

/* name, least, most:
 * ahead_bytes, ahead_lines    a product of few rows, which reads weights of less than a byte from memory, prefetches
 *                             with each block up to this many lines of 64 bytes (at most a block's), this far ahead
 * ahead_turns                 1: lines of several pages are prefetched in turn, in windows (prefetch.h), also by
 *                             products of more rows, for the next tiles, and by attention, for the next page of keys;
 *                             the two above have no effect then
 * ahead8_bytes, _lines, _turns  the same for weights of a byte
 * pair_tiles                  tiles of weights that rows of activations meet at once (AVX-512): two halve the loads of
 *                             activations, one halves the work of unpacking weights
 * panel_bytes                 activations that a product lays out at once
 * group_bytes                 weights that many rows meet before the next ones are read (AVX2, NEON)
 * rows_bytes                  threads divide an operation's products by rows, not columns, if it has at most this many
 *                             bytes of weights and the pass enough rows
 * step_rows                   rows per step of operations that use their products immediately
 * step_tiles                  tiles per such step of at most step_rows rows; fewer tiles for more rows
 * float_bytes                 weights per block of a large product with float weights; also activations, if its kernel
 *                             has no scratch memory
 * few_rows                    rows for which a tile of four bits takes as long to read as to compute with; decides how
 *                             threads share matrices of different formats or terms
 * barrier_bytes               the next operation's weights that are prefetched before a barrier */
#define PL_TUNING(X)                                                                                                   \
    X(ahead_bytes, 0, 65536)                                                                                           \
    X(ahead_lines, 0, 64)                                                                                              \
    X(ahead_turns, 0, 1)                                                                                               \
    X(ahead8_bytes, 0, 65536)                                                                                          \
    X(ahead8_lines, 0, 64)                                                                                             \
    X(ahead8_turns, 0, 1)                                                                                              \
    X(pair_tiles, 1, 2)                                                                                                \
    X(panel_bytes, 65536, 1048576)                                                                                     \
    X(group_bytes, 16384, 4194304)                                                                                     \
    X(rows_bytes, 0, 1073741824)                                                                                       \
    X(step_rows, 16, 512)                                                                                              \
    X(step_tiles, 2, 4096)                                                                                             \
    X(float_bytes, 32768, 4194304)                                                                                     \
    X(few_rows, 1, 64)                                                                                                 \
    X(barrier_bytes, 0, 65536)

typedef struct pl_tuning {
#define PL_TUNING_FIELD(name, least, most) int32_t name;
    PL_TUNING(PL_TUNING_FIELD)
#undef PL_TUNING_FIELD
} pl_tuning;

enum { PL_N_TUNING = sizeof(pl_tuning) / sizeof(int32_t) };

/* Name and limits of field i, in the order of the struct; NULL beyond the last. */
const char *pl_tuning_name(int i);
void pl_tuning_limits(int i, int32_t *least, int32_t *most);
/* The tuning for a tier (a pl_isa) that follows from this processor. */
void pl_tuning_default(int isa, pl_tuning *tuning);
/* The name of a field that is beyond its limits, or NULL. */
const char *pl_tuning_wrong(const pl_tuning *tuning);

#endif

/* How much the operations take at once, where it is not a matter of tuning (kernels/tuning.h). `pellucid bench -m
 * MODEL` measures it on whole passes: the prompt for products of many rows, generation for those of one row and for
 * the head. */
#ifndef PL_OPS_BLOCKING_H
#define PL_OPS_BLOCKING_H

#define PL_HEAD_ROWS 16 /* logits are computed for this many rows at a time */

/* Products that are used at once (pl_products_at): rows that are few, whose products stay in their buffer; floats of
 * each of two matrices' products for which a thread has memory, more than those of a step. */
#define PL_FEW_ROWS 16
#define PL_PRODUCTS (1 << 18)

/* Attention: keys per chunk; chunks merge from left to right. It fixes the order of sums: another number means other
 * bits. */
#define PL_CHUNK_KEYS 256
#define PL_CHUNK_PAGES (PL_CHUNK_KEYS / PL_PAGE)

#endif

/* How much the operations do at a time, as far as tuning (kernels/tuning.h) does not decide it. `pellucid bench -m
 * MODEL` measures it on whole passes: the prompt for products of many rows, generation for those of one row and for
 * the head. */
#ifndef PL_OPS_BLOCKING_H
#define PL_OPS_BLOCKING_H

#define PL_HEAD_ROWS 16 /* logits are computed for this many rows at a time */

/* Products that are used immediately (pl_products_at): for up to PL_FEW_ROWS rows, they stay in their buffer; a thread
 * has memory for PL_PRODUCTS floats of each of two matrices' products, more than a step needs. */
#define PL_FEW_ROWS 16
#define PL_PRODUCTS (1 << 18)

/* Attention: keys per chunk; chunks merge from left to right. The number fixes the order of sums: changing it
 * changes bits. */
#define PL_CHUNK_KEYS 256
#define PL_CHUNK_PAGES (PL_CHUNK_KEYS / PL_PAGE)

#endif

/* How much the operations take at once. `pellucid bench -m MODEL` measures it on whole passes: the prompt for products
 * of many rows, generation for those of one row and for the head. */
#ifndef PL_OPS_BLOCKING_H
#define PL_OPS_BLOCKING_H

#define PL_HEAD_ROWS 16 /* logits are computed for this many rows at a time */

/* Attention: keys per chunk; chunks merge from left to right. It fixes the order of sums: another number means other
 * bits. */
#define PL_CHUNK_KEYS 256
#define PL_CHUNK_PAGES (PL_CHUNK_KEYS / PL_PAGE)

/* Rows per step of operations that use their products immediately: enough that weights are seldom read from memory, few
 * enough that the products of 32 tiles stay in the second-level cache. */
#define PL_ROWS_AT_ONCE 96

/* Bytes of weights, and of activations, per block of a large product with float weights: both stay in the second-level
 * cache (1 MB on the machines of interest, 256 KB on small ones) while every pair is multiplied. Kernels of quantised
 * weights rearrange activations in every call, so they get a whole product and divide it themselves. */
#define PL_FLOAT_BYTES (192 << 10)

/* Up to this many rows, a product is bound by memory and takes as long with two terms as with one, so all tiles count
 * the same. With more rows it is bound by computation: a thread with keys and values in two terms then gets fewer tiles
 * than one with queries. */
#define PL_FEW_ROWS 4

/* Bytes of the next operation's weights read before a barrier: enough to start the hardware's own prefetching, and no
 * more than the second-level cache can hold. */
#define PL_PREFETCH_BYTES 8192

#endif

/* The table of kernels of a tier. */
#ifndef PL_SELECT_H
#define PL_SELECT_H

#include "kernels.h"

/* `isa`: a pl_isa (cpu/detect.h). The scalar kernels, overlaid tier by tier up to this one. NULL if this
 * build does not contain the tier, the processor cannot run it, or there is no such tier. Valid for the life of the
 * process; thread-safe. */
const pl_kernels *pl_kernels_get(int isa);

/* Bytes of scratch that suffice for every kernel of a tier. */
size_t pl_kernels_scratch(const pl_kernels *k);

#endif

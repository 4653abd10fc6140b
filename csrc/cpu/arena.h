/* Anonymous memory in 2 MB pages where the system has them. */
#ifndef PL_ARENA_H
#define PL_ARENA_H

#include <stddef.h>

/* Zeroed, 2 MB aligned; NULL when there is none. *huge: 1 when the system promises huge pages (MADV_HUGEPAGE taken and
 * /sys/kernel/mm/transparent_hugepage/enabled is not "never"). Untouched memory costs nothing. */
void *pl_arena_alloc(size_t bytes, int *huge);
/* The same in the system's small pages, whatever its default: to measure what huge ones are worth. */
void *pl_arena_small(size_t bytes);
void pl_arena_free(void *p, size_t bytes);

#endif

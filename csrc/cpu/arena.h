/* Memory in 2 MB pages where the system has them: anonymous, or an in-memory file that processes share. */
#ifndef PL_ARENA_H
#define PL_ARENA_H

#include <stddef.h>

#define PL_HUGE_PAGE ((size_t)2 << 20)

/* Whether the settings of a system in `folder`, "/sys/kernel/mm/transparent_hugepage", promise huge pages of 2 MB. */
int pl_arena_has_huge(const char *folder);
/* Zeroed and 2 MB aligned; NULL if out of memory. *huge: 1 if the system promises huge pages and accepts MADV_HUGEPAGE.
 * Untouched memory costs nothing. */
void *pl_arena_alloc(size_t bytes, int *huge);
/* The same in small pages, whatever the system's default, to measure the gain from huge ones. */
void *pl_arena_small(size_t bytes);
/* The first `bytes` of an in-memory file (tmpfs), 2 MB aligned, shared with other processes; NULL on failure. write =
 * 0: read-only. Whatever the file holds of each 2 MB moves into a huge page; *huge: 1 if all of it lies in such pages.
 * (Linux 6.1; older kernels leave it as it is.) */
void *pl_arena_map(int fd, size_t bytes, int write, int *huge);
/* Makes those parts of an arena that have no page yet get small ones. */
void pl_arena_shrink(void *p, size_t bytes);
/* Provides the pages of memory of an arena that is about to be written, which costs less than one by one (Linux 5.14;
 * elsewhere each is provided when it is written). */
void pl_arena_provide(void *p, size_t bytes);
/* Moves the memory at p, where a huge page of an arena begins, into a huge page: 0, or -1 if the system cannot. left:
 * bytes up to the arena's end; less than a huge page is left as it is. (Linux 6.1) */
int pl_arena_gather(void *p, size_t left);
/* Makes it read-only. 0, or -1. */
int pl_arena_seal(void *p, size_t bytes);
void pl_arena_free(void *p, size_t bytes);

/* Drops what the caches hold of [p, p + bytes), so that the next read comes from memory; only on x86-64. */
void pl_flush(const void *p, size_t bytes);

#endif

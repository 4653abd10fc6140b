/* Memory in 2 MB pages where the system has them: anonymous, or that of a file in memory which processes share. */
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
/* The first `bytes` of a file in memory (tmpfs), 2 MB aligned, shared with other processes; NULL on failure. write 0:
 * to be read only. What the file has of each 2 MB, if anything, moves into a huge page; *huge: 1 if all of it lies in
 * those. (Linux 6.1; other kernels leave it as it is.) */
void *pl_arena_map(int fd, size_t bytes, int write, int *huge);
/* What of an arena has no page yet gets small ones. */
void pl_arena_shrink(void *p, size_t bytes);
/* Gives memory of an arena that is about to be written its pages, which costs less than doing so one by one (Linux
 * 5.14; elsewhere they come as they are written). */
void pl_arena_provide(void *p, size_t bytes);
/* Moves what lies at p, where a huge page of an arena begins, into one: 0, or -1 where the system cannot. left: bytes
 * until the arena ends; what is less than a huge page stays as it is. (Linux 6.1) */
int pl_arena_gather(void *p, size_t left);
/* From now on it can only be read. 0, or -1. */
int pl_arena_seal(void *p, size_t bytes);
void pl_arena_free(void *p, size_t bytes);

/* Drops what the caches hold of [p, p + bytes), so that the next reading comes from memory; on x86-64 alone. */
void pl_flush(const void *p, size_t bytes);

#endif

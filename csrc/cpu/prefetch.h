/* Cache lines that will be written soon. */
#ifndef PL_PREFETCH_WRITE_H
#define PL_PREFETCH_WRITE_H

#include <stddef.h>

/* Asks for the lines of [p, p + bytes), to write to them: those that another core has leave it at once, while other work
 * goes on, not when their stores are due. PREFETCHW, which every x86-64 processor decodes (AMD64 manual vol. 3). */
static inline void pl_prefetch_write(const void *p, size_t bytes)
{
    for (const char *line = p, *end = line + bytes; line < end; line += 64)
#if defined(__x86_64__)
        __asm__ volatile("prefetchw %0" ::"m"(*line));
#else
        __builtin_prefetch(line, 1, 3);
#endif
}

#endif

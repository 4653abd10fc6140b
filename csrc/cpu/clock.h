/* Clocks for waits and measurements. */
#ifndef PL_CLOCK_H
#define PL_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t pl_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Processor time of the calling thread: waiting for a processor does not count. */
static inline int64_t pl_thread_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t))
        return pl_now_ns();
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

#endif

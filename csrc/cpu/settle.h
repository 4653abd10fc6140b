/* Memory that begins in small pages and is soon gathered into huge ones, for systems that are slow to provide huge
 * pages.
 *
 * A virtual machine that has returned free memory to its host gets it back one small page at a time: 4 ms of processor
 * time for a huge page, where clearing one takes 0.3, while fragments smaller than a huge page stay backed. Loading a
 * model of 800 MB then takes 0.3 s in small pages and 0.5 to 1.1 in huge ones; but reading small pages is slower for as
 * long as the model lives (decoding 1B: by 8 %). So once a few huge pages have been slow, the rest of a model's memory
 * is written in small pages, and so are the buffers of a pass. Afterwards a thread of low priority gathers them into
 * huge ones while the engine is idle or, if it never is, after ten seconds of work, for a twentieth of the time. */
#ifndef PL_SETTLE_H
#define PL_SETTLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define PL_SLOW_PAGE_NS 1500000

/* The memory's pages: huge; small and being gathered; gathered; small because they could not be gathered. */
enum { PL_PAGES_HUGE, PL_PAGES_GATHERING, PL_PAGES_GATHERED, PL_PAGES_SMALL };

typedef struct pl_settle {
    char *p; /* an arena's (arena.h) */
    size_t bytes;
    char *beside; /* another's, or NULL */
    size_t beside_bytes;
    int64_t slow_ns;
    atomic_int slow, pages; /* how many were slow; PL_PAGES_* */
    atomic_int stop;
    int pid; /* of the process that has the thread; 0: there is none */
    pthread_t thread;
} pl_settle;

/* Watches the memory [p, p + bytes). slow_ns: processor time above which a huge page counts as slow. */
void pl_settle_init(pl_settle *s, void *p, size_t bytes, int64_t slow_ns);
/* Before the caller writes [at, at + n), n > 0: touches the last page and times it, or provides small pages without
 * trying. Any thread may call it. */
void pl_settle_touch(pl_settle *s, uint8_t *at, size_t n);
/* Gives another arena's memory, which must not have been written yet, pages of the same kind. Does nothing if no memory
 * is watched. */
void pl_settle_beside(pl_settle *s, void *p, size_t bytes);
/* Call once everything is written: if there are small pages, starts to gather them. */
void pl_settle_start(pl_settle *s);
/* Stops gathering, however far it is. Call before the memory is unmapped; also after a fork. */
void pl_settle_stop(pl_settle *s);

#endif

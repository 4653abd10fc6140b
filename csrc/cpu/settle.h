/* Memory in small pages at first, in huge ones soon, where the system is slow to provide huge pages.
 *
 * A virtual machine that gives free memory back to its host must be given it again, a small page at a time: 4 ms of
 * processor time for a huge page, where clearing one takes 0.3, while fragments that are no huge page stay backed. Loading
 * a model of 800 MB then takes 0.3 s in small pages and 0.5 to 1.1 in huge ones; but reading small pages is slower for as
 * long as the model lives (decoding 1B: by 8 %). So once a few huge pages have been slow, the rest of a model's memory is
 * written in small pages, and so are the buffers of a pass. Afterwards a thread of low priority gathers them into huge ones
 * while the engine rests, or, if it never does, from ten seconds of work on, a twentieth of the time. */
#ifndef PL_SETTLE_H
#define PL_SETTLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define PL_SLOW_PAGE_NS 1500000

/* What the memory lies in: huge pages; small ones that are being gathered, or have been; or that could not be. */
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

/* Watches the memory [p, p + bytes). slow_ns: processor time from which on a huge page is slow. */
void pl_settle_init(pl_settle *s, void *p, size_t bytes, int64_t slow_ns);
/* Before the caller writes [at, at + n), n > 0: touches the last page and takes the time, or provides small pages at once.
 * Called by any thread. */
void pl_settle_touch(pl_settle *s, uint8_t *at, size_t n);
/* Another arena's memory, which nobody has written yet, is to lie in pages of the same kind. Does nothing where no memory
 * is watched. */
void pl_settle_beside(pl_settle *s, void *p, size_t bytes);
/* Everything is written: if there are small pages, starts to gather them. */
void pl_settle_start(pl_settle *s);
/* Ends gathering, wherever it is. To be called before the memory is unmapped; also after a fork. */
void pl_settle_stop(pl_settle *s);

#endif

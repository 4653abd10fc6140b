/* What the system allows a process. */
#ifndef PL_LIMIT_H
#define PL_LIMIT_H

/* How many of `threads` (ourselves included) the system lets exist at once. An OpenMP library ends the whole process
 * when it cannot start a thread, so a larger team than the last is tried with threads of our own. */
int pl_thread_limit(int threads);

#endif

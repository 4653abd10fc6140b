/* The system's limit on threads. */
#ifndef PL_LIMIT_H
#define PL_LIMIT_H

/* How many of `threads` (including the caller) the system lets exist at once. An OpenMP library ends the whole process
 * if it cannot start a thread, so before a team grows, plain threads find out whether it can. */
int pl_thread_limit(int threads);

#endif

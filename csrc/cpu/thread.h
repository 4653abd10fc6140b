/* The library's own threads. */
#ifndef PL_THREAD_H
#define PL_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Starts fn(arg) on a thread that leaves signals to the program's own (Python's main thread), as do threads that it
 * starts; *thread: to be joined, NULL: detached. Returns whether it could be started. */
int pl_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg, size_t stack_bytes);

#endif

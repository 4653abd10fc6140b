#include "thread.h"

#include <signal.h>

int pl_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg, size_t stack_bytes)
{
    pthread_attr_t attr;
    pthread_t own;
    sigset_t all, was;
    if (pthread_attr_init(&attr) != 0)
        return 0;
    if (!thread)
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, stack_bytes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &was);
    const int failed = pthread_create(thread ? thread : &own, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    pthread_attr_destroy(&attr);
    return !failed;
}

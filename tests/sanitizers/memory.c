/* To be preloaded: makes one allocation of a module fail, the n-th after `arm`. Counts malloc, calloc, realloc and mmap
 * called from the module's own code, and the start of threads, except by the OpenMP library, which ends the process if
 * it cannot start one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t each);
void *__libc_realloc(void *p, size_t n);

static const char *module;
static uintptr_t from, to;             /* the module's code */
static atomic_long left = -1, counted; /* left: allocations before the failing one; below 0: none fails */

static int find(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size, (void)arg;
    for (int i = 0; info->dlpi_name && strstr(info->dlpi_name, module) && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && p->p_flags & PF_X) {
            from = info->dlpi_addr + p->p_vaddr;
            to = from + p->p_memsz;
        }
    }
    return 0;
}

/* Makes the n-th allocation (0: the next) fail in the module with `name` in its path; n < 0: none. Returns whether the
 * module is loaded. */
int arm(const char *name, long n)
{
    module = name;
    atomic_store(&left, -1);
    dl_iterate_phdr(find, NULL);
    atomic_store(&counted, 0);
    atomic_store(&left, n);
    return from < to;
}

/* Allocations since `arm`. */
long count(void)
{
    return atomic_load(&counted);
}

static int fails(void)
{
    atomic_fetch_add(&counted, 1);
    return atomic_load(&left) >= 0 && atomic_fetch_sub(&left, 1) == 0;
}

#define OURS ((uintptr_t)__builtin_return_address(0) - from < to - from)

void *malloc(size_t n)
{
    if (OURS && fails())
        return errno = ENOMEM, NULL;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t each)
{
    if (OURS && fails())
        return errno = ENOMEM, NULL;
    return __libc_calloc(n, each);
}

void *realloc(void *p, size_t n)
{
    if (OURS && fails())
        return errno = ENOMEM, NULL;
    return __libc_realloc(p, n);
}

void *mmap(void *p, size_t n, int protection, int flags, int fd, off_t offset)
{
    if (OURS && fails())
        return errno = ENOMEM, MAP_FAILED;
    return (void *)syscall(SYS_mmap, p, n, protection, flags, fd, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    Dl_info caller = {0};
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    dladdr(__builtin_return_address(0), &caller);
    if (from < to && !(caller.dli_fname && strstr(caller.dli_fname, "libgomp")) && fails())
        return EAGAIN;
    return real(thread, attr, fn, arg);
}

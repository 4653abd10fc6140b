/* mmap(2), madvise(2); Documentation/admin-guide/mm/transhuge.rst. */
#if defined(__linux__)
#define _GNU_SOURCE
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#endif
#include "arena.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif
#include <unistd.h>

#if defined(__linux__) && !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25 /* glibc before 2.37 lacks it; kernels before 6.1 answer EINVAL */
#endif
#if defined(__linux__) && !defined(MADV_POPULATE_WRITE)
#define MADV_POPULATE_WRITE 23 /* likewise before 2.35 and 5.14 */
#endif

static size_t page_size(void)
{
    long n = sysconf(_SC_PAGESIZE);
    return n > 0 ? (size_t)n : 4096;
}

/* Rounded up to small pages only, so that the tail after the last 2 MB page costs no more memory. 0 on overflow. */
static size_t whole_pages(size_t bytes)
{
    size_t page = page_size();
    size_t n = (bytes ? bytes : 1) + page - 1;
    return n < bytes ? 0 : n / page * page;
}

/* The text of a file of `folder`; 0: it cannot be read. */
static int read_text(const char *folder, const char *name, char *text, size_t room)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, room - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* "enabled" reads "always [madvise] never", the active setting in brackets; kernels without huge pages lack it, and
 * those before 4.10 the other file. Where small pages have 64 KB, as on some systems for Arm, huge ones have 512 MB. */
int pl_arena_has_huge(const char *folder)
{
    char text[64];
    if (!read_text(folder, "enabled", text, sizeof text) || strstr(text, "[never]"))
        return 0;
    return !read_text(folder, "hpage_pmd_size", text, sizeof text) || strtoull(text, NULL, 10) == PL_HUGE_PAGE;
}

#if defined(MADV_HUGEPAGE)
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int system_has_huge;

static void ask_system(void)
{
    system_has_huge = pl_arena_has_huge("/sys/kernel/mm/transparent_hugepage");
}

/* 0 if huge pages were disabled for this process, by itself or by its parent (prctl(2)); madvise succeeds even then. */
static int process_has_huge(void)
{
    return prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) != 1;
}
#endif

/* Anonymous memory that begins at a multiple of 2 MB; `size`: of whole pages, or 0. */
static char *aligned(size_t size, int protection)
{
    size_t slack = PL_HUGE_PAGE - page_size(), head, tail;
    if (size == 0 || size > SIZE_MAX - slack)
        return NULL;
    char *p = mmap(NULL, size + slack, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    head = (size_t)(-(uintptr_t)p & (PL_HUGE_PAGE - 1));
    tail = slack - head;
    if (head)
        munmap(p, head);
    p += head;
    if (tail)
        munmap(p + size, tail);
    return p;
}

void *pl_arena_alloc(size_t bytes, int *huge)
{
    size_t size = whole_pages(bytes);
    char *p = aligned(size, PROT_READ | PROT_WRITE);
    if (huge)
        *huge = 0;
    if (!p)
        return NULL;
#if defined(MADV_HUGEPAGE)
    pthread_once(&once, ask_system);
    int taken = madvise(p, size, MADV_HUGEPAGE) == 0;
    if (huge)
        *huge = taken && system_has_huge && process_has_huge();
#endif
    return p;
}

void *pl_arena_small(size_t bytes)
{
    size_t size = whole_pages(bytes);
    void *p = size ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : MAP_FAILED;
    if (p == MAP_FAILED)
        return NULL;
#if defined(MADV_NOHUGEPAGE)
    madvise(p, size, MADV_NOHUGEPAGE);
#endif
    return p;
}

void *pl_arena_map(int fd, size_t bytes, int write, int *huge)
{
    size_t size = whole_pages(bytes);
    char *p = aligned(size, PROT_NONE);
    *huge = 0;
    if (!p)
        return NULL;
    if (mmap(p, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(p, size);
        return NULL;
    }
#if defined(MADV_COLLAPSE) && defined(MADV_HUGEPAGE)
    const size_t in_huge = size / PL_HUGE_PAGE * PL_HUGE_PAGE;
    pthread_once(&once, ask_system);
    if (in_huge && system_has_huge && process_has_huge())
        *huge = madvise(p, in_huge, MADV_COLLAPSE) == 0;
#endif
    return p;
}

void pl_arena_shrink(void *p, size_t bytes)
{
#if defined(MADV_NOHUGEPAGE)
    madvise(p, whole_pages(bytes), MADV_NOHUGEPAGE);
#else
    (void)p, (void)bytes;
#endif
}

void pl_arena_provide(void *p, size_t bytes)
{
#if defined(__linux__)
    const uintptr_t page = page_size(), from = (uintptr_t)p / page * page, to = (uintptr_t)p + bytes;
    madvise((void *)from, (to - from + page - 1) / page * page, MADV_POPULATE_WRITE);
#else
    (void)p, (void)bytes;
#endif
}

int pl_arena_gather(void *p, size_t left)
{
    if (left < PL_HUGE_PAGE)
        return 0;
#if defined(MADV_COLLAPSE) && defined(MADV_HUGEPAGE)
    return madvise(p, PL_HUGE_PAGE, MADV_HUGEPAGE) || madvise(p, PL_HUGE_PAGE, MADV_COLLAPSE) ? -1 : 0;
#else
    (void)p;
    return -1;
#endif
}

int pl_arena_seal(void *p, size_t bytes)
{
    return mprotect(p, whole_pages(bytes), PROT_READ);
}

void pl_arena_free(void *p, size_t bytes)
{
    if (p)
        munmap(p, whole_pages(bytes));
}

void pl_flush(const void *p, size_t bytes)
{
#ifdef __x86_64__
    /* clflushopt (CPUID leaf 7, EBX bit 23) does not wait for each line; older processors may have no such
     * instruction */
    unsigned a, b = 0, c, d;
    const int opt = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 23 & 1;
    for (size_t i = 0; i < bytes; i += 64)
        if (opt)
            __asm__ volatile(".byte 0x66; clflush %0" : : "m"(*((const char *)p + i)) : "memory");
        else
            __asm__ volatile("clflush %0" : : "m"(*((const char *)p + i)) : "memory");
    __asm__ volatile("mfence" : : : "memory");
#else
    (void)p, (void)bytes;
#endif
}

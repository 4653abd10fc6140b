/* pread(2), posix_fadvise(2). */
#define _GNU_SOURCE
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int64_t pl_file_read(int fd, void *dst, size_t n, int64_t offset)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got = pread(fd, (char *)dst + done, n - done, (off_t)offset + (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (int64_t)done;
}

void pl_file_expect(int fd, size_t n, int64_t offset)
{
#if defined(POSIX_FADV_WILLNEED)
    posix_fadvise(fd, (off_t)offset, (off_t)n, POSIX_FADV_WILLNEED);
#else
    (void)fd, (void)n, (void)offset;
#endif
}

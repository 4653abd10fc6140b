/* Model files are read, never mapped: touching a mapping that another process has truncated kills this process. */
#ifndef PL_FILE_H
#define PL_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Reads n bytes at `offset`. Returns the number read, fewer than n only at the end of the file, or -errno. */
int64_t pl_file_read(int fd, void *dst, size_t n, int64_t offset);
/* Announces that these bytes will be read soon, so that the system can read ahead. */
void pl_file_expect(int fd, size_t n, int64_t offset);

#endif

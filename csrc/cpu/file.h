/* Model files are read, never mapped: a mapping that another process cuts ends the process that touches it. */
#ifndef PL_FILE_H
#define PL_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Reads n bytes at `offset`: how many there were, fewer than n only where the file ends; or -errno. */
int64_t pl_file_read(int fd, void *dst, size_t n, int64_t offset);
/* These bytes are read soon: the system may begin. */
void pl_file_expect(int fd, size_t n, int64_t offset);

#endif

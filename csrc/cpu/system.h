/* What the kernel says in small files of /proc and /sys. Any may be missing, truncated or malformed. */
#ifndef PL_SYSTEM_H
#define PL_SYSTEM_H

#include <stddef.h>

#define PL_MOST_TEXT (1 << 20) /* mountinfo of a host with many containers: some 100 KB */

/* The text of a file, at most `most` bytes of it, to be freed; NULL if it is not a readable regular file. The path is
 * root, followed by the formatted rest. */
__attribute__((format(printf, 3, 4))) char *pl_read_text(const char *root, size_t most, const char *format, ...);
/* Reads a non-negative decimal integer at *p and moves *p past it; -1 if there is none. */
long long pl_take_number(const char **p);
/* The integer that a file begins with; -1 if there is none. */
__attribute__((format(printf, 2, 3))) long long pl_read_number(const char *root, const char *format, ...);

#endif

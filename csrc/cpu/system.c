#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The text of a file, at most `most` bytes of it, to be freed; NULL if it is not a readable regular file. The path is
 * root, followed by the formatted rest. */
static char *read_text_v(const char *root, size_t most, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    size_t n = strlen(root);
    int rest = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *path = rest < 0 ? NULL : malloc(n + (size_t)rest + 1);
    if (!path)
        return NULL;
    memcpy(path, root, n);
    vsnprintf(path + n, (size_t)rest + 1, format, args);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* must not hang on a pipe in its place */
    free(path);
    if (fd < 0)
        return NULL;
    struct stat st;
    size_t used = 0, room = 512;
    char *text = NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        text = malloc(room + 1);
    while (text && used < most) {
        if (used == room) {
            char *more = realloc(text, (room *= 4) + 1);
            if (!more)
                break;
            text = more;
        }
        ssize_t got = read(fd, text + used, room - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    close(fd);
    if (text)
        text[used] = 0;
    return text;
}

char *pl_read_text(const char *root, size_t most, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = read_text_v(root, most, format, args);
    va_end(args);
    return text;
}

long long pl_take_number(const char **p)
{
    char *end;
    if (**p < '0' || **p > '9')
        return -1;
    errno = 0;
    long long v = strtoll(*p, &end, 10);
    *p = end;
    return errno ? LLONG_MAX : v;
}

long long pl_read_number(const char *root, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = read_text_v(root, 64, format, args);
    va_end(args);
    const char *p = text;
    long long v = text ? pl_take_number(&p) : -1;
    free(text);
    return v;
}

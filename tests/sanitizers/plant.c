/* One fault of each kind that the sanitizers must find, called by name; a build that does not report them is broken. */
#include <limits.h>
#include <stdlib.h>

int plant_overflow(int n) /* n = 8: one int beyond the end */
{
    int *volatile p = calloc(8, sizeof *p); /* volatile: the compiler must not see the size */
    int last = p ? p[n] : 0;
    free(p);
    return last;
}

int plant_undefined(int n) /* n = 1: INT_MAX + 1 */
{
    return INT_MAX + n;
}

int plant_race(int n) /* by two threads */
{
    static volatile int shared;
    for (int i = 0; i < n; i++)
        shared += i & 1;
    return shared;
}

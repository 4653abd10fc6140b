/* Loops that do only what the limits count. Each chain depends on itself, so that no compiler can fold it. */
#include <string.h>

#include "fill.h"

#define CHAINS 16

static uint64_t read_all(const void *p, size_t bytes, int turns)
{
    (void)turns;
    uint64_t sum[8] = {0}, x;
    for (size_t i = 0; i < bytes; i += sizeof sum)
        for (size_t j = 0; j < 8; j++) {
            memcpy(&x, (const char *)p + i + j * sizeof x, sizeof x);
            sum[j] += x;
        }
    for (int j = 1; j < 8; j++)
        sum[0] += sum[j];
    return sum[0];
}

/* The scalar kernels multiply in int32. */
static double i8(int64_t n)
{
    uint32_t a[CHAINS], sum = 0;
    for (uint32_t j = 0; j < CHAINS; j++)
        a[j] = j;
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = a[j] * 127 + 1;
    for (int j = 0; j < CHAINS; j++)
        sum += a[j];
    return 2.0 * CHAINS * (double)n + (sum == 1 ? 1e-3 : 0);
}

static double f32(int64_t n)
{
    float a[CHAINS], sum = 0;
    for (int j = 0; j < CHAINS; j++)
        a[j] = (float)j;
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = a[j] * 0.5f + 1.0f;
    for (int j = 0; j < CHAINS; j++)
        sum += a[j];
    return 2.0 * CHAINS * (double)n + (sum == 1 ? 1e-3 : 0);
}

void pl_fill_peak_scalar(pl_kernels *k)
{
    k->peak = (pl_peak){read_all, i8, NULL, NULL, f32};
}

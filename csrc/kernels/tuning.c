#include "tuning.h"

#include <string.h>
#include <unistd.h>

#include "../cpu/detect.h"

#define NAME(name, least, most) #name,
#define LIMITS(name, least, most) {least, most},
static const char *const names[] = {PL_TUNING(NAME) NULL};
static const int32_t limits[][2] = {PL_TUNING(LIMITS)};

/* Measured on processors of two makers, in bytes:
 * - AMD (Zen 4, Zen 5) and Intel (Sapphire or Emerald Rapids), AVX-512: panels of 336 KB, a third of a second-level
 *   cache of 1 MB, and 32 tiles of the gated unit. Twice the cache gave no reason for larger ones. Steps of 108 rows
 *   (105 where five meet two tiles) make five of a pass of 512 and leave little for the last.
 * - Every line of the block 4 KB ahead: Intel then reads Q4_K at 0.91 of 29 GB/s, and at 0.73 with one line of the next
 *   page, Zen 5 at 1.05 and 0.92 of 52 GB/s; on Zen 4 one line was the better choice, at moments of 58 GB/s.
 *   Codes of a byte, Q8_0: 0.6B then decodes at 1.24 times the speed on Emerald Rapids, against 768 bytes ahead, which
 *   is the choice for AMD.
 * - In turns, only on Intel: Emerald Rapids then decodes at 1.2 times the speed with AVX-512 and AVX-VNNI, four
 *   sequences at 1.25 times, at 1.1 to 1.2 times with AVX2. Another (4 GHz, a last-level cache of 480 MB) reads codes
 *   of a byte faster in order: 0.92 of a step's time, as its load finds. Zen 4 takes 1.2 to 1.3 times as long in turns.
 * - Two tiles at once: Zen 5, which computes two dots of 512 bits a cycle and loads two vectors, reaches 0.77 of its
 *   int8 peak with Q4_0, and 0.68 with one. Where dots share two ports with all else, unpacking twice as often should
 *   cost more than loads: one tile, until a measurement says otherwise.
 * - Threads divide rows if an operation has up to 8 MB of weights: AMX prefills 512 tokens of SmolLM2 and Gemma 3 270M
 *   in 0.96 and 0.97 of the time, 64 to 224 tokens in 0.86 to 1, AVX-512, AVX-VNNI and AVX2 in 0.92 to 1. The larger
 *   matrices of a model of 1B are as fast by columns. Zen 4, 512 tokens: SmolLM2 and 0.6B in 0.92, Gemma and 1B
 *   unchanged.
 * - Four rows of queries, keys and values, the last two in two terms, on Zen 4 at 35 GB/s: 0.8 (Q2_K) and 0.93 (Q4_K)
 *   of the time with AVX-512, 0.84 and 0.77 with AVX2, against equal shares of tiles; one row of Q2_K with AVX2 0.77.
 *   */
static const pl_tuning usual = {
    .ahead_bytes = 4096,
    .ahead_lines = 64,
    .ahead_turns = 0,
    .ahead8_bytes = 4096,
    .ahead8_lines = 64,
    .ahead8_turns = 0,
    .pair_tiles = 1,
    .panel_bytes = 336 << 10,
    .group_bytes = 256 << 10,
    .rows_bytes = 8 << 20,
    .step_rows = 108,
    .step_tiles = 32,
    .float_bytes = 192 << 10,
    .few_rows = 4,
    .barrier_bytes = 8192,
};

const char *pl_tuning_name(int i)
{
    return i >= 0 && i < PL_N_TUNING ? names[i] : NULL;
}

void pl_tuning_limits(int i, int32_t *least, int32_t *most)
{
    *least = limits[i][0];
    *most = limits[i][1];
}

void pl_tuning_default(int isa, pl_tuning *tuning)
{
    *tuning = usual;
    const int amd = !strcmp(pl_cpu_vendor(), "AuthenticAMD"), zen4 = amd && pl_cpu_family() < 0x1a;
    if (amd)
        tuning->ahead8_bytes = 768;
    else if (!strcmp(pl_cpu_vendor(), "GenuineIntel"))
        tuning->ahead_turns = tuning->ahead8_turns = 1;
    if (isa == PL_ISA_AVX2 || isa == PL_ISA_AVXVNNI) { /* their kernels also prefetch a block's own lines */
        tuning->ahead_lines = tuning->ahead8_lines = 1;
        tuning->ahead8_bytes = 4096;
        tuning->few_rows = isa == PL_ISA_AVX2 ? 2 : 3;
    } else if (zen4) {
        tuning->ahead_lines = 1;
    } else if (amd) {
        tuning->pair_tiles = 2;
        tuning->step_rows = 105;
    }
    if (isa == PL_ISA_SCALAR) /* always computes longer than it reads */
        tuning->few_rows = 1;
    if (isa == PL_ISA_AMX) /* whole tiles of sixteen rows */
        tuning->step_rows = 112;
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (l2 > 0 && l2 < 1 << 20) { /* a smaller one than those measured: in proportion */
        const int32_t share = (int32_t)(l2 >> 10);
        tuning->panel_bytes = 336 * share < 65536 ? 65536 : 336 * share;
        tuning->group_bytes = 256 * share < 16384 ? 16384 : 256 * share;
        tuning->float_bytes = 192 * share < 32768 ? 32768 : 192 * share;
    }
#endif
}

const char *pl_tuning_wrong(const pl_tuning *tuning)
{
    int32_t values[PL_N_TUNING];
    memcpy(values, tuning, sizeof values);
    for (int i = 0; i < PL_N_TUNING; i++)
        if (values[i] < limits[i][0] || values[i] > limits[i][1])
            return names[i];
    return NULL;
}

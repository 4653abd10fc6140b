/* Sources: sched_getaffinity(2); Documentation/ABI/stable/sysfs-devices-system-cpu; for processors with two kinds of
 * cores, Documentation/ABI/testing/sysfs-devices-system-cpu (cpu_capacity) and sysfs-bus-event_source-devices (cpus).
 * Any file may be missing, truncated or malformed; it is then ignored, and the next best source is used. */
#if defined(__linux__)
#define _GNU_SOURCE
#include <sched.h>
#endif
#include "topology.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quota.h"
#include "region.h"
#include "system.h"

#define MAX_CPUS 8192 /* the most that Linux can be built for */

typedef struct cpu_bits {
    uint64_t w[MAX_CPUS / 64];
} cpu_bits;

static void set_bit(cpu_bits *b, long i)
{
    b->w[i / 64] |= (uint64_t)1 << (i % 64);
}

static int has_bit(const cpu_bits *b, long i)
{
    return b->w[i / 64] >> (i % 64) & 1;
}

static int count_bits(const cpu_bits *b)
{
    int n = 0;
    for (long i = 0; i < MAX_CPUS; i++)
        n += has_bit(b, i);
    return n;
}

/* "0-3,8,10-11" -> bits; returns how many are set. */
static int parse_list(const char *p, cpu_bits *bits)
{
    memset(bits, 0, sizeof *bits);
    for (;;) {
        long long a = pl_take_number(&p), b = a;
        if (a < 0)
            break;
        if (*p == '-') {
            p++;
            b = pl_take_number(&p);
        }
        for (; a <= b && a < MAX_CPUS; a++)
            set_bit(bits, (long)a);
        if (*p != ',')
            break;
        p++;
    }
    return count_bits(bits);
}

static int read_list(const char *root, const char *path, cpu_bits *bits)
{
    char *text = pl_read_text(root, PL_MOST_TEXT, "%s", path);
    int n = text ? parse_list(text, bits) : 0;
    free(text);
    return n;
}

/* ---- processors -------------------------------------------------------------------------------------------------- */

/* A list named in /proc/self/status. */
static int allowed_by_status(const char *root, cpu_bits *bits)
{
    static const char key[] = "Cpus_allowed_list:";
    char *text = pl_read_text(root, PL_MOST_TEXT, "/proc/self/status");
    const char *p = text ? strstr(text, key) : NULL;
    int n = 0;
    if (p) {
        p += sizeof key - 1;
        p += strspn(p, " \t");
        n = parse_list(p, bits);
    }
    free(text);
    return n;
}

static int allowed_by_kernel(cpu_bits *bits)
{
    int n = 0;
#if defined(__linux__)
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    size_t size = CPU_ALLOC_SIZE(MAX_CPUS);
    memset(bits, 0, sizeof *bits);
    if (set && sched_getaffinity(0, size, set) == 0)
        for (int i = 0; i < MAX_CPUS; i++)
            if (CPU_ISSET_S(i, size, set)) {
                set_bit(bits, i);
                n++;
            }
    if (set)
        CPU_FREE(set);
#else
    (void)bits;
#endif
    return n;
}

/* An OpenMP library that was told to bind threads binds the one that loads it to the first place, although the process
 * may use the processors of all places. Returns how many those are. */
static int unbind(cpu_bits *bits)
{
    int *processors = malloc(sizeof *processors * MAX_CPUS), bound = 0;
    cpu_bits all = {0};
    for (int i = 0, n; processors && (n = pl_region_place(i, processors, MAX_CPUS)); i++) {
        cpu_bits place = {0};
        for (int j = 0; j < n; j++)
            if (processors[j] >= 0 && processors[j] < MAX_CPUS) {
                set_bit(&place, processors[j]);
                set_bit(&all, processors[j]);
            }
        bound |= !memcmp(&place, bits, sizeof place);
    }
    free(processors);
    if (bound)
        *bits = all;
    return count_bits(bits);
}

/* Which core processor `cpu` belongs to: its least sibling, or package and core number; -1 when unknown. */
static int64_t core_of(const char *root, int cpu)
{
    static const char *const lists[] = {"core_cpus_list", "thread_siblings_list"}; /* new name, old name */
    char path[128];
    cpu_bits siblings;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, lists[i]);
        if (read_list(root, path, &siblings) > 0 && has_bit(&siblings, cpu))
            for (int j = 0; j < MAX_CPUS; j++)
                if (has_bit(&siblings, j))
                    return j;
    }
    long long core = pl_read_number(root, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
    long long package = pl_read_number(root, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
    if (core < 0 || core > INT32_MAX || package >= INT32_MAX)
        return -1;
    /* Packages may be unknown (-1) on machines with one package. The result is beyond any sibling's number. */
    return ((int64_t)(package < 0 ? 0 : package) + 1) << 32 | core;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Number of distinct cores; a processor whose core is unknown counts as one, and *unknown is set. */
static int count_cores(const char *root, const cpu_bits *allowed, int logical, int *unknown)
{
    int64_t *core = malloc((size_t)logical * sizeof *core);
    int n = 0, distinct = 0;
    *unknown = 0;
    if (!core) {
        *unknown = 1;
        return logical;
    }
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        if (!has_bit(allowed, cpu))
            continue;
        core[n] = core_of(root, cpu);
        if (core[n] < 0) {
            *unknown = 1;
            core[n] = -1 - cpu;
        }
        n++;
    }
    qsort(core, (size_t)n, sizeof *core, by_value);
    for (int i = 0; i < n; i++)
        distinct += i == 0 || core[i] != core[i - 1];
    free(core);
    return distinct;
}

/* Keeps only the fast processors if a machine has two kinds: each thread gets the same share of a product, so all would
 * wait for the slow ones. On Intel's, the fast ones are `cpu_core`; if capacities are known, as on Arm, they have at
 * least half of the largest. */
static void leave_quick(const char *root, cpu_bits *cpus)
{
    cpu_bits quick = {0};
    if (read_list(root, "/sys/devices/cpu_core/cpus", &quick)) {
        for (int i = 0; i < MAX_CPUS / 64; i++)
            quick.w[i] &= cpus->w[i];
    } else {
        long long *capacity = calloc(MAX_CPUS, sizeof *capacity), most = 0;
        for (int i = 0; capacity && i < MAX_CPUS; i++) {
            if (!has_bit(cpus, i))
                continue;
            capacity[i] = pl_read_number(root, "/sys/devices/system/cpu/cpu%d/cpu_capacity", i);
            if (capacity[i] < 0) {
                most = 0;
                break;
            }
            most = capacity[i] > most ? capacity[i] : most;
        }
        for (int i = 0; most && i < MAX_CPUS; i++)
            if (has_bit(cpus, i) && capacity[i] >= most - capacity[i])
                set_bit(&quick, i);
        free(capacity);
    }
    if (count_bits(&quick))
        *cpus = quick;
}

/* ---- all together ------------------------------------------------------------------------------------------------ */

void pl_topology_read(const char *root, pl_topology *t)
{
    cpu_bits allowed, online;
    int unknown, n_online;

    memset(t, 0, sizeof *t);
    if (!root)
        root = "";
    t->logical = *root || !allowed_by_kernel(&allowed) ? 0 : unbind(&allowed);
    n_online = read_list(root, "/sys/devices/system/cpu/online", &online);
    if (!t->logical && (t->logical = allowed_by_status(root, &allowed)) && n_online) {
        for (int i = 0; i < MAX_CPUS / 64; i++) /* it lists processors that could be plugged in, too */
            allowed.w[i] &= online.w[i];
        t->logical = count_bits(&allowed);
    }
    if (!t->logical) { /* affinity unknown: every processor counts */
        if (!n_online) {
            long n = sysconf(_SC_NPROCESSORS_ONLN);
            memset(&online, 0, sizeof online);
            for (n_online = 0; n_online < (n < 1 ? 1 : n) && n_online < MAX_CPUS; n_online++)
                set_bit(&online, n_online);
        }
        allowed = online;
        t->logical = n_online;
    }
    t->physical = count_cores(root, &allowed, t->logical, &unknown);
    leave_quick(root, &allowed);
    t->quick = count_cores(root, &allowed, count_bits(&allowed), &unknown);
    t->quota = pl_quota(root);
    t->processors = t->quota > 0 && t->quota < t->logical ? t->quota : t->logical;

    t->threads = t->quick;
    if (t->quota > 0 && t->quota < t->quick) {
        t->threads = t->quota < 1 ? 1 : t->quota > PL_MOST_THREADS ? PL_MOST_THREADS : (int)t->quota;
        snprintf(t->why, sizeof t->why, "cgroup quota %.3g", t->quota);
        return;
    }
    char cores[48] = "", affinity[48] = "", most[32] = "";
    if (unknown)
        snprintf(cores, sizeof cores, "cores unknown: %d processor%s", t->logical, t->logical == 1 ? "" : "s");
    else if (t->quick < t->physical)
        snprintf(cores, sizeof cores, "%d performance core%s of %d", t->quick, t->quick == 1 ? "" : "s", t->physical);
    else if (n_online <= t->logical || t->physical != t->logical)
        snprintf(cores, sizeof cores, "%d physical core%s", t->physical, t->physical == 1 ? "" : "s");
    if (t->threads > PL_MOST_THREADS) {
        t->threads = PL_MOST_THREADS;
        snprintf(most, sizeof most, ", at most %d threads", PL_MOST_THREADS);
    }
    if (n_online > t->logical)
        snprintf(affinity, sizeof affinity, "%saffinity %d of %d", *cores ? ", " : "", t->logical, n_online);
    snprintf(t->why, sizeof t->why, "%s%s%s", cores, affinity, most);
}

/* Sources: sched_getaffinity(2); Documentation/ABI/stable/sysfs-devices-system-cpu; cgroups(7);
 * Documentation/admin-guide/cgroup-v2.rst (cpu.max); scheduler/sched-bwc.rst (cpu.cfs_quota_us); proc_pid_mountinfo(5).
 * Any file may be missing, truncated or malformed; it is then ignored, and the next best source is used. */
#if defined(__linux__)
#define _GNU_SOURCE
#include <sched.h>
#endif
#include "topology.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "region.h"

#define MAX_CPUS 8192      /* the most that Linux can be built for */
#define MAX_FILE (1 << 20) /* mountinfo of a host with many containers: some 100 KB */

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

/* ---- files ------------------------------------------------------------------------------------------------------- */

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

__attribute__((format(printf, 3, 4))) static char *read_text(const char *root, size_t most, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = read_text_v(root, most, format, args);
    va_end(args);
    return text;
}

/* Reads a non-negative decimal integer at *p and moves *p past it; -1 where there is none. */
static long long take_number(const char **p)
{
    char *end;
    if (**p < '0' || **p > '9')
        return -1;
    errno = 0;
    long long v = strtoll(*p, &end, 10);
    *p = end;
    return errno ? LLONG_MAX : v;
}

__attribute__((format(printf, 2, 3))) static long long read_number(const char *root, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = read_text_v(root, 64, format, args);
    va_end(args);
    const char *p = text;
    long long v = text ? take_number(&p) : -1;
    free(text);
    return v;
}

/* "0-3,8,10-11" -> bits; how many. */
static int parse_list(const char *p, cpu_bits *bits)
{
    memset(bits, 0, sizeof *bits);
    for (;;) {
        long long a = take_number(&p), b = a;
        if (a < 0)
            break;
        if (*p == '-') {
            p++;
            b = take_number(&p);
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
    char *text = read_text(root, MAX_FILE, "%s", path);
    int n = text ? parse_list(text, bits) : 0;
    free(text);
    return n;
}

/* ---- processors -------------------------------------------------------------------------------------------------- */

/* A list named in /proc/self/status. */
static int allowed_by_status(const char *root, cpu_bits *bits)
{
    static const char key[] = "Cpus_allowed_list:";
    char *text = read_text(root, MAX_FILE, "/proc/self/status");
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

/* OpenMP's library, told to bind threads, binds the one that loads it to the first place. Then the process may use the
 * processors of all places. Returns how many there are. */
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
    long long core = read_number(root, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
    long long package = read_number(root, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
    if (core < 0 || core > INT32_MAX || package > INT32_MAX)
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

/* ---- quota ------------------------------------------------------------------------------------------------------- */

static double ratio(long long quota, long long period)
{
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

/* The quota of the folder `mount` + `group`; 0 = none. */
static double quota_here(const char *root, const char *mount, const char *group, int v2)
{
    if (!v2) { /* -1: none */
        long long quota = read_number(root, "%s%s/cpu.cfs_quota_us", mount, group);
        return ratio(quota, read_number(root, "%s%s/cpu.cfs_period_us", mount, group));
    }
    char *text = read_text(root, 64, "%s%s/cpu.max", mount, group); /* "max 100000" or "150000 100000" */
    double q = 0;
    if (text) {
        const char *p = text;
        long long quota = take_number(&p), period = 100000; /* the period may be left out */
        p += strspn(p, " \t");
        if (*p && *p != '\n')
            period = take_number(&p);
        q = ratio(quota, period);
    }
    free(text);
    return q;
}

/* The least quota from `mount` + `group` up to `mount`. `group` is truncated on the way up. */
static double quota_upward(const char *root, const char *mount, char *group, int v2)
{
    double least = 0;
    if (strstr(group, "/..")) /* outside our namespace: only the mount is visible */
        group[0] = 0;
    for (;;) {
        size_t len = strlen(group);
        while (len && group[len - 1] == '/')
            group[--len] = 0;
        double q = quota_here(root, mount, group, v2);
        if (q > 0 && (least == 0 || q < least))
            least = q;
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

/* Is `word` one of a comma-separated list that ends at `end`? */
static int has_word(const char *list, const char *end, const char *word)
{
    size_t n = strlen(word);
    while (list < end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        const char *stop = comma ? comma : end;
        if ((size_t)(stop - list) == n && memcmp(list, word, n) == 0)
            return 1;
        list = stop + 1;
    }
    return 0;
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
    char *to = s;
    while (*s) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 4;
        } else {
            *to++ = *s++;
        }
    }
    *to = 0;
}

/* Finds where the hierarchy is mounted, and which of its folders is mounted there. 1 if mountinfo lists it. */
static int find_mount(char *mountinfo, int v2, const char **mount, const char **shown)
{
    for (char *line = mountinfo, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            next++;
        size_t len = next ? (size_t)(next - line) - 1 : strlen(line);
        char *copy = malloc(len + 1);
        if (!copy)
            return 0;
        memcpy(copy, line, len);
        copy[len] = 0;
        /* id parent major:minor ROOT MOUNT options [tags] - TYPE source SUPER */
        char *field[5] = {0}, *p = copy, *rest = strstr(copy, " - ");
        for (int i = 0; i < 5 && p; i++) {
            field[i] = p;
            p = strchr(p, ' ');
            if (p)
                *p++ = 0;
        }
        int match = 0;
        if (rest && field[4] && rest > field[4]) {
            const char *type = rest + 3;
            if (v2) {
                match = strncmp(type, "cgroup2 ", 8) == 0;
            } else if (strncmp(type, "cgroup ", 7) == 0) {
                const char *super = strrchr(type, ' ') + 1;
                match = has_word(super, super + strlen(super), "cpu");
            }
        }
        if (match) {
            /* The caller's buffer is at least as long as this line. */
            size_t at = strlen(field[3]) + 1;
            memcpy(line, field[3], at);
            memcpy(line + at, field[4], strlen(field[4]) + 1);
            free(copy);
            unescape(line + at);
            unescape(line);
            *shown = line;
            *mount = line + at;
            return 1;
        }
        free(copy);
    }
    return 0;
}

static double hierarchy_quota(const char *root, char *group, int v2)
{
    /* The usual mount point, if mountinfo names none. */
    static const char *const usual[2][3] = {{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", NULL},
                                            {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", NULL}};
    const char *mount, *shown;
    char *mountinfo = read_text(root, MAX_FILE, "/proc/self/mountinfo");
    double least = 0;
    if (mountinfo && find_mount(mountinfo, v2, &mount, &shown)) {
        /* A container may see its own folder as the root: remove what lies above it. */
        size_t n = strlen(shown);
        while (n && shown[n - 1] == '/')
            n--;
        if (strncmp(group, shown, n) == 0 && (group[n] == '/' || group[n] == 0))
            memmove(group, group + n, strlen(group + n) + 1);
        else
            group[0] = 0;
        least = quota_upward(root, mount, group, v2);
    } else {
        for (int i = 0; usual[v2][i]; i++) {
            char *copy = strdup(group);
            double q = copy ? quota_upward(root, usual[v2][i], copy, v2) : 0;
            free(copy);
            if (q > 0 && (least == 0 || q < least))
                least = q;
        }
    }
    free(mountinfo);
    return least;
}

/* The least quota of all hierarchies that /proc/self/cgroup names; 0 = none. */
static double read_quota(const char *root)
{
    char *text = read_text(root, MAX_FILE, "/proc/self/cgroup");
    double least = 0;
    char *next;
    for (char *line = text; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        char *controllers = strchr(line, ':'); /* "0::/a/b" or "4:cpu,cpuacct:/a/b" */
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        int v2 = group == controllers + 1;
        if (!v2 && !has_word(controllers + 1, group, "cpu"))
            continue;
        double q = hierarchy_quota(root, group + 1, v2);
        if (q > 0 && (least == 0 || q < least))
            least = q;
    }
    free(text);
    return least;
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
    if (!t->logical)
        t->logical = allowed_by_status(root, &allowed);
    n_online = read_list(root, "/sys/devices/system/cpu/online", &online);
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
    t->quota = read_quota(root);

    t->threads = t->physical;
    if (t->quota > 0 && t->quota < t->physical) {
        t->threads = t->quota < 1 ? 1 : t->quota > PL_MOST_THREADS ? PL_MOST_THREADS : (int)t->quota;
        snprintf(t->why, sizeof t->why, "cgroup quota %.3g", t->quota);
        return;
    }
    char cores[48] = "", affinity[48] = "", most[32] = "";
    if (unknown)
        snprintf(cores, sizeof cores, "cores unknown: %d processor%s", t->logical, t->logical == 1 ? "" : "s");
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

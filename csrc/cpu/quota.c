/* Sources: cgroups(7); Documentation/admin-guide/cgroup-v2.rst (cpu.max); scheduler/sched-bwc.rst (cpu.cfs_quota_us);
 * proc_pid_mountinfo(5). */
#include "quota.h"

#include <stdlib.h>
#include <string.h>

#include "system.h"

static double ratio(long long quota, long long period)
{
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

/* The smaller quota; 0 = none. */
static double smaller(double a, double b)
{
    return a > 0 && (b == 0 || a < b) ? a : b;
}

/* The quota of the folder `mount` + `group`; 0 = none. */
static double quota_here(const char *root, const char *mount, const char *group, int v2)
{
    if (!v2) { /* -1: none */
        long long quota = pl_read_number(root, "%s%s/cpu.cfs_quota_us", mount, group);
        return ratio(quota, pl_read_number(root, "%s%s/cpu.cfs_period_us", mount, group));
    }
    char *text = pl_read_text(root, 64, "%s%s/cpu.max", mount, group); /* "max 100000" or "150000 100000" */
    double q = 0;
    if (text) {
        const char *p = text;
        long long quota = pl_take_number(&p), period = 100000; /* the period may be left out */
        p += strspn(p, " \t");
        if (*p && *p != '\n')
            period = pl_take_number(&p);
        q = ratio(quota, period);
    }
    free(text);
    return q;
}

/* The smallest quota from `mount` + `group` up to `mount`. `group` is truncated on the way up. */
static double quota_upward(const char *root, const char *mount, char *group, int v2)
{
    double least = 0;
    if (strstr(group, "/..")) /* outside our namespace: only the mount is visible */
        group[0] = 0;
    for (;;) {
        size_t len = strlen(group);
        while (len && group[len - 1] == '/')
            group[--len] = 0;
        least = smaller(quota_here(root, mount, group, v2), least);
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

/* Finds the next place where the hierarchy is mounted, and which of its folders is mounted there. *lines: those of
 * mountinfo that follow. 1 if one is found. */
static int find_mount(char **lines, int v2, const char **mount, const char **shown)
{
    for (char *line = *lines, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            next++;
        *lines = next;
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

/* quota_upward, with the path of the group below the folder that is mounted there. */
static double mount_quota(const char *root, const char *mount, const char *below, int v2)
{
    char *group = strdup(below);
    double q = group ? quota_upward(root, mount, group, v2) : 0;
    free(group);
    return q;
}

static double hierarchy_quota(const char *root, const char *group, int v2)
{
    /* The usual mount point, if mountinfo names none. */
    static const char *const usual[2][3] = {{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", NULL},
                                            {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", NULL}};
    const char *mount, *shown, *first = NULL;
    char *mountinfo = pl_read_text(root, PL_MOST_TEXT, "/proc/self/mountinfo"), *lines = mountinfo;
    double least = 0;
    int within = 0;
    while (find_mount(&lines, v2, &mount, &shown)) {
        /* A container may see its own folder as the root: remove what lies above it. */
        size_t n = strlen(shown);
        while (n && shown[n - 1] == '/')
            n--;
        if (strncmp(group, shown, n) == 0 && (group[n] == '/' || group[n] == 0)) {
            least = smaller(mount_quota(root, mount, group + n, v2), least);
            within = 1;
        }
        if (!first)
            first = mount;
    }
    if (first && !within)
        least = mount_quota(root, first, "", v2);
    for (int i = 0; !first && usual[v2][i]; i++)
        least = smaller(mount_quota(root, usual[v2][i], group, v2), least);
    free(mountinfo);
    return least;
}

double pl_quota(const char *root)
{
    char *text = pl_read_text(root, PL_MOST_TEXT, "/proc/self/cgroup");
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
        least = smaller(hierarchy_quota(root, group + 1, v2), least);
    }
    free(text);
    return least;
}

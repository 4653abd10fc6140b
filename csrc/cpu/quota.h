/* How much of the processors the process may use. */
#ifndef PL_QUOTA_H
#define PL_QUOTA_H

/* In processors: the smallest quota of all control group hierarchies that /proc/self/cgroup names; 0 = none. root: as
 * in pl_topology_read. */
double pl_quota(const char *root);

#endif

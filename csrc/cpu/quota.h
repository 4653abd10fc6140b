/* How much of the processors the process may use. */
#ifndef PL_QUOTA_H
#define PL_QUOTA_H

/* In processors: the least quota of all hierarchies of control groups that /proc/self/cgroup names; 0 = none. root: as
 * pl_topology_read has it. */
double pl_quota(const char *root);

#endif

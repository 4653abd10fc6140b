/* How many threads to use. */
#ifndef PL_TOPOLOGY_H
#define PL_TOPOLOGY_H

#define PL_MOST_THREADS 1024 /* of a team */

typedef struct pl_topology {
    int logical;       /* processors this process may run on (affinity) */
    int physical;      /* distinct cores among them */
    int quick;         /* those that are not efficiency cores */
    double quota;      /* processors granted by the cgroup and those above it (v1 or v2); 0 = no limit */
    double processors; /* that it can use at the same time: min(logical, quota) */
    int threads;       /* default: min(quick, max(1, floor(quota)), PL_MOST_THREADS) */
    char why[128];     /* "2 physical cores", "6 performance cores of 14", "cgroup quota 1.5", "affinity 1 of 2", ... */
} pl_topology;

/* `root` is "" for the real machine; a test passes a folder that holds its own proc/ and sys/. */
void pl_topology_read(const char *root, pl_topology *t);

#endif

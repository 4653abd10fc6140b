/* Which instruction sets this build holds and this processor (and its operating system) can run. */
#ifndef PL_DETECT_H
#define PL_DETECT_H

typedef enum {
    PL_ISA_SCALAR,
    PL_ISA_AVX2,
    PL_ISA_AVXVNNI,
    PL_ISA_AVX512,
    PL_ISA_AVX512BF16,
    PL_ISA_NEON,
    PL_N_ISA
} pl_isa;

/* Best tier that is both built and runnable is what "auto" picks. */
const char *pl_isa_name(pl_isa isa); /* "scalar", "avx2", ... */
int pl_isa_built(pl_isa isa);        /* 1 when this build holds it */
int pl_isa_runs(pl_isa isa);         /* 1 when the processor and the OS (xgetbv) have it */
int pl_isa_vex_vnni(void);           /* 1 when AVXVNNI runs by its own encodings, not only by those of AVX-512 */
int pl_isa_find(const char *name);   /* -1 when unknown */
pl_isa pl_isa_best(void);
const char *pl_cpu_name(void);   /* brand string, "" where unknown */
const char *pl_cpu_vendor(void); /* as CPUID gives it ("GenuineIntel"), "" elsewhere */

#endif

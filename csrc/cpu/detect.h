/* Which instruction sets this build contains and this processor (with its operating system) can run. */
#ifndef PL_DETECT_H
#define PL_DETECT_H

typedef enum {
    PL_ISA_SCALAR,
    PL_ISA_AVX2,
    PL_ISA_AVXVNNI,
    PL_ISA_AVX512,
    PL_ISA_AVX512BF16,
    PL_ISA_AMX,
    PL_ISA_NEON,
    PL_ISA_I8MM,
    PL_N_ISA
} pl_isa;

const char *pl_isa_name(pl_isa isa); /* "scalar", "avx2", ... */
int pl_isa_built(pl_isa isa);        /* 1 if this build contains it */
int pl_isa_runs(pl_isa isa);         /* 1 if the processor and the OS (xgetbv) support it */
int pl_isa_vex_vnni(void);           /* 1 if AVX-VNNI runs in its own (VEX) encoding, not only in that of AVX-512 */
int pl_isa_find(const char *name);   /* -1 if unknown */
pl_isa pl_isa_best(void);            /* the best tier that is both built and runnable */
const char *pl_cpu_name(void);       /* brand string, "" if unknown */
const char *pl_cpu_vendor(void);     /* as CPUID gives it ("GenuineIntel"), "" elsewhere */
int pl_cpu_family(void);             /* as CPUID gives it, with its extension; 0 elsewhere */

#endif

/* Scalar first, then each tier over the one it extends: what a tier lacks, it inherits. */
#include "select.h"

#include <pthread.h>
#include <string.h>

#include "../cpu/detect.h"

typedef struct tier {
    int base;                    /* the tier it is laid over; -1 for the first */
    void (*fill)(pl_kernels *k); /* NULL: not built */
} tier;

#ifdef PL_HAVE_AVXVNNI
static void fill_avxvnni(pl_kernels *k)
{
#ifdef PL_HAVE_AVXVNNI_EVEX
    if (!pl_isa_vex_vnni()) {
        pl_kernels_avxvnni_evex(k);
        return;
    }
#endif
    pl_kernels_avxvnni(k);
}
#endif

static const tier tiers[PL_N_ISA] = {
    [PL_ISA_SCALAR] = {-1, pl_kernels_scalar},
#ifdef PL_HAVE_AVX2
    [PL_ISA_AVX2] = {PL_ISA_SCALAR, pl_kernels_avx2},
#endif
#ifdef PL_HAVE_AVXVNNI
    [PL_ISA_AVXVNNI] = {PL_ISA_AVX2, fill_avxvnni},
#endif
#ifdef PL_HAVE_AVX512
    [PL_ISA_AVX512] = {PL_ISA_AVX2, pl_kernels_avx512},
#endif
#ifdef PL_HAVE_AVX512BF16
    [PL_ISA_AVX512BF16] = {PL_ISA_AVX512, pl_kernels_avx512bf16},
#endif
#ifdef PL_HAVE_AMX
    [PL_ISA_AMX] = {PL_ISA_AVX512BF16, pl_kernels_amx},
#endif
#ifdef PL_HAVE_NEON
    [PL_ISA_NEON] = {PL_ISA_SCALAR, pl_kernels_neon},
#endif
#ifdef PL_HAVE_I8MM
    [PL_ISA_I8MM] = {PL_ISA_NEON, pl_kernels_i8mm},
#endif
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pl_kernels tables[PL_N_ISA];

static void fill(pl_kernels *k, int isa)
{
    if (tiers[isa].base >= 0)
        fill(k, tiers[isa].base);
    if (tiers[isa].fill)
        tiers[isa].fill(k);
}

/* The function that fills a tier's table is compiled for that tier too, so it runs only where the tier does. */
static void fill_all(void)
{
    for (int isa = 0; isa < PL_N_ISA; isa++)
        if (tiers[isa].fill && pl_isa_runs(isa))
            fill(&tables[isa], isa);
}

size_t pl_kernels_scratch(const pl_kernels *k)
{
    size_t most = 64; /* a panel's head (matmul.h): pl_product_run clears it in any tier */
    for (int i = 0; i < PL_N_FORMATS; i++)
        most = k->matmul_scratch[i] > most ? k->matmul_scratch[i] : most;
    for (int i = 0; i < PL_N_KV; i++)
        most = k->attend_scratch[i] > most ? k->attend_scratch[i] : most;
    return most;
}

const pl_kernels *pl_kernels_get(int isa)
{
    if (isa < 0 || isa >= PL_N_ISA || !tiers[isa].fill || !pl_isa_built(isa) || !pl_isa_runs(isa))
        return NULL;
    pthread_once(&once, fill_all);
    return &tables[isa];
}

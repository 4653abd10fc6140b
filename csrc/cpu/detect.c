/* CPUID leaves and bits: Intel SDM vol. 2A "CPUID", vol. 1 13.3 (XCR0); AMD APM vol. 3 appendix E.
 * Arm: HWCAP bits of the Linux ABI (Documentation/arch/arm64/elf_hwcaps.rst). */
#include "detect.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

static const char *const names[PL_N_ISA] = {"scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "amx", "neon", "i8mm"};

static const unsigned char built[PL_N_ISA] = {
    [PL_ISA_SCALAR] = 1,
#ifdef PL_HAVE_AVX2
    [PL_ISA_AVX2] = 1,
#endif
#ifdef PL_HAVE_AVXVNNI
    [PL_ISA_AVXVNNI] = 1,
#endif
#ifdef PL_HAVE_AVX512
    [PL_ISA_AVX512] = 1,
#endif
#ifdef PL_HAVE_AVX512BF16
    [PL_ISA_AVX512BF16] = 1,
#endif
#ifdef PL_HAVE_AMX
    [PL_ISA_AMX] = 1,
#endif
#ifdef PL_HAVE_NEON
    [PL_ISA_NEON] = 1,
#endif
#ifdef PL_HAVE_I8MM
    [PL_ISA_I8MM] = 1,
#endif
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static unsigned char runs[PL_N_ISA];
static int vex_vnni;
static char cpu_name[49], cpu_vendor[13];
static int cpu_family;

#if defined(__x86_64__)

typedef struct regs {
    uint32_t a, b, c, d;
} regs;

static regs cpuid(uint32_t leaf, uint32_t sub)
{
    regs r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}

/* In assembly, because the intrinsic would need -mxsave in a file built for the baseline. */
static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static int bit(uint32_t word, int n)
{
    return word >> n & 1;
}

static void read_brand(void)
{
    if (cpuid(0x80000000u, 0).a < 0x80000004u)
        return;
    char raw[49];
    for (uint32_t i = 0; i < 3; i++) {
        regs r = cpuid(0x80000002u + i, 0);
        memcpy(raw + 16 * i, &r, 16);
    }
    raw[48] = 0;
    /* Intel pads on the left, AMD on the right. */
    const char *from = raw + strspn(raw, " ");
    size_t n = strlen(from);
    while (n && from[n - 1] == ' ')
        n--;
    memcpy(cpu_name, from, n);
}

#ifdef PL_HAVE_AMX
/* Whether the system lets this process use tile registers. Linux requires a request, because signals then need larger
 * stacks (Documentation/arch/x86/xstate.rst); it refuses if a thread has set up one that is too small. */
static int may_use_tiles(void)
{
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return 0;
#endif
}
#endif

static void detect(void)
{
    runs[PL_ISA_SCALAR] = 1;
    read_brand();

    regs l0 = cpuid(0, 0);
    memcpy(cpu_vendor, (uint32_t[]){l0.b, l0.d, l0.c}, 12);
    const uint32_t signature = l0.a >= 1 ? cpuid(1, 0).a : 0, family = signature >> 8 & 15;
    cpu_family = (int)(family == 15 ? family + (signature >> 20 & 255) : family);
    if (l0.a < 7)
        return;
    regs l1 = cpuid(1, 0), l7 = cpuid(7, 0), l7_1 = {0, 0, 0, 0};
    if (l7.a >= 1)
        l7_1 = cpuid(7, 1);

    /* A processor may have registers that its operating system does not save: XCR0 says which. xgetbv itself
     * faults unless OSXSAVE is set. */
    uint64_t state = bit(l1.c, 27) ? xcr0() : 0;
    int ymm = (state & 0x06) == 0x06; /* xmm, upper halves of ymm */
    int zmm = (state & 0xe6) == 0xe6; /* and opmask, upper halves of zmm0-15, zmm16-31 */

    int avx2 = ymm && bit(l1.c, 28) /* AVX */ && bit(l7.b, 5) /* AVX2 */ && bit(l1.c, 12) /* FMA */ &&
               bit(l1.c, 29) /* F16C */ && bit(l7.b, 8) /* BMI2 */;
    int avx_vnni = bit(l7_1.a, 4);
    int avx512 = zmm && bit(l7.b, 16) /* F */ && bit(l7.b, 30) /* BW */ && bit(l7.b, 17) /* DQ */ &&
                 bit(l7.b, 31) /* VL */ && bit(l7.c, 11) /* AVX512_VNNI */;

    runs[PL_ISA_AVX2] = (unsigned char)avx2;
    vex_vnni = avx_vnni;
#ifdef PL_HAVE_AVXVNNI_EVEX
    avx_vnni |= avx512;
#endif
    runs[PL_ISA_AVXVNNI] = (unsigned char)(avx2 && avx_vnni);
    runs[PL_ISA_AVX512] = (unsigned char)(avx2 && avx512);
    runs[PL_ISA_AVX512BF16] = (unsigned char)(avx2 && avx512 && bit(l7_1.a, 5) /* AVX512_BF16 */);
#ifdef PL_HAVE_AMX
    const int tiles = (state & 0x60000) == 0x60000 /* their configuration and data */ && bit(l7.d, 22) /* AMX_BF16 */ &&
                      bit(l7.d, 24) /* AMX_TILE */ && bit(l7.d, 25) /* AMX_INT8 */;
    runs[PL_ISA_AMX] = (unsigned char)(runs[PL_ISA_AVX512BF16] && tiles && may_use_tiles());
#endif
}

#elif defined(__aarch64__)

static void detect(void)
{
    runs[PL_ISA_SCALAR] = 1;
    /* NEON means Advanced SIMD with the dot products (sdot, udot) of Armv8.2; i8mm these and smmla. */
#if defined(__linux__)
    unsigned long caps = getauxval(AT_HWCAP);
    runs[PL_ISA_NEON] = (caps >> 1 & 1) /* ASIMD */ && (caps >> 20 & 1) /* ASIMDDP */;
    runs[PL_ISA_I8MM] = runs[PL_ISA_NEON] && (getauxval(AT_HWCAP2) >> 13 & 1) /* I8MM */;
#elif defined(__APPLE__)
    int has = 0;
    size_t n = sizeof has;
    runs[PL_ISA_NEON] = sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &n, NULL, 0) == 0 && has;
    has = 0;
    n = sizeof has;
    runs[PL_ISA_I8MM] = runs[PL_ISA_NEON] && sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &n, NULL, 0) == 0 && has;
    n = sizeof cpu_name;
    if (sysctlbyname("machdep.cpu.brand_string", cpu_name, &n, NULL, 0) != 0)
        cpu_name[0] = 0;
#endif
}

#else

static void detect(void)
{
    runs[PL_ISA_SCALAR] = 1;
}

#endif

static int known(pl_isa isa)
{
    return (unsigned)isa < PL_N_ISA;
}

const char *pl_isa_name(pl_isa isa)
{
    return known(isa) ? names[isa] : "";
}

int pl_isa_built(pl_isa isa)
{
    return known(isa) && built[isa];
}

int pl_isa_runs(pl_isa isa)
{
    pthread_once(&once, detect);
    return known(isa) && runs[isa];
}

int pl_isa_vex_vnni(void)
{
    pthread_once(&once, detect);
    return vex_vnni;
}

int pl_isa_find(const char *name)
{
    for (int i = 0; name && i < PL_N_ISA; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

pl_isa pl_isa_best(void)
{
    /* The enum ascends within an architecture, and no processor has tiers of more than one. */
    int i = PL_N_ISA - 1;
    while (i > PL_ISA_SCALAR && !(pl_isa_built((pl_isa)i) && pl_isa_runs((pl_isa)i)))
        i--;
    return (pl_isa)i;
}

const char *pl_cpu_name(void)
{
    pthread_once(&once, detect);
    return cpu_name;
}

const char *pl_cpu_vendor(void)
{
    pl_cpu_name();
    return cpu_vendor;
}

int pl_cpu_family(void)
{
    pl_cpu_name();
    return cpu_family;
}

/* The kernels' contracts: one struct of function pointers, filled with the scalar reference and
 * overlaid tier by tier. A kernel is pure: no allocation, no threads, no environment, no libm.
 *
 * Every row's result depends on that row alone: the order of every sum is fixed by (tier, k), never by
 * n, by the range of tiles, or by the other rows. Integer dot products are exact.
 * Pointers need no alignment beyond their type's; no kernel touches a byte outside the ranges given.
 *
 * Kernels run on threads whose stacks may be small (OMP_STACKSIZE, ulimit -s), so no frame is larger than 8 KB, which
 * the build checks, and no array of more than 4 KB is on the stack: a kernel lays it out in `scratch`, memory of the
 * calling thread alone, which starts at a multiple of 64 bytes and has as many bytes as `matmul_scratch` or
 * `attend_scratch` says (multiples of 64). What it holds before a call does not matter, and nothing in it is needed
 * afterwards.
 *
 * Order of sums of `matmul` on integer formats: one float accumulator per (row of w, row of x), blocks of
 * 32 k in ascending order; per block and group (in order):
 *     one term:  f = fma((float)dot,                  round(s * s_y),       f)
 *     two terms: f = fma((float)(256*dot_hi + dot_lo), round(s * s_y / 256), f)
 *     then, with mins, f = fma(m, sum, f), sum = round(s_y * sum_y) or round(s_y/256 * (256*sum_hi+sum_lo)),
 *     sums over the group
 * where dot = sum((code - offset) * y), or of what the table has for the code, exact in int32, and m as formats.h says.
 * Scaled formats (Q2_K, Q3_K) have one dot per block, sum(scale * (code - offset) * y) with the integer scales of its
 * groups, and with mins one sum, sum(min * sum_y), both exact in int32. Per super block, from a = b = 0, blocks in
 *     order: a = fma((float)dot, s_y, a), b = fma((float)sum, s_y, b)         s_y / 256 with two terms
 *     then f = fma(factor of scales, a, f), and with mins f = fma(-factor of mins, b, f)
 * Float formats: one accumulator, ascending k (BF16: the tier's own order within a pair of k; in tile registers within
 * 32 k, padded with zeros at the end).
 */
#ifndef PL_KERNELS_H
#define PL_KERNELS_H

#include "../formats/formats.h"
#include "tuning.h"

#define PL_TERM_BITS 8
#define PL_TERM (1 << PL_TERM_BITS) /* steps of activations' second term in one of the first */

/* A packed matrix (rows, k). */
typedef struct pl_mat {
    const pl_format *format;
    int rows, k;
    int64_t tile_bytes;  /* distance between tiles */
    const uint8_t *data; /* ceil(rows/16) tiles */
} pl_mat;

/* Rows of activations (n, k) in the forms that the formats need; other forms are NULL. */
typedef struct pl_acts {
    int k;
    int terms;      /* of the integer form that are used: 1 or 2 */
    int stored;     /* terms of a row in memory, at least as many */
    const float *f; /* (n, k) float32; row distance f_stride floats */
    ptrdiff_t f_stride;
    const int8_t *q;     /* (n, stored, k_pad) codes in [-127, 127], lo in [-128, 127]; k_pad = k rounded up to 32 */
    const float *s;      /* (n, k_pad / 32) scales */
    const int16_t *sums; /* (n, stored, k_pad / 16) sums of 16 codes */
    const uint16_t *b;   /* (n, k_pad2) bf16, k_pad2 = k rounded up to 2, zero beyond k */
    void *scratch;       /* matmul_scratch of the format */
    const pl_tuning *tuning; /* not NULL */
    int again;               /* 1: the last product with this scratch had the same rows, unchanged since */
} pl_acts;

/* One page of keys and values of one KV head; see `kv_append` for the layout, private to a tier. */
#define PL_PAGE 64  /* tokens of a page */
#define PL_SLOTS 16 /* tokens whose keys lie together, in every tier and type */

/* INT8: codes in [-127, 127] and a float32 scale for every 32 values (fewer at the end) of a slot: code = round_even(x
 * * (127 / amax)), scale = amax / 127; values below 1e-30 or not finite as in `quantize`. Scales in f16 would save
 * 6 % of the bytes, but heads whose values lie below 0.008 would have scales below f16's normal range. */
typedef enum { PL_KV_F32, PL_KV_F16, PL_KV_BF16, PL_KV_INT8, PL_N_KV } pl_kv_type;
/* Activations; defined at `glu`. */
typedef enum {
    PL_ACT_SILU,
    PL_ACT_GELU_TANH,
    PL_ACT_GELU,
    PL_ACT_RELU2,
    PL_ACT_SIGMOID,
    PL_ACT_NONE,
    PL_ACT_OAI,
    PL_ACT_XIELU,
    PL_N_ACTS
} pl_act;
enum { PL_XIELU_PARAMETERS = 4 };

/* What the codes of a quantised format may be, and how many scales are tried for them. */
typedef enum { PL_FIT_NO_MIN, PL_FIT_ANY_MIN, PL_FIT_NEGATIVE_MIN } pl_fit_kind; /* negative: or 0 */
enum { PL_FIT_GROUPS = 64, PL_FIT_WHOLE = 2 * PL_FIT_GROUPS, PL_FIT_TRIES = 4 }; /* most at once */
#define PL_FIT_MOST 1e15f
typedef struct pl_fit {
    pl_fit_kind kind;
    int n;                      /* weights of a group: 16 or 32 */
    int lo, hi;                 /* codes are the whole numbers from lo to hi; with a min, lo is 0 */
    int tries;                  /* 1 to PL_FIT_TRIES */
    float spread[PL_FIT_TRIES]; /* scales tried: the one that spans the group, divided by 1 + this */
    int centred;                /* with a min: 1: they cut off both ends of the span; 0: only the upper one */
    int repeats;                /* how often the best one is then solved again, for the codes that it gives */
    /* For groups of 32 without mins, codes may stand instead for the 16 ascending values of a table, of which lo is the
     * largest in magnitude, with the 15 borders between them. NULL, NULL otherwise. */
    const float *table, *middle;
} pl_fit;

/* Attention of m query rows over the keys of one page (online softmax; Milakov & Gimelshein 2018). A call has one page
 * or several, one after another, that differ in nothing but k, v, next, lo and hi.
 * On entry and exit top, sum and acc hold the running state: start it with top = PL_TOP_NONE, sum = 0, acc = 0.
 * Per row i: score[j] = (sum over d of q[i][d] * k[j][d]) * scale for lo[i] <= j < hi[i], others do not exist; with a
 * cap: cap * tanh(dot * round(scale / cap));
 * top' = max(top, scores); acc = acc * exp(top - top') + sum over j ascending of exp(score - top') * v[j]; sum
 * likewise, but in lanes (scalar/attend.c says how). acc never holds -0, so a row's bits do not depend on the rows
 * beside it. A row with lo >= hi is left exactly as it was. Keys at or beyond max(hi) are never read, or change
 * nothing; those below it must be finite (rope_append sees to that), because a key that a row does not see may be
 * multiplied by 0. INT8 in every tier: score = (sum over blocks of 32 d of scale * (sum over d of q[d] * code)) *
 * scale; the values' scales go to the probabilities: acc += round(p * scale) * code. BF16 in the tier that multiplies
 * bf16: q and p rounded to bf16 too, pairs of d and of keys together (in tile registers: sixteen pairs), and v as
 * kv_append rounded it. */
#define PL_TOP_NONE (-1e30f)
typedef struct pl_attend_page {
    int m;            /* query rows, any number >= 1 */
    int dk, dv;       /* head sizes of keys and values; any >= 1 */
    float scale, cap; /* cap: soft cap of the scores, 0 = none */
    const float *q;   /* (m, dk), row distance q_stride floats */
    ptrdiff_t q_stride;
    const void *k, *v;  /* the page's keys and values */
    const void *next;   /* keys, and values right behind them, that will be read next; NULL: unknown */
    size_t next_bytes;  /* of both */
    int turns;          /* it is prefetched in lines from several places in turn (prefetch.h); 0: in order, or not */
    const int *lo, *hi; /* (m) visible slots of this page, 0 <= lo, hi <= 64 */
    float *top, *sum;   /* (m) */
    float *acc;         /* (m, dv), dense */
    void *scratch;      /* attend_scratch of the type */
} pl_attend_page;

/* The peak rates of a tier's instructions, for measuring limits. `read` reads each of `bytes` (a multiple of 1024)
 * once, with the widest loads, and returns a value made of them; turns: it prefetches lines of several pages in turn.
 * The others do n rounds of independent multiply-adds on registers and return the number of operations, two per
 * product: int8 by codes, wide (codes whose products must be added up in another way; NULL if none need it), bf16 in
 * float32 (NULL if the tier has no such instruction), float32. */
typedef struct pl_peak {
    uint64_t (*read)(const void *p, size_t bytes, int turns);
    double (*i8)(int64_t n);
    double (*wide)(int64_t n);
    double (*bf16)(int64_t n);
    double (*f32)(int64_t n);
} pl_peak;

/* A depthwise causal convolution at one row, n channels: y = sum over taps j ascending of w[j] * x[j] (product, then
 * sum, each rounded), + bias if there is one. x[j] (n): the input taps - 1 - j rows before; where by[j] is not NULL,
 * x[j] * by[j] takes its place. */
#define PL_MOST_TAPS 8
typedef struct pl_conv {
    int taps; /* 1..PL_MOST_TAPS */
    const float *x[PL_MOST_TAPS], *by[PL_MOST_TAPS];
    const float *w; /* (taps, n), row distance w_stride floats */
    ptrdiff_t w_stride;
    const float *bias; /* (n) or NULL */
} pl_conv;

/* A recurrence over n rows, for `cols` of the columns of one value head. Per row, with a state S (dk, 16):
 *     delta: w = (v - S^T k * (decay * k_scale)) * (gain * k_scale), else w = v * (gain * k_scale)
 *     S = fma(k, w, S * decay);  out = S^T q * q_scale + skip * v
 * or, where `decays` has one for each key channel,
 *     w = (v - S^T (k * decays) * k_scale) * (gain * k_scale);  S = fma(k, w, S * decays)
 * delta is the gated delta rule (Yang et al. 2024) with keys and queries scaled afterwards; without it, Mamba 2 (Dao &
 * Gu 2024). S^T x sums k ascending with fma in four accumulators, k mod 4; then 0 takes 2, 1 takes 3, 0 takes 1. */
#define PL_SCAN_COLUMNS 16
typedef struct pl_scan {
    int n, dk, cols; /* cols: 1..16; the other columns of S stay finite */
    int delta;
    const float *q, *k, *v; /* (n, dk), (n, dk), (n, cols), row distance `stride` floats */
    ptrdiff_t stride;
    const float *decay, *gain, *q_scale, *k_scale; /* (n), row distance `gate_stride` floats */
    ptrdiff_t gate_stride;
    const float *decays; /* (n, dk), row distance gate_stride, or NULL: one for all channels; only with delta */
    float skip;
    float *state; /* (dk, 16) */
    float *out;   /* (n, cols), row distance out_stride floats */
    ptrdiff_t out_stride;
} pl_scan;

/* Prefetches the lines of [p, p + bytes) for writing: those that another core holds are fetched while other work goes
 * on, not when the stores are due. PREFETCHW, which every x86-64 processor decodes (AMD64 manual vol. 3). */
static inline void pl_prefetch_write(const void *p, size_t bytes)
{
    for (const char *line = p, *end = line + bytes; line < end; line += 64)
#if defined(__x86_64__)
        __asm__ volatile("prefetchw %0" ::"m"(*line));
#else
        __builtin_prefetch(line, 1, 3);
#endif
}

typedef struct pl_kernels {
    const char *isa;

    /* ---- weights -------------------------------------------------------------------- */
    /* Rows [row0, row0 + n) of a matrix of `rows` rows (n a multiple of 16 but at the matrix's end, row0 a multiple of
     * 16), as the file stores them (src: their first byte, distance pl_row_bytes) -> the tiles at dst. Pads to 16. */
    void (*pack[PL_N_FORMATS])(const uint8_t *src, int n, int k, uint8_t *dst);
    /* Row `row` out of the tiles -> float32 (k): the same bits as the format's decode. */
    void (*unpack_row[PL_N_FORMATS])(const pl_mat *w, int row, float *dst);
    /* y[i][r] = x[i] . w[r] for rows r of tiles [tile0, tile1), i < n; y's row distance y_stride floats; y points to
     * column 0 of w's row 0. Rows beyond w->rows are not stored. Integer formats read q, s, sums; F32 and F16 read
     * f; BF16 reads b. */
    void (*matmul[PL_N_FORMATS])(const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y,
                                 ptrdiff_t y_stride);
    /* Bytes; 0: none is read, and the pointer may be NULL. A kernel of float weights that uses scratch divides rows
     * and weights itself. */
    size_t matmul_scratch[PL_N_FORMATS];
    int tile_rows; /* from this many rows on, kernels of quantised weights use tile registers; 0: never */

    /* ---- activations ---------------------------------------------------------------- */
    /* k floats -> codes, scales per 32, sums per 16. k a multiple of 32. amax = max |x| over 32; s = amax / 127;
     * hi = round_even(x * (127 / amax)); with two terms c = round_even(x * (127 / amax) * 256) is 256 hi + lo, lo in
     * [-128, 127]. amax < 1e-30 counts as 0 and gives zeros, scale 0 (127 / amax would overflow below 4e-37); a block
     * with NaN or infinity gives codes 0 and scale NaN or infinity, so that products become NaN. `q` and `sums` are
     * the hi planes; the lo planes are q_lo, sums_lo (ignored when terms = 1). */
    void (*quantize)(const float *x, int k, int terms, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                     int16_t *sums_lo);
    void (*to_bf16)(const float *x, int n, uint16_t *y);
    /* y = x / sqrt(mean(x^2) + eps) * w; w may be NULL; y may be x. (RMSNorm, Zhang & Sennrich 2019) */
    void (*rms_norm)(const float *x, const float *w, int n, float eps, float *y);
    /* y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w + b; w, b may be NULL; y may be x. (Ba et al. 2016) */
    void (*layer_norm)(const float *x, const float *w, const float *b, int n, float eps, float *y);
    void (*add)(const float *x, const float *y, int n, float *z); /* z = x + y; z may be x or y */
    void (*scale)(const float *x, float a, int n, float *y);      /* y = a * x; y may be x */
    /* y = act(g) * u; u NULL: y = act(g). y may be g or u.
     *     silu       g / (1 + exp(-g))
     *     gelu_tanh  0.5 g (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3)))
     *     gelu       0.5 g (1 + erf(g / sqrt(2)))
     *     relu2      max(g, 0)^2
     *     sigmoid    1 / (1 + exp(-g))
     *     none       g
     *     oai        y = g / (1 + exp(-1.702 g)) * (u + 1); it has no form without u
     *     xielu      g > 0: p0 g^2 + p2 g; else p1 (exp(min(g, p3)) - 1 - g) + p2 g
     * p: xielu's four parameters (PL_XIELU_PARAMETERS); the others do not read it. */
    void (*glu[PL_N_ACTS])(const float *g, const float *u, const float *p, int n, float *y);
    void (*clip)(const float *x, float least, float most, int n,
                 float *y); /* into [least, most]; NaN stays; y may be x */
    /* Rotates one head in place by the angles whose cosines and sines are given (n_rot / 2 each).
     * halves = 0: x[2i], x[2i+1] (adjacent); 1: x[i], x[i + n_rot/2]. (RoPE, Su et al. 2021) */
    void (*rope)(float *x, const float *cos, const float *sin, int n_rot, int halves);
    void (*softcap)(const float *x, float cap, int n, float *y); /* y = cap * tanh(x / cap); y may be x */

    /* ---- quantising weights --------------------------------------------------------- */
    /* Bytes of F16 or BF16 -> y (n), n a multiple of 16. from_f16 may be NULL: pl_decode does it (formats/). */
    void (*from_f16)(const uint8_t *x, int64_t n, float *y);
    void (*from_bf16)(const uint8_t *x, int64_t n, float *y);
    /* For groups x (groups, n), at most PL_FIT_GROUPS, the best scales d and mins m found, each with room for
     * PL_FIT_GROUPS: sum (x - d q - m)^2 is small for the codes q nearest to (x - m) / d. Groups of zeros: 0. Returns
     * 0, or another number if a value is not below PL_FIT_MOST, so that its square might not be finite. */
    int (*fit)(const pl_fit *f, int groups, const float *x, float *d, float *m);
    /* codes (groups, n), counted from lo or from the table's first, nearest to (x - m) / d. x (groups, n), finite,
     * groups at most PL_FIT_GROUPS; d, m (groups); d 0: as if 1 / d were 0. */
    void (*fit_codes)(const pl_fit *f, int groups, const float *x, const float *d, const float *m, uint8_t *codes);
    /* v (blocks, n), at most PL_FIT_WHOLE, n 8 or 16 -> whole numbers lo .. hi and a factor in f16 for each block, such
     * that the v largest in magnitude becomes `largest`; v is replaced by what the whole numbers stand for. Returns 0,
     * or another number if a factor is not finite. */
    int (*fit_whole)(int blocks, int n, int largest, int lo, int hi, float *v, uint16_t *factors, int *whole);

    /* ---- recurrent layers ----------------------------------------------------------- */
    void (*conv)(const pl_conv *c, int n, float *y);
    int (*scan)(const pl_scan *s); /* 0; nonzero if a number of the state is infinite or NaN at the end */

    /* ---- attention ------------------------------------------------------------------ */
    /* Bytes that the keys (values) of one page take, for a head size d. */
    size_t (*k_bytes[PL_N_KV])(int d);
    size_t (*v_bytes[PL_N_KV])(int d);
    /* Stores k (dk) and v (dv) at slot (0..63) of the page. Scalar layout: k as [4][dk][16 slots], v as [64][dv];
     * INT8: then the scales, of k as [4][ceil(dk / 32)][16 slots], of v as [ceil(dv / 32)][64 slots]. */
    void (*kv_append[PL_N_KV])(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage);
    void (*attend[PL_N_KV])(const pl_attend_page *pages, int n);
    size_t attend_scratch[PL_N_KV]; /* bytes; 0: as for matmul_scratch */
    /* Merges the states of a later chunk of keys (b) into those of the earlier ones (a): top, sum (m), acc (m, dv). */
    void (*attend_merge)(int m, int dv, float *top_a, float *sum_a, float *acc_a, const float *top_b,
                         const float *sum_b, const float *acc_b);

    /* ---- vocabulary (sampling) ------------------------------------------------------ */
    float (*max)(const float *x, int n); /* NaN if any is NaN */
    /* sum of exp((x - top) * inv_t), in float64 over lanes of float32 blocks; order fixed by n */
    double (*sum_exp)(const float *x, int n, float top, float inv_t);
    /* The same, and in *dot the sum of d * exp(d), d = (x - top) * inv_t, for an entropy. -inf adds nothing. */
    double (*sum_exp_dot)(const float *x, int n, float top, float inv_t, double *dot);
    /* Sums of x - top and of its square in float64, -inf left out: lane i % 16 takes x[i], then lanes j and j + 8 are
     * added, j and j + 4, + 2, + 1. */
    void (*moments)(const float *x, int n, float top, double *sum, double *squares);
    /* Indices i (ascending) with x[i] >= least -> at most `room` of them in out; returns how many there are. Merely
     * counting (room 0) is as fast as finding few. */
    int (*collect)(const float *x, int n, float least, int32_t *out, int room);
    void (*softmax)(float *x, int n);             /* in place; a row's own max; rows sum to 1 */
    void (*exp)(const float *x, int n, float *y); /* within 2 ulp; exp(0) = 1; -inf -> 0; <= -104 -> 0 */

    pl_peak peak;
} pl_kernels;

/* Each tier fills in what it has and leaves the rest. Only tiers in this build are linked (PL_HAVE_AVX2 ...). */
void pl_kernels_scalar(pl_kernels *k);
void pl_kernels_avx2(pl_kernels *k);
void pl_kernels_avxvnni(pl_kernels *k);
void pl_kernels_avxvnni_evex(pl_kernels *k); /* the same in AVX-512's encoding */
void pl_kernels_avx512(pl_kernels *k);
void pl_kernels_avx512bf16(pl_kernels *k);
void pl_kernels_amx(pl_kernels *k);
void pl_kernels_neon(pl_kernels *k);
void pl_kernels_i8mm(pl_kernels *k);

#endif

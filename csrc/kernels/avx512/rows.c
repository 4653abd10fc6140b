/* Rows of activations, AVX-512: the scalar reference's bits. Tails are masked, so that every loop has one body. */
#include "../common.h"
#include "../layer_norm.h"
#include "fill.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../activations.h"

/* Sums of 16 signed bytes -> int16; the bytes + 128 as unsigned give 16 * 128 too many. */
static inline int16_t sum_bytes(__m128i bytes)
{
    const __m128i by8 = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return (int16_t)(_mm_cvtsi128_si32(_mm_add_epi32(by8, _mm_unpackhi_epi64(by8, by8))) - 2048);
}

/* The codes of values in steps of the first term; of two terms, those of the second go to `low`. */
static inline __m512i codes_of(__m512 v, int two, __m512i *low)
{
    const __m512i c = _mm512_cvtps_epi32(two ? _mm512_mul_ps(v, _mm512_set1_ps(PL_TERM)) : v);
    if (!two)
        return c;
    *low = _mm512_srai_epi32(_mm512_slli_epi32(c, 32 - PL_TERM_BITS), 32 - PL_TERM_BITS);
    return _mm512_srai_epi32(_mm512_add_epi32(c, _mm512_set1_epi32(PL_TERM / 2)), PL_TERM_BITS);
}

static inline void quantize_blocks(const float *x, int blocks, int two, int8_t *q, int8_t *q_lo, float *s,
                                   int16_t *sums, int16_t *sums_lo)
{
    const __m512i abs = _mm512_set1_epi32(0x7fffffff);
    for (int b = 0; b < blocks; b++, x += PL_BLOCK) {
        __m512 v[2] = {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)};
        const uint32_t top = (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(
            _mm512_and_si512(_mm512_castps_si512(v[0]), abs), _mm512_and_si512(_mm512_castps_si512(v[1]), abs)));
        const float amax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)top)));
        float inv = 127.0f / amax;
        s[b] = amax / 127.0f;
        if (amax < PL_LEAST_AMAX) {
            s[b] = 0;
            inv = 0;
        } else if (top >= 0x7f800000u) { /* infinity or NaN: codes of zero, the scale is not finite */
            v[0] = v[1] = _mm512_setzero_ps();
            inv = 0;
        }
        for (int h = 0; h < 2; h++) {
            __m512i low;
            const __m128i hi = _mm512_cvtepi32_epi8(codes_of(_mm512_mul_ps(v[h], _mm512_set1_ps(inv)), two, &low));
            _mm_storeu_si128((__m128i *)(q + PL_BLOCK * b + 16 * h), hi);
            sums[2 * b + h] = sum_bytes(hi);
            if (!two)
                continue;
            const __m128i lo = _mm512_cvtepi32_epi8(low);
            _mm_storeu_si128((__m128i *)(q_lo + PL_BLOCK * b + 16 * h), lo);
            sums_lo[2 * b + h] = sum_bytes(lo);
        }
    }
}

/* Four blocks at a time, whose largest values share the steps to one number each, and the divisions. */
#define FOUR 4

/* Sums of the sixteen signed bytes of each quarter of two vectors -> int16 (8). */
static inline void sum_halves(__m512i a, __m512i b, int16_t *sums)
{
    const __m512i ones = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
    a = _mm512_dpbusd_epi32(zero, ones, a);
    b = _mm512_dpbusd_epi32(zero, ones, b);
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); /* a0 b0 a1 b1 */
    s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_BADC));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i all = _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, s));
    _mm_storeu_si128((__m128i *)sums, _mm256_cvtepi32_epi16(all));
}

/* 64 integers of [-128, 127] -> bytes. */
static inline __m512i to_bytes(const __m512i c[4])
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i words = _mm512_packs_epi16(_mm512_packs_epi32(c[0], c[1]), _mm512_packs_epi32(c[2], c[3]));
    return _mm512_permutexvar_epi32(order, words);
}

/* 0: one of the values is infinite or NaN, and nothing is stored. */
static inline int quantize_four(const float *x, int two, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                                int16_t *sums_lo)
{
    const __m512i abs = _mm512_set1_epi32(0x7fffffff);
    __m512i m[FOUR];
    for (int b = 0; b < FOUR; b++)
        m[b] = _mm512_max_epi32(_mm512_and_si512(_mm512_loadu_si512(x + 32 * b), abs),
                                _mm512_and_si512(_mm512_loadu_si512(x + 32 * b + 16), abs));
    m[0] = _mm512_max_epi32(_mm512_unpacklo_epi32(m[0], m[1]), _mm512_unpackhi_epi32(m[0], m[1]));
    m[2] = _mm512_max_epi32(_mm512_unpacklo_epi32(m[2], m[3]), _mm512_unpackhi_epi32(m[2], m[3]));
    m[0] = _mm512_max_epi32(_mm512_unpacklo_epi64(m[0], m[2]), _mm512_unpackhi_epi64(m[0], m[2]));
    const __m256i half = _mm256_max_epi32(_mm512_castsi512_si256(m[0]), _mm512_extracti64x4_epi64(m[0], 1));
    const __m128i top = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    if (_mm_cmpgt_epi32_mask(top, _mm_set1_epi32(0x7f7fffff)))
        return 0;
    const __m128 amax = _mm_castsi128_ps(top), limit = _mm_set1_ps(127.0f);
    const __mmask8 some = _mm_cmp_ps_mask(amax, _mm_set1_ps(PL_LEAST_AMAX), _CMP_GE_OQ);
    const __m512 inv = _mm512_castps128_ps512(_mm_maskz_div_ps(some, limit, amax));
    _mm_storeu_ps(s, _mm_maskz_div_ps(some, amax, limit));
    __m512i bytes[2], low[2];
    for (int h = 0; h < 2; h++) {
        __m512i c[4], l[4];
        for (int i = 0; i < 4; i++) {
            const __m512 by = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * h + i / 2), inv);
            c[i] = codes_of(_mm512_mul_ps(_mm512_loadu_ps(x + 64 * h + 16 * i), by), two, &l[i]);
        }
        bytes[h] = to_bytes(c);
        _mm512_storeu_si512(q + 64 * h, bytes[h]);
        if (two) {
            low[h] = to_bytes(l);
            _mm512_storeu_si512(q_lo + 64 * h, low[h]);
        }
    }
    sum_halves(bytes[0], bytes[1], sums);
    if (two)
        sum_halves(low[0], low[1], sums_lo);
    return 1;
}

static inline void quantize_row(const float *x, int blocks, int two, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                                int16_t *sums_lo)
{
    int b = 0;
    for (int n; b < blocks; b += n) {
        n = blocks - b < FOUR ? blocks - b : FOUR;
        int8_t *low = two ? q_lo + PL_BLOCK * b : NULL;
        int16_t *of_low = two ? sums_lo + 2 * b : NULL;
        if (n < FOUR || !quantize_four(x + PL_BLOCK * b, two, q + PL_BLOCK * b, low, s + b, sums + 2 * b, of_low))
            quantize_blocks(x + PL_BLOCK * b, n, two, q + PL_BLOCK * b, low, s + b, sums + 2 * b, of_low);
    }
}

static void quantize(const float *x, int k, int terms, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                     int16_t *sums_lo)
{
    if (terms > 1)
        quantize_row(x, k / PL_BLOCK, 1, q, q_lo, s, sums, sums_lo);
    else
        quantize_row(x, k / PL_BLOCK, 0, q, NULL, s, sums, NULL);
}

/* Round to nearest even: add 0x7fff and the bit that will be last. A NaN is made quiet instead. (vcvtneps2bf16 would
 * take numbers below the normal range for 0.) */
static inline __m256i bf16_bits(__m512 x)
{
    const __m512i u = _mm512_castps_si512(x), last = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i bits = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
}

static void to_bf16(const float *x, int n, uint16_t *y)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(y + i), bf16_bits(_mm512_loadu_ps(x + i)));
    if (i < n)
        _mm256_mask_storeu_epi16(y + i, pl_first(n - i), bf16_bits(_mm512_maskz_loadu_ps(pl_first(n - i), x + i)));
}

/* y = OF(x) over n floats: whole vectors, then a masked one. LOAD(p) loads at p + i in either. */
#define ROW(y, n, OF)                                                                                                  \
    do {                                                                                                               \
        int i = 0;                                                                                                     \
        for (; i + 16 <= (n); i += 16) {                                                                               \
            const __mmask16 in = 0xffff;                                                                               \
            _mm512_storeu_ps((y) + i, OF);                                                                             \
        }                                                                                                              \
        if (i < (n)) {                                                                                                 \
            const __mmask16 in = pl_first((n) - i);                                                                    \
            _mm512_mask_storeu_ps((y) + i, in, OF);                                                                    \
        }                                                                                                              \
    } while (0)
#define LOAD(p) _mm512_maskz_loadu_ps(in, (p) + i)

static void rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    __m512 lane[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    int i = 0;
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 2; j++) {
            const __m512 v = _mm512_loadu_ps(x + i + 16 * j);
            lane[j] = _mm512_add_ps(lane[j], _mm512_mul_ps(v, v));
        }
    for (int j = 0; i + 16 * j < n; j++) {
        const __m512 v = _mm512_maskz_loadu_ps(pl_first(n - i - 16 * j), x + i + 16 * j);
        lane[j] = _mm512_add_ps(lane[j], _mm512_mul_ps(v, v));
    }
    const __m128 mean = _mm_set_ss(pl_sum_lanes(lane) / (float)n + eps);
    const __m512 r = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(mean)));
    if (w)
        ROW(y, n, _mm512_mul_ps(_mm512_mul_ps(LOAD(x), r), LOAD(w)));
    else
        ROW(y, n, _mm512_mul_ps(LOAD(x), r));
}

static void add(const float *x, const float *y, int n, float *z)
{
    ROW(z, n, _mm512_add_ps(LOAD(x), LOAD(y)));
}

static void scale(const float *x, float a, int n, float *y)
{
    ROW(y, n, _mm512_mul_ps(_mm512_set1_ps(a), LOAD(x)));
}

static void glu_silu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    ROW(y, n, _mm512_mul_ps(pl_silu16(LOAD(g)), u ? LOAD(u) : _mm512_set1_ps(1.0f)));
}

static void glu_gelu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    ROW(y, n, _mm512_mul_ps(pl_gelu16(LOAD(g)), u ? LOAD(u) : _mm512_set1_ps(1.0f)));
}

static void softcap(const float *x, float cap, int n, float *y)
{
    const __m512 c = _mm512_set1_ps(cap);
    ROW(y, n, _mm512_mul_ps(c, pl_tanh16(_mm512_div_ps(LOAD(x), c))));
}

/* Pairs i .. i + 15 of `halves`, those in `in`. */
static inline void turn(float *x, float *far, const float *cos, const float *sin, int i, __mmask16 in)
{
    const __m512 a = LOAD(x), b = LOAD(far), c = LOAD(cos), s = LOAD(sin);
    _mm512_mask_storeu_ps(x + i, in, _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s)));
    _mm512_mask_storeu_ps(far + i, in, _mm512_add_ps(_mm512_mul_ps(a, s), _mm512_mul_ps(b, c)));
}

/* Adjacent pairs i .. i + 7, the first n: a b -> a c - b s, b c + a s; addition commutes exactly. */
static inline void turn_adjacent(float *x, const float *cos, const float *sin, int i, int n)
{
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __mmask16 in = pl_first(2 * n);
    const __mmask8 half = (__mmask8)pl_first(n);
    const __m512 v = _mm512_maskz_loadu_ps(in, x + 2 * i);
    const __m512 c = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(half, cos + i)));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(half, sin + i)));
    const __m512 far = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), s), near = _mm512_mul_ps(v, c);
    _mm512_mask_storeu_ps(x + 2 * i, in, _mm512_mask_sub_ps(_mm512_add_ps(near, far), 0x5555, near, far));
}

static void rope(float *x, const float *cos, const float *sin, int n_rot, int halves)
{
    const int n = n_rot / 2;
    int i = 0;
    if (halves) {
        for (; i + 16 <= n; i += 16)
            turn(x, x + n, cos, sin, i, 0xffff);
        if (i < n)
            turn(x, x + n, cos, sin, i, pl_first(n - i));
        return;
    }
    for (; i + 8 <= n; i += 8)
        turn_adjacent(x, cos, sin, i, 8);
    if (i < n)
        turn_adjacent(x, cos, sin, i, n - i);
}

void pl_fill_rows_avx512(pl_kernels *k)
{
    k->quantize = quantize;
    k->to_bf16 = to_bf16;
    k->rms_norm = rms_norm;
    k->layer_norm = pl_layer_norm;
    pl_put_activations(k);
    k->add = add;
    k->scale = scale;
    k->glu[PL_ACT_SILU] = glu_silu;
    k->glu[PL_ACT_GELU_TANH] = glu_gelu;
    k->rope = rope;
    k->softcap = softcap;
}

/* Rows of activations, AVX2 with FMA and F16C: the scalar reference's bits. */
#include "../common.h"
#include "../layer_norm.h"
#include "fill.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../activations.h"

/* Four vectors of 32-bit codes -> 32 bytes in order: the packs work within 128-bit lanes, the permutation restores the
 * order. */
static inline __m256i narrow(const __m256i *c)
{
    const __m256i ab = _mm256_packs_epi32(c[0], c[1]), cd = _mm256_packs_epi32(c[2], c[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Sums of 16 bytes each -> sums[0..1]. */
static inline void sum_halves(__m256i bytes, int16_t *sums)
{
    /* bytes + 128 as unsigned, whose sums of 8 vpsadbw gives; 16 * 128 too many */
    const __m256i by8 = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
    const __m256i by16 = _mm256_add_epi64(by8, _mm256_unpackhi_epi64(by8, by8));
    sums[0] = (int16_t)(_mm256_extract_epi16(by16, 0) - 2048);
    sums[1] = (int16_t)(_mm256_extract_epi16(by16, 8) - 2048);
}

static inline uint32_t top_bits(const __m256 *v)
{
    const __m256i abs = _mm256_set1_epi32(0x7fffffff);
    const __m256i a = _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(v[0]), abs),
                                       _mm256_and_si256(_mm256_castps_si256(v[1]), abs));
    const __m256i b = _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(v[2]), abs),
                                       _mm256_and_si256(_mm256_castps_si256(v[3]), abs));
    const __m256i c = _mm256_max_epi32(a, b);
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* The codes of values in steps of the first term; of two terms, those of the second go to `low`. */
static inline __m256i codes_of(__m256 v, int two, __m256i *low)
{
    const __m256i c = _mm256_cvtps_epi32(two ? _mm256_mul_ps(v, _mm256_set1_ps(PL_TERM)) : v);
    if (!two)
        return c;
    *low = _mm256_srai_epi32(_mm256_slli_epi32(c, 32 - PL_TERM_BITS), 32 - PL_TERM_BITS);
    return _mm256_srai_epi32(_mm256_add_epi32(c, _mm256_set1_epi32(PL_TERM / 2)), PL_TERM_BITS);
}

static inline void quantize_blocks(const float *x, int blocks, int two, int8_t *q, int8_t *q_lo, float *s,
                                   int16_t *sums, int16_t *sums_lo)
{
    for (int b = 0; b < blocks; b++, x += PL_BLOCK) {
        __m256 v[4];
        __m256i c[4], low[4];
        for (int i = 0; i < 4; i++)
            v[i] = _mm256_loadu_ps(x + 8 * i);
        const uint32_t top = top_bits(v);
        const __m128 amax = _mm_castsi128_ps(_mm_cvtsi32_si128((int)top));
        float inv = 127.0f / _mm_cvtss_f32(amax);
        s[b] = _mm_cvtss_f32(amax) / 127.0f;
        if (_mm_cvtss_f32(amax) < PL_LEAST_AMAX) {
            s[b] = 0;
            inv = 0;
        } else if (top >= 0x7f800000u) { /* infinity or NaN: codes of zero, the scale is not finite */
            for (int i = 0; i < 4; i++)
                v[i] = _mm256_setzero_ps();
            inv = 0;
        }
        for (int i = 0; i < 4; i++)
            c[i] = codes_of(_mm256_mul_ps(v[i], _mm256_set1_ps(inv)), two, &low[i]);
        const __m256i hi = narrow(c);
        _mm256_storeu_si256((__m256i *)(q + PL_BLOCK * b), hi);
        sum_halves(hi, sums + 2 * b);
        if (!two)
            continue;
        const __m256i lo = narrow(low);
        _mm256_storeu_si256((__m256i *)(q_lo + PL_BLOCK * b), lo);
        sum_halves(lo, sums_lo + 2 * b);
    }
}

void pl_quantize_avx2(const float *x, int k, int terms, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                      int16_t *sums_lo)
{
    if (terms > 1)
        quantize_blocks(x, k / PL_BLOCK, 1, q, q_lo, s, sums, sums_lo);
    else
        quantize_blocks(x, k / PL_BLOCK, 0, q, NULL, s, sums, NULL);
}

/* Round to nearest even: add 0x7fff and the bit that will be last. A NaN is made quiet instead. */
static inline __m256i bf16_bits(__m256 x)
{
    const __m256i u = _mm256_castps_si256(x), last = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000)),
                  nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

void pl_to_bf16_avx2(const float *x, int n, uint16_t *y)
{
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i p = _mm256_packus_epi32(bf16_bits(_mm256_loadu_ps(x + i)), bf16_bits(_mm256_loadu_ps(x + i + 8)));
        _mm256_storeu_si256((__m256i *)(y + i), _mm256_permute4x64_epi64(p, 0xd8));
    }
    for (; i < n; i++)
        y[i] = pl_f32_to_bf16(x[i]);
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    __m256 lane[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int i = 0;
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) {
            const __m256 v = _mm256_loadu_ps(x + i + 8 * j);
            lane[j] = _mm256_add_ps(lane[j], _mm256_mul_ps(v, v));
        }
    for (int j = 0; i + 8 * j < n; j++) {
        const __m256 v = _mm256_maskload_ps(x + i + 8 * j, pl_first(n - i - 8 * j));
        lane[j] = _mm256_add_ps(lane[j], _mm256_mul_ps(v, v));
    }
    const __m128 mean = _mm_set_ss(pl_sum_lanes(lane) / (float)n + eps);
    const __m256 r = _mm256_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(mean)));
    for (i = 0; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), r);
        _mm256_storeu_ps(y + i, w ? _mm256_mul_ps(v, _mm256_loadu_ps(w + i)) : v);
    }
    if (i < n) {
        const __m256i tail = pl_first(n - i);
        const __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, tail), r);
        _mm256_maskstore_ps(y + i, tail, w ? _mm256_mul_ps(v, _mm256_maskload_ps(w + i, tail)) : v);
    }
}

static void add(const float *x, const float *y, int n, float *z)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(z + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    if (i == n)
        return;
    const __m256i tail = pl_first(n - i);
    _mm256_maskstore_ps(z + i, tail, _mm256_add_ps(_mm256_maskload_ps(x + i, tail), _mm256_maskload_ps(y + i, tail)));
}

static void scale(const float *x, float a, int n, float *y)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_set1_ps(a), _mm256_loadu_ps(x + i)));
    if (i == n)
        return;
    const __m256i tail = pl_first(n - i);
    _mm256_maskstore_ps(y + i, tail, _mm256_mul_ps(_mm256_set1_ps(a), _mm256_maskload_ps(x + i, tail)));
}

static void glu_silu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    const __m256 one = _mm256_set1_ps(1.0f);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(pl_silu8(_mm256_loadu_ps(g + i)), u ? _mm256_loadu_ps(u + i) : one));
    if (i < n) {
        const __m256i tail = pl_first(n - i);
        const __m256 by = u ? _mm256_maskload_ps(u + i, tail) : one;
        _mm256_maskstore_ps(y + i, tail, _mm256_mul_ps(pl_silu8(_mm256_maskload_ps(g + i, tail)), by));
    }
}

static void glu_gelu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    const __m256 one = _mm256_set1_ps(1.0f);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(pl_gelu8(_mm256_loadu_ps(g + i)), u ? _mm256_loadu_ps(u + i) : one));
    if (i < n) {
        const __m256i tail = pl_first(n - i);
        const __m256 by = u ? _mm256_maskload_ps(u + i, tail) : one;
        _mm256_maskstore_ps(y + i, tail, _mm256_mul_ps(pl_gelu8(_mm256_maskload_ps(g + i, tail)), by));
    }
}

static void softcap(const float *x, float cap, int n, float *y)
{
    const __m256 c = _mm256_set1_ps(cap);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(c, pl_tanh8(_mm256_div_ps(_mm256_loadu_ps(x + i), c))));
    if (i < n) {
        const __m256i tail = pl_first(n - i);
        _mm256_maskstore_ps(y + i, tail, _mm256_mul_ps(c, pl_tanh8(_mm256_div_ps(_mm256_maskload_ps(x + i, tail), c))));
    }
}

static inline __m256 turn(__m256 a, __m256 b, __m256 c, __m256 s, __m256 *far)
{
    *far = _mm256_add_ps(_mm256_mul_ps(a, s), _mm256_mul_ps(b, c));
    return _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s));
}

static void rope(float *x, const float *cos, const float *sin, int n_rot, int halves)
{
    const int n = n_rot / 2;
    int i = 0;
    __m256 far;
    if (halves) {
        for (; i + 8 <= n; i += 8) {
            const __m256 near = turn(_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + n + i), _mm256_loadu_ps(cos + i),
                                     _mm256_loadu_ps(sin + i), &far);
            _mm256_storeu_ps(x + i, near);
            _mm256_storeu_ps(x + n + i, far);
        }
        if (i < n) {
            const __m256i in = pl_first(n - i);
            const __m256 near = turn(_mm256_maskload_ps(x + i, in), _mm256_maskload_ps(x + n + i, in),
                                     _mm256_maskload_ps(cos + i, in), _mm256_maskload_ps(sin + i, in), &far);
            _mm256_maskstore_ps(x + i, in, near);
            _mm256_maskstore_ps(x + n + i, in, far);
        }
        return;
    }
    for (; i + 4 <= n; i += 4) { /* pairs a b: a c - b s, b c + a s; addition commutes exactly */
        const __m256 v = _mm256_loadu_ps(x + 2 * i);
        const __m128 c4 = _mm_loadu_ps(cos + i), s4 = _mm_loadu_ps(sin + i);
        const __m256 c = _mm256_set_m128(_mm_unpackhi_ps(c4, c4), _mm_unpacklo_ps(c4, c4));
        const __m256 s = _mm256_set_m128(_mm_unpackhi_ps(s4, s4), _mm_unpacklo_ps(s4, s4));
        const __m256 swapped = _mm256_permute_ps(v, 0xb1);
        _mm256_storeu_ps(x + 2 * i, _mm256_addsub_ps(_mm256_mul_ps(v, c), _mm256_mul_ps(swapped, s)));
    }
    for (; i < n; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = a * sin[i] + b * cos[i];
    }
}

void pl_fill_rows_avx2(pl_kernels *k)
{
    k->quantize = pl_quantize_avx2;
    k->to_bf16 = pl_to_bf16_avx2;
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

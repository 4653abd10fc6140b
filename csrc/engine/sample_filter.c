/* The sampler's filters, each linear in the tokens it looks at.
 *
 * top_k, top_p and min_p all keep a prefix of the sorted tokens, but nothing is sorted to find where it ends: a radix
 * search from the most significant digit adds up counts or probabilities per digit and goes on in the digit where the
 * wanted sum is reached. What has to look at the whole vocabulary are vector kernels only. */
#include "sample_filter.h"

#include <float.h>
#include <math.h>
#include <string.h>

static size_t room(uint8_t **at, size_t bytes)
{
    size_t padded = (bytes + 63) / 64 * 64;
    if (*at)
        *at += padded;
    return padded;
}

size_t pl_pool_init(pl_pool *b, void *scratch, int vocab)
{
    size_t n = (size_t)vocab, sums = n / PL_SORTED_MAX + 1, total = 0;
    uint8_t *at = scratch;

    if (sums < PL_DIGIT)
        sums = PL_DIGIT;
    b->n = b->block_size = 0;
    b->sum = (double *)at;
    total += room(&at, sums * sizeof(double));
    b->sort = (uint64_t *)at;
    b->key = (uint32_t *)at;
    total += room(&at, n * 4);
    b->sub = (int32_t *)at;
    total += room(&at, n * 4);
    /* room() pads, so the first two arrays hold at least vocab 8-byte keys, and so do the next two. */
    b->sort_room = (uint64_t *)at;
    b->w = (float *)at;
    total += room(&at, n * 4);
    b->d = (float *)at;
    total += room(&at, n * 4);
    b->id = (int32_t *)at;
    total += room(&at, n * 4);
    b->x = (float *)at;
    total += room(&at, n * 4);
    b->raw = (float *)at;
    total += room(&at, n * 4);
    b->block = (float *)at;
    total += room(&at, (n / 16 + 1) * 4);
    return total;
}

/* Ascending keys are ascending floats; -0 and +0 have one key. */
static uint32_t float_key(float x)
{
    uint32_t u;
    x += 0.0f;
    memcpy(&u, &x, 4);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static void take_keys(pl_pool *b, const float *s, int descending)
{
    uint32_t flip = descending ? 0xffffffffu : 0;
    for (int i = 0; i < b->n; i++)
        b->key[i] = float_key(s[i]) ^ flip;
}

/* Keeps the smallest set of ascending keys (ties: ascending ids) whose weights (or numbers, with w NULL) add up to at
 * least target; everything where rounding never lets them. Afterwards the pool is still in the order of ids. */
static void pl_pool_cut(pl_pool *b, const float *w, double target)
{
    static const int shift[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
    double before = 0;
    uint32_t last = 0;
    int n_sub = b->n, m = 0;

    if (!(target > DBL_MIN))
        target = DBL_MIN; /* the best token always stays */
    for (int level = 0; level < 3; level++) {
        uint32_t mask = (1u << bits[level]) - 1;
        int digit, filled = -1, left = 0;
        double filled_before = before;
        memset(b->sum, 0, PL_DIGIT * sizeof(double));
        for (int j = 0; j < n_sub; j++) {
            int i = level ? b->sub[j] : j;
            b->sum[(b->key[i] >> shift[level]) & mask] += w ? (double)w[i] : 1.0;
        }
        for (digit = 0; digit <= (int)mask; digit++) {
            if (b->sum[digit] > 0) {
                filled = digit;
                filled_before = before;
                if (before + b->sum[digit] >= target)
                    break;
                before += b->sum[digit];
            }
        }
        if (digit > (int)mask) {
            if (level == 0 || filled < 0)
                return;
            digit = filled; /* the same weights in another order: the sum is an ulp lower than a level above */
            before = filled_before;
        }
        for (int j = 0; j < n_sub; j++) {
            int i = level ? b->sub[j] : j;
            if (((b->key[i] >> shift[level]) & mask) == (uint32_t)digit)
                b->sub[left++] = i;
        }
        n_sub = left;
        last |= (uint32_t)digit << shift[level];
        if (n_sub == 1) {
            last = b->key[b->sub[0]];
            break;
        }
    }
    for (int i = 0; i < b->n; i++) {
        if (b->key[i] > last)
            continue;
        if (b->key[i] == last) {
            if (before >= target)
                continue;
            before += w ? (double)w[i] : 1.0;
        }
        b->id[m] = b->id[i];
        b->x[m] = b->x[i];
        b->w[m] = b->w[i]; /* whatever it holds before there are weights */
        m++;
    }
    b->n = m;
}

/* With at least 4 blocks per token wanted, few tokens beyond those wanted pass the bound that the maxima give. */
static int block_size(int vocab, int want)
{
    if (want <= 0)
        return 0;
    return want <= vocab / 64 / 4 ? 64 : want <= vocab / 16 / 4 ? 16 : 0;
}

float pl_pool_top(const pl_kernels *k, pl_pool *b, const float *row, int vocab, int want)
{
    int size = block_size(vocab, want), n = 0;

    b->block_size = size;
    if (!size)
        return k->max(row, vocab);
    for (int at = 0; at < vocab; at += size)
        b->block[n++] = k->max(row + at, vocab - at < size ? vocab - at : size);
    return k->max(b->block, n);
}

void pl_pool_collect(const pl_kernels *k, pl_pool *b, const float *row, int vocab, float least)
{
    b->n = k->collect(row, vocab, least >= -FLT_MAX ? least : -FLT_MAX, b->id, vocab);
    for (int i = 0; i < b->n; i++)
        b->x[i] = row[b->id[i]];
}

void pl_pool_best(const pl_kernels *k, pl_pool *b, const float *row, int vocab, int want)
{
    float least = -FLT_MAX;

    if (b->block_size) {
        /* `want` blocks have a maximum at or above the want-th largest of all, so as many tokens do. */
        int n = (vocab + b->block_size - 1) / b->block_size;
        b->n = n;
        for (int i = 0; i < n; i++)
            b->x[i] = b->block[i];
        take_keys(b, b->x, 1);
        pl_pool_cut(b, NULL, want);
        for (int i = 0; i < b->n; i++)
            least = i == 0 || b->x[i] < least ? b->x[i] : least;
    }
    pl_pool_collect(k, b, row, vocab, least);
    if (b->n > want) {
        take_keys(b, b->x, 1);
        pl_pool_cut(b, NULL, want);
    }
}

static void sort_keys(uint64_t *a, uint64_t *room, int n)
{
    if (n <= 64) {
        for (int i = 1; i < n; i++) {
            uint64_t v = a[i];
            int j = i;
            for (; j > 0 && a[j - 1] > v; j--)
                a[j] = a[j - 1];
            a[j] = v;
        }
        return;
    }
    /* Least significant digit first over the float half; the ids are in order already. */
    uint64_t *from = a, *to = room;
    for (int shift = 32; shift < 64; shift += 8) {
        int count[256] = {0}, at = 0, only = 0;
        for (int i = 0; i < n; i++)
            count[(from[i] >> shift) & 255]++;
        for (int v = 0; v < 256; v++) {
            int c = count[v];
            only |= c == n;
            count[v] = at;
            at += c;
        }
        if (only)
            continue;
        for (int i = 0; i < n; i++)
            to[count[(from[i] >> shift) & 255]++] = from[i];
        uint64_t *t = from;
        from = to;
        to = t;
    }
    if (from != a)
        memcpy(a, from, (size_t)n * sizeof *a);
}

void pl_pool_sort(pl_pool *b, const float *row)
{
    for (int i = 0; i < b->n; i++)
        b->sort[i] = (uint64_t)~float_key(b->x[i]) << 32 | (uint32_t)b->id[i];
    sort_keys(b->sort, b->sort_room, b->n);
    for (int i = 0; i < b->n; i++) {
        b->id[i] = (int32_t)(b->sort[i] & 0xffffffffu);
        b->x[i] = row[b->id[i]];
    }
}

/* w = exp(x - top) */
static void take_weights(const pl_kernels *k, pl_pool *b, float top)
{
    if (b->n <= PL_SORTED_MAX) {
        for (int i = 0; i < b->n; i++)
            b->w[i] = (float)exp((double)b->x[i] - top);
        return;
    }
    for (int i = 0; i < b->n; i++)
        b->d[i] = b->x[i] - top;
    k->exp(b->d, b->n, b->w);
}

static double mass(const pl_pool *b)
{
    double sum = 0;
    for (int i = 0; i < b->n; i++)
        sum += b->w[i];
    return sum;
}

/* Surprise of a token: -ln p = ln(total) - (x - top). */
static void typical(pl_pool *b, float top, double total, float typical_p)
{
    double log_total = log(total), entropy = 0;

    for (int i = 0; i < b->n; i++)
        if (b->w[i] > 0)
            entropy += b->w[i] / total * (log_total - ((double)b->x[i] - top));
    for (int i = 0; i < b->n; i++)
        b->d[i] = (float)fabs(log_total - ((double)b->x[i] - top) - entropy);
    take_keys(b, b->d, 0);
    pl_pool_cut(b, b->w, typical_p * total);
}

/* A bound `width` below the best, less what rounding it to float32 may add. */
static float below(float top, double width)
{
    return (float)(top - width - fabs((double)top) * 1e-6);
}

/* Tokens that top_p can keep, when it acts on the whole row of weight total. All that lie below top - width weigh less
 * than vocab * exp(-width) together, which bounds the width; a narrower one nearly always does. */
static void collect_nucleus(const pl_kernels *k, pl_pool *b, const float *row, int vocab, float top, double total,
                            float top_p, double most)
{
    double rest = top_p > 0 ? 1 - (double)top_p : 1, wide = log(2.0 * vocab / (rest * total)), width = 3 - log(rest);

    if (wide > most)
        wide = most;
    if (width > wide)
        width = wide;
    pl_pool_collect(k, b, row, vocab, below(top, width));
    if (width < wide && k->sum_exp(b->x, b->n, top, 1) < top_p * total * (1 + 1e-6))
        pl_pool_collect(k, b, row, vocab, below(top, wide));
}

int pl_pool_filter(const pl_kernels *k, pl_pool *b, const pl_sample_params *p, const float *row, int vocab, float top)
{
    int by_k = p->top_k > 0 && p->top_k < vocab, by_typical = p->typical_p > 0 && p->typical_p < 1;
    int by_p = p->top_p < 1, by_min = p->min_p > 0;
    /* How far below the best a token that min_p keeps can lie; renormalising does not alter ratios. Typical sampling
     * may drop the best token, so there it bounds nothing. */
    double most = by_min ? 1e-3 - log(p->min_p < 1 ? p->min_p : 1) : INFINITY;
    double total;

    if (!by_k && !by_typical && !by_p && !by_min)
        return 0;
    if (by_k) {
        pl_pool_best(k, b, row, vocab, p->top_k);
        take_weights(k, b, top);
        total = mass(b);
    } else {
        total = by_p || by_typical ? k->sum_exp(row, vocab, top, 1) : 0;
        if (by_typical)
            pl_pool_collect(k, b, row, vocab, -FLT_MAX);
        else if (by_p)
            collect_nucleus(k, b, row, vocab, top, total, p->top_p, most);
        else
            pl_pool_collect(k, b, row, vocab, below(top, most));
        take_weights(k, b, top);
    }
    if (by_typical) {
        typical(b, top, total, p->typical_p);
        total = mass(b);
    }
    if (by_p) {
        take_keys(b, b->x, 1);
        pl_pool_cut(b, b->w, p->top_p * total);
    }
    if (by_min) {
        double least = (p->min_p < 1 ? (double)p->min_p : 1) * k->max(b->w, b->n);
        int m = 0;
        for (int i = 0; i < b->n; i++) {
            if (b->w[i] < least)
                continue;
            b->id[m] = b->id[i];
            b->x[m++] = b->x[i];
        }
        b->n = m;
    }
    return 1;
}

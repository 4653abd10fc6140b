/* The pool of tokens that are still in, each function linear in the tokens it looks at.
 *
 * Most filters keep a prefix of the tokens in some order, but nothing is sorted to find where it ends: a radix search
 * from the most significant digit adds up counts or probabilities per digit and goes on in the digit where the wanted
 * sum is reached. What has to look at the whole vocabulary are vector kernels only. */
#include "sample_pool.h"

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
    b->vocab = vocab;
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

static float key_float(uint32_t u)
{
    float x;
    u = u & 0x80000000u ? u & 0x7fffffffu : ~u;
    memcpy(&x, &u, 4);
    return x;
}

void pl_pool_keys(pl_pool *b, const float *by, int descending)
{
    uint32_t flip = descending ? 0xffffffffu : 0;
    for (int i = 0; i < b->n; i++)
        b->key[i] = float_key(by[i]) ^ flip;
}

void pl_pool_cut(pl_pool *b, const float *w, double target)
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

int pl_pool_refresh(pl_pool *b, int want)
{
    int size = block_size(b->vocab, want), n = 0;

    b->stale = b->weighed = 0;
    if (!b->whole) {
        b->top = b->k->max(b->x, b->n);
    } else if (!(b->block_size = size)) {
        b->top = b->k->max(b->row, b->vocab);
    } else {
        for (int at = 0; at < b->vocab; at += size)
            b->block[n++] = b->k->max(b->row + at, b->vocab - at < size ? b->vocab - at : size);
        b->top = b->k->max(b->block, n);
    }
    return b->top >= -FLT_MAX && b->top <= FLT_MAX ? 0 : -1;
}

void pl_pool_collect(pl_pool *b, float least)
{
    b->n = b->k->collect(b->row, b->vocab, least >= -FLT_MAX ? least : -FLT_MAX, b->id, b->vocab);
    for (int i = 0; i < b->n; i++)
        b->x[i] = b->row[b->id[i]];
    b->whole = b->weighed = 0;
}

void pl_pool_gather(pl_pool *b)
{
    if (b->whole)
        pl_pool_collect(b, b->least);
}

void pl_pool_best(pl_pool *b, int want)
{
    float least = -FLT_MAX;

    if (b->block_size) {
        /* `want` blocks have a maximum at or above the want-th largest of all, so as many tokens do. */
        int n = (b->vocab + b->block_size - 1) / b->block_size;
        b->n = n;
        for (int i = 0; i < n; i++)
            b->x[i] = b->block[i];
        pl_pool_keys(b, b->x, 1);
        pl_pool_cut(b, NULL, want);
        for (int i = 0; i < b->n; i++)
            least = i == 0 || b->x[i] < least ? b->x[i] : least;
    }
    pl_pool_collect(b, least);
    if (b->n > want) {
        pl_pool_keys(b, b->x, 1);
        pl_pool_cut(b, NULL, want);
    }
}

float *pl_pool_at(pl_pool *b, int32_t id)
{
    int low = 0, high = b->n;

    if (b->whole)
        return b->row + id;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (b->id[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < b->n && b->id[low] == id ? b->x + low : NULL;
}

int pl_pool_count(pl_pool *b)
{
    return b->whole ? b->k->collect(b->row, b->vocab, b->least, b->id, 0) : b->n;
}

double pl_pool_weight(const pl_pool *b, float x)
{
    return exp(((double)x - b->top) / b->t);
}

static void weigh(pl_pool *b)
{
    b->weighed = 1;
    if (b->n <= PL_SORTED_MAX) {
        for (int i = 0; i < b->n; i++)
            b->w[i] = (float)pl_pool_weight(b, b->x[i]);
        return;
    }
    float inverse = 1 / b->t;
    for (int i = 0; i < b->n; i++)
        b->d[i] = (b->x[i] - b->top) * inverse;
    b->k->exp(b->d, b->n, b->w);
}

double pl_pool_mass(pl_pool *b)
{
    double sum = 0;

    if (b->whole && b->least <= -FLT_MAX)
        return b->k->sum_exp(b->row, b->vocab, b->top, 1 / b->t);
    pl_pool_gather(b);
    if (!b->weighed)
        weigh(b);
    for (int i = 0; i < b->n; i++)
        sum += b->w[i];
    return sum;
}

void pl_pool_keep_from(pl_pool *b, float least)
{
    int m = 0;

    for (int i = 0; i < b->n; i++) {
        if (b->x[i] < least)
            continue;
        b->id[m] = b->id[i];
        b->w[m] = b->w[i];
        b->x[m++] = b->x[i];
    }
    b->n = m;
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

void pl_pool_sort(pl_pool *b)
{
    for (int i = 0; i < b->n; i++)
        b->sort[i] = (uint64_t)~float_key(b->x[i]) << 32 | (uint32_t)b->id[i];
    sort_keys(b->sort, b->sort_room, b->n);
    for (int i = 0; i < b->n; i++) {
        b->id[i] = (int32_t)(b->sort[i] & 0xffffffffu);
        b->x[i] = key_float(~(uint32_t)(b->sort[i] >> 32));
    }
    b->weighed = 0;
}

/* The candidate tokens. Every function is linear in the tokens that it reads.
 *
 * Most filters keep a prefix of the tokens in some order. Its end is found without sorting: a radix search adds up
 * counts or probabilities per digit, starting at the most significant one, and continues within the digit in which the
 * target sum is reached. Only vector kernels read the whole vocabulary. */
#include "sample_candidates.h"

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

size_t pl_candidates_init(pl_candidates *c, void *scratch, int vocab)
{
    size_t n = (size_t)vocab, sums = n / PL_SORTED_MAX + 1, total = 0;
    uint8_t *at = scratch;

    if (sums < PL_DIGIT)
        sums = PL_DIGIT;
    c->vocab = vocab;
    c->n = c->block_size = 0;
    c->sum = (double *)at;
    total += room(&at, sums * sizeof(double));
    c->sort = (uint64_t *)at;
    c->key = (uint32_t *)at;
    total += room(&at, n * 4);
    c->sub = (int32_t *)at;
    total += room(&at, n * 4);
    /* room() pads, so the first two arrays hold at least vocab 8-byte keys, and so do the next two. */
    c->sort_room = (uint64_t *)at;
    c->w = (float *)at;
    total += room(&at, n * 4);
    c->d = (float *)at;
    total += room(&at, n * 4);
    c->id = (int32_t *)at;
    total += room(&at, n * 4);
    c->x = (float *)at;
    total += room(&at, n * 4);
    c->raw = (float *)at;
    total += room(&at, n * 4);
    c->block = (float *)at;
    total += room(&at, (n / 16 + 1) * 4);
    return total;
}

/* Keys ascend as the floats do; -0 and +0 have the same key. */
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

void pl_candidates_keys(pl_candidates *c, const float *by, int descending)
{
    uint32_t flip = descending ? 0xffffffffu : 0;
    for (int i = 0; i < c->n; i++)
        c->key[i] = float_key(by[i]) ^ flip;
}

void pl_candidates_cut(pl_candidates *c, const float *w, double target)
{
    static const int shift[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
    double before = 0;
    uint32_t last = 0;
    int n_sub = c->n, m = 0;

    if (!(target > DBL_MIN))
        target = DBL_MIN; /* the best token always stays */
    for (int level = 0; level < 3; level++) {
        uint32_t mask = (1u << bits[level]) - 1;
        int digit, filled = -1, left = 0;
        double filled_before = before;
        memset(c->sum, 0, PL_DIGIT * sizeof(double));
        for (int j = 0; j < n_sub; j++) {
            int i = level ? c->sub[j] : j;
            c->sum[(c->key[i] >> shift[level]) & mask] += w ? (double)w[i] : 1.0;
        }
        for (digit = 0; digit <= (int)mask; digit++) {
            if (c->sum[digit] > 0) {
                filled = digit;
                filled_before = before;
                if (before + c->sum[digit] >= target)
                    break;
                before += c->sum[digit];
            }
        }
        if (digit > (int)mask) {
            if (level == 0 || filled < 0)
                return;
            digit = filled; /* sums of another order differ by an ulp: take the last digit in use */
            before = filled_before;
        }
        for (int j = 0; j < n_sub; j++) {
            int i = level ? c->sub[j] : j;
            if (((c->key[i] >> shift[level]) & mask) == (uint32_t)digit)
                c->sub[left++] = i;
        }
        n_sub = left;
        last |= (uint32_t)digit << shift[level];
        if (n_sub == 1) {
            last = c->key[c->sub[0]];
            break;
        }
    }
    for (int i = 0; i < c->n; i++) {
        if (c->key[i] > last)
            continue;
        if (c->key[i] == last) {
            if (before >= target)
                continue;
            before += w ? (double)w[i] : 1.0;
        }
        c->id[m] = c->id[i];
        c->x[m] = c->x[i];
        c->w[m] = c->w[i]; /* meaningless, but harmless, before weights are computed */
        m++;
    }
    c->n = m;
}

/* With at least 4 blocks per wanted token, few more tokens than wanted pass the bound given by the blocks' maxima. */
static int block_size(int vocab, int want)
{
    if (want <= 0)
        return 0;
    return want <= vocab / 64 / 4 ? 64 : want <= vocab / 16 / 4 ? 16 : 0;
}

int pl_candidates_refresh(pl_candidates *c, int want)
{
    int size = block_size(c->vocab, want), n = 0;

    c->form = c->form == PL_WEIGHED ? PL_LIST : c->form;
    if (c->form != PL_ROW) {
        c->top = c->k->max(c->x, c->n);
    } else if (!(c->block_size = size)) {
        c->top = c->k->max(c->row, c->vocab);
    } else {
        for (int at = 0; at < c->vocab; at += size)
            c->block[n++] = c->k->max(c->row + at, c->vocab - at < size ? c->vocab - at : size);
        c->top = c->k->max(c->block, n);
    }
    return c->top >= -FLT_MAX && c->top <= FLT_MAX ? 0 : -1;
}

void pl_candidates_collect(pl_candidates *c, float least)
{
    c->n = c->k->collect(c->row, c->vocab, least >= -FLT_MAX ? least : -FLT_MAX, c->id, c->vocab);
    for (int i = 0; i < c->n; i++)
        c->x[i] = c->row[c->id[i]];
    c->form = PL_LIST;
}

void pl_candidates_gather(pl_candidates *c)
{
    if (c->form == PL_ROW)
        pl_candidates_collect(c, c->least);
}

void pl_candidates_apply_bound(pl_candidates *c)
{
    if (c->least > -FLT_MAX)
        pl_candidates_gather(c);
}

void pl_candidates_best(pl_candidates *c, int want)
{
    float least = -FLT_MAX;

    if (c->block_size) {
        /* `want` blocks have a maximum at or above the want-th largest maximum, hence at least `want` tokens do. */
        int n = (c->vocab + c->block_size - 1) / c->block_size;
        c->n = n;
        for (int i = 0; i < n; i++)
            c->x[i] = c->block[i];
        pl_candidates_keys(c, c->x, 1);
        pl_candidates_cut(c, NULL, want);
        for (int i = 0; i < c->n; i++)
            least = i == 0 || c->x[i] < least ? c->x[i] : least;
    }
    pl_candidates_collect(c, least);
    if (c->n > want) {
        pl_candidates_keys(c, c->x, 1);
        pl_candidates_cut(c, NULL, want);
    }
}

float *pl_candidates_at(pl_candidates *c, int32_t id)
{
    int low = 0, high = c->n;

    if (c->form == PL_ROW)
        return c->row + id;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (c->id[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->n && c->id[low] == id ? c->x + low : NULL;
}

int pl_candidates_count(pl_candidates *c)
{
    return c->form == PL_ROW ? c->k->collect(c->row, c->vocab, c->least, c->id, 0) : c->n;
}

double pl_candidates_weight(const pl_candidates *c, float x)
{
    return exp(((double)x - c->top) / c->t);
}

static void weigh(pl_candidates *c)
{
    c->form = PL_WEIGHED;
    if (c->n <= PL_SORTED_MAX) {
        for (int i = 0; i < c->n; i++)
            c->w[i] = (float)pl_candidates_weight(c, c->x[i]);
        return;
    }
    float inverse = 1 / c->t;
    for (int i = 0; i < c->n; i++)
        c->d[i] = (c->x[i] - c->top) * inverse;
    c->k->exp(c->d, c->n, c->w);
}

double pl_candidates_mass(pl_candidates *c)
{
    double sum = 0;

    if (c->form == PL_ROW && c->least <= -FLT_MAX)
        return c->k->sum_exp(c->row, c->vocab, c->top, 1 / c->t);
    pl_candidates_gather(c);
    if (c->form != PL_WEIGHED)
        weigh(c);
    for (int i = 0; i < c->n; i++)
        sum += c->w[i];
    return sum;
}

void pl_candidates_keep_from(pl_candidates *c, float least)
{
    int m = 0;

    for (int i = 0; i < c->n; i++) {
        if (c->x[i] < least)
            continue;
        c->id[m] = c->id[i];
        c->w[m] = c->w[i];
        c->x[m++] = c->x[i];
    }
    c->n = m;
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
    /* Radix sort on the float half, least significant digit first; the ids are in order already. */
    uint64_t *from = a, *to = room;
    for (int shift = 32; shift < 64; shift += 8) {
        int count[256] = {0}, at = 0, only = 0;
        for (int i = 0; i < n; i++)
            count[(from[i] >> shift) & 255]++;
        for (int v = 0; v < 256; v++) {
            int here = count[v];
            only |= here == n;
            count[v] = at;
            at += here;
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

void pl_candidates_sort(pl_candidates *c)
{
    for (int i = 0; i < c->n; i++)
        c->sort[i] = (uint64_t)~float_key(c->x[i]) << 32 | (uint32_t)c->id[i];
    sort_keys(c->sort, c->sort_room, c->n);
    for (int i = 0; i < c->n; i++) {
        c->id[i] = (int32_t)(c->sort[i] & 0xffffffffu);
        c->x[i] = key_float(~(uint32_t)(c->sort[i] >> 32));
    }
    c->form = PL_LIST;
}

/* DRY's search for repetitions, by the Z algorithm (Gusfield 1997) on the ids read backwards. */
#include "sample.h"

int pl_dry_match(const int32_t *ids, const uint8_t *breaks, int n, int least, int32_t *z, int32_t *out_id,
                 int32_t *out_length)
{
    int found = 0, most = 0, left = 0, right = 0;

    if (n < 1)
        return 0;
    const int32_t *last = ids + n - 1; /* the k-th token from the end is last[-k] */
    while (most < n && !(breaks && breaks[n - 1 - most]))
        most++;
    least = least > 1 ? least : 1;
    if (most < least)
        return 0;
    /* z[k]: length of the match between the tokens ending at last[-k] and the last tokens, at most `most`. [left,
     * right) is the match that reaches furthest; inside it z follows from earlier values, so every token is compared
     * once. */
    for (int k = 1; k < n; k++) {
        int length = 0;
        if (k < right)
            length = z[k - left] < right - k ? z[k - left] : right - k;
        if (k + length >= right) {
            while (length < most && k + length < n && last[-length] == last[-k - length])
                length++;
            left = k;
            right = k + length;
        }
        z[k] = length;
        if (length >= least && !(breaks && breaks[n - k])) {
            out_id[found] = last[1 - k];
            out_length[found++] = length;
        }
    }
    return found;
}

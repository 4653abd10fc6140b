/* The table of quantisers. */
#include "fit.h"

#include <string.h>

#define ROW(label, number, weights, bytes) {#label, number, weights, bytes, pl_quantize_##label, NULL, NULL},
#define PLAIN(label, number, weights, bytes)                                                                           \
    {#label, number, weights, bytes, pl_quantize_plain, &pl_kind_##label, NULL},
#define SUPER(label, number, weights, bytes)                                                                           \
    {#label, number, weights, bytes, pl_quantize_super, NULL, &pl_kind_##label},
static const pl_quantizer quantizers[] = {PL_QUANTIZERS(ROW) PL_PLAIN_QUANTIZERS(PLAIN) PL_SUPER_QUANTIZERS(SUPER)};
#define COUNT ((int)(sizeof quantizers / sizeof *quantizers))

const pl_quantizer *pl_quantizer_get(int i)
{
    return i >= 0 && i < COUNT ? &quantizers[i] : NULL;
}

const pl_quantizer *pl_quantizer_find(const char *name)
{
    for (int i = 0; i < COUNT; i++)
        if (!strcmp(quantizers[i].name, name))
            return &quantizers[i];
    return NULL;
}

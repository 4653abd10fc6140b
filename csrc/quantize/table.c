/* The table of quantisers. */
#include "fit.h"

#include <string.h>

#define ROW(label, number, weights, bytes) {#label, number, weights, bytes, pl_quantize_##label},
static const pl_quantizer quantizers[] = {PL_QUANTIZERS(ROW)};
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

/* Private to formats/: what the files of the families hand to the table. */
#ifndef PL_FORMATS_FAMILIES_H
#define PL_FORMATS_FAMILIES_H

#include "formats.h"

/* pl_decode of float formats. */
void pl_decode_float(const pl_format *f, const uint8_t *src, float *dst, int64_t k);

/* The signature of pl_format.split. */
#define PL_SPLIT_ARGS const uint8_t *block, int slice, uint8_t *codes, uint16_t *scale, uint16_t *min, uint16_t *factor

/* pl_split_Q4_0 and so on */
#define PL_SPLIT_OF(name, ...) void pl_split_##name(PL_SPLIT_ARGS);
PL_INT_FORMATS(PL_SPLIT_OF)
#undef PL_SPLIT_OF

/* Two little-endian bytes at any address. */
static inline uint16_t pl_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

#endif

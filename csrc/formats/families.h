/* Private to formats/: what the families' files provide for the table. */
#ifndef PL_FORMATS_FAMILIES_H
#define PL_FORMATS_FAMILIES_H

#include <string.h>

#include "formats.h"

/* pl_decode of float formats. */
void pl_decode_float(const pl_format *f, const uint8_t *src, float *dst, int64_t k);

/* The signature of pl_format.split. */
#define PL_SPLIT_ARGS const uint8_t *block, int slice, uint8_t *codes, uint16_t *scale, uint16_t *min, uint16_t *factor

/* pl_split_Q4_0 and so on */
#define PL_SPLIT_OF(name, ...) void pl_split_##name(PL_SPLIT_ARGS);
PL_INT_FORMATS(PL_SPLIT_OF)
PL_SHARED_FORMATS(PL_SPLIT_OF)
#undef PL_SPLIT_OF

/* Two little-endian bytes at any address. */
static inline uint16_t pl_u16(const uint8_t *p)
{
    uint16_t v; /* in one load: compilers do not vectorise two */
    memcpy(&v, p, sizeof v);
    return v;
}

/* 16 bytes -> 32 codes: byte i holds code i in its low nibble and code 16 + i in its high one. */
static inline void pl_nibbles(const uint8_t *q, uint8_t *codes)
{
    for (int i = 0; i < 16; i++) {
        codes[i] = q[i] & 15;
        codes[16 + i] = q[i] >> 4;
    }
}

/* 64 bytes -> the 32 codes of a slice: 32 bytes hold four slices, each two bits above the one before. */
static inline void pl_pairs(const uint8_t *q, int slice, uint8_t *codes)
{
    for (int i = 0; i < 32; i++)
        codes[i] = q[slice / 4 * 32 + i] >> slice % 4 * 2 & 3;
}

#endif

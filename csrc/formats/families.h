/* Private to formats/: what the files of the families hand to the table. */
#ifndef PL_FORMATS_FAMILIES_H
#define PL_FORMATS_FAMILIES_H

#include "formats.h"

void pl_decode_f32(const uint8_t *src, float *dst, int64_t k);
void pl_decode_f16(const uint8_t *src, float *dst, int64_t k);
void pl_decode_bf16(const uint8_t *src, float *dst, int64_t k);

void pl_decode_q4_0(const uint8_t *src, float *dst, int64_t k);
void pl_decode_q4_1(const uint8_t *src, float *dst, int64_t k);
void pl_decode_q5_0(const uint8_t *src, float *dst, int64_t k);
void pl_decode_q5_1(const uint8_t *src, float *dst, int64_t k);
void pl_decode_q8_0(const uint8_t *src, float *dst, int64_t k);

void pl_decode_q4_k(const uint8_t *src, float *dst, int64_t k);
void pl_decode_q5_k(const uint8_t *src, float *dst, int64_t k);
void pl_decode_q6_k(const uint8_t *src, float *dst, int64_t k);

/* The signature of pl_format.split. */
#define PL_SPLIT_ARGS const uint8_t *block, int slice, uint8_t *codes, uint16_t *scale, uint16_t *min, uint16_t *factor

void pl_split_q4_0(PL_SPLIT_ARGS);
void pl_split_q4_1(PL_SPLIT_ARGS);
void pl_split_q5_0(PL_SPLIT_ARGS);
void pl_split_q5_1(PL_SPLIT_ARGS);
void pl_split_q8_0(PL_SPLIT_ARGS);

void pl_split_q4_k(PL_SPLIT_ARGS);
void pl_split_q5_k(PL_SPLIT_ARGS);
void pl_split_q6_k(PL_SPLIT_ARGS);

/* Two little-endian bytes at any address. */
static inline uint16_t pl_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

#endif

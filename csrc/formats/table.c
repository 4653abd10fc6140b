/* The table of weight formats, and the sizes that follow from it. */
#include "families.h"
#include "names.h"

#include <string.h>

/* Bytes of a packed 16 x 32 block: codes and planes (64 bytes a bit of four codes a lane), then the scales and mins. */
#define CODES(bits) (16 * PL_BLOCK * (bits) / 8)
#define PLAIN(bits, has_min) (CODES(bits) + 32 * (1 + (has_min)))
#define SUPER(bits, groups, has_min) (CODES(bits) + 16 * ((groups) + (has_min)))

static const pl_format formats[PL_N_FORMATS] = {
    /* id, name, gguf, block, block_bytes, bits, group, offset, flags, packed_block, packed_header, decode, split */
    [PL_F32] = {PL_F32, "F32", 0, 1, 4, 32, 0, 0, PL_FLOAT, 0, 0, pl_decode_f32, NULL},
    [PL_F16] = {PL_F16, "F16", 1, 1, 2, 16, 0, 0, PL_FLOAT, 0, 0, pl_decode_f16, NULL},
    [PL_BF16] = {PL_BF16, "BF16", 30, 1, 2, 16, 0, 0, PL_FLOAT, 0, 0, pl_decode_bf16, NULL},
    [PL_Q4_0] = {PL_Q4_0, "Q4_0", 2, 32, 18, 4, 32, 8, 0, PLAIN(4, 0), 0, pl_decode_q4_0, pl_split_q4_0},
    [PL_Q4_1] = {PL_Q4_1, "Q4_1", 3, 32, 20, 4, 32, 0, PL_HAS_MIN, PLAIN(4, 1), 0, pl_decode_q4_1, pl_split_q4_1},
    [PL_Q5_0] = {PL_Q5_0, "Q5_0", 6, 32, 22, 5, 32, 16, 0, PLAIN(5, 0), 0, pl_decode_q5_0, pl_split_q5_0},
    [PL_Q5_1] = {PL_Q5_1, "Q5_1", 7, 32, 24, 5, 32, 0, PL_HAS_MIN, PLAIN(5, 1), 0, pl_decode_q5_1, pl_split_q5_1},
    [PL_Q8_0] = {PL_Q8_0, "Q8_0", 8, 32, 34, 8, 32, 128, 0, PLAIN(8, 0), 0, pl_decode_q8_0, pl_split_q8_0},
    [PL_Q4_K] = {PL_Q4_K, "Q4_K", 12, 256, 144, 4, 32, 0, PL_SUPER | PL_HAS_MIN, SUPER(4, 1, 1), 64, pl_decode_q4_k,
                 pl_split_q4_k},
    [PL_Q5_K] = {PL_Q5_K, "Q5_K", 13, 256, 176, 5, 32, 0, PL_SUPER | PL_HAS_MIN, SUPER(5, 1, 1), 64, pl_decode_q5_k,
                 pl_split_q5_k},
    [PL_Q6_K] = {PL_Q6_K, "Q6_K", 14, 256, 210, 6, 16, 32, PL_SUPER | PL_SIGNED_SCALE, SUPER(6, 2, 0), 32,
                 pl_decode_q6_k, pl_split_q6_k},
};

const pl_format *pl_format_get(pl_format_id id)
{
    return (unsigned)id < PL_N_FORMATS ? &formats[id] : NULL;
}

const pl_format *pl_format_from_gguf(int gguf_type)
{
    for (int i = 0; i < PL_N_FORMATS; i++)
        if (formats[i].gguf == gguf_type)
            return &formats[i];
    return NULL;
}

int pl_format_number(const char *name)
{
    for (int i = 0; i < PL_N_FORMATS; i++)
        if (!strcmp(pl_format_get(i)->name, name))
            return pl_format_get(i)->gguf;
    return -1;
}

const char *pl_format_name(int i)
{
    return i < PL_N_FORMATS ? pl_format_get(i)->name : NULL;
}

int64_t pl_row_bytes(const pl_format *f, int64_t k)
{
    if (k < 0 || k % f->block)
        return -1;
    return k / f->block * f->block_bytes;
}

int64_t pl_tile_bytes(const pl_format *f, int64_t k)
{
    if (f->id == PL_BF16)
        k += k & 1; /* pairs of k */
    if (f->flags & PL_FLOAT)
        return k * PL_TILE * (f->bits / 8);
    return k / PL_BLOCK * f->packed_block + k / 256 * f->packed_header;
}

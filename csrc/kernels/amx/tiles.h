/* Tile registers: how they are set up. Intel SDM vol. 1 chapter 18, vol. 2 LDTILECFG. */
#ifndef PL_AMX_TILES_H
#define PL_AMX_TILES_H

#include <immintrin.h>
#include <stdint.h>

#include "../common.h"

typedef struct pl_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} pl_tile_config;

/* Registers 0..3: sums, `rows` x 16 of 32 bits. 4, 5: as many rows of `bytes` of what is multiplied from the left. 6,
 * 7: as many bytes of sixteen columns of what is multiplied from the right, four in a row. Ends with pl_tiles_off(), so
 * that the registers are not saved while they are not needed. */
PL_INLINE void pl_tiles_on(int rows, int bytes)
{
    pl_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = (uint16_t)(i == 4 || i == 5 ? bytes : 64);
        config.rows[i] = (uint8_t)(i > 5 ? bytes / 4 : rows);
    }
    _tile_loadconfig(&config);
}

PL_INLINE void pl_tiles_off(void)
{
    _tile_release();
}

#endif

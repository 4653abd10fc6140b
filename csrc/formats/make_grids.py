"""Writes grids.h, the grids of IQ formats in two or three bits a value, from the tables of the gguf package.

python csrc/formats/make_grids.py > csrc/formats/grids.h
"""

from __future__ import annotations

from gguf import quants

NAMES = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S")
HEAD = """/* Grids of the IQ formats: facts of the formats, written by make_grids.py. Value j of an entry is
 * entry >> width * j & mask, a place in the ascending list of the grid's values: 2 bits, eight values (IQ2: 8, 25, 43;
 * IQ1: -1, 0, 1), or 3 bits, four values (IQ3_XXS: 4, 12, 20, 28, 36, 44, 52, 62; IQ3_S: 1, 3 .. 15). */
#ifndef PL_FORMATS_GRIDS_H
#define PL_FORMATS_GRIDS_H

#include <stdint.h>

/* clang-format off */"""


def entries(name: str) -> list[int]:
    """The entries of a grid (n)."""
    kind = getattr(quants, name)
    kind.init_grid()
    width = 3 if kind.grid_shape[1] == 4 else 2
    places = {value: i for i, value in enumerate(kind.grid_map)}
    return [sum(places[int(v)] << width * j for j, v in enumerate(row)) for row in kind.grid.reshape(kind.grid_shape)]


def header() -> str:
    """The text of grids.h."""
    lines = [HEAD]
    for name in NAMES:
        words = [f"0x{entry:04x}," for entry in entries(name)]
        lines.append(f"static const uint16_t pl_grid_{name}[{len(words)}] = {{")
        lines += ["    " + " ".join(words[i : i + 14]) for i in range(0, len(words), 14)]
        lines.append("};")
    return "\n".join([*lines, "/* clang-format on */", "", "#endif", ""])


if __name__ == "__main__":
    print(header(), end="")

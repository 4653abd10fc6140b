"""What products ask for before they read it, in turns: all that comes after the first window, in time, and no more."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINE, WINDOW = 64, 16 << 10
# A product of `tiles` tiles, in `passes` passes over the `blocks` blocks of each. Prints, for each line asked for,
# the tile that is read meanwhile and the line's offset.
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
static char memory[1 << 24];
static int now = -1;
#define __builtin_prefetch(p, ...) printf("%d %ld\\n", now, (long)((const char *)(p) - memory))
#include "csrc/kernels/prefetch.h"
int main(int argc, char **argv)
{
    const int tile = atoi(argv[1]), tiles = atoi(argv[2]), passes = atoi(argv[3]), blocks = atoi(argv[4]);
    const int turns = atoi(argv[5]), bytes = (tile / blocks + passes - 1) / passes;
    const pl_reading r = pl_read((const uint8_t *)memory, tile, tiles, turns);
    for (now = 0; now < tiles; now++) {
        pl_ahead a = pl_ahead_of(&r, now, bytes, (const uint8_t *)memory + (now + 1) * tile, 2);
        for (int i = 0; i < passes * blocks; i++)
            pl_ask(&a, i % 2);
    }
    return argc == 6 ? 0 : 1;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    built = tmp_path_factory.mktemp("prefetch") / "asked"
    built.with_suffix(".c").write_text(PROGRAM)
    subprocess.run([*compiler.split(), "-O1", f"-I{ROOT}", "-o", built, built.with_suffix(".c")], check=True)
    return built


def asked(program: Path, *numbers: int) -> list[tuple[int, int]]:
    done = subprocess.run([program, *map(str, numbers)], check=True, text=True, capture_output=True)
    lines = done.stdout.splitlines()
    return [(int(tile), int(at)) for tile, at in (line.split() for line in lines)]


# bytes of a tile, tiles, passes over each, blocks of a tile
SHAPES = [
    (18432, 64, 1, 64),  # Q4_0, k 2048
    (73728, 9, 1, 256),  # k 8192
    (5760, 18, 1, 18),  # Q4_1, k 576
    (5760, 5, 2, 18),
    (26880, 33, 1, 64),  # Q6_K, k 2048
    (36864, 7, 2, 64),  # two tiles at once, two parts of rows
    (34816, 10, 4, 64),  # Q8_0, 40 rows
    (288, 1000, 1, 1),  # a single block
    (18432, 1, 1, 64),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
def test_all_that_is_read_is_asked_for_in_time(program: Path, shape: tuple[int, int, int, int]) -> None:
    tile, tiles, _, _ = shape
    window = -(-WINDOW // tile)  # tiles
    found = asked(program, *shape, 1)
    begun = {at // LINE for now, at in found if now < 0}
    assert begun == set(range(-(-min(WINDOW, tile * tiles) // LINE)))
    when: dict[int, int] = {}
    for now, at in found:
        if now >= 0:
            when.setdefault(at // LINE, now)
    end = tile * tiles
    for line in range(-(-window * tile // LINE), end // LINE):
        first = line * LINE // tile  # the tile that reads it first
        assert line in when, f"{line}"
        assert when[line] // window < first // window or line * LINE % tile > tile - LINE
    assert max(when, default=0) <= end // LINE + 1


@pytest.mark.parametrize("shape", SHAPES[:7], ids=lambda s: "-".join(map(str, s)))
def test_little_is_asked_for_twice(program: Path, shape: tuple[int, int, int, int]) -> None:
    tile, tiles, passes, blocks = shape
    lines = -(-tile // blocks // passes // LINE) * LINE * passes * blocks / tile  # whole lines for each block
    found = [at for now, at in asked(program, *shape, 1) if now >= 0]
    assert len(found) * LINE <= lines * tile * tiles
    assert len({at // LINE for at in found}) * LINE <= tile * tiles + 1024


def test_lines_of_several_pages_take_turns(program: Path) -> None:
    found = [at // LINE for now, at in asked(program, 18432, 64, 1, 64, 1) if now >= 0]
    apart = [abs(b - a) * LINE for a, b in zip(found, found[1:])]
    assert sorted(apart)[len(apart) // 2] > 3000  # five lines of a block: a fifth of 18 KB from each other


def test_in_order(program: Path) -> None:
    """At most two lines a block, from where the caller says."""
    tile, tiles, blocks = 18432, 3, 64
    found = asked(program, tile, tiles, 1, blocks, 0)
    expected = [(t, (t + 1) * tile + 288 * b + LINE * i) for t in range(tiles) for b in range(blocks) for i in range(2)]
    assert found == expected

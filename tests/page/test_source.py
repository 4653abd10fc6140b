"""How a page's blocks are decoded, in Chromium."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pellucid.page import blocks
from pellucid.page.html import joined
from tests.page import browsers

pytestmark = pytest.mark.page

N = 600_000
SLICE = 50_000  # numbers between two looks at the clock
# The clock goes on by a slice's time with each look, so that each one ends a slice.
PAUSES = """async (name) => {
    let [time, pauses] = [0, 0];
    performance.now = () => (time += 8);
    globalThis.scheduler.yield = async () => { pauses++; };
    const numbers = await new PageSource(document).block(name);
    const digest = await crypto.subtle.digest('SHA-256', numbers);
    return [pauses, Array.from(new Uint8Array(digest)).map((one) => one.toString(16).padStart(2, '0')).join('')];
}"""


def some(kind: str) -> npt.NDArray[Any]:
    rng = np.random.default_rng(3)
    if kind == "f16":
        return rng.normal(size=N).astype(np.float16)
    if kind == "u8 grouped":
        return rng.integers(0, 256, N).astype(np.uint8)
    if kind.endswith(" delta"):
        return np.cumsum(rng.integers(0, 3, N)).astype({"u16": np.uint16, "u32": np.uint32}[kind.partition(" ")[0]])
    return rng.integers(0, 2**31, N).astype(np.uint32)


@pytest.mark.parametrize("kind", ["f16", "u32", "u16 delta", "u32 delta", "u8 grouped"])
def test_decoding_pauses(kind: str, tmp_path: Path) -> None:
    """Between two looks at the clock are at most 50,000 numbers, in each step: letters to bytes, bytes to numbers,
    differences to sums, halves to what is computed with. A slice of 8 ms is over at the first look after that."""
    numbers = some(kind)
    found, text = blocks.encode(numbers, grouped=kind.endswith("grouped"))
    assert found == kind
    meta = {"pellucid_page": blocks.VERSION, "blocks": {"x": kind}}
    size = numbers.itemsize
    steps = [len(text) / 5, size * N if size > 1 else 0]  # each byte is put in its place
    steps += [N] * (kind == "f16" or " " in kind)
    path = tmp_path / "source.html"
    path.write_text(
        f'<script type="application/json" id="meta">{json.dumps(meta)}</script>'
        f'<script type="text/plain" id="block-x">{text}</script>'
        f'<script type="module">{joined("source.js")}\nglobalThis.PageSource = PageSource;</script>'
    )
    with browsers.chromium() as browser:
        tab = browser.new_context(offline=True).new_page()
        tab.goto(f"file://{path}")
        tab.wait_for_function("() => globalThis.PageSource")
        pauses, digest = tab.evaluate(PAUSES, "x")
    exact = numbers.astype(np.float32) if kind == "f16" else numbers
    assert digest == hashlib.sha256(exact.tobytes()).hexdigest()
    assert sum(steps) / SLICE <= pauses <= sum(steps) / SLICE + 6

"""What `info` says of sizes: the bytes of all weights, those that a token reads, and those of states."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pellucid import Model
from tests.families.case import load_golden, write_folder, write_gguf
from tests.families.cases import BY_NAME


def shapes(name: str) -> dict[str, int]:
    """Values of each tensor with two dimensions or more."""
    golden = load_golden(BY_NAME[name])
    return {own: math.prod(shape) for own, (shape, _) in golden.shapes.items() if len(shape) > 1}


@pytest.mark.parametrize(("name", "chosen"), [("qwen3moe", 3 / 8), ("mixtral", 2 / 8), ("arcee", 1)])
def test_a_token_reads_its_own_experts(tmp_path: Path, name: str, chosen: float) -> None:
    values = shapes(name)
    experts = sum(n for own, n in values.items() if ".experts." in own)
    others = sum(n for own, n in values.items() if ".experts." not in own and "embed_tokens" not in own)
    with Model.load(write_folder(BY_NAME[name], load_golden(BY_NAME[name]), tmp_path / "f"), threads=1) as model:
        info = model.info()
        width, tied = info.dim, "lm_head.weight" not in values
        head = values["model.embed_tokens.weight"] if tied else 0
    assert info.token_bytes == pytest.approx(4 * (others + head + width + experts * chosen), rel=0.03)  # tiles of 16
    assert info.formats.keys() == {"F32"} and info.formats["F32"] <= info.packed_bytes
    assert info.formats["F32"] == pytest.approx(4 * (sum(values.values())), rel=0.05)
    assert info.state_bytes == 0
    if chosen < 1:
        assert info.token_bytes < 0.8 * info.packed_bytes


def test_formats(tmp_path: Path) -> None:
    case = BY_NAME["qwen3moe"]
    with Model.load(write_gguf(case, load_golden(case), tmp_path / "m.gguf", "Q8_0"), threads=1) as model:
        info = model.info()
    assert "Q8_0" in info.formats and sum(info.formats.values()) <= info.packed_bytes
    assert "Q8_0: " in str(info) and info.to_dict()["formats"] == info.formats


def test_states_are_read_and_written(tmp_path: Path) -> None:
    case = BY_NAME["lfm2"]  # convolutions in two of three layers: two earlier inputs of each channel
    with Model.load(write_folder(case, load_golden(case), tmp_path / "f"), threads=1) as model:
        info = model.info()
        weights = sum(operation.bytes for operation in model.plan())
    assert info.state_bytes == 2 * 2 * 64 * 4
    assert info.token_bytes == weights + 2 * info.state_bytes

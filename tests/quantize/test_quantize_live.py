"""Mixtures and errors compared with llama.cpp's own quantiser (llama-cpp-python)."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from typing import Any

import gguf
import pytest

from pellucid import Model
from pellucid.weights import open_model
from pellucid.weights.quantise import quantize_file
from pellucid.weights.recipes import MIXTURES

from .models import write
from .test_quantize_file import error

pytestmark = pytest.mark.live

# Not compared: MXFP4 for all matrices is Pellucid's own, and llama.cpp makes Q2_K_S only with importances.
OURS = ("MXFP4", "Q2_K_S")
SIZES = {
    "untied": {},
    "tied, groups of 4": {"tied": True, "kv_heads": 2},
    "16 layers": {"layers": 16},
    "rows of 288": {"dim": 288, "ff": 480, "layers": 3},
}


def both(source: Path, folder: Path, mixture: str) -> tuple[Path, Path]:
    """A file of ours and one of llama.cpp's, without importances."""
    llama_cpp: Any = importlib.import_module("llama_cpp")
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    with open_model(source) as file:
        quantize_file(file, ours, mixture, threads=2)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = MIXTURES[mixture][0], 2
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(theirs).encode(), ctypes.byref(options)) == 0
    return ours, theirs


@pytest.mark.parametrize("mixture", [m for m in MIXTURES if m not in OURS])
@pytest.mark.parametrize("sizes", SIZES)
def test_mixture(tmp_path: Path, mixture: str, sizes: str) -> None:
    source = write(tmp_path / "f32.gguf", **SIZES[sizes])  # type: ignore[arg-type]
    ours, theirs = both(source, tmp_path, mixture)
    formats = [{t.name: t.tensor_type.name for t in gguf.GGUFReader(p).tensors} for p in (ours, theirs)]
    assert formats[0] == formats[1]
    if mixture not in ("F32", "F16", "BF16"):
        assert error(source, ours) <= 1.0001 * error(source, theirs)


@pytest.fixture(scope="module")
def half(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in F16."""
    path = tmp_path_factory.mktemp("half") / "f16.gguf"
    with open_model(smollm2) as file:
        quantize_file(file, path, "F16", threads=2)
    return path


@pytest.mark.parametrize("mixture", ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K"])
def test_perplexity(half: Path, tmp_path: Path, mixture: str) -> None:
    """At most 0.5 % above llama.cpp's."""
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()[:12_000]
    found = []
    for path in both(half, tmp_path, mixture):
        with Model.load(path, threads=2) as model:
            found.append(model.score(text).perplexity)
    assert found[0] <= 1.005 * found[1]

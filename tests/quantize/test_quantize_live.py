"""Mixtures and errors compared with llama.cpp's own quantiser (llama-cpp-python)."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from typing import Any

import gguf
import pytest

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


@pytest.mark.parametrize("mixture", [m for m in MIXTURES if m not in OURS])
@pytest.mark.parametrize("sizes", SIZES)
def test_mixture(tmp_path: Path, mixture: str, sizes: str) -> None:
    llama_cpp: Any = importlib.import_module("llama_cpp")
    source = write(tmp_path / "f32.gguf", **SIZES[sizes])  # type: ignore[arg-type]
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    with open_model(source) as file:
        quantize_file(file, ours, mixture, threads=2)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = MIXTURES[mixture][0], 2
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(theirs).encode(), ctypes.byref(options)) == 0
    formats = [{t.name: t.tensor_type.name for t in gguf.GGUFReader(p).tensors} for p in (ours, theirs)]
    assert formats[0] == formats[1]
    if mixture not in ("F32", "F16", "BF16"):
        assert error(source, ours) <= 1.0001 * error(source, theirs)

"""Model.load(quantize=...): as from a file in that format, whose scales are searched for longer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import WrongType, WrongValue
from pellucid.making.convert import convert_folder
from pellucid.weights import open_model
from pellucid.weights.quantise import metadata_of, quantize_file, write_model
from tests.reference import tiny

from .models import write

IDS = [3, 60, 14, 15, 9, 2, 6, 53]


def check_nearly_as_good(exact: np.ndarray, quick: np.ndarray, whole: np.ndarray) -> None:
    """The error of a quick search's logits is at most 1.3 times that of the whole search."""
    assert 0 < np.linalg.norm(quick - exact) < 1.3 * np.linalg.norm(whole - exact)


@pytest.mark.parametrize("mixture", ["q8_0", "Q4_0", "bf16"])
def test_folders(tmp_path: Path, mixture: str) -> None:
    """qwen3: no rows change their order in a file."""
    model = next(m for m in tiny.TINY if m.name == "qwen3")
    folder = tiny.write_folder(model, tmp_path / "folder")
    convert_folder(folder, tmp_path / "out.gguf", mixture.upper())
    with Model.load(folder, quantize=mixture, threads=2) as a, Model.load(tmp_path / "out.gguf") as b:
        if mixture == "Q4_0":
            with Model.load(folder, threads=2) as whole:
                check_nearly_as_good(whole.logits(IDS), a.logits(IDS), b.logits(IDS))
        else:
            np.testing.assert_array_equal(a.logits(IDS), b.logits(IDS))
        assert a.info().quantisation == f"{mixture.upper()} (quantised from F32)"
        assert a.info().packed_bytes == b.info().packed_bytes


def test_gguf_files_and_k_quants(tmp_path: Path) -> None:
    path = write(tmp_path / "f32.gguf", layers=2)
    with open_model(path) as file:
        quantize_file(file, tmp_path / "out.gguf", "Q4_K_M")
    with Model.load(path, quantize="q4_k") as found, Model.load(tmp_path / "out.gguf") as want:
        assert found.info().quantisation == "Q4_K_M (quantised from F32)"
        assert want.info().quantisation == "Q4_K_M"
        assert found.info().packed_bytes == want.info().packed_bytes
        with Model.load(path) as whole:
            check_nearly_as_good(whole.logits(IDS), found.logits(IDS), want.logits(IDS))


def test_what_was_quantised_before_is_named(tmp_path: Path) -> None:
    """A file whose layers have a format already: only its embedding and head change."""
    path, formats = write(tmp_path / "f32.gguf", layers=1), {}
    with open_model(path) as file:
        for name, tensor in file.tensors.items():
            formats[name] = "Q4_0" if name.startswith("blk.") and len(tensor.shape) == 2 else tensor.type
        write_model(tmp_path / "mixed.gguf", metadata_of(str(path)), file.tensors, formats.get)
    with Model.load(tmp_path / "mixed.gguf", quantize="q8_0") as model:
        assert model.info().quantisation == "Q8_0 (quantised from F32), Q4_0"
        assert {*model.info().formats} == {"Q8_0", "Q4_0"}


def test_wrong_values(tmp_path: Path, smollm2: Path) -> None:
    path = write(tmp_path / "f32.gguf", layers=1)
    with pytest.raises(WrongValue, match="quantize.*Q9"):
        Model.load(path, quantize="Q9")
    with pytest.raises(WrongType, match="quantize"):
        Model.load(path, quantize=8)  # type: ignore[arg-type]
    with pytest.raises(WrongValue, match="quantize='Q8_0': the model's matrices are in Q4_1, Q8_0 already"):
        Model.load(smollm2, quantize="q8_0")

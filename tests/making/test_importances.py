"""Importances of a folder are those of the GGUF file that is made of it: one fits both, in `convert` and `quantize`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pellucid import Model
from pellucid.cli import main
from pellucid.look.importance import importances
from pellucid.making.convert import convert_folder
from pellucid.making.forms import gguf_importances
from pellucid.weights import open_model
from pellucid.weights.importance import Importance, read_importances
from pellucid.weights.quantise import quantize_file
from tests.embedding import cases as embeddings
from tests.families.case import load_golden, write_folder
from tests.families.cases import BY_NAME
from tests.families.test_families import ids_of
from tests.making.test_convert import wordpiece
from tests.making.test_embedders import folder_of
from tests.weights import test_prequantised as prequantised
from tests.weights import test_prequantised_families as families

Importances = dict[str, Importance]
ORDERED = ("gptq-act", "gptq-act-32", "gptq-act-8", "gptq-act-each", "ct-act", "gptq")


def both(folder: Path, file: Path, ids: list[int], **options: Any) -> tuple[Importances, Importances]:
    """The importances of a folder and of its file, which have the same names and values."""
    with Model.load(folder, threads=1, **options) as a, Model.load(file, threads=1, **options) as b:
        found, want = gguf_importances(importances(a.core, [ids]), a.core.config), importances(b.core, [ids])
    assert {*found} == {*want}
    for name, (sums, counts) in want.items():
        level = float(sums.max())
        np.testing.assert_allclose(found[name].sums, sums, rtol=1e-3, atol=1e-4 * level, err_msg=name)
        np.testing.assert_array_equal(found[name].counts, counts)
    return found, want


def check(folder: Path, to: Path, ids: list[int], caplog: pytest.LogCaptureFixture, **options: str) -> None:
    """All importances are of use to both, give the same bytes, and nothing that is quantised lacks them."""
    convert_folder(folder, to / "f32.gguf", "F32")
    found, want = both(folder, to / "f32.gguf", ids, **options)
    caplog.clear()
    convert_folder(folder, to / "a.gguf", "Q4_0", importances=found)
    with open_model(to / "f32.gguf") as file:
        quantize_file(file, to / "b.gguf", "Q4_0", importances=found)
    same = all(np.array_equal(found[name].sums, want[name].sums) for name in want)
    if same:
        convert_folder(folder, to / "c.gguf", "Q4_0", importances=want)
        assert (to / "c.gguf").read_bytes() == (to / "a.gguf").read_bytes()
    assert "imatrix" not in caplog.text
    a, b = ({t.name: t.data for t in gguf.GGUFReader(to / n).tensors} for n in ("a.gguf", "b.gguf"))
    assert {*a} == {*b}
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_family(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = BY_NAME[name]
    golden = load_golden(case)
    folder = write_folder(case, golden, tmp_path / "folder")
    check(folder, tmp_path, [int(i) for i in ids_of(case, golden)[:24]], caplog)


@pytest.mark.parametrize("name", [name for name in embeddings.BY_NAME if name != "qwen3_dense"])
def test_embedders(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = embeddings.BY_NAME[name]
    folder = folder_of(case, tmp_path / "folder")
    check(folder, tmp_path, [5, 9, 20, 2, 44, 3], caplog)


@pytest.mark.parametrize("name", ORDERED)
def test_columns_in_another_order(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, quantization, _ = prequantised.FORMS[name]
    folder, _ = prequantised.both(tmp_path, make, quantization)
    check(folder, tmp_path, prequantised.IDS, caplog, precision="high", kv="f32")


@pytest.mark.parametrize("name", ["deepseek_v2", "qwen35"])
def test_columns_in_another_order_for_some_matrices_of_several(name: str, tmp_path: Path) -> None:
    """Matrices that share an input, of which some have their columns in another order; and rows that a file moves."""
    folder, plain = families.folders(tmp_path, name, "gptq-act")
    ids = [[i % 40 for i in families.IDS] * 3]
    options: dict[str, Any] = {"precision": "high", "kv": "f32", "threads": 1}
    with Model.load(folder, **options) as a, Model.load(plain, **options) as b:
        found, want = importances(a.core, ids), importances(b.core, ids)
    assert {*found} == {*want}
    for tensor, (sums, _) in want.items():
        np.testing.assert_allclose(found[tensor].sums, sums, rtol=2e-2, atol=1e-3 * float(sums.max()), err_msg=tensor)
    convert_folder(folder, tmp_path / "f32.gguf", "F32")
    with Model.load(folder, **options) as a, Model.load(tmp_path / "f32.gguf", **options) as b:
        np.testing.assert_allclose(b.logits(ids[0]), a.logits(ids[0]), atol=0.01 * float(abs(a.logits(ids[0])).max()))


def test_the_command_writes_the_file_s_names(tmp_path: Path) -> None:
    """Gate and up of experts are one tensor in the folder and two in the file."""
    case = BY_NAME["granitemoe_shared"]
    folder = write_folder(case, load_golden(case), tmp_path / "folder")
    wordpiece(tmp_path / "words").save(str(folder / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("a o z ooz azo " * 20)
    convert_folder(folder, tmp_path / "f32.gguf", "F32")
    for model in ("folder", "f32.gguf"):
        arguments = [str(tmp_path / name) for name in (model, "text.txt", f"{model}.imatrix")]
        assert main(["imatrix", *arguments, "--chunk", "16"]) == 0
    found, want = (read_importances(tmp_path / f"{model}.imatrix") for model in ("folder", "f32.gguf"))
    assert {*found} == {*want} >= {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_shexp.weight"}


def test_what_does_not_match_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Importances that no tensor has, and tensors without any in a layer that has some; not those of a layer without,
    nor the embedding."""
    case = BY_NAME["seed_oss"]
    golden = load_golden(case)
    folder = write_folder(case, golden, tmp_path / "folder")
    with Model.load(folder, threads=1) as model:
        found = importances(model.core, [[5, 9, 20]])
    found = {name: one for name, one in found.items() if not name.startswith("blk.1.")}
    found["blk.0.ffn_gate_up.weight"] = found.pop("blk.0.ffn_up.weight")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "pellucid"):
        convert_folder(folder, tmp_path / "f16.gguf", "F16", importances=found)
        convert_folder(folder, tmp_path / "out.gguf", "Q4_0", importances=found)
    unused = "imatrix: it names tensors that this model lacks (1): blk.0.ffn_gate_up.weight"
    without = "imatrix: it lacks tensors, which are quantised without importances (1): blk.0.ffn_up.weight"
    assert [record.getMessage() for record in caplog.records] == [unused, unused, without]

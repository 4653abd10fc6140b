"""Importances of a tiny model: right where NumPy can compute them, and the same however the text is run."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from pellucid import Model
from pellucid.cli import main
from pellucid.look.importance import importances
from pellucid.weights.importance import read_importances
from tests.embedding import cases as embeddings
from tests.embedding import files
from tests.making.test_convert import bpe
from tests.reference import tiny

MODEL = tiny.Tiny(name="x", seed=4, vocab=700)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_gguf(MODEL, tmp_path_factory.mktemp("tiny") / "x.gguf")


def test_inputs_of_the_first_layer(path: Path) -> None:
    """Queries, keys and values share the normed embedding, each with the sum of all chunks."""
    chunks = [[5, 9, 600, 2], [7, 1, 1]]
    with Model.load(path, threads=2) as model:
        found = importances(model.core, chunks)
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    x = tensors["token_embd.weight"][sum(chunks, [])].astype(np.float64)
    x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + MODEL.eps)
    want = ((x * tensors["blk.0.attn_norm.weight"]) ** 2).sum(axis=0)
    for name in "qkv":
        sums, counts = found[f"blk.0.attn_{name}.weight"]
        assert counts.tolist() == [7]
        np.testing.assert_allclose(sums[0], want, rtol=1e-5)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert {*found} == {f"blk.{i}.{name}.weight" for i in range(MODEL.layers) for name in names}
    assert found["blk.1.ffn_down.weight"].sums.shape == (1, MODEL.ff)


def test_threads_and_passes_change_no_bit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [[*range(3, 60)]]
    with Model.load(path, threads=1) as model:
        want = importances(model.core, chunks)
    monkeypatch.setattr("pellucid.look.importance._ROOM", 1 << 15)
    steps: list[tuple[int, int]] = []
    with Model.load(path, threads=3) as model:
        found = importances(model.core, chunks, lambda done, total: steps.append((done, total)))
    assert len(steps) > 3
    assert steps[-1] == (57, 57)
    for name in want:
        np.testing.assert_array_equal(found[name].sums, want[name].sums)


def test_an_encoder_reads_a_chunk_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large its inputs are: a token sees later ones."""
    case = embeddings.BY_NAME["bert"]
    folder = files.write_folder(case, files.load_golden(case), tmp_path / "bert")
    with Model.load(folder) as model:
        want = importances(model.core, [[1, 2, 3, 4, 5], [6, 7]])
        monkeypatch.setattr("pellucid.look.importance._ROOM", 1)
        found = importances(model.core, [[1, 2, 3, 4, 5], [6, 7]])
    assert want
    for name in want:
        np.testing.assert_array_equal(found[name].sums, want[name].sums)


def test_folders_have_the_same_names(tmp_path: Path, path: Path) -> None:
    folder = tiny.write_folder(MODEL, tmp_path / "folder")
    with Model.load(path) as a, Model.load(folder) as b:
        one, other = (importances(model.core, [[1, 2, 3]]) for model in (a, b))
    assert {*one} == {*other}


def test_whole_matrices(tmp_path: Path, path: Path) -> None:
    """Where a file has queries, keys and values in one matrix, the importances are of that."""
    whole = tiny.write_gguf(MODEL, tmp_path / "whole.gguf", fused=True)
    with Model.load(path) as a, Model.load(whole) as b:
        parts, found = (importances(model.core, [[1, 2, 3]]) for model in (a, b))
    tensors = {t.name for t in gguf.GGUFReader(whole).tensors}
    assert "blk.0.attn_qkv.weight" in found
    assert {*found} == {name for name in tensors if name.startswith("blk.") and "norm" not in name}
    np.testing.assert_array_equal(found["blk.0.attn_qkv.weight"].sums, parts["blk.0.attn_k.weight"].sums)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bpe(None, tiny.write_folder(MODEL, tmp_path / "folder"))
    (tmp_path / "text.txt").write_text("Some words to run. " * 20)
    out = tmp_path / "im.gguf"
    assert main(["imatrix", str(folder), str(tmp_path / "text.txt"), str(out), "--chunk", "16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"] == 7 * MODEL.layers == len(read_importances(out))
    reader = gguf.GGUFReader(out)
    assert reader.fields["imatrix.chunk_size"].contents() == 16
    assert reader.fields["imatrix.chunk_count"].contents() == found["chunks"] > 1
    assert main(["convert", str(folder), str(tmp_path / "q.gguf"), "-t", "Q4_0", "--imatrix", str(out)]) == 0
    (tmp_path / "empty.txt").write_text("")
    assert main(["imatrix", str(folder), str(tmp_path / "empty.txt"), str(tmp_path / "no.gguf")]) == 1
    assert not (tmp_path / "no.gguf").exists()

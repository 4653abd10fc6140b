"""Importances of experts: each has the sum and the number of its own rows."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from pellucid import Model
from pellucid.look.importance import importances
from pellucid.weights import open_model
from pellucid.weights.importance import read_importances, write_importances
from pellucid.weights.quantise import quantize_file
from tests.families.case import load_golden, write_folder, write_gguf
from tests.families.cases import BY_NAME

CHUNKS = [[5, 9, 60, 2, 44, 3], [7, 1, 1]]


@pytest.mark.parametrize("name", ["qwen3moe", "gpt_oss", "mixtral", "glm4moe"])
def test_experts(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    path = write_gguf(case, load_golden(case), tmp_path / "m.gguf")
    with Model.load(path, threads=2) as model:
        found = importances(model.core, CHUNKS)
        traces = [model.trace(chunk, want=("routes",)) for chunk in CHUNKS]
    layer = next(i for i, weights in enumerate(traces[0].routes) if weights.any())
    counts = sum((trace.routes[layer] > 0).sum(0) for trace in traces)
    for part in ("gate", "up", "down"):
        sums, own = found[f"blk.{layer}.ffn_{part}_exps.weight"]
        assert own.tolist() == counts.tolist() and len(own) == len(sums)
        assert (sums.sum(1) > 0).tolist() == (counts > 0).tolist()
    tensors = {t.name: t.data.shape for t in gguf.GGUFReader(path).tensors}
    for key, (sums, _) in found.items():
        assert key in tensors and sums.shape[1] == tensors[key][-1]
        assert len(sums) == (tensors[key][0] if len(tensors[key]) == 3 else 1), key
    gate, up = (found[f"blk.{layer}.ffn_{part}_exps.weight"].sums for part in ("gate", "up"))
    np.testing.assert_array_equal(gate, up)


def test_what_all_experts_read_is_the_normed_stream(tmp_path: Path) -> None:
    """Each row counts once for each of its experts: sums over experts are top_k times those of all rows."""
    case = BY_NAME["qwen3moe"]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "f"), threads=1) as model:
        found = importances(model.core, CHUNKS)
        norm = next(v for v in model.core.engine.plan.vectors if v.name == "blk.0.ffn_norm.weight").data
        want = np.zeros(64)
        for chunk in CHUNKS:
            trace = model.trace(chunk, want=("hidden", "attention_out"))
            x = (trace.hidden[0] + trace.attention_out[0]).astype(np.float64)
            x = x / np.sqrt((x**2).mean(1, keepdims=True) + model.core.config.eps) * norm
            want += (x**2).sum(0)
    np.testing.assert_allclose(found["blk.0.ffn_gate_exps.weight"].sums.sum(0), 3 * want, rtol=1e-4)


def test_passes_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a pass change no bit; a file keeps what it was given, and quantises the stacks."""
    case = BY_NAME["qwen3moe"]
    path = write_gguf(case, load_golden(case), tmp_path / "m.gguf")
    with Model.load(path, threads=1) as model:
        want = importances(model.core, CHUNKS)
        monkeypatch.setattr("pellucid.look.importance._ROOM", 1 << 14)
        again = importances(model.core, CHUNKS)
    write_importances(tmp_path / "i.gguf", want)
    stored = read_importances(tmp_path / "i.gguf")
    for name, (sums, counts) in want.items():
        for other in (again[name], stored[name]):
            np.testing.assert_array_equal(other.sums, sums)
            np.testing.assert_array_equal(other.counts, counts)
    shapes = {t.name: list(t.shape) for t in gguf.GGUFReader(tmp_path / "i.gguf").tensors}
    assert shapes["blk.0.ffn_down_exps.weight.in_sum2"] == [32, 8]  # as llama.cpp's: columns, experts
    assert shapes["blk.0.ffn_down_exps.weight.counts"] == [1, 8]
    for importance in (None, stored):
        with open_model(path) as file:
            made = quantize_file(file, tmp_path / f"{importance is None}.gguf", "Q4_0", importances=importance)
        assert made["blk.0.ffn_up_exps.weight"] == "Q4_0"
    a, b = ({t.name: t.data for t in gguf.GGUFReader(tmp_path / f"{n}.gguf").tensors} for n in (True, False))
    assert (a["blk.0.ffn_up_exps.weight"] != b["blk.0.ffn_up_exps.weight"]).any()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_family(name: str, tmp_path: Path) -> None:
    """Heads' matrices, shared experts, experts over a narrower stream, parts of fused matrices."""
    case = BY_NAME[name]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "f"), threads=1) as model:
        found = importances(model.core, CHUNKS)
    assert found and all(np.isfinite(sums).all() and (counts >= 0).all() for sums, counts in found.values())


@pytest.mark.parametrize("name", ["deepseek_v2_in_one", "minicpm3_in_one"])
def test_keys_and_values_in_one_tensor(name: str, tmp_path: Path) -> None:
    """The inputs of the values of all heads, each of which is a sum of latent rows."""
    case = BY_NAME[name]
    golden = load_golden(case)
    path = write_gguf(case, golden, tmp_path / "m.gguf")
    found = {}
    for source in (path, write_folder(case, golden, tmp_path / "f")):
        with Model.load(source, threads=1) as model:
            found[source] = importances(model.core, CHUNKS)
    one, two = found.values()
    assert {name for name in two if name not in one} == {
        f"blk.{i}.attn_{part}_b.weight" for i in range(3) for part in "kv"
    }
    for i in range(3):
        values, both = two[f"blk.{i}.attn_v_b.weight"], one[f"blk.{i}.attn_kv_b.weight"]
        np.testing.assert_allclose(both.sums, values.sums.sum(0, keepdims=True), rtol=1e-3)
        assert both.counts.tolist() == [values.counts.sum()] == [len(values.counts) * sum(map(len, CHUNKS))]
    with open_model(path) as file:
        made = quantize_file(file, tmp_path / "q.gguf", "Q4_0", importances=one)
    assert made["blk.0.attn_kv_b.weight"] in ("Q4_0", "Q8_0")  # beside eight experts
    with Model.load(tmp_path / "q.gguf", threads=1) as model:
        assert np.isfinite(model.logits(CHUNKS[0])).all()

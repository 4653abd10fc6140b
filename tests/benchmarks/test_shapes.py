"""benchmarks/shapes.py: its files parse, and their weights are finite, centred and of the intended size."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from benchmarks import random_weights
from pellucid import Model

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "shapes.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("pellucid_shapes", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


shapes = load()


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of 260 tokens."""
    path = tmp_path_factory.mktemp("donor") / "donor.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"t{i}" for i in range(260)])
    writer.add_token_types([1] * 260)
    writer.add_token_merges(["t 1", "t 2"])
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def small(name: str, **changes: Any) -> Any:
    """The shape with one layer and the widths of a test."""
    base = dict(layers=1, d=512, heads=4, kv_heads=2, head_dim=128, ff=768, vocab=300)
    return replace(shapes.SHAPES[name], **(base | changes))


def test_layers_that_add_little(tmp_path: Path, smollm2: Path) -> None:
    """The last token is the likeliest next one."""
    out = tmp_path / "out.gguf"
    shapes.write_model(out, "t", small("llama-3.2-1b", layers=2, vocab=49152), shapes.MIXES["q4_0"], smollm2, norm=0.01)
    with Model.load(out) as model:
        assert model.generate([7, 3, 9], max_tokens=8, temperature=0, ignore_eos=True).ids == [9] * 8


@pytest.mark.parametrize("mix", shapes.MIXES)
@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen2.5-1.5b", "llama-3.1-8b"])
def test_a_model_of_one_layer(tmp_path: Path, donor: Path, name: str, mix: str) -> None:
    shape, kinds = small(name), shapes.MIXES[mix]
    out = tmp_path / "m.gguf"
    shapes.write_model(out, "m", shape, kinds, donor, seed=3)
    reader = gguf.GGUFReader(out)
    expected = {
        "token_embd.weight": ([512, 300], kinds.ends),
        "output_norm.weight": ([512], gguf.GGMLQuantizationType.F32),
    }
    if not shape.tied:
        expected["output.weight"] = ([512, 300], kinds.ends)
    for part, size, kind in (
        ("attn_q", [512, 512], kinds.most),
        ("attn_k", [512, 256], kinds.most),
        ("attn_v", [512, 256], kinds.more),
        ("attn_output", [512, 512], kinds.most),
        ("ffn_gate", [512, 768], kinds.most),
        ("ffn_up", [512, 768], kinds.most),
        ("ffn_down", [768, 512], kinds.more),
    ):
        expected[f"blk.0.{part}.weight"] = (size, kind)
    vectors = {"attn_norm.weight": 512, "ffn_norm.weight": 512}
    vectors |= {"attn_q_norm.weight": 128, "attn_k_norm.weight": 128} if name == "qwen3-0.6b" else {}
    vectors |= {"attn_q.bias": 512, "attn_k.bias": 256, "attn_v.bias": 256} if name == "qwen2.5-1.5b" else {}
    expected |= {f"blk.0.{n}": ([size], gguf.GGMLQuantizationType.F32) for n, size in vectors.items()}
    assert {t.name: (t.shape.tolist(), t.tensor_type) for t in reader.tensors} == expected
    for t in reader.tensors:
        w = gguf.quants.dequantize(t.data, t.tensor_type)
        assert w.shape == tuple(reversed(t.shape.tolist())) and np.isfinite(w).all()
        if w.ndim == 1:
            assert (w == (0 if t.name.endswith("bias") else 1)).all()
        else:
            assert 0.01 < w.std() < 0.04, t.name
            assert abs(w.mean()) < 0.0005 and np.abs(w).max() < 0.2, t.name
    fields = {k: f.contents() for k, f in reader.fields.items()}
    assert fields["general.architecture"] == shape.arch
    assert fields[f"{shape.arch}.attention.head_count_kv"] == 2
    assert fields[f"{shape.arch}.block_count"] == 1
    assert fields["tokenizer.ggml.tokens"][258:262] == ["t258", "t259", "<unused0>", "<unused1>"]
    assert fields["tokenizer.ggml.token_type"][259:] == [1] * 41
    assert fields["tokenizer.ggml.merges"] == ["t 1", "t 2"] and fields["tokenizer.ggml.eos_token_id"] == 2


@pytest.mark.parametrize("kind", random_weights.FIELDS)
def test_every_format_has_the_size_meant(kind: Any) -> None:
    raw = random_weights.random_rows(np.random.default_rng(0), 64, 512, kind)
    w = gguf.quants.dequantize(raw, kind)
    assert w.shape == (64, 512)
    assert w.std() == pytest.approx(0.02, rel=0.03)
    assert abs(w.mean()) < 0.001
    assert np.unique(w).size > 10


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("qwen3-0.6b", 596.0),
        ("llama-3.2-1b", 1235.8),
        ("llama-3.2-3b", 3212.7),
        ("llama-3.1-8b", 8030.3),
        ("qwen2.5-1.5b", 1543.7),
        ("qwen3-30b-a3b", 30532.1),
        ("lfm2-1.2b", 1170.3),
        ("qwen3.5-2b", 1881.8),
        ("granite-4-h-micro", 3191.4),
    ],
)
def test_shapes_have_the_real_models_parameters(name: str, millions: float) -> None:
    made = list(shapes.tensors(shapes.SHAPES[name], shapes.MIXES["f16"]))
    assert sum(m.all_rows * m.cols for m in made) / 1e6 == pytest.approx(millions, abs=0.06)
    for mix in shapes.MIXES.values():
        for m in shapes.tensors(shapes.SHAPES[name], mix):
            assert m.cols % gguf.GGML_QUANT_SIZES[m.kind][0] == 0  # every row is a whole number of blocks


@pytest.mark.parametrize("mix", ["q4_k_m", "mxfp4", "iq4_xs", "q3_k", "q2_k"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3-30b-a3b", {"experts": 6, "top_k": 2, "layers": 2}),
        ("lfm2-1.2b", {"layers": 3, "attention": (1,)}),
        ("qwen3.5-2b", {"layers": 4, "memory": shapes.Memory("delta", 4, n_k=2, n_v=4, dk=64, dv=64), "metadata": ()}),
        (
            "granite-4-h-micro",
            {"layers": 3, "attention": (1,), "memory": shapes.Memory("mamba", 4, n_k=1, n_v=16, dk=128, dv=64)},
        ),
    ],
)
def test_models_that_run(tmp_path: Path, donor: Path, name: str, changes: dict[str, Any], mix: str) -> None:
    """With experts, and with layers of convolutions, delta nets and Mamba 2."""
    shape = small(name, **changes)
    out = tmp_path / "m.gguf"
    shapes.write_model(out, "m", shape, shapes.MIXES[mix], donor)
    with Model.load(out, threads=1) as model:
        logits = model.logits([1, 2, 3])
        info = model.info()
    assert np.isfinite(logits).all() and logits.std() > 0
    assert info.layers == shape.layers and info.architecture == shape.arch
    assert (info.state_bytes > 0) == (shape.memory is not None)
    if shape.experts:
        stacks = [t for t in gguf.GGUFReader(out).tensors if t.name.endswith("_exps.weight")]
        assert [t.shape.tolist()[2] for t in stacks] == [6] * 6


def test_a_seed_repeats_and_chunks_join(tmp_path: Path, donor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents(file: str, seed: int) -> bytes:
        shapes.write_model(tmp_path / file, "m", small("llama-3.2-1b"), shapes.MIXES["q4_k_m"], donor, seed)
        return (tmp_path / file).read_bytes()

    first = contents("a.gguf", 1)
    assert contents("b.gguf", 1) == first and contents("c.gguf", 2) != first
    monkeypatch.setattr(shapes, "CHUNK", 5000)  # rows of 288 bytes: the last chunk of a matrix is a part
    assert len(contents("d.gguf", 1)) == len(first)
    last = gguf.GGUFReader(tmp_path / "d.gguf").tensors[-1]
    assert gguf.quants.dequantize(last.data, last.tensor_type).std() == pytest.approx(0.02, rel=0.05)


def test_the_command_writes_a_real_shape(tmp_path: Path, donor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "llama-3.2-1b", small("llama-3.2-1b", layers=3))
    out = tmp_path / "m.gguf"
    shapes.main(["llama-3.2-1b", "q8_0", str(out), "--donor", str(donor), "--layers", "2", "--seed", "4"])
    names = [t.name for t in gguf.GGUFReader(out).tensors]
    assert "blk.1.ffn_down.weight" in names and "blk.2.ffn_down.weight" not in names
    with pytest.raises(SystemExit):
        shapes.main(["llama-3.2-1b", "q8_0", str(out), "--donor", str(donor), "--layers", "4"])


def test_a_donor_that_does_not_fit(tmp_path: Path, donor: Path) -> None:
    out = tmp_path / "m.gguf"
    with pytest.raises(ValueError, match="260 tokens do not fit a vocabulary of 200"):
        shapes.write_model(out, "m", small("llama-3.2-1b", vocab=200), shapes.MIXES["f16"], donor)
    assert not out.exists()
    with pytest.raises(ValueError, match="a row of 300 weights: Q6_K needs a multiple of 256"):
        random_weights.random_rows(np.random.default_rng(0), 2, 300, gguf.GGMLQuantizationType.Q6_K)

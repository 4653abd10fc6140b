"""A factor of its own beside a weight in GGUF files (X.scale, of NVFP4 files): of a matrix, or of each expert."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError, UnsupportedModelError
from tests.engine.models import same
from tests.families.case import Case, Weights, add_key, gguf_tensors, load_golden, write_gguf
from tests.families.cases import BY_NAME, CASES
from tests.families.test_families import ids_of

# Tensors that are no matrices of products, and routers, whose scale is something else where there is one (Gemma 4).
_NONE = re.compile(
    r"(token_embd|position_embd|token_types|per_layer_token_embd|.*(ffn_gate_inp|ffn_gate_inp_shexp|conv|conv1d|conv1d_[qkv]"
    r"|norm))\.weight|.*\.(bias|ssm_[ad]|scale)"
)
NAMES = [case.name for case in CASES if case.gguf]


def changed(case: Case, change: Any) -> Case:
    """The case, whose GGUF file has other tensors: change(tensors) -> tensors."""
    assert case.gguf is not None
    merge = case.gguf.merge
    return replace(case, gguf=replace(case.gguf, merge=lambda tensors: change(merge(tensors))))


def scaled(tensors: Weights) -> Weights:
    """Each matrix divided by powers of two, which are its factors; the products of float32 have the same bits."""
    out: Weights = {}
    for i, (name, value) in enumerate(tensors.items()):
        out.setdefault(name, value)
        if value.ndim < 2 or _NONE.fullmatch(name):
            continue
        n = len(value) if value.ndim == 3 else 1
        factors = np.float32(2.0) ** np.random.default_rng(i).integers(-3, 4, n).astype(np.float32)
        factors[0] = 4.0
        out[name] = (value / factors.reshape(-1, *[1] * (value.ndim - 1))).astype(np.float32)
        own = name.removesuffix("weight") + "scale"
        out[own] = factors * tensors.get(own, np.float32(1))
    return out


def logits(path: Path, ids: list[int], **options: Any) -> Any:
    with Model.load(path, threads=2, **options) as model:
        return model.logits(ids)


@pytest.mark.parametrize("name", NAMES)
def test_every_matrix(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    golden = load_golden(case)
    ids = ids_of(case, golden)[:30]
    expected = logits(write_gguf(case, golden, tmp_path / "plain.gguf"), ids)
    found = logits(write_gguf(changed(case, scaled), golden, tmp_path / "scaled.gguf"), ids)
    assert same(found, expected)


def with_inputs(tensors: Weights) -> Weights:
    """Beside each matrix a factor of its inputs, or one for each expert."""
    made: Weights = {}
    for name, value in tensors.items():
        if value.ndim > 1 and not _NONE.fullmatch(name):
            made[name.removesuffix("weight") + "input_scale"] = np.full(
                (len(value) if value.ndim == 3 else 1,), 0.25, np.float32
            )
    return {**tensors, **made}


@pytest.mark.parametrize("name", ["qwen2", "qwen3moe", "qwen35moe", "deepseek_v3", "nemotron_h_moe"])
def test_factors_of_inputs(name: str, tmp_path: Path) -> None:
    """Converters write those of folders in NVFP4. They are for quantised inputs; without these, as in llama.cpp, they
    change nothing."""
    case = BY_NAME[name]
    golden = load_golden(case)
    ids = ids_of(case, golden)[:30]
    expected = logits(write_gguf(case, golden, tmp_path / "plain.gguf"), ids)
    assert same(logits(write_gguf(changed(case, with_inputs), golden, tmp_path / "inputs.gguf"), ids), expected)


@pytest.mark.parametrize("name", ["qwen2", "qwen3moe"])
def test_what_does_not_fit(name: str, tmp_path: Path) -> None:
    case, experts = BY_NAME[name], name == "qwen3moe"
    golden = load_golden(case)
    down = "blk.1.ffn_down_exps" if experts else "blk.1.ffn_down"
    for tensor, shape in ((f"{down}.scale", (2,)), (f"{down}.scale", (1, 1)), ("token_embd.scale", (1,)),
                          (f"{down}.input_scale", (2,)), ("blk.0.attn_norm.scale", (1,)),
                          ("token_embd.input_scale", (1,)), ("blk.0.attn_norm.input_scale", (1,)),
                          ("blk.0.ffn_gate_inp.scale", (1,)), ("blk.9.attn_q.scale", (1,))):  # fmt: skip
        value = np.ones(shape, np.float32)
        path = write_gguf(changed(case, lambda t, n=tensor, v=value: {**t, n: v}), golden, tmp_path / "m.gguf")
        with pytest.raises((ModelFileError, UnsupportedModelError), match=re.escape(tensor)):
            logits(path, [1, 2, 3])


@pytest.mark.parametrize("name", ["qwen2", "qwen3moe"])
def test_nvfp4(name: str, tmp_path: Path) -> None:
    """Matrices in NVFP4: the logits are nearly those of the values that the gguf package decodes, times the factors."""
    case, kind, rng = BY_NAME[name], gguf.GGMLQuantizationType.NVFP4, np.random.default_rng(5)
    golden = load_golden(case)
    assert case.gguf is not None
    paths = [tmp_path / "nvfp4.gguf", tmp_path / "decoded.gguf"]
    writers = [gguf.GGUFWriter(path, case.gguf.arch) for path in paths]
    for writer in writers:
        for key, value in case.gguf.keys(golden.config).items():
            if value is not None:
                add_key(writer, f"{case.gguf.arch}.{key}", value)
    quantised = 0
    for tensor, value in gguf_tensors(case, golden).items():
        if value.ndim < 2 or _NONE.fullmatch(tensor) or value.shape[-1] % 64:
            for writer in writers:
                writer.add_tensor(tensor, value)
            continue
        rows = value.reshape(-1, value.shape[-1])
        blocks = rng.integers(0, 256, (len(rows), rows.shape[1] // 64, 36), np.uint8)
        blocks[..., :4] = rng.integers(0x30, 0x40, blocks[..., :4].shape)  # scales of groups of 16, in e4m3
        blocks = blocks.reshape(*value.shape[:-1], -1)
        decoded = gguf.dequantize(blocks.reshape(len(rows), -1), kind)
        factors = np.sqrt((rows**2).mean() / (decoded**2).mean()) * rng.uniform(0.7, 1.4, value.shape[: value.ndim - 2])
        factors = np.atleast_1d(factors).astype(np.float32)
        whole = decoded.reshape(value.shape) * factors.reshape(-1, *[1] * (value.ndim - 1))
        writers[0].add_tensor(tensor, blocks, raw_dtype=kind)
        writers[0].add_tensor(tensor.removesuffix("weight") + "scale", factors)
        writers[1].add_tensor(tensor, whole.reshape(value.shape).astype(np.float32))
        quantised += 1
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert quantised > 10
    ids = ids_of(case, golden)[:30]
    found, expected = (logits(path, ids, precision="high", kv="f32") for path in paths)
    assert np.abs(found - expected).max() <= 0.005 * np.abs(expected).max()

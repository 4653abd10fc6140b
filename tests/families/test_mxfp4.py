"""gpt-oss folders whose experts are in MXFP4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pellucid import Model, arch, weights
from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.making.convert import convert_folder
from tests.engine.models import same
from tests.families.case import Array, Weights, load_golden, write_folder
from tests.families.cases import BY_NAME

IDS = [int(i) for i in np.random.default_rng(9).integers(0, 97, 60)]
VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)  # e2m1
ASKED = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
BYTES = gguf.GGMLQuantizationType.MXFP4


def decoded(blocks: Array, scales: Array) -> Array:
    """(experts, rows, k): as the specification has it, neighbours in a byte."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    values = np.concatenate([VALUES, -VALUES])[codes]
    return np.ldexp(values, scales.astype(np.int32)[..., None] - 127).reshape(*blocks.shape[:2], -1)


def write(path: Path, name: str = "gpt_oss") -> tuple[Path, Path]:
    """(a folder in MXFP4, the same model in float32)"""
    case, rng = BY_NAME[name], np.random.default_rng(4)
    plain = write_folder(case, load_golden(case), path / "plain")
    tensors, quantised = load_file(plain / "model.safetensors"), {}
    for own, value in tensors.items():
        if not own.endswith(("gate_up_proj", "down_proj")):
            quantised[own] = value
            continue
        stack, k, rows = value.shape
        spread = int(np.log2(np.abs(value).max() / 6))
        blocks = rng.integers(0, 256, (stack, rows, k // 32, 16), np.uint8)
        scales = rng.integers(126 + spread, 129 + spread, (stack, rows, k // 32), np.uint8)
        quantised |= {f"{own}_blocks": blocks, f"{own}_scales": scales}
        tensors[own] = np.ascontiguousarray(decoded(blocks, scales).swapaxes(1, 2))
    save_file(tensors, plain / "model.safetensors")
    folder = path / "mxfp4"
    folder.mkdir()
    save_file(quantised, folder / "model.safetensors")
    change(plain, folder, quantization_config=ASKED)
    return folder, plain


def change(source: Path, folder: Path, **keys: Any) -> None:
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


def change_tensors(folder: Path, drop: str = "", **values: Array) -> None:
    found: Weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if name != drop}
    save_file({**found, **values}, folder / "model.safetensors")


@pytest.mark.parametrize("name", ["gpt_oss", "gpt_oss_few"])
def test_values(name: str, tmp_path: Path) -> None:
    """The gguf package decodes the joined tensors to the specification's values, in the order of GGUF's rows."""
    folder, plain = write(tmp_path, name)
    with weights.open_model(folder, arch.folder) as found, weights.open_model(plain, arch.folder) as expected:
        stacks = [one for one in found.tensors if one.endswith("_exps.weight")]
        assert len(stacks) == 8
        for one in stacks:
            t, e = found.tensors[one], expected.tensors[one]
            assert t.type == "MXFP4" and t.shape == e.shape
            values = gguf.dequantize(t.data.view(np.uint8).reshape(-1, t.shape[2] // 32 * 17), BYTES)
            assert np.array_equal(values.reshape(t.shape), e.data.view(np.float32).reshape(e.shape))


@pytest.mark.parametrize("name", ["gpt_oss", "gpt_oss_few"])
def test_logits(name: str, tmp_path: Path) -> None:
    folder, plain = write(tmp_path, name)
    with Model.load(folder, threads=2, precision="high", kv="f32") as model, Model.load(plain, threads=2) as expected:
        reference = expected.logits(IDS)
        found = model.logits(IDS)
        assert np.abs(found - reference).max() <= 2e-3 * np.abs(reference).max()
        assert same(model.logits(IDS, chunk=7), found)
    convert_folder(folder, tmp_path / "m.gguf", "F32")
    with Model.load(tmp_path / "m.gguf", threads=2) as model:
        assert np.abs(model.logits(IDS) - reference).max() <= 1e-5 * np.abs(reference).max()
    convert_folder(folder, tmp_path / "m.gguf", "MXFP4_MOE")
    with weights.open_model(tmp_path / "m.gguf", arch.folder) as a, weights.open_model(folder, arch.folder) as b:
        for i in range(4):
            both = [a.tensors[f"blk.{i}.ffn_{part}_exps.weight"] for part in ("gate", "up")]  # cut apart in files
            stacks = [t.data.view(np.uint8).reshape(t.shape[0], -1) for t in both]
            down = a.tensors[f"blk.{i}.ffn_down_exps.weight"]
            assert {t.type for t in (*both, down)} == {"MXFP4"}
            assert down.data.tobytes() == b.tensors[f"blk.{i}.ffn_down_exps.weight"].data.tobytes()
            fused = b.tensors[f"blk.{i}.ffn_gate_up_exps.weight"].data.tobytes()
            assert np.concatenate(stacks, axis=1).tobytes() == fused


def test_any_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    """Bytes are made when they are asked for, some rows at a time."""
    with weights.open_model(write(tmp_path)[0], arch.folder) as file:
        for t in (t for name, t in file.tensors.items() if name.endswith("_exps.weight")):
            whole = t.data.tobytes()
            for first, end in ((0, 1), (17, 40), (1700, 9001), (len(whole) - 33, len(whole)), (50, 50)):
                assert t.data[first:end].tobytes() == whole[first:end]


def test_what_does_not_fit(tmp_path: Path) -> None:
    folder, plain = write(tmp_path)
    stem = "model.layers.1.mlp.experts.down_proj"
    whole = load_file(folder / "model.safetensors")
    blocks, scales = whole[f"{stem}_blocks"], whole[f"{stem}_scales"].copy()
    scales[0, 0, 0] = 255
    changes: list[tuple[str, dict[str, Array], str]] = [
        (f"{stem}_blocks", {}, f"{stem}_blocks: no such tensor"),
        (f"{stem}_scales", {}, f"{stem}_scales: no such tensor"),
        ("", {f"{stem}_scales": scales}, f"{stem}_scales.*not a number"),
        ("", {f"{stem}_scales": scales[:, :3]}, f"{stem}_scales.*of shape"),
        ("", {f"{stem}_blocks": blocks[..., :8]}, f"{stem}_blocks.*of shape"),
        ("", {f"{stem}_blocks": blocks[:0], f"{stem}_scales": scales[:0]}, f"{stem}_blocks.*of shape"),
        ("", {f"{stem}_blocks": blocks.astype(np.float32)}, f"{stem}_blocks.*F32"),
        ("", {stem: np.zeros((8, 96, 64), np.float32)}, f"{stem}_blocks.*second tensor"),
        ("", {f"{stem}_input_scale": scales}, f"{stem}_input_scale"),
    ]  # fmt: skip
    for drop, values, message in changes:
        save_file(whole, folder / "model.safetensors")
        change_tensors(folder, drop, **{name: np.ascontiguousarray(value) for name, value in values.items()})
        with pytest.raises((ModelFileError, UnsupportedModelError), match=message):
            Model.load(folder)
    save_file(whole, folder / "model.safetensors")
    for config, message in (
        (None, "quantization_config: it asks for no MXFP4"),
        ({**ASKED, "quant_method": "awq"}, "quantization_config"),
        ({**ASKED, "dequantize": True}, "quantization_config.dequantize"),
        ({**ASKED, "group_size": 32}, "quantization_config.group_size"),
    ):
        change(plain, folder, quantization_config=config)
        with pytest.raises((ModelFileError, UnsupportedModelError), match=message):
            Model.load(folder)
    change(plain, plain, quantization_config=ASKED)
    with pytest.raises(ModelFileError, match=r"gate_up_proj_blocks: no such tensor|down_proj_blocks: no such tensor"):
        Model.load(plain)


@pytest.mark.live
def test_values_are_those_of_transformers(tmp_path: Path) -> None:
    import torch
    from transformers.integrations import mxfp4

    folder, _ = write(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    stems = [name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")]
    for stem in stems:
        parts = (tensors[f"{stem}_{part}"] for part in ("blocks", "scales"))
        blocks, scales = (torch.from_numpy(part.copy()) for part in parts)
        found = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
        assert np.array_equal(found.swapaxes(1, 2), decoded(blocks.numpy(), scales.numpy()))
    assert len(stems) == 8


@pytest.mark.live
def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    """Of its own dequantised model."""
    import torch
    from transformers import AutoModelForCausalLM, Mxfp4Config

    from tests.reference import hf

    folder, _ = write(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=Mxfp4Config(dequantize=True)
    )
    expected = hf.logits(theirs.eval().float(), IDS)
    with Model.load(folder, threads=2, precision="high", kv="f32") as model:
        assert np.abs(model.logits(IDS) - expected).max() <= 5e-3 * np.abs(expected).max()

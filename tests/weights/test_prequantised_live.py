"""Quantised folders against transformers (`--live`): their tensors are decoded here by the packages' published formulas
with torch, apart from Pellucid's code, and transformers runs the float folder that results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from tests.weights import packed
from tests.weights.test_prequantised import FORMS, IDS, MIXED, both, distance

pytestmark = pytest.mark.live
AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # autoawq's AWQ_REVERSE_ORDER
NAMES = [name for name in FORMS if not name.startswith("auto-round")]


def fields(words: Any, bits: int) -> Any:
    """(m, n) int32 -> (m, n, 32 / bits), the lowest bits first."""
    import torch

    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return torch.bitwise_and(torch.bitwise_right_shift(words[..., None], shifts), (1 << bits) - 1)


def gptq(t: dict[str, Any], q: dict[str, Any]) -> Any:
    """gptqmodel's TorchQuantLinear: scales[g_idx] * (codes - zeros[g_idx]), (k, rows) turned. The first format stores
    zeros less 1."""
    import torch

    bits = q["bits"]
    codes = fields(t["qweight"], bits).permute(0, 2, 1).reshape(-1, t["qweight"].shape[1])
    zeros = fields(t["qzeros"], bits).reshape(t["scales"].shape)
    if q.get("checkpoint_format", "gptq") == "gptq":
        zeros = zeros + 1
    size = len(codes) if q["group_size"] == -1 else q["group_size"]
    index = t["g_idx"].long() if "g_idx" in t else torch.arange(len(codes)) // size
    return (t["scales"].float()[index] * (codes - zeros[index])).T


def awq(t: dict[str, Any], q: dict[str, Any]) -> Any:
    """autoawq's dequantize_gemm."""
    codes, zeros = (fields(t[name], 4)[..., AWQ_ORDER].reshape(len(t[name]), -1) for name in ("qweight", "qzeros"))
    size = len(codes) // len(zeros)
    zeros, scales = (x.repeat_interleave(size, 0) for x in (zeros, t["scales"].float()))
    return ((codes - zeros) * scales).T


def compressed(t: dict[str, Any], q: dict[str, Any]) -> Any:
    """compressed-tensors' unpack_from_int32 and dequantize: (codes - zeros) * scale, all of them signed."""
    import torch

    if "weight" in t:
        codes, zeros = t["weight"].float(), t.get("weight_zero_point")
    else:
        rows, k = t["weight_shape"].tolist()
        bits = next(b for b in (4, 8) if -(-k * b // 32) == t["weight_packed"].shape[1])
        middle = 1 << (bits - 1)
        codes = (fields(t["weight_packed"], bits).reshape(rows, -1)[:, :k] - middle).float()
        zeros = t.get("weight_zero_point")
        if zeros is not None:
            zeros = fields(zeros.T.contiguous(), bits).reshape(zeros.shape[1], -1)[:, :rows].T - middle
    scale = t["weight_scale"].float()
    scale = scale.reshape(1, 1).expand(len(codes), 1) if scale.numel() == 1 else scale.reshape(len(codes), -1)
    size = -(-codes.shape[1] // scale.shape[1])
    index = t["weight_g_idx"].long() if "weight_g_idx" in t else torch.arange(codes.shape[1]) // size
    zeros = torch.zeros_like(scale) if zeros is None else zeros.float().reshape(scale.shape)
    return (codes - zeros[:, index]) * scale[:, index]


DECODE: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "gptq": gptq, "awq": awq, "compressed-tensors": compressed,
}  # fmt: skip


def decoded(folder: Path, out: Path) -> Path:
    """The folder with its quantised matrices in float32."""
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    q = config.pop("quantization_config")
    tensors = load_file(folder / "model.safetensors")
    modules: dict[str, dict[str, Any]] = {}
    for name in [*tensors]:
        stem, _, part = name.rpartition(".")
        if f"{stem}.qweight" in tensors or f"{stem}.weight_packed" in tensors or f"{stem}.weight_scale" in tensors:
            modules.setdefault(stem, {})[part] = tensors[name]
    for stem, parts in modules.items():
        for part in parts:
            del tensors[f"{stem}.{part}"]
        tensors[f"{stem}.weight"] = DECODE[q["quant_method"]](parts, q).float().contiguous()
    assert len(modules) == len(packed.modules(config.get("num_experts", 0)))
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def check(quantised: Path, path: Path, experts: bool = False) -> None:
    """experts: the default precision is compared for tokens whose experts are those of the high one; one near a tie
    may go another way."""
    import torch

    from tests.reference import hf

    theirs = hf.logits(hf.load_folder(decoded(quantised, path / "decoded"), torch.float32), IDS)
    with Model.load(quantised, precision="high", kv="f32") as model:
        assert distance(model.logits(IDS), theirs) < 1e-4
        chosen = model.trace(IDS, "routes").routes > 0 if experts else None
    with Model.load(quantised) as model:
        rounded = model.logits(IDS)
        if chosen is not None:
            same = (chosen == (model.trace(IDS, "routes").routes > 0)).all(axis=(0, 2))
            assert same.sum() >= len(same) - 1
            rounded, theirs = rounded[same], theirs[same]
    assert np.linalg.norm(rounded - theirs) < 0.05 * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_logits(name: str, tmp_path: Path) -> None:
    make, quantization, _ = FORMS[name]
    check(both(tmp_path, make, quantization)[0], tmp_path)


@pytest.mark.parametrize("name", [name for name in MIXED if name != "fp8"])
def test_experts(name: str, tmp_path: Path) -> None:
    make, quantization = MIXED[name]
    check(both(tmp_path, make, quantization, packed.EXPERTS)[0], tmp_path, experts=True)

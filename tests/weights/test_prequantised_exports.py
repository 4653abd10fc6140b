"""Quantised folders as newer exporters write them, each against the same model with its matrices in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError
from tests.weights import packed
from tests.weights.packed import Array
from tests.weights.test_prequantised import (
    AWQ,
    FP8,
    GPTQ,
    IDS,
    PACKED,
    ROUND,
    Make,
    awq,
    both,
    ct,
    distance,
    fp8,
    gptq,
    int8,
)

# What auto-round adds to the configuration of any format that it exports to.
AUTO_ROUND = {
    "provider": "auto-round", "autoround_version": "0.16.1", "iters": 200, "act_bits": 8, "act_data_type": "int",
    "act_dynamic": True, "act_sym": True, "act_group_size": -1,
}  # fmt: skip
FORMS: dict[str, tuple[Make, Mapping[str, Any], str]] = {
    "auto-gptq": (gptq(), {**GPTQ, **AUTO_ROUND, "data_type": "int"}, "INT4 (GPTQ)"),
    "auto-awq": (awq(), {**AWQ, **AUTO_ROUND}, "INT4 (AWQ)"),
    "llm-compressor": (ct(), {**PACKED, **AUTO_ROUND}, "INT4 (compressed-tensors)"),
    "fp8": (fp8(), {**FP8, **AUTO_ROUND, "data_type": "fp", "act_data_type": "fp"}, "F32 (quantised from FP8)"),
    "gptqmodel": (
        gptq(sym=False, v2=True), {**ROUND, "sym": False, "packing_format": "auto_round:gptqmodel"}, "INT4 (AutoRound)"
    ),
}  # fmt: skip


def check(path: Path, make: Make, quantization: Mapping[str, Any], named: str, experts: int = 0) -> None:
    quantised, plain = both(path, make, quantization, experts)
    with Model.load(plain, precision="high", kv="f32") as model:
        want = model.logits(IDS)
    options: dict[str, Any] = {"quantize": "f32"} if "FP8" in named else {}
    with Model.load(quantised, precision="high", kv="f32", **options) as model:
        assert distance(model.logits(IDS), want) < 1e-4
        assert model.info().quantisation == named


@pytest.mark.parametrize("name", FORMS)
def test_logits(tmp_path: Path, name: str) -> None:
    check(tmp_path, *FORMS[name])


def one(e: str, name: str) -> bool:
    return f".experts.{e}." in name


def some_bits(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
    return gptq(bits=8 if one("0", name) else 4)(rng, name, rows, k)


def some_floats(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
    parts, values = gptq()(rng, name, rows, k)
    return ({"weight": values.astype(np.float16)}, values.astype(np.float16)) if one("2", name) else (parts, values)


def some_scales(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
    c = packed.draw(rng, rows, k, scale="BF16")
    if one("1", name) and "gate" in name:
        c.scale[0, 0] = packed.widen(packed.bf16(np.array([1.1e-6])))[0]
    return packed.as_packed(c, 4, True), c.floats()


def some_orders(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
    """One expert's columns stand in their places, which no index says."""
    return gptq(act="" if one("3", name) else "each")(rng, name, rows, k)


def some_bytes(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
    parts, values = int8(size=128)(rng, name, rows, k)
    return ct()(rng, name, rows, k) if one("1", name) else (parts, values)


def some_fp8(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
    parts, values = fp8()(rng, name, rows, k)
    stored = packed.bf16(values)
    return ({"weight": stored}, packed.widen(stored)) if one("0", name) else (parts, values)


MIXED: dict[str, tuple[Make, Mapping[str, Any], str, str]] = {
    "bits": (some_bits, {**GPTQ, "dynamic": {r"+:.*experts\.0\..*": {"bits": 8}}}, "INT4, F32 (GPTQ)", "(INT4, Q8_0)"),
    "floats": (some_floats, GPTQ, "INT4, F32 (GPTQ)", "(F16, INT4)"),
    "scales": (
        some_scales, PACKED, "INT4, F32 (compressed-tensors)", "(F32, INT4), some with scales that are no F16 numbers"
    ),
    "order": (some_orders, {**GPTQ, "desc_act": True}, "INT4, F32 (GPTQ)", "(F32, INT4)"),
    "bytes": (
        some_bytes, {**PACKED, "format": "mixed-precision"}, "Q8_0, F32 (compressed-tensors)", "(INT4, Q8_0)"
    ),
    "fp8": (some_fp8, FP8, "F32 (quantised from FP8)", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_experts_in_different_formats(tmp_path: Path, name: str) -> None:
    make, quantization, named, why = MIXED[name]
    check(tmp_path, make, quantization, named, packed.EXPERTS)
    with Model.load(tmp_path / "quantised", threads=1) as model:
        found = model.info().quantisation_why
        types = {m.type for m in model.core.engine.plan.matrices if "_exps" in m.name}
    if why:
        assert f": experts in different formats {why}" in found
    else:  # as all that is FP8
        assert found == "" and types == {"Q8_0"}


def test_experts_of_other_shapes_are_refused(tmp_path: Path) -> None:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        return some_floats(rng, name, rows + 1 if one("2", name) else rows, k)

    with pytest.raises(ModelFileError, match=r"experts\.2.*shape \(385, 256\).*expected INT4 of shape \(384, 256\)"):
        Model.load(both(tmp_path, make, GPTQ, packed.EXPERTS)[0])

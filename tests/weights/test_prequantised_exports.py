"""Quantised folders as newer exporters write them, each against the same model with its matrices in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
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

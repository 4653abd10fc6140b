"""Biases beside quantised matrices whose model has none, as AutoGPTQ writes them: zeros load, others are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import UnsupportedModelError
from tests.weights import packed
from tests.weights.packed import Array
from tests.weights.test_prequantised import AWQ, FP8, GPTQ, IDS, PACKED, ROUND, Make, awq, both, ct, distance, fp8, gptq


def with_biases(make: Make, value: float, where: str = "layers.1.mlp.down", form: str = "float16") -> Make:
    """With a bias beside each matrix: of these values where the name has `where`, else of zeros."""

    def biased(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        found, values = make(rng, name, rows, k)
        return {**found, "bias": np.full(rows, value if where in name else 0.0, form)}, values

    return biased


@pytest.mark.parametrize("experts", [0, 4])
def test_biases_of_zeros(tmp_path: Path, experts: int) -> None:
    """AutoGPTQ writes one for each matrix."""
    forms = [(gptq(), GPTQ), (gptq(), ROUND), (awq(), AWQ), (ct(), PACKED), (fp8(), FP8)]
    for i, (make, q) in enumerate(forms):
        found: list[Array] = []
        for value in (None, -0.0, 0.0):
            path = tmp_path / f"{i} {value}"
            path.mkdir()
            one = make if value is None else with_biases(make, value)
            with Model.load(both(path, one, q, experts)[0], threads=1) as model:
                found.append(model.logits(IDS))
        assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_biases_that_a_model_has(tmp_path: Path) -> None:
    """Qwen2 adds those of queries, keys and values; the other ones are zeros."""
    rng, quantised, plain = np.random.default_rng(7), {}, {}
    for name, (rows, k) in packed.modules().items():
        quantised[name], values = with_biases(gptq(), 0.5, "v_proj")(rng, name, rows, k)
        plain[name] = {"weight": values, **({"bias": quantised[name]["bias"]} if name[-6] in "qkv" else {})}
    floats = {name: x for name, x in packed.others().items() if not re.search("[qk]_norm", name)}
    qwen: dict[str, Any] = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "floats": floats}
    a, b = packed.write(tmp_path / "a", quantised, GPTQ, **qwen), packed.write(tmp_path / "b", plain, None, **qwen)
    with Model.load(a, precision="high", kv="f32") as found, Model.load(b) as want:
        assert distance(found.logits(IDS), want.logits(IDS)) < 1e-4


@pytest.mark.parametrize("name", ["value", "nan", "integers", "awq", "ct", "norm"])
def test_other_biases_are_refused(tmp_path: Path, name: str) -> None:
    """value, nan, awq, ct: in one matrix; norm: beside no matrix."""
    make = {
        "value": with_biases(gptq(), 1e-3), "nan": with_biases(gptq(), np.nan), "awq": with_biases(awq(), 1),
        "ct": with_biases(ct(), -1), "integers": with_biases(gptq(), 0, form="int32"), "norm": gptq(),
    }[name]  # fmt: skip
    rng, floats = np.random.default_rng(7), packed.others()
    if name == "norm":
        floats["model.norm.bias"] = np.zeros(packed.DIM, np.float32)
    matrices = {module: make(rng, module, rows, k)[0] for module, (rows, k) in packed.modules().items()}
    path = packed.write(tmp_path / "folder", matrices, {"awq": AWQ, "ct": PACKED}.get(name, GPTQ), floats=floats)
    wanted = {"value": r"1\.mlp\.down_proj\.bias, which has other values than 0 and", "norm": r"norm\.bias, which"}
    wanted |= dict.fromkeys(("nan", "awq", "ct"), wanted["value"])
    with pytest.raises(UnsupportedModelError, match=rf"{wanted.get(name, r'proj.bias, which')} no operation reads"):
        Model.load(path)

"""Quantised folders as newer exporters write them, each against the same model with its matrices in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError, UnsupportedModelError
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
    groups,
    int8,
)


def unordered(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
    """With an index of groups that was never set."""
    parts, values = ct()(rng, name, rows, k)
    return {**parts, "weight_g_idx": np.full(k, -1, np.int32)}, values


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

OLDER: dict[str, tuple[Make, Mapping[str, Any], str]] = {
    "blocks-as-text": (
        fp8((128, 128), "weight_scale"), groups("float", 8, None, block_structure="128x128"), "F32 (quantised from FP8)"
    ),
    "index-of-none": (unordered, PACKED, "INT4 (compressed-tensors)"),
    "index-of-none-in-order": (unordered, groups(actorder="group"), "INT4 (compressed-tensors)"),
}  # fmt: skip


def check(path: Path, make: Make, quantization: Mapping[str, Any], named: str, experts: int = 0) -> None:
    quantised, plain = both(path, make, quantization, experts)
    with Model.load(plain, precision="high", kv="f32") as model:
        want = model.logits(IDS)
    options: dict[str, Any] = {"quantize": "f32"} if "FP8" in named else {}
    with Model.load(quantised, precision="high", kv="f32", **options) as model:
        assert distance(model.logits(IDS), want) < 1e-4
        assert model.info().quantisation == named


@pytest.mark.parametrize("name", [*FORMS, *OLDER])
def test_logits(tmp_path: Path, name: str) -> None:
    check(tmp_path, *{**FORMS, **OLDER}[name])


@pytest.mark.parametrize("value", ["128", "0x128", "128x128x128", "-1x2", [128], ["128", "128"], 128, "9" * 9 + "x1"])
def test_blocks_that_are_none(tmp_path: Path, value: Any) -> None:
    q = groups("float", 8, None, block_structure=value)
    with pytest.raises(ModelFileError, match=r"weights\.block_structure"):
        Model.load(both(tmp_path, fp8((128, 128), "weight_scale"), q)[0])


@pytest.mark.parametrize("order", ["group", "dynamic", True])
def test_order_without_an_index(tmp_path: Path, order: Any) -> None:
    with pytest.raises(ModelFileError, match=r"weight_g_idx: no such tensor.*since actorder is group"):
        Model.load(both(tmp_path, ct(), groups(actorder=order))[0])


def test_order_of_weights_needs_no_index(tmp_path: Path) -> None:
    check(tmp_path, ct(), groups(actorder="weight"), "INT4 (compressed-tensors)")


@pytest.mark.parametrize("form", ["gptq", "awq"])
def test_other_bits_are_named(tmp_path: Path, form: str) -> None:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        if form == "gptq":
            return gptq(bits=2 if "down" in name else 4)(rng, name, rows, k)
        parts, values = awq()(rng, name, rows, k)
        wide = {part: np.repeat(x, 2, 1) if "q" in part and "down" in name else x for part, x in parts.items()}
        return wide, values

    q = {**(GPTQ if form == "gptq" else AWQ), "dynamic": {"+:.*down.*": {"bits": 2}}}
    wanted = r"quantization_config\.dynamic: [28] bits of model\.layers\.0\.mlp\.down_proj"
    with pytest.raises(UnsupportedModelError, match=wanted):
        Model.load(both(tmp_path, make, q)[0])


CACHE = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": "tensor"}
ATTENTION = {"targets": ["LlamaAttention"], "weights": None, "input_activations": CACHE}


@pytest.mark.parametrize(
    "config",
    [{"config_groups": {}, "kv_cache_scheme": CACHE}, {"config_groups": {"a": ATTENTION}, "kv_cache_scheme": CACHE}],
)
def test_only_the_cache_is_quantised(tmp_path: Path, config: dict[str, Any]) -> None:
    """Weights are in float; scales of keys and values are left out, as the cache has formats of its own."""
    rng = np.random.default_rng(7)
    matrices = {name: {"weight": (rng.standard_normal(s) / 16).astype("f4")} for name, s in packed.modules().items()}
    scales = {f"model.layers.0.self_attn.{part}_scale": np.ones(1, np.float32) for part in "kv"}
    q = {"quant_method": "compressed-tensors", "format": "dense", **config}
    a = packed.write(tmp_path / "a", matrices, q, floats={**packed.others(), **scales})
    b = packed.write(tmp_path / "b", matrices, None)
    with Model.load(a, threads=1) as found, Model.load(b, threads=1) as want:
        np.testing.assert_array_equal(found.logits(IDS), want.logits(IDS))
        assert found.info().quantisation == want.info().quantisation == "F32"


def test_no_groups_and_no_cache(tmp_path: Path) -> None:
    q = {"quant_method": "compressed-tensors", "config_groups": {}}
    with pytest.raises(ModelFileError, match=r"config_groups.*it is empty"):
        Model.load(both(tmp_path, ct(), q)[0])


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
        some_scales, PACKED, "INT4, F32 (compressed-tensors)", "(F32, INT4), some with scales that are not F16 numbers"
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


def fused(make: Make, scales: Callable[[Array], Array] = np.asarray, gates: int = 1) -> Make:
    """Experts of one projection in one tensor. scales: what is stored of them; gates: scales of gate and up."""

    def stack(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        parts, values = zip(*(make(rng, name, rows // gates, k) for _ in range(gates * packed.EXPERTS)), strict=True)
        codes = np.stack([part["weight"] for part in parts]).reshape(packed.EXPERTS, rows, k)
        grid = np.stack([part["weight_scale_inv"] for part in parts])
        grid = grid.reshape(packed.EXPERTS, -1, grid.shape[-1])
        kind = name.rpartition(".")[2]
        found = {kind: codes.view(packed.FP8), f"{kind}_scale_inv": scales(grid)}
        return found, np.stack(values).reshape(packed.EXPERTS, rows, k)

    return stack


def stacks(path: Path, make: Make, up: Make, quantization: Mapping[str, Any]) -> tuple[Path, Path]:
    """(Qwen3 MoE in FP8 with stacks, the same in float32). up: makes gate and up."""
    rng = np.random.default_rng(7)
    quantised: dict[str, dict[str, Array]] = {}
    plain: dict[str, dict[str, Array]] = {}
    for name, (rows, k) in packed.modules().items():
        if "mlp" not in name:
            quantised[name], values = fp8("all")(rng, name, rows, k)
            plain[name] = {"weight": values}
        elif "up_proj" not in name:
            stem, _, kind = name.rpartition(".")
            both_, one = kind == "gate_proj", f"{stem}.experts.{kind.replace('gate', 'gate_up')}"
            parts, values = (up if both_ else make)(rng, one, rows * (1 + both_), k)
            static = {f"{part}_activation_scale": np.ones(packed.EXPERTS, np.float32) for part in parts}
            static = {part: value for part, value in static.items() if "_inv" not in part}
            quantised.setdefault(f"{stem}.experts", {}).update({**parts, **static})
            plain.setdefault(f"{stem}.experts", {})[one.rpartition(".")[2]] = values
    q = packed.write(path / "quantised", quantised, dict(quantization), packed.EXPERTS)
    return q, packed.write(path / "plain", plain, None, packed.EXPERTS)


ONE = {**FP8, "weight_block_size": None, "activation_scheme": "static"}
STACKS: dict[str, tuple[Make, Make, Mapping[str, Any]]] = {
    "blocks": (fused(fp8()), fused(fp8()), FP8),
    "ragged": (fused(fp8((96, 160))), fused(fp8((96, 160))), {**FP8, "weight_block_size": [96, 160]}),
    "one": (fused(fp8("all")), fused(fp8("all")), ONE),
    "vector": (fused(fp8("all"), np.ravel), fused(fp8("all"), np.ravel), ONE),
    "gate-and-up": (fused(fp8("all")), fused(fp8("all"), gates=2), ONE),
    "rows": (fused(fp8("rows")), fused(fp8("rows")), ONE),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_in_fp8(tmp_path: Path, name: str) -> None:
    quantised, plain = stacks(tmp_path, *STACKS[name])
    with Model.load(plain, precision="high", kv="f32") as model:
        want = model.logits(IDS)
    with Model.load(quantised, precision="high", kv="f32", quantize="f32") as model:
        assert distance(model.logits(IDS), want) < 1e-4
    with Model.load(quantised, threads=2) as model, Model.load(plain, quantize="q8_0") as other:
        assert model.info().quantisation == "Q8_0 (quantised from FP8)"
        types = {m.type for m in model.core.engine.plan.matrices if "_exps" in m.name}
        assert types == {"Q8_0"} and distance(model.logits(IDS), other.logits(IDS)) < 0.05


@pytest.mark.parametrize(
    ("scales", "wanted"),
    [
        (lambda x: x[:-1].copy(), r"gate_up_proj_scale_inv.*shape \(3, 6, 2\); expected scales for each of 4 experts"),
        (lambda x: x[:, :-1].copy(), r"gate_up_proj_scale_inv.*shape \(4, 5, 2\); expected shape \(4, 6, 2\)"),
        (lambda x: x * np.float32(np.inf), r"gate_up_proj_scale_inv.*not finite"),
    ],
)
def test_scales_of_stacks_that_do_not_fit(tmp_path: Path, scales: Callable[[Array], Array], wanted: str) -> None:
    with pytest.raises(ModelFileError, match=wanted):
        Model.load(stacks(tmp_path, fused(fp8()), fused(fp8(), scales), FP8)[0])


def test_stack_without_scales(tmp_path: Path) -> None:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        parts, values = fused(fp8())(rng, name, rows, k)
        return {name: x for name, x in parts.items() if "scale" not in name}, values

    with pytest.raises(ModelFileError, match=r"experts\.down_proj_scale_inv: no such tensor"):
        Model.load(stacks(tmp_path, make, fused(fp8()), FP8)[0])


@pytest.mark.parametrize("experts", [0, packed.EXPERTS])
def test_blocks_that_no_key_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experts: int) -> None:
    """Without weight_block_size they are 128 x 128: of 448 rows, the last block has 64."""
    monkeypatch.setattr(packed, "FF", 448)
    q = {key: value for key, value in FP8.items() if key != "weight_block_size"}
    check(tmp_path, fp8(), q, "F32 (quantised from FP8)", experts)


def test_blocks_of_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the shape of the scales says which they are: of 448 rows, four of 112."""
    monkeypatch.setattr(packed, "FF", 448)

    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        return fp8((rows // 4, k // 4))(rng, name, rows, k)

    check(tmp_path, make, {**FP8, "weight_block_size": None}, "F32 (quantised from FP8)")

"""Folders whose weights are quantised: each against the same model with its matrices in float32."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine, arch
from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.weights import open_model
from tests.weights import packed
from tests.weights.packed import Array

IDS = [3, 60, 14, 15, 9, 2, 6, 53, 77, 1, 0, 95, 31]
Make = Callable[[np.random.Generator, str, int, int], tuple[dict[str, Array], Array]]


def order_of(k: int, size: int, seed: int) -> Array:
    """The group of each column after act-order: groups of as many columns, which are no neighbours."""
    return np.random.default_rng(seed).permutation(np.arange(k) // size)


def gptq(bits: int = 4, size: int = 128, sym: bool = True, v2: bool = False, act: str = "", index: bool = True) -> Make:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        # act-order: modules that read the same rows have one order; "each": none has
        kind = name.rpartition(".")[2]
        seed = {"q": 1, "k": 1, "v": 1, "g": 2, "u": 2}.get(kind[0], 3) if act == "shared" else len(name) + ord(kind[0])
        group = order_of(k, size, seed) if act else None
        c = packed.draw(rng, rows, k, bits=bits, size=size, sym=sym, act=group)
        return packed.as_gptq(c, bits, v2=v2, index=index), c.floats()

    return make


def awq(size: int = 128, sym: bool = False) -> Make:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        c = packed.draw(rng, rows, k, size=size, sym=sym)
        return packed.as_awq(c), c.floats()

    return make


def ct(bits: int = 4, size: int = 128, sym: bool = True, scale: str = "BF16", act: bool = False) -> Make:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        group = order_of(k, size, 1) if act else None
        c = packed.draw(rng, rows, k, bits=bits, size=size, sym=sym, scale=scale, act=group)
        return packed.as_packed(c, bits, sym, scale=scale, index=act), c.floats()

    return make


def int8(scale: str = "BF16", sym: bool = True, one: bool = False, bits: int = 8, size: int = -1) -> Make:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        c = packed.draw(rng, rows, k, bits=bits, size=size, sym=sym, scale=scale)
        if one:  # for the whole matrix
            c.scale[:] = c.scale[0]
        values = c.scale[:1, :1] if one else c.scale
        half = 1 << (bits - 1)
        found = {"weight": (c.codes - half).astype(np.int8)}
        found["weight_scale"] = packed.bf16(values) if scale == "BF16" else values.astype(np.float32)
        if not sym:
            found["weight_zero_point"] = (c.zero - half).astype(np.int8)
        return found, c.floats()

    return make


def fp8(block: tuple[int, int] | str = (128, 128), key: str = "weight_scale_inv", scale: str = "F32") -> Make:
    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        codes = rng.integers(0, 127, (rows, k), np.uint8) | rng.integers(0, 2, (rows, k), np.uint8) << 7
        of = {"rows": (1, k), "all": (rows, k)}[block] if isinstance(block, str) else block
        grid = rng.uniform(0.5, 1.5, (-(-rows // of[0]), -(-k // of[1]))) / 100 / np.sqrt(k)
        grid = grid.astype(np.float32)
        if scale == "BF16":
            grid = packed.widen(packed.bf16(grid))
        full = np.repeat(np.repeat(grid, of[0], 0)[:rows], of[1], 1)[:, :k]
        stored = packed.bf16(grid) if scale == "BF16" else grid
        stored = stored.reshape(1) if block == "all" else stored
        return {"weight": codes.view(packed.FP8), key: stored}, packed.e4m3()[codes] * full

    return make


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}


def groups(kind: str = "int", bits: int = 4, size: int | None = 128, sym: bool = True, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "symmetric": sym, "group_size": size, "strategy": "group", **more}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


PACKED = {**groups(), "format": "pack-quantized"}
FORMS: dict[str, tuple[Make, Mapping[str, Any], str]] = {
    "gptq": (gptq(), GPTQ, "INT4 (GPTQ)"),
    "gptq-no-index": (gptq(index=False), GPTQ, "INT4 (GPTQ)"),
    "gptq-asym": (gptq(sym=False), {**GPTQ, "sym": False}, "INT4 (GPTQ)"),
    "gptq-v2": (gptq(sym=False, v2=True), {**GPTQ, "sym": False, "checkpoint_format": "gptq_v2"}, "INT4 (GPTQ)"),
    "gptq-32": (gptq(size=32), {**GPTQ, "group_size": 32}, "INT4 (GPTQ)"),
    "gptq-64": (gptq(size=64, sym=False), {**GPTQ, "group_size": 64}, "INT4 (GPTQ)"),
    "gptq-all": (gptq(size=-1), {**GPTQ, "group_size": -1}, "INT4 (GPTQ)"),
    "gptq-16": (gptq(size=16), {**GPTQ, "group_size": 16}, "F32 (GPTQ)"),
    "gptq-8": (gptq(bits=8), {**GPTQ, "bits": 8}, "Q8_0 (GPTQ)"),
    "gptq-8-asym": (gptq(bits=8, sym=False), {**GPTQ, "bits": 8, "sym": False}, "F32 (GPTQ)"),
    "gptq-act": (gptq(act="shared"), {**GPTQ, "desc_act": True}, "INT4 (GPTQ)"),
    "gptq-act-32": (gptq(size=32, act="shared"), {**GPTQ, "group_size": 32, "desc_act": True}, "INT4 (GPTQ)"),
    "gptq-act-8": (gptq(bits=8, act="shared"), {**GPTQ, "bits": 8, "desc_act": True}, "Q8_0 (GPTQ)"),
    "gptq-act-each": (gptq(act="each"), {**GPTQ, "desc_act": True}, "INT4, F32 (GPTQ)"),
    "awq": (awq(), AWQ, "INT4 (AWQ)"),
    "awq-64": (awq(64), {**AWQ, "group_size": 64, "modules_to_not_convert": ["lm_head"]}, "INT4 (AWQ)"),
    "awq-all": (awq(-1), {**AWQ, "group_size": -1}, "INT4 (AWQ)"),
    "auto-round": (gptq(), {**ROUND, "packing_format": "auto_round:auto_gptq"}, "INT4 (AutoRound)"),
    "auto-round-v2": (gptq(v2=True, index=False), {**ROUND, "packing_format": "auto_round"}, "INT4 (AutoRound)"),
    "auto-round-awq": (awq(), {**ROUND, "sym": False, "packing_format": "auto_round:auto_awq"}, "INT4 (AutoRound)"),
    "ct": (ct(), PACKED, "INT4 (compressed-tensors)"),
    "ct-asym": (ct(sym=False), {**PACKED, **groups(sym=False)}, "INT4 (compressed-tensors)"),
    "ct-channel": (ct(size=-1, scale="F16"), groups(size=None, strategy="channel"), "INT4 (compressed-tensors)"),
    "ct-f32-scales": (ct(scale="F32"), PACKED, "F32 (compressed-tensors)"),
    "ct-8": (ct(bits=8, size=64), groups(bits=8, size=64), "Q8_0 (compressed-tensors)"),
    "ct-act": (ct(act=True), groups(actorder="group"), "INT4 (compressed-tensors)"),
    "int8": (int8(), groups(bits=8, size=None), "Q8_0 (compressed-tensors)"),
    "int8-f32-scales": (int8("F32"), groups(bits=8, size=None), "F32 (compressed-tensors)"),
    "int8-asym": (int8(sym=False), groups(bits=8, size=None, sym=False), "F32 (compressed-tensors)"),
    "int4": (int8(bits=4, size=128), {**groups(), "format": "int-quantized"}, "INT4 (compressed-tensors)"),
    "int4-asym": (int8(bits=4, size=64, sym=False), groups(size=64, sym=False), "INT4 (compressed-tensors)"),
    "int4-rows": (int8(bits=4, sym=False), groups(size=None, sym=False), "INT4 (compressed-tensors)"),
    "int4-f32-scales": (int8("F32", bits=4), groups(size=None), "F32 (compressed-tensors)"),
    "int8-one": (int8(one=True), groups(bits=8, size=None), "Q8_0 (compressed-tensors)"),
}  # fmt: skip
IN_FP8: dict[str, tuple[Make, Mapping[str, Any]]] = {
    "fp8": (fp8(), FP8),
    "fp8-ragged": (fp8((96, 160)), {**FP8, "weight_block_size": [96, 160], "ignored_layers": ["lm_head"]}),
    "fp8-one": (fp8("all"), {**FP8, "weight_block_size": None, "activation_scheme": "static"}),
    "fp8-rows": (fp8("rows", "weight_scale"), {"quant_method": "fbgemm_fp8", "modules_to_not_convert": []}),
    "ct-fp8": (fp8("rows", "weight_scale", "BF16"), groups("float", 8, None)),
    "ct-fp8-blocks": (fp8((128, 128), "weight_scale"), groups("float", 8, None, block_structure=[128, 128])),
}


def both(path: Path, make: Make, quantization: Mapping[str, Any], experts: int = 0, **more: Any) -> tuple[Path, Path]:
    """(the quantised folder, the same in float32)"""
    rng = np.random.default_rng(6)  # with others a logit in some thousand, of so small a model, lies farther than 1e-4
    quantised, plain = {}, {}
    for name, (rows, k) in packed.modules(experts).items():
        quantised[name], values = make(rng, name, rows, k)
        plain[name] = {"weight": values.astype(np.float32)}
    extra = {"model.layers.0.self_attn.k_scale": np.ones(1, np.float32)} if "fp8" in str(quantization) else {}
    return (
        packed.write(path / "quantised", quantised, dict(quantization), experts, {**packed.others(experts), **extra}),
        packed.write(path / "plain", plain, None, experts),
    )


def distance(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def check(quantised: Path, plain: Path, named: str, **options: Any) -> None:
    with Model.load(plain) as model:
        want = model.logits(IDS)
    with Model.load(quantised, precision="high", kv="f32", **options) as model:
        assert distance(model.logits(IDS), want) < 1e-4
        assert model.info().quantisation == named
        assert model.info().parameters == sum(a * b for a, b in packed.modules().values()) + sum(
            v.size for v in packed.others().values()
        )


@pytest.mark.parametrize("name", FORMS)
def test_logits(tmp_path: Path, name: str) -> None:
    make, quantization, named = FORMS[name]
    quantised, plain = both(tmp_path, make, quantization)
    check(quantised, plain, named)


@pytest.mark.parametrize("block", [(2, 128), (1, 48), (1, 1), (2, 1)])
def test_every_code_of_fp8(block: tuple[int, int]) -> None:
    """e4m3: 4 bits of exponent with a bias of 7, 3 of fraction, no infinities; scaled in float32."""
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    values = np.where(exponent > 0, np.ldexp(8.0 + fraction, exponent - 10), np.ldexp(fraction, -9))
    values[code % 128 == 127] = np.nan
    values = (values * np.where(code < 128, 1, -1)).astype(np.float32).reshape(2, 128)
    scale = np.random.default_rng(2).uniform(0.5, 2, (-(-4 // block[0]), -(-128 // block[1]))).astype(np.float32)
    out = np.empty((2, 128), np.float32)
    _engine.make_fp8(code.astype(np.uint8).reshape(2, 128), scale, block, 2, out)
    rows, columns = np.arange(2, 4) // block[0], np.arange(128) // block[1]
    np.testing.assert_array_equal(out, values * scale[rows[:, None], columns])
    assert np.signbit(out[1, 0]) and not np.signbit(out[0, 0])


@pytest.mark.parametrize("name", IN_FP8)
def test_fp8(tmp_path: Path, name: str) -> None:
    """In F32 the weights are exact; the default is Q8_0, and has the bits of the plain folder quantised alike."""
    make, quantization = IN_FP8[name]
    quantised, plain = both(tmp_path, make, quantization)
    check(quantised, plain, "F32 (quantised from FP8)", quantize="f32")
    with Model.load(quantised) as model:
        assert model.info().quantisation == "Q8_0 (quantised from FP8)"
        types = {m.name.rpartition("attn_")[2]: m.type for m in model.core.engine.plan.matrices}
        assert types["q.weight"] == "Q8_0" and types["token_embd.weight"] == "F32"
    with Model.load(quantised, quantize="q4_0", threads=2) as a, Model.load(plain, quantize="q4_0", threads=1) as b:
        np.testing.assert_array_equal(a.logits(IDS), b.logits(IDS))
    with Model.load(quantised, quantize="bf16") as a, Model.load(plain, quantize="bf16") as b:
        np.testing.assert_array_equal(a.logits(IDS), b.logits(IDS))


MIXED = {
    "gptq": (gptq(sym=False), GPTQ),
    "gptq-act": (gptq(act="each"), {**GPTQ, "desc_act": True}),
    "awq": (awq(), AWQ),
    "ct": (ct(), PACKED),
    "fp8": (fp8(), FP8),
}


@pytest.mark.parametrize("name", ["gptq", "gptq-act", "awq", "ct"])
def test_quantize_names_what_it_changes(tmp_path: Path, name: str) -> None:
    """The matrices of integers stay as they are."""
    make, quantization = MIXED[name]
    quantised, _ = both(tmp_path, make, quantization)
    with Model.load(quantised) as model:
        plain = model.info()
    with Model.load(quantised, quantize="f16") as model:
        info = model.info()
    assert info.quantisation == f"F16 (quantised from F32), INT4 {plain.quantisation[plain.quantisation.index('(') :]}"
    assert info.formats["INT4"] == plain.formats["INT4"] and "F16" not in plain.formats


@pytest.mark.parametrize("name", MIXED)
def test_experts(tmp_path: Path, name: str) -> None:
    make, quantization = MIXED[name]
    quantised, plain = both(tmp_path, make, quantization, packed.EXPERTS)
    options: dict[str, Any] = {"quantize": "f32"} if name == "fp8" else {}
    with Model.load(plain) as a, Model.load(quantised, precision="high", kv="f32", **options) as b:
        assert distance(b.logits(IDS), a.logits(IDS)) < 1e-4


WHY = {  # form -> why
    "gptq": "",
    "gptq-16": "groups that are not multiples of 32 columns",
    "gptq-8-asym": "8-bit weights with zero points",
    "ct-f32-scales": "scales that are not F16 numbers",
    "gptq-act-each": "columns in an order of their own (act-order)",
}


@pytest.mark.parametrize("name", WHY)
def test_info_says_why_matrices_are_in_f32(tmp_path: Path, name: str) -> None:
    with Model.load(changed(tmp_path, name), threads=1) as model:
        found = model.info().quantisation_why
        wide = {m.name for m in model.core.engine.plan.matrices if m.type == "F32" and m.name.startswith("blk.")}
        size = sum(m.data.size for m in model.core.engine.plan.matrices if m.name in wide)
    why = WHY[name]
    if not why:
        assert not wide and found == ""
        return
    assert wide and "model.layers.0." in found and found.endswith(f"in F32, {size:,} bytes: {why}")
    with Model.load(tmp_path / "changed", threads=1, quantize="q8_0") as model:
        assert model.info().quantisation_why == ""


# ---- what is refused ------------------------------------------------------------------------------------------------


def changed(path: Path, name: str, config: Callable[[dict[str, Any]], Any] | None = None,
            tensors: Callable[[dict[str, Array]], Any] | None = None) -> Path:  # fmt: skip
    """A folder of FORMS or IN_FP8 with a change in its quantization_config or its tensors."""
    make, quantization = (FORMS.get(name) or IN_FP8[name])[:2]
    rng = np.random.default_rng(7)
    found = {module: make(rng, module, rows, k)[0] for module, (rows, k) in packed.modules().items()}
    q = json.loads(json.dumps(quantization))
    if config is not None:
        config(q)
    if tensors is not None:
        tensors(found["model.layers.1.mlp.down_proj"])
    return packed.write(path / "changed", found, q)


METHODS = ("bitsandbytes", "torchao", "hqq", "quanto", "exl2", "exl3", "aqlm", "spqr", "gemma", "vptq", "higgs", "eetq",
           "bitnet", "quark", "modelopt", "mxfp4", "nvfp4", "?")  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_refused_by_name(tmp_path: Path, method: str) -> None:
    path = changed(tmp_path, "gptq", lambda q: q.update(quant_method=method))
    with pytest.raises(UnsupportedModelError, match=r"quant_method '" + re.escape(method)) as error:
        Model.load(path)
    assert "GGUF file" in str(error.value) and "quantize=" in str(error.value)


KEYS: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "bits": ("gptq", lambda q: q.update(bits=3), r"quantization_config\.bits = 3"),
    "bits-other": ("gptq", lambda q: q.update(bits=8), r"qzeros.*shape"),
    "bits-text": ("gptq", lambda q: q.update(bits="4"), r"quantization_config\.bits"),
    "bits-none": ("gptq", lambda q: q.pop("bits"), r"quantization_config\.bits"),
    "group-0": ("gptq", lambda q: q.update(group_size=0), r"quantization_config\.group_size"),
    "group-other": ("gptq-no-index", lambda q: q.update(group_size=64), r"scales.*groups"),
    "group-huge": ("awq", lambda q: q.update(group_size=1 << 60), r"quantization_config\.group_size"),
    "format": ("gptq", lambda q: q.update(checkpoint_format="marlin"), r"quantization_config\.checkpoint_format"),
    "marlin": ("gptq", lambda q: q.update(is_marlin_format=True), r"quantization_config\.is_marlin_format"),
    "act": ("gptq-no-index", lambda q: q.update(desc_act=True), r"g_idx.*desc_act is true"),
    "rotation": ("gptq", lambda q: q.update(rotation="hadamard"), r"quantization_config\.rotation"),
    "adapter": ("gptq", lambda q: q.update(adapter={"rank": 8}), r"quantization_config\.adapter"),
    "gemv": ("awq", lambda q: q.update(version="gemv"), r"quantization_config\.version"),
    "ignore": ("ct", lambda q: q.update(ignore="lm_head"), r"quantization_config\.ignore"),
    "not-convert": ("awq", lambda q: q.update(modules_to_not_convert=[1]), r"modules_to_not_convert"),
    "packing": ("auto-round", lambda q: q.update(packing_format="auto_round:llm"), r"quantization_config\.packing"),
    "no-groups": ("ct", lambda q: q.pop("config_groups"), r"quantization_config\.config_groups"),
    "list-groups": ("ct", lambda q: q.update(config_groups=[1]), r"quantization_config\.config_groups"),
    "three": ("ct", lambda q: q["config_groups"]["group_0"]["weights"].update(num_bits=3), r"int of 3 bits"),
    "nvfp4": ("ct", lambda q: q.update(format="nvfp4-pack-quantized"), r"quantization_config\.format"),
    "sparse": ("ct", lambda q: q.update(sparsity_config={"format": "sparse-24-bitmask"}), r"sparsity_config"),
    "transform": ("ct", lambda q: q.update(transform_config={"config_groups": {"u": {}}}), r"transform_config"),
    "fmt": ("fp8", lambda q: q.update(fmt="e5m2"), r"quantization_config\.fmt"),
    "block": ("fp8", lambda q: q.update(weight_block_size=[0, 128]), r"weight_block_size"),
    "block-other": ("fp8", lambda q: q.update(weight_block_size=[64, 64]), r"weight_scale_inv.*shape"),
    "fp4": ("fp8", lambda q: q.update(expert_dtype="fp4"), r"expert_dtype"),
    "method": ("gptq", lambda q: q.update(quant_method=4), r"quantization_config\.quant_method"),
    "other-method": ("gptq", lambda q: q.update(FP8), r"no tensor is quantised"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_keys_that_alter_results(tmp_path: Path, case: str) -> None:
    name, change, wanted = KEYS[case]
    if case == "other-method":
        path = changed(tmp_path, name, lambda q: [q.pop(key) for key in [*q]] and q.update(FP8))
    else:
        path = changed(tmp_path, name, change)
    with pytest.raises((UnsupportedModelError, ModelFileError), match=wanted):
        Model.load(path)


def cut(name: str) -> Callable[[dict[str, Array]], Any]:
    return lambda t: t.update({name: t[name][:-1].copy()})


def value(name: str, number: Any, at: int = 0) -> Callable[[dict[str, Array]], Any]:
    return lambda t: t[name].reshape(-1).__setitem__(at, number)


TENSORS: dict[str, tuple[str, Callable[[dict[str, Array]], Any], str]] = {
    "no-zeros": ("gptq", lambda t: t.pop("qzeros"), r"no such tensor.*|down_proj\.qzeros"),
    "no-scales": ("awq", lambda t: t.pop("scales"), r"down_proj\.scales"),
    "no-shape": ("ct", lambda t: t.pop("weight_shape"), r"down_proj\.weight_shape"),
    "no-scale": ("int8", lambda t: t.pop("weight_scale"), r"down_proj\.weight_scale"),
    "no-scale-fp8": ("fp8", lambda t: t.pop("weight_scale_inv"), r"down_proj\.weight_scale"),
    "index": ("gptq-act", value("g_idx", 3), r"down_proj\.g_idx.*group 3"),
    "index-negative": ("gptq", value("g_idx", -1), r"down_proj\.g_idx.*group -1"),
    "index-short": ("gptq-act", cut("g_idx"), r"down_proj\.g_idx.*shape"),
    "scales-short": ("gptq", cut("scales"), r"shape"),
    "codes-short": ("gptq", cut("qweight"), r"shape"),
    "awq-short": ("awq", cut("qweight"), r"groups|shape"),
    "zeros-short": ("ct-asym", cut("weight_zero_point"), r"weight_zero_point.*shape"),
    "no-zero-point": ("ct-asym", lambda t: t.pop("weight_zero_point"), r"down_proj\.weight_zero_point.*symmetric"),
    "scale-short": ("int8", cut("weight_scale"), r"weight_scale.*shape"),
    "packed-short": ("ct", cut("weight_packed"), r"weight_shape"),
    "shape-negative": ("ct", value("weight_shape", -1, 1), r"weight_shape"),
    "shape-huge": ("ct", value("weight_shape", 1 << 40, 1), r"weight_shape"),
    "nan": ("gptq", value("scales", np.nan), r"down_proj.*not finite"),
    "inf": ("awq", value("scales", np.inf), r"down_proj.*not finite"),
    "nan-fp8": ("fp8", value("weight_scale_inv", np.nan), r"weight_scale_inv.*not finite"),
    "nan-code": ("fp8", value("weight", 127), r"down_proj.*not finite"),
    "wrong-type": ("gptq", lambda t: t.update(qweight=t["qweight"].astype(np.int64)), r"qweight.*I64"),
    "extra": ("gptq", lambda t: t.update(qextra=t["qweight"]), r"qextra"),
    "twice": ("gptq", lambda t: t.update(weight=np.zeros((2, 2), np.float32)), r"second tensor"),
    "twice-int8": ("gptq", lambda t: t.update(weight=np.zeros((2, 2), np.int8)), r"second tensor"),
    "zero-fp8": ("fp8", lambda t: t.update(weight_zero_point=np.ones(1, np.int8)), r"weight_zero_point"),
    "scales-fp8": ("fp8", lambda t: t.update(weight_scale=np.ones(1, np.float32)), r"weight_scale\b"),
    "index-awq": ("awq", lambda t: t.update(g_idx=np.zeros(64, np.int32)), r"g_idx"),
    "flat": ("gptq", lambda t: t.update(qweight=t["qweight"].reshape(-1)), r"qweight.*shape"),
    "empty": ("awq", lambda t: t.update(qweight=t["qweight"][:0]), r"qweight.*shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit(tmp_path: Path, case: str) -> None:
    name, change, wanted = TENSORS[case]
    with pytest.raises((UnsupportedModelError, ModelFileError), match=wanted):
        Model.load(changed(tmp_path, name, tensors=change))


def test_zero_points_of_fp8_that_are_zero(tmp_path: Path) -> None:
    """As some exports have them: they change nothing."""
    zero = {"weight_zero_point": np.zeros(1, np.int8)}
    found = []
    for name, change in (("without", lambda t: None), ("with", lambda t: t.update(zero))):
        (tmp_path / name).mkdir()
        with Model.load(changed(tmp_path / name, "fp8", tensors=change)) as model:
            found.append(model.logits([1, 2, 3]))
    np.testing.assert_array_equal(found[0], found[1])


def test_mixed_layers_and_tied_embeddings(tmp_path: Path) -> None:
    """A module that is left in float, one in 8 bits by `dynamic`, and a head that is the embedding."""
    rng = np.random.default_rng(7)
    quantised, plain = {}, {}
    for i, (name, (rows, k)) in enumerate(packed.modules().items()):
        if i % 3 == 0:
            values = rng.standard_normal((rows, k)).astype(np.float32) / 16
            quantised[name] = {"weight": values}
        else:
            quantised[name], values = gptq(bits=4 * (i % 3))(rng, name, rows, k)
        plain[name] = {"weight": values}
    floats = packed.others()
    del floats["lm_head.weight"]
    q = {**GPTQ, "dynamic": {r"+:.*down.*": {"bits": 8}}, "modules_to_not_convert": ["self_attn.q_proj"]}
    a = packed.write(tmp_path / "a", quantised, q, floats=floats, tie_word_embeddings=True)
    b = packed.write(tmp_path / "b", plain, None, floats=floats, tie_word_embeddings=True)
    with Model.load(a, precision="high", kv="f32") as found, Model.load(b) as want:
        assert distance(found.logits(IDS), want.logits(IDS)) < 1e-4
        assert found.info().quantisation == "INT4, Q8_0 (GPTQ)"


def test_zero_points_are_words(tmp_path: Path) -> None:
    """gptqmodel stores words of zero points less 0x11111111: a zero point of 0 borrows from the one above it."""

    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        c = packed.draw(rng, rows, k, sym=False)
        c.zero[:, 0] = np.arange(rows) % 5 % 4
        found = packed.as_gptq(c, 4)
        stored = packed.words(c.zero.T, 4).view(np.uint32) - np.uint32(0x11111111)
        return {**found, "qzeros": stored.view(np.int32)}, c.floats()

    quantised, plain = both(tmp_path, make, GPTQ)
    check(quantised, plain, "INT4 (GPTQ)")


@pytest.mark.parametrize("name", ["gptq-act", "awq"])
def test_bits_do_not_depend_on_threads_or_chunks(tmp_path: Path, name: str) -> None:
    path = changed(tmp_path, name)
    with Model.load(path, threads=1) as a, Model.load(path, threads=3) as b:
        np.testing.assert_array_equal(a.logits(IDS), b.logits(IDS, chunk=3))
        kinds = {op.kind.name for op in a.core.engine.plan.ops}
        assert ("REORDER" in kinds) == (name == "gptq-act")


@pytest.mark.parametrize("name", ["gptq-act", "awq", "fp8"])
def test_converted_files(tmp_path: Path, name: str) -> None:
    """A GGUF file of such a folder has its weights as numbers in its own formats, columns in their places."""
    path = changed(tmp_path, name)
    make, rng = (FORMS.get(name) or IN_FP8[name])[0], np.random.default_rng(7)
    with open_model(path, arch.folder, ordered=False) as file:
        for module, (rows, k) in packed.modules().items():
            values = make(rng, module, rows, k)[1]
            own = next(t for t in file.tensors.values() if t.name == f"{module}.weight")
            raw = own.data.view(np.uint8).reshape(rows, -1)
            if own.type == "INT4":
                scale, zero = raw.reshape(rows, -1, 19)[..., :2], raw.reshape(rows, -1, 19)[..., 2:3]
                codes = raw.reshape(rows, -1, 19)[..., 3:]
                both_ = np.concatenate([codes & 15, codes >> 4], -1).astype(np.float32) - zero
                found = (scale.copy().view(np.float16).astype(np.float32) * both_).reshape(rows, k)
            else:
                found = raw.view(np.float32)
            np.testing.assert_array_equal(found, values)

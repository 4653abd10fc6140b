"""Families whose matrices are split, reordered or transposed when a folder is loaded, or read by operations of their
own: quantised folders of each against the same weights in float32."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.weights.base import Tensor
from pellucid.weights.derived import changed
from tests.families.case import load_golden, weights
from tests.families.cases import BY_NAME
from tests.weights import packed
from tests.weights.packed import Array
from tests.weights.test_prequantised import AWQ, GPTQ, Make, awq, ct, distance, gptq, groups, int8, order_of

SIZE = 32
IDS = [3, 60, 14, 15, 9, 2, 6, 53, 77, 1, 0, 95, 31]
_KEPT = re.compile(r"embed|lm_head|norm|conv|wte|wpe|(^|\.)(gate|router|shared_expert_gate)\.weight$")
# Modules that read the same rows, which GPTQ gives the same order.
_ALIKE = (r"(attn|attention)\.(q|k|v|in_proj_\w+)(_proj)?$", r"shared_experts?\.(gate|up)_proj$", r"\.(gate|up)_proj$")


def act(form: str) -> Make:
    """With columns in another order, the same for modules that read the same rows."""

    def make(rng: np.random.Generator, name: str, rows: int, k: int) -> tuple[dict[str, Array], Array]:
        seed = next((i for i, pattern in enumerate(_ALIKE) if re.search(pattern, name)), len(name) + 10)
        c = packed.draw(rng, rows, k, size=SIZE, scale="F16", act=order_of(k, SIZE, seed))
        found = packed.as_gptq(c, 4) if form == "gptq" else packed.as_packed(c, 4, True, scale="F16", index=True)
        return found, c.floats()

    return make


FORMS: dict[str, tuple[Make, dict[str, Any]]] = {
    "gptq": (gptq(size=SIZE, sym=False), {**GPTQ, "group_size": SIZE, "sym": False}),
    "gptq-act": (act("gptq"), {**GPTQ, "group_size": SIZE, "desc_act": True}),
    "awq": (awq(SIZE), {**AWQ, "group_size": SIZE}),
    "ct": (ct(size=SIZE, scale="F16"), {**groups(size=SIZE), "format": "pack-quantized"}),
    "ct-act": (act("ct"), groups(size=SIZE, actorder="group")),
    "int8": (int8(), groups(bits=8, size=None)),
}


def unfused(case: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """A family's tensors with a matrix for each expert, as quantised folders have them. gpt-oss's are transposed, the
    rows of gate and up by turns."""
    turned = case.startswith("gpt_oss")
    made: dict[str, Array] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(.*experts)\.(gate_up|down)_proj(_bias)?", name)
        if match is None:
            made[name] = value
            continue
        for e, one in enumerate(value):
            one = one.T if turned and one.ndim == 2 else one
            half = len(one) // 2
            parts = {"down": one} if match[2] == "down" else {"gate": one[:half], "up": one[half:]}
            if turned and match[2] != "down":
                parts = {"gate": one[::2], "up": one[1::2]}
            for part, rows in parts.items():
                made[f"{match[1]}.{e}.{part}_proj.{'bias' if match[3] else 'weight'}"] = np.ascontiguousarray(rows)
    return made


def folders(path: Path, case: str, form: str, apart: bool = False) -> tuple[Path, Path]:
    """(a quantised folder, the same in float32). GPT-2's matrices are stored as (k, rows), but not by GPTQ and AWQ.
    apart: experts have a matrix each."""
    make, quantization = FORMS[form]
    golden, rng = load_golden(BY_NAME[case]), np.random.default_rng(7)
    quantised: dict[str, Array] = {}
    plain: dict[str, Array] = {}
    tensors = weights(BY_NAME[case], golden)
    for name, value in (unfused(case, tensors) if apart else tensors).items():
        turned = case.startswith("gpt2")
        rows, k = (value.T if turned else value).shape if value.ndim == 2 else (1, 1)
        if rows % 8 or k % SIZE or not name.endswith(".weight") or _KEPT.search(name):
            quantised[name] = plain[name] = value
            continue
        module = name.removesuffix(".weight")
        parts, floats = make(rng, module, rows, k)
        quantised |= {f"{module}.{part}": one for part, one in parts.items()}
        plain[name] = np.ascontiguousarray(floats.T if turned else floats).astype(np.float32)
    assert len(plain) != len(quantised) or form == "int8"
    for name, found, more in (("q", quantised, {"quantization_config": quantization}), ("plain", plain, {})):
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(golden.config | more))
        packed.save(found, path / name / "model.safetensors")
    return path / "q", path / "plain"


READ = ["qwen35", "qwen35moe", "qwen3next", "qwen2moe", "kimi_linear", "deepseek_v2", "gemma4_experts", "mamba2"]
CHANGED = ["deepseek_v3", "gptneox", "gpt2"]
CASES = [(case, form) for case in READ for form in ("gptq-act", "ct-act")]
CASES += [(case, form) for case in CHANGED for form in FORMS if case != "gpt2" or form in ("gptq", "gptq-act", "awq")]


@pytest.mark.parametrize(("case", "form"), CASES)
def test_logits(tmp_path: Path, case: str, form: str) -> None:
    quantised, plain = folders(tmp_path, case, form)
    with Model.load(plain, threads=2, precision="high", kv="f32") as model:
        want = model.logits(IDS)
    with Model.load(quantised, threads=2, precision="high", kv="f32") as model:
        assert distance(model.logits(IDS), want) < 1e-3
        info = model.info()
        types = {m.name: m.type for m in model.core.engine.plan.matrices}
    small = "Q8_0" if form == "int8" else "INT4"
    assert info.quantisation.startswith(small)
    why = "a matrix that is split or transposed when it is loaded"
    if case == "deepseek_v3":  # a key's part is transposed, a value's has its rows
        assert re.search(rf"kv_b_proj\.weight(, \.\.\.\) are| is) in F32, [\d,]+ bytes: {why}", info.quantisation_why)
        assert types["blk.0.attn_k_b.weight"] == "F32"
        assert types["blk.0.attn_v_b.weight"] == ("F32" if "act" in form else small)
    elif case == "gptneox" and "act" in form:
        assert why in info.quantisation_why
    elif case in CHANGED:
        assert info.quantisation_why == "" and types["blk.0.attn_q.weight"] == small
    if case in READ:  # of these, none is among the matrices in F32
        kept = r"blk\.\d+\.(attn_(q|qkv|gate|q_b)|ffn_(gate|up|down)(_shexp)?|ssm_(in|out))\.weight"
        wide = [name for name, kind in types.items() if kind == "F32" and re.fullmatch(kept, name)]
        assert not wide
    with Model.load(quantised, threads=2, quantize="q8_0") as model:
        assert model.info().quantisation_why == ""


APART = ["gemma4_experts", "gpt_oss", "granitemoe_swa", "mistral4", "qwen3vlmoe"]


@pytest.mark.parametrize("form", ["gptq", "awq", "ct"])
@pytest.mark.parametrize("case", APART)
def test_experts_apart(tmp_path: Path, case: str, form: str) -> None:
    """transformers has a tensor for all experts; what quantises it, a module for each."""
    quantised, plain = folders(tmp_path, case, form, apart=True)
    with Model.load(plain, threads=2, precision="high", kv="f32") as model:
        want = model.logits(IDS)
    with Model.load(quantised, threads=2, precision="high", kv="f32") as model:
        assert distance(model.logits(IDS), want) < 1e-3
        types = {m.type for m in model.core.engine.plan.matrices if "_exps" in m.name}
    assert "INT4" in types


@pytest.mark.parametrize("case", [*APART, "gpt_oss_few", "gpt_oss_odd"])
def test_experts_apart_are_the_same(tmp_path: Path, case: str) -> None:
    golden, found = load_golden(BY_NAME[case]), []
    tensors = weights(BY_NAME[case], golden)
    for name, some in (("whole", tensors), ("apart", unfused(case, tensors))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(golden.config))
        packed.save(some, tmp_path / name / "model.safetensors")
        with Model.load(tmp_path / name, threads=1, precision="high", kv="f32") as model:
            found.append(model.logits([i % 20 for i in IDS]))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("part", ["down", "up"])
def test_experts_both_whole_and_apart_are_refused(tmp_path: Path, part: str) -> None:
    golden = load_golden(BY_NAME["mistral4"])
    tensors = weights(BY_NAME["mistral4"], golden)
    tensors |= {n: x for n, x in unfused("mistral4", tensors).items() if re.search(rf"experts\.\d+\.{part}_proj", n)}
    (tmp_path / "config.json").write_text(json.dumps(golden.config))
    packed.save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=rf"experts\.0\.{part}_proj\.weight \(byte \d+\): a second tensor"):
        Model.load(tmp_path)


def test_bias_of_an_expert_that_is_missing(tmp_path: Path) -> None:
    golden = load_golden(BY_NAME["gpt_oss"])
    tensors = unfused("gpt_oss", weights(BY_NAME["gpt_oss"], golden))
    tensors = {name: x for name, x in tensors.items() if not re.search(r"experts\.\d+\.up_proj\.bias", name)}
    (tmp_path / "config.json").write_text(json.dumps(golden.config))
    packed.save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"experts\.0\.up_proj\.bias: no such tensor"):
        Model.load(tmp_path)


@pytest.mark.parametrize("form", ["ct", "int8"])
def test_transposed_matrices_that_do_not_say_so(tmp_path: Path, form: str) -> None:
    quantised, _ = folders(tmp_path, "gpt2", form)
    with pytest.raises(UnsupportedModelError, match=r"quantization_config\.quant_method.*h\.0\.attn\.c_attn.*GPTQ"):
        Model.load(quantised)


def test_rows_of_a_quantised_matrix_move() -> None:
    raw = np.arange(6 * 34, dtype=np.uint8)
    t = Tensor("m", "Q8_0", (6, 32), raw, 0, "")
    found = changed(t, lambda x: x.reshape(2, 3, -1).swapaxes(0, 1).reshape(x.shape))
    want = raw.reshape(6, 34)[[0, 3, 1, 4, 2, 5]]
    assert found.shape == (6, 32) and found.type == "Q8_0"
    np.testing.assert_array_equal(found.data.view(np.uint8), want.reshape(-1))
    np.testing.assert_array_equal(found.data[34:102].view(np.uint8), want[1:3].reshape(-1))
    split = changed(t, lambda x: x.reshape(2, 3, -1)[:, 1:])
    assert split.shape == (2, 2, 32)
    np.testing.assert_array_equal(split.data.view(np.uint8), raw.reshape(6, 34)[[1, 2, 4, 5]].reshape(-1))
    for change in (lambda x: x.T, lambda x: x[:, ::-1], lambda x: x.reshape(2, 3, -1).swapaxes(1, 2)):
        with pytest.raises(UnsupportedModelError, match="Q8_0"):
            changed(t, change)
    with pytest.raises(UnsupportedModelError, match="Q8_0"):
        changed(t._replace(shape=(1, 6, 32)), lambda x: x)

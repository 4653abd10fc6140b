"""Every key of a model's configuration and every tensor is read, or refused with an error that names it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pellucid import Model
from pellucid.errors import ContextFullError, ModelFileError, PellucidError, UnsupportedModelError
from tests.engine import models
from tests.reference import tiny
from tests.weights.config_keys import READ, SIZES, changes

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
# A model of three layers for each model_type, windows and all.
SMALL = {
    "llama": tiny.Tiny("llama", seed=51, tied=False),
    "mistral": tiny.Tiny("mistral", seed=52, model_type="mistral", local=(True,) * 3, window=4, tied=False),
    "qwen3": tiny.Tiny("qwen3", seed=53, arch="qwen3", local=(False, True, True), window=4, tied=False),
    "gemma3_text": tiny.Tiny("gemma3", seed=54, arch="gemma3", layers=3, local=(True, False, True), window=4),
}
kinds = pytest.mark.parametrize("kind", SMALL)
Logits = np.ndarray[Any, Any]


def logits(path: Path) -> Logits:
    with Model.load(path, threads=1, isa="scalar") as model:
        return model.logits(IDS)


def attempt(path: Path) -> Logits | str:
    """Logits, or the error's text."""
    try:
        return logits(path)
    except PellucidError as error:
        assert type(error) in (ModelFileError, UnsupportedModelError, ContextFullError), repr(error)
        return str(error)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Logits]]:
    """(model_type, "folder" or "gguf") -> (a valid model, its logits)."""
    made: dict[tuple[str, str], tuple[Path, Logits]] = {}

    def get(kind: str, form: str) -> tuple[Path, Logits]:
        if (kind, form) not in made:
            path = tmp_path_factory.mktemp("sound") / form
            (tiny.write_folder if form == "folder" else tiny.write_gguf)(SMALL[kind], path)
            made[kind, form] = (path, logits(path))
        return made[kind, form]

    return get


# ---- keys of folders --------------------------------------------------------------------------------------


@kinds
def test_keys_of_folders(kind: str, sound: Any, tmp_path: Path) -> None:
    """Each key that transformers knows, with values of every type: unchanged, read, or refused by name."""
    source, expected = sound(kind, "folder")
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    accepted = refused = 0
    for key, value in changes(kind):
        (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
        found = attempt(tmp_path)
        if isinstance(found, str):
            refused += 1
            assert key in found or key in SIZES, f"{key} = {value}: {found}"
        else:
            accepted += 1
            assert np.array_equal(found, expected) or key in READ, f"{key} = {value}: other logits"
    assert accepted > 100 and refused > 100


@kinds
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sliding_window", 2),
        ("rms_norm_eps", 0.5),
        ("rope_theta", 50.0),
        ("rope_scaling", {"rope_type": "linear", "factor": 8.0}),
        ("hidden_act", "gelu_new"),
        ("final_logit_softcapping", 1.0),
        ("layer_types", ["sliding_attention", "full_attention", "full_attention"]),
    ],
)
def test_a_key_that_is_read_has_its_effect(kind: str, key: str, value: Any, sound: Any, tmp_path: Path) -> None:
    source, expected = sound(kind, "folder")
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    if kind == "gemma3_text" and key == "hidden_act":
        key, value = "hidden_activation", "silu"
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    found = attempt(tmp_path)
    assert key in found if isinstance(found, str) else np.abs(found - expected).max() > 1e-3


def test_what_is_left_out_is_as_transformers_has_it(tmp_path: Path) -> None:
    """Mistral's window as an example: 4096 where the key is left out, no window where it is null."""
    folder = tiny.write_folder(SMALL["mistral"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for changed, window in ((config | {"sliding_window": None}, 0), ({**config}, 4096)):
        if window:
            del changed["sliding_window"]
        (folder / "config.json").write_text(json.dumps(changed))
        with Model.load(folder) as model:
            details = {op.detail for op in model.plan() if op.kind == "attend"}
        assert len(details) == 1 and ("window 4096" in details.pop()) == bool(window)


# ---- keys of GGUF files -----------------------------------------------------------------------------------


def gguf_keys() -> Iterator[str]:
    """Every key that the gguf package has for architectures, without the architecture's name."""
    for group in vars(gguf.Keys).values():
        for key in vars(group).values() if isinstance(group, type) else ():
            if isinstance(key, str) and key.startswith("{arch}."):
                yield key.removeprefix("{arch}.").format(dense="dense_2")


# Keys that are read, each with a value that must change the logits; and those whose value does not matter.
GGUF_READ: dict[str, Any] = {
    "attention.layer_norm_rms_epsilon": 0.5,
    "attention.sliding_window": 2,
    "rope.freq_base": 50.0,
    "rope.scaling.factor": 8.0,
}
GEMMA_READ = {"attention.scale": 3.0, "final_logit_softcapping": 1.0, "rope.freq_base_swa": 50.0}
GGUF_READ_TOO = {
    "attention.sliding_window_pattern", "rope.dimension_count", "rope.scaling.attn_factor", "rope.scaling.type",
}  # fmt: skip
GGUF_SIZES = {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length", "block_count",
    "context_length", "embedding_length", "feed_forward_length",
}  # fmt: skip
GGUF_VALUES = [True, False, 0, 7, 0.5, "yarn", [True, False, True]]


def with_keys(model: tiny.Tiny, path: Path, keys: dict[str, Any]) -> Path:
    """The model's GGUF file with other values of some keys."""
    add = gguf.GGUFWriter.add_key_value

    def extra(writer: gguf.GGUFWriter) -> None:
        for name, value in keys.items():
            key = f"{model.arch}.{name}"
            writer.kv_data[0].pop(key, None)
            kind = gguf.GGUFValueType.get_type(value)
            if isinstance(value, bool):
                kind = gguf.GGUFValueType.BOOL
            elif isinstance(value, int):
                kind = gguf.GGUFValueType.UINT32
            add(writer, key, value, kind)

    return tiny.write_gguf(model, path, extra=extra)


@kinds
def test_keys_of_gguf_files(kind: str, sound: Any, tmp_path: Path) -> None:
    """Each key of the gguf package, with values of every type: unchanged, read, or refused by name."""
    model = SMALL[kind]
    _, expected = sound(kind, "gguf")
    read = {**GGUF_READ, **(GEMMA_READ if model.gemma else {})}
    names = sorted({*gguf_keys(), "rope.scale_linear", "hidden_activation", "an_unknown_key"})
    assert len(names) > 90
    silent = set()
    for name in names:
        for value in GGUF_VALUES:
            found = attempt(with_keys(model, tmp_path / "m.gguf", {name: value}))
            if isinstance(found, str):
                group = next((part for part in ("sliding_window", "rope.scaling", "expert") if part in name), name)
                assert f"{model.arch}." in found and group in found or name in GGUF_SIZES, f"{name} = {value}: {found}"
            elif name not in read and name not in GGUF_READ_TOO | {"rope.scale_linear", "hidden_activation"}:
                assert np.array_equal(found, expected), f"{name} = {value}"
                silent.add(name)
    # Those that load with some value, unread: each is neutral with that value, or in arch's list.
    assert silent <= {
        "attention.layer_norm_epsilon", "rope.scaling.finetuned", "rope.scaling.original_context_length", "vocab_size",
        "tensor_data_layout", "attention.causal", "attention.clamp_kqv", "attention.max_alibi_bias",
        "attention.shared_kv_layers", "attn_logit_softcapping", "expert_count", "expert_used_count",
        "leading_dense_block_count", "nextn_predict_layers", "pooling_type", "rope.scaling.attn_factor",
        "use_parallel_residual", *GGUF_SIZES,
    }  # fmt: skip
    for name, value in read.items():
        found = logits(with_keys(model, tmp_path / "m.gguf", {name: value}))
        assert np.abs(found - expected).max() > 1e-3, name


def test_one_value_for_all_layers(sound: Any, tmp_path: Path) -> None:
    """A key may be a list with an entry for each layer; if they differ, it is refused by name."""
    _, expected = sound("llama", "gguf")
    for name, value in (("attention.head_count_kv", 2), ("attention.head_count", 4), ("feed_forward_length", 96)):
        path = with_keys(SMALL["llama"], tmp_path / "m.gguf", {name: [value] * 3})
        assert np.array_equal(logits(path), expected)
        for other in ([value, value, value * 2], [value] * 2):
            found = attempt(with_keys(SMALL["llama"], tmp_path / "m.gguf", {name: other}))
            assert isinstance(found, str) and f"llama.{name}" in found


def test_windows_by_layer(tmp_path: Path) -> None:
    """A pattern of booleans gives the same model as the equivalent period."""
    model = SMALL["gemma3_text"]
    periods = [logits(with_keys(model, tmp_path / "m.gguf", {"attention.sliding_window_pattern": 2}))]
    pattern = {"attention.sliding_window_pattern": [True, False, True]}
    assert np.array_equal(logits(with_keys(model, tmp_path / "m.gguf", pattern)), periods[0])
    pattern = {"attention.sliding_window_pattern": [False, True, True]}
    assert not np.array_equal(logits(with_keys(model, tmp_path / "m.gguf", pattern)), periods[0])


def test_pairs_that_do_not_turn(tmp_path: Path) -> None:
    """rope_freqs of 1e30 for the last half of the pairs are a rotation of the first half alone."""
    model = replace(SMALL["llama"], rope_base=1e4)
    half = 1e4 ** -(np.arange(4) * 2 / 16)
    factors = np.array([*np.ones(4), *[1e30] * 4], np.float32)

    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", factors)

    found = logits(tiny.write_gguf(model, tmp_path / "still.gguf", extra=extra))
    # The same rotation: 8 of 16 columns turn, by the frequencies that a base of 1e4 ** (8 / 16) gives them.
    base = float(1e4**0.5)
    assert np.allclose(half, base ** -(np.arange(4) * 2 / 8))
    partial = with_keys(replace(model, rope_base=base), tmp_path / "partial.gguf", {"rope.dimension_count": 8})
    assert np.abs(found - logits(partial)).max() < 1e-5 * np.abs(found).max()


# ---- tensors ----------------------------------------------------------------------------------------------


def harmless(form: str) -> list[str]:
    if form == "folder":
        return ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq", "mtp.layers.0.a.weight",
                "vision_tower.a.weight", "model.vision_tower.b.weight", "audio_tower.a.bias",
                "multi_modal_projector.linear.weight"]  # fmt: skip
    return ["blk.0.attn_rot_embd", "blk.2.nextn.eh_proj.weight", "mtp.a.weight", "v.blk.0.attn_q.weight", "mm.0.weight"]


def foreign(form: str, model: tiny.Tiny) -> list[str]:
    """Names of tensors that a model of this kind does not have."""
    if form == "folder":
        layer = ["self_attn.q_proj.weight_scale", "self_attn.q_proj.qweight", "self_attn.sinks", "mlp.gate.weight",
                 "self_attn.q_proj.lora_A.weight", "mlp.gate_up_proj.weight", "self_attn.qkv_proj.weight",
                 "input_layernorm.bias", "mlp.experts.0.up_proj.weight", "self_attn.masked.weight"]  # fmt: skip
        layer += [f"{part}.bias" for parts in tiny.BIASED.values() for part in parts]
        layer += [] if model.qk_norm else ["self_attn.q_norm.weight"]
        layer += [] if model.gemma else ["pre_feedforward_layernorm.weight"]
        names = [f"model.layers.0.{name}" for name in layer] + ["model.layers.3.self_attn.q_proj.weight"]
        names += ["model.layers.00.mlp.up_proj.weight", "model.embed_tokens.bias", "model.norm.bias", "lm_head.bias"]
        return [*names, "score.weight", "a", "output.weight", "token_embd.weight", "rope_freqs.weight",
                "blk.0.attn_q.bias"]  # fmt: skip
    layer = ["attn_q.scale", "ffn_down.scale", "attn_qkv.bias", "attn_sinks.weight", "ffn_gate_up_exps.weight",
             "ffn_gate_inp.weight", "ffn_up_exps.weight", "attn_norm.bias", "ffn_norm.bias", "attn_q.input_scale",
             "attn_q.lora_a", "layer_output_scale.weight", "ffn_act.scales"]  # fmt: skip
    layer += [] if model.qk_norm else ["attn_q_norm.weight"]
    layer += [] if model.gemma else ["post_attention_norm.weight", "post_ffw_norm.weight"]
    names = [f"blk.0.{name}" for name in layer] + ["blk.3.attn_q.weight", "blk.10.attn_norm.weight"]
    names += ["token_embd_norm.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_embd.scale"]
    return [*names, "output_norm.bias", "output.bias", "cls.weight", "a", "output.scale", "rope_factors_long.weight"]


def with_tensor(kind: str, form: str, path: Path, name: str, shape: tuple[int, ...]) -> Path:
    value = np.full(shape, 0.25, np.float32)
    if form == "gguf":
        return tiny.write_gguf(SMALL[kind], path, extra=lambda writer: writer.add_tensor(name, value))
    folder = tiny.write_folder(SMALL[kind], path)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: value}, folder / "model.safetensors")
    return folder


@kinds
@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_tensors(kind: str, form: str, sound: Any, tmp_path: Path) -> None:
    _, expected = sound(kind, form)
    for name in harmless(form):
        assert np.array_equal(logits(with_tensor(kind, form, tmp_path / "m", name, (4,))), expected), name
    for name in foreign(form, SMALL[kind]):
        for shape in ((4,), (64,), (64, 64)):
            found = attempt(with_tensor(kind, form, tmp_path / "m", name, shape))
            assert isinstance(found, str) and name in found, f"{name}: {found}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_tensor(sound: Any, tmp_path: Path, data: st.DataObject) -> None:
    """A name made of the parts of real ones is refused, unless the format has it or lets it be left out."""
    kind, form = data.draw(st.sampled_from(sorted(SMALL))), data.draw(st.sampled_from(["folder", "gguf"]))
    known = {*tiny.weights(SMALL[kind])}
    if form == "gguf":
        known = {tiny.gguf_name(SMALL[kind], name) for name in known}
    parts = sorted({part for name in known for part in name.split(".")}) + ["x", "bias", "scale", "4"]
    name = ".".join(data.draw(st.lists(st.sampled_from(parts), min_size=1, max_size=5)))
    if name in known:
        return
    found = attempt(with_tensor(kind, form, tmp_path / form, name, (4,)))
    assert isinstance(found, str) and name in found, f"{name}: {found}"


def test_biases_of_gguf_files_have_their_effect(sound: Any, tmp_path: Path) -> None:
    _, expected = sound("llama", "gguf")
    for name, width in {"attn_q": 64, "attn_k": 32, "attn_v": 32, "attn_output": 64, "ffn_gate": 96, "ffn_up": 96,
                        "ffn_down": 64}.items():  # fmt: skip
        found = logits(with_tensor("llama", "gguf", tmp_path / "m", f"blk.1.{name}.bias", (width,)))
        assert np.abs(found - expected).max() > 1e-3, name


@pytest.mark.parametrize("mix", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("name", ["wide", "wide_gemma", "qwen3_windows"])
def test_fused_queries_keys_and_values(name: str, mix: str, tmp_path: Path) -> None:
    """attn_qkv, which converters write on request, gives the same results as three matrices; with biases, too."""
    model = replace(models.BY_NAME[name], tied=False)
    if model.hidden % 32 == 0 and model.head_dim * model.heads % 32 == 0:
        apart = tiny.write_gguf(model, tmp_path / "apart.gguf", encode=models.encoder(mix))
        fused = tiny.write_gguf(model, tmp_path / "fused.gguf", encode=models.encoder(mix), fused=True)
        assert "blk.0.attn_qkv.weight" in fused.read_bytes().decode("latin-1")
        assert np.array_equal(logits(apart), logits(fused))


def test_fused_matrix_of_another_shape(tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.attn_qkv.weight", np.zeros((64, 64), np.float32))

    found = attempt(tiny.write_gguf(SMALL["llama"], tmp_path / "m.gguf", extra=extra))
    assert isinstance(found, str) and "blk.0.attn_qkv.weight" in found and "(128, 64)" in found


# ---- tied, and wrapped ------------------------------------------------------------------------------------


def test_a_head_where_embedding_and_head_are_one(tmp_path: Path) -> None:
    """A head equal to the embedding is ignored; another one is refused."""
    model = replace(SMALL["gemma3_text"], tied=True)
    folder = tiny.write_folder(model, tmp_path / "m")
    expected = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].copy()
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors")
    assert np.array_equal(logits(folder), expected)
    head[5, 7] += 1
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors")
    found = attempt(folder)
    assert isinstance(found, str) and "lm_head.weight" in found and "tie_word_embeddings" in found


WRAPPERS = {"gemma3_text": ("gemma3", "Gemma3ForConditionalGeneration"),
            "mistral": ("mistral3", "Mistral3ForConditionalGeneration")}  # fmt: skip


def wrap(kind: str, path: Path, prefix: str, **top: Any) -> Path:
    """A folder whose text model is one of SMALL, with an encoder of images."""
    folder = tiny.write_folder(SMALL[kind], path)
    text = json.loads((folder / "config.json").read_text())
    config = {"model_type": WRAPPERS[kind][0], "architectures": [WRAPPERS[kind][1]], "text_config": text,
              "vision_config": {"hidden_size": 8}, **top}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"vision_tower.a.weight": np.ones((2, 2), np.float32), "multi_modal_projector.b": np.ones(3, np.float32)}
    for name, value in load_file(folder / "model.safetensors").items():
        head = "language_model." if prefix.startswith("language_model") else ""
        tensors[head + name if name.startswith("lm_head") else prefix + name.removeprefix("model.")] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers(kind: str, prefix: str, sound: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only the text model is loaded, and a single warning says that it does not take images."""
    _, expected = sound(kind, "folder")
    folder = wrap(kind, tmp_path / "m", prefix)
    with caplog.at_level(logging.WARNING, "pellucid"):
        assert np.array_equal(logits(folder), expected)
    (message,) = [record.getMessage() for record in caplog.records if "images" in record.getMessage()]
    assert str(folder) in message


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_are_read_as_strictly(kind: str, tmp_path: Path) -> None:
    prefix = "language_model.model."
    for top in ({"an_unknown_key": 1}, {"quantization_config": {"quant_method": "awq"}}, {"is_causal": False},
                {"architectures": ["Other"]}, {"text_config": 3}, {"text_config": None}):  # fmt: skip
        found = attempt(wrap(kind, tmp_path / "m", prefix, **top))
        assert isinstance(found, str) and f"config.{next(iter(top))}" in found
    folder = wrap(kind, tmp_path / "m", prefix)
    config = json.loads((folder / "config.json").read_text())
    # Gemma 3's class for texts and images has no cap on logits.
    more = {"an_unknown_key": 1, "rope_scaling": {"rope_type": "spiral"}, "model_type": "gemma3"}
    for key, value in (more | {"final_logit_softcapping": 30.0}).items():
        changed = config | {"text_config": config["text_config"] | {key: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        found = attempt(folder)
        assert isinstance(found, str) and f"config.text_config.{key}" in found
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for name in ("language_model.model.layers.0.x.weight", "x.weight", "model.layers.9.mlp.up_proj.weight"):
        save_file({**tensors, name: np.ones(3, np.float32)}, folder / "model.safetensors")
        found = attempt(folder)
        assert isinstance(found, str) and name in found
    twice = next(name for name in tensors if name.endswith("0.mlp.up_proj.weight"))
    other = re.sub("^language_model.model.", "model.language_model.", twice)
    save_file({**tensors, other: tensors[twice]}, folder / "model.safetensors")
    found = attempt(folder)
    assert isinstance(found, str) and (twice in found or other in found)

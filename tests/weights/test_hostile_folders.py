"""Hostile Hugging Face folders, loaded and run: configuration, index, weights, vocabulary."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pellucid import errors
from pellucid.errors import (
    ContextFullError,
    ModelFileError,
    NumericsError,
    PellucidError,
    TokenizerError,
    UnsupportedModelError,
)
from pellucid.weights.writer import Value, write_gguf
from tests.reference import tiny
from tests.weights.using import bounded, refused, use

pytestmark = pytest.mark.usefixtures("warm")

BY_NAME = {model.name: model for model in tiny.TINY}
NAN, INF = float("nan"), float("inf")
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(BY_NAME["llama_gqa"], tmp_path / "model")


def configure(folder: Path, **changes: Any) -> None:
    """Sets values in config.json; ... removes a key."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


# Changes of the configuration; the field that the error names, and words of its message.
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"model_type": ...}, "config.model_type", "no such key"),
    ({"model_type": ["llama"]}, "config.model_type", "text"),
    ({"hidden_size": ...}, "config.hidden_size", "no such key"),
    ({"hidden_size": "64"}, "config.hidden_size", "an integer"),
    ({"hidden_size": 64.0}, "config.hidden_size", "an integer"),
    ({"hidden_size": -64}, "config.hidden_size", "1 to"),
    ({"hidden_size": 10**30}, "config.hidden_size", "1 to"),
    ({"hidden_size": True}, "config.hidden_size", "an integer"),
    ({"hidden_size": {"a": 1}}, "config.hidden_size", "an integer"),
    ({"num_hidden_layers": 0}, "config.num_hidden_layers", "1 to"),
    ({"num_hidden_layers": 10**9}, "config.num_hidden_layers", "1 to"),
    ({"num_hidden_layers": 4}, "model.layers.3.input_layernorm.weight", "no such tensor"),
    ({"num_attention_heads": 0}, "config.num_attention_heads", "1 to"),
    ({"num_key_value_heads": 3}, "config.num_key_value_heads", "a divisor"),
    ({"head_dim": 0}, "config.head_dim", "1 to"),
    ({"head_dim": 15}, "config.head_dim", "even"),
    ({"head_dim": 2**40}, "config.head_dim", "1 to"),
    ({"rms_norm_eps": NAN}, "config.rms_norm_eps", "finite"),
    ({"rms_norm_eps": INF}, "config.rms_norm_eps", "finite"),
    ({"rms_norm_eps": -1e-5}, "config.rms_norm_eps", "1e-30"),
    ({"rms_norm_eps": 10**400}, "config.rms_norm_eps", "finite"),
    ({"rms_norm_eps": "1e-5"}, "config.rms_norm_eps", "a number"),
    ({"max_position_embeddings": 0}, "config.max_position_embeddings", "1 to"),
    ({"max_position_embeddings": 2**31}, "config.max_position_embeddings", "1 to"),
    ({"rope_theta": 0}, "config.rope_theta", "1.0"),
    ({"rope_theta": -1e4}, "config.rope_theta", "1.0"),
    ({"rope_theta": "10000"}, "config.rope_theta", "a number"),
    ({"rope_theta": [10000]}, "config.rope_theta", "a number"),
    ({"tie_word_embeddings": "false"}, "config.tie_word_embeddings", "a boolean"),
    ({"rope_scaling": [1]}, "config.rope_scaling", "a table"),
    ({"rope_scaling": {"rope_type": 3}}, "config.rope_scaling.rope_type", "text"),
    ({"rope_scaling": {"rope_type": "linear"}}, "config.rope_scaling.factor", "no such key"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "config.rope_scaling.factor", "no such key"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "config.rope_scaling.factor", "1e-06"),
    ({"rope_scaling": {"rope_type": "linear", "factor": NAN}}, "config.rope_scaling.factor", "finite"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
     "config.rope_scaling", "one of the two"),
    ({"vocab_size": 98}, "config.vocab_size", "97"),
    ({"tie_word_embeddings": False}, "lm_head.weight", "no such tensor"),
    ({"attention_bias": True}, "model.layers.0.self_attn.k_proj.bias", "no such tensor"),
    ({"mlp_bias": True}, "model.layers.0.mlp.down_proj.bias", "no such tensor"),
    ({"attention_bias": 1}, "config.attention_bias", "a boolean"),
    ({"rope_parameters": {"rope_theta": 0.0}}, "config.rope_parameters.rope_theta", "1.0"),
    *(
        ({"rope_scaling": ROPE | {key: value}, "rope_theta": theta}, field, "")
        for key, value, theta, field in (
            ("factor", 0, 1e4, "config.rope_scaling.factor"),
            ("low_freq_factor", 8.0, 1e4, "config.rope_scaling.high_freq_factor"),
            ("high_freq_factor", 1e300, 1e4, "config.rope_scaling.high_freq_factor"),
            ("original_max_position_embeddings", 10**400, 1e4,
             "config.rope_scaling.original_max_position_embeddings"),
            ("factor", 8.0, "abc", "config.rope_theta"),
            ("factor", 8.0, 0, "config.rope_theta"),
            ("factor", 8.0, -5.5, "config.rope_theta"),
            ("factor", 8.0, 10**400, "config.rope_theta"),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(WRONG)))
def test_configurations(folder: Path, i: int) -> None:
    changes, field, words = WRONG[i]
    configure(folder, **changes)
    error = refused(folder)
    assert error.field == field and words in str(error), str(error)
    assert error.file in (str(folder), str(folder / "config.json"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": "../llama"}, "../llama"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "spiral"),
        ({"rope_scaling": {"sliding_attention": {"rope_type": "default"}}}, "config.rope_scaling.sliding_attention"),
    ],
)
def test_kinds_that_are_not_run(folder: Path, changes: dict[str, Any], words: str) -> None:
    configure(folder, **changes)
    assert words in str(refused(folder, UnsupportedModelError))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"layer_types": ["full_attention"] * 3}, "config.layer_types"),
        ({"layer_types": [3] * 7}, "config.layer_types[0]"),
        ({"layer_types": "full_attention"}, "config.layer_types"),
        ({"sliding_window": 0}, "config.sliding_window"),
        ({"query_pre_attn_scalar": 0}, "config.query_pre_attn_scalar"),
        *(({"final_logit_softcapping": cap}, "config.final_logit_softcapping") for cap in (-1.0, 0.0, 1e300)),
        ({"rope_local_base_freq": 0.0}, "config.rope_local_base_freq"),
        ({"sliding_window_pattern": 0, "layer_types": ...}, "config.sliding_window_pattern"),
    ],
)
def test_configurations_of_gemma(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    folder = tiny.write_folder(BY_NAME["gemma3"], tmp_path / "model")
    configure(folder, **changes)
    assert refused(folder).field == field


def test_tensors(folder: Path) -> None:
    """Wrong shapes and types, NaN and infinity, and two spellings of one name."""
    path = folder / "model.safetensors"
    sound = load_file(path)
    name = "model.layers.0.self_attn.q_proj.weight"

    def store(**changes: Any) -> None:
        tensors = {**sound, **changes}
        save_file({key: value for key, value in tensors.items() if value is not None}, path)

    wrong = [sound[name].T[:32].copy(), sound[name].reshape(-1), sound[name][None], np.zeros((0, 64), np.float32)]
    for value in (*wrong, np.array(1, np.float32)):
        store(**{name: value})
        error = refused(folder)
        assert (error.field, error.file) == (name, str(path)), str(error)
    store(**{name: None})
    assert refused(folder).field == name
    rows = "model.embed_tokens.weight"  # of a vocabulary without tokens
    configure(folder, vocab_size=...)
    for value in (sound[rows][:0], np.array(1, np.float32)):
        store(**{rows: value})
        assert refused(folder).field == rows
    configure(folder, vocab_size=97)
    for kind in (np.float64, np.int32, np.int8):
        store(**{name: sound[name].astype(kind)})
        assert name in str(refused(folder, UnsupportedModelError))
    for number in (NAN, INF):
        spoilt = sound[name].copy()
        spoilt[1, 2] = number
        store(**{name: spoilt})
        with bounded(), pytest.raises(NumericsError):
            use(folder)
    # Not another name of layer 0, nor a bias where the configuration has none.
    for other in ("00", "\u0660", "9" * 6000):
        store(**{name.replace(".0.", f".{other}."): np.zeros((3, 3), np.float32)})
        assert "q_proj.weight" in str(refused(folder, UnsupportedModelError)) or len(other) > 6
    store(**{"model.layers.0.self_attn.q_proj.bias": np.zeros(3, np.float32)})
    assert "model.layers.0.self_attn.q_proj.bias" in str(refused(folder, UnsupportedModelError))


def test_norms_of_gemma(tmp_path: Path) -> None:
    """Adding 1 to their weights keeps the shape, so that a wrong one is still refused."""
    folder = tiny.write_folder(BY_NAME["gemma3"], tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"].reshape(8, 8)}, path)
    assert refused(folder).field == "model.norm.weight"
    save_file({**tensors, "model.norm.weight": np.ones(64, np.int8)}, path)
    assert "I8" in str(refused(folder, UnsupportedModelError))


VOCABULARY: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": 4, "content": "<e>", "special": True, "single_word": False, "lstrip": False,
                      "rstrip": False, "normalized": False}],
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3}, "merges": [["a", "b"]]},
}  # fmt: skip
BAD_VOCABULARIES: dict[str, Any] = {
    "text": b"Once upon a time",
    "empty": b"",
    "no UTF-8": b'{"a": "\xff"}',
    "deep": b"[" * 100_000,
    "a list": [],
    "no model": {"model": 3},
    "unknown model": {**VOCABULARY, "model": {"type": "Magic"}},
    "merges of nothing": {**VOCABULARY, "model": {**VOCABULARY["model"], "merges": [["x", "y"]]}},
    "ids negative": {**VOCABULARY, "model": {**VOCABULARY["model"], "vocab": {"a": -1}}},
    "ids huge": {**VOCABULARY, "model": {**VOCABULARY["model"], "vocab": {"a": 2**32 - 1, "b": 1, "ab": 2}}},
    "ids twice": {**VOCABULARY, "model": {**VOCABULARY["model"], "vocab": {"a": 0, "b": 0, "ab": 0}}},
    "no pieces": {**VOCABULARY, "model": {**VOCABULARY["model"], "vocab": {}, "merges": []}},
    "added as text": {**VOCABULARY, "added_tokens": "x"},
    "added without content": {**VOCABULARY, "added_tokens": [{"id": 1}]},
    "added far away": {**VOCABULARY, "added_tokens": [{**VOCABULARY["added_tokens"][0], "id": 2**32 - 1}]},
    "unknown decoder": {**VOCABULARY, "decoder": {"type": "Magic"}},
    "bad expression": {**VOCABULARY, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(((("},
                                                       "behavior": "Isolated", "invert": False}},
    "too many pieces": {**VOCABULARY, "model": {**VOCABULARY["model"], "merges": [],
                                                "vocab": {f"x{i}": i for i in range(500)}}},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VOCABULARIES)
def test_vocabularies(folder: Path, name: str) -> None:
    content = BAD_VOCABULARIES[name]
    (folder / "tokenizer.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with bounded():
        try:
            use(folder)
        except TokenizerError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert name in ("ids twice", "added far away")  # odd, and put right by the package


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"chat_template": [{"name": ["default"], "template": 3}]}),
        ("tokenizer_config.json", {"bos_token": {"content": {"a": 1}}, "eos_token": 3}),
        ("generation_config.json", {"eos_token_id": [True, "x", None]}),
        ("generation_config.json", {"eos_token_id": 2**70}),
        ("tokenizer_config.json", [1]),
        ("tokenizer_config.json", {"eos_token": "nowhere"}),
        ("generation_config.json", b"{"),
        ("tokenizer_config.json", b"\xff"),
    ],
)
def test_what_stands_beside_a_vocabulary(folder: Path, file: str, content: Any) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(VOCABULARY))
    (folder / file).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with bounded():
        try:
            from pellucid import Tokenizer

            assert Tokenizer.load(folder).encode("ab") == [2]
        except TokenizerError as error:
            assert str(folder) in str(error)


def test_fifos_in_a_folder(folder: Path) -> None:
    """Opening does not wait for a writer."""
    for name, kind in (("tokenizer.json", TokenizerError), ("model.safetensors", ModelFileError)):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        assert "FIFO" in str(refused(folder, kind))
        (folder / name).unlink()


def test_adapters(folder: Path, tmp_path: Path) -> None:
    """PEFT's, alone or beside their model, where transformers loads both."""
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for _ in range(2):
        assert "an adapter (adapter_config.json)" in str(refused(folder, UnsupportedModelError))
        (folder / "config.json").unlink(missing_ok=True)
    path = tmp_path / "adapter.gguf"
    for kind in ("adapter", "mmproj", ["model"]):
        value = Value("array of string", kind) if isinstance(kind, list) else Value("string", kind)
        write_gguf(path, {"general.architecture": Value("string", "llama"), "general.type": value}, [])
        assert "general.type" in str(refused(path, UnsupportedModelError))


@pytest.mark.parametrize("name", ["modules.json", "generation_config.json"])
def test_links_that_lead_nowhere(folder: Path, name: str) -> None:
    """The file was meant to be there."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder / "moved")
    error = refused(folder)
    assert str(folder / name) in str(error) and "not found" in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_configuration(tmp_path: Path, data: st.DataObject) -> None:
    model = BY_NAME[data.draw(st.sampled_from(["llama3_rope", "gemma3_scaled", "qwen3_windows", "mistral"]))]
    folder = tmp_path / model.name
    if not folder.exists():
        tiny.write_folder(model, folder)
    config = tiny.config(model)
    for _ in range(data.draw(st.integers(1, 3))):
        table: Any = config
        key = data.draw(st.sampled_from(sorted(table)))
        if isinstance(table[key], dict) and table[key] and data.draw(st.booleans()):
            table = table[key]
            key = data.draw(st.sampled_from(sorted(table)))
        table[key] = data.draw(JSON)
    (folder / "config.json").write_text(json.dumps(config))
    with bounded():
        try:
            use(folder)
        except PellucidError as error:
            known = (ModelFileError, UnsupportedModelError, NumericsError, ContextFullError)  # a context of 1 token
            assert type(error) in known, repr(error)
            assert isinstance(error, errors.PellucidError) and "\n" not in str(error)

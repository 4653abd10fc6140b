"""Every key of a family's files and every tensor is read, or refused with an error that names it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from pellucid import Model
from pellucid.errors import ContextFullError, ModelFileError, PellucidError, UnsupportedModelError
from tests.conftest import Some
from tests.embedding import cases as embedders
from tests.embedding import files as embedding
from tests.engine.test_encoders import hidden
from tests.families.case import (
    Array,
    Case,
    Golden,
    add_key,
    encode,
    gguf_tensors,
    load_golden,
    text_config,
    weights,
    with_keys,
)
from tests.families.cases import CASES
from tests.families.changes import changes
from tests.families.test_families import ids_of
from tests.weights.config_keys import READ, SIZES

# Embedders and rerankers too, whose hidden states are compared.
EMBEDDERS = {case.name: case for case in embedders.CASES if case.model.strict}
MODELS = {case.name: case for case in CASES if case.strict} | {name: one.model for name, one in EMBEDDERS.items()}
STRICT = pytest.mark.parametrize("name", [*MODELS])
WITH_GGUF = pytest.mark.parametrize("name", [name for name, case in MODELS.items() if case.gguf])


class Files:
    """A case's two forms, of which a key or a tensor can be changed without writing everything again."""

    def __init__(self, case: Case, path: Path, golden: Golden | None = None) -> None:
        self.case, self.golden = case, golden or load_golden(case)
        self.ids = ids_of(case, self.golden)[:16]
        self.folder, self.file = path / "folder", path / "model.gguf"
        self.folder.mkdir()
        self.weights = weights(case, self.golden)
        save_file(self.weights, self.folder / "model.safetensors")
        self.tensors = {} if case.gguf is None else gguf_tensors(case, self.golden)
        self.keys = {} if case.gguf is None else dict(case.gguf.keys(text_config(self.golden.config)))

    def as_folder(self, **changed: Any) -> Array | str:
        (self.folder / "config.json").write_text(json.dumps(with_keys(self.golden.config, **changed)))
        return self.attempt(self.folder)

    def as_gguf(self, keys: dict[str, Any], tensors: dict[str, Array] | None = None) -> Array | str:
        assert self.case.gguf is not None
        writer = gguf.GGUFWriter(self.file, self.case.gguf.arch)
        for key, value in {**self.keys, **keys}.items():
            if value is not None:
                add_key(writer, f"{self.case.gguf.arch}.{key}", value)
        for key, value in self.case.gguf.bare(self.weights).items():
            add_key(writer, key, value)
        for name, value in {**self.tensors, **(tensors or {})}.items():
            writer.add_tensor(name, encode(value, "F32")[0])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return self.attempt(self.file)

    def attempt(self, path: Path) -> Array | str:
        """Logits, or the error's text."""
        try:
            with Model.load(path, threads=1) as model:
                return results(model, self.ids)
        except PellucidError as error:
            assert type(error) in (ModelFileError, UnsupportedModelError, ContextFullError), repr(error)
            return str(error)


def golden_of(name: str) -> Golden:
    return embedding.load_golden(EMBEDDERS[name]).model if name in EMBEDDERS else load_golden(MODELS[name])


def results(model: Model, ids: list[int]) -> Array:
    """Logits; of a model without a head, hidden states and what its classifier makes of them."""
    if model.core.engine.plan.ops[-1].n_seg:
        return model.logits(ids)
    found = hidden(model.core.engine, ids)[0]
    score = found.mean(axis=0) if model.core.config.scorer_pooling == "mean" else found[0]
    for layer in model.core.embedder.scorer:
        score = layer(score)
    return np.concatenate([found.reshape(-1), score])


@pytest.fixture
def files(name: str, tmp_path: Path) -> Files:
    return Files(MODELS[name], tmp_path, golden_of(name))


@STRICT
def test_keys_of_folders(files: Files, some: Some[Any]) -> None:
    """Unchanged, read, or refused by name."""
    case, expected = files.case, files.as_folder()
    assert not isinstance(expected, str), expected
    outcomes = {"same": 0, "other": 0, "refused": 0}
    tried = some(list(changes(case, text_config(files.golden.config))), case.name)
    for key, value in tried:
        found = files.as_folder(**{key: value})
        if isinstance(found, str):
            outcomes["refused"] += 1
            biased = key.endswith("_bias") and ".bias" in found  # the bias that there must be, or must not be
            assert key in found or biased or key in SIZES | case.resized, f"{key} = {value}: {found}"
            named = r"config\.(?!json)\w|layers\.\d|\.weight|\.bias|^ids is too long"  # a key or a tensor
            assert re.search(named, found), f"{key} = {value}: {found}"
            assert len(found) < 1000, found
        elif np.array_equal(found, expected):
            outcomes["same"] += 1
        else:
            outcomes["other"] += 1
            assert key in READ | case.read, f"{key} = {value}: other logits"
    assert outcomes["same"] > len(tried) / 8 and outcomes["refused"] > len(tried) / 8, outcomes


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gemma4", "final_logit_softcapping", 0.0),
        ("gemma4", "final_logit_softcapping", 1e300),
        ("gemma2", "attn_logit_softcapping", 1e300),
        ("kimi_linear", "topk_group", 0),
        ("kimi_linear", "n_group", 0),
    ],
)
def test_values_out_of_range(files: Files, key: str, value: Any) -> None:
    """They loaded, and gave other logits than transformers' or none."""
    found = files.as_folder(**{key: value})
    assert isinstance(found, str) and f"config.{key}: it is {value}; expected" in found, found


def known_keys() -> Iterator[str]:
    """Every key that the gguf package has for architectures, without the architecture's name."""
    for group in vars(gguf.Keys).values():
        for key in vars(group).values() if isinstance(group, type) else ():
            if isinstance(key, str) and key.startswith("{arch}."):
                yield key.removeprefix("{arch}.").format(dense="dense_2")


# Keys that no result depends on.
HARMLESS = {
    "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "rope.scaling.finetuned",
    "rope.scaling.original_context_length", "tensor_data_layout", "vocab_size",
}  # fmt: skip
# Keys that no converter of the family writes and that are read all the same, since others of the kind have them.
READ_TOO = {
    "attention.sliding_window", "attention.sliding_window_pattern", "rope.scaling.type", "rope.scaling.factor",
    "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "hidden_activation", "attention.scale",
    "final_logit_softcapping", "rope.freq_base_swa", "rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "expert_weights_norm", "expert_weights_scale", "expert_gating_func", "expert_group_count",
    "expert_group_used_count",
}  # fmt: skip
GGUF_VALUES: list[Any] = [True, False, 0, 7, 0.5, "yarn", [True, False, True]]
GGUF_SIZES = {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length", "block_count",
    "context_length", "embedding_length", "feed_forward_length", "expert_count", "expert_feed_forward_length",
    "expert_shared_count", "expert_shared_feed_forward_length", "leading_dense_block_count",
    "interleave_moe_layer_step", "attention.kv_lora_rank", "attention.q_lora_rank", "attention.key_length_mla",
    "attention.value_length_mla",
}  # fmt: skip


@WITH_GGUF
def test_keys_of_gguf_files(files: Files, some: Some[str]) -> None:
    """Each key of the gguf package and of the file: unchanged with the only value that runs, read, or refused."""
    expected = files.as_gguf({})
    assert not isinstance(expected, str), expected
    names = sorted({*known_keys(), *files.keys, "rope.scale_linear", "hidden_activation", "an_unknown_key"})
    assert files.case.gguf is not None
    arch = files.case.gguf.arch
    read = {"rope.scaling.finetuned"} if arch.startswith("granite") else set()  # it means a rotation
    if arch == "minicpm3":  # whose files do not have its multipliers
        read = {"embedding_scale", "residual_scale", "logit_scale"}
    for name in some(names, files.case.name):
        loaded = 0
        for value in GGUF_VALUES:
            found = files.as_gguf({name: value})
            if isinstance(found, str):
                group = next((part for part in ("sliding_window", "rope.scaling") if part in name), name)
                assert group in found or name in GGUF_SIZES | files.case.resized, f"{name} = {value}: {found}"
                continue
            loaded += 1
            if name not in files.keys and name not in READ_TOO | read:
                assert np.array_equal(found, expected), f"{name} = {value}"
        assert loaded < len(GGUF_VALUES) or name in HARMLESS, f"{name}: every value loads"


PARTS = (
    "q_proj.weight_scale", "q_proj.qweight", "sinks", "gate.weight", "q_proj.lora_A.weight", "masked.weight",
    "experts.0.up_proj.weight", "x.weight",
)  # fmt: skip
GGUF_PARTS = (
    "attn_q.scale", "ffn_down.scale", "attn_sinks.weight", "ffn_gate_up_exps.weight", "ffn_gate_inp.weight",
    "attn_q.input_scale", "attn_q.lora_a", "layer_output_scale.weight", "ffn_act.scales", "x.weight",
)  # fmt: skip


@STRICT
def test_tensors_of_folders(files: Files) -> None:
    """A tensor that the family does not have is refused, and so is a model in which one is missing."""
    files.as_folder()
    layer = next(name for name in files.weights if ".0." in name)
    layer = layer[: layer.index(".0.")]
    for part in PARTS:
        for middle in ("0.self_attn.", "0.mlp.", "0."):
            name = f"{layer}.{middle}{part}"
            if name in files.weights:
                continue
            save_file({**files.weights, name: np.full((4,), 0.25, np.float32)}, files.folder / "model.safetensors")
            found = files.attempt(files.folder)
            assert isinstance(found, str) and name in found, f"{name}: {found}"
    for name in files.weights:
        if re.match(files.case.optional, name):
            continue
        left = {other: value for other, value in files.weights.items() if other != name}
        save_file(left, files.folder / "model.safetensors")
        found = files.attempt(files.folder)
        assert isinstance(found, str) and name in found, f"{name}: {found}"


@WITH_GGUF
def test_tensors_of_gguf_files(files: Files) -> None:
    value = np.full((4,), 0.25, np.float32)
    names = [f"blk.0.{part}" for part in GGUF_PARTS] + [f"blk.{len(files.tensors)}.attn_norm.weight", "x.weight"]
    for name in names:
        if name not in files.tensors:
            found = files.as_gguf({}, {name: value})
            assert isinstance(found, str) and name in found, f"{name}: {found}"

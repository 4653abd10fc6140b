"""The keys of a folder's model in the form that converters to GGUF write.

A folder is read with a few keys that no published file has (weights/huggingface.py). Such a key is left out if the file
means the same without it, which is determined by reading the configuration again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pellucid import arch
from pellucid.arch import Config
from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.weights.base import ModelFile, Tensor

__all__ = ["gguf_model"]

# Keys that published files do not have.
_OWN = (
    "attention.qk_norm", "expert_bias", "expert_choice_bias", "expert_jitter", "expert_layers", "hidden_activation",
    "kda.head_count", "rope.interleave", "rope.layer_freq_bases", "rope.whole_heads", "rotated_layers", "ssm.norm",
    "ssm.norm_before_gate", "ssm.time_step_max", "ssm.time_step_min",
)  # fmt: skip
_MULTIPLIERS = (
    "attention_in_multiplier", "attention_out_multiplier", "embedding_multiplier", "key_multiplier",
    "lm_head_multiplier", "mlp_multipliers", "ssm_in_multiplier", "ssm_multipliers", "ssm_out_multiplier",
)  # fmt: skip
# For rotations with several positions, if a folder does not specify them; they make no difference for text.
_SECTIONS = {
    "qwen2vl": [16, 24, 24, 0],
    **dict.fromkeys(("qwen3vl", "qwen3vlmoe"), [24, 20, 20, 0]),
    **dict.fromkeys(("qwen35", "qwen35moe"), [11, 11, 10, 0]),
}


def gguf_model(file: ModelFile, c: Config, tensors: dict[str, Tensor]) -> ModelFile:
    """The model of a folder, read as `file`, converted to that of a GGUF file. tensors: as made by making/forms.py.

    Raises UnsupportedModelError for anything without a GGUF key.
    """
    name = _architecture(c, tensors)
    keys = {**_sizes(c), **_given(file, c)}
    _experts(keys, c, name)
    _recurrent(keys, c, name)
    if name in _SECTIONS:
        keys.setdefault("rope.dimension_sections", _SECTIONS[name])
    if not c.attention.causal:
        keys["attention.causal"] = False
    if name == "bert" and keys.pop("first_position", 0):  # the rows before it are left out
        keys["context_length"] = c.context
    keys.pop("token_types", None)  # given by a key of the tokenizer
    for key in ("classifier.pooler", "classifier.pooling", "classifier.sigmoid"):  # written by making/embedder.py
        keys.pop(key, None)
    keys.pop("attention.k_eq_v", None)  # the tensors decide, and reading the folder has compared both
    bases = {*keys.get("rope.layer_freq_bases", ())} - {0.0}  # 0: no rotation, for which there is another key
    if len(bases) == 1:
        keys["rope.freq_base"] = bases.pop()
    if name == "minicpm3" and c.latent is not None:  # keys and values by head
        a = c.latent
        sizes = {"head_count_kv": a.heads, "key_length": a.nope + a.rope, "value_length": a.value}
        keys |= {f"attention.{key}": value for key, value in sizes.items()}
        for key in ("attention.key_length_mla", "attention.value_length_mla"):
            keys.pop(key, None)
    if name == "mistral4" and c.query_every:
        keys["attention.temperature_length"] = c.query_every
    own = ("general.", "pellucid.", f"{c.architecture}.")
    metadata = {key: value for key, value in file.metadata.items() if not key.startswith(own)}
    metadata |= {"general.architecture": name, **{f"{name}.{key}": value for key, value in keys.items()}}
    made = ModelFile(file.path, "GGUF 3", "general.architecture", metadata, tensors, ())
    made.wanted_context = file.wanted_context
    _leave_out(made, (*_OWN, *(("attention.scale",) if c.latent is not None else ())))
    if file.metadata.get("pellucid.yarn"):
        _yarn(made, c, file.metadata["pellucid.yarn"], float(file.metadata["pellucid.yarn_weight"]))
    return made


def _architecture(c: Config, tensors: Mapping[str, Tensor]) -> str:
    """The name under which converters write a model with several names."""
    if c.architecture == "nemotron_h" and c.experts is not None:
        return "nemotron_h_moe"
    if c.architecture == "granitehybrid" and not any(c.recurrent) and all(c.rotated):
        return "granite" if c.experts is None else "granitemoe"
    return c.architecture


def _sizes(c: Config) -> dict[str, Any]:
    """Sizes for which other readers have other defaults."""
    if not c.rope.freq:
        return {}
    return {
        "rope.dimension_count": 2 * len(c.rope.freq),
        "attention.key_length": c.attention.dk,
        "attention.value_length": c.attention.dv,
    }


def _given(file: ModelFile, c: Config) -> dict[str, Any]:
    """The keys that the folder was read with, without the architecture's name."""
    prefix, found = f"{c.architecture}.", {}
    for key, value in file.metadata.items():
        if key.startswith(prefix) and value is not None and key not in {prefix + name for name in _MULTIPLIERS}:
            found[key.removeprefix(prefix)] = value
        elif key.startswith("pellucid.") and key not in ("pellucid.headless", "pellucid.yarn", "pellucid.yarn_weight"):
            raise UnsupportedModelError(feature=f"converting a model with {key}")
    layers = found["block_count"]
    if found.pop("nextn_predict_layers", 0):  # these layers are left out
        found["block_count"] = c.layers
        found |= {key: value[: c.layers] for key, value in found.items() if _is_list(value) and len(value) == layers}
    for key in ("attention.head_count_kv", "feed_forward_length"):
        if _is_list(found.get(key)) and len({*found[key]}) == 1 and found[key][0]:  # the same for all layers
            found[key] = found[key][0]
    found["vocab_size"] = c.vocab
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _experts(keys: dict[str, Any], c: Config, name: str) -> None:
    e = c.experts
    if e is None:
        if name.startswith(("nemotron_h", "granite")):  # folders without experts have these keys
            for key in [key for key in keys if key.startswith("expert_")]:
                del keys[key]
        return
    if "sigmoid" in e.weights:
        keys["expert_gating_func"] = 2
    if name == "gpt-oss":
        keys["expert_feed_forward_length"] = e.ff
    if name == "ernie4_5-moe":
        keys["expert_shared_feed_forward_length"] = e.shared
        keys |= _regular(c.sparse)
    if name == "nemotron_h_moe":
        keys["expert_shared_count"] = int(e.shared > 0)
        kinds = [c.mixers[i] == "mlp" for i in range(c.layers)]
        if all(sparse for sparse, own in zip(c.sparse, kinds, strict=True) if own):
            keys["feed_forward_length"] = [e.ff if own else 0 for own in kinds]


def _regular(sparse: tuple[bool, ...]) -> dict[str, int]:
    """Which layers have experts: every step-th one after the first dense ones; {} if there is no such pattern."""
    for step in range(1, len(sparse) + 1):
        for dense in range(len(sparse)):
            if all(one == (i >= dense and (i + 1) % step == 0) for i, one in enumerate(sparse)):
                return {"leading_dense_block_count": dense, "interleave_moe_layer_step": step}
    return {}


def _recurrent(keys: dict[str, Any], c: Config, name: str) -> None:
    keys.pop("ssm.v_heads_grouped", None)  # making/forms.py puts the heads into the file's order
    if name in ("granite", "granitemoe"):
        for key in [key for key in keys if key.startswith("ssm.")]:
            del keys[key]
        keys.pop("rope.scaling.finetuned", None)
        keys["attention.head_count_kv"] = c.attention.n_kv
    if name.startswith("nemotron_h"):
        keys["attention.layer_norm_epsilon"] = c.eps  # llama.cpp requires both, and uses the other one
    if name.startswith("qwen3") and any(c.recurrent):
        interval = c.recurrent.index(False) + 1 if not all(c.recurrent) else c.layers + 1
        if all(own == ((i + 1) % interval != 0) for i, own in enumerate(c.recurrent)):
            keys["full_attention_interval"] = interval


def _configured(made: ModelFile) -> Config | None:
    """The configuration as read from the file; None if the reader refuses the file."""
    try:
        return arch.configure(made)
    except (ModelFileError, UnsupportedModelError):
        return None


def _leave_out(made: ModelFile, names: tuple[str, ...]) -> None:
    """Removes each of these keys that makes no difference."""
    want = arch.configure(made)
    for name in names:
        key = f"{made.architecture}.{name}"
        if key in made.metadata:
            value = made.metadata.pop(key)
            found = _configured(made)
            if found is None or not _same(found, want):
                made.metadata[key] = value


def _same(a: Config, b: Config) -> bool:
    """Whether two configurations differ only in the rounding of scales."""
    if not (_near(a.attention.scale, b.attention.scale) and _near(a.local_attention.scale, b.local_attention.scale)):
        return False
    attention = replace(a.attention, scale=b.attention.scale)
    local = replace(a.local_attention, scale=b.local_attention.scale)
    return replace(a, attention=attention, local_attention=local) == b


def _near(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6))


def _yarn(made: ModelFile, c: Config, given: Mapping[str, Any], weight: float) -> None:
    """Replaces YaRN's factors by its parameters if they give the same rotation. Architectures differ in their use of
    the weight (mscale_all_dim), so it is found by trying."""
    name, before = made.architecture, dict(made.metadata)
    factors = made.tensors.pop("rope_freqs.weight")
    for key in ("attention.scale", "rope.scaling.attn_factor"):
        if key != "attention.scale" or c.latent is not None:
            made.metadata.pop(f"{name}.{key}", None)
    made.metadata.update({f"{name}.rope.scaling.{key}": value for key, value in given.items() if value is not None})
    for more in _weights(weight):
        made.metadata.update({f"{name}.rope.scaling.{key}": value for key, value in more.items()})
        found = _configured(made)
        if found is not None and _same_rotation(found, c):
            return
        for key in more:
            del made.metadata[f"{name}.rope.scaling.{key}"]
    made.tensors["rope_freqs.weight"] = factors
    made.metadata.clear()
    made.metadata.update(before)


def _weights(weight: float) -> Iterator[dict[str, float]]:
    yield {}
    if weight:
        yield {"yarn_log_multiplier": weight}
        yield {"yarn_log_multiplier": 0.1 * weight}  # in DeepSeek's files


def _same_rotation(a: Config, b: Config) -> bool:
    ropes = zip((a.rope, a.local_rope), (b.rope, b.local_rope), strict=True)
    return (
        _near(a.attention.scale, b.attention.scale)
        and a.query_factors == b.query_factors
        and all(_near(x.scale, y.scale) and all(map(_near, x.freq, y.freq)) for x, y in ropes)
    )

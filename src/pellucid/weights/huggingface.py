"""Hugging Face folders, in the terms of GGUF files: so that an architecture's file reads one kind of model.

Configuration keys and tensor names become GGUF's; what a converter to GGUF would compute (rope factors, norm weights
with their +1) is computed here. Nothing else of a folder changes: its rotary pairs are halves ("pellucid.rope_halves").
Sources: transformers' configurations and modeling_rope_utils; GGUF's specification.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.weights.base import ModelFile, Tensor

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "gemma3_text": "gemma3", "qwen3": "qwen3"}

_KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "sliding_window": "attention.sliding_window",
    "final_logit_softcapping": "final_logit_softcapping",
}

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Gemma 3 has norms on both sides of each half of a block.
_GEMMA_NAMES = _NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,5})\.(.+)")  # one way to write a number: no two names are one
_NORM = re.compile(r"norm\.weight$")


def translate(folder: ModelFile) -> ModelFile:
    """A folder as `open_folder` gives it -> the same model under GGUF's keys and names.

    Raises UnsupportedModelError for an architecture or a rope that is not known, ModelFileError for a wrong
    configuration.
    """
    kind = folder.architecture
    arch = _ARCHITECTURES.get(kind)
    if arch is None:
        raise UnsupportedModelError(feature=f"architecture {kind!r}", supported=", ".join(sorted(_ARCHITECTURES)))
    config = folder.metadata["config"]
    if arch == "qwen3" and folder.get_bool("config.use_sliding_window", False):
        raise UnsupportedModelError(feature="qwen3 with a sliding window")
    metadata: dict[str, Any] = {"general.architecture": arch, "pellucid.rope_halves": True}
    for key, name in _KEYS.items():
        if config.get(key) is not None:
            metadata[f"{arch}.{name}"] = config[key]
    tensors = _tensors(folder, arch, folder.get_bool("config.tie_word_embeddings", arch == "gemma3"))
    _rope(folder, arch, metadata, tensors)
    if arch == "gemma3":
        _gemma(folder, metadata)
    aliases = {f"{arch}.{name}": f"config.{key}" for key, name in _KEYS.items()}
    return ModelFile(
        folder.path,
        folder.format,
        "general.architecture",
        metadata,
        tensors,
        folder.take_files(),
        metadata_file=folder.metadata_file,
        aliases=aliases,
    )


def _tensors(folder: ModelFile, arch: str, tied: bool) -> dict[str, Tensor]:
    names = _GEMMA_NAMES if arch == "gemma3" else _NAMES
    found = {}
    for name, t in folder.tensors.items():
        stem, _, kind = name.rpartition(".")
        match = _LAYER.fullmatch(stem)
        ours = names.get(match[2] if match else stem)
        if ours is None or (ours == "output" and tied):
            continue
        ours = f"blk.{int(match[1])}.{ours}.{kind}" if match else f"{ours}.{kind}"
        if arch == "gemma3" and _NORM.search(ours):
            t = _plus_one(t)
        found[ours] = t._replace(name=ours)
    return found


def _plus_one(t: Tensor) -> Tensor:
    """Gemma's norms multiply by 1 + weight."""
    if t.type == "F32":
        values = t.data.view(np.float32)
    elif t.type == "F16":
        values = t.data.view(np.float16).astype(np.float32)
    elif t.type == "BF16":
        values = (t.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        raise UnsupportedModelError(feature=f"weight format {t.type} ({t.name})", supported="F32, F16, BF16")
    return _made(t.name, values.reshape(t.shape) + np.float32(1))


def _made(name: str, values: Any) -> Tensor:
    """A tensor that no file holds."""
    return Tensor(name, "F32", values.shape, np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8), 0, "")


def _rope(folder: ModelFile, arch: str, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Reads "rope_parameters" (newer) or "rope_scaling", which Gemma 3 may give per kind of layer."""
    config = folder.metadata["config"]
    key = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    if config.get(key) is None:
        return
    where = f"config.{key}"
    if not isinstance(config[key], dict):
        raise folder.fail(where, f"a {type(config[key]).__name__}", "a table")
    if isinstance(config[key].get("sliding_attention"), dict):
        metadata[f"{arch}.rope.freq_base_swa"] = folder.get_float(f"{where}.sliding_attention.rope_theta")
    if isinstance(config[key].get("full_attention"), dict):
        where += ".full_attention"
    base = folder.get_float(f"{where}.rope_theta", None, min=1.0)
    if base is not None:
        metadata[f"{arch}.rope.freq_base"] = base
    kind = folder.get_str(f"{where}.rope_type", folder.get_str(f"{where}.type", "default"))
    if kind == "linear":
        metadata[f"{arch}.rope.scaling.type"] = "linear"
        metadata[f"{arch}.rope.scaling.factor"] = folder.get_float(f"{where}.factor", min=1e-6, max=1e6)
    elif kind == "llama3":
        tensors["rope_freqs.weight"] = _llama3_factors(folder, where)
    elif kind != "default":
        raise UnsupportedModelError(feature=f"rope {kind!r}", supported="default, linear, llama3")


def _llama3_factors(folder: ModelFile, where: str) -> Tensor:
    """What Llama 3.1 divides each frequency by: 1 for short wavelengths, `factor` for long ones, a blend between."""
    factor = folder.get_float(f"{where}.factor", min=1e-6, max=1e6)
    low = folder.get_float(f"{where}.low_freq_factor", min=1e-6, max=1e6)
    high = folder.get_float(f"{where}.high_freq_factor", min=1e-6, max=1e6)
    original = folder.get_int(f"{where}.original_max_position_embeddings", min=1, max=1 << 24)
    if high <= low:
        raise folder.fail(f"{where}.high_freq_factor", f"it is {high}", f"more than low_freq_factor ({low})")
    heads = folder.get_int("config.num_attention_heads", min=1, max=4096)
    width = folder.get_int("config.head_dim", folder.get_int("config.hidden_size", min=1) // heads, min=2, max=4096)
    base = folder.get_float(f"{where}.rope_theta", folder.get_float("config.rope_theta", 10000.0, min=1.0), min=1.0)
    out = []
    for i in range(width // 2):
        turns = original * base ** (-2.0 * i / width) / (2 * math.pi)  # over the original context
        blend = min(max((turns - low) / (high - low), 0.0), 1.0)
        out.append(1.0 / ((1 - blend) / factor + blend))
    return _made("rope_freqs.weight", np.array(out, np.float32))


def _gemma(folder: ModelFile, metadata: dict[str, Any]) -> None:
    scalar = folder.get_float("config.query_pre_attn_scalar", None, min=1e-6)
    if scalar is not None:
        metadata["gemma3.attention.scale"] = scalar**-0.5
    kinds = folder.get_list("config.layer_types", None, of=str)
    period = folder.get_int("config.sliding_window_pattern", None, min=1)
    if kinds is not None:
        period = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
        regular = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(len(kinds))]
        if kinds != regular:
            raise ModelFileError(
                "layers of no regular pattern",
                file=folder.path,
                field="config.layer_types",
                expected="every n-th full_attention",
            )
    if period is not None:
        metadata["gemma3.attention.sliding_window_pattern"] = period

"""Translates Hugging Face folders into GGUF's keys and names, so that each architecture reads one kind of model.

The table of a model_type (folder.py) maps its configuration keys and tensor names. What a converter to GGUF would
compute (rope factors, norm weights with their offset) is computed here. Nothing else is converted: rotary pairs stay
(i, i + n/2), which the key "pellucid.rope_halves" records. A key or a tensor that no table mentions is an error.
Sources: transformers' configurations and modeling_rope_utils; GGUF's specification.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.folder import Folder, Wrapper
from pellucid.weights.base import ModelFile, Tensor, same_bytes

Find = Callable[[str], tuple[str, Folder | Wrapper]]  # model_type -> (architecture, table)

# Keys that any folder may have and that do not alter what a model computes: its origin, how it was trained and saved,
# the labels of its outputs, special tokens, and generation options.
_HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _experts_implementation _flash_attn_2_enabled
    _name_or_path _sliding_window_pattern attention_dropout attn_implementation auto_map cache_implementation
    chunk_size_feed_forward classifier_dropout dtype embd_pdrop finetuning_task gradient_checkpointing hidden_dropout
    id2label initializer_range is_decoder is_llama_config keys_to_ignore_at_inference label2id max_sequence_length
    model_max_length model_type name_or_path num_labels output_attentions output_hidden_states pretraining_tp prefix
    problem_type resid_pdrop return_dict task_specific_params tokenizer_class torch_dtype torchscript tf_legacy_loss
    tie_encoder_decoder transformers_version transformers.js_config use_bfloat16 use_cache use_flash_attn

    bos_token_id cls_token_id decoder_start_token_id eos_token_id mask_token_id pad_token_id sep_token_id unk_token_id

    assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens
    min_length min_p no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
    num_return_sequences output_scores remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens
    target_lookbehind temperature top_k top_p typical_p
    """.split()
)
_HARMLESS_PREFIX = "unsloth_"
# Keys for which only this value is supported.
_ONLY = {"is_causal": True, "partial_rotary_factor": 1.0}
# Keys that may be null although they have a default: null means something else.
_NULLABLE = {"head_dim", "num_key_value_heads", "sliding_window"}

# Tensors that may be left unread: inverse rotary frequencies, causal masks, layers for multi-token prediction, and the
# encoders of images and audio.
_LEFT_OUT = re.compile(
    r"(.+\.)?(rotary_emb\.inv_freq|masked_bias|position_ids)|(model\.)?(mtp|nextn|vision_tower|vision_model|visual"
    r"|vision_embed_tokens|multi_modal_projector|mm_projector|embed_vision|audio_tower|audio_model|embed_audio)\..+"
)
_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,5})\.(.+)")  # no leading zeros: one name per layer
_NORM = re.compile(r"norm\.weight$")
# Prefixes of a wrapper's text model, as newer and older versions of transformers save it, and what replaces them.
_TEXT = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)


class _Settings:
    """A table of config.json. prefix: "config." or "config.text_config."; the getters take keys without it."""

    def __init__(self, folder: ModelFile, prefix: str) -> None:
        self.folder = folder
        self.prefix = prefix

    def __getattr__(self, name: str) -> Any:
        """get_int(key, ...) and the other getters, fail and refuse, as in ModelFile."""
        method = getattr(self.folder, name)
        return lambda key, *args, **options: method(self.prefix + key, *args, **options)


def translate(folder: ModelFile, find: Find) -> ModelFile:
    """A folder opened by `open_folder` -> the same model under GGUF's keys and names.

    Raises UnsupportedModelError for a model_type that `find` does not know, and for a key or a tensor that is not read;
    ModelFileError for a wrong configuration.
    """
    kind = folder.architecture
    arch, table = find(kind)
    prefix = "config."
    wrapper = None
    if isinstance(table, Wrapper):
        wrapper, prefix = table, "config.text_config."
        folder.get_table("config.text_config")
        arch, table = find(folder.get_str("config.text_config.model_type", wrapper.text))
        if isinstance(table, Wrapper):
            raise folder.refuse("config.text_config.model_type")
    config = folder.metadata["config"]
    if wrapper is None:
        folder.metadata["config"] = {**table.defaults, **config}
    else:
        folder.metadata["config"] = {**config, "text_config": {**table.defaults, **config["text_config"]}}
    c = _Settings(folder, prefix)
    _check_classes(c, table.classes)
    metadata: dict[str, Any] = {"general.architecture": arch, "pellucid.rope_halves": True}
    aliases = {}
    for key, name in table.keys.items():
        value = c.get_any(key, None)
        if value is not None:
            metadata[f"{arch}.{name}"] = value
        elif key in table.defaults and key not in _NULLABLE:
            raise c.fail(key, "it is null", "a value")
        aliases[f"{arch}.{name}"] = prefix + key
    if table.derive is not None:
        metadata |= {f"{arch}.{name}": value for name, value in table.derive(c).items()}
    names = _Names(table, [key for key in table.biases if c.get_bool(key, False)])
    tensors = _tensors(folder, table, names, wrapper)
    rope_factors = _ropes(c, arch, table.ropes, metadata, aliases)
    if rope_factors is not None:
        tensors["rope_freqs.weight"] = rope_factors
    _tie(folder, c, tensors, table.tied)
    _check_vocabulary(c, tensors)
    _check_unread(c, frozenset())
    if wrapper is not None:
        _check_classes(_Settings(folder, "config."), wrapper.classes)
        _check_unread(_Settings(folder, "config."), wrapper.other | {"text_config"})
        logging.getLogger("pellucid").warning(
            "%s: the text model alone of this %s is loaded; it does not take %s", folder.path, kind, wrapper.lacks
        )
    return ModelFile(
        folder.path,
        folder.format,
        "general.architecture",
        metadata,
        tensors,
        folder.take_files(),
        metadata_file=folder.metadata_file,
        aliases=aliases,
        own_name=names.own,
    )


# ---- keys -----------------------------------------------------------------------------------------------------


def _check_classes(c: _Settings, known: tuple[str, ...]) -> None:
    given = c.get_list("architectures", None, of=str)
    if not {*(given or ())} <= {*known}:
        raise UnsupportedModelError(feature=f"{c.prefix}architectures = {', '.join(given)}", supported=", ".join(known))


def _check_vocabulary(c: _Settings, tensors: dict[str, Tensor]) -> None:
    rows = tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else None
    size = c.get_int("vocab_size", rows, min=1)
    if size != rows and rows is not None:
        raise c.fail("vocab_size", f"it is {size}", f"{rows}, the rows of the embedding")


def _check_unread(c: _Settings, known: frozenset[str]) -> None:
    """Refuses the first key that was not read, unless it is known to be harmless, or is false or empty."""
    table = c.folder.get_table(c.prefix[:-1])
    for key, only in _ONLY.items():
        if c.get_any(key, only) != only:
            raise c.refuse(key, str(only).lower())
    if table.get("is_causal", True) is None:  # transformers treats null as false
        raise c.fail("is_causal", "it is null", "true")
    if c.get_any("quantization_config", None):
        method = c.get_str("quantization_config.quant_method", "unknown")
        raise UnsupportedModelError(
            feature=f"{c.prefix}quantization_config (quant_method {method!r})",
            supported="folders in F32, F16 and BF16, and quantised GGUF files",
        )
    for full in c.folder.unread(c.prefix):
        key = full.removeprefix(c.prefix)
        if key in known or key in _HARMLESS or key.startswith(_HARMLESS_PREFIX):
            continue
        value = table[key]
        if value is not False and value not in ("", [], {}):
            raise c.refuse(key)


# ---- tensors --------------------------------------------------------------------------------------------------


class _Names:
    """Maps the names of a folder's tensors to GGUF's, and back."""

    def __init__(self, table: Folder, biases: list[str]) -> None:
        self._names = table.names
        self._back = {name: own for own, name in table.names.items()}
        self.biased = {name: key for key in biases for name in table.biases[key]}  # projection with a bias -> its key
        self._found: dict[str, str] = {}

    def gguf(self, own: str, name: str) -> str | None:
        """GGUF's name of a tensor; None for an unknown one. own: its name in the file; name: without a wrapper's
        prefix."""
        stem, _, kind = name.rpartition(".")
        match = _LAYER.fullmatch(stem)
        found = self._names.get(match[2] if match else stem)
        if found is None or not (kind == "weight" or (kind == "bias" and found in self.biased)):
            return None
        found = f"blk.{int(match[1])}.{found}.{kind}" if match else f"{found}.{kind}"
        self._found[found] = own
        return found

    def own(self, name: str) -> str:
        """A tensor's name in the file; for a missing tensor, the name that it would have."""
        if name in self._found:
            return self._found[name]
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(.+)\.(weight|bias)", name)
        if match is None or match[2] not in self._back:
            return name
        return f"{f'model.layers.{match[1]}.' if match[1] else ''}{self._back[match[2]]}.{match[3]}"


def _tensors(folder: ModelFile, table: Folder, names: _Names, wrapper: Wrapper | None) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for own, t in folder.tensors.items():
        old, new = next(((old, new) for old, new in _TEXT if wrapper and own.startswith(old)), ("", ""))
        name = names.gguf(own, new + own.removeprefix(old))
        if name is None:
            if not _LEFT_OUT.fullmatch(own):
                raise UnsupportedModelError(feature=f"tensor {own}, which no operation reads,")
            continue
        if name in found:
            raise ModelFileError("a second tensor for the same weight", file=t.file, field=own, offset=t.offset)
        if table.norm_offset and _NORM.search(name):
            t = _plus(t, table.norm_offset)
        found[name] = t
    for name in [name for name in found if name.endswith(".weight")]:
        stem = name.removesuffix(".weight")
        key = names.biased.get(stem.rpartition(".")[2])
        if key is not None and f"{stem}.bias" not in found:
            field, expected = names.own(f"{stem}.bias"), f"a bias, since {key} is true"
            raise ModelFileError("no such tensor", file=folder.path, field=field, expected=expected)
    return found


def _plus(t: Tensor, offset: float) -> Tensor:
    """The weight of a norm plus the offset, in float32."""
    if t.type == "F32":
        values = t.data.view(np.float32)
    elif t.type == "F16":
        values = t.data.view(np.float16).astype(np.float32)
    elif t.type == "BF16":
        values = (t.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        raise UnsupportedModelError(feature=f"weight format {t.type} ({t.name})", supported="F32, F16, BF16")
    return _made(t.name, values.reshape(t.shape) + np.float32(offset))


def _made(name: str, values: Any) -> Tensor:
    """A float32 tensor in memory, of no file."""
    return Tensor(name, "F32", values.shape, np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8), 0, "")


def _tie(folder: ModelFile, c: _Settings, tensors: dict[str, Tensor], default: bool) -> None:
    """Removes the head where it is tied to the embedding. Whether it is must agree with tie_word_embeddings; where a
    wrapper has no such key, the tensors decide. Raises ModelFileError, UnsupportedModelError."""
    tied = folder.get_bool("config.tie_word_embeddings", None)
    if c.prefix != "config.":
        inner = c.get_bool("tie_word_embeddings", None)
        tied = tied if tied is not None else inner if inner is not None else "output.weight" not in tensors
    elif tied is None:
        tied = default
    head, embedding = tensors.get("output.weight"), tensors.get("token_embd.weight")
    if not tied and head is None:
        raise ModelFileError("no such tensor", file=folder.path, field="lm_head.weight",
                             expected="a head, since tie_word_embeddings is false")  # fmt: skip
    if tied and head is not None:
        if embedding is None or (head.type, head.shape) != (embedding.type, embedding.shape):
            same = False
        else:
            same = same_bytes(head.data, embedding.data)
        if not same:
            raise UnsupportedModelError(
                feature=f"tensor {head.name}, which differs from the embedding although tie_word_embeddings is true,"
            )
        del tensors["output.weight"]


# ---- rotations ------------------------------------------------------------------------------------------------


def _ropes(c: _Settings, arch: str, by_kind: bool, metadata: dict[str, Any], aliases: dict[str, str]) -> Tensor | None:
    """Reads "rope_parameters" (newer) or "rope_scaling". Returns the factors that frequencies are divided by; None
    where there is at most one factor for all. by_kind: rope_parameters has a table for each kind of layer, and
    rope_scaling applies to the layers with full attention."""
    tables = {key: table for key in ("rope_parameters", "rope_scaling") if (table := c.get_table(key, None))}
    if len(tables) == 2 and tables["rope_parameters"] != tables["rope_scaling"]:
        raise c.fail("rope_scaling", "rope_parameters is also there, with other values", "one of the two")
    c.get_int("original_max_position_embeddings", None, min=1, max=1 << 24)
    factors = None
    for key in tables:
        if not by_kind:
            factors = _rope(c, f"{key}.", f"{arch}.rope", metadata, aliases)
        elif key == "rope_scaling":
            if c.get_any("rope_scaling.type", None) is not None and c.get_any("rope_scaling.rope_type", None) is None:
                raise c.refuse("rope_scaling.type", "rope_type in its place")  # transformers ignores the older name
            factors = _rope(c, "rope_scaling.", f"{arch}.rope", metadata, aliases)
        else:
            if c.get_table(f"{key}.full_attention", None) is not None:
                factors = _rope(c, f"{key}.full_attention.", f"{arch}.rope", metadata, aliases)
            if c.get_table(f"{key}.sliding_attention", None) is not None:
                _rope(c, f"{key}.sliding_attention.", f"{arch}.rope", metadata, aliases, local=True)
            _check_table(c, f"{key}.")
    return factors


def _rope(
    c: _Settings, where: str, name: str, metadata: dict[str, Any], aliases: dict[str, str], local: bool = False
) -> Tensor | None:
    """Reads one rotation. local: of the layers with a window, which is not scaled."""
    base = c.get_float(f"{where}rope_theta", None, min=1.0)
    if base is not None:
        key = f"{name}.freq_base{'_swa' if local else ''}"
        metadata[key], aliases[key] = base, f"{c.prefix}{where}rope_theta"
    if c.get_float(f"{where}partial_rotary_factor", 1.0) != 1.0:
        raise c.refuse(f"{where}partial_rotary_factor", "1.0")
    factors = None
    old = c.get_str(f"{where}type", None)
    given = "type" if old is not None and c.get_any(f"{where}rope_type", None) is None else "rope_type"
    kind = c.get_str(where + given, "default")
    if kind == "linear" and not local:
        metadata[f"{name}.scaling.type"] = "linear"
        metadata[f"{name}.scaling.factor"] = c.get_float(f"{where}factor", min=1e-6, max=1e6)
    elif kind == "llama3" and not local:
        factors = _llama3_factors(c, where, base)
    elif kind != "default":
        raise c.refuse(where + given, "default" if local else "default, linear, llama3")
    _check_table(c, where)
    return factors


def _check_table(c: _Settings, where: str) -> None:
    """Refuses the first key of a table that was not read."""
    unread = c.folder.unread(c.prefix + where)
    if unread:
        raise c.refuse(unread[0].removeprefix(c.prefix))


def _llama3_factors(c: _Settings, where: str, base: float | None) -> Tensor:
    """Llama 3.1's divisor of each frequency: 1 for short wavelengths, `factor` for long ones, a blend in between."""
    factor = c.get_float(f"{where}factor", min=1e-6, max=1e6)
    low = c.get_float(f"{where}low_freq_factor", min=1e-6, max=1e6)
    high = c.get_float(f"{where}high_freq_factor", min=1e-6, max=1e6)
    original = c.get_int("max_position_embeddings", min=1, max=1 << 24)
    for place in (where, ""):  # the key next to the table takes precedence over the one in it
        original = c.get_int(f"{place}original_max_position_embeddings", original, min=1, max=1 << 24)
    if high <= low:
        raise c.fail(f"{where}high_freq_factor", f"it is {high}", f"more than low_freq_factor ({low})")
    heads = c.get_int("num_attention_heads", min=1, max=4096)
    width = c.get_int("head_dim", c.get_int("hidden_size", min=1) // heads, min=2, max=4096)
    base = base or c.get_float("rope_theta", 10000.0, min=1.0)
    out = []
    for i in range(width // 2):
        turns = original * base ** (-2.0 * i / width) / (2 * math.pi)  # over the original context
        blend = min(max((turns - low) / (high - low), 0.0), 1.0)
        out.append(1.0 / ((1 - blend) / factor + blend))
    return _made("rope_freqs.weight", np.array(out, np.float32))

"""Translates Hugging Face folders into GGUF's keys and names, so that each architecture reads one kind of model.

The table of a model_type (folder.py) maps its configuration keys and tensor names. What a converter to GGUF would
compute (rope factors, norm weights with their offset) is computed here. Nothing else is converted: rotary pairs remain
(i, i + n/2), as the key "pellucid.rope_halves" records. A key or a tensor that no table mentions is an error.
Sources: transformers' configurations and modeling_rope_utils; GGUF's specification.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.folder import ANY, Folder, Same, Wrapper
from pellucid.weights import mxfp4, rotations
from pellucid.weights.base import ModelFile, Tensor, same_bytes
from pellucid.weights.derived import of_floats, plus
from pellucid.weights.integers import Joined
from pellucid.weights.orders import has_inputs_first, in_order, moved, orders, plain
from pellucid.weights.prequantised import Quantised, join
from pellucid.weights.sentences import is_base
from pellucid.weights.stacks import NUMBER, stacked

Find = Callable[[str], tuple[str, Folder | Wrapper]]  # model_type -> (architecture, table)

# Keys that any folder may have and that do not affect what a model computes: origin, training and saving, labels of
# outputs, special tokens, and generation options.
_HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _experts_implementation _flash_attn_2_enabled
    _name_or_path _sliding_window_pattern attention_dropout attn_implementation auto_map cache_implementation
    chunk_size_feed_forward classifier_dropout dtype embd_pdrop embedding_dropout finetuning_task
    gradient_checkpointing hidden_dropout id2label initializer_range is_decoder is_llama_config
    keys_to_ignore_at_inference label2id max_sequence_length model_max_length model_name model_type name_or_path
    num_labels
    output_attentions output_hidden_states output_router_logits pretraining_tp prefix problem_type resid_pdrop
    residual_dropout return_dict router_aux_loss_coef router_jitter_noise task_specific_params tokenizer_class
    torch_dtype torchscript tf_legacy_loss tie_encoder_decoder transformers_version transformers.js_config
    use_bfloat16 use_cache use_flash_attn
    attention_probs_dropout_prob hidden_dropout_prob directionality output_past pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type

    bos_token_id cls_token_id
    decoder_start_token_id eod_token_id eos_token_id mask_token_id pad_token_id sep_token_id unk_token_id

    assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens
    min_length min_p no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
    num_return_sequences output_scores remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens
    target_lookbehind temperature top_k top_p typical_p
    """.split()
)
_HARMLESS_PREFIX = "unsloth_"
# Keys that may be null although they have a default: null means something different.
_NULLABLE = {"head_dim", "num_key_value_heads", "sliding_window"}
# GGUF keys that a family derives -> the folder's keys that they come from, for errors: the first one present.
_DERIVED_FROM = {
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("global_head_dim", "head_dim"),
    "attention.key_length_swa": ("head_dim",),
    "rope.dimension_count": ("qk_rope_head_dim", "global_head_dim", "head_dim"),
    "rope.dimension_count_swa": ("head_dim",),
    "feed_forward_length": ("intermediate_size",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_intermediate_size", "shared_expert_intermediate_size"),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok", "top_k_experts"),
    "expert_group_count": ("n_group",),
    "expert_group_used_count": ("topk_group",),
    "ssm.conv_kernel": ("linear_conv_kernel_dim", "linear_attn_config.short_conv_kernel_size"),
}

# Tensors that may be left unread: inverse rotary frequencies, causal masks, layers for multi-token prediction, and the
# encoders of images and audio.
_LEFT_OUT = re.compile(
    r"(.+\.)?(rotary_emb\.inv_freq|masked_bias|position_ids)|(model\.)?(mtp|nextn|vision_tower|vision_model|visual"
    r"|vision_embed_tokens|multi_modal_projector|mm_projector|embed_vision|audio_tower|audio_model|embed_audio)\..+"
)
_NORM = re.compile(r"norm\.weight$")
_STACK = re.compile(r"blk\.\d+\.ffn_.+_exps\.weight")
# What a folder may have in place of several separate matrices.
_WHOLE = {"attn_q": "attn_qkv", "attn_k": "attn_qkv", "attn_v": "attn_qkv", "ffn_gate": "ffn_up"}
_WHOLE |= {"attn_qkv": "ssm_in", "attn_gate": "ssm_in", "ssm_beta": "ssm_ba", "ssm_alpha": "ssm_ba"}
_WHOLE |= {"ffn_gate_shexp": "ffn_up_shexp"}
# Prefixes of a wrapper's text model, as newer and older versions of transformers save it, and their replacements.
_TEXT = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.text_model.", "model."),
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


def _with_defaults(table: Folder, config: Mapping[str, Any], within: bool = False) -> dict[str, Any]:
    """The configuration with the table's defaults, except for keys that it gives under another name. within: it is a
    wrapper's text_config."""
    given = {table.keys[key] for key in config if key in table.keys}
    known = {**table.sizes, **table.defaults} if within else table.defaults
    made = {**{k: v for k, v in known.items() if table.keys.get(k, k) not in given}, **config}
    if table.rope and made.get("rope_parameters") is None and not made.get("rope_scaling"):
        made["rope_parameters"] = dict(table.rope)
    return made


def translate(folder: ModelFile, find: Find, ordered: bool = True) -> ModelFile:
    """A folder opened by `open_folder` -> the same model under GGUF's keys and names.

    ordered: matrices whose columns GPTQ put in another order may stay in that order; a tensor NAME.order gives the
    column in each place. Otherwise they are decoded to F32.

    Raises UnsupportedModelError for a model_type that `find` does not know, and for a key or a tensor that would not be
    read; ModelFileError for a wrong configuration.
    """
    kind = folder.architecture
    arch, table = find(kind)
    prefix = "config."
    wrapper = None
    if isinstance(table, Wrapper):
        wrapper = table
        arch, table, prefix = _text_model(folder, wrapper, find)
    config = folder.metadata["config"]
    own = folder.get_table(prefix[:-1])
    if prefix == "config.":
        folder.metadata["config"] = _with_defaults(table, config)
    else:
        folder.metadata["config"] = {**config, "text_config": _with_defaults(table, config["text_config"], within=True)}
    defaulted = {table.keys[key] for key in table.defaults if key in table.keys}
    c, whole = _Settings(folder, prefix), _Settings(folder, "config.")
    _check_classes(whole, table.classes if wrapper is None else wrapper.classes)
    if table.variant is not None:
        arch = table.variant(c) or arch
    metadata: dict[str, Any] = {"general.architecture": arch, "pellucid.rope_halves": table.halves}
    aliases = {}
    for key, name in table.keys.items():
        value = c.get_any(key, None)
        if value is not None:
            if f"{arch}.{name}" in metadata and metadata[f"{arch}.{name}"] != value:  # under an older and a newer name
                raise c.fail(key, f"it is {value}", f"{metadata[f'{arch}.{name}']}, as another key says")
            metadata[f"{arch}.{name}"] = value
        elif name in defaulted and key in own and key not in _NULLABLE:
            raise c.fail(key, "it is null", "a value")
        if value is not None or f"{arch}.{name}" not in aliases:
            aliases[f"{arch}.{name}"] = prefix + key
    if table.derive is not None:
        derived = table.derive(c)
        metadata |= {f"{arch}.{name}": value for name, value in derived.items()}
        for name in derived:
            found = [prefix + key for key in _DERIVED_FROM.get(name, ()) if prefix + key in folder]
            if found:
                aliases.setdefault(f"{arch}.{name}", found[0])
    bare = wrapper is None and not any(name.startswith(table.base) for name in folder.tensors)
    biases = [key for key in table.biases if c.get_bool(key, False)]
    names = _Names(table, biases, bare, "" if wrapper is None else wrapper.parts)
    mxfp4_alone = bool(table.mxfp4) and c.get_any("quantization_config.quant_method", None) == "mxfp4"
    quantised = Quantised() if mxfp4_alone else join(folder, prefix)
    tensors = _tensors(folder, c, table, names, wrapper, quantised if ordered else in_order(folder, quantised))
    metadata |= _numbers(folder, c, table, names, tensors)
    known = _join_mxfp4(folder, c, table, names, tensors) or bool(quantised.method)
    for name, values in (rotations.read(c, arch, table, metadata, aliases) if table.heads else {}).items():
        tensors[name] = of_floats(name, np.array(values))
    if table.encoder or is_base(whole, tensors):
        metadata["pellucid.headless"] = True
        c.get_bool("tie_word_embeddings", None)
    else:
        _tie(folder, c, tensors, table.tied, names.own, wrapper is not None and wrapper.flat)
    _check_vocabulary(c, tensors)
    _check_inert(c, table)
    _check_unread(c, frozenset() if wrapper is None else wrapper.other, known, not table.encoder)
    if wrapper is not None:
        if prefix != "config.":
            copies = own.keys() if wrapper.flat else frozenset()  # transformers does not read these
            _check_unread(whole, wrapper.other | {"text_config"} | copies, bool(quantised.method))
        logging.getLogger("pellucid").warning(
            "%s: the text model alone of this %s is loaded; it does not take %s", folder.path, kind, wrapper.lacks
        )
    translated = ModelFile(
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
    translated.widened = {name for name, t in tensors.items() if t.name in quantised.widened}
    types = {t.type for name, t in tensors.items() if t.name in quantised.names and not name.endswith(".order")}
    for name, t in tensors.items():
        if t.name in quantised.names - quantised.widened and t.type == "F32" and not name.endswith(".order"):
            translated.in_f32[name] = quantised.reasons.get(t.name, "columns in an order of their own (act-order)")
    if types:
        translated.method = f"{', '.join(sorted(types, key=('INT4', 'Q8_0', 'F32').index))} ({quantised.method})"
    return translated


def _text_model(folder: ModelFile, wrapper: Wrapper, find: Find) -> tuple[str, Folder, str]:
    """(architecture, table, prefix of the keys) of a wrapper's text model."""
    prefix, kind = "config.text_config.", wrapper.texts[0]
    if wrapper.flat and folder.get_any("config.text_config", None) is None:
        prefix = "config."
    else:
        folder.get_table("config.text_config")
        kind = folder.get_str(f"{prefix}model_type", kind)
        folder.get_list(f"{prefix}architectures", None, of=str)  # transformers does not read it
        if kind not in wrapper.texts:
            raise folder.refuse(f"{prefix}model_type", ", ".join(wrapper.texts))
    arch, table = find(kind)
    assert isinstance(table, Folder)  # holds for the tables in wrappers.py
    return arch, table, prefix


# ---- keys -----------------------------------------------------------------------------------------------------


def _check_classes(c: _Settings, known: tuple[str, ...]) -> None:
    given = c.get_list("architectures", None, of=str)
    if not {*(given or ())} <= {*known}:
        raise UnsupportedModelError(feature=f"{c.prefix}architectures = {', '.join(given)}", supported=", ".join(known))


def _check_vocabulary(c: _Settings, tensors: dict[str, Tensor]) -> None:
    shape = tensors["token_embd.weight"].shape if "token_embd.weight" in tensors else ()
    rows = shape[0] if shape else None
    size = c.get_int("vocab_size", rows, min=1)
    if size != rows and rows is not None:
        raise c.fail("vocab_size", f"it is {size}", f"{rows}, the rows of the embedding")


def _check_inert(c: _Settings, table: Folder) -> None:
    """Refuses a key of `inert` whose value differs from the one that transformers' code implies."""
    for key, only in table.inert.items():
        value = c.get_any(key, None)
        if isinstance(only, Same):
            only = c.get_any(only.key, only.default)
        if value is None or only is ANY:
            continue
        if value != only or isinstance(value, bool) != isinstance(only, bool):
            raise c.refuse(key, json.dumps(only))


def _check_unread(c: _Settings, known: frozenset[str], quantised: bool = False, causal: bool = True) -> None:
    """Refuses the first key that was not read, unless it is known to be harmless or its value is false or empty.
    quantised: quantization_config was read. causal: the only value of is_causal that runs."""
    table = c.folder.get_table(c.prefix[:-1])
    if c.get_any("is_causal", causal) is not causal:
        raise c.refuse("is_causal", str(causal).lower())
    if causal and table.get("is_causal", True) is None:  # transformers treats null as false
        raise c.fail("is_causal", "it is null", "true")
    if c.get_any("quantization_config", None) and not quantised:
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

    def __init__(self, table: Folder, biases: list[str], bare: bool, parts: str = "") -> None:
        self._table, self._names = table, table.names
        self._others = {**table.others, **table.numbers}
        self._layers = table.layers
        self._layer = re.compile(re.escape(table.layers) + r"\.(0|[1-9][0-9]{0,5})\.(.+)")  # one name per layer
        self._base = table.base if bare else ""  # a prefix that the file's names lack
        self._unused = re.compile(table.unused)
        self._parts = re.compile(parts)
        self._back = {name: own for own, name in table.names.items()}  # of several, the last name counts
        self._back |= {part: self._back[whole] for whole, parts in table.split.items() for part in parts}
        # Projection with a bias -> why it has one.
        self.biased = dict.fromkeys(table.biased, "this architecture has one")
        self.biased |= {name: f"{key} is true" for key in biases for name in table.biases[key]}
        self._found: dict[str, str] = {}
        self.wrapped = table.base  # prefix of the names of a wrapper's text model

    def gguf(self, own: str, name: str) -> str | None:
        """GGUF's name of a tensor; None if it is unknown. own: its name in the file; name: the same without a wrapper's
        prefix."""
        other = self._layer.fullmatch(self._base + name)
        if other and other[2] in self._others:
            made = f"blk.{int(other[1])}.{self._others[other[2]]}"
            self._found[made] = own
            return made
        stem, _, kind = (self._base + name).rpartition(".")
        if kind not in ("weight", "bias"):  # a parameter without such a suffix
            stem, kind = self._base + name, ""
        match = self._layer.fullmatch(stem)
        found = self._names.get(NUMBER.sub(".*", f"{match[2]}.")[:-1] if match else stem, "")
        if not found:
            return None
        if not kind:
            found, _, kind = found.rpartition(".")
        elif kind == "bias" and found not in self.biased:
            return None
        if not found:
            return None
        found = f"blk.{int(match[1])}.{found}.{kind}" if match else f"{found}.{kind}"
        self._found[found] = own
        return found

    def own(self, name: str) -> str:
        """A tensor's name in the file; for a missing tensor, the name that it would have."""
        if name in self._found:
            return self._found[name]
        return re.sub(f"^{re.escape(self._table.base)}", self.wrapped, self._missing(name))

    def _missing(self, name: str) -> str:
        for one, known in self._others.items():
            if match := re.fullmatch(
                rf"blk\.(\d+)\.({re.escape(known)}|{re.escape(known.removesuffix('_log'))})", name
            ):
                return f"{self._layers}.{match[1]}.{one}".removeprefix(self._base)
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(.+)\.(\w+)", name)
        if match is None:
            return name
        layer = f"{self._layers}.{match[1]}." if match[1] else ""
        whole = f"{match[2]}.{match[3]}"
        stacks = [own for known, own in self._found.items() if known.endswith("_exps.weight")]
        stacked = any(own.endswith("_proj") for own in stacks)
        if any(not NUMBER.search(own) for own in stacks) or (match[2] not in self._back and whole not in self._back):
            whole = re.sub("ffn_(gate|up)_exps", "ffn_gate_up_exps", whole)
        fused = whole.rpartition(".")[0]
        part = next((name for name in (fused, match[2]) if name in self._back), _WHOLE.get(match[2], ""))
        apart = fused in self._back and fused.endswith("_exps") and match[3] in ("weight", "bias")
        if whole in self._back and (stacked or not apart):
            own = layer + self._back[whole]
        elif part in self._back:
            own = f"{layer}{self._back[part].replace('*', '0')}.{match[3]}"
        else:
            return name
        return own.removeprefix(self._base)

    def left_out(self, name: str) -> bool:
        own = self._unused.fullmatch(self._base + name)
        return bool(own or _LEFT_OUT.fullmatch(name) or self._parts.fullmatch(name))


def _tensors(
    folder: ModelFile, c: _Settings, table: Folder, names: _Names, wrapper: Wrapper | None, quantised: Quantised
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    ordered: dict[str, Joined] = {}
    for own, t in folder.tensors.items():
        old, new = next(((old, new) for old, new in _TEXT if wrapper and own.startswith(old)), ("", ""))
        if new == table.base:
            names.wrapped = old
        name = names.gguf(own, new + own.removeprefix(old))
        if name is None:
            if not names.left_out(own) and not quantised.biases.get(own, False):
                values = "has other values than 0 and " if own in quantised.biases else ""
                raise UnsupportedModelError(feature=f"tensor {own}, which {values}no operation reads,")
            continue
        if name.endswith(".exp_probs_b.bias") and len(t.shape) == 2:  # ERNIE's has an extra dimension of 1
            t = t._replace(shape=t.shape[1:] if t.shape[0] == 1 else t.shape)
        expert = NUMBER.search(own)
        if own in quantised.ordered and expert is not None:  # each expert has its own order
            t = plain(quantised.ordered[own])
        elif own in quantised.ordered:
            ordered[name] = quantised.ordered[own]
        if expert is not None:
            experts.setdefault(name, {})[int(expert[1])] = t
            continue
        if name in found:
            raise ModelFileError("a second tensor for the same weight", file=t.file, field=own, offset=t.offset)
        if table.norm_offset and _NORM.search(name) and name.split(".")[-2] not in table.plain_norms:
            t = plus(t, table.norm_offset)
        stem = re.sub(r"^blk\.\d+\.|\.(weight|bias)$", "", name)
        for made, how in table.split.get(stem, {}).items():
            found[name.replace(stem, made)] = moved(t, partial(how, c), quantised)
        if stem not in table.split:
            change = None if stem in table.turned and has_inputs_first(t, quantised) else table.change.get(stem)
            found[name] = t if change is None else moved(t, partial(change, c), quantised)
            if change is not None:
                ordered.pop(name, None)
    for name, t in stacked(folder, experts, quantised).items():
        whole = re.sub(r"ffn_(gate|up)_exps", "ffn_gate_up_exps", name)
        if name in found or whole in found:
            raise ModelFileError("a second tensor for the same weight", file=t.file, field=t.name, offset=t.offset)
        found[name] = t
    found |= orders(found, ordered)
    for name in [name for name in found if name.endswith(".weight")]:
        stem = name.removesuffix(".weight")
        why = names.biased.get(re.sub(r"^blk\.\d+\.", "", stem))
        if why is not None and f"{stem}.bias" not in found:
            field, expected = names.own(f"{stem}.bias"), f"a bias, since {why}"
            raise ModelFileError("no such tensor", file=folder.path, field=field, expected=expected)
    return found


def _join_mxfp4(folder: ModelFile, c: _Settings, table: Folder, names: _Names, tensors: dict[str, Tensor]) -> bool:
    """Joins the parts of matrices in MXFP4 -> whether there are any; quantization_config must agree."""
    config = c.get_table("quantization_config", None) if table.mxfp4 else None
    asked = config is not None and c.get_any("quantization_config.quant_method", None) == "mxfp4"
    if asked:
        c.get_list("quantization_config.modules_to_not_convert", None, of=str)
        if c.get_bool("quantization_config.dequantize", False):
            raise c.refuse("quantization_config.dequantize", "false")
        unread = c.folder.unread(f"{c.prefix}quantization_config.")
        if unread:
            raise c.refuse(unread[0].removeprefix(c.prefix))
    n = mxfp4.joined(tensors, names.own, folder.path, lambda stem: table.mxfp4[stem.rpartition(".")[2]])
    if n and not asked:
        raise c.fail("quantization_config", "it asks for no MXFP4, which the folder has", "quant_method mxfp4")
    whole = [name for name, t in tensors.items() if _STACK.fullmatch(name) and t.type != "MXFP4"]
    if asked and whole:
        own = f"{names.own(whole[0])}_blocks"
        raise ModelFileError("no such tensor", file=folder.path, field=own, expected="a matrix in MXFP4")
    return asked


def _numbers(
    folder: ModelFile, c: _Settings, table: Folder, names: _Names, tensors: dict[str, Tensor]
) -> dict[str, list[float]]:
    """Removes the tensors that hold single numbers from `tensors` -> lists with the numbers of all layers."""
    found: dict[str, list[float]] = {}
    for key in table.numbers.values():
        for i in range(c.get_int("num_hidden_layers", min=1, max=4096)):
            t, own = tensors.pop(f"blk.{i}.{key}", None), names.own(f"blk.{i}.{key}")
            if t is None:
                raise ModelFileError("no such tensor", file=folder.path, field=own, expected="one number")
            if t.shape not in ((), (1,)):
                raise ModelFileError(f"has shape {t.shape}", file=t.file, field=own, offset=t.offset, expected="()")
            value = float(plus(t, 0.0).data.view(np.float32)[0])
            if not abs(value) <= 1e4:  # also refuses NaN
                raise ModelFileError(f"it is {value}", file=t.file, field=own, offset=t.offset, expected="a number")
            found.setdefault(key, []).append(value)
    return found


def _tie(
    folder: ModelFile,
    c: _Settings,
    tensors: dict[str, Tensor],
    default: bool,
    own_name: Callable[[str], str],
    either: bool,
) -> None:
    """Removes the head if it is tied to the embedding. The tensors must agree with tie_word_embeddings; if a wrapper
    has no such key, the tensors decide. either: text_config may have the key, too. Raises ModelFileError,
    UnsupportedModelError."""
    tied = folder.get_bool("config.tie_word_embeddings", None)
    if c.prefix != "config.":
        inner = c.get_bool("tie_word_embeddings", None)
        if tied is None or (either and inner):
            tied = inner if inner is not None else "output.weight" not in tensors
    elif tied is None:
        tied = default
    head, embedding = tensors.get("output.weight"), tensors.get("token_embd.weight")
    if not tied and head is None:
        raise ModelFileError("no such tensor", file=folder.path, field=own_name("output.weight"),
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

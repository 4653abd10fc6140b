"""llama-cpp-python's arguments as the library's options: those accepted, those without effect, those refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from pellucid.compat.llama_cpp.llama_chat_format import TEMPLATES
from pellucid.compat.llama_cpp.llama_grammar import LlamaGrammar
from pellucid.errors import WrongType

__all__ = [
    "LLAMA_POOLING_TYPE_CLS",
    "LLAMA_POOLING_TYPE_LAST",
    "LLAMA_POOLING_TYPE_MEAN",
    "LLAMA_POOLING_TYPE_NONE",
    "LLAMA_POOLING_TYPE_UNSPECIFIED",
    "LLAMA_SPLIT_MODE_LAYER",
    "LLAMA_SPLIT_MODE_NONE",
    "LLAMA_SPLIT_MODE_ROW",
    "GGML_TYPE_BF16",
    "GGML_TYPE_F16",
    "GGML_TYPE_F32",
    "GGML_TYPE_Q8_0",
    "LLAMA_DEFAULT_SEED",
    "POOLINGS",
    "check",
    "kv_of",
    "request",
    "seed_of",
    "template_of",
]

GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_BF16 = 0, 1, 8, 30
LLAMA_DEFAULT_SEED = 0xFFFFFFFF
LLAMA_POOLING_TYPE_UNSPECIFIED = -1
LLAMA_POOLING_TYPE_NONE = 0
LLAMA_POOLING_TYPE_MEAN = 1
LLAMA_POOLING_TYPE_CLS = 2
LLAMA_POOLING_TYPE_LAST = 3
LLAMA_SPLIT_MODE_NONE, LLAMA_SPLIT_MODE_LAYER, LLAMA_SPLIT_MODE_ROW = range(3)

POOLINGS = {LLAMA_POOLING_TYPE_MEAN: "mean", LLAMA_POOLING_TYPE_CLS: "first", LLAMA_POOLING_TYPE_LAST: "last"}
KV = {GGML_TYPE_F32: "f32", GGML_TYPE_F16: "f16", GGML_TYPE_Q8_0: "int8", GGML_TYPE_BF16: "bf16"}
RAW: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}  # draws from all

# Arguments of a model that change how llama.cpp computes, and nothing here -> their defaults.
IGNORED: dict[str, Any] = {
    "f16_kv": True,
    "flash_attn": False,
    "main_gpu": 0,
    "n_batch": 512,
    "n_gpu_layers": 0,
    "n_parts": -1,
    "n_threads_batch": None,
    "n_ubatch": 512,
    "no_perf": False,
    "numa": False,
    "offload_kqv": True,
    "op_offload": None,
    "split_mode": LLAMA_SPLIT_MODE_LAYER,
    "swa_full": None,
    "tensor_split": None,
    "use_mlock": False,
    "use_mmap": True,
    "spm_infill": False,
}
# Those that would change an answer, and are not supported -> the value that changes nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "attention_type": (-1,),
    "chat_handler": (None,),
    "draft_model": (None,),
    "kv_overrides": (None, {}),
    "lora_base": (None,),
    "lora_path": (None,),
    "lora_scale": (1.0,),
    "rope_freq_base": (0.0, 10000.0),
    "rope_freq_scale": (0.0, 1.0),
    "rope_scaling_type": (None, -1),
    "tokenizer": (None,),
    "vocab_only": (False,),
    "yarn_attn_factor": (1.0,),
    "yarn_beta_fast": (32.0,),
    "yarn_beta_slow": (1.0,),
    "yarn_ext_factor": (-1.0,),
    "yarn_orig_ctx": (0,),
}
# The same for a call.
REFUSED_OF_CALLS: dict[str, tuple[Any, ...]] = {
    "logits_processor": (None, []),
    "stopping_criteria": (None, []),
    "suffix": (None, ""),
    "tfs_z": (1.0,),
}


def check(given: Mapping[str, Any]) -> None:
    """Raises NotImplementedError for what is not supported; warns of what has no effect."""
    without = []
    for name, value in given.items():
        if name in REFUSED:
            _refuse(name, value, REFUSED[name])
        elif name not in IGNORED or value not in (None, IGNORED[name]):
            without.append(name)
    if without:
        warnings.warn(f"without effect: {', '.join(sorted(without))}", stacklevel=3)


def _refuse(name: str, value: Any, harmless: tuple[Any, ...]) -> None:
    if not any(value is one or value == one for one in harmless):
        raise NotImplementedError(f"{name} is not supported")


def kv_of(type_k: int | None, type_v: int | None) -> str:
    """The type of cached keys and values."""
    if type_k is None and type_v is None:
        return "auto"
    k, v = (GGML_TYPE_F16 if one is None else one for one in (type_k, type_v))  # llama.cpp's own
    if k not in KV or k != v:
        known = ", ".join(f"{number} ({name})" for number, name in KV.items())
        raise NotImplementedError(f"type_k={type_k}, type_v={type_v} are not supported: expected the same of {known}")
    return KV[k]


def template_of(chat_format: str | None, template: str | None) -> str | None:
    """The chat template; None: the model's own."""
    if template is not None or chat_format in (None, "chat_template.default"):
        return template
    if chat_format not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise NotImplementedError(
            f"chat_format={chat_format!r} is not supported: expected None, for the model's own, {known}, or a template "
            "in Jinja with template=..."
        )
    return TEMPLATES[chat_format]


def seed_of(seed: int | None) -> int | None:
    """The seed; None if it says that one is to be drawn."""
    return None if seed is None or seed in (-1, LLAMA_DEFAULT_SEED) else seed


def request(given: Mapping[str, Any], repeat_last: int, seed: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> the fields of OpenAI's request, and further options of the library. given: the arguments of a call.
    repeat_last, seed: of the model."""
    fields, options = dict(given), dict[str, Any]()
    for name, harmless in REFUSED_OF_CALLS.items():
        if name in fields:
            _refuse(name, fields.pop(name), harmless)
    grammar, bias, mode = fields.pop("grammar", None), fields.pop("logit_bias", None), fields.pop("mirostat_mode", 0)
    if grammar is not None:
        if not isinstance(grammar, LlamaGrammar):
            raise WrongType("grammar", f": expected a LlamaGrammar, not {type(grammar).__name__}")
        options.update(grammar.options())
    if bias:
        options["logit_bias"] = {int(id): float(value) for id, value in bias.items()}
    if mode not in (0, 2):
        raise NotImplementedError(f"mirostat_mode={mode!r} is not supported: expected 0 (off) or 2")
    if mode and not (fields.get("temperature") is not None and fields["temperature"] <= 0):
        fields["mirostat"] = mode
    else:
        fields.pop("mirostat_tau", None)
        fields.pop("mirostat_eta", None)
    if fields.get("max_tokens") is not None and fields["max_tokens"] <= 0:  # as many as fit
        del fields["max_tokens"]
    if fields.get("top_k") is not None and fields["top_k"] < 0:  # all
        fields["top_k"] = 0
    if fields.get("temperature") is not None and fields["temperature"] < 0:
        fields |= RAW
    fields["repeat_last"] = repeat_last
    fields["seed"] = seed_of(fields.get("seed")) if seed_of(fields.get("seed")) is not None else seed
    return fields, options

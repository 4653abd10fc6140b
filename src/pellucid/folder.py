"""Hugging Face folders of one model_type, in GGUF's terms: the tables that an architecture's file holds.

Data alone: weights/huggingface.py reads a folder by them, and knows no architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

# Keys of config.json that decoders of Llama's kind share, and GGUF's for them.
KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "hidden_act": "hidden_activation",
    "rope_theta": "rope.freq_base",
}

# Modules, and GGUF's names for them.
NAMES = {
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
QKVO = ("attn_q", "attn_k", "attn_v", "attn_output")
MLP = ("ffn_gate", "ffn_up", "ffn_down")


class Settings(Protocol):
    """config.json of a folder (its text_config, where it has one): a key's value, checked; read keys are remembered.

    Each getter takes (key[, default], *, ...) as those of weights.ModelFile do.
    """

    @property
    def get_int(self) -> Callable[..., Any]: ...
    @property
    def get_float(self) -> Callable[..., Any]: ...
    @property
    def get_bool(self) -> Callable[..., Any]: ...
    @property
    def get_list(self) -> Callable[..., Any]: ...
    @property
    def refuse(self) -> Callable[..., Exception]: ...  # (key[, what is supported])


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A model_type that runs.

    A key of config.json is read (`keys`, `biases`, `derive`, the rotation's), or is known not to alter what a model
    computes (weights/huggingface.py lists those that all folders may have), or its folder is refused.
    """

    classes: tuple[str, ...]  # of "architectures"
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)  # key -> GGUF's, which the architecture then reads
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of keys that are left out, as transformers has them
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # key -> projections with a bias where it holds
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)  # of modules
    tied: bool = False  # whether embedding and head are one matrix, where tie_word_embeddings is left out
    norm_offset: float = 0.0  # added to the weights of norms
    ropes: bool = False  # rope_parameters has a table for each kind of layer
    derive: Callable[[Settings], Mapping[str, Any]] | None = None  # what one key does not say alone: GGUF's keys


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """A model_type whose `text_config` is a model that runs; nothing else of it does."""

    classes: tuple[str, ...]
    text: str  # model_type of the text model, where text_config does not say
    other: frozenset[str]  # keys of the parts that do not run
    lacks: str = "images"


def windows(c: Settings, regular: Callable[[int], bool]) -> list[bool]:
    """Which layers see a window alone: as `layer_types` has it, or else `regular` of each layer's number."""
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    kinds = c.get_list("layer_types", None, of=str, length=layers)
    if kinds is None:
        return [regular(i) for i in range(layers)]
    if not {*kinds} <= {"full_attention", "sliding_attention"}:
        raise c.refuse("layer_types", "full_attention, sliding_attention")
    return [kind == "sliding_attention" for kind in kinds]

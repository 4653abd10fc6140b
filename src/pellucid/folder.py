"""Tables that map the Hugging Face folders of one model_type to GGUF's keys and names; architectures hold them.

They are plain data. weights/huggingface.py reads folders with them and does not depend on any architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

# Keys of config.json that Llama-like decoders share -> GGUF's keys.
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

# Names of modules -> GGUF's names.
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
    """Typed getters for a folder's config.json (or its text_config); the keys that were read are recorded.

    Each getter takes (key[, default], *, ...), as in weights.ModelFile.
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
    """A supported model_type.

    Each key of config.json must be read (`keys`, `biases`, `derive`, the rotation's keys) or be known not to alter what
    a model computes (weights/huggingface.py lists those that all folders may have). Otherwise the folder is refused.
    """

    classes: tuple[str, ...]  # supported values of "architectures"
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)  # key -> GGUF's key, which the architecture reads
    defaults: Mapping[str, Any] = field(default_factory=dict)  # transformers' values of keys that may be left out
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # key -> projections with a bias if it is true
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)  # module -> GGUF's name
    tied: bool = False  # default of tie_word_embeddings: whether embedding and head are one matrix
    norm_offset: float = 0.0  # added to the weights of norms
    ropes: bool = False  # rope_parameters has a table for each kind of layer
    derive: Callable[[Settings], Mapping[str, Any]] | None = None  # GGUF's keys computed from several keys


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """A model_type whose `text_config` is a supported model. Only this text model runs."""

    classes: tuple[str, ...]  # supported values of "architectures"
    text: str  # default of text_config's model_type
    other: frozenset[str]  # keys of the parts that do not run
    lacks: str = "images"  # what the text model alone does not take


def windows(c: Settings, regular: Callable[[int], bool]) -> list[bool]:
    """For each layer, whether it sees only a window: from `layer_types`, else `regular` of the layer's number."""
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    kinds = c.get_list("layer_types", None, of=str, length=layers)
    if kinds is None:
        return [regular(i) for i in range(layers)]
    if not {*kinds} <= {"full_attention", "sliding_attention"}:
        raise c.refuse("layer_types", "full_attention, sliding_attention")
    return [kind == "sliding_attention" for kind in kinds]

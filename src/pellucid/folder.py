"""Tables that map the Hugging Face folders of one model_type to GGUF's keys and names; architectures hold them.

They are plain data. weights/huggingface.py reads folders with them and does not depend on any architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pellucid.errors import UnsupportedModelError

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
# Names of modules with experts, and of the expert that every token takes.
EXPERTS = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.*.gate_proj": "ffn_gate_exps",
    "mlp.experts.*.up_proj": "ffn_up_exps",
    "mlp.experts.*.down_proj": "ffn_down_exps",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",  # of all experts in one tensor, as transformers 5 has them
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}
SHARED_EXPERT = {
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
# sentence-transformers' names of what follows a classifier of two texts -> whether it is a sigmoid.
SCORES = {"torch.nn.modules.activation.Sigmoid": True, "torch.nn.modules.linear.Identity": False}
# In `inert`: any value.
ANY = object()
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
    def get_str(self) -> Callable[..., Any]: ...
    @property
    def get_list(self) -> Callable[..., Any]: ...
    @property
    def get_table(self) -> Callable[..., Any]: ...
    @property
    def get_any(self) -> Callable[..., Any]: ...
    @property
    def fail(self) -> Callable[..., Exception]: ...  # (key, message, expected)
    @property
    def prefix(self) -> str: ...  # of the keys in the file
    @property
    def folder(self) -> Any: ...  # the file (weights.ModelFile)
    @property
    def refuse(self) -> Callable[..., Exception]: ...  # (key[, what is supported])


@dataclass(frozen=True)
class Same:
    """In `inert`: the value of another key, or `default` if the folder has no such key."""

    key: str
    default: Any = None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A supported model_type.

    Each key of config.json must be read (`keys`, `biases`, `derive`, the rotation's keys) or be known not to alter what
    a model computes (weights/huggingface.py lists those that all folders may have). Otherwise the folder is refused.
    """

    classes: tuple[str, ...]  # supported values of "architectures"; of a name in "Model" the head may be missing
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)  # key -> GGUF's key, which the architecture reads
    defaults: Mapping[str, Any] = field(default_factory=dict)  # transformers' values of keys that may be left out
    sizes: Mapping[str, int] = field(default_factory=dict)  # of keys that a wrapper's text_config alone may leave out
    # keys that released folders have and transformers does not read -> the value that agrees with what it computes: a
    # constant, `Same` as another key's, or ANY
    inert: Mapping[str, Any] = field(default_factory=dict)
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # key -> projections with a bias if it is true
    biased: tuple[str, ...] = ()  # projections that always have a bias
    # module -> GGUF's name; * is an expert's number; a name with a suffix is that of a parameter, not of a module
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    base: str = "model."  # begins the names of all tensors but the head's, unless the model was saved without its head
    layers: str = "model.layers"
    unused: str = ""  # pattern of tensors, of heads as a rule, that are left unread
    encoder: bool = False  # it never has a head that gives logits of tokens
    tied: bool = False  # default of tie_word_embeddings: whether embedding and head are one matrix
    others: Mapping[str, str] = field(default_factory=dict)  # a layer's tensors that are not weights -> GGUF's names
    # a layer's tensors of one number each -> keys of a list for all layers, which have no architecture's name
    numbers: Mapping[str, str] = field(default_factory=dict)
    norm_offset: float = 0.0  # added to the weights of norms ...
    plain_norms: tuple[str, ...] = ()  # ... but these, by GGUF's names
    # transformers' rope_parameters where neither these nor rope_scaling are given, or are null
    rope: Mapping[str, Any] = field(default_factory=dict)
    ropes: bool = False  # rope_parameters has a table for each kind of layer
    proportional: bool = False  # layers with full attention may have the rotation of this name, and no scaled one
    partial: float | None = None  # default of partial_rotary_factor; None: all columns of a head are rotated
    part: str = "partial_rotary_factor"  # the key beside the rotation's table that gives the same
    mrope: bool = False  # rotations may have mrope_section, which changes nothing for text
    mscales: bool = False  # a longrope has its factor of cosines and sines in two keys of its own
    older_rotations: Mapping[str, str] = field(default_factory=dict)  # older names of rotations -> their present ones
    alpha: bool = False  # a dynamic rotation may have `alpha`, which changes its base
    halves: bool = True  # rotary pairs are (i, i + n/2), else (2i, 2i + 1)
    # keys of the parts of a head's width, of which the first alone is rotated, whatever head_dim says
    rotated: tuple[str, ...] = ()
    heads: str = "num_attention_heads"  # keys of the sizes that a head's width follows from; "": there is no rotation
    width: str = "hidden_size"
    # GGUF's name of a matrix, without its layer -> what a converter does to it and to its bias
    change: Mapping[str, Callable[[Settings, Any], Any]] = field(default_factory=dict)
    turned: tuple[str, ...] = ()  # those of `change` that the model stores as (k, rows)
    # GGUF's name of a stack of matrices that may be in MXFP4 -> what reorders its rows, (experts, rows, ...)
    mxfp4: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    # GGUF's name of a matrix, without its layer -> those of the matrices that a converter makes of it, and how
    split: Mapping[str, Mapping[str, Callable[[Settings, Any], Any]]] = field(default_factory=dict)
    derive: Callable[[Settings], Mapping[str, Any]] | None = None  # GGUF's keys computed from several keys
    variant: Callable[[Settings], str | None] | None = None  # another architecture that a key selects


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """A model_type that holds a text model, described by `text_config`, and other parts. Only the text model runs."""

    classes: tuple[str, ...]  # supported values of "architectures"
    texts: tuple[str, ...]  # model_types that text_config may have; the first is its default
    other: frozenset[str]  # keys of the parts that do not run; text_config may have copies of them
    parts: str = ""  # pattern of these parts' tensors, beside those that any folder may have
    flat: bool = False  # without text_config, the keys of the text model are beside the others
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


def later_windows(c: Settings) -> Mapping[str, Any]:
    """With use_sliding_window, layers from max_window_layers on see a window, unless layer_types names others."""
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    first = c.get_int("max_window_layers", min=0)
    if not c.get_bool("use_sliding_window", False):
        window = None
    local = windows(c, lambda i: window is not None and i >= first)
    if window is None and any(local):
        raise c.refuse("layer_types", "full_attention without use_sliding_window")
    return {"attention.sliding_window": window, "attention.sliding_window_pattern": local} if any(local) else {}


def cap(c: Settings, key: str) -> float | None:
    """The cap of scores or logits, a tanh; None if there is none. transformers divides by it, even if it is 0."""
    value: float | None = c.get_float(key, None, min=1e-6, max=1e6)
    return value


def sparse_layers(c: Settings) -> Mapping[str, Any]:
    """Which layers have experts: every decoder_sparse_step-th one that is not in mlp_only_layers."""
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    step = c.get_int("decoder_sparse_step", 1, min=1, max=1 << 24)
    dense = {*(c.get_list("mlp_only_layers", None, of=int) or ())}
    return {"expert_layers": [i not in dense and (i + 1) % step == 0 for i in range(layers)]}


def score_activation(c: Settings) -> Mapping[str, Any]:
    """Whether a sigmoid follows a classifier of two texts, as sentence-transformers writes it into config.json. Raises
    UnsupportedModelError for a classifier with several labels."""
    classes = c.get_list("architectures", None, of=str) or ()
    if any(name.endswith("ForSequenceClassification") for name in classes):
        names = c.get_table("id2label", None)  # without it and num_labels, transformers has two
        found = len(names) if names is not None else c.get_int("num_labels", 2, min=1)
        if found != 1:
            key = "num_labels" if names is None else "id2label"
            raise UnsupportedModelError(feature=f"{c.prefix}{key} of {found} labels", supported="one label")
    key = "sbert_ce_default_activation_function"  # of sentence-transformers before version 4
    act = c.get_str(key, None)
    if c.get_table("sentence_transformers", None) is not None:
        newer = c.get_str("sentence_transformers.activation_fn", None)
        key, act = (key, act) if newer is None else ("sentence_transformers.activation_fn", newer)
        c.get_str("sentence_transformers.version", None)
        unread = c.folder.unread(f"{c.prefix}sentence_transformers.")
        if unread:
            raise c.refuse(unread[0].removeprefix(c.prefix))
    if act not in (None, *SCORES):
        raise c.refuse(key, ", ".join(SCORES))
    return {} if act is None else {"classifier.sigmoid": SCORES[act]}

"""What the architectures' configurations have in common. The keys are those of GGUF's specification."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.plan import Attention, Rope, TensorLike, floats

_MAX = 1 << 24  # largest value of any size: far beyond real models, small enough that no product overflows
# Range of the factors that a rotation's frequencies may be divided by. Even two of the smallest, multiplied, leave
# every angle within the engine's range.
_FACTOR = (1e-3, 1e9)
_STILL = 1e29  # a factor this large or larger means that the pair is not rotated (Gemma 4's files have 1e30)


class Source(Protocol):
    """A model file (weights.ModelFile): metadata by GGUF's keys, tensors by GGUF's names."""

    path: str
    used: set[str]  # names of tensors that were read, except those in the plan

    @property
    def architecture(self) -> str: ...
    @property
    def tensors(self) -> Mapping[str, TensorLike]: ...
    # get_int(key[, default], *, min, max); the other getters likewise
    @property
    def get_int(self) -> Callable[..., Any]: ...
    @property
    def get_float(self) -> Callable[..., Any]: ...
    @property
    def get_str(self) -> Callable[..., Any]: ...
    @property
    def get_bool(self) -> Callable[..., Any]: ...
    @property
    def get_list(self) -> Callable[..., Any]: ...
    @property
    def get_any(self) -> Callable[..., Any]: ...  # (key, default)
    @property
    def fail(self) -> Callable[..., ModelFileError]: ...  # (key, message, expected)
    @property
    def refuse(self) -> Callable[..., UnsupportedModelError]: ...  # (key[, what is supported])
    @property
    def own_name(self) -> Callable[[str], str]: ...  # GGUF's name of a tensor -> its name in the file
    @property
    def unread(self) -> Callable[[str], list[str]]: ...  # prefix -> keys that begin with it and that no getter has read


# Keys for which one value is supported, whatever the architecture.
_ONLY: dict[str, Any] = {
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.shared_kv_layers": 0,
    "attn_logit_softcapping": 0.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "leading_dense_block_count": 0,
    "nextn_predict_layers": 0,
    "pooling_type": 0,
    "rope.scaling.attn_factor": 1.0,
    "use_parallel_residual": False,
}
# Names of activations in GGUF files and Hugging Face folders. The tanh approximations of GELU are one function.
_ACTIVATIONS = {"silu": "silu", "swish": "silu"} | dict.fromkeys(
    ("gelu_tanh", "gelu_pytorch_tanh", "gelu_new", "gelu_fast"), "gelu_tanh"
)


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of a model.

    attention, rope: of the layers with full attention. local: for each layer, whether it sees only a window; such
    layers use local_attention and local_rope.
    """

    architecture: str
    vocab: int
    dim: int
    layers: int
    ff: int
    eps: float
    context: int
    act: str
    attention: Attention
    rope: Rope
    local: tuple[bool, ...]
    local_attention: Attention
    local_rope: Rope
    embed_scale: float = 1.0
    logit_cap: float = 0.0

    def kind(self, i: int) -> tuple[Attention, Rope]:
        """Heads and rotation of layer i."""
        return (self.local_attention, self.local_rope) if self.local[i] else (self.attention, self.rope)


class Reader:
    """Reads the keys that every architecture has, prefixed with the architecture's name."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.prefix = source.architecture

    def key(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def size(self, name: str, default: int | None = None, max: int = _MAX) -> int:
        """A positive integer."""
        if default is None:
            return int(self.source.get_int(self.key(name), min=1, max=max))
        return int(self.source.get_int(self.key(name), default, min=1, max=max))

    def layer_size(self, name: str, layers: int, default: int | None = None, max: int = _MAX) -> int:
        """A positive integer. A file may give it once, or for each layer; then it must be the same for all layers."""
        values = self.source.get_any(self.key(name), None)
        if not hasattr(values, "__len__") or isinstance(values, (str, bytes)):
            return self.size(name, default, max)
        values = self.source.get_list(self.key(name), of=int, length=layers)
        if len({*values}) != 1:
            raise self.source.refuse(self.key(name), "one value for all layers")
        if not 1 <= values[0] <= max:
            raise self.source.fail(self.key(name), f"it is {values[0]}", f"1 to {max}")
        return int(values[0])

    def number(self, name: str, default: float | None = None, *, min: float = 1e-30, max: float = 1e30) -> float:
        """A positive number."""
        if default is None:
            return float(self.source.get_float(self.key(name), min=min, max=max))
        return float(self.source.get_float(self.key(name), default, min=min, max=max))

    def base(self, *, halves: bool, base: float = 10000.0, act: str = "silu", period: int = 0) -> Config:
        """The configuration of a llama-like model.

        halves: the layout of rotary pairs in a GGUF file. base, act: the rotation's base and the activation where the
        file gives none. period: where a file has a window but does not say for which layers, every period-th layer has
        full attention; 0: all layers see the window.
        """
        for name, only in _ONLY.items():
            value = self.source.get_any(self.key(name), only)
            if not isinstance(value, (bool, int, float)) or value != only:
                raise self.source.refuse(self.key(name), "true" if only is True else f"{only:g}")
        layers = self.size("block_count", max=4096)
        heads = self.layer_size("attention.head_count", layers, max=4096)
        kv_heads = self.layer_size("attention.head_count_kv", layers, heads, max=4096)
        if heads % kv_heads:
            message = f"{kv_heads} key-value heads do not divide {heads} heads"
            raise self.source.fail(self.key("attention.head_count_kv"), message, f"a divisor of {heads}")
        dim = self.size("embedding_length")
        dk = self.size("attention.key_length", max(dim // heads, 1), max=4096)
        dv = self.size("attention.value_length", dk, max=4096)
        rope = self.rope(dk, self.rope_base("rope.freq_base", base), halves=self.halves(halves))
        local, window = self.windows(layers, period)
        return Config(
            architecture=self.prefix,
            vocab=self.vocabulary(dim),
            dim=dim,
            layers=layers,
            ff=self.layer_size("feed_forward_length", layers),
            eps=self.number("attention.layer_norm_rms_epsilon"),
            context=self.size("context_length"),
            act=self.activation(act),
            attention=Attention(heads, kv_heads, dk, dv),
            rope=rope,
            local=local,
            local_attention=Attention(heads, kv_heads, dk, dv, window=window),
            local_rope=rope,
        )

    def activation(self, default: str) -> str:
        name = self.source.get_str(self.key("hidden_activation"), default)
        if name not in _ACTIVATIONS:
            raise self.source.refuse(self.key("hidden_activation"), ", ".join(_ACTIVATIONS))
        return _ACTIVATIONS[name]

    def windows(self, layers: int, period: int) -> tuple[tuple[bool, ...], int]:
        """For each layer, whether it sees only a window; and the window's tokens (0 where no layer has one).

        A file's pattern is a boolean for each layer, or the period of the layers with full attention.
        """
        pattern, window = self.key("attention.sliding_window_pattern"), self.key("attention.sliding_window")
        given = self.source.get_any(pattern, None)
        if given is not None and type(given) is not int:
            local = tuple(self.source.get_list(pattern, of=bool, length=layers))
        else:
            n = self.source.get_int(pattern, period, min=1, max=_MAX)
            has_window = self.source.get_any(window, None) is not None
            local = tuple((i + 1) % n != 0 if n else has_window for i in range(layers))
        if any(local):
            return local, self.size("attention.sliding_window")
        self.source.get_int(window, None, min=1, max=_MAX)
        return local, 0

    def vocabulary(self, dim: int) -> int:
        """The vocabulary size: the number of rows of the embedding."""
        t = self.source.tensors.get("token_embd.weight")
        if t is None:
            raise ModelFileError("no such tensor", file=self.source.path, field="token_embd.weight")
        if len(t.shape) != 2 or t.shape[1] != dim:
            raise ModelFileError(
                f"has shape {t.shape}",
                file=t.file,
                field=t.name,
                offset=t.offset,
                expected=f"shape (vocabulary, {dim})",
            )
        return t.shape[0]

    def rope_base(self, name: str, default: float) -> float:
        """A rotation's base, at least 1."""
        return self.number(name, default, min=1.0)

    def halves(self, default: bool) -> bool:
        """Whether rotary pairs are (i, i + n/2), else (2i, 2i + 1). default: of the architecture's GGUF files, whose
        converters permute the rows of some architectures; in folders pairs are always (i, i + n/2)."""
        return bool(self.source.get_bool("pellucid.rope_halves", default))

    def rope(self, dk: int, base: float, *, halves: bool, scaled: bool = True) -> Rope:
        """Frequencies base^(-2i/n), divided by the factors in rope_freqs and by the linear factor where the file has
        them."""
        n = self.size("rope.dimension_count", dk, max=dk)
        if n % 2:
            raise self.source.fail(self.key("rope.dimension_count"), f"it is {n}", "an even number")
        freq = [base ** (-2.0 * i / n) for i in range(n // 2)]
        if not scaled:
            return Rope(tuple(freq), halves)
        factors = self.source.tensors.get("rope_freqs.weight")
        if factors is not None:
            self.source.used.add("rope_freqs.weight")
            freq = [f / x for f, x in zip(freq, self.factors(factors, n // 2), strict=True)]
        factor = self.number("rope.scale_linear", 1.0, min=_FACTOR[0], max=_FACTOR[1])  # the key's older name
        factor = self.number("rope.scaling.factor", factor, min=_FACTOR[0], max=_FACTOR[1])
        kind = self.source.get_str(self.key("rope.scaling.type"), "linear")
        if kind == "linear":
            freq = [f / factor for f in freq]
        elif kind != "none":
            raise self.source.refuse(self.key("rope.scaling.type"), "none, linear")
        return Rope(tuple(freq), halves)

    def factors(self, t: TensorLike, n: int) -> list[float]:
        """The n factors that frequencies are divided by; infinity for pairs that are not rotated."""
        message, expected = f"has shape {t.shape}", f"shape {(n,)}"
        if t.shape == (n,):
            values: list[float] = floats(t).tolist()
            good = [_FACTOR[0] <= x <= _FACTOR[1] or _STILL <= x < math.inf for x in values]
            if all(good):
                return [x if x < _STILL else math.inf for x in values]
            bad = good.index(False)
            message = f"factor {bad} is {values[bad]}"
            expected = f"{_FACTOR[0]} to {_FACTOR[1]}, or 1e30"
        raise ModelFileError(message, file=t.file, field=t.name, offset=t.offset, expected=expected)

"""What the architectures' configurations have in common. Keys: GGUF's specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.plan import Attention, Rope, TensorLike, floats

_MAX = 1 << 24  # of any size: far beyond real models, small enough that no product overflows
# What a rotation's frequencies may be divided by: twice the least of it, and no angle is yet too large for the engine.
_FACTOR = (1e-3, 1e9)


class Source(Protocol):
    """A model file (weights.ModelFile): metadata by GGUF's keys, tensors by GGUF's names."""

    path: str

    @property
    def architecture(self) -> str: ...
    @property
    def tensors(self) -> Mapping[str, TensorLike]: ...
    # get_int(key[, default], *, min, max) and its kin
    @property
    def get_int(self) -> Callable[..., Any]: ...
    @property
    def get_float(self) -> Callable[..., Any]: ...
    @property
    def get_str(self) -> Callable[..., Any]: ...
    @property
    def get_bool(self) -> Callable[..., Any]: ...
    @property
    def fail(self) -> Callable[..., ModelFileError]: ...  # (key, message, expected)


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of a model. attention and rope: of the full layers, and of the sliding-window ones where there are some."""

    architecture: str
    vocab: int
    dim: int
    layers: int
    ff: int
    eps: float
    context: int
    attention: Attention
    rope: Rope
    local_attention: Attention | None = None
    local_rope: Rope | None = None
    local_period: int = 0  # every local_period-th layer is a full one; 0: all are
    embed_scale: float = 1.0
    logit_cap: float = 0.0

    def is_local(self, i: int) -> bool:
        return bool(self.local_period) and (i + 1) % self.local_period != 0


class Reader:
    """Reads the keys that every architecture has, with its name before them."""

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

    def number(self, name: str, default: float | None = None, *, min: float = 1e-30, max: float = 1e30) -> float:
        """A positive number."""
        if default is None:
            return float(self.source.get_float(self.key(name), min=min, max=max))
        return float(self.source.get_float(self.key(name), default, min=min, max=max))

    def base(self, **fields: Any) -> Config:
        """The configuration of a llama-like model: `fields` replaces what differs."""
        if self.source.get_int(self.key("expert_count"), 0):
            raise UnsupportedModelError(feature=f"{self.prefix} with experts")
        heads = self.size("attention.head_count", max=4096)
        kv_heads = self.size("attention.head_count_kv", heads, max=4096)
        if heads % kv_heads:
            message = f"{kv_heads} key-value heads do not divide {heads} heads"
            raise self.source.fail(self.key("attention.head_count_kv"), message, f"a divisor of {heads}")
        dim = self.size("embedding_length")
        dk = self.size("attention.key_length", max(dim // heads, 1), max=4096)
        dv = self.size("attention.value_length", dk, max=4096)
        values: dict[str, Any] = {
            "architecture": self.prefix,
            "vocab": self.vocabulary(dim),
            "dim": dim,
            "layers": self.size("block_count", max=4096),
            "ff": self.size("feed_forward_length"),
            "eps": self.number("attention.layer_norm_rms_epsilon"),
            "context": self.size("context_length"),
            "attention": Attention(heads, kv_heads, dk, dv),
        }
        if "rope" not in fields:
            values["rope"] = self.rope(dk, self.rope_base("rope.freq_base", 10000.0), halves=self.halves(False))
        return Config(**(values | fields))

    def vocabulary(self, dim: int) -> int:
        """Rows of the embedding: the number that counts."""
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
        """A rotation's base: frequencies fall from 1."""
        return self.number(name, default, min=1.0)

    def halves(self, default: bool) -> bool:
        """Whether rotary pairs are (i, i + n/2). Converters to GGUF permute some architectures' rows; folders never."""
        return bool(self.source.get_bool("pellucid.rope_halves", default))

    def rope(self, dk: int, base: float, *, halves: bool, scaled: bool = True) -> Rope:
        """Frequencies base^(-2i/n), divided by rope_freqs or by the linear factor where the file has them."""
        n = self.size("rope.dimension_count", dk, max=dk)
        if n % 2:
            raise self.source.fail(self.key("rope.dimension_count"), f"it is {n}", "an even number")
        freq = [base ** (-2.0 * i / n) for i in range(n // 2)]
        if not scaled:
            return Rope(tuple(freq), halves)
        factors = self.source.tensors.get("rope_freqs.weight")
        if factors is not None:
            freq = [f / x for f, x in zip(freq, self.factors(factors, n // 2), strict=True)]
        kind = self.source.get_str(self.key("rope.scaling.type"), "none")
        if kind == "linear":
            factor = self.number("rope.scaling.factor", 1.0, min=_FACTOR[0], max=_FACTOR[1])
            freq = [f / factor for f in freq]
        elif kind != "none" and factors is None:
            raise UnsupportedModelError(feature=f"rope scaling {kind!r}", supported="none, linear, rope_freqs")
        return Rope(tuple(freq), halves)

    def factors(self, t: TensorLike, n: int) -> list[float]:
        """n numbers that frequencies are divided by."""
        message, expected = f"has shape {t.shape}", f"shape {(n,)}"
        if t.shape == (n,):
            values: list[float] = floats(t).tolist()
            bad = next((i for i, x in enumerate(values) if not _FACTOR[0] <= x <= _FACTOR[1]), None)
            if bad is None:
                return values
            message, expected = f"factor {bad} is {values[bad]}", f"{_FACTOR[0]} to {_FACTOR[1]}"
        raise ModelFileError(message, file=t.file, field=t.name, offset=t.offset, expected=expected)

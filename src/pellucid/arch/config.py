"""What the architectures' configurations have in common. Keys: GGUF's specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.plan import Attention, Rope, TensorLike, floats

_MAX = 1 << 24  # of any size: far beyond real models, small enough that no product overflows


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

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        if default is None:
            return float(self.source.get_float(self.key(name), min=1e-30, max=1e30))
        return float(self.source.get_float(self.key(name), default, min=1e-30, max=1e30))

    def base(self, **fields: Any) -> Config:
        """The configuration of a llama-like model: `fields` replaces what differs."""
        if self.source.get_int(self.key("expert_count"), 0):
            raise UnsupportedModelError(feature=f"{self.prefix} with experts")
        heads = self.size("attention.head_count", max=4096)
        kv_heads = self.size("attention.head_count_kv", heads, max=4096)
        if heads % kv_heads:
            raise ModelFileError(
                f"{kv_heads} key-value heads do not divide {heads} heads",
                file=self.source.path,
                field=self.key("attention.head_count_kv"),
                expected=f"a divisor of {heads}",
            )
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
            values["rope"] = self.rope(dk, self.number("rope.freq_base", 10000.0), halves=self.halves(False))
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

    def halves(self, default: bool) -> bool:
        """Whether rotary pairs are (i, i + n/2). Converters to GGUF permute some architectures' rows; folders never."""
        return bool(self.source.get_bool("pellucid.rope_halves", default))

    def rope(self, dk: int, base: float, *, halves: bool, scaled: bool = True) -> Rope:
        """Frequencies base^(-2i/n), divided by rope_freqs or by the linear factor where the file has them."""
        n = self.size("rope.dimension_count", dk, max=dk)
        if n % 2:
            raise ModelFileError(
                f"it is {n}", file=self.source.path, field=self.key("rope.dimension_count"), expected="an even number"
            )
        freq = [base ** (-2.0 * i / n) for i in range(n // 2)]
        if not scaled:
            return Rope(tuple(freq), halves)
        factors = self.source.tensors.get("rope_freqs.weight")
        if factors is not None:
            if factors.shape != (n // 2,):
                raise ModelFileError(
                    f"has shape {factors.shape}", file=factors.file, field=factors.name, expected=f"shape {(n // 2,)}"
                )
            freq = [f / float(x) for f, x in zip(freq, floats(factors), strict=True)]
        kind = self.source.get_str(self.key("rope.scaling.type"), "none")
        if kind == "linear":
            factor = self.number("rope.scaling.factor", 1.0)
            freq = [f / factor for f in freq]
        elif kind != "none" and factors is None:
            raise UnsupportedModelError(feature=f"rope scaling {kind!r}", supported="none, linear, rope_freqs")
        return Rope(tuple(freq), halves)

"""The common part of the architectures' configurations. The keys are those of GGUF's specification."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pellucid import rotary
from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.plan import Attention, Experts, Latent, Recurrent, Rope, TensorLike, floats

DEFAULT_CONTEXT = 8192  # tokens; memory is allocated as the context fills
_MAX = 1 << 24  # largest value of any size: far beyond real models, small enough that no product overflows
# Range of the factors by which a rotation's frequencies may be divided. Even two of the smallest, multiplied, leave
# every angle within the engine's range.
_FACTOR = (1e-3, 1e9)
_STILL = 1e29  # a factor this large or larger means that the pair is not rotated (Gemma 4's files have 1e30)
_MOST_STEPS = 1 << 16  # upper bound of the steps by which queries grow; real models have about 40


class Source(Protocol):
    """A model file (weights.ModelFile): metadata by GGUF's keys, tensors by GGUF's names."""

    path: str
    wanted_context: int | None  # tokens that the caller requested
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


# Keys for which only one value is supported, in every architecture.
_ONLY: dict[str, Any] = {
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.shared_kv_layers": 0,
    "attn_logit_softcapping": 0.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "leading_dense_block_count": 0,
    "nextn_predict_layers": 0,
    "use_parallel_residual": False,
}
# GGUF's pooling_type: none, mean, first token, last token.
_POOLINGS = (None, "mean", "first", "last")
_RANK = 4  # the value of a model that returns a score
# Names of activations in GGUF files and Hugging Face folders. The tanh approximations of GELU are one function.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu2": "relu2",
} | dict.fromkeys(("gelu_tanh", "gelu_pytorch_tanh", "gelu_new", "gelu_fast"), "gelu_tanh")


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of a model.

    attention, rope: for layers with full attention. local: for each layer, whether it attends only within a window;
    such layers use local_attention and local_rope. Recurrent layers use neither.
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
    logit_scale: float = 1.0
    score_cap: float = 0.0
    residual_scale: float = 1.0  # of the output of each half of a layer
    query_factors: tuple[float, ...] = ()  # of queries, by position; each applies to query_every positions
    query_every: int = 0
    norms: str = "rms"
    first_position: int = 0  # in a table of learned positions
    padding: int | None = None  # a token without a position, which no text may contain
    parallel: bool = False  # attention and feed-forward network read the same norm
    pooling: str | None = None  # None: the file does not specify it
    headless: bool = False  # it has no head, and so no logits
    experts: Experts | None = None  # of layers that have experts
    sparse: tuple[bool, ...] = ()  # for each layer, whether it has experts; (): none has
    expert_sizes: tuple[tuple[int, int], ...] = ()  # for each layer, top_k and ff of its experts, if layers may differ
    rotated: tuple[bool, ...] = ()  # for each layer, whether its queries and keys are rotated; (): all are
    dense: tuple[tuple[str, int, int], ...] = ()  # layers after pooling: the tensor's name, rows, columns
    # Layers that compute a score from a pooled hidden state, with tanh between them, or gelu and a norm of this name;
    # and whether a sigmoid follows.
    scorer: tuple[tuple[str, int, int], ...] = ()
    scorer_pooling: str = "first"
    scorer_norm: str | None = None
    sigmoid: bool = True
    typed: bool = True  # tokens have types, each with a row that is added to the embedding
    second_type: int = 0  # added to positions in the second of two texts; 0: there is one type of tokens
    recurrent: tuple[bool, ...] = ()  # for each layer, whether it is recurrent; (): none
    memory: Recurrent = Recurrent(2, 1)  # of recurrent layers
    latent: Latent | None = None  # attention over latent rows
    ropes: tuple[Rope, ...] = ()  # for each layer, its rotation, if bases differ
    post_norms: bool = False  # each half of a layer has a norm after it
    gates: bool = False  # each head of attention has a gate
    mixers: tuple[str, ...] = ()  # for each layer, whether it is "mamba", "attention" or "mlp", if only one
    ssm_norm: str = "after"  # place of the norm of a recurrent layer's output: "after" its gate, "before", or "none"
    multipliers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of parts of layers, by name
    act_parameters: tuple[tuple[float, ...], ...] = ()  # of the activation, for each layer; (): it has none
    head_norms: bool = False  # queries and keys are normed per head
    final_norm: str = "output_norm"
    ffs: tuple[int, ...] = ()  # for each layer, its ff; (): the same for all
    sources: tuple[int, ...] = ()  # for each layer, the layer whose keys and values it reads; (): its own
    equal_values: bool | None = None  # in layers with full attention, values are keys; None: the tensors decide
    per_layer: int = 0  # width of a layer's part of a second embedding; 0: none

    def kind(self, i: int) -> tuple[Attention, Rope | None]:
        """Heads and rotation of layer i."""
        attention, rope = (self.local_attention, self.local_rope) if self.local[i] else (self.attention, self.rope)
        return attention, rope if not self.rotated or self.rotated[i] else None


class Reader:
    """Reads the keys that all architectures share, prefixed with the architecture's name."""

    whole_pairs = True  # YaRN's ramp begins and ends at whole pairs
    scores = False  # it may have a classifier in place of pooling

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

    def layer_size(
        self, name: str, layers: int, default: int | None = None, max: int = _MAX, zeros: bool = False
    ) -> int:
        """A positive integer. A file may give it once or per layer; then it must be the same for all layers. zeros:
        layers with 0 do not count (1 if all have 0); they are recurrent."""
        values = self.layer_sizes(name, layers, default, max, zeros)
        if zeros:
            values = tuple(n for n in values if n) or (1,)
        if len({*values}) != 1:
            raise self.source.refuse(self.key(name), "one value for all layers")
        return values[0]

    def layer_sizes(
        self, name: str, layers: int, default: int | None = None, max: int = _MAX, zeros: bool = False
    ) -> tuple[int, ...]:
        """A positive integer for each layer, which a file may give once. zeros: some may be 0."""
        values = self.source.get_any(self.key(name), None)
        if not hasattr(values, "__len__") or isinstance(values, (str, bytes)):
            return (self.size(name, default, max),) * layers
        values = self.source.get_list(self.key(name), of=int, length=layers)
        for n in values:
            if not (0 if zeros else 1) <= n <= max:
                raise self.source.fail(self.key(name), f"it is {n}", f"1 to {max}")
        return tuple(values)

    def of_kinds(self, name: str, local: Sequence[bool], sizes: Sequence[int]) -> tuple[int, int]:
        """The size of layers with full attention, and of those with a window: one size for each kind."""
        found: list[int] = []
        for kind in (False, True):
            values = {n for n, windowed in zip(sizes, local, strict=True) if windowed == kind} or {sizes[0]}
            if len(values) > 1:
                raise self.source.refuse(self.key(name), "one value for all layers of a kind")
            found += values
        return found[0], found[1]

    def number(self, name: str, default: float | None = None, *, min: float = 1e-30, max: float = 1e30) -> float:
        """A positive number."""
        if default is None:
            return float(self.source.get_float(self.key(name), min=min, max=max))
        return float(self.source.get_float(self.key(name), default, min=min, max=max))

    def zeros(self, name: str, layers: int) -> tuple[bool, ...]:
        """For each layer, whether its value is 0; false if the file has one value for all."""
        values = self.source.get_any(self.key(name), None)
        if not hasattr(values, "__len__") or isinstance(values, (str, bytes)):
            return (False,) * layers
        return tuple(n == 0 for n in self.source.get_list(self.key(name), of=int, length=layers))

    def base(
        self,
        *,
        halves: bool,
        base: float = 10000.0,
        act: str = "silu",
        period: int = 0,
        window: int | None = None,
        causal: bool = True,
        norms: str = "rms",
        own: Collection[str] = (),
        recurrent: bool = False,
        kinds: bool = False,
        ff: int | None = None,
        rotates: bool = True,
    ) -> Config:
        """The configuration of a llama-like model.

        halves: the layout of rotary pairs in a GGUF file. base, act: the rotation's base and the activation if the file
        gives none. period: if a file has a window but does not specify the layers, every period-th layer has full
        attention; 0: all layers have the window. window: its number of tokens if the file gives none. causal: whether a
        token attends only to earlier ones; if not, a window reaches half as far to both sides, and there is no head.
        norms: their kind, as in Plan. own: keys that the architecture's file reads itself. recurrent: layers with no
        key-value heads are recurrent. kinds: layers with a window have their own key-value heads, widths and rotation,
        and each layer has its own ff. ff: the width of feed-forward networks if the file gives none. rotates: whether
        there is a rotation, which requires heads of an even width.
        """
        for name, only in _ONLY.items():
            if name in own:
                continue
            value = self.source.get_any(self.key(name), only)
            if not isinstance(value, (bool, int, float)) or value != only:
                raise self.source.refuse(self.key(name), "true" if only is True else f"{only:g}")
        layers = self.size("block_count", max=4096)
        heads = self.layer_size("attention.head_count", layers, max=4096)
        local, window = self.windows(layers, period, window)
        if kinds:
            sizes = self.layer_sizes("attention.head_count_kv", layers, heads, max=4096)
            kv_heads, local_kv = self.of_kinds("attention.head_count_kv", local, sizes)
        else:
            kv_heads = local_kv = self.layer_size("attention.head_count_kv", layers, heads, max=4096, zeros=recurrent)
        for n in (kv_heads, local_kv):
            if heads % n:
                message = f"{n} key-value heads do not divide {heads} heads"
                raise self.source.fail(self.key("attention.head_count_kv"), message, f"a divisor of {heads}")
        dim = self.size("embedding_length")
        dk = self.size("attention.key_length", max(dim // heads, 1), max=4096)
        if dk > 4096:
            raise self.source.fail(self.key("embedding_length"), f"heads have {dk} columns", "at most 4096")
        dv = self.size("attention.value_length", dk, max=4096)
        frequency = self.rope_base("rope.freq_base", base)
        rope = local_rope = self.rope(dk, frequency, halves=self.halves(halves), rotates=rotates)
        local_dk, local_dv = dk, dv
        ffs: tuple[int, ...] = ()
        if kinds:
            local_dk = self.size("attention.key_length_swa", dk, max=4096)
            local_dv = self.size("attention.value_length_swa", local_dk, max=4096)
            local_base = self.rope_base("rope.freq_base_swa", 10000.0)
            local_rope = self.rope(local_dk, local_base, halves=self.halves(halves), scaled=False, kind="_swa")
            ffs = self.layer_sizes("feed_forward_length", layers)
        if self.source.get_bool(self.key("attention.causal"), causal) != causal:
            raise self.source.refuse(self.key("attention.causal"), str(causal).lower())
        if not causal:
            window = window // 2 + 1 if window else 0
        return Config(
            architecture=self.prefix,
            vocab=self.vocabulary(dim),
            dim=dim,
            layers=layers,
            ff=ffs[0] if ffs else self.layer_size("feed_forward_length", layers, ff, zeros=recurrent),
            eps=self.number(f"attention.layer_norm_{'rms_' if norms == 'rms' else ''}epsilon"),
            norms=norms,
            context=self.size("context_length"),
            act=self.activation(act),
            attention=Attention(heads, kv_heads, dk, dv, causal=causal),
            rope=rope,
            local=local,
            local_attention=Attention(heads, local_kv, local_dk, local_dv, window=window, causal=causal),
            local_rope=local_rope,
            pooling=self.pooling(),
            headless=not causal or self.source.get_bool("pellucid.headless", False),
            recurrent=self.zeros("attention.head_count_kv", layers) if recurrent else (),
            ffs=ffs,
        )

    def norms_heads(self) -> bool:
        """Whether queries and keys are normed, in all layers: the tensors decide. The key in folders must agree."""
        name, key = "blk.0.attn_q_norm.weight", self.key("attention.qk_norm")  # not a GGUF key
        has = name in self.source.tensors
        if self.source.get_bool(key, has) != has:
            raise self.source.fail(key, f"the model has {'' if has else 'no '}{self.source.own_name(name)}")
        return has

    def ranks(self) -> bool:
        """Whether the file specifies that its model returns scores."""
        return self.scores and self.source.get_any(self.key("pooling_type"), None) == _RANK

    def pooling(self) -> str | None:
        kind = self.source.get_int(self.key("pooling_type"), 0)
        if self.ranks():
            return None
        if not 0 <= kind < len(_POOLINGS):
            raise self.source.refuse(self.key("pooling_type"), "0 (none), 1 (mean), 2 (first), 3 (last)")
        return _POOLINGS[kind]

    def dense(self, width: int) -> tuple[tuple[str, int, int], ...]:
        """The layers dense_2 and dense_3 (named after sentence-transformers' modules), if the file has them."""
        found: list[tuple[str, int, int]] = []
        for name in ("dense_2", "dense_3"):
            t = self.source.tensors.get(f"{name}.weight")
            if t is None and self.source.get_any(self.key(f"{name}_feat_out"), None) is None:
                continue
            k = self.size(f"{name}_feat_in", width)
            if k != width:
                raise self.source.fail(self.key(f"{name}_feat_in"), f"it is {k}", f"{width}, the width before it")
            width = self.size(f"{name}_feat_out", None if t is None or not t.shape else t.shape[0])
            found.append((name, width, k))
        return tuple(found)

    def activation(self, default: str) -> str:
        name = self.source.get_str(self.key("hidden_activation"), default)
        if name not in _ACTIVATIONS:
            raise self.source.refuse(self.key("hidden_activation"), ", ".join(_ACTIVATIONS))
        return _ACTIVATIONS[name]

    def windows(self, layers: int, period: int, default: int | None = None) -> tuple[tuple[bool, ...], int]:
        """For each layer, whether it attends only within a window; and the window's tokens (0 if no layer has one).

        A file's window may also be 0: none. Its pattern is a boolean for each layer, or the period of the layers with
        full attention.
        """
        pattern, window = self.key("attention.sliding_window_pattern"), self.key("attention.sliding_window")
        given = self.source.get_any(pattern, None)
        if given is not None and type(given) is not int:
            left = layers - self.source.get_int(self.key("nextn_predict_layers"), 0)  # EXAONE 4.5 lists only these
            rest = layers - left if hasattr(given, "__len__") and len(given) == left else 0
            local = (*self.source.get_list(pattern, of=bool, length=layers - rest), *(False,) * rest)
        else:
            n = self.source.get_int(pattern, period, min=1, max=_MAX)
            size = self.source.get_any(window, None)
            has_window = size is not None and not (type(size) is int and size == 0)
            local = tuple((i + 1) % n != 0 if n else has_window for i in range(layers))
        if any(local):
            return local, self.size("attention.sliding_window", default)
        self.source.get_int(window, None, min=0, max=_MAX)
        return local, 0

    def vocabulary(self, dim: int) -> int:
        """The vocabulary size: the number of rows of the embedding."""
        t = self.source.tensors.get("token_embd.weight")
        if t is None:
            name = self.source.own_name("token_embd.weight")
            raise ModelFileError("no such tensor", file=self.source.path, field=name)
        if len(t.shape) != 2 or t.shape[1] != dim or not t.shape[0]:
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
        """Whether rotary pairs are (i, i + n/2), else (2i, 2i + 1). default: for the architecture's GGUF files, whose
        converters permute the rows of some architectures; in folders pairs are always (i, i + n/2)."""
        return bool(self.source.get_bool("pellucid.rope_halves", default))

    def rope(
        self, dk: int, base: float, *, halves: bool, scaled: bool = True, kind: str = "", rotates: bool = True
    ) -> Rope:
        """Frequencies base^(-2i/n), divided by the factors in rope_freqs and by the linear factor if the file has them.
        kind: suffix of the key with n. rotates: as in `base`."""
        count = f"rope.dimension_count{kind}"
        n = self.size(count, dk, max=dk)
        if n % 2 and rotates:
            names = (count, f"attention.key_length{kind}")  # the key that n is from, else those that it is derived from
            found = [name for name in names if self.source.get_any(self.key(name), None) is not None]
            name = found[0] if found else "attention.head_count"
            raise self.source.fail(self.key(name), f"a head has {n} column{'s' * (n != 1)} to rotate", "an even number")
        freq = [base ** (-2.0 * i / n) for i in range(n // 2)]
        if not scaled:
            return Rope(tuple(freq), halves)
        factors = self.source.tensors.get("rope_freqs.weight")
        if factors is not None:
            self.source.used.add("rope_freqs.weight")
            freq = [f / x for f, x in zip(freq, self.factors(factors, n // 2), strict=True)]
        scale = self.number("rope.scaling.attn_factor", 1.0, min=_FACTOR[0], max=_FACTOR[1])
        longrope = self.longrope(n // 2)
        if longrope is not None:
            freq = [f / x for f, x in zip(freq, longrope, strict=True)]
        factor = self.number("rope.scale_linear", 1.0, min=_FACTOR[0], max=_FACTOR[1])  # the key's older name
        factor = self.number("rope.scaling.factor", factor, min=_FACTOR[0], max=_FACTOR[1])
        scaling = self.source.get_str(self.key("rope.scaling.type"), "linear")
        if scaling == "longrope" and factor != 1.0:
            raise self.source.refuse(self.key("rope.scaling.factor"), "1, beside the factors of longrope")
        if scaling == "linear":
            freq = [f / factor for f in freq]
        elif scaling == "yarn":
            divisors, times = self.yarn(n, base, factor)
            freq = [f / x for f, x in zip(freq, divisors, strict=True)]
            scale *= times
        elif scaling != "none" and not (scaling == "longrope" and longrope is not None):
            raise self.source.refuse(self.key("rope.scaling.type"), "none, linear, yarn, longrope with its factors")
        return Rope(tuple(freq), halves, scale)

    def yarn(self, n: int, base: float, factor: float) -> tuple[list[float], float]:
        """YaRN's divisors of the frequencies and its factor of cosines and sines, as llama.cpp computes them."""
        original = self.original_context()
        fast = self.number("rope.scaling.yarn_beta_fast", 32.0, max=1e6)
        slow = self.number("rope.scaling.yarn_beta_slow", 1.0, max=1e6)
        if fast <= slow or base <= 1:
            message, expected = f"it is {slow}, with a base of {base}", f"less than {fast}, with a base above 1"
            raise self.source.fail(self.key("rope.scaling.yarn_beta_slow"), message, expected)
        if self.number("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
            raise self.source.refuse(self.key("rope.scaling.yarn_ext_factor"), "1")
        plain = rotary.yarn_scale(factor)
        given = self.number("rope.scaling.yarn_attn_factor", 1.0)  # attention_factor of folders (OLMo 3), all of it
        if given != 1.0 and not math.isclose(given, plain, rel_tol=1e-6):
            raise self.source.refuse(self.key("rope.scaling.yarn_attn_factor"), f"1, {plain:g}")
        weight = self.number("rope.scaling.yarn_log_multiplier", 0.0, min=0.0)
        scale = plain / (rotary.yarn_scale(factor, weight) if weight else 1.0)
        return rotary.yarn(n, base, factor, original, fast, slow, self.whole_pairs), scale

    def original_context(self) -> int:
        """The context that the model was first trained with; if the file does not give it, the model's context."""
        return self.size("rope.scaling.original_context_length", self.size("context_length"))

    def longrope(self, n: int) -> list[float] | None:
        """LongRoPE's n factors, if the file has them: those for long contexts, if the model is loaded with a longer one
        than it was first trained with."""
        names = {kind: f"rope_factors_{kind}.weight" for kind in ("long", "short")}
        if not any(name in self.source.tensors for name in names.values()):
            return None
        found = {}
        for kind, name in names.items():
            t = self.source.tensors.get(name)
            if t is None:
                raise ModelFileError("no such tensor", file=self.source.path, field=name, expected=f"shape {(n,)}")
            self.source.used.add(name)
            found[kind] = self.factors(t, n)
        original = self.original_context()
        wanted = self.source.wanted_context or min(self.size("context_length"), DEFAULT_CONTEXT)
        return found["long" if wanted > original else "short"]

    def factors(self, t: TensorLike, n: int) -> list[float]:
        """The n divisors of frequencies; infinity for pairs that are not rotated."""
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


def without_predictors(r: Reader, c: Config) -> Config:
    """The configuration without the layers for multi-token prediction. A file counts them with the others; they come
    last and do not run. Their tensors may be left unread."""
    source = r.source
    more = int(source.get_int(r.key("nextn_predict_layers"), 0, min=0, max=c.layers - 1))
    for i in range(c.layers - more, c.layers):
        source.used.update(name for name in source.tensors if name.startswith(f"blk.{i}."))
    return replace(c, layers=c.layers - more)


def growing_queries(r: Reader, c: Config, beta: float, every: int) -> Config:
    """The configuration with queries that grow with the logarithm of their position: times 1 + beta ln(1 + floor(p /
    every)) at position p (Ministral 3)."""
    if c.context // every > _MOST_STEPS:
        raise r.source.refuse(r.key("rope.scaling.original_context_length"), f"at least {-(-c.context // _MOST_STEPS)}")
    factors = tuple(1.0 + beta * math.log(1.0 + i) for i in range(-(-c.context // every)))
    return replace(c, query_factors=factors, query_every=every)

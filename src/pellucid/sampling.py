"""Options of a generation, and their validation."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, get_args

import numpy as np

from pellucid.checks import MOST_INT32, choice, flag, integer, items, number, string, wrong_type, wrong_value
from pellucid.errors import WrongType, WrongValue, shown
from pellucid.structure import (
    Structure,
    check_choice,
    check_grammar,
    check_one,
    check_regex,
    check_schema,
    structure_of,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Cancel",
    "Integer",
    "Number",
    "OnFull",
    "SamplerName",
    "SamplingKeywords",
    "SamplingOptions",
    "SharedKeywords",
    "check_cancel",
    "check_chunk",
    "lists_options",
]

MOST_LOGPROBS = 2**20  # more than any vocabulary; bounds the memory that one call may allocate
MOST_STRINGS = 2**16  # per option
MOST_SEED = 2**64 - 1
MOST_LOGIT = 1000  # maximum of a penalty or bias: larger than any difference of logits, and sums stay finite

# The sampler's steps in their default order.
SamplerName = Literal["penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
OnFull = Literal["error", "stop"]

Integer = int | np.integer[Any]
Number = float | np.floating[Any] | np.integer[Any]


class _Event(Protocol):
    def is_set(self) -> bool: ...


Cancel = _Event | Callable[[], object]


class SharedKeywords(TypedDict, total=False):
    """The options that every generation accepts, as keywords. None means the default; :class:`SamplingOptions`
    describes them."""

    max_tokens: Integer | None
    temperature: Number | None
    top_k: Integer | None
    top_p: Number | None
    min_p: Number | None
    typical_p: Number | None
    repeat_penalty: Number | None
    repeat_last: Integer | None
    presence_penalty: Number | None
    frequency_penalty: Number | None
    dry_multiplier: Number | None
    dry_base: Number | None
    dry_allowed_length: Integer | None
    dry_range: Integer | None
    dry_breakers: str | Iterable[str] | None
    top_n_sigma: Number | None
    xtc_probability: Number | None
    xtc_threshold: Number | None
    dynatemp_range: Number | None
    dynatemp_exponent: Number | None
    mirostat: Literal[0, 2] | None
    mirostat_tau: Number | None
    mirostat_eta: Number | None
    samplers: Iterable[SamplerName] | None
    logit_bias: Mapping[int, Number] | Mapping[np.int32, Number] | Mapping[np.int64, Number] | None
    seed: Integer | Iterable[Integer] | None
    stop: str | Iterable[str] | None
    stop_ids: Iterable[Integer] | None
    ignore_eos: bool | np.bool_ | None
    logprobs: Integer | None
    echo: bool | np.bool_ | None
    cache: bool | np.bool_ | None
    chunk: Integer | None
    cancel: Cancel | None
    speculate: Literal["auto", False] | None
    prediction: str | Iterable[Integer] | None
    schema: object | None
    regex: str | None
    choice: Iterable[str] | None
    grammar: str | Structure | None
    strict: bool | np.bool_ | None


class SamplingKeywords(SharedKeywords, total=False):
    """All the options that :class:`SamplingOptions` accepts."""

    on_full: OnFull | None


def _strings(name: str, value: Any) -> tuple[str, ...]:
    checked = []
    values = (value,) if isinstance(value, str) else value
    for at, text in items(name, values, "a string or a sequence of strings"):
        checked.append(string(name, text, at=at))
        if not checked[-1]:
            raise WrongValue(name, f"{at}='': expected at least one character")
        if len(checked) > MOST_STRINGS:
            raise WrongValue(name, f": expected at most {MOST_STRINGS} strings")
    return tuple(checked)


def _ids(name: str, value: Any) -> tuple[int, ...]:
    found = items(name, value, "a sequence of token ids")
    return tuple(integer(name, id, 0, MOST_INT32, at=at) for at, id in found)


def _biases(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise wrong_type(name, value, "a mapping of token ids to numbers")
    checked = {}
    for key, bias in value.items():
        id = integer(name, key, 0, MOST_INT32, at="'s token id")
        forbids = isinstance(bias, (float, np.floating)) and bias == -math.inf
        checked[id] = -math.inf if forbids else number(name, bias, -MOST_LOGIT, MOST_LOGIT, at=f"[{id}]")
    return checked


def _samplers(name: str, value: Any) -> tuple[str, ...]:
    names: list[str] = []
    for at, step in items(name, value, "a sequence of names"):
        found = string(name, step, "a name", at=at)
        if found not in SAMPLERS:
            raise WrongValue(name, f"{at}={shown(found)}{_closest(found, list(SAMPLERS))}")
        if found in names:
            raise wrong_value(name, found, "each name at most once", at)
        names.append(found)
    return tuple(names)


def _mirostat(name: str, value: Any) -> int:
    found = integer(name, value, -math.inf)
    if found not in (0, 2):
        raise wrong_value(name, value, "0 (off) or 2")
    return found


def _seed(name: str, value: Any) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not hasattr(type(value), "__iter__") or getattr(value, "ndim", None) == 0:
        return integer(name, value, 0, MOST_SEED)
    return tuple(integer(name, one, 0, MOST_SEED, at=at) for at, one in items(name, value, "an integer or several"))


def _speculate(name: str, value: Any) -> Literal["auto", False]:
    if isinstance(value, (bool, np.bool_)) and not value:
        return False
    if isinstance(value, str) and str.__eq__(value, "auto"):
        return "auto"
    raise wrong_value(name, value, "'auto' or False")


def _prediction(name: str, value: Any) -> str | tuple[int, ...] | None:
    if value is None or isinstance(value, str):
        return None if value is None else string(name, value)
    found = items(name, value, "a text or a sequence of token ids")
    return tuple(integer(name, id, 0, MOST_INT32, at=at) for at, id in found)


def check_cancel(name: str, value: Any) -> Any:
    """None, a threading.Event or a callable. Raises WrongType for anything else."""
    if value is not None and not callable(value) and not callable(getattr(value, "is_set", None)):
        raise WrongType(name, f" must be a threading.Event or a callable, not {type(value).__name__}")
    return value


def check_chunk(name: str, value: Any) -> int:
    """The number of rows of a forward pass, at least one."""
    return integer(name, value, 1, MOST_INT32)


def _repeat_penalty(name: str, value: Any) -> float:
    """Not between 0 and 1e-6: logits are divided by it and must stay finite."""
    found = number(name, value, 0, MOST_LOGIT)
    if 0 < found < 1e-6:
        raise wrong_value(name, value, "0 (off) or at least 1e-06")
    return found


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_tokens": lambda n, v: None if v is None else integer(n, v, 0),
    "temperature": lambda n, v: number(n, v, 0),
    "top_k": lambda n, v: integer(n, v, 0),
    "top_p": lambda n, v: number(n, v, 0, 1),
    "min_p": lambda n, v: number(n, v, 0, 1),
    "typical_p": lambda n, v: number(n, v, 0, 1),
    "repeat_penalty": _repeat_penalty,
    "repeat_last": lambda n, v: integer(n, v, 0),
    "presence_penalty": lambda n, v: number(n, v, -MOST_LOGIT, MOST_LOGIT),
    "frequency_penalty": lambda n, v: number(n, v, -MOST_LOGIT, MOST_LOGIT),
    "dry_multiplier": lambda n, v: number(n, v, 0, MOST_LOGIT),
    "dry_base": lambda n, v: number(n, v, 1),
    "dry_allowed_length": lambda n, v: integer(n, v, 0),
    "dry_range": lambda n, v: integer(n, v, -1),
    "dry_breakers": _strings,
    "top_n_sigma": lambda n, v: number(n, v, 0),
    "xtc_probability": lambda n, v: number(n, v, 0, 1),
    "xtc_threshold": lambda n, v: number(n, v, 0, 1),
    "dynatemp_range": lambda n, v: number(n, v, 0),
    "dynatemp_exponent": lambda n, v: number(n, v, 0),
    "mirostat": _mirostat,
    "mirostat_tau": lambda n, v: number(n, v, 0, 1000),
    "mirostat_eta": lambda n, v: number(n, v, 0, 1000),
    "samplers": _samplers,
    "logit_bias": _biases,
    "seed": _seed,
    "stop": _strings,
    "stop_ids": _ids,
    "ignore_eos": flag,
    "logprobs": lambda n, v: integer(n, v, 0, MOST_LOGPROBS),
    "echo": flag,
    "cache": flag,
    "chunk": check_chunk,
    "cancel": check_cancel,
    "schema": check_schema,
    "regex": check_regex,
    "choice": check_choice,
    "grammar": check_grammar,
    "strict": flag,
    "on_full": lambda n, v: choice(n, v, ("error", "stop")),
    "speculate": _speculate,
    "prediction": _prediction,
}


@dataclass(frozen=True, slots=True, init=False, repr=False)
class SamplingOptions:
    """The options of a generation, for any number of calls: ``generate(prompt, options=o)``. Keywords given beside it
    win.

    Created from keyword arguments, all optional. None means that an option is not given, except for max_tokens. Every
    value is validated.

    The sampler's steps act in the order of ``samplers``, by default: penalties, dry, (``logit_bias``), top_n_sigma,
    top_k, typical_p, top_p, min_p, xtc, temperature. Each works on the tokens that the previous one kept, with
    probabilities renormalised over them. docs/sampling.md has the definitions, the values that switch a step off, the
    sources, and the differences from other programs.

    max_tokens: maximum number of new tokens; None: as many as fit the context. The default of ``chat`` is None.
    temperature: divides the logits. 0 is greedy: the most probable token is drawn, whatever the filters and the place
        of ``temperature`` in the order.
    top_k: keeps the k most probable tokens; 0: all.
    top_p: keeps the smallest set of the most probable tokens whose probabilities sum to at least this; 0: only the most
        probable token.
    min_p: keeps tokens that are at least this times as probable as the most probable one.
    typical_p: keeps the tokens whose surprise is closest to the entropy, as few as reach this probability; 0, 1: all.
    repeat_penalty, presence_penalty, frequency_penalty: apply to tokens among the last ``repeat_last``, including the
        prompt's. The first (0 and 1: off; at most 1000) divides logits above 0 and multiplies those below; the second
        is subtracted once, the third once per occurrence (each -1000 to 1000).
    dry_multiplier, dry_base, dry_allowed_length: DRY (p-e-w, text-generation-webui #5677). If the last n tokens, n at
        least the allowed length, occurred earlier, multiplier * base ** (n - allowed length) is subtracted from the
        logit of the token that followed there; the longest n counts. A multiplier of 0 switches it off.
    dry_range: how many of the last tokens DRY considers, including the prompt's; -1: all, 0: none.
    dry_breakers: texts that a repetition must not cross; tokens that contain or complete one are not penalised.
    top_n_sigma: keeps tokens within this many standard deviations of the best logit (Tang et al. 2024); 0: all.
    xtc_probability, xtc_threshold: XTC (p-e-w, text-generation-webui #6335). With probability xtc_probability, of the
        tokens with a probability of at least xtc_threshold, drops all but the least probable.
    dynatemp_range, dynatemp_exponent: the temperature varies between low and high, temperature -+ range (at least 0),
        with the entropy H of the n tokens left: low + (high - low) * (H / ln n) ** exponent.
    mirostat, mirostat_tau, mirostat_eta: 2 is Mirostat 2 (Basu et al. 2021). It replaces all filters and drops tokens
        with more than mu bits of surprise; mu begins at 2 tau and becomes mu - eta * (bits of the token drawn - tau).
    samplers: names of the steps, in order, each at most once; a step that is left out does not act. None: the default.
        ``logit_bias`` is added before the first step that is neither penalties nor dry.
    logit_bias: {token id: number to add to its logit}, -1000 to 1000; -inf forbids a token. Tokens that the model's
        files forbid (``info().suppressed``) stay forbidden unless they are named here.
    seed: 0 to 2**64 - 1; None: a random one for each completion, which reports it as ``seed``. Several: one per prompt
        of a call, or one per completion.
    stop, stop_ids: strings (or a single one) and tokens that end the text.
    ignore_eos: continues when the model would end the text.
    logprobs: alternatives reported per token; 0: no log probabilities.
    echo: puts the prompt before the text; in a stream, as a piece of its own.
    cache: False recomputes everything for every token.
    chunk: rows per forward pass.
    cancel: threading.Event or callable that ends the generation when it is set or returns true.
    schema: constrains the text to JSON that this schema allows, in compact form. A dictionary, JSON text, or a pydantic
        model class; ``Completion.parsed`` is its value.
    regex, choice, grammar: the text must, as a whole, match this regular expression (Rust's syntax); be one of these
        texts; or match this grammar, in Lark's or GBNF's syntax. At most one of these and ``schema``.
    strict: True: schema keywords that cannot be enforced raise GrammarError; False: they are ignored.
    on_full: what happens when the context fills: "stop" ends the generation, "error" raises ContextFullError.
    speculate: "auto" verifies guesses at several next tokens in a pass when that is predicted to be faster; False:
        never. It changes no bit of any result. See docs/speculation.md.
    prediction: a text (or ids) that the answer is expected to resemble, used as the first guess. It only changes the
        speed.

    Raises TypeError (an unknown option, a wrong type) and ValueError (out of range), naming the option; GrammarError
    for an invalid schema, expression or grammar.
    """

    max_tokens: int | None = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_range: int = -1
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: Literal[0, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    samplers: tuple[SamplerName, ...] = SAMPLERS
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int = 0
    echo: bool = False
    cache: bool = True
    chunk: int = 512
    cancel: Cancel | None = None
    schema: object = field(default=None, hash=False)
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | Structure | None = None
    strict: bool = True
    on_full: OnFull = "stop"
    speculate: Literal["auto", False] = "auto"
    prediction: str | tuple[int, ...] | None = None
    given: frozenset[str] = field(default=frozenset(), init=False)  # names of the options given: these take precedence

    def __init__(self, **options: Unpack[SamplingKeywords]) -> None:
        given = _given(options)
        for name, check in CHECKS.items():
            value = given[name] if name in given else DEFAULTS[name]
            object.__setattr__(self, name, check(name, value))
        object.__setattr__(self, "given", frozenset(given))
        check_one(self.schema, self.regex, self.choice, self.grammar)

    def __repr__(self) -> str:
        return f"SamplingOptions({', '.join(f'{n}={shown(v)}' for n, v in self._options().items())})"

    @classmethod
    def parse(cls, keywords: Mapping[str, Any], **defaults: Any) -> SamplingOptions:
        """Options from the keyword arguments of a call; ``options`` among them may hold more. defaults: those of the
        call, if they differ. Raises TypeError for an unknown name, suggesting the closest, and whatever the class
        raises."""
        base = keywords.get("options")
        if base is not None and not isinstance(base, SamplingOptions):
            raise WrongType("options", f" must be a SamplingOptions, not {type(base).__name__}")
        own = _given({name: value for name, value in keywords.items() if name != "options"})
        return cls(**{**defaults, **(base._options() if base is not None else {}), **own})

    def replace(self, **options: Unpack[SamplingKeywords]) -> SamplingOptions:
        """-> a copy with other values. None leaves a value as it is, except for max_tokens."""
        return self.parse({**options, "options": self})

    def settled(self, seed: int) -> SamplingOptions:
        """-> a copy for one completion: with its seed, and without ``cancel``, which belongs to a call."""
        given = {**self._options(), "max_tokens": self.max_tokens, "seed": seed}
        given.pop("cancel", None)
        return SamplingOptions(**given)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in CHECKS if name in self.given}

    def seeds(self, prompts: int, n: int = 1) -> list[int]:
        """The seeds of n completions for each of several prompts: random if none is given; else completion k (from 0)
        of a prompt has the given seed plus k, modulo 2**64. Raises ValueError for a wrong number of them."""
        seed, every = self.seed, prompts * n
        if seed is None:
            return [int.from_bytes(os.urandom(8), "little") for _ in range(every)]
        if isinstance(seed, int):
            seed = (seed,) * prompts
        elif len(seed) not in (prompts, every):
            expected = f"{prompts} (one per prompt)" + (f" or {every} (one per completion)" if n > 1 else "")
            raise WrongValue("seed", f" has {len(seed)} value{'s' * (len(seed) != 1)}: expected {expected}")
        return list(seed) if len(seed) == every else [(s + k) % (MOST_SEED + 1) for s in seed for k in range(n)]

    def structure(self) -> Structure | None:
        """What the text must match; None: anything."""
        return structure_of(self.schema, self.regex, self.choice, self.grammar, self.strict)

    def penalised(self) -> bool:
        """Whether any penalty depends on recent tokens."""
        return self.repeat_last > 0 and (
            self.repeat_penalty not in (0, 1) or self.presence_penalty != 0 or self.frequency_penalty != 0
        )

    def dry(self) -> bool:
        """Whether DRY is on."""
        return self.dry_multiplier > 0 and self.dry_range != 0 and "dry" in (self.samplers or ())

    def sampler(self) -> dict[str, Any]:
        """Arguments for the engine's Sampler. The seed must be a single one."""
        return {
            "seed": self.seed,
            "temperature": self.temperature,
            "top_k": min(self.top_k, MOST_INT32),
            "top_p": self.top_p,
            "min_p": self.min_p,
            "typical_p": self.typical_p,
            "top_n_sigma": self.top_n_sigma,
            "xtc_probability": self.xtc_probability,
            "xtc_threshold": self.xtc_threshold,
            "dynatemp_range": self.dynatemp_range,
            "dynatemp_exponent": self.dynatemp_exponent,
            "mirostat": self.mirostat,
            "mirostat_tau": self.mirostat_tau,
            "mirostat_eta": self.mirostat_eta,
            "order": self.samplers,
            "dry_multiplier": self.dry_multiplier,
            "dry_base": self.dry_base,
            "dry_allowed_length": min(self.dry_allowed_length, MOST_INT32),
            "dry_range": min(self.dry_range, MOST_INT32),
            "repeat_last": min(self.repeat_last, MOST_INT32),
            "repeat_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "bias": dict(self.logit_bias),
            "logprobs": self.logprobs or -1,
        }


DEFAULTS: dict[str, Any] = {
    f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(SamplingOptions)
}
del DEFAULTS["given"]


F = TypeVar("F", bound=Callable[..., Any])


def lists_options(defaults: Mapping[str, Any]) -> Callable[[F], F]:
    """Decorates a callable whose ``**options`` have these defaults: `help` and a notebook's completion, which inspect
    the live object, then list them. Type checkers and editors read the types instead."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=v) for n, v in defaults.items()]
        function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return function

    return decorate


lists_options(DEFAULTS)(SamplingOptions)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that are None, which count as not given; only for max_tokens is None a value."""
    for name in options:
        if name not in CHECKS:
            raise WrongType("", f"unknown option {shown(name)}{_closest(name, list(CHECKS))}")
    return {name: value for name, value in options.items() if value is not None or name == "max_tokens"}


def _closest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name[:60].lower().replace("-", "_"), known, 1)
    return f": did you mean {near[0]!r}?" if near else f": expected one of {', '.join(known)}"

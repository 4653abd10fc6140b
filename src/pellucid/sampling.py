"""The options of a generation, checked in one place. What the numbers do: csrc/engine/sample.h."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["SamplingOptions"]

_MAX_INT = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Options of ``Model.generate`` with their defaults; made by :meth:`parse`, which checks them.

    Filters act in the order top_k, typical_p, top_p, min_p, then temperature; penalties and logit_bias before them.
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int = 0
    echo: bool = False
    cache: bool = True
    chunk: int = 512
    cancel: Any = None
    on_full: str = "stop"

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> SamplingOptions:
        """Checks options by name. Raises TypeError or ValueError naming the option, its value and what is expected."""
        known = {f.name for f in fields(cls)}
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise TypeError(f"unknown option {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))
        checked = {name: _CHECKS[name](name, value) for name, value in options.items()}
        if checked.get("seed") is None:
            checked["seed"] = int.from_bytes(os.urandom(8), "little")
        return cls(**checked)

    def sampler(self) -> dict[str, Any]:
        """Arguments of the engine's sampler."""
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed")
        return {name: getattr(self, name) for name in names} | {"bias": dict(self.logit_bias), "logprobs": self.logprobs or -1}

    def penalised(self) -> bool:
        """Whether recent tokens matter."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repeat_penalty not in (0.0, 1.0))


def _integer(low: int, high: int = _MAX_INT) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
        n = int(value.__index__())
        if not low <= n <= high:
            raise ValueError(f"{name}={n}: expected {low} to {high}" if high < _MAX_INT else f"{name}={n}: expected at least {low}")
        return n

    return check


def _number(low: float, high: float = math.inf) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            raise TypeError(f"{name} must be a number, not {type(value).__name__}")
        x = float(value)
        if not (math.isfinite(x) and low <= x <= high):
            wanted = "a finite number" if high == math.inf and low == -math.inf else f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise ValueError(f"{name}={x}: expected {wanted}")
        return x

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
    return value


def _seed(name: str, value: Any) -> int | None:
    return None if value is None else _integer(0, (1 << 64) - 1)(name, value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    parts = (value,) if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple, set, frozenset)):
        raise TypeError(f"{name} must be a string or a list of strings, not {type(value).__name__}")
    for part in parts:
        if not isinstance(part, str):
            raise TypeError(f"{name} must hold strings, not {type(part).__name__}")
        if not part:
            raise ValueError(f"{name} must not hold an empty string")
    return tuple(parts)


def _ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise TypeError(f"{name} must be a list of token ids, not {type(value).__name__}")
    return tuple(_integer(0)(f"{name}[{i}]", v) for i, v in enumerate(value))


def _bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict of token id to number, not {type(value).__name__}")
    # -inf forbids a token
    return {_integer(0)(f"{name} key", k): -math.inf if v == -math.inf else _number(-math.inf)(f"{name}[{k}]", v) for k, v in value.items()}


def check_cancel(name: str, value: Any) -> Any:
    """None, a threading.Event, or a callable."""
    if value is None or callable(value) or callable(getattr(value, "is_set", None)):
        return value
    raise TypeError(f"{name} must be a threading.Event or a callable, not {type(value).__name__}")


def check_chunk(name: str, value: Any) -> int:
    """At least one row."""
    return _integer(1)(name, value)


def _on_full(name: str, value: Any) -> str:
    if value not in ("stop", "error"):
        raise ValueError(f'{name}={value!r}: expected "stop" or "error"')
    return str(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_tokens": _integer(0),
    "temperature": _number(0.0),
    "top_k": _integer(0),
    "top_p": _number(0.0, 1.0),
    "min_p": _number(0.0, 1.0),
    "typical_p": _number(0.0, 1.0),
    "repeat_penalty": _number(0.0),
    "repeat_last": _integer(0),
    "presence_penalty": _number(-math.inf),
    "frequency_penalty": _number(-math.inf),
    "logit_bias": _bias,
    "seed": _seed,
    "stop": _strings,
    "stop_ids": _ids,
    "ignore_eos": _flag,
    "logprobs": _integer(0, 1000),
    "echo": _flag,
    "cache": _flag,
    "chunk": check_chunk,
    "cancel": check_cancel,
    "on_full": _on_full,
}

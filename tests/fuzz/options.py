"""Options and prompts of a generation: each is refused under its name, or tokens come out. An input is the text of a
Python table: {"prompt": ..., option: value}."""

from __future__ import annotations

import functools
import math
import random
import tempfile
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from pellucid import Model
from pellucid.sampling import CHECKS, SAMPLERS, SamplingOptions
from tests.fuzz.mutation import FLOATS, number, text
from tests.weights import hostile

__all__ = ["known", "mutate", "run"]

NAMESPACE: dict[str, Any] = {
    "np": np, "math": math, "nan": math.nan, "inf": math.inf, "Decimal": Decimal, "Fraction": Fraction,
    "__builtins__": {"range": range, "set": set},
}  # fmt: skip
NAMES = [name for name in CHECKS if name != "cancel"]
FORMS = (
    "{}",
    "{}",
    "{}",
    "np.int64({})",
    "np.float32({})",
    "np.uint64({})",
    "np.array({})",
    "[{}]",
    "Decimal({})",
    "{{}}",
)


@functools.lru_cache
def _model() -> Model:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(hostile.model().bytes())
        file.flush()
        return Model.load(file.name, threads=1)


def mutate(rng: random.Random) -> bytes:
    table = {"prompt": _prompt(rng), "max_tokens": "4", "seed": "1"}
    for _ in range(rng.randint(1, 5)):
        name = rng.choice(NAMES)
        table[name] = _value(rng, name)
    if "max_tokens" in table and len(table["max_tokens"]) > 2:
        table["on_full"] = "'stop'"
    return ("{" + ", ".join(f"{name!r}: {value}" for name, value in table.items()) + "}").encode()


def run(data: bytes) -> None:
    try:
        table = eval(data.decode(), NAMESPACE)
        prompt = table.pop("prompt")
    except Exception:  # a part of an input, or a value that cannot be made
        return
    model = _model()
    done = model.generate(prompt, **table)
    again = model.generate(prompt, **table)
    for one, other in zip(*((found if isinstance(found, list) else [found]) for found in (done, again)), strict=True):
        if table.get("seed") is not None and one.ids != other.ids:
            raise AssertionError(f"the same seed gave {one.ids} and {other.ids}")


def known() -> dict[str, bytes]:
    return {
        option: f"{{'prompt': [1, 2, 3], 'max_tokens': 3, 'seed': 1, {option}}}".encode()
        for option in (
            "'logit_bias': {1: 10**400}", "'logit_bias': {10**400: 1}", "'logit_bias': {1: -3e38}",
            "'presence_penalty': -3e38, 'logit_bias': {1: 3e38}", "'frequency_penalty': 3e38",
            "'repeat_penalty': 1e-300",
            "'logit_bias': {i: -inf for i in range(272)}", "'temperature': 1e-45", "'temperature': 3e38",
            "'dynatemp_range': 3e38, 'dynatemp_exponent': 3e38", "'seed': np.uint64(2**64 - 1)", "'top_k': 10**6000",
            "'max_tokens': 10**400", "'dry_multiplier': 1000, 'dry_base': 3e38, 'repeat_last': 10**30",
            "'mirostat': 2, 'mirostat_tau': 0, 'mirostat_eta': 1000", "'stop': 'x' * 1000000", "'chunk': 2**31 - 1",
            "'logprobs': 2**20", "'stop_ids': range(10**18)",
            "'schema': {'not': {}}", "'schema': {'type': 'integer'}", "'schema': '['", "'regex': '(' * 300",
            "'choice': ['h', 'l'], 'logit_bias': {i: -inf for i in range(270)}", "'grammar': 'start: start'",
        )
    }  # fmt: skip


def _value(rng: random.Random, name: str) -> str:
    if rng.random() < 0.4:  # near what it may be
        default = getattr(SamplingOptions(seed=1), name)
        if isinstance(default, bool):
            return rng.choice(("True", "False"))
        if isinstance(default, (int, float)):
            return repr(rng.choice((0, 1, 2, 0.5, 0.01, 0.999, 5, 100, 1000)))
        if name == "logit_bias":
            return repr(
                {rng.randrange(272): rng.choice((-1000, 1000, -math.inf, 0.5)) for _ in range(rng.randint(1, 300))}
            )
        if name == "schema":
            return repr(rng.choice(({"type": "integer"}, {"enum": [1, "a"]}, True, {"type": "array"}, '{"const": 1}')))
        if name in ("regex", "grammar"):
            return repr(rng.choice(("[0-9]{2}", "a|b", 'start: "a" | "b"', "root ::= [0-9]+", "(", "")))
        if name == "samplers":
            return repr(rng.sample(SAMPLERS, rng.randint(0, len(SAMPLERS))))
        return repr(rng.choice((["he"], ["l", "o"], "\n", "ll")))
    simple = rng.choice((str(number(rng)), repr(rng.choice(FLOATS)), repr(text(rng)), "None", "True", "10**400"))
    if name == "logit_bias" and rng.random() < 0.7:
        return f"{{{rng.randrange(300)}: {simple}}}"
    return rng.choice(FORMS).format(simple)


def _prompt(rng: random.Random) -> str:
    ids = [rng.randrange(272) for _ in range(rng.randint(0, 30))]
    return rng.choice(
        (repr(ids), repr(text(rng) + "hello"), repr([ids, [1]]), f"[{number(rng)}]", "np.array([1, 2])", "None")
    )

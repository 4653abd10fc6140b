"""SamplingOptions: accepted values, and the errors of wrong ones."""

from __future__ import annotations

import inspect
import math
import pickle
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_type_hints

import numpy as np
import pytest

from pellucid import ChatOptions, Context, Edit, GenerateOptions, Model, _engine
from pellucid._kernels import sampling as kernels
from pellucid.options import TEMPLATE_DEFAULTS
from pellucid.sampling import (
    CHECKS,
    DEFAULTS,
    SAMPLERS,
    Cancel,
    Integer,
    Number,
    SamplerName,
    SamplingKeywords,
    SamplingOptions,
)

from . import twin


def test_defaults_are_those_of_the_interface() -> None:
    o = SamplingOptions(seed=1)
    got = {f.name: getattr(o, f.name) for f in fields(o) if f.name != "given"}
    assert got == dict(
        max_tokens=128, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, typical_p=1.0, repeat_penalty=1.0,
        repeat_last=64, presence_penalty=0.0, frequency_penalty=0.0, dry_multiplier=0.0, dry_base=1.75,
        dry_allowed_length=2, dry_range=-1, dry_breakers=("\n", ":", '"', "*"), top_n_sigma=0.0, xtc_probability=0.0,
        xtc_threshold=0.1, dynatemp_range=0.0, dynatemp_exponent=1.0, mirostat=0, mirostat_tau=5.0, mirostat_eta=0.1,
        samplers=SAMPLERS, logit_bias={}, seed=1, stop=(), stop_ids=(),
        ignore_eos=False, logprobs=0, echo=False, cache=True, chunk=512, cancel=None, on_full="stop",
        speculate="auto", prediction=None,
        schema=None, regex=None, choice=None, grammar=None, strict=True,
    )  # fmt: skip
    assert CHECKS.keys() == got.keys()
    assert not o.penalised() and not o.dry()
    assert _engine.STEPS == SAMPLERS == twin.ORDER


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("max_tokens", 0, 0),
        ("max_tokens", np.int64(7), 7),
        ("temperature", 0, 0.0),
        ("temperature", np.float32(0.5), 0.5),
        ("top_k", 10**12, 10**12),
        ("top_p", 0, 0.0),
        ("top_p", 1, 1.0),
        ("typical_p", 0.2, 0.2),
        ("presence_penalty", -2, -2.0),
        ("repeat_penalty", 0.5, 0.5),
        ("repeat_last", 0, 0),
        ("stop", "END", ("END",)),
        ("stop", ["a", "\n"], ("a", "\n")),
        ("stop_ids", {5}, (5,)),
        ("stop_ids", np.array([3, 4]), (3, 4)),
        ("logit_bias", {np.int32(3): -math.inf, 4: 1}, {3: -math.inf, 4: 1.0}),
        ("ignore_eos", np.bool_(True), True),
        ("seed", 2**64 - 1, 2**64 - 1),
        ("on_full", "error", "error"),
        ("samplers", None, SAMPLERS),
        ("seed", None, None),
        ("seed", np.array([1, 2]), (1, 2)),
        ("seed", np.array(3), 3),
        ("samplers", ["min_p", "temperature"], ("min_p", "temperature")),
        ("samplers", (), ()),
        ("mirostat", 2, 2),
        ("dry_range", 0, 0),
        ("dry_breakers", "###", ("###",)),
        ("dry_breakers", [], ()),
        ("cancel", print, print),
        ("schema", {"type": "object"}, {"type": "object"}),
        ("schema", '{"const": [1.5, null]}', {"const": [1.5, None]}),
        ("schema", True, True),
        ("schema", "false", False),
        ("regex", "", ""),
        ("choice", ["a", "b"], ("a", "b")),
        ("choice", (text for text in "xy"), ("x", "y")),
        ("grammar", 'root ::= "a"', 'root ::= "a"'),
        ("strict", np.bool_(False), False),
    ],
)
def test_values_that_are_taken(name: str, value: Any, kept: Any) -> None:
    got = getattr(SamplingOptions.parse({name: value}), name)
    assert got == kept and type(got) is type(kept)


INTEGERS = ("max_tokens", "top_k", "repeat_last", "logprobs", "chunk", "seed", "dry_allowed_length")
NUMBERS = (
    "temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
    "dry_multiplier", "dry_base", "top_n_sigma", "xtc_probability", "xtc_threshold", "dynatemp_range",
    "dynatemp_exponent", "mirostat_tau", "mirostat_eta",
)  # fmt: skip
SHARES = ("top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold")
FLAGS = ("echo", "cache", "ignore_eos", "strict")


def nested(depth: int) -> dict[str, Any]:
    """Deeper than any Python goes: from 3.14 on how deep that is depends on the thread's stack."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"not": value}
    return value


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        *((n, v, TypeError, f"{n}={v!r}: expected an integer") for n in INTEGERS for v in (1.5, "3", True, b"3")),
        *((n, [1], TypeError, f"{n}=[1]: expected an integer") for n in INTEGERS if n != "seed"),
        *((n, -1, ValueError, f"{n}=-1: expected ") for n in INTEGERS),
        *((n, v, TypeError, f"{n}={v!r}: expected a number") for n in NUMBERS for v in ("0.5", True, 1j)),
        *((n, v, ValueError, f"{n}={v!r}: expected ") for n in NUMBERS for v in (math.nan, math.inf, -math.inf)),
        *((n, 1.01, ValueError, f"{n}=1.01: expected 0 to 1") for n in SHARES),
        *((n, v, TypeError, f"{n}={v!r}: expected True or False") for n in FLAGS for v in (1, "no")),
        ("temperature", -0.1, ValueError, "temperature=-0.1: expected at least 0"),
        ("schema", 3, TypeError, "schema must be a JSON schema (a dictionary, or JSON text) or a pydantic model class"),
        ("schema", [], TypeError, "schema must be a JSON schema"),
        ("schema", "3", TypeError, "schema must be a JSON schema"),
        ("schema", "{", ValueError, "schema: not JSON: "),
        ("schema", '{"const": NaN}', ValueError, "schema: not JSON: NaN is not JSON"),
        ("schema", {"const": math.inf}, ValueError, "schema: not JSON: "),
        ("schema", {"const": {1}}, ValueError, "schema: not JSON: "),
        ("schema", {"const": "\ud800"}, ValueError, "schema: a lone surrogate"),
        ("schema", nested(200_000), ValueError, "schema: nested too deeply"),
        ("schema", {"const": "x" * 70_000}, ValueError, "schema: 70012 bytes; expected at most 65536"),
        ("regex", 3, TypeError, "regex=3: expected a regular expression, not int"),
        ("regex", "x" * 70_000, ValueError, "regex: 70000 bytes; expected at most 65536"),
        ("choice", "yes", TypeError, "choice must be several texts, not str"),
        ("choice", [], ValueError, "choice is empty: expected at least one text"),
        ("choice", ["a", ""], ValueError, "choice[1]='': expected at least one character"),
        ("choice", ["a", 3], TypeError, "choice[1]=3: expected a string, not int"),
        ("grammar", b"x", TypeError, "grammar=b'x': expected a grammar, not bytes"),
        ("temperature", math.nan, ValueError, "temperature=nan: expected a finite number of at least 0"),
        ("temperature", math.inf, ValueError, "temperature=inf: expected a finite number of at least 0"),
        ("temperature", 10**400, ValueError, "temperature=1000"),
        ("repeat_penalty", -1, ValueError, "repeat_penalty=-1: expected 0 to 1000"),
        ("chunk", 0, ValueError, "chunk=0: expected at least 1"),
        ("chunk", 2**40, ValueError, "chunk=1099511627776: expected 1 to 2147483647"),
        ("logprobs", 10**9, ValueError, "logprobs=1000000000: expected 0 to 1048576"),
        ("seed", 2**64, ValueError, "seed=18446744073709551616: expected 0 to 18446744073709551615"),
        ("stop", ["a", ""], ValueError, "stop[1]='': expected at least one character"),
        ("stop", "", ValueError, "stop[0]='': expected at least one character"),
        ("stop", b"x", TypeError, "stop=b'x': expected a string or a sequence of strings, not bytes"),
        ("seed", [1, "2"], TypeError, "seed[1]='2': expected an integer"),
        ("seed", [1, -2], ValueError, "seed[1]=-2: expected 0 to 18446744073709551615"),
        ("options", {"top_k": 1}, TypeError, "options must be a SamplingOptions, not dict"),
        ("stop", [3], TypeError, "stop[0]=3: expected a string, not int"),
        ("stop_ids", 3, TypeError, "stop_ids=3: expected a sequence of token ids, not int"),
        ("stop_ids", [1, -1], ValueError, "stop_ids[1]=-1: expected at least 0"),
        ("stop_ids", "12", TypeError, "stop_ids='12': expected a sequence of token ids, not str"),
        ("logit_bias", [1], TypeError, "logit_bias=[1]: expected a mapping of token ids to numbers, not list"),
        ("logit_bias", {"a": 1}, TypeError, "logit_bias's token id='a': expected an integer"),
        ("logit_bias", {-5: 1}, ValueError, "logit_bias's token id=-5: expected at least 0"),
        ("logit_bias", {5: math.inf}, ValueError, "logit_bias[5]=inf: expected"),
        ("logit_bias", {5: math.nan}, ValueError, "logit_bias[5]=nan: expected"),
        ("logit_bias", {5: 1000.5}, ValueError, "logit_bias[5]=1000.5: expected -1000 to 1000"),
        ("presence_penalty", -3e38, ValueError, "presence_penalty=-3e+38: expected -1000 to 1000"),
        ("frequency_penalty", 1001, ValueError, "frequency_penalty=1001: expected -1000 to 1000"),
        ("logit_bias", {5: "x"}, TypeError, "logit_bias[5]='x': expected a number, not str"),
        ("on_full", "raise", ValueError, "on_full='raise': expected 'error' or 'stop'"),
        ("cancel", 5, TypeError, "cancel must be a threading.Event or a callable, not int"),
        ("dry_multiplier", -1, ValueError, "dry_multiplier=-1: expected 0 to 1000"),
        ("dry_base", 0.5, ValueError, "dry_base=0.5: expected at least 1"),
        ("dry_range", -2, ValueError, "dry_range=-2: expected at least -1"),
        ("dry_breakers", [""], ValueError, "dry_breakers[0]='': expected at least one character"),
        ("top_n_sigma", -0.1, ValueError, "top_n_sigma=-0.1: expected at least 0"),
        ("mirostat", 1, ValueError, "mirostat=1: expected 0 (off) or 2"),
        ("mirostat", True, TypeError, "mirostat=True: expected an integer"),
        ("mirostat_tau", 1e9, ValueError, "mirostat_tau=1000000000.0: expected 0 to 1000"),
        ("samplers", "top_k", TypeError, "samplers='top_k': expected a sequence of names, not str"),
        ("samplers", 3, TypeError, "samplers=3: expected a sequence of names, not int"),
        ("samplers", ["top_k", 3], TypeError, "samplers[1]=3: expected a name, not int"),
        ("samplers", ["topk"], ValueError, "samplers[0]='topk': did you mean 'top_k'?"),
        ("samplers", ["logit_bias"], ValueError, "samplers[0]='logit_bias': expected one of penalties, dry, "),
        ("samplers", ["xtc", "xtc"], ValueError, "samplers[1]='xtc': expected each name at most once"),
        ("temprature", 1, TypeError, "unknown option 'temprature': did you mean 'temperature'?"),
        ("max-tokens", 1, TypeError, "unknown option 'max-tokens': did you mean 'max_tokens'?"),
        ("zzz", 1, TypeError, "unknown option 'zzz': expected one of max_tokens, temperature, "),
    ],
)
def test_values_that_are_refused(name: str, value: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match="^" + re.escape(says)) as caught:
        SamplingOptions.parse({name: value})
    named = getattr(caught.value, "argument", getattr(caught.value, "place", None))
    assert "unknown" in says if named is None else named in (name, "")


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "seed", "chunk"])
def test_a_number_that_python_does_not_spell(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=\(a huge number\): expected"):
        SamplingOptions.parse({name: -(10**6000)})


def test_a_seed_of_none_is_fresh_for_each_completion() -> None:
    o = SamplingOptions(seed=None)
    seeds = {s for _ in range(10) for s in o.seeds(5)}
    assert o.seed is None and len(seeds) == 50 and all(0 <= s < 2**64 for s in seeds)


def test_seeds_of_several() -> None:
    assert SamplingOptions(seed=5).seeds(2) == [5, 5]
    assert SamplingOptions(seed=2**64 - 1).seeds(2, 3) == [2**64 - 1, 0, 1] * 2
    assert SamplingOptions(seed=np.array([7, 9])).seeds(2, 2) == [7, 8, 9, 10]
    assert SamplingOptions(seed=iter([7, 9])).seeds(1, 2) == [7, 9]
    for prompts, n, expected in ((3, 1, r"expected 3 \(one per prompt\)$"), (3, 2, r".*or 6 \(one per completion\)$")):
        with pytest.raises(ValueError, match="^seed has 2 values: " + expected):
            SamplingOptions(seed=(1, 2)).seeds(prompts, n)


@pytest.mark.parametrize("name", CHECKS)
def test_none_is_the_default(name: str) -> None:
    o = SamplingOptions.parse({name: None})
    if name == "max_tokens":  # which alone knows None: as many as fit
        assert o.max_tokens is None and o.given == {"max_tokens"}
    else:
        assert o == SamplingOptions() and not o.given


def test_keywords_win_over_options() -> None:
    base = SamplingOptions(temperature=0.5, seed=3, max_tokens=9)
    o = SamplingOptions.parse({"options": base, "seed": 4, "top_k": np.int64(2), "temperature": None})
    assert (o.temperature, o.seed, o.top_k, o.max_tokens) == (0.5, 4, 2, 9)
    assert o.given == {"temperature", "seed", "top_k", "max_tokens"}
    assert SamplingOptions.parse({"options": base, "max_tokens": None}).max_tokens is None
    assert SamplingOptions.parse({"options": base}, max_tokens=None, top_k=7) == base.replace(top_k=7)
    assert base.replace(seed=4) == SamplingOptions(temperature=0.5, seed=4, max_tokens=9)
    assert repr(base) == "SamplingOptions(max_tokens=9, temperature=0.5, seed=3)"
    assert pickle.loads(pickle.dumps(base)).given == base.given


def test_equal_options_do_the_same() -> None:
    """One that was given wins over others, where they come together, and over the defaults of `chat`."""
    given, default = SamplingOptions(max_tokens=DEFAULTS["max_tokens"]), SamplingOptions()
    assert given != default and len({given, default}) == 2
    assert default == SamplingOptions(top_p=None) == pickle.loads(pickle.dumps(default))
    assert given == SamplingOptions(max_tokens=DEFAULTS["max_tokens"]) == default.replace(max_tokens=given.max_tokens)


def test_the_typed_keywords_are_the_options() -> None:
    """SamplingKeywords and SamplingOptions have the same names, and types that belong together."""
    keywords, attributes = get_type_hints(SamplingKeywords), get_type_hints(SamplingOptions)
    del attributes["given"]
    assert list(attributes) == list(CHECKS) and keywords.keys() == attributes.keys()
    given_as: dict[Any, Any] = {
        int: Integer,
        float: Number,
        bool: bool | np.bool_,
        int | None: Integer,
        tuple[str, ...]: str | Iterable[str],
        tuple[int, ...]: Iterable[Integer],
        tuple[SamplerName, ...]: Iterable[SamplerName],
        int | tuple[int, ...] | None: Integer | Iterable[Integer],
        str | tuple[int, ...] | None: str | Iterable[Integer],
        Mapping[int, float]: Mapping[int, Number] | Mapping[np.int32, Number] | Mapping[np.int64, Number],
        Cancel | None: Cancel,
        tuple[str, ...] | None: Iterable[str],
    }
    for name, kind in attributes.items():
        assert keywords[name] == given_as.get(kind, kind) | None, name
    assert get_type_hints(GenerateOptions) == {**keywords, "options": SamplingOptions | None}
    own = set(TEMPLATE_DEFAULTS)
    assert own == set(inspect.signature(Model.chat_prompt).parameters) - {"self", "messages"}
    chat = get_type_hints(ChatOptions)
    assert chat.keys() == get_type_hints(GenerateOptions).keys() | own
    assert all(chat[name] == kind for name, kind in get_type_hints(GenerateOptions).items() if name != "on_full")


def test_signatures_list_the_options_and_their_defaults() -> None:
    own = {name: p.default for name, p in inspect.signature(SamplingOptions).parameters.items()}
    assert own == {name: getattr(SamplingOptions(), name) for name in CHECKS}
    template = inspect.signature(Model.chat_prompt).parameters
    for owner in (Model, Edit, Context):
        for name in ("generate", "stream", "chat", "agenerate", "astream", "achat"):
            listed = {key: p.default for key, p in inspect.signature(getattr(owner, name)).parameters.items()}
            expected = {**own, "options": None}
            if "chat" in name:
                expected |= {"max_tokens": None} | {key: template[key].default for key in TEMPLATE_DEFAULTS}
            assert expected.items() <= listed.items(), (owner, name)
            assert listed.keys() - expected.keys() <= {"self", "prompt", "messages", "stream", "n"}


def test_options_cannot_change_afterwards() -> None:
    bias = {1: 2.0}
    o = SamplingOptions(logit_bias=bias, cancel=threading.Event())
    bias[1] = 5.0
    assert o.logit_bias == {1: 2.0}
    with pytest.raises(FrozenInstanceError):
        o.top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(dry_multiplier=0.8), True),
        (dict(dry_multiplier=0.8, dry_range=0), False),
        (dict(dry_multiplier=0.8, samplers=["top_k"]), False),
        (dict(dry_allowed_length=1), False),
    ],
)
def test_dry_is_told_from_none(options: dict[str, Any], expected: bool) -> None:
    assert SamplingOptions(**options).dry() is expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(presence_penalty=0.1), True),
        (dict(frequency_penalty=-0.1), True),
        (dict(repeat_penalty=1.1), True),
        (dict(repeat_penalty=1.1, repeat_last=0), False),
        (dict(repeat_last=10), False),
        (dict(repeat_penalty=0), False),
    ],
)
def test_penalties_are_told_from_none(options: dict[str, Any], expected: bool) -> None:
    assert SamplingOptions(**options).penalised() is expected


def test_the_sampler_takes_what_the_options_say() -> None:
    o = SamplingOptions(seed=3, top_k=10**12, logprobs=0, logit_bias={2: 60.0}, stop="x")
    settings = o.sampler()
    assert settings["logprobs"] == -1 and settings["top_k"] == 2**31 - 1
    settings["n_logprobs"] = settings.pop("logprobs")
    settings["order"] = [SAMPLERS.index(name) for name in settings["order"]]
    assert (settings.pop("repeat_last"), settings.pop("dry_range")) == (64, -1)
    x = np.zeros(10, np.float32)
    assert kernels.sample("scalar", x, **settings)["id"] == 2
    assert SamplingOptions(logprobs=4).sampler()["logprobs"] == 4

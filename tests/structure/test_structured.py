"""Texts that a schema, an expression, a choice or a grammar binds: the same whatever runs beside them."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydantic
import pytest

from pellucid import Completion, Model
from pellucid.errors import BatchError, GrammarError, TokenizerError, WrongValue
from pellucid.later import Later
from pellucid.schedule import run
from pellucid.text import grammar
from pellucid.tokenizer import Tokenizer
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME
from tests.structure.walks import suite, validator

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "old"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PROMPT = "A person as JSON: "
GBNF = 'root ::= "<" [a-z]+ ">" [0-9] [0-9]\n'
KINDS: list[dict[str, Any]] = [
    {"schema": PERSON},
    {"regex": r"[A-Z][a-z]{2,8} is \d{1,2} years old\."},
    {"choice": ["yes", "no", "not at all"]},
    {"grammar": GBNF},
]
SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.5, "logprobs": 2},
    {"temperature": 1.2, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 1.0, "mirostat": 2},
    {"temperature": 0.9, "repeat_penalty": 1.3, "presence_penalty": 0.5, "dry_multiplier": 0.8},
    {"temperature": 1.0, "xtc_probability": 0.5, "typical_p": 0.7, "logprobs": 1},
    {"temperature": 1.0, "top_n_sigma": 1.0, "dynatemp_range": 0.5, "samplers": ("temperature", "top_k", "min_p")},
    {"temperature": 1.0, "cache": False},
    {"temperature": 1.0, "ignore_eos": True},
]


def content(done: Completion) -> Any:
    return done.text, done.ids, done.logprobs, done.end, done.finish_reason, done.seed


def holds(kind: dict[str, Any], done: Completion) -> bool:
    text = done.text
    if "schema" in kind:
        return done.finish_reason in ("stop", "eos") and not list(validator(PERSON).iter_errors(json.loads(text)))
    if "regex" in kind:
        return re.fullmatch(kind["regex"], text) is not None
    if "choice" in kind:
        return text in kind["choice"]
    return re.fullmatch("<[a-z]+>[0-9][0-9]", text) is not None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: next(iter(kind)))
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: " ".join(list(sampler)[1:]) or "greedy")
def test_every_kind_with_every_sampler(smol: Model, kind: dict[str, Any], sampler: dict[str, Any]) -> None:
    done = smol.generate(PROMPT, n=2, seed=3, max_tokens=120, **kind, **sampler)
    for one in done:
        if one.finish_reason != "length":  # a name of many letters
            assert holds(kind, one), one.text
        assert smol.detokenize(one.ids) == one.text
        assert len(one.logprobs) == (len(one.ids) if sampler.get("logprobs") else 0)
        assert [each.id for each in one.logprobs] == (one.ids if one.logprobs else [])
    assert any(one.finish_reason != "length" for one in done)


def test_parsed(smol: Model) -> None:
    class Person(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=12)
        age: int

    options: dict[str, Any] = {"max_tokens": 100, "seed": 1}
    done = smol.generate(PROMPT, schema=Person, **options)
    assert isinstance(done.parsed, Person) and done.parsed == Person.model_validate(json.loads(done.text))
    done = smol.generate(PROMPT, schema=pydantic.TypeAdapter(list[bool]), temperature=0, max_tokens=60)
    assert done.finish_reason == "length" or done.parsed == json.loads(done.text)
    done = smol.generate(PROMPT, schema=PERSON, echo=True, **options)
    assert done.text.startswith(PROMPT) and done.parsed == json.loads(done.text[len(PROMPT) :])
    assert smol.generate(PROMPT, schema=PERSON, max_tokens=5, seed=1).parsed is None
    assert smol.generate(PROMPT, regex="[0-9]{3}", **options).parsed is None
    assert (
        smol.generate(PROMPT, schema=json.dumps(PERSON), **options).ids
        == smol.generate(PROMPT, schema=PERSON, **options).ids
    )
    assert smol.generate(PROMPT, schema={"const": {"a": [1, "é"]}}, **options).parsed == {"a": [1, "é"]}
    assert smol.generate(PROMPT, schema=PERSON, **options).to_dict()["parsed"]["age"] >= 0
    assert "parsed" not in smol.generate(PROMPT, max_tokens=1).to_dict()


def test_every_call(smol: Model) -> None:
    options: dict[str, Any] = {"schema": PERSON, "max_tokens": 100, "seed": 5, "logprobs": 1}
    expected = content(smol.generate(PROMPT, **options))
    with smol.stream(PROMPT, **options) as stream:
        assert "".join(piece.text for piece in stream) == expected[0]
    assert content(stream.result()) == expected
    assert content(smol.submit(PROMPT, **options).result()) == expected  # type: ignore[arg-type]
    assert [content(one) for one in smol.map([PROMPT], **options)] == [expected]
    with smol.context() as context:
        assert content(context.generate(PROMPT, **options)) == expected
        held = context.ids
        assert held[len(held) - len(expected[1]) :] == expected[1]
        context.rewind(len(held) - len(expected[1]))
        assert content(context.generate((), **options)) == expected
        after = context.generate(" And", max_tokens=3, temperature=0)
    prompt = [*held, *smol.tokenize(" And", add_special=False)]
    assert after.ids == smol.generate(prompt, max_tokens=3, temperature=0).ids
    assert content(asyncio.run(smol.agenerate(PROMPT, **options))) == expected
    messages = [{"role": "user", "content": "Invent a person."}]
    told = smol.chat(messages, schema=PERSON, max_tokens=100, seed=2)
    assert (
        holds({"schema": 1}, told)
        and told.parsed == json.loads(told.text)
        and content(smol.chat(messages, schema=PERSON, max_tokens=100, seed=2)) == content(told)
    )


def test_forced_tokens_take_one_pass(smol: Model) -> None:
    const = {"const": {"first name": "Ada", "last name": "Lovelace", "born": 1815}}
    with Model.load(smol.info().path, threads=2) as model:
        done = model.generate(PROMPT, schema=const, max_tokens=100)
        assert done.parsed == const["const"] and done.finish_reason == "stop" and model.stats().passes <= 1
        before = model.stats()
        scored = model.generate(PROMPT, schema=const, max_tokens=100, logprobs=1)
        assert scored.ids == done.ids and model.stats().passes - before.passes <= 2
        assert [one.id for one in scored.logprobs] == done.ids and all(one.logprob < 0 for one in scored.logprobs)
        prompt = model.tokenize(PROMPT)
        exact = model.score([*prompt, *done.ids]).tokens[len(prompt) - 1 :]
        assert [one.logprob for one in exact] == [one.logprob for one in scored.logprobs]
        assert model.stats().generated_tokens >= 2 * len(done.ids)
        before = model.stats()
        some = model.generate(PROMPT, schema=PERSON, temperature=0, max_tokens=100)
        assert model.stats().passes - before.passes < len(some.ids) - 8


def test_logprobs_change_no_token(smol: Model) -> None:
    for seed in range(4):
        options: dict[str, Any] = {"schema": PERSON, "seed": seed, "max_tokens": 100, "temperature": 1.5}
        assert smol.generate(PROMPT, **options).ids == smol.generate(PROMPT, logprobs=1, **options).ids


def test_where_it_ends(smol: Model) -> None:
    full = smol.generate(PROMPT, schema=PERSON, seed=5, max_tokens=100)
    assert full.finish_reason == "stop" and full.text.endswith("}") and full.end is None
    for n in range(len(full.ids) + 1):
        cut = smol.generate(PROMPT, schema=PERSON, seed=5, max_tokens=n)
        assert cut.ids == full.ids[:n] and cut.finish_reason == ("stop" if n == len(full.ids) else "length")
        assert len(smol.generate(PROMPT, schema=PERSON, seed=5, max_tokens=n, logprobs=1).logprobs) == n
    for stop in ('"age"', ":", "}", full.text[3:9]):
        at = full.text.index(stop)
        done = smol.generate(PROMPT, schema=PERSON, seed=5, max_tokens=100, stop=stop)
        assert done.text == full.text[:at] and done.finish_reason == "stop" and done.parsed is None
        assert smol.detokenize(done.ids) == done.text
        assert (
            "".join(p.text for p in smol.submit(PROMPT, schema=PERSON, seed=5, max_tokens=100, stop=stop)) == done.text
        )
    quote = full.ids[len(full.ids) // 2]
    done = smol.generate(PROMPT, schema=PERSON, seed=5, max_tokens=100, stop_ids=[quote])
    assert done.ids == full.ids[: full.ids.index(quote)] and done.finish_reason == "stop"
    empty = smol.generate(PROMPT, grammar='start: ""', max_tokens=5)
    assert (empty.text, empty.ids) == ("", [])
    open_ended = smol.generate(PROMPT, regex="[a-z ]*", max_tokens=6, temperature=0, ignore_eos=True)
    assert len(open_ended.ids) == 6 and open_ended.finish_reason == "length"


def test_a_context_fills(smol: Model) -> None:
    with Model.load(smol.info().path, threads=2, context=24) as model:
        prompt = model.tokenize(PROMPT)
        for logprobs in (0, 1):
            done = model.generate(prompt, schema={"const": "word " * 60}, logprobs=logprobs, max_tokens=None)
            assert done.finish_reason == "context" and len(done.ids) == 24 - len(prompt) + 1


def test_what_allows_no_token_fails_alone(smol: Model) -> None:
    ids = [smol.tokenize(text, add_special=False)[0] for text in ("yes", "no", "y", "n", "ye")]
    forbids = {id: float("-inf") for id in ids}
    with pytest.raises(GrammarError, match="leave no token to draw") as raised:
        smol.generate(PROMPT, regex="(yes|no)!", logit_bias=forbids)
    assert raised.value.place == "regex"
    expected = content(smol.generate(PROMPT, schema=PERSON, seed=1, max_tokens=60))
    items: list[Any] = [
        {"prompt": PROMPT, "regex": "(yes|no)!", "logit_bias": forbids},
        {"prompt": PROMPT, "schema": PERSON, "seed": 1, "max_tokens": 60},
        {"prompt": PROMPT, "grammar": "start: " + "(" * 3},
    ]
    first, second, third = smol.map(items, on_error="return")
    assert isinstance(first, GrammarError) and isinstance(third, GrammarError)
    assert isinstance(second, Completion) and content(second) == expected


def test_too_complex_while_it_runs_fails_alone(smol: Model) -> None:
    """A grammar that needs more items than a step may have, but only after its first sentence."""
    sentence = "the quick brown fox jumps over the lazy dog, and then once more over all of them: "
    wide = f'start: ("yes, " | "no, ") "{sentence}" z\nz: ' + " ".join(["a?"] * 1500) + '\na: "x" | "y"'
    expected = content(smol.generate(PROMPT, schema=PERSON, seed=1, max_tokens=60))
    requests = [
        smol.submit(PROMPT, schema=PERSON, seed=1, max_tokens=60),
        smol.submit(PROMPT, grammar=wide, max_tokens=200, temperature=1.0, top_k=0, seed=1),
    ]
    with pytest.raises(GrammarError) as raised:
        requests[1].result()
    assert raised.value.place == "grammar"
    assert content(requests[0].result()) == expected  # type: ignore[arg-type]
    with pytest.raises(BatchError):
        smol.generate([PROMPT, PROMPT], grammar=wide, max_tokens=200, temperature=1.0, top_k=0, seed=1)


def test_one_at_a_time(smol: Model) -> None:
    with pytest.raises(WrongValue, match="regex cannot be combined with schema"):
        smol.generate(PROMPT, schema={}, regex="a")
    with pytest.raises(GrammarError, match='schema.not: the keyword "not" cannot be enforced'):
        smol.generate(PROMPT, schema={"not": {}})
    assert smol.generate(PROMPT, schema={"type": "boolean", "not": {}}, strict=False, max_tokens=9).parsed in (
        True,
        False,
    )
    request = smol.submit(PROMPT, schema={"type": "boolean", "not": {}}, strict=False, max_tokens=9)
    assert request.warnings == ('schema: "not" is ignored',) and request.result()
    assert smol.submit(PROMPT, max_tokens=1).warnings == ()


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    with Model.load(models.write(tmp_path, "narrow", "all"), threads=1) as model:
        with pytest.raises(TokenizerError, match="no tokenizer"):
            model.generate([1], regex="a")


# ---- the same bits -------------------------------------------------------------------------------------------------

LETTERS = 'abcdefgh0123456789{}[]":,. -'


class Letters:
    """A tokenizer for tiny models: a letter or two for each id, and an end."""

    def __init__(self, size: int) -> None:
        pairs = [a + b for a in 'abc0"{' for b in 'ab1":,}']
        self.spelled = [*LETTERS, *pairs][: size - 1]
        self.vocab_size = len(self.spelled) + 1
        self.pieces: list[bytes | None] = [None] * self.vocab_size
        self.end = self.vocab_size - 1
        self.eos: int | None = self.end
        self.bos: int | None = self.end
        self.eog, self.add_bos = frozenset([self.end]), False
        self.chat_template: str | None = None
        self.special: dict[str, int] = {}

    def piece(self, id: int, *, special: bool = False) -> bytes:
        return b"" if id == self.end else self.spelled[id].encode()

    def spelling(self, id: int) -> str:
        return "<|end|>" if id == self.end else self.spelled[id]

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        out = []
        while text:
            n = 2 if text[:2] in self.spelled else 1
            out.append(self.spelled.index(text[:n]))
            text = text[n:]
        return out

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        raise NotImplementedError

    def decode(self, ids: Any, *, special: bool = False) -> str:
        return b"".join(self.piece(id) for id in ids).decode()


def lettered(model: Model) -> Model:
    made = Tokenizer(Letters(min(model.core.config.vocab, 64)))
    model.core._tokenizer = Later(lambda: made)
    return model


TINY: list[dict[str, Any]] = [
    {
        "schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"enum": ["c", "ab"]}},
            "required": ["a", "b"],
        }
    },
    {"schema": {"type": "array", "items": {"const": "abcabc"}, "minItems": 2, "maxItems": 5}, "logprobs": 2},
    {"regex": "(a|bc|0){3,9}", "temperature": 1.4},
    {"choice": ["abcabcab", "0", "0000"], "logprobs": 1},
    {"grammar": 'start: ("a" | "b" "cc")~4', "mirostat": 2},
    {},
]


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "lfm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("structure")
    if request.param in BY_NAME:
        case = BY_NAME[request.param]
        yield write_gguf(case, load_golden(case), folder / "model.gguf")
    else:
        yield models.write(folder, request.param)


def asked(n: int) -> list[tuple[list[int], dict[str, Any]]]:
    rng, out = random.Random(4), []
    for i in range(n):
        options = {"max_tokens": rng.choice([1, 4, 30]), "seed": i, "temperature": 1.0, **TINY[i % len(TINY)]}
        out.append(([rng.randrange(20) for _ in range(rng.choice([1, 3, 30, 64, 90]))], options))
    return out


@pytest.mark.parametrize(
    "setting",
    [
        {"threads": 1},
        {"threads": 2, "max_gap": 0.0},
        {"prefix_cache": True, "threads": 2},
        {"fit": 2.5},
        {"driven": True},
    ],
    ids=lambda setting: " ".join(setting),
)
def test_the_same_in_any_company(path: Path, setting: dict[str, Any]) -> None:
    given = dict(setting)
    fit, driven, requests = given.pop("fit", None), given.pop("driven", False), asked(60)
    with lettered(Model.load(path, threads=2)) as model:
        expected = [content(model.generate(prompt, **options)) for prompt, options in requests]
        if fit is not None:
            context = model.context()
            context.append([1] * 120)
            given["cache_bytes"] = int(model.core.engine.info()["cache_bytes_used"] * fit)
    with lettered(Model.load(path, **{"threads": 2, **given})) as model:
        if fit is not None:  # who does not fit is given up, and computed again
            run.of(model.core).room.limit = None
        if driven:
            model.drive()

        def ask(i: int) -> Any:
            prompt, options = requests[i]
            if i % 3 == 0:
                return content(model.generate(prompt, **options))
            if i % 3 == 1:
                found = model.submit(prompt, n=2, **options).result()
                return content(found[0])  # type: ignore[index]
            with model.stream(prompt[::-1], max_tokens=9, **TINY[i % 5]) as left:
                next(left)
            return content(model.stream(prompt, **options).result())

        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(ask, range(len(requests)))) == expected
        if fit is not None:
            assert model.stats().preemptions > 0


def interrupted(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """The function, which is interrupted once, at its end."""
    calls = itertools.count()

    def call(*arguments: Any) -> Any:
        found = function(*arguments)
        if next(calls) == after:
            raise KeyboardInterrupt
        return found

    return call


def test_an_interrupt_loses_nothing(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a grammar's step is interrupted, the next call goes on as if it had not been."""
    from pellucid.text.grammar import Matcher

    options: dict[str, Any] = {"schema": PERSON, "seed": 7, "max_tokens": 100}
    expected = content(smol.generate(PROMPT, **options))
    for name in ("advance", "forced", "mask"):
        for after in range(0, 12, 3):
            request = smol.submit(PROMPT, **options)
            with monkeypatch.context() as patched:
                patched.setattr(Matcher, name, interrupted(getattr(Matcher, name), after))
                while True:
                    try:
                        done = request.result()
                        break
                    except KeyboardInterrupt:
                        continue
            assert content(done) == expected, (name, after)  # type: ignore[arg-type]


def test_many_threads_compile(smol: Model) -> None:
    begin = threading.Barrier(8)

    def ask(i: int) -> Any:
        begin.wait()
        return smol.generate(PROMPT, regex=f"[a-c]{{{2 + i % 4}}}", seed=i, max_tokens=9).text

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, range(8)))
    assert all(re.fullmatch(f"[a-c]{{{2 + i % 4}}}", text) for i, text in enumerate(texts))


# ---- schemas of others ---------------------------------------------------------------------------------------------


def answers_hold(model: Model, some: list[tuple[str, Any]]) -> int:
    """Whether the model's answers at temperature 1.5 validate -> how many there were."""
    items, checks, ends = [], [], (b'"', b"}", b"]")
    closes = {id: 9.0 for id in range(model.core.config.vocab) if model.core.piece(id).startswith(ends)}
    for i, (name, schema) in enumerate(some):
        options = {"schema": schema, "max_tokens": 150, "temperature": 1.5, "seed": i, "logit_bias": closes}
        items.append({"prompt": "JSON: ", **options})
        checks.append((name, validator(schema)))
    found = ended = 0
    for (name, check), done in zip(checks, model.map(items, on_error="return"), strict=True):
        if isinstance(done, GrammarError):
            assert done.place is not None and done.place.startswith("schema"), name
            continue
        assert isinstance(done, Completion), (name, done)
        found += 1
        if done.finish_reason in ("stop", "eos"):
            ended += 1
            assert not list(check.iter_errors(json.loads(done.text))), (name, done.text)
    assert ended > found // 4  # many allow any value, which need not end
    return found


def test_some_of_the_suite(smol: Model) -> None:
    assert answers_hold(smol, list(suite())[::16]) > 15


@pytest.mark.nightly
def test_the_whole_suite(smol: Model) -> None:
    assert answers_hold(smol, list(suite())) > 320


def drawn(n: int, seed: int) -> list[tuple[str, Any]]:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    from tests.structure.schemas import schemas

    some: list[tuple[str, Any]] = []
    quiet = settings(
        max_examples=n, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    seeded(seed)(quiet(given(schemas())(lambda schema: some.append((str(schema), schema)))))()
    return some


def test_random_schemas(smol: Model) -> None:
    assert answers_hold(smol, drawn(40, 1)) > 30


@pytest.mark.nightly
def test_a_thousand_random_schemas(smol: Model) -> None:
    assert answers_hold(smol, drawn(1000, 2)) > 900


def test_an_interrupt_in_the_tokenizer(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which llguidance calls: it is raised, and neither another request nor the same one later is the worse for it."""
    options: dict[str, Any] = {"schema": PERSON, "max_tokens": 40, "seed": 1}
    expected = smol.generate(PROMPT, **options).ids
    encode, calls, stops = grammar._Spelling._encode, [], [0]

    def interrupted(spelling: Any, text: Any) -> list[int]:
        if threading.current_thread() is threading.main_thread():
            calls.append(text)
            if len(calls) == stops[0]:
                raise KeyboardInterrupt
        return encode(spelling, text)

    monkeypatch.setattr(grammar._Spelling, "_encode", interrupted)
    for stops[0] in (1, 2):
        calls.clear()
        found: list[Any] = []
        other = threading.Thread(target=lambda kept: kept.append(smol.generate(PROMPT, **options).ids), args=(found,))
        other.start()
        with pytest.raises(KeyboardInterrupt):
            smol.generate(PROMPT, **options)
        other.join()
        assert found == [expected]
        calls.extend([None] * 9)
        assert smol.generate(PROMPT, **options).ids == expected

"""Wrong requests for the look inside and for edits: each is an error that names a field, and harms nothing after it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pellucid import Model
from pellucid.openai.fields import OPTIONS
from pellucid.server.app import make_app
from pellucid.server.failures import STATUSES
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import ask, call
from tests.server.test_hostile import DEEP, MESSAGES, VALUES

TEXT = "The capital of France is"
HEAD = {"kind": "head", "layer": 23, "head": 4, "factor": 0, "position": 2}
CHANGES: tuple[dict[str, Any], ...] = (
    HEAD,
    {"kind": "skip", "layer": 7, "part": "mlp"},
    {"kind": "direction", "layer": 8, "to": "I love", "away": "I hate", "strength": 1.5, "position": 0},
    {"kind": "patch", "layer": "embeddings", "text": "Rome", "position": 3, "from": 0},
)
NUMBERS = (-1, -(2**63), 2**31, 2**64, 10**400, 1.5, 1e308, -0.0, 30, 9, 512, "1", True, [0], {"a": 0}, None)
LOOK = {"prompt": TEXT, "answer": [1, 2], "options": {"temperature": 0.5}, "seed": 3}
BLOCK = {"name": "attention", "layer": 1, "head": [0, 1], "positions": [0, 1], "k": 2}
STEPS = {"position": 1, "options": {"top_k": 5}, "seed": 7}
# Names that an error may have: of fields, of options, of a place in a list.
FIELDS = {*LOOK, *BLOCK, *STEPS, "model", "messages", "ids", "edits", "tools", "list", *OPTIONS}


@pytest.fixture(scope="module")
def shown(model: Model) -> Iterator[Gate]:
    service = Service(Settings(names=("m",), ui=True), model)
    yield make_app(service)
    service.close()


def any_value(r: random.Random) -> Any:
    return r.choice(NUMBERS) if r.random() < 0.5 else r.choice(VALUES)


def looks(r: random.Random) -> Any:
    made: dict[str, Any] = dict(r.choice((LOOK, {"messages": MESSAGES, "answer": [5]}, {"ids": [1, 2, 3]})))
    names = ("model", "messages", "prompt", "ids", "answer", "options", "seed", "edits", "tools")
    for _ in range(r.randint(1, 3)):
        if r.random() < 0.3:
            made["options"] = {r.choice(OPTIONS): any_value(r), **({"x": 1} if r.random() < 0.1 else {})}
        else:
            made[r.choice(names)] = any_value(r)
    return made


def blocks(r: random.Random) -> Any:
    name = r.choice(("attention", "att-3", "stats", "head-push", "thumbs", "pieces"))
    made: dict[str, Any] = dict(BLOCK) if name == "attention" else {"name": name}
    for name in r.sample((*BLOCK, "x"), r.randint(0, 3)):
        made[name] = any_value(r) if r.random() < 0.8 else None
    return made


def steps(r: random.Random) -> Any:
    made: dict[str, Any] = {**STEPS}
    for _ in range(r.randint(1, 3)):
        if r.random() < 0.5:
            made["options"] = {r.choice(OPTIONS): any_value(r)}
        else:
            made[r.choice(("position", "options", "seed", "x"))] = any_value(r)
    return made


def edits(r: random.Random) -> Any:
    if r.random() < 0.1:
        return {"list": any_value(r)}
    made = [dict(r.choice(CHANGES)) for _ in range(r.choice((1, 1, 2, 5)))]
    for one in made:
        for _ in range(r.choice((0, 1, 1, 2))):
            one[r.choice((*one, "position", "from", "text", "colour"))] = any_value(r)
    if r.random() < 0.1:
        made[r.randrange(len(made))] = any_value(r)
    return {"list": made}


MAKERS = {"": looks, "/block": blocks, "/steps": steps, "edits": edits}


def broken(r: random.Random, body: Any) -> Any:
    """The body, now and then with some bytes that are wrong."""
    if r.random() < 0.85:
        return body
    raw = bytearray(json.dumps(body).encode()[:20_000])
    at = r.randrange(len(raw))
    raw[at : at + r.randint(0, 3)] = r.choice(
        (b"[" * 80, b"NaN", b"1e999", b"-Infinity", b"\xff", b"\\ud800", b"9" * 6000)
    )
    return bytes(raw)


async def one(app: Gate, id: str, seed: int, found: Counter[str]) -> None:
    r = random.Random(seed)
    kind = r.choice(list(MAKERS))
    path = "/v1/edits" if kind == "edits" else f"/v1/look/{id}{kind}" if kind else "/v1/look"
    body = broken(r, MAKERS[kind](r))
    answer = await asyncio.wait_for(ask(app, "POST", path, body), 120)
    place = (seed, path, body if len(repr(body)) < 2000 else "long", answer.body[:500])
    assert answer.status in STATUSES and answer.status not in (500, 504), place
    found[f"{kind} {answer.status}"] += 1
    if answer.status != 200:
        message, param = answer.error["message"], answer.error["param"]
        assert message and message.isprintable() and len(message) < 2000, place
        if answer.status == 400 and answer.error["code"] not in ("invalid_json",):
            assert param and param.partition("[")[0].partition(".")[0] in FIELDS, place


def control(app: Gate) -> Any:
    """What a good look, its blocks, its steps and edits give."""
    look = call(app, "POST", "/v1/look", LOOK).json
    path = f"/v1/look/{look['id']}"
    edited = call(app, "POST", "/v1/edits", {"list": [HEAD]}).json
    asked = {"prompt": TEXT, "max_tokens": 3, "temperature": 0, "pellucid_edits": edited["id"]}
    return (
        look["meta"],
        call(app, "POST", f"{path}/block", BLOCK).body,
        call(app, "POST", f"{path}/steps", STEPS).body,
        edited["python"],
        call(app, "POST", "/v1/completions", asked).json["choices"],
    )


def hostile(app: Gate, n: int) -> None:
    id = call(app, "POST", "/v1/look", {"prompt": TEXT}).json["id"]
    before = control(app)
    found: Counter[str] = Counter()

    async def run() -> None:
        seeds = iter(range(n))

        async def work() -> None:
            for seed in seeds:
                await one(app, id, seed, found)

        await asyncio.gather(*(work() for _ in range(6)))

    asyncio.run(run())
    for kind in MAKERS:
        assert found[f"{kind} 200"] > n // 100 and found[f"{kind} 400"] > n // 20, found
    assert control(app) == before


def test_hostile_looks_and_edits(shown: Gate) -> None:
    hostile(shown, 250)


@pytest.mark.nightly
def test_many_hostile_looks_and_edits(shown: Gate) -> None:
    hostile(shown, 20_000)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/look", {"prompt": TEXT, "edits": DEEP}, "edits"),
        ("/v1/look", {"prompt": TEXT, "model": ["m"]}, "model"),
        ("/v1/look", {"prompt": TEXT, "tools": 3}, "tools"),
        ("/v1/look", {"messages": MESSAGES, "tools": [3]}, "tools[0]"),
        ("/v1/look", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ("/v1/look", {"prompt": "\ud800"}, "prompt"),
        ("/v1/look", {"ids": [True]}, "ids[0]"),
        ("/v1/look", {"ids": [1.5]}, "ids[0]"),
        ("/v1/look", {"ids": "1 2"}, "ids"),
        ("/v1/look", {"ids": {"0": 1}}, "ids"),
        ("/v1/look", {"prompt": TEXT, "answer": DEEP}, "answer[0]"),
        ("/v1/look", {"prompt": TEXT, "seed": 2**64}, "seed"),
        ("/v1/look", {"prompt": TEXT, "options": {"samplers": [["top_k"]]}}, "samplers[0]"),
        ("/v1/edits", {"list": [{**HEAD, "layer": 10**400}]}, "list[0].layer"),
        ("/v1/edits", {"list": [{**HEAD, "head": -1}]}, "list[0].head"),
        ("/v1/edits", {"list": [{**HEAD, "factor": DEEP}]}, "list[0].factor"),
        ("/v1/edits", {"list": [HEAD, {**CHANGES[2], "to": "\ud800"}]}, "list[1].to"),
        ("/v1/edits", {"list": [{**HEAD, "\ud800": 1}]}, None),
        ("/v1/edits", {"list": [HEAD] * 5000}, "list"),
        ("/v1/look", {"messages": MESSAGES, "tools": [{"type": "function", "a": "\ud800"}]}, "tools[0].a"),
        ("/v1/look", {"messages": MESSAGES * 5000}, "messages"),
        ("/v1/completions", {"prompt": "a\ud800"}, "prompt"),
    ],
)  # fmt: skip
def test_the_field_is_named(shown: Gate, path: str, body: dict[str, Any], param: str | None) -> None:
    found = call(shown, "POST", path, body)
    assert found.status == 400, found.body
    assert found.error["message"].isprintable()
    assert param is None or found.error["param"] == param, found.body

"""Edited models over HTTP, and the engine's own sampler at a position."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.look import choice
from pellucid.schedule.room import cache_bytes_used
from pellucid.server import changes, edits
from pellucid.server.access import Key
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from pellucid.weights import inventory
from tests.server.client import call

TEXT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
HEAD = {"kind": "head", "layer": 23, "head": 4, "factor": 0}
LISTS: list[list[dict[str, Any]]] = [
    [HEAD],
    [{**HEAD, "factor": 1.5, "position": 3}, {"kind": "skip", "layer": 3, "part": "mlp"}],
    [{"kind": "skip", "layer": 5, "part": "attention"}],
    [{"kind": "direction", "layer": 8, "to": "I love", "away": 'I "hate"', "strength": 1.5}],
    [{"kind": "direction", "layer": "embeddings", "to": "a", "away": "b", "strength": -1, "position": 2}],
    [{"kind": "patch", "layer": 4, "text": "The capital of Italy is", "position": 3}],
    [{"kind": "patch", "layer": "embeddings", "text": "Rome", "position": 3, "from": 0}],
]


@pytest.fixture(scope="module")
def service(model: Model) -> Iterator[Service]:
    made = Service(Settings(names=("m",), ui=True), model)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shown(service: Service) -> Gate:
    return make_app(service)


def made(app: Gate, given: Any, **headers: str) -> Any:
    return call(app, "POST", "/v1/edits", {"list": given}, headers)


@pytest.mark.parametrize("given", LISTS)
def test_the_program_makes_the_same(shown: Gate, service: Service, model: Model, given: Any) -> None:
    """What is shown as Python, run, gives the edited model's logits, bit for bit, and those are not the model's."""
    found = made(shown, given).json
    assert found["python"].startswith("from pellucid import Model\n")
    lines = [line for line in found["python"].splitlines() if not line.startswith(("from pellucid", "model = "))]
    names: dict[str, Any] = {"model": model}
    exec("\n".join(lines), names)
    ids = model.tokenize(TEXT)
    kept = service.edited._kept[found["id"]].model
    np.testing.assert_array_equal(names["edit"].logits(ids), kept.logits(ids))
    assert np.abs(kept.logits(ids) - model.logits(ids)).max() > 0
    names["edit"].close()


def test_answers_of_an_edited_model(shown: Gate, model: Model) -> None:
    id = made(shown, [{"kind": "skip", "layer": 2, "part": "mlp"}]).json["id"]
    asked = {"messages": MESSAGES, "max_tokens": 6, "temperature": 0, "logprobs": True, "ignore_eos": True}
    with model.edit() as edit:
        edit.skip(2, "mlp")
        expected = edit.chat(MESSAGES, max_tokens=6, temperature=0, ignore_eos=True)
    body = {**asked, "pellucid_edits": id}
    for _ in range(2):
        found = call(shown, "POST", "/v1/chat/completions", body).json
        assert [one["id"] for one in found["choices"][0]["logprobs"]["content"]] == expected.ids
    plain = call(shown, "POST", "/v1/chat/completions", asked).json
    own = model.chat(MESSAGES, max_tokens=6, temperature=0, ignore_eos=True)
    assert [one["id"] for one in plain["choices"][0]["logprobs"]["content"]] == own.ids != expected.ids
    whole = {"prompt": TEXT, "max_tokens": 3, "temperature": 0, "pellucid_edits": id}
    with model.edit() as edit:
        edit.skip(2, "mlp")
        text = edit.generate(TEXT, max_tokens=3, temperature=0).text
    assert call(shown, "POST", "/v1/completions", whole).json["choices"][0]["text"] == text


def test_a_look_inside_an_edited_model(shown: Gate, model: Model) -> None:
    id = made(shown, [HEAD]).json["id"]
    looks = [call(shown, "POST", "/v1/look", {"prompt": TEXT, "edits": edits}).json for edits in (id, None)]
    stats = [
        np.frombuffer(call(shown, "POST", f"/v1/look/{look['id']}/block", {"name": "cand-logits"}).body, np.float32)
        for look in looks
    ]
    with model.edit() as edit:
        edit.scale_head(23, 4, 0)
        for one, logits in ((edit.model, stats[0]), (model, stats[1])):
            assert logits[0] == one.logits(looks[0]["meta"]["ids"])[0].max()
    assert stats[0].tobytes() != stats[1].tobytes()
    assert call(shown, "POST", "/v1/look", {"prompt": TEXT, "edits": "x"}).status == 404


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (None, "list"),
        ({}, "list"),
        ([3], "list[0]"),
        ([{}], "list[0].kind"),
        ([HEAD, {"kind": "x"}], "list[1].kind"),
        ([{**HEAD, "layer": 30}], "list[0].layer"),
        ([{**HEAD, "layer": -1}], "list[0].layer"),
        ([{**HEAD, "layer": "embeddings"}], "list[0].layer"),
        ([{**HEAD, "head": 9}], "list[0].head"),
        ([{**HEAD, "head": True}], "list[0].head"),
        ([{**HEAD, "factor": 2.1}], "list[0].factor"),
        ([{**HEAD, "factor": None}], "list[0].factor"),
        ([{**HEAD, "position": -1}], "list[0].position"),
        ([{**HEAD, "position": 512}], "list[0].position"),
        ([{**HEAD, "colour": 1}], "list[0].colour"),
        ([{"kind": "skip", "layer": 0, "part": "all"}], "list[0].part"),
        ([{"kind": "direction", "layer": 0, "to": "", "away": "x", "strength": 1}], "list[0].to"),
        ([{"kind": "direction", "layer": 0, "to": "x", "away": 3, "strength": 1}], "list[0].away"),
        ([{"kind": "direction", "layer": 0, "to": "x", "away": "y", "strength": 1e9}], "list[0].strength"),
        ([{"kind": "patch", "layer": 0, "text": "a b", "position": 9}], "list[0].text"),
        ([{"kind": "patch", "layer": 0, "text": "a b"}], "list[0].position"),
        ([{"kind": "patch", "layer": 0, "text": "a b", "position": 0, "from": 1.5}], "list[0].from"),
        ([{"kind": "patch", "layer": 0, "text": "a " * 600, "position": 0}], "list[0].text"),
        ([HEAD] * 65, "list"),
    ],
)
def test_refused(shown: Gate, given: Any, place: str) -> None:
    found = made(shown, given)
    assert found.status == 400, found.body
    assert found.error["param"] == place and found.error["message"].startswith(place), found.body


def test_all_texts_together_are_bounded(shown: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_TEXT_TOKENS", 6)
    one = {"kind": "patch", "layer": 0, "text": "a b c d", "position": 0}
    assert made(shown, [one]).status == 200
    assert "6 tokens" in made(shown, [one, one]).error["message"]


def test_at_most_four_are_kept(model: Model) -> None:
    service = Service(Settings(ui=True), model)
    app = make_app(service)

    def one(i: int) -> str:
        id: str = made(app, [{"kind": "skip", "layer": i, "part": "mlp"}]).json["id"]
        return id

    def status(id: str) -> int:
        body = {"prompt": "a", "max_tokens": 1, "pellucid_edits": id}
        return call(app, "POST", "/v1/completions", body).status

    ids = [one(i) for i in range(4)]
    assert one(1) == ids[1] and len(set(ids)) == 4  # the same list is the same model
    assert [status(id) for id in ids] == [200] * 4
    views = [service.edited._kept[id].model for id in ids]
    newest = one(4)
    assert [status(id) for id in (*ids, newest)] == [404, 200, 200, 200, 200]
    assert [one.core.closed for one in views] == [True, False, False, False]
    used = [service.edited.use(id, "", service.models.all[0]) for id in (*ids[1:], newest)]

    async def all_in_use() -> None:
        for one in used:
            await one.__aenter__()
        found = await asyncio.to_thread(made, app, [{"kind": "skip", "layer": 9, "part": "mlp"}])
        assert found.status == 429 and found.error["code"] == "queue_full"
        service.edited.tick(time.monotonic() + 2 * edits.IDLE)  # what is in use stays
        for one in used:
            await one.__aexit__(None, None, None)

    key = service.edited._kept[newest].key
    used = [service.edited.use(id, key, service.models.all[0]) for id in (*ids[1:], newest)]
    asyncio.run(all_in_use())
    assert status(newest) == 200
    service.edited.tick(time.monotonic() + edits.IDLE - 5)
    assert status(newest) == 200
    service.edited.tick(time.monotonic() + edits.IDLE + 5)
    assert [status(id) for id in (*ids, newest)] == [404] * 5
    service.close()


def test_keys(model: Model) -> None:
    service = Service(Settings(names=("m",), ui=True, keys=(Key.of("one", "a"), Key.of("two", "b"))), model)
    app = make_app(service)
    mine, other = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    assert made(app, [HEAD]).status == 401
    id = made(app, [HEAD], **mine).json["id"]
    body = {"prompt": "a", "max_tokens": 1, "pellucid_edits": id}
    assert call(app, "POST", "/v1/completions", body, mine).status == 200
    refused = call(app, "POST", "/v1/completions", body, other)
    assert (refused.status, refused.error["param"]) == (404, "pellucid_edits")
    assert made(app, [HEAD], **other).json["id"] != id
    service.close()


def test_off_unless_asked_for(app: Gate) -> None:
    assert made(app, [HEAD]).status == 404
    body = {"messages": MESSAGES, "pellucid_edits": "x"}
    assert call(app, "POST", "/v1/chat/completions", body).status == 404
    assert call(app, "POST", "/v1/chat/completions", {**body, "pellucid_edits": 3}).error["param"] == "pellucid_edits"


def test_its_memory_is_the_models(model: Model) -> None:
    """What an edited model holds counts where the model's limit does; while idle, it holds nothing."""
    service = Service(Settings(ui=True), model)
    app = make_app(service)
    id = made(app, [HEAD]).json["id"]
    view = service.edited._kept[id].model.core
    limit = model.core.facts.cache_limit
    assert limit is not None and view.facts.cache_limit == limit // edits.SHARE and view.prefix_bytes == 0
    call(app, "POST", "/v1/completions", {"prompt": TEXT, "max_tokens": 2, "pellucid_edits": id})
    assert view.engine.info()["cache_bytes_used"] == 0
    before = cache_bytes_used(model.core)
    with Model(view).context() as context:
        context.append(TEXT)
        held = view.engine.info()["cache_bytes_used"]
        assert held > 0 and cache_bytes_used(model.core) == before + held == model.stats().cache_bytes_used
    service.close()


# ---- the engine's own sampler -------------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 0.7, "min_p": 0.02, "repeat_penalty": 1.2, "samplers": ["temperature", "min_p", "penalties"]},
    {"temperature": 1.2, "dry_multiplier": 0.8, "xtc_probability": 0.5, "dynatemp_range": 0.5, "typical_p": 0.9},
    {"mirostat": 2, "temperature": 1},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_are_those_of_a_generation(shown: Gate, model: Model, options: dict[str, Any]) -> None:
    """At the first new token, and at one behind it: what a generation with this seed has drawn."""
    ids = model.tokenize(TEXT)
    for seed in (1, 2):
        own = model.generate(ids, max_tokens=3, seed=seed, ignore_eos=True, **options).ids
        look = call(shown, "POST", "/v1/look", {"ids": ids, "answer": own}).json["id"]
        for number, id in enumerate(own[: 1 if options.get("mirostat") else 3]):
            body = {"position": len(ids) - 1 + number, "options": options, "seed": seed}
            found = call(shown, "POST", f"/v1/look/{look}/steps", body).json
            assert found["drawn"]["id"] == id
            before = [*ids, *own[:number]]
            expected = choice.steps(
                model.logits(before)[-1], before=before, piece=model.core.piece, number=number, seed=seed, **options
            )
            assert [one["name"] for one in found["steps"]] == [one.name for one in expected]
            for told, step in zip(found["steps"], expected, strict=True):
                assert told["kept"] == len(step.ids) and told["ids"] == step.ids[:1024].tolist()
                np.testing.assert_array_equal(told["probabilities"], step.probabilities[:1024])


def test_steps_are_refused(shown: Gate) -> None:
    look = call(shown, "POST", "/v1/look", {"prompt": "a b"}).json["id"]

    def refused(body: dict[str, Any]) -> str:
        found = call(shown, "POST", f"/v1/look/{look}/steps", body)
        assert found.status == 400, found.body
        param: str = found.error["param"]
        return param

    assert refused({}) == refused({"position": 2}) == refused({"position": -1}) == "position"
    assert refused({"position": 0, "options": {"top_k": -1}}) == "top_k"
    assert refused({"position": 0, "options": {"seed": 1}}) == refused({"position": 0, "options": []}) == "options"
    assert refused({"position": 0, "seed": [1, 2]}) == refused({"position": 0, "seed": -1}) == "seed"
    body = {"position": 0}
    assert call(shown, "POST", f"/v1/look/{look}/steps", body).json["drawn"] is None
    assert call(shown, "POST", "/v1/look/x/steps", body).status == 404


def test_the_program_loads_the_same(shown: Gate, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name that loads it elsewhere; an operator's name of it does not."""

    def line() -> str:
        found: str = made(shown, [{**HEAD, "layer": len(loads)}]).json["python"].splitlines()[2]
        return found

    loads: list[bool] = []
    assert line().startswith("model = Model.load('MODEL', ") and line().endswith("  # what the server has as 'm'")
    loads.append(True)
    held = SimpleNamespace(path=model.info().path)
    monkeypatch.setattr(inventory, "find", lambda name: held)
    assert line().startswith("model = Model.load('m', ") and "#" not in line()

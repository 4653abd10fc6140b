"""The app's files, and the look inside over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.look import pages
from pellucid.page import blocks
from pellucid.page.html import static
from pellucid.sampling import SamplingOptions
from pellucid.server import look
from pellucid.server.access import Key
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import ask, call

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def shown(model: Model) -> Iterator[Gate]:
    service = Service(Settings(names=("m",), ui=True), model)
    yield make_app(service)
    service.close()


def test_files(shown: Gate) -> None:
    index = call(shown, "GET", "/")
    assert index.status == 200 and index.headers["content-type"].startswith("text/html")
    assert index.body.decode() == static("index.html")
    for name in ("app.js", "app.css", "vendor/lit.js", "vendor/markdown.js", "views.js"):
        found = call(shown, "GET", f"/ui/{name}")
        assert found.status == 200 and found.body.decode() == static(name)
        kind = "text/css" if name.endswith("css") else "text/javascript"
        assert found.headers["content-type"].startswith(kind) and found.headers["x-content-type-options"] == "nosniff"
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    bad = (
        "..",
        "../app.py",
        "vendor/../../html.py",
        "vendor/NOTICE",
        "vendor/package.json",
        "page.html",
        "",
        "x.js",
        "a/b.js",
    )
    for name in (*bad, "app.js/", "%2e%2e/html.py", "APP.JS", "vendor/build.sh", "vendor/lit.d.ts"):
        assert call(shown, "GET", f"/ui/{name}").status == 404, name


def test_off_unless_asked_for(app: Gate) -> None:
    for method, path in (("GET", "/"), ("GET", "/ui/app.js"), ("POST", "/v1/look"), ("POST", "/v1/look/x/block")):
        assert call(app, method, path, {} if method == "POST" else None).status == 404


def test_a_look_is_what_a_page_has(shown: Gate, model: Model) -> None:
    done = call(
        shown, "POST", "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": 8, "seed": 3, "temperature": 1.2, "logprobs": True, "ignore_eos": True},
    )  # fmt: skip
    answer = [one["id"] for one in done.json["choices"][0]["logprobs"]["content"]]
    own = model.chat(MESSAGES, max_tokens=8, seed=3, temperature=1.2, ignore_eos=True)
    assert answer == own.ids
    asked = {"messages": MESSAGES, "answer": answer, "options": {"temperature": 1.2}, "seed": 3}
    found = call(shown, "POST", "/v1/look", asked).json
    meta = found["meta"]
    assert meta["ids"] == own.prompt_ids + own.ids and meta["prompt"] == len(own.prompt_ids)
    assert (meta["seed"], meta["options"]["temperature"]) == ("3", 1.2)
    options = SamplingOptions(temperature=1.2, seed=3)
    live = pages.Live(model.core, meta["ids"], meta["prompt"], options, None)
    for name, kind in meta["blocks"].items():
        data = call(shown, "POST", f"/v1/look/{found['id']}/block", {"name": name})
        assert data.headers["content-type"] == "application/octet-stream" and data.body == live.block(name)
        assert len(data.body) % np.dtype(blocks.TYPES[kind]).itemsize == 0
    n = len(meta["ids"])
    weights = np.frombuffer(live.block("att-29"), np.uint8)
    assert weights.shape == (9 * n * (n + 1) // 2,)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": MESSAGES, "prompt": "x"}, "messages"),
        ({"messages": 3}, "messages"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": "x", "answer": [-1]}, "answer"),
        ({"prompt": "x", "answer": "x"}, "answer"),
        ({"prompt": "x", "options": {"temperature": -1}}, "temperature"),
        ({"prompt": "x", "options": {"cancel": 1}}, "options"),
        ({"prompt": "x", "options": []}, "options"),
        ({"prompt": "x", "seed": "a"}, "seed"),
        ({"prompt": "x " * 3000}, "messages"),
    ],
)
def test_refused(shown: Gate, body: dict[str, Any], param: str) -> None:
    found = call(shown, "POST", "/v1/look", body)
    assert found.status == 400, found.body
    assert (found.error["param"] or "").partition("[")[0] == param, found.body


def test_blocks_are_refused(shown: Gate) -> None:
    id = call(shown, "POST", "/v1/look", {"prompt": "a b"}).json["id"]
    names: tuple[Any, ...] = ("x", "att-30", "att--1", "att-x", None, 3, {})
    for name in names:
        assert call(shown, "POST", f"/v1/look/{id}/block", {"name": name}).status == 400
    for other in ("x", "", id[:-1], id + "x"):
        assert call(shown, "POST", f"/v1/look/{other}/block", {"name": "stats"}).status == 404


def test_keys(model: Model) -> None:
    service = Service(Settings(names=("m",), ui=True, keys=(Key.of("one", "a"), Key.of("two", "b"))), model)
    app = make_app(service)
    assert call(app, "GET", "/").status == call(app, "GET", "/ui/app.js").status == 200
    assert call(app, "POST", "/v1/look", {"prompt": "x"}).status == 401
    mine, other = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    id = call(app, "POST", "/v1/look", {"prompt": "x"}, mine).json["id"]
    path, body = f"/v1/look/{id}/block", {"name": "stats"}
    assert call(app, "POST", path, body, mine).status == 200
    assert call(app, "POST", path, body, other).status == 404
    service.close()


def test_those_not_used_for_longest_go(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Settings(ui=True), model)
    app = make_app(service)

    def status(id: str) -> int:
        return call(app, "POST", f"/v1/look/{id}/block", {"name": "stats"}).status

    def made(i: int) -> str:
        id: str = call(app, "POST", "/v1/look", {"prompt": f"text {i}"}).json["id"]
        return id

    ids = [made(i) for i in range(3)]
    assert [status(id) for id in ids] == [200, 200, 200] and status(ids[0]) == 200
    size = pages.Live(model.core, model.tokenize("text 1"), 1, SamplingOptions(), None).nbytes
    monkeypatch.setattr(look, "MOST_BYTES", int(2.5 * size))
    newest = made(4)
    assert [status(id) for id in (*ids, newest)] == [200, 404, 404, 200]
    monkeypatch.setattr(look, "MOST_BYTES", 1)
    last = made(5)  # one is kept in any case
    assert [status(id) for id in (ids[0], newest, last)] == [404, 404, 200]
    service.close()


def test_a_client_that_leaves_ends_it(shown: Gate, model: Model) -> None:
    async def go() -> None:
        leave = asyncio.Event()
        body = {"prompt": [5] * 500}
        asked = asyncio.ensure_future(ask(shown, "POST", "/v1/look", body, leave=leave))
        await asyncio.sleep(0.05)
        leave.set()
        await asyncio.wait_for(asked, 30)
        other = await ask(shown, "POST", "/v1/look", {"prompt": "short"})
        assert other.status == 200

    asyncio.run(go())

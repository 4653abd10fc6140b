"""The app's files, and the look inside over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.look import live as parts
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
    assert call(app, "GET", "/").body == b"Pellucid is running"
    for method, path in (("GET", "/ui/app.js"), ("POST", "/v1/look"), ("POST", "/v1/look/x/block")):
        assert call(app, method, path, {} if method == "POST" else None).status == 404


def test_without_the_app(model: Model) -> None:
    service = Service(Settings(names=("m",), look=True), model)
    app = make_app(service)
    assert call(app, "GET", "/").body == b"Pellucid is running" and call(app, "GET", "/ui/app.js").status == 404
    id = call(app, "POST", "/v1/look", {"prompt": "x"}).json["id"]
    assert call(app, "POST", f"/v1/look/{id}/block", {"name": "stats"}).status == 200
    edits = {"list": [{"kind": "skip", "layer": 0, "part": "mlp"}]}
    asked = {"prompt": "x", "max_tokens": 1, "pellucid_edits": call(app, "POST", "/v1/edits", edits).json["id"]}
    assert call(app, "POST", "/v1/completions", asked).status == 200
    service.close()


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
    live = parts.Live(model.core, meta["ids"], meta["prompt"], options, None)
    for name, kind in meta["blocks"].items():
        data = call(shown, "POST", f"/v1/look/{found['id']}/block", {"name": name})
        assert data.headers["content-type"] == "application/octet-stream" and data.body == live.part(name).data
        assert len(data.body) % np.dtype(blocks.TYPES[kind]).itemsize == 0
    n = len(meta["ids"])
    weights = np.frombuffer(live.part("att-29").data, np.uint8)
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


@pytest.fixture(scope="module")
def kept(shown: Gate) -> tuple[str, int]:
    """A look's address, and how many tokens it has."""
    found = call(shown, "POST", "/v1/look", {"prompt": "The capital of France is Paris"}).json
    return f"/v1/look/{found['id']}/block", len(found["meta"]["ids"])


TYPES = {"u8": np.uint8, "u32": np.uint32, "f16": np.float16, "f32": np.float32, "f64": np.float64}


def part(shown: Gate, path: str, **body: Any) -> Any:
    """The array, or arrays, of an answer."""
    found = call(shown, "POST", path, body)
    assert found.status == 200, found.body
    shape = [int(size) for size in found.headers["pellucid-shape"].split(",")]
    arrays, at = [], 0
    for kind in found.headers["pellucid-type"].split(" "):
        arrays.append(np.frombuffer(found.body, TYPES[kind], int(np.prod(shape)), at).reshape(shape))
        at += arrays[-1].nbytes
    assert at == len(found.body)
    return arrays[0] if len(arrays) == 1 else arrays


def test_a_part_of_a_block(shown: Gate, kept: tuple[str, int], model: Model) -> None:
    path, n = kept
    trace = model.trace("The capital of France is Paris", "attention")
    rows = part(shown, path, name="attention", layer=23, head=[4, 0], positions=[-1, 2])
    assert rows.shape == (2, 2, n)
    expected = trace.attention[23][[0, 4]][:, [2, n - 1]]
    assert np.abs(rows - expected).max() <= 5e-4
    assert part(shown, path, name="attention", layer=0).shape == (9, n, n)
    tokens, largest = part(shown, path, name="attention", layer=23, head=4, k=2)
    assert tokens.shape == largest.shape == (1, n, 2)
    for row in range(n):
        order = np.argsort(-trace.attention[23, 4, row], kind="stable")[:2]
        there = largest[0, row] > 0
        assert tokens[0, row][there].tolist() == order[there].tolist() and there.sum() == min(row + 1, 2)
        assert np.abs(largest[0, row] - trace.attention[23, 4, row][order]).max() <= 5e-4
    whole = part(shown, path, name="att-7")
    assert np.array_equal(part(shown, path, name="att-7", head=[3]), whole[[3]])
    pushes = part(shown, path, name="head-push")
    assert pushes.shape == (n, 4, 30, 9)
    some = part(shown, path, name="head-push", positions=[1, 3], layer=-1, head=2)
    assert np.array_equal(some, pushes[[1, 3]][:, :, [29]][..., [2]])
    starts = part(shown, path, name="cand-starts")
    ids = part(shown, path, name="cand-ids")
    assert np.array_equal(part(shown, path, name="cand-ids", positions=1), ids[starts[1] : starts[2]])
    assert part(shown, path, name="lens-ids", positions=[0]).shape == (31, 1, 3)
    assert part(shown, path, name="thumbs", layer=3, head=1).shape == (1, 1, 24, 24)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "attention"}, "layer"),
        ({"name": "attention", "layer": [1]}, "layer"),
        ({"name": "attention", "layer": 30}, "layer"),
        ({"name": "attention", "layer": True}, "layer"),
        ({"name": "attention", "layer": 1e9}, "layer"),
        ({"name": "attention", "layer": 2**70}, "layer"),
        ({"name": "attention", "layer": "1"}, "layer"),
        ({"name": "attention", "layer": 1, "head": 9}, "head"),
        ({"name": "attention", "layer": 1, "head": {"a": 1}}, "head"),
        ({"name": "attention", "layer": 1, "head": [[1]]}, "head"),
        ({"name": "attention", "layer": 1, "head": "all"}, "head"),
        ({"name": "attention", "layer": 1, "positions": []}, "positions"),
        ({"name": "attention", "layer": 1, "positions": [0, 99]}, "positions"),
        ({"name": "attention", "layer": 1, "positions": [0, None]}, "positions"),
        ({"name": "attention", "layer": 1, "positions": [0.5]}, "positions"),
        ({"name": "attention", "layer": 1, "k": 0}, "k"),
        ({"name": "attention", "layer": 1, "k": 100}, "k"),
        ({"name": "attention", "layer": 1, "k": [1]}, "k"),
        ({"name": "att-1", "positions": 0}, "positions"),
        ({"name": "att-1", "layer": 0}, "layer"),
        ({"name": "att-1", "k": 2}, "k"),
        ({"name": "stats", "head": 0}, "head"),
        ({"name": "pieces", "positions": 0}, "positions"),
        ({"name": "cand-ids", "positions": 0, "layer": 0}, "layer"),
        ({"name": "stats", "positions": [0] * 5 + [-100]}, "positions"),
        ({"name": ["stats"]}, "name"),
        ({"name": "../stats"}, "name"),
        ({}, "name"),
    ],
)
def test_parts_are_refused(shown: Gate, kept: tuple[str, int], body: dict[str, Any], param: str) -> None:
    found = call(shown, "POST", kept[0], body)
    assert found.status == 400 and (found.error["param"] or "").partition("[")[0] == param, found.body


def test_a_part_is_bounded(shown: Gate, kept: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    path, n = kept
    monkeypatch.setattr(parts, "PART_BYTES", 9 * 2 * n * n - 1)
    refused = call(shown, "POST", path, {"name": "attention", "layer": 0})
    assert refused.status == 400 and "at most" in refused.error["message"]
    assert part(shown, path, name="attention", layer=0, head=[0, 1]).shape == (2, n, n)
    monkeypatch.setattr(parts, "PART_BYTES", 8 * n * (n + 1) // 2)
    assert call(shown, "POST", path, {"name": "att-3"}).status == 400
    assert part(shown, path, name="att-3", head=8).shape == (1, n * (n + 1) // 2)


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
    size = parts.Live(model.core, model.tokenize("text 1"), 1, SamplingOptions(), None).nbytes
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

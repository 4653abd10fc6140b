"""Several models: loaded when they are first asked for, unloaded for others or when nobody uses them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, cache_folder, memory
from pellucid.errors import OutOfMemoryError, PellucidError
from pellucid.server.app import make_app
from pellucid.server.failures import busy
from pellucid.server.gate import Gate
from pellucid.server.identity import fingerprint
from pellucid.server.models import Source
from pellucid.server.service import Service
from pellucid.server.settings import Limits, Settings
from tests.embedding.cases import BY_NAME
from tests.embedding.files import TEXTS, load_golden, write_folder
from tests.server.client import Answer, ask, call
from tests.server.sockets import request, rest
from tests.server.test_end import connect, run, served

COMPLETIONS = "/v1/completions"
PROMPT = {"prompt": "owls", "max_tokens": 3, "temperature": 0, "ignore_eos": True}


class Loader:
    """Loads a tiny model. gate: loading waits for it. failure: raised once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.made: list[Model] = []

    def __call__(self) -> Model:
        assert self.gate.wait(60)
        if self.failures:
            raise self.failures.pop()
        self.made.append(Model.load(self.path, threads=2))
        return self.made[-1]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = BY_NAME["qwen3_reranker"]
    return write_folder(case, load_golden(case), tmp_path_factory.mktemp("m") / "tiny")


Make = Callable[..., tuple[Service, Gate, list[Loader]]]


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    """make(names, fit=how many have room, size=bytes of their files) -> (service, app, loaders)."""
    services: list[Service] = []

    def made(
        names: Sequence[str] = "abc",
        fit: int | None = None,
        keep: float | None = None,
        size: int | None = None,
        **limits: Any,
    ) -> Any:
        loaders = [Loader(path) for _ in names]
        with Model.load(path, threads=2) as one:
            one.generate("owls", max_tokens=3)
            info = one.core.engine.info()
            nbytes = info["packed_bytes"] + info["work_bytes"]
            room = None if fit is None else fit * (nbytes + info["cache_bytes"]) + nbytes // 2
        settings = Settings(memory=room, keep_alive=keep, limits=Limits(**limits))
        sources = [
            Source((n, f"{n}-too"), load, nbytes if size is None else size)
            for n, load in zip(names, loaders, strict=True)
        ]
        services.append(Service(settings, sources=sources))
        return services[-1], make_app(services[-1]), loaders

    yield made
    for service in services:
        service.models.close()
        service.close()


async def complete(app: Gate, model: str, **more: Any) -> Answer:
    return await ask(app, "POST", COMPLETIONS, {**PROMPT, "model": model, **more})


def states(service: Service) -> str:
    """The first letter of each model's state."""
    return "".join({"loaded": "+", "loading": "~", "unloaded": "-"}[one.state] for one in service.models.all)


async def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_loaded_when_first_asked_for(make: Make, path: Path) -> None:
    service, app, loaders = make()
    with Model.load(path, threads=2) as model:
        expected = model.generate(PROMPT["prompt"], max_tokens=3, temperature=0, ignore_eos=True).text  # type: ignore[call-overload]

    async def main() -> None:
        assert (await ask(app, "GET", "/health")).json == {
            "status": "ok", "models": {"loaded": 0, "loading": 0, "unloaded": 3},
        }  # fmt: skip
        answers = await asyncio.gather(*(complete(app, name) for name in ("b", "b-too", "b")))
        assert [(a.status, a.json["model"]) for a in answers] == [(200, "b"), (200, "b-too"), (200, "b")]
        assert {a.json["choices"][0]["text"] for a in answers} == {expected}
        assert len(loaders[1].made) == 1 and states(service) == "-+-"
        cards = (await ask(app, "GET", "/v1/models")).json["data"]
        assert [(c["id"], c["state"]) for c in cards] == [
            ("a", "unloaded"), ("a-too", "unloaded"), ("b", "loaded"), ("b-too", "loaded"),
            ("c", "unloaded"), ("c-too", "unloaded"),
        ]  # fmt: skip
        assert cards[2]["max_model_len"] > 0 and "max_model_len" not in cards[0]
        cards = [(await ask(app, "GET", f"/v1/models/{name}")).json for name in "bc"]
        assert [card["state"] for card in cards] == ["loaded", "unloaded"]
        assert cards[0]["defaults"] == cards[1]["defaults"] and cards[1]["defaults"]["top_k"] == 40
        assert (await complete(app, "d")).error["code"] == "model_not_found"
        first = await ask(app, "POST", COMPLETIONS, PROMPT)  # without a name: the first
        assert first.json["model"] == "a" and states(service) == "++-"
        assert (await ask(app, "POST", "/v1/tokenize", {"content": "owls", "model": "c"})).status == 200
        embedded = await ask(app, "POST", "/v1/embeddings", {"input": TEXTS[0], "pooling": "mean", "model": "c"})
        assert embedded.status == 200 and states(service) == "+++"

    asyncio.run(main())
    text = call(app, "GET", "/metrics").body.decode()
    for name, n in (("a", 1.0), ("b", 3.0)):
        assert f'pellucid_request_success_total{{finish_reason="length",model="{name}"}} {n}' in text
    assert 'pellucid_model_loaded{model="c"} 1.0' in text and 'pellucid_model_loads_total{model="b"} 1.0' in text
    assert 'pellucid_rejected_total{model="",reason="model_not_found"} 1.0' in text
    assert 'pellucid_passes_total{model="b"}' in text


def test_who_waits_too_long(make: Make) -> None:
    service, app, loaders = make("ab", load_seconds=0.2, waiting=2)
    loaders[0].gate.clear()

    async def main() -> None:
        answers = await asyncio.gather(*(complete(app, "a") for _ in range(4)))
        assert sorted(a.status for a in answers) == [429, 429, 503, 503]
        for answer in answers:
            assert int(answer.headers["retry-after"]) > 0
            assert answer.error["code"] == ("loading" if answer.status == 503 else "queue_full")
        assert states(service) == "~-" and not service.running
        loaders[0].gate.set()
        await until(lambda: states(service) == "+-")
        assert (await complete(app, "a")).status == 200 and len(loaders[0].made) == 1

    asyncio.run(main())


def test_a_client_that_leaves_while_loading(make: Make) -> None:
    service, app, loaders = make("ab")
    loaders[0].gate.clear()

    async def main() -> None:
        leave = asyncio.Event()
        task = asyncio.ensure_future(ask(app, "POST", COMPLETIONS, {**PROMPT, "model": "a"}, leave=leave))
        await until(lambda: states(service) == "~-")
        leave.set()
        assert (await task).status == 0 and not service.running and service.models.all[0].uses == 0
        loaders[0].gate.set()
        await until(lambda: states(service) == "+-")

    asyncio.run(main())


def test_the_end_of_the_server_ends_waiting(make: Make) -> None:
    service, app, loaders = make("ab")
    loaders[0].gate.clear()

    async def main() -> None:
        task = asyncio.ensure_future(complete(app, "a", stream=True))
        await until(lambda: states(service) == "~-")
        (running,) = service.running
        assert running.waits
        running.end(busy(503, "the server is stopping", "shutting_down", 10))
        answer = await task
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        loaders[0].gate.set()
        await until(lambda: states(service) == "+-")

    asyncio.run(main())


def test_the_least_recently_used_makes_room(make: Make) -> None:
    service, app, loaders = make("abc", fit=2)

    async def main() -> None:
        first = await complete(app, "a")
        await complete(app, "b")
        await complete(app, "a")
        assert states(service) == "++-"
        assert (await complete(app, "c")).status == 200
        assert states(service) == "+-+" and loaders[1].made[0].core.closed
        assert (await complete(app, "b")).status == 200
        assert states(service) == "-++"
        again = await complete(app, "a")
        assert again.json["choices"] == first.json["choices"] and len(loaders[0].made) == 2
        assert states(service).count("+") == 2

    asyncio.run(main())


def test_files_that_are_smaller_than_their_models(make: Make) -> None:
    """What one takes is known once it is loaded; then, too, all take no more than they may."""
    service, app, _ = make(fit=1, size=1)

    async def main() -> None:
        for name, expected in (("a", "+--"), ("b", "-+-"), ("a", "+--")):
            assert (await complete(app, name)).status == 200 and states(service) == expected

    asyncio.run(main())


def test_never_one_with_requests(make: Make) -> None:
    service, app, loaders = make("ab", fit=1, load_seconds=0.5)

    async def main() -> None:
        leave = asyncio.Event()
        body = {**PROMPT, "model": "a", "max_tokens": 900, "stream": True}
        await complete(app, "a")
        one = service.models.all[0]
        async with service.models.use(one) as model:
            answer = await complete(app, "b")
            assert (answer.status, answer.error["code"]) == (503, "loading") and not model.core.closed
            beside = await ask(app, "POST", COMPLETIONS, {**body, "max_tokens": 5}, leave=leave)
            assert beside.status == 200 and states(service)[0] == "+"
        await until(lambda: service.models.all[1].loading is None)
        assert (await complete(app, "b")).status == 200
        assert states(service) == "-+"
        waits = asyncio.ensure_future(complete(app, "a"))  # takes the place as soon as b is free
        assert (await waits).status == 200 and states(service) == "+-"

    asyncio.run(main())


def test_unloaded_when_nobody_uses_it(make: Make) -> None:
    service, app, loaders = make("ab", keep=300)

    async def main() -> None:
        before = await complete(app, "a")
        one, now = service.models.all[0], time.monotonic()
        service.models.tick(now + 290)
        async with service.models.use(one):
            service.models.tick(now + 1000)
            await asyncio.sleep(0.05)
            assert states(service) == "+-"
        one.last = time.monotonic() - 301
        service.models.tick(time.monotonic())
        await until(lambda: states(service) == "--" and loaders[0].made[0].core.closed)
        card = (await ask(app, "GET", "/v1/models/a")).json
        assert card["state"] == "unloaded" and card["max_model_len"] > 0
        assert (await complete(app, "a")).json["choices"] == before.json["choices"]
        assert len(loaders[0].made) == 2

    asyncio.run(main())
    assert 'pellucid_model_loads_total{model="a"} 2.0' in call(app, "GET", "/metrics").body.decode()


def test_a_cache_that_cannot_be_written_keeps_no_model(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    service, app, loaders = make("a")
    monkeypatch.setattr(service.models, "_cache_dir", str(tmp_path))

    async def main() -> None:
        await complete(app, "a")
        monkeypatch.setattr(cache_folder, "save", fail)
        await service.models.unload(service.models.all[0])
        assert states(service) == "-" and loaders[0].made[0].core.closed

    asyncio.run(main())


def test_the_only_one_is_loaded_again(path: Path) -> None:
    loader = Loader(path)
    service = Service(Settings(names=("m",), keep_alive=300), loader())
    service.models.all[0].load = loader
    app = make_app(service)

    async def main() -> None:
        before = await complete(app, "m")
        service.models.all[0].last = time.monotonic() - 301
        service.models.tick(time.monotonic())
        await until(lambda: states(service) == "-" and loader.made[0].core.closed)
        assert (await ask(app, "GET", "/health")).json == {"status": "ok"}
        assert (await complete(app, "m")).json["choices"] == before.json["choices"]

    asyncio.run(main())
    service.models.close()
    service.close()


def test_loading_that_fails(make: Make) -> None:
    service, app, loaders = make("ab")
    loaders[0].failures = [PellucidError("/secret/path: damaged")]

    async def main() -> None:
        answers = await asyncio.gather(complete(app, "a"), complete(app, "a"))
        for answer in answers:
            assert (answer.status, answer.error["code"]) == (500, "load_failed")
            assert "secret" not in answer.body.decode()
            assert answer.error["message"] == f"a could not be loaded (request {answer.headers['x-request-id']})"
        assert states(service) == "--"
        assert (await complete(app, "a")).status == 200
        loaders[1].failures = [OutOfMemoryError("no memory")]  # an idle one makes room
        assert (await complete(app, "b")).status == 200
        assert states(service) == "-+" and loaders[0].made[0].core.closed

    asyncio.run(main())


def test_what_the_machine_has_left(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    service, app, _ = make("ab")
    left = [0, 1 << 40]  # too little for the second, until the first is gone

    async def main() -> None:
        assert (await complete(app, "a")).status == 200
        monkeypatch.setattr(memory, "available", lambda: left.pop(0) if left else 1 << 40)
        assert (await complete(app, "b")).status == 200
        assert states(service) == "-+"

    asyncio.run(main())


def test_what_was_counted_stays(make: Make) -> None:
    service, app, _ = make("ab", keep=300)

    def counted() -> dict[str, float]:
        lines = call(app, "GET", "/metrics").body.decode().splitlines()
        return {name: float(n) for name, _, n in (one.rpartition(" ") for one in lines) if "_total{" in name}

    async def unloaded() -> None:
        await complete(app, "a")
        service.models.all[0].last = time.monotonic() - 301
        service.models.tick(time.monotonic())
        await until(lambda: states(service) == "--")

    asyncio.run(complete(app, "a"))
    before = counted()
    assert before['pellucid_passes_total{model="a"}'] > 0
    for _ in range(2):
        asyncio.run(unloaded())
        after = counted()
        assert all(after[name] >= n for name, n in before.items())
        assert after['pellucid_passes_total{model="a"}'] > before['pellucid_passes_total{model="a"}']
        before = after


@pytest.mark.parametrize(
    ("endpoint", "keep", "more"),
    [
        ("/api/generate", 0, {}),
        ("/api/generate", "0", {"prompt": ""}),
        ("/api/generate", "0s", {}),
        ("/api/chat", 0, {"messages": []}),
    ],
)
def test_unloaded_by_clients_of_ollama(make: Make, endpoint: str, keep: Any, more: Any) -> None:
    service, app, loaders = make("ab")

    async def main() -> None:
        body = {"model": "a", "keep_alive": keep, **more}
        answer = await ask(app, "POST", endpoint, body)
        assert (answer.status, answer.json["done_reason"]) == (200, "unload")
        assert states(service) == "--" and not loaders[0].made  # it is never loaded for that
        await complete(app, "a")
        async with service.models.use(service.models.all[0]):
            assert (await ask(app, "POST", endpoint, body)).json["done_reason"] == "unload"
            assert states(service) == "+-"  # in use
        assert (await ask(app, "POST", endpoint, body)).json["done_reason"] == "unload"
        assert states(service) == "--" and loaders[0].made[0].core.closed
        assert (await ask(app, "POST", endpoint, {**body, "keep_alive": "5m"})).json["done_reason"] == "load"
        assert states(service) == "+-"

    asyncio.run(main())


def test_digests_of_models_that_were_never_loaded(make: Make) -> None:
    _, app, _ = make("ab")
    listed = call(app, "GET", "/api/tags").json["models"]
    digests = {one["name"]: one["digest"] for one in listed}
    assert all(re.fullmatch("[0-9a-f]{12,}", one) for one in digests.values())
    assert digests["a"] == digests["a-too"] != digests["b"]


def test_fingerprints_of_split_files(path: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{i:05d}-of-00002.gguf" for i in (1, 2)]
    for part in parts:
        part.write_bytes(b"weights")
    with Model.load(path, threads=2) as model:
        infos = [replace(model.info(), path=str(part)) for part in parts]
    before = fingerprint(infos[0])
    assert fingerprint(infos[1]) == before  # whichever is named
    parts[1].write_bytes(b"changed")
    assert before != fingerprint(infos[0]) == fingerprint(infos[1])


# ---- the command --------------------------------------------------------------------------------------------------


def test_the_command(smollm2: Path, path: Path) -> None:
    options = ("-m", f"tiny={path}", "-m", f"gpt-4o={smollm2}", "--keep-alive", "0.2s", "--memory", "4G")
    with served(smollm2, *options) as (process, port, line):
        assert line.startswith("smollm2-135m, tiny at http://")
        for name in ("tiny", "gpt-4o"):
            with connect(port) as connection:
                connection.sendall(request({**PROMPT, "model": name}, more="Connection: close\r\n"))
                assert b" 200 OK" in rest(connection)

        def health() -> bytes:
            with connect(port) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return rest(connection)

        end = time.monotonic() + 30
        while b'"unloaded":2' not in health():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.terminate()
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0 and "loaded tiny in" in log and "unloaded smollm2-135m" in log


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["-m", "a={smollm2}", "-m", "a={tiny}"], 2, "a already names another model"),
        (["-m", "{smollm2}", "-m", "b=/no/such.gguf"], 1, "/no/such.gguf: not found"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--memory", "90M"], 2, "--memory: smollm2-135m alone takes 98.4 MB"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--isa", "abacus"], 2, "--isa"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--kv", "f8"], 2, "--kv"),
        (["-m", "{smollm2}", "--precision", "half"], 2, "--precision='half': expected 'default' or 'high'"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--sequences", "0"], 2, "--sequences"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--sequences", "257"], 2, "--sequences=257: expected 1 to 256"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--threads", "9999"], 2, "--threads=9999: expected 1 to 1024"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--quantize", "q9"], 2, "--quantize is 'q9': expected one of"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--max-gap", "nan"], 2, "--max-gap=nan: expected a finite number"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--cache-bytes", "1x"], 2, "--cache-bytes='1x': expected a number of"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--checkpoints", "0"], 2, "--checkpoints='0': expected a number of"),
        (["-m", "{smollm2}", "--keep-alive", "soon"], 2, "--keep-alive='soon': expected a time, such as 30s, 5m or 2h"),
        (["-m", "{smollm2}", "-m", "{tiny}", "--default-model", "x"], 2, "expected one of smollm2-135m, tiny"),
    ],
)
def test_wrong_options(smollm2: Path, path: Path, options: list[str], code: int, error: str) -> None:
    done = run(*(one.format(smollm2=smollm2, tiny=path) for one in options))
    assert done.returncode == code and error in done.stderr and not done.stdout, done.stderr

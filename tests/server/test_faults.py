"""Clients that vanish in every phase, and connections that do nothing: what is left of them, and what others notice."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, Request, _engine
from pellucid.look.score import score
from pellucid.openai.fields import Call
from pellucid.server import generate, service
from pellucid.server.access import ANYONE
from pellucid.server.app import make_app
from pellucid.server.failures import Failure
from pellucid.server.service import Service
from pellucid.server.settings import Limits, Settings
from tests.server.client import Answer, ask
from tests.server.sockets import Running, request, reset, rest, running

CLOSE = "Connection: close\r\n"
CONTROL = request({"prompt": "The capital of France is", "max_tokens": 8, "seed": 3, "logprobs": 1}, more=CLOSE)
PHASES = ("waiting", "prefill", "decoding")


@pytest.fixture(scope="module")
def lone(smollm2: Path) -> Iterator[Model]:
    """One request runs at a time, and nothing is kept of it."""
    with Model.load(smollm2, threads=2, context=2048, sequences=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def server(lone: Model) -> Iterator[Running]:
    with running(lone, stalled_seconds=1, send_buffer=4096, look=True) as made:
        yield made


def choices(answer: bytes) -> bytes:
    assert b" 200 OK" in answer
    return answer.rpartition(b'"choices"')[2]


def metric(server: Running, name: str) -> float:
    answer = server.exchange(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{CLOSE}\r\n".encode()).decode()
    found = re.search(rf"^pellucid_{name}{{[^}}]*}} (\S+)", answer, re.MULTILINE)
    assert found, answer
    return float(found[1])


def leave(connection: socket.socket, how: str) -> None:
    if how == "fin":
        connection.close()
    elif how == "rst":
        reset(connection)


@pytest.mark.parametrize("ends", ["fin", "rst", "silence"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", PHASES)
def test_clients_that_vanish(
    server: Running, lone: Model, ends: str, stream: bool, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages are back two passes later, and its neighbour does not notice. One that falls silent is noticed when it
    takes nothing of what it is sent: a stream in its decoding, another one when its answer is whole."""
    expected = choices(server.exchange(CONTROL))
    server.settled()  # its answer comes before its end
    cancelled: list[int] = []
    cancel = Request.cancel

    def noted(self: Request) -> None:
        if not self.done and not cancelled:
            cancelled.append(lone.stats().passes)
        cancel(self)

    long = 60 if ends == "silence" and not stream else 1500
    body: dict[str, Any] = {"prompt": [7] * 400 if phase == "prefill" else "Hello", "ignore_eos": True}
    body |= {"max_tokens": long, "stream": stream, "logprobs": 5}
    holder = None
    if phase == "waiting":
        holder = server.connect()
        holder.sendall(request({"prompt": "Hi", "ignore_eos": True, "max_tokens": 1500, "stream": True}))
        server.until(lambda: any(one.record.new > 3 for one in server.service.running))
    before = set(server.service.running)
    monkeypatch.setattr(Request, "cancel", noted)
    connection = server.connect(receive_buffer=4096)
    connection.sendall(request(body))
    server.until(lambda: bool(server.service.running - before))
    (mine,) = server.service.running - before
    server.until(lambda: bool(mine.requests))
    if phase == "decoding":
        server.until(lambda: mine.record.new > 3 or mine not in server.service.running)
    if phase == "waiting":
        assert mine.waits
    leave(connection, ends)
    if ends == "silence" and phase == "waiting":
        assert holder is not None
        holder.close()  # so that it is its turn
        holder = None
    server.until(lambda: mine not in server.service.running)
    if holder is not None:
        assert before <= server.service.running  # it goes on
        assert metric(server, "requests_waiting") == 0
        holder.close()
    server.settled()
    server.until(lambda: not lone.stats().cache_bytes_used)
    if cancelled and phase != "waiting":
        assert lone.stats().passes <= cancelled[0] + 2
    stats = lone.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert metric(server, "requests_running") == metric(server, "requests_waiting") == 0
    assert choices(server.exchange(CONTROL)) == expected
    connection.close()


@pytest.mark.parametrize("ends", ["fin", "rst", "late"])
def test_prompts_are_scored_no_longer_than_their_request(
    lone: Model, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `echo` and `logprobs`, which takes passes of its own."""
    begun, found = threading.Event(), []

    def noted(*arguments: Any) -> Any:
        begun.set()
        try:
            return score(*arguments)
        except BaseException as error:
            found.append(error)
            raise

    monkeypatch.setattr(generate, "score", noted)
    body = {"prompt": [[7 + i] * 2000 for i in range(64)], "max_tokens": 0, "echo": True, "logprobs": 1}
    with running(lone, request_seconds=1 if ends == "late" else 600) as server:
        expected = choices(server.exchange(CONTROL))
        with server.connect() as connection:
            connection.sendall(request(body))
            assert begun.wait(30)
            if ends == "late":
                assert b" 504 " in connection.recv(4096)
            else:
                leave(connection, ends)
            server.until(lambda: bool(found))
        assert isinstance(found[0], _engine.Cancelled)
        server.settled()
        server.until(lambda: not lone.stats().cache_bytes_used)
        assert choices(server.exchange(CONTROL)) == expected


def test_prompts_that_wait_to_be_scored(lone: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of them than may wait, beside the one that is scored."""
    gate = threading.Event()

    def held(*arguments: Any) -> Any:
        assert gate.wait(30)
        return score(*arguments)

    monkeypatch.setattr(generate, "score", held)
    data = request({"prompt": "Hello there", "max_tokens": 0, "echo": True, "logprobs": 1}, more=CLOSE)
    with running(lone, waiting=2) as server:
        held_up = [server.connect() for _ in range(3)]
        for n, connection in enumerate(held_up, 1):
            connection.sendall(data)
            server.until(lambda n=n: len(server.service.running) == n)  # type: ignore[misc]
        server.until(lambda: server.service.at_work)
        time.sleep(0.1)  # in which each comes to be scored
        answer = server.exchange(data)
        assert b" 429 " in answer and b"retry-after: " in answer and b"to be scored" in answer
        gate.set()
        assert len({choices(rest(connection)) for connection in held_up}) == 1
        assert b" 200 OK" in server.exchange(data)


def test_as_many_at_once_as_may_run_and_wait(smollm2: Path) -> None:
    async def all_at_once(n: int) -> list[Answer]:
        bodies = [{"prompt": f"{i}", "max_tokens": 8, "ignore_eos": True} for i in range(n)]
        return await asyncio.gather(*(ask(app, "POST", "/v1/completions", body) for body in bodies))

    with Model.load(smollm2, threads=2, context=64, sequences=8) as model:
        service = Service(Settings(names=("m",), limits=Limits(waiting=4)), model)
        app = make_app(service)
        assert [one.status for one in asyncio.run(all_at_once(12))] == [200] * 12
        many = asyncio.run(all_at_once(40))
        refused = [one for one in many if one.status == 429]
        assert [one.status for one in many].count(200) == 40 - len(refused) >= 12 and refused
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        service.close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2000 if hard == resource.RLIM_INFINITY else min(hard, 2000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_hundreds_of_idle_connections(lone: Model, many_descriptors: None) -> None:
    """Beside a stream, which is what it is alone; they are closed when their time is up."""
    with running(lone, connections=1000, header_seconds=4, idle_seconds=4) as server:
        expected = choices(server.exchange(CONTROL))
        idle = [server.connect() for _ in range(600)]
        for connection in idle[::2]:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: local")
        for _ in range(3):
            assert choices(server.exchange(CONTROL)) == expected
        for connection in idle:
            rest(connection)  # until the server closes it
            connection.close()
        assert choices(server.exchange(CONTROL)) == expected


def test_slow_bodies_beside_a_stream(lone: Model) -> None:
    """A byte at a time: the body's time is up, and others do not wait for it."""
    with running(lone, body_seconds=2) as server:
        expected = choices(server.exchange(CONTROL))
        slow = [server.connect() for _ in range(20)]
        stop = threading.Event()

        def drip() -> None:
            at = 0
            while not stop.wait(0.05):
                for connection in slow:
                    try:
                        connection.sendall(CONTROL[at : at + 1] if at else CONTROL[:120])
                    except OSError:
                        pass
                at = max(at + 1, 120)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            for _ in range(3):
                assert choices(server.exchange(CONTROL)) == expected
            for connection in slow:
                answer = rest(connection)
                assert not answer or b" 408 " in answer or b" 200 " in answer
        finally:
            stop.set()
            thread.join()
            for connection in slow:
                connection.close()
        server.settled()


def test_a_reader_of_a_byte_at_a_time(lone: Model) -> None:
    """It gets all of its text, perhaps several tokens in an event, and others are not held up."""
    body = {"prompt": "Once", "max_tokens": 30, "ignore_eos": True, "stream": True, "seed": 1}
    with running(lone, send_buffer=4096, stalled_seconds=5) as server:
        expected = server.exchange(request(body, more=CLOSE))
        control = choices(server.exchange(CONTROL))
        with server.connect(receive_buffer=4096) as slow:
            slow.sendall(request(body, more=CLOSE))
            found = b""
            for _ in range(100):
                found += slow.recv(1)
                time.sleep(0.002)
            assert choices(server.exchange(CONTROL)) == control
            found += rest(slow)
    assert b"".join(texts(found)) == b"".join(texts(expected)) and b"[DONE]" in found


def texts(answer: bytes) -> list[bytes]:
    return re.findall(rb'"text":"((?:[^"\\]|\\.)*)"', answer)


def test_long_texts_do_not_hold_up_short_ones(lone: Model) -> None:
    """Several prompts of a megabyte are tokenised apart from the others."""
    with running(lone) as server:
        expected = choices(server.exchange(CONTROL))
        long = request({"prompt": "a b" * 400_000, "max_tokens": 1}, more=CLOSE)
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(server.exchange(long))) for _ in range(4)]
        for thread in threads:
            thread.start()
        while not answers:
            assert choices(server.exchange(CONTROL)) == expected
        for thread in threads:
            thread.join()
        assert all(b"context_length_exceeded" in answer for answer in answers)


POSTS = re.findall(r'Route\("([^"]+)", .*methods=\["POST"\]', inspect.getsource(make_app))
assert len(POSTS) == inspect.getsource(make_app).count('["POST"]') > 20


@pytest.mark.parametrize("path", POSTS)
def test_clients_that_leave_in_their_body(server: Running, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever they ask for, it is no error of the server's."""
    server.settled()
    before = metric(server, "disconnected_total")
    with server.connect() as connection:
        connection.sendall(request(b"x" * 20, path.replace("{id}", "x"))[:-10])
    server.until(lambda: metric(server, "disconnected_total") == before + 1)
    assert not [record for record in caplog.records if record.exc_info]


ASKED: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}, 200),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 2, "stream": True}, 200),
    ("/v1/completions", {"prompt": "Hi", "temperature": "hot"}, 400),
    ("/v1/completions", {"prompt": "Hi", "model": "another"}, 404),
    ("/v1/completions", {"prompt": "x " * 3000}, 400),
    ("/v1/completions", {"prompt": "x " * 3000, "stream": True}, 400),
    ("/v1/completions", {"prompt": "Hi", "grammar": "root ::= ("}, 400),
    ("/v1/embeddings", {"input": "Hi"}, 400),
    ("/v1/tokenize", {"text": 1}, 400),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hi"}], "model": "another"}, 404),
    ("/v1/edits", {"name": 1}, 400),
]


def test_nothing_of_a_request_waits_for_a_collection(server: Running) -> None:
    """However it ends, and on a connection that stays open: not its text, nor what it has computed."""
    kinds = (Call, generate.Answer, Request, service.Running, Failure)

    def found() -> set[int]:
        return {id(one) for one in gc.get_objects() if type(one) in kinds}

    server.settled()
    gc.collect()
    before = found()
    gc.disable()
    try:
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            for path, body, status in ASKED:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                assert (answer.status, answer.read()[:0]) == (status, b""), path
                server.until(lambda: not found() - before)
            with server.connect() as gone:
                gone.sendall(request({"prompt": "Hi", "max_tokens": 400, "stream": True, "ignore_eos": True}))
                gone.recv(100)
            server.until(lambda: not found() - before)
    finally:
        gc.enable()


# ---- time ------------------------------------------------------------------------------------------------------------
def test_a_request_whose_time_is_up(lone: Model) -> None:
    """A status where nothing was sent yet, which the next one does not notice; else an error in the stream."""
    body = {"prompt": "Once", "ignore_eos": True, "max_tokens": 1500, "seed": 1, "n": 8}
    with running(lone, request_seconds=2) as server:
        answer = server.exchange(request(body, more=CLOSE))
        assert b" 504 " in answer and b'"code":"timeout"' in answer
        answer = server.exchange(request({**body, "stream": True}, more=CLOSE))
        assert b" 200 OK" in answer and b'data: {"error":' in answer and b'"code":"timeout"' in answer
        server.until(lambda: metric(server, "rejected_total") == 2)
        shown = server.exchange(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{CLOSE}\r\n".encode())
        assert b"request_success_total{" not in shown  # nor are they counted as answered
        assert b"[DONE]" not in answer
        other = lone.submit("Once", key=ANYONE.name, ignore_eos=True, max_tokens=1500, n=8, ahead=10**6)
        answer = server.exchange(request({**body, "stream": True}, more=CLOSE))  # it waits until then
        assert b" 504 " in answer and b'"code":"timeout"' in answer
        assert not other.done
        other.cancel()
        server.settled()
        server.until(lambda: not lone.stats().cache_bytes_used)
        assert metric(server, "requests_running") == 0


def test_prompt_tokens_that_wait(lone: Model) -> None:
    """A prompt that has more of them than may wait is computed where none waits."""
    long = request({"prompt": [7] * 200, "max_tokens": 1}, more=CLOSE)
    with running(lone, waiting_tokens=50) as server:
        for _ in range(2):
            assert b" 200 OK" in server.exchange(long)
        other = lone.submit("Once", key=ANYONE.name, ignore_eos=True, max_tokens=1500, ahead=10**6)
        next(other)
        with server.connect() as waiting:
            waiting.sendall(long)
            server.until(lambda: lone.stats().waiting == 1)
            answer = server.exchange(long)
            assert b" 429 " in answer and b"retry-after: " in answer
            other.cancel()
            assert b" 200 OK" in rest(waiting)
        server.settled()


def test_silence_is_filled(lone: Model) -> None:
    """While another request runs, the stream that waits for it gets comments."""
    body = {"prompt": "Once", "ignore_eos": True, "max_tokens": 400, "stream": True, "seed": 1}
    with running(lone, ping_seconds=0.05) as server:
        with server.connect() as first:
            first.sendall(request(body, more=CLOSE))
            server.until(lambda: any(one.record.new > 3 for one in server.service.running))
            waited = server.exchange(request({**body, "max_tokens": 4}, more=CLOSE))
            assert b"[DONE]" in rest(first)
        assert b": ping\n\n" in waited and waited.index(b": ping") < waited.index(b"[DONE]")
        assert texts(waited) == texts(server.exchange(request({**body, "max_tokens": 4}, more=CLOSE)))

"""Connections: what is no HTTP, too long or too slow, clients that stall or leave."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from pellucid import Model
from tests.server.sockets import Running, request, reset, rest, running

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SMALL = {"prompt": "Hello", "max_tokens": 2, "temperature": 0}
HALF = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
LONG = {"prompt": "Hello", "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[Running]:
    with running(model, header_seconds=1, body_seconds=1, idle_seconds=2) as made:
        yield made


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d+) [A-Z]", answer)]


def code(answer: bytes) -> str:
    found: str = json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["code"]
    return found


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /h\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
        b"CONNECT x:y HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_request(server: Running, data: bytes) -> None:
    answer = server.exchange(data)
    assert statuses(answer) == [400], answer
    assert code(answer) in ("invalid_http", "invalid_host")
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{24}\r\n", answer)
    assert statuses(server.exchange(CLOSE)) == [200]


def test_what_is_refused_is_logged_and_counted(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    def counted() -> float:
        answer = server.exchange(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").decode()
        return sum(float(one) for one in re.findall(r'rejected_total{.*reason="invalid_http"} (\S+)', answer))

    before = counted()
    with caplog.at_level("INFO", "pellucid.server"):
        answer = server.exchange(b"nonsense\r\n\r\n")
    (id,) = re.findall(r"x-request-id: (\w+)", answer.decode())
    (line,) = (one.getMessage() for one in caplog.records if one.name == "pellucid.server")
    assert f" 400 - - id={id} " in line and line.endswith(" error=invalid_http")
    assert counted() == before + 1


def test_long_headers(server: Running) -> None:
    for n, status in ((30_000, 200), (40_000, 431), (300_000, 431)):
        answer = server.exchange(
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nA: " + b"a" * n + b"\r\n\r\n"
        )
        assert statuses(answer) in ([status], []), n  # a reset may overtake the answer, as the rest was not read
        if status == 200:
            assert statuses(answer) == [200]
    many = b"".join(b"A%d: b\r\n" % i for i in range(10_000))
    assert statuses(server.exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n")) in ([431], [])
    assert statuses(server.exchange(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")) in ([431], [])


def test_an_endless_header(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: ")
        sent = 0
        with pytest.raises(OSError):
            while sent < 5_000_000:
                sent += connection.send(b"a" * 4096)
                time.sleep(0.001)
        assert sent < 1_000_000


def test_half_requests_end(server: Running) -> None:
    for data in (b"G", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localhost\r\n", GET + b"GET /"):
        answer = server.exchange(data)
        assert statuses(answer) == ([200, 408] if data.startswith(GET) else [408]), data
        assert code(answer) == "request_timeout"


def test_slow_bodies_end(server: Running) -> None:
    data = request(SMALL)
    answer = server.exchange(data[:-5])
    assert (statuses(answer), code(answer)) == ([408], "request_timeout")
    with server.connect() as connection:  # answered before its body came
        connection.sendall(request(SMALL, more="Content-Encoding: gzip\r\n")[:-5])
        assert statuses(rest(connection)) == [415]


def test_idle_connections_end(server: Running) -> None:
    assert statuses(server.exchange(GET)) == [200]


def test_pipelining(server: Running) -> None:
    answer = server.exchange(GET * 40 + request(SMALL) + request(SMALL) + CLOSE)
    assert statuses(answer) == [200] * 43
    first, second = (part for part in answer.split(b"\r\n\r\n") if b"choices" in part)
    assert (
        json.loads(first.partition(b"HTTP/1.1")[0])["choices"]
        == json.loads(second.partition(b"HTTP/1.1")[0])["choices"]
    )


def test_a_connection_with_too_many_requests_behind_one_another_ends(server: Running) -> None:
    """One packet holds thousands, and each would wait; what the connection asked for ends with it."""
    server.settled()
    with server.connect() as connection:
        connection.sendall(request(LONG))
        server.until(lambda: any(one.record.new > 3 for one in server.service.running))
        (one,) = server.service.running
        connection.sendall(GET * 2000)
        assert statuses(rest(connection)) == [200]
    server.settled()
    assert one.record.disconnected and one.record.new < 400
    assert statuses(server.exchange(CLOSE)) == [200]


def test_what_follows_the_last_request_is_left(server: Running) -> None:
    for more in ("", "Upgrade: h2c\r\n"):
        last = request(SMALL, more=f"{more}Connection: close{', upgrade' * bool(more)}\r\n")
        for rest_of_it in (b"\r\n", GET, b"nonsense"):
            assert statuses(server.exchange(GET + last + rest_of_it)) == [200, 200]


def test_nonsense_behind_a_stream_is_no_part_of_it(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(request(LONG))
        answer = connection.recv(4096)
        connection.sendall(b"nonsense\r\n\r\n")
        answer += rest(connection)
    assert statuses(answer) == [200] and b"invalid_http" not in answer
    server.settled()


def test_chunked_bodies(server: Running) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    data = json.dumps(SMALL).encode()
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    assert statuses(server.exchange(head + body)) == [200]
    for trailer in (b"Host: evil.example", b"Content-Type: text/plain", b"Content-Encoding: gzip"):
        parts = (head + body[:-2] + trailer + b"\r\n\r\n",)
        for one in (parts, (head, body[:-2], trailer + b"\r\n\r\n")):  # at once, and behind the answer's beginning
            with server.connect() as connection:
                for part in one:
                    connection.sendall(part)
                    time.sleep(0.01)
                assert statuses(rest(connection)) == [200], trailer
    endless = b"0\r\n" + b"A: b\r\n" * 10_000
    assert statuses(server.exchange(head + body[:-5] + endless)) in ([431], [])


def test_a_body_that_is_too_long(model: Model) -> None:
    """Clients that send all of it before they read see the answer, and may go on where the connection does."""
    data = b" " * 6_000_000  # more than the sockets hold
    with running(model, body=100_000) as server:
        for more in ("", "Connection: close\r\n"):
            whole = request(data, more=more)
            head = whole.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
            chunked = head + b"".join(b"10000\r\n%b\r\n" % data[:65536] for _ in range(90)) + b"0\r\n\r\n"
            for one in (whole, chunked):
                with server.connect() as connection:
                    connection.sendall(one + (b"" if more else CLOSE))
                    assert statuses(rest(connection)) == ([413] if more else [413, 200])
        asked = request(data, more="Expect: 100-continue\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        assert statuses(server.exchange(asked)) == [413]
        unknown = request(data, "/v1/nothing", "Connection: close\r\n")
        assert statuses(server.exchange(unknown)) == [404]


def test_expect_and_upgrade(server: Running) -> None:
    data = request(SMALL, more="Expect: 100-continue\r\nConnection: close\r\n")
    with server.connect() as connection:
        connection.sendall(data[: data.index(b"{")])
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data[data.index(b"{") :])
        assert statuses(rest(connection)) == [200]
    for kind in ("websocket", "h2c"):
        more = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {kind}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        for chunked in (False, True):  # as Java's client sends it, with another request behind it, in any parts
            one = request(SMALL, more=more)
            if chunked:
                head, _, body = one.partition(b"\r\n\r\n")
                head = head.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
                one = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            assert statuses(server.exchange(one + request(SMALL) + CLOSE)) == [200] * 3
            with server.connect() as connection:
                for at in range(0, len(one), 7):
                    connection.sendall(one[at : at + 7])
                    time.sleep(0.001)
                connection.sendall(CLOSE)
                assert statuses(rest(connection)) == [200] * 2
        upgrade = f"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: {kind}\r\n\r\n"
        assert statuses(server.exchange(upgrade.encode())) == [200]


def test_http_1_0(server: Running) -> None:
    answer = server.exchange(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
    head = server.exchange(b"HEAD /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and head.endswith(b"\r\n\r\n")
    body = {**SMALL, "stream": True, "max_tokens": 16}
    older = server.exchange(request(body).replace(b"HTTP/1.1", b"HTTP/1.0")).partition(b"\r\n\r\n")
    assert b"chunked" not in older[0] and b"content-length" not in older[0] and b"connection: close" in older[0]
    assert older[2].startswith(b"data: ") and older[2].endswith(b"data: [DONE]\n\n")
    newer = server.exchange(request(body, more="Connection: close\r\n"))
    texts = [re.findall(rb'"text":"([^"]*)"', one) for one in (older[2], newer)]
    # a piece may have two tokens where the reader was late
    assert b"".join(texts[0]) == b"".join(texts[1]) and min(map(len, texts)) > 3


def test_most_connections(model: Model) -> None:
    """Where all are being answered, a new one is refused."""
    with running(model, connections=3, header_seconds=5) as server:
        held = [server.connect(receive_buffer=4096) for _ in range(3)]
        for connection in held:
            connection.sendall(request(LONG))
            assert connection.recv(1) == b"H"
        server.until(lambda: statuses(server.exchange(CLOSE)) == [503])
        answer = server.exchange(CLOSE)
        assert code(answer) == "too_many_connections" and b"Retry-After" in answer
        held.pop().close()
        server.until(lambda: statuses(server.exchange(CLOSE)) == [200])
        for connection in held:
            connection.close()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", HALF], ids=["nothing", "half a header", "half a body"])
def test_silent_connections_keep_nobody_away(model: Model, sent: bytes) -> None:
    """Those that wait for their client give way, the longest silent first; one that is being answered does not."""
    with running(model, connections=4) as server, server.connect() as answered:
        answered.sendall(request(LONG))
        assert answered.recv(1) == b"H"
        held = []
        for n in range(6):
            held.append(server.connect())
            held[-1].sendall(sent)
            if n >= 3:
                assert code(rest(held[n - 3])) == "too_many_connections"
            time.sleep(0.1)  # in which it is read, so that the next one is heard of later
        assert statuses(server.exchange(CLOSE)) == [200]
        assert answered.recv(1)
        for connection in held:
            connection.close()


def test_a_connection_kept_open_gives_way(model: Model) -> None:
    with running(model, connections=1) as server, server.connect() as kept:
        kept.sendall(request({"prompt": "Hello", "max_tokens": 2}))
        assert kept.recv(1) == b"H"
        server.until(lambda: statuses(server.exchange(CLOSE)) == [200])


# ---- clients that stall or leave ------------------------------------------------------------------------------------
def test_a_client_that_takes_nothing_is_dropped(model: Model) -> None:
    with running(model, send_buffer=4096, stalled_seconds=0.7) as server:
        with server.connect(receive_buffer=4096) as stalled:
            stalled.sendall(request({**LONG, "logprobs": 20, "n": 8}))
            server.until(lambda: bool(server.service.running))
            assert statuses(server.exchange(CLOSE)) == [200]
            server.settled()


def test_a_slow_reader_is_kept(model: Model) -> None:
    with running(model, send_buffer=4096, stalled_seconds=1.5) as server:
        with server.connect(receive_buffer=4096) as slow:
            slow.sendall(request({**LONG, "max_tokens": 60, "logprobs": 20}, more="Connection: close\r\n"))
            found = b""
            for _ in range(8):
                time.sleep(0.25)
                found += slow.recv(2048)
            found += rest(slow)
    assert b"data: [DONE]" in found


def used(model: Model) -> int:
    return model.info().cache_bytes


@pytest.mark.parametrize("ends", ["fin", "rst"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decoding"])
def test_clients_that_leave(server: Running, model: Model, ends: str, stream: bool, phase: str) -> None:
    server.settled()
    body = {**LONG, "stream": stream, "prompt": [7] * 480 if phase == "prefill" else "Hello", "n": 2}
    connection = server.connect()
    connection.sendall(request(body))
    server.until(lambda: bool(server.service.running))
    if phase == "decoding":
        server.until(lambda: any(one.record.new > 3 for one in server.service.running))
    (one,) = server.service.running
    connection.close() if ends == "fin" else reset(connection)
    server.settled()
    assert one.record.new < 2 * 400
    server.until(lambda: one.record.disconnected)


def test_a_client_that_leaves_with_requests_behind(server: Running) -> None:
    """The one that runs is told, too, not the last one alone."""
    server.settled()
    connection = server.connect()
    connection.sendall(request(LONG) + GET * 3)
    server.until(lambda: any(one.record.new > 3 for one in server.service.running))
    connection.close()
    server.settled()


@pytest.mark.parametrize("ends", ["fin", "rst"])
def test_a_client_that_leaves_before_its_answer_with_requests_behind(server: Running, ends: str) -> None:
    """Nothing is written to it meanwhile, which would fail."""
    server.settled()
    connection = server.connect()
    connection.sendall(request({**LONG, "stream": False}))
    server.until(lambda: any(one.record.new > 3 for one in server.service.running))
    (one,) = server.service.running
    connection.sendall(GET * 3)
    time.sleep(0.05)  # in which they are read
    connection.close() if ends == "fin" else reset(connection)
    server.settled()
    assert one.record.disconnected and one.record.new < 400


def test_half_closed_connections(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(request(LONG))
        connection.shutdown(socket.SHUT_WR)
        rest(connection)
    server.settled()


def test_connections_without_a_request(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """They are closed after `idle_seconds`, longer than a header may take, and are no error. The clock of a header
    begins with its first byte."""
    with caplog.at_level("INFO", "pellucid.server"):
        begun = time.monotonic()
        assert server.exchange(b"") == b"" and time.monotonic() - begun > 1.9
        with server.connect() as connection:
            time.sleep(1.6)
            connection.sendall(CLOSE)
            assert statuses(rest(connection)) == [200]
    assert not [one for one in caplog.records if one.name == "pellucid.server"]


def test_health_without_a_host(server: Running) -> None:
    answer = server.exchange(b"GET /health HTTP/1.0\r\n\r\n")
    assert b" 200 OK" in answer.partition(b"\r\n")[0] and answer.endswith(b'{"status":"ok"}')
    for data in (b"GET /metrics HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n"):
        assert b" 200 OK" not in server.exchange(data)

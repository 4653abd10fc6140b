"""`pellucid serve` as a process: how it starts, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pellucid import Model
from pellucid.cli import main
from pellucid.cli.serve import _greeting
from tests.server.sockets import request, rest

STREAM = {"prompt": "Hello", "ignore_eos": True, "stream": True}
COMMAND = [sys.executable, "-m", "pellucid", "serve", "--port", "0", "--threads", "2"]


@contextmanager
def served(model: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """(the process, its port, the line that it prints)."""
    command = [*COMMAND, "-m", str(model), *options]
    env = {**os.environ, **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = re.search(r":(\d+)", line)
        yield process, int(port[1]) if port else 0, line
    finally:
        process.kill()
        process.communicate()


def connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), 60)
    return made


def streams(port: int, n: int) -> list[socket.socket]:
    """Streams that have begun."""
    made = [connect(port) for _ in range(n)]
    for connection in made:
        connection.sendall(request({**STREAM, "max_tokens": 100_000}))
    for connection in made:
        found = b""
        while b"data:" not in found:
            found += connection.recv(65536)
    return made


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pellucid", "serve", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_precision(smollm2: Path) -> None:
    """The answers are those of a model that was loaded so, and not those of the default."""
    prompt = "The capital of France is"
    asked = {"prompt": prompt, "max_tokens": 3, "temperature": 0, "logprobs": 1}
    with served(smollm2, "--precision", "high", "--kv", "f32", "--context", "256") as (_, port, _):
        with connect(port) as connection:
            connection.sendall(request(asked, more="Connection: close\r\n"))
            found = json.loads(rest(connection).partition(b"\r\n\r\n")[2])["choices"][0]["logprobs"]["token_logprobs"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/smollm2-135m") as answer:
            assert json.load(answer)["precision"] == "high"

    def own(**options: Any) -> list[float]:
        with Model.load(smollm2, threads=2, **options) as model:
            done = model.generate(prompt, max_tokens=3, temperature=0, logprobs=1)
            return [one.logprob for one in done.logprobs]

    assert found == pytest.approx(own(precision="high", kv="f32"), abs=1e-6)
    assert found != pytest.approx(own(), abs=1e-6)


def test_the_line_works(smollm2: Path) -> None:
    with served(smollm2, "-m", f"gpt-4o={smollm2}", "--context", "256") as (process, port, line):
        name, address, body = re.match(r"(\S+) at (\S+)/v1; try: curl .* -d '(.*)'$", line).groups()  # type: ignore[union-attr]
        assert (name, address) == ("smollm2-135m", f"http://127.0.0.1:{port}")
        sent = json.dumps({**json.loads(body), "max_tokens": 3, "model": "gpt-4o"}).encode()
        asked = urllib.request.Request(f"{address}/v1/chat/completions", sent, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] <= 3
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
    (line,) = (line for line in log.splitlines() if " 200 POST /v1/chat/completions " in line)
    assert "model=gpt-4o" in line and "prompt_tokens=" in line
    assert "Hello" not in log


@pytest.mark.parametrize(
    ("generates", "pools", "template", "path"),
    [
        (True, False, "x", "chat/completions"),
        (True, False, None, "completions"),
        (False, True, None, "embeddings"),
        (False, False, None, "rerank"),
    ],
)
def test_the_line_is_for_the_model(generates: bool, pools: bool, template: str | None, path: str) -> None:
    """With a key that only a file has, and a socket whose name a shell would take apart, too."""
    tokenizer = SimpleNamespace(chat_template=template)
    core = SimpleNamespace(embedder=SimpleNamespace(pooling="mean" if pools else None))
    only: Any = SimpleNamespace(generates=generates, model=SimpleNamespace(tokenizer=tokenizer, core=core))
    line = _greeting(["m"], "http://localhost", "/tmp/it's a dir/socket", "KEY", only)
    words = shlex.split(line.partition("; try: ")[2])
    assert words[:4] == ["curl", "--unix-socket", "/tmp/it's a dir/socket", f"http://localhost/v1/{path}"]
    assert words[4:6] == ["-H", "Authorization: Bearer KEY"] and words[-2] == "-d" and json.loads(words[-1])


def test_terminated_while_schemas_are_prepared(smollm2: Path) -> None:
    """The interpreter waits for llguidance, which crashes where it is still at work after it."""
    code = """
import os, signal, sys, time
from pellucid.cli import main
from pellucid.cli.serve import _greeting
from pellucid.server.service import Service
def prepare(model):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    os.write(2, b"prepared\\n")
Service.prepare = staticmethod(prepare)
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, *COMMAND[3:], "-m", str(smollm2), "--context", "256"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "stopping: 0 requests run\nprepared\n")
    command[2] = code.replace("time.sleep(1)", "time.sleep(1), os.kill(os.getpid(), signal.SIGINT), time.sleep(60)")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "stopping: 0 requests run\n")


def test_a_unix_socket(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with served(smollm2, "--unix", str(path), "--log-json") as (process, _, line):
        assert f"--unix-socket {path}" in line and oct(path.stat().st_mode)[-3:] == "600"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(request({"prompt": "Hi", "max_tokens": 1}, more="Connection: close\r\n"))
            assert b" 200 OK" in rest(connection)
        done = run("--unix", str(path))
        assert (done.returncode, done.stderr) == (1, f"pellucid: {path}: in use\n")
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0 and not path.exists()
    found = json.loads(log.splitlines()[0])
    assert (found["status"], found["path"], found["finish"]) == (200, "/v1/completions", "length")


def test_a_unix_socket_of_the_next_server_stays(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        served(smollm2, "--unix", str(path), "--context", "256") as (process, _, _),
        socket.socket(socket.AF_UNIX) as own,
    ):
        path.unlink()
        own.bind(str(path))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0 and path.is_socket()


def test_terminated_with_time_to_end(smollm2: Path) -> None:
    """Requests that run go on to their end; others get 503."""
    with served(smollm2, "--context", "256") as (process, port, _):
        running = streams(port, 3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with connect(port) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b" 503 " in rest(connection)
        with connect(port) as connection:
            connection.sendall(request(STREAM, more="Connection: close\r\n"))
            answer = rest(connection)
            assert b" 503 " in answer and b"retry-after: " in answer and b"shutting_down" in answer
        for connection in running:
            assert b"data: [DONE]" in rest(connection)
        assert process.wait(30) == 0


def test_terminated_under_many_streams(smollm2: Path) -> None:
    """All end, with an error in the stream, within the grace and 2 s. No client has left; the log says what each got,
    and all of it is JSON."""
    with served(smollm2, "--grace", "0.5", "--sequences", "70", "--log-json") as (process, port, _):
        running = streams(port, 64)
        stalled = streams(port, 1)
        ends: list[bytes] = []
        readers = [threading.Thread(target=lambda c=c: ends.append(rest(c))) for c in running]
        for reader in readers:
            reader.start()
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        seconds = time.monotonic() - begun
        for reader in readers:
            reader.join(30)
        stalled[0].close()
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    first, others = lines[0], [line for line in lines if "level" in line]
    assert first["message"] == "stopping: 65 requests run" and first["level"] == "info" and len(others) == 66
    ended = [line for line in lines if line.get("error") == "shutting_down" and "disconnected" not in line]
    assert len(ended) >= 64 and all(line["new_tokens"] and line["prompt_tokens"] for line in ended)
    assert len(ends) == 64
    assert all(b"shutting_down" in end and b"[DONE]" not in end for end in ends)
    assert seconds < 30  # 2.5 on a machine that does nothing else


def test_terminated_before_requests_are_read(smollm2: Path) -> None:
    """Bodies that have not come, and texts that take many seconds to tokenise: neither holds up the end."""
    with served(smollm2, "--grace", "0.5") as (process, port, _):
        late, half = request({"prompt": "Hello", "max_tokens": 1}), []
        for data in (late[:-4], *[request({"prompt": "a" * 7_900_000, "max_tokens": 1})] * 4):
            half.append(connect(port))
            half[-1].sendall(data)
        running = streams(port, 1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        half[0].sendall(late[-4:])
        answers = [rest(connection) for connection in half]
        assert all(b"shutting_down" in one or b"context_length_exceeded" in one for one in answers), answers
        assert all(b" 503 " in one for one in (answers[0], answers[-1]))
        assert process.wait(60) == 0
        running[0].close()


def test_terminated_while_prompts_are_scored(smollm2: Path) -> None:
    """Minutes of work, which end with the request."""
    body = {"prompt": [[7 + i] * 4000 for i in range(64)], "max_tokens": 0, "echo": True, "logprobs": 1}
    with served(smollm2, "--grace", "0.5") as (process, port, _):
        with connect(port) as connection:
            connection.sendall(request(body))
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            answer = rest(connection)
            assert b" 503 " in answer and b"shutting_down" in answer
            assert process.wait(30) == 0


def test_a_second_signal_ends_at_once(smollm2: Path) -> None:
    with served(smollm2) as (process, port, _):
        running = streams(port, 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        running[0].close()


# ---- wrong starts ------------------------------------------------------------------------------------------------
def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("--port", str(port))
    expected = f"pellucid: port {port} is in use; --port 0 takes a free one\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize(
    ("options", "code", "what"),
    [
        (["--host", "0.0.0.0"], 2, "--host=0.0.0.0: other machines can reach it"),
        (["--host", "no.such.host.invalid", "--insecure"], 1, "no.such.host.invalid: no such host"),
        (["--host", "203.0.113.1", "--insecure", "--port", "0"], 1, "cannot listen on 203.0.113.1"),
        (["--port", "70000"], 2, "--port=70000"),
        (["--key-file", "/no/such/file"], 1, "/no/such/file: no such file"),
        (["--key-file", "/"], 1, "/: is a directory"),
        (["--unix", "/no/such/folder/socket"], 1, "/no/such/folder/socket"),
        (["--unix", "/tmp/" + "a" * 200], 1, "cannot listen on"),
        (["--unix", __file__], 1, "exists and is not a socket"),
        (["-m", "a=x", "-m", "a=y"], 2, "a already names another model"),
        (["-m", "a=x", "-m", "b=y"], 1, "no model is called 'x'"),
        (["-m", "=x"], 2, "expected MODEL or NAME=MODEL"),
        (["-m", "a=x", "-m", "b=y", "--template", "z"], 2, "--template: applies to a single model"),
        (["--template", "/no/such/file"], 1, "/no/such/file: not found"),
        (["--default-model", "x"], 2, "--default-model=x"),
        (["--allow-host", "example.org:8080"], 2, "--allow-host=example.org:8080: expected a name"),
        (["--allow-host", "https://example.org"], 2, "--allow-host=https://example.org: expected a name"),
        (["--cors-origin", "*"], 2, "--cors-origin=*: expected an origin"),
        (["--cors-origin", "https://example.org/"], 2, "--cors-origin=https://example.org/: expected an origin"),
        (["--cors-origin", "https://Example.org"], 2, "--cors-origin=https://Example.org: expected an origin"),
        (["--max-body", "x"], 2, "--max-body"),
        (["--max-waiting", "0"], 2, "--max-waiting=0"),
        (["--grace", "-1"], 2, "--grace=-1"),
        (["--port", "0", "-m", "no-such-model"], 1, "no-such-model"),
        (["--port", "0", "--isa", "abacus"], 2, "--isa"),
        (["--port", "0", "--sequences", "0"], 2, "--sequences"),
    ],
)
def test_wrong_options(options: Sequence[str], code: int, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *options]) == code
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1), err
    assert what in err


def test_a_key_from_the_environment(smollm2: Path, tmp_path: Path) -> None:
    done = run("--port", "0", PELLUCID_API_KEY="a b")
    assert done.returncode == 2 and "a b" not in done.stderr
    keys = tmp_path / "keys"
    keys.write_text("sk-other default")
    done = run("--port", "0", "--key-file", str(keys), PELLUCID_API_KEY="sk-secret")
    assert done.returncode == 2 and "called default" in done.stderr and "sk-" not in done.stderr
    keys.write_text("sk-secret alice")  # the same key: once
    with served(smollm2, "--key-file", str(keys), PELLUCID_API_KEY="sk-secret") as (process, port, _):
        with connect(port) as connection:
            key = "Authorization: Bearer sk-secret\r\nConnection: close\r\n"
            connection.sendall(request({"prompt": "a", "max_tokens": 1}, more=key))
            assert b" 200 " in rest(connection)
        process.send_signal(signal.SIGTERM)
        assert "key=alice" in process.communicate(timeout=30)[1]
    with served(smollm2, PELLUCID_API_KEY="sk-secret") as (process, port, line):
        assert "sk-secret" not in line and "$PELLUCID_API_KEY" in line
        for more, status in (("", b" 401 "), ("Authorization: Bearer sk-secret\r\n", b" 200 ")):
            with connect(port) as connection:
                connection.sendall(request({"prompt": "a", "max_tokens": 1}, more=f"{more}Connection: close\r\n"))
                assert status in rest(connection)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert "sk-secret" not in log and "key=default" in log


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "httptools", "prometheus_client"])
def test_without_the_extra(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom pellucid.cli import main\nsys.exit(main(['serve']))"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "pip install 'pellucid[server]'" in done.stderr and missing in done.stderr

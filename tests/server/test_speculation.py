"""Guesses and the folder of the prefix cache, over HTTP."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.schedule import speculation
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import call
from tests.server.sockets import request
from tests.server.test_end import connect, served

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculation, "GAIN", -1.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("stream", [False, True])
def test_a_prediction(app: Gate, stream: bool) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    plain = call(app, "POST", CHAT, {**body, "speculate": False}).json
    details = plain["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == details["rejected_prediction_tokens"] == 0
    text = plain["choices"][0]["message"]["content"]
    for content in (text, [{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]):
        asked = {**body, "prediction": {"type": "content", "content": content}}
        if stream:
            events = call(
                app, "POST", CHAT, {**asked, "stream": True, "stream_options": {"include_usage": True}}
            ).events
            said = "".join(c["delta"].get("content", "") for e in events[:-1] for c in e["choices"])
            usage = events[-2]["usage"]
        else:
            answer = call(app, "POST", CHAT, asked).json
            said, usage = answer["choices"][0]["message"]["content"], answer["usage"]
        assert said == text and usage["completion_tokens"] == plain["usage"]["completion_tokens"]
        details = usage["completion_tokens_details"]
        assert details["accepted_prediction_tokens"] > 8 and details["rejected_prediction_tokens"] >= 0
    content = f"{text[:16]} and nothing of the kind was ever said here."
    wrong = {**body, "prediction": {"type": "content", "content": content}}
    answer = call(app, "POST", CHAT, wrong).json
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] > 0


@pytest.mark.parametrize(
    ("prediction", "place"),
    [
        ("text", "prediction"),
        (["a"], "prediction"),
        ({}, "prediction.type"),
        ({"type": "text", "content": "a"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "content", "content": 3}, "prediction.content"),
        ({"type": "content", "content": ["a"]}, "prediction.content[0]"),
        ({"type": "content", "content": [{"type": "image_url"}]}, "prediction.content[0]"),
        ({"type": "content", "content": [{"type": "text", "text": None}]}, "prediction.content[0].text"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_prediction_of_another_form(app: Gate, path: str, prediction: Any, place: str) -> None:
    asked = {"messages": MESSAGES} if path == CHAT else {"prompt": "a"}
    answer = call(app, "POST", path, {**asked, "max_tokens": 1, "prediction": prediction})
    assert answer.status == 400 and place in answer.error["message"] and answer.error["param"] == place


def test_speculate_is_checked(app: Gate) -> None:
    answer = call(app, "POST", COMPLETIONS, {"prompt": "a", "max_tokens": 1, "speculate": "always"})
    assert answer.status == 400 and answer.error["param"] == "speculate"


@pytest.mark.usefixtures("eager")
def test_it_can_be_off_for_all(smollm2: Path) -> None:
    with Model.load(smollm2, threads=2, context=512) as model:
        service = Service(Settings(names=("m",), speculate=False), model)
        app = make_app(service)
        body = {"prompt": "one two three one two three one two", "max_tokens": 12, "temperature": 0}
        plain = call(app, "POST", COMPLETIONS, body).json
        usage = plain["usage"]["completion_tokens_details"]
        body["prediction"] = {"type": "content", "content": plain["choices"][0]["text"]}
        assert usage["accepted_prediction_tokens"] == 0 == model.stats().drafted_tokens
        usage = call(app, "POST", COMPLETIONS, {**body, "speculate": "auto"}).json["usage"]
        assert usage["completion_tokens_details"]["accepted_prediction_tokens"] > 0
        metrics = call(app, "GET", "/metrics").body.decode()
        stats = model.stats()
        assert f'pellucid_drafted_total{{model="m"}} {stats.drafted_tokens:.1f}' in metrics
        assert f'pellucid_accepted_total{{model="m"}} {stats.accepted_tokens:.1f}' in metrics
        service.close()


def ask(port: int, prompt: str, **more: Any) -> Any:
    body = json.dumps({"prompt": prompt, "max_tokens": 4, "temperature": 0, **more}).encode()
    url = f"http://127.0.0.1:{port}{COMPLETIONS}"
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def test_the_prefix_cache_outlives_the_server(smollm2: Path, tmp_path: Path) -> None:
    prompt, folder = "The capital of France is the city that " * 20, tmp_path / "cache"
    options = ("--context", "512", "--cache-dir", str(folder), "--cache-dir-bytes", "100M")
    found, texts = [], []
    for _ in range(3):
        with served(smollm2, *options) as (process, port, _):
            answer = ask(port, prompt)
            found.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            texts.append(answer["choices"][0]["text"])
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0
        for file in folder.glob("*/*.sequence") if len(found) == 2 else ():
            file.write_bytes(file.read_bytes()[:-9])  # is not used, and no reason not to start
    most = answer["usage"]["prompt_tokens"] - 1
    assert found == [0, most, 0] and len(set(texts)) == 1


def test_it_is_written_while_the_server_has_nothing_to_do(smollm2: Path, tmp_path: Path) -> None:
    """So that a server that is killed loses none of it; and only the last turn of a conversation stays."""
    prompt, folder = "The capital of France is the city that " * 20, tmp_path / "cache"
    options = ("--context", "512", "--cache-dir", str(folder))
    with served(smollm2, *options) as (process, port, _):
        known: set[Path] = set()
        for turn in (prompt, prompt + "lies where the river is wide, and the boats go by. " * 10):
            ask(port, turn)
            until = time.monotonic() + 30
            while not (found := set(folder.glob("*/*.sequence")) - known):
                assert time.monotonic() < until
                time.sleep(0.1)
            known |= found
        process.kill()
        process.communicate(timeout=30)
    with served(smollm2, *options) as (process, port, _):
        usage = ask(port, turn)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_a_server_that_is_stopped_while_it_is_written_ends_with_all_of_it(smollm2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with served(smollm2, "--context", "1536", "--cache-dir", str(folder)) as (process, port, _):
        for word in ("one", "two", "three", "four", "five"):
            ask(port, f"{word}, " * 700)
        until = time.monotonic() + 30
        while not list(folder.glob("*/*")):
            assert time.monotonic() < until
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0 and "Error" not in log
    assert len(list(folder.glob("*/*.sequence"))) == 5


def test_one_that_is_stopped_while_another_model_is_loaded(smollm2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    options = ("-m", f"other={smollm2}", "--context", "512", "--cache-dir", str(folder))
    with served(smollm2, *options) as (process, port, _):
        ask(port, "One, two, three, " * 12, model=smollm2.stem)
        with connect(port) as waits:
            waits.sendall(request({"model": "other", "prompt": "x"}))
            time.sleep(0.1)  # it takes longer
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 0
    assert list(folder.glob("*/*.sequence"))


def test_each_of_several_models_has_its_own(smollm2: Path, tmp_path: Path) -> None:
    prompt, folder = "The capital of France is the city that " * 20, tmp_path / "cache"
    other = tmp_path / "other.gguf"
    other.symlink_to(smollm2)
    options = ("-m", f"b={other}", "--context", "512", "--cache-dir", str(folder), "--memory", "100M")
    for found in (0, 1):
        with served(smollm2, *options) as (process, port, _):
            cached = [
                ask(port, prompt, model=name)["usage"]["prompt_tokens_details"]["cached_tokens"]
                for name in (smollm2.stem, "b", smollm2.stem)
            ]  # there is room for one of them
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0
        assert bool(cached[0]) == bool(found) and cached[2] > 0
    assert len(list(folder.iterdir())) == 1  # they are the same weights


def test_a_folder_that_is_none(smollm2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with served(smollm2, "--context", "256", "--cache-dir", str(folder)) as (process, port, _):
        ask(port, "One, two, three, " * 12)
        folder.write_text("a file")  # where the folder would be
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0 and "the prefix cache cannot be written" in log

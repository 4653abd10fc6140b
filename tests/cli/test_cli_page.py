"""`pellucid inspect --html`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pellucid import Model
from tests.page.conftest import parse

from .conftest import COMMAND, Run, error_line

TEXT = "The capital of France is"


def test_a_page(run: Run, tmp_path: Path, smollm2: Path) -> None:
    path = tmp_path / "a.html"
    done = run("inspect", TEXT, "--html", str(path), "--title", "Mine")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(f"written: {path} (")
    found = parse(path.read_text())
    assert found.meta["title"] == "Mine" and found.meta["timings"] is None
    with Model.load(smollm2) as model:
        assert found.meta["ids"] == model.tokenize(TEXT)
        assert model.trace(TEXT, "hidden").html(title="Mine").text == path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_an_answer_and_times(run: Run, tmp_path: Path, smollm2: Path) -> None:
    paths = [tmp_path / "a.html", tmp_path / "b.html"]
    asked = ("inspect", "Name a colour.", "--chat", "--generate", "6", "--seed", "3", "--temperature", "1.2")
    for path in paths:
        assert run(*asked, "--html", str(path)).returncode == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = parse(paths[0].read_text())
    with Model.load(smollm2) as model:
        prompt = model.core.conversation([{"role": "user", "content": "Name a colour."}]).ids
        done = model.generate(prompt, seed=3, max_tokens=6, temperature=1.2)
    assert found.meta["ids"] == prompt + done.ids and found.meta["prompt"] == len(prompt)
    assert (found.meta["seed"], found.meta["options"]["temperature"]) == ("3", 1.2)
    assert run("inspect", TEXT, "--html", str(paths[0]), "--time").returncode == 0
    times = parse(paths[0].read_text()).meta["timings"]
    assert len(times["prompt"]) == len(times["token"]) == len(found.meta["plan"]) and min(times["prompt"]) >= 0


def test_the_tokens_of_a_trace(run: Run, tmp_path: Path, smollm2: Path) -> None:
    with Model.load(smollm2) as model:
        model.trace([5, 6, 7], "hidden", layers=0).save(tmp_path / "t.npz")
    done = run("inspect", "--file", str(tmp_path / "t.npz"), "--html", str(tmp_path / "a.html"))
    assert done.returncode == 0, done.stderr
    assert parse((tmp_path / "a.html").read_text()).meta["ids"] == [5, 6, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--html", "DIR/nowhere/a.html"), "there is no folder"),
        (("--html", "DIR"), "this is a folder"),
        (("--html", "DIR/a", "--json"), "--json: a page shows everything"),
        (("--html", "DIR/a", "--layer", "3"), "--layer: a page shows everything"),
        (("--html", "DIR/a", "--only", "lens"), "--only: a page shows everything"),
        (("--html", "DIR/a", "--seed", "3"), "--seed=3: needs --generate"),
        (("--html", "DIR/a", "--file", "x.npz"), "takes the place of TEXT"),
        (("--html", "DIR/a", "--temperature", "-1"), "--temperature=-1"),
        (("--html", "DIR/a", "--top-p", "2", "--generate", "3"), "--top-p=2"),
        (("--title", "x"), "--title: needs --html"),
        (("--time",), "--time: needs --html"),
        (("--generate", "3"), "--generate: needs --html"),
        (("--html-size", "3"), "--html-size: needs --html"),
        (("--layers", "3"), "--layers: needs --html"),
        (("--html", "DIR/a", "--layers", "3-x"), "--layers=3-x: expected numbers and ranges, such as 0-5,29"),
        (("--html", "DIR/a", "--positions", "5-3"), "--positions=5-3: expected numbers"),
        (("--html", "DIR/a", "--positions", "-3-5"), "--positions=-3-5: expected numbers"),
        (("--html", "/dev/null"), "/dev/null: this is a device"),
    ],
)
def test_refused_before_anything_is_computed(
    call: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = call("inspect", TEXT, "-m", "/nowhere/model.gguf", *(a.replace("DIR", str(tmp_path)) for a in arguments))
    assert done.returncode == 2 and message in error_line(done)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_not_written(call: Run, tmp_path: Path, smollm2: Path) -> None:
    model, trace = tmp_path / "m.gguf", tmp_path / "t.npz"
    model.write_bytes(smollm2.read_bytes())
    with Model.load(model, threads=1) as loaded:
        loaded.trace("Hello").save(trace)
    before = trace.read_bytes()
    for arguments in (["Hi", "--html", str(model)], ["--file", str(trace), "--html", str(trace)]):
        done = call("inspect", *arguments, "-m", str(model))
        assert done.returncode == 2 and b"this is a file that is read" in done.stderr
    assert trace.read_bytes() == before and model.stat().st_size == smollm2.stat().st_size
    done = call("inspect", "Hi", "--html=", "-m", str(model))
    assert done.returncode == 2 and b"the name of the file to write is empty" in done.stderr


def test_a_trace_is_no_message(call: Run, tmp_path: Path) -> None:
    done = call("inspect", "-m", "/nowhere/model.gguf", "--file", "x.npz", "--chat", "--html", str(tmp_path / "a"))
    assert done.returncode == 2 and "--chat: makes a message of TEXT" in error_line(done)


def test_a_folder_that_cannot_be_written(call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = call("inspect", TEXT, "-m", "/nowhere/model.gguf", "--html", str(tmp_path / "a"))
    assert done.returncode == 1 and "no permission to write into" in error_line(done)


def test_some_layers_and_positions(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    done = run("inspect", TEXT, "--html", str(path), "--layers", "0-2,29", "--positions", "3,-1")
    assert done.returncode == 0, done.stderr
    kept = parse(path.read_text()).meta["kept"]
    assert (kept["layers"], kept["positions"]) == ([0, 1, 2, 29], [3, 4])
    done = run("inspect", TEXT, "--html", str(path), "--layers", "30")
    assert done.returncode == 2 and "--layers=30: expected" in error_line(done)


def test_the_position_that_is_shown_first(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "a.html")
    for given, expected in (("-3", 2), ("1", 1), ("-1", 4)):
        assert run("inspect", TEXT, "--html", path, "--position", given).returncode == 0
        assert parse(Path(path).read_text()).meta["hand"] == expected
    done = run("inspect", TEXT, "--html", path, "--position", "5")
    assert done.returncode == 2 and "--position=5: expected -5 to 4" in error_line(done)


def test_too_many_tokens(run: Run, tmp_path: Path) -> None:
    done = run("inspect", "-", "--html", str(tmp_path / "a.html"), stdin=b"a b c d " * 600)
    assert done.returncode == 2 and "pellucid: TEXT has 2,401 tokens: a page shows at most 2,048" in error_line(done)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_too_small(run: Run, tmp_path: Path) -> None:
    done = run("inspect", "-", "--html", str(tmp_path / "a.html"), "--html-size", "0.5", stdin=b"a b c d " * 16)
    assert done.returncode == 2 and "--html-size=0.5: a page of 65 tokens needs" in error_line(done), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_file(tmp_path: Path) -> None:
    command = [*COMMAND, "inspect", "word " * 1500, "--html", str(tmp_path / "a.html")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []

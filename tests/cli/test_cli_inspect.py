"""`pellucid inspect`, `score` and `plan --time` show the library's results."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.look import tables

from .conftest import Run, error_line
from .terminal import on_terminal as on_any_terminal
from .test_cli_commands import lines
from .test_cli_generate import on_terminal

TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def document(smollm2: Path) -> dict[str, Any]:
    """The JSON document for the text's last position."""
    return _json("inspect", TEXT, "--show", "4")


def _json(*arguments: str) -> Any:
    from contextlib import redirect_stdout
    from io import StringIO

    from pellucid.cli import main

    out = StringIO()
    with redirect_stdout(out):
        assert main([*arguments, "--json"]) == 0
    return json.loads(out.getvalue())


# ---- inspect ----------------------------------------------------------------------------------------------------


def test_inspect_tokens(document: dict[str, Any], model: Model) -> None:
    score = model.score(TEXT)
    found = document["tokens"]
    assert [t["id"] for t in found] == score.ids and document["position"] == 4
    assert (found[0]["bits"], found[0]["rank"]) == (None, None)
    for token, expected in zip(found[1:], score.tokens, strict=True):
        assert token["piece"] == expected.piece
        assert token["bits"] == pytest.approx(-expected.logprob / math.log(2), abs=1e-4)
        assert token["probability"] == pytest.approx(math.exp(expected.logprob), rel=1e-4)


def test_inspect_next_and_lens(document: dict[str, Any], model: Model) -> None:
    trace = model.trace(TEXT)
    assert [g["piece"] for g in document["next"]] == [g.piece for g in trace.top(k=4)]
    assert document["next"][0]["piece"] == " Paris"
    assert document["lens"] == [[g._asdict() for g in guesses] for guesses in trace.lens(k=4)]
    assert document["lens"][-1] == document["next"]


def test_inspect_heads(document: dict[str, Any], model: Model) -> None:
    trace = model.trace(TEXT)
    attribution = trace.attribution(-1, " Paris")
    assert document["target"]["piece"] == " Paris"
    most = sorted((-abs(attribution.heads[i, h]), i, h) for i in range(30) for h in range(9))[:4]
    assert [(h["layer"], h["head"]) for h in document["heads"]] == [(i, h) for _, i, h in most]
    for head in document["heads"]:
        assert head["logits"] == pytest.approx(attribution.heads[head["layer"], head["head"]], abs=1e-6)
        weights = trace.attention[head["layer"], head["head"], -1]
        best = sorted(weights.tolist(), reverse=True)[:3]
        assert [look["weight"] for look in head["looks"]] == pytest.approx(best, abs=1e-6)


def test_inspect_sampling(document: dict[str, Any]) -> None:
    sampling = document["sampling"]
    assert (sampling["temperature"], sampling["top_k"]) == (0.8, 40)
    names = [step["name"] for step in sampling["steps"]]
    assert names == ["model", "top-k 40", "top-p 0.95", "min-p 0.05", "temperature 0.8"]
    kept = [step["kept"] for step in sampling["steps"]]
    assert kept[:2] == [49152, 40] and kept == sorted(kept, reverse=True)
    other = _json("inspect", TEXT, "--temperature", "0", "--top-k", "3")["sampling"]["steps"]
    assert [(s["name"], s["kept"]) for s in other] == [("model", 49152), ("greedy", 1)]


def test_inspect_one_head_before_the_end(model: Model) -> None:
    found = _json("inspect", TEXT, "--position", "-3", "--layer", "23", "--head", "-5", "--show", "2")
    trace = model.trace(TEXT)
    assert (found["position"], found["follows"]) == (2, trace.ids[3])
    assert found["target"]["id"] == trace.ids[3]
    assert [h["layer"] for h in found["heads"]] == [23, 23]
    one = found["head"]
    assert (one["layer"], one["head"], len(one["looks"])) == (23, 4, 3)  # none after it
    for look in one["looks"]:
        assert look["weight"] == pytest.approx(float(trace.attention[23, 4, 2, look["position"]]), abs=1e-6)


@pytest.mark.parametrize("columns", ["30", "80"])
def test_inspect_text(run: Run, columns: str) -> None:
    done = run("inspect", TEXT, "--layer", "23", "--head", "4", COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "\x1b" not in text
    shown = text.splitlines()
    assert max(map(len, shown)) <= max(int(columns), 40)
    assert all(line == line.rstrip() for line in shown)
    for words in ("each token", "Next token", "Sampling", "layer 29", "Layer 23, head 4", "' Paris'"):
        assert words in text.replace("\n", " ")


def test_inspect_only(call: Run) -> None:
    options = ("--cache-bytes", "1G")  # otherwise it depends on the memory that is free
    everything = json.loads(call("inspect", TEXT, "--json", *options).stdout)
    always = {"model", "position", "follows"}
    keys = {
        "surprise": {"tokens"},
        "probabilities": {"next"},
        "sampling": {"sampling"},
        "lens": {"lens"},
        "memory": {"memory"},
        "heads": {"target", "heads", "head"},
    }
    assert set(everything) == always.union(*keys.values())
    headings = {
        "surprise": "How much each token",
        "probabilities": "Next token (",
        "sampling": "Sampling (",
        "lens": "Next token after each layer",
        "memory": "Memory (",
        "heads": "Heads that changed",
    }
    for part, names in keys.items():
        found = json.loads(call("inspect", TEXT, "--only", part, "--json", *options).stdout)
        assert set(found) == always | names
        assert all(found[name] == everything[name] for name in found)
        shown = call("inspect", TEXT, "--only", part).stdout.decode()
        assert [name for name, words in headings.items() if words in shown] == [part]
    for several in (("--only", "lens", "--only", "memory"), ("--only", "lens,memory")):
        assert set(json.loads(call("inspect", TEXT, *several, "--json").stdout)) == {*always, "lens", "memory"}


def test_inspect_memory(call: Run, model: Model) -> None:
    info = model.info()
    found = json.loads(call("inspect", TEXT, "--only", "memory", "--cache-bytes", "1G", "--json").stdout)["memory"]
    assert (found["weights"], found["limit"], found["kv"]) == (info.packed_bytes, 10**9, info.kv)
    assert found["text"] == 5 * info.cache_bytes_per_token and found["context"] == 8192 * info.cache_bytes_per_token


def test_the_bar_of_surprise_has_no_end(call: Run) -> None:
    """Beyond 10 bits, a bar is as long as the surprise, beside the most surprising token's."""
    arguments = ("inspect", "The capital of France is Quzzle", "--only", "surprise")
    found = [token["bits"] for token in json.loads(call(*arguments, "--json").stdout)["tokens"]][1:]
    most = max(found)
    shown = call(*arguments).stdout.decode()
    assert f"full bar: {most:.1f})" in shown and most > 10
    bars = [line.count("█") for line in shown.splitlines() if "█" in line or " 0." in line]
    assert bars == [round(bits / most * 20) for bits in found]
    assert sum(bar == 20 for bar in bars) == 1 and len({round(b) for b in found if b > 10}) > 1


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("colour", [False, True])
def test_inspect_and_score_on_terminals(columns: int, colour: bool) -> None:
    for arguments in (("inspect", TEXT), ("score", TEXT), ("score", TEXT, "--top", "2"), ("score", TEXT, "--lines")):
        code, seen = on_any_terminal(*arguments, columns=columns, colour=colour)
        assert code == 0 and max(map(len, seen.splitlines())) <= columns, seen


def test_inspect_colours_and_none() -> None:
    arguments = ("inspect", TEXT, "--show", "2")
    code, seen = on_terminal(*arguments, TERM="xterm-256color", COLUMNS="80")
    assert code == 0 and "\x1b[" in seen
    code, plain = on_terminal(*arguments, TERM="xterm-256color", COLUMNS="80", NO_COLOR="1")
    assert code == 0 and "48;5" not in plain and "16.6" in plain


def test_inspect_of_a_long_text_says_what_it_leaves_out(run: Run) -> None:
    done = run("inspect", "-", stdin=b"one two three " * 100)
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert "of 301; --json has all)" in text
    assert text.count("' two'") < 60
    done = run("inspect", "-", "--context", "100", stdin=b"one two three " * 100)
    assert done.returncode == 1
    assert "301 tokens needed, 100 available" in error_line(done)


def test_inspect_of_characters_that_terminals_obey(run: Run) -> None:
    done = run("inspect", "a\x1b[31m\x9b\u202e$x$ \U0001f389")
    assert done.returncode == 0
    assert not {"\x1b", "\x9b", "\u202e"} & set(done.stdout.decode())
    assert run("inspect", "Ünïcödé", PYTHONIOENCODING="ascii").stdout.isascii()


def test_inspect_png(call: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    done = call("inspect", "Cost: $5 and $6 \U0001f389", "--png", str(folder))
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["attention.png", "attribution.png", "lens.png"]
    for path in folder.iterdir():
        data = path.read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and width > 300 and height > 200
        assert f"written: {path}" in done.stdout.decode()


def test_inspect_png_without_matplotlib(call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    done = call("inspect", TEXT, "--png", str(tmp_path))
    assert done.returncode == 1
    assert error_line(done) == "pellucid: --png: plots need matplotlib: pip install 'pellucid[plots]'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--position", "5"], "--position=5: expected -5 to 4"),
        (["--layer", "30"], "--layer=30: expected -30 to 29"),
        (["--layer", "0", "--head", "9"], "--head=9: expected -9 to 8"),
        (["--head", "3"], "--head=3: needs --layer, the head's layer"),
        (["--top-p", "2"], "--top-p=2.0: expected 0 to 1"),
        (
            ["--only", "colours"],
            "--only='colours': expected surprise, probabilities, sampling, lens, memory or heads",
        ),
        (["--only", "lens", "--layer", "3"], "--layer=3: applies to heads, which --only leaves out"),
        (["--only", "memory", "--png", "x"], "--png: figures show lens and heads, which --only leaves out"),
    ],
)
def test_inspect_wrong_options(call: Run, arguments: list[str], message: str) -> None:
    done = call("inspect", TEXT, *arguments)
    assert (done.returncode, error_line(done)) == (2, f"pellucid: {message}")


def test_inspect_without_a_tokenizer(call: Run, tiny: Path) -> None:
    done = call("inspect", TEXT, "-m", str(tiny))
    assert done.returncode == 1
    assert "no tokenizer" in error_line(done)


# ---- score ------------------------------------------------------------------------------------------------------


def test_score(run: Run, model: Model, tmp_path: Path) -> None:
    text = "Grüße aus Paris.\nThe capital of France is Paris.\n"
    file = tmp_path / "text.txt"
    file.write_text(text)
    expected = model.score(text.removesuffix("\n"))
    whole = json.loads(run("score", "--file", str(file), "--raw", "--json").stdout)
    assert whole["log_probability"] == pytest.approx(model.score(text).total)
    found = json.loads(run("score", "--file", str(file), "--json").stdout)
    assert found["tokens"] == len(expected.tokens) and found["window"] is None
    assert found["log_probability"] == pytest.approx(expected.total)
    assert found["perplexity"] == pytest.approx(expected.perplexity)
    nbytes = len(text.encode()) - len("Gr") - len("\n")
    assert found["bytes"] == nbytes
    assert found["bits_per_byte"] == pytest.approx(-expected.total / math.log(2) / nbytes)
    assert found["bits_per_token"] == pytest.approx(math.log2(expected.perplexity))
    shown = lines(run("score", "-", stdin=text.encode(), COLUMNS="80"))
    assert f"{expected.total:.2f}" in shown[0]
    assert any(line.startswith("bits per byte") for line in shown)
    assert shown == lines(run("score", stdin=text.encode(), COLUMNS="80"))
    assert shown == lines(run("score", text.removesuffix("\n"), COLUMNS="80"))
    assert shown == lines(run("score", "-f", "-", stdin=text.encode(), COLUMNS="80"))


def test_score_of_a_name_that_is_a_file(call: Run, tmp_path: Path) -> None:
    """Once the argument was a file: whoever still gives one is told."""
    file = tmp_path / "text.txt"
    file.write_text("A text in a file.")
    done = call("score", str(file))
    assert done.returncode == 0 and f"--file {file}" in done.stderr.decode()
    assert call("score", "A text.").stderr == b""


def test_score_lines_and_alternatives(call: Run, model: Model, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("The cat sat.\n\nOne, two, three.\n")
    found = json.loads(call("score", "--file", str(file), "--lines", "--top", "2", "--json").stdout)
    assert [one["name"] for one in found["texts"]] == ["line 1", "line 3"]
    for one, text in zip(found["texts"], ("The cat sat.", "One, two, three."), strict=True):
        expected = model.score(text, top=2)
        assert one["log_probability"] == pytest.approx(expected.total)
        assert [t["id"] for t in one["scored"]] == expected.ids[1:]
        assert [t["top"] for t in one["scored"]] == [[list(o) for o in t.top] for t in expected.tokens]
    assert found["log_probability"] == pytest.approx(sum(one["log_probability"] for one in found["texts"]))
    assert "' sat'" in "\n".join(lines(call("score", "--file", str(file), "--top", "1")))
    assert any(line.startswith("line 3") for line in lines(call("score", "--file", str(file), "--lines")))


def test_score_in_parts(call: Run, model: Model, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT * 20)
    for arguments in (["--window", "16"], ["--context", "16"]):
        found = json.loads(call("score", "--file", str(file), "--json", *arguments).stdout)
        assert found["window"] == 16
        assert found["log_probability"] == pytest.approx(model.score(TEXT * 20, window=16).total)
    assert "in parts of 16 tokens" in call("score", "--file", str(file), "--window", "16").stdout.decode()


def test_score_of_one_token(call: Run, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("The")
    found = json.loads(call("score", "--file", str(file), "--json").stdout)
    assert (found["tokens"], found["perplexity"], found["bits_per_byte"]) == (0, None, None)
    assert "none" in call("score", "--file", str(file)).stdout.decode()


def test_score_of_what_is_no_text(call: Run, tmp_path: Path, tiny: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"ab\xffc")
    done = call("score", "--file", str(file))
    assert done.returncode == 1
    assert error_line(done) == f"pellucid: {file} is not UTF-8: byte 0xff at offset 2"
    file.write_bytes(b"\n\n")
    assert "contains no text" in error_line(call("score", "--file", str(file), "--lines"))
    file.write_bytes(b"")
    done = call("score", "--file", str(file))
    assert (done.returncode, "contains no text" in error_line(done)) == (1, True)
    assert "is a directory" in error_line(call("score", "--file", str(tmp_path)))
    assert "no such file" in error_line(call("score", "--file", str(tmp_path / "absent")))
    done = call("score", "a text", "--file", str(file))
    assert done.returncode == 2 and "takes the place of TEXT" in error_line(done)
    assert "TEXT contains no text" in error_line(call("score", ""))
    file.write_text("A text.")
    for wrong in ("0", "1"):
        done = call("score", "--file", str(file), "--window", wrong)
        assert (done.returncode, f"--window={wrong}: expected 2 to 8192" in error_line(done)) == (2, True)
    assert "no tokenizer" in error_line(call("score", "--file", str(file), "-m", str(tiny)))


# ---- plan -------------------------------------------------------------------------------------------------------


def test_plan_with_times(run: Run, call: Run, tiny: Path) -> None:
    found = json.loads(call("plan", "-m", str(tiny), "--time", "--rows", "3", "--depth", "2", "--json").stdout)
    with Model.load(tiny) as model:
        plain = json.loads(json.dumps([op.to_dict() for op in model.plan()]))
    assert all(op.pop("ns") > 0 for op in found)
    assert found == plain
    shown = lines(run("plan", "-m", str(tiny), "--time", COLUMNS="80"))
    shares = [float(cell[:-1]) for line in shown for cell in line.split() if cell.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert shown[-1].startswith("1 token after 0: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "2"], "--rows and --depth: need --time"),
        (["--time", "--rows", "99999"], "--rows=99999: a pass has at most"),
        (["--time", "--context", "64", "--depth", "64"], "--depth=64: with 1 more, a sequence holds at most 63"),
    ],
)
def test_plan_wrong_options(call: Run, tiny: Path, arguments: list[str], words: str) -> None:
    done = call("plan", "-m", str(tiny), *arguments)
    assert done.returncode == 2
    assert words in error_line(done)


def test_surprise_needs_every_position(model: Model) -> None:
    with pytest.raises(ValueError, match="positions: surprise needs"):
        tables.surprise(model.trace(TEXT, positions=-1))

"""The other commands, and what all commands have in common."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pellucid
from pellucid import Model, Tokenizer
from pellucid.cli import output
from pellucid.cli.app import COMMANDS
from pellucid.cli.plan import _ranges
from tests.families.case import load_golden, write_folder
from tests.families.cases import BY_NAME

from .conftest import COMMAND, Run, error_line


def lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Lines of stdout, of which none is wider than a terminal of 80 columns, plain."""
    assert (done.returncode, b"\x1b" in done.stdout) == (0, False), done.stderr
    found = done.stdout.decode().splitlines()
    assert max(map(len, found)) <= 80
    return found


def test_version(call: Run) -> None:
    assert lines(call("--version")) == [f"pellucid {pellucid.__version__}"]


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "-m", "", "hi"],
        ["embed", "-m", "", "hi"],
        ["tokenize", "-m", "", "hi"],
        ["score", "-m", "", "hi"],
        ["info", "-m", ""],
        ["quantize", "", "out.gguf"],
        ["convert", "", "out.gguf"],
        ["imatrix", "", __file__, "out.gguf"],
    ],
)
def test_a_model_without_a_name(call: Run, command: list[str]) -> None:
    done = call(*command)
    assert done.returncode == 2 and b"the model's name is empty" in done.stderr, done.stderr


def test_unknown_command(call: Run) -> None:
    done = call("dance")
    assert done.returncode == 2
    assert "dance" in error_line(done)


def test_info(run: Run, tiny: Path) -> None:
    size = ("--cache-bytes", "50M")  # otherwise it depends on the memory that is free
    done = run("info", "-m", str(tiny), "--threads", "2", "--json", *size, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with Model.load(tiny, threads=2, cache_bytes=50_000_000) as model:
        assert found == model.info().to_dict()
    text = "\n".join(lines(run("info", "-m", str(tiny), COLUMNS="80")))
    assert "architecture" in text and "llama" in text and str(tiny) in text.replace("\n", "").replace(" ", "")
    assert re.search(r"^cache shares +3 layers: [\d,]+$", text, re.M)


def test_plan(run: Run, smollm2: Path, tiny: Path) -> None:
    found = json.loads(run("plan", "-m", str(tiny), "--json").stdout)
    with Model.load(tiny) as model:
        assert found == json.loads(json.dumps([op.to_dict() for op in model.plan()]))
    short = lines(run("plan", COLUMNS="80"))
    assert any(line == "layers 0-29" for line in short)
    assert len(short) < 20
    assert short[-1].startswith("242 operations; every pass reads ")
    every = lines(run("plan", "-m", str(tiny), "--all", COLUMNS="80"))
    assert sum(line.startswith("attend ") for line in every) == 3
    assert [line for line in every if line.startswith("layer ")] == ["layer 0", "layer 1", "layer 2"]


def test_plan_of_experts_and_of_another_format(run: Run, tmp_path: Path) -> None:
    """Experts are read where a token chose them."""
    case = BY_NAME["mixtral"]
    folder = write_folder(case, load_golden(case), tmp_path / "m")
    assert lines(run("plan", "-m", str(folder), COLUMNS="80"))[-1].find("; a pass of one token reads ") > 0
    found = json.loads(run("plan", "-m", str(folder), "--json", "--quantize", "q8_0").stdout)
    assert {"Q8_0"} < {form for op in found for _, form, _, _ in op["matrices"]} | {"F32"}


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([4], "layer 4"), ([0, 1, 2, 5], "layers 0-2, 5"), ([3, 5, 6], "layers 3, 5-6")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert _ranges(numbers) == text


def test_a_text_that_is_not_utf8(run: Run) -> None:
    for command in ("tokenize", "generate", "chat", "inspect", "score"):
        done = run(command, b"a\xe9b", stdin=b"")
        assert (done.returncode, error_line(done)) == (1, "pellucid: TEXT is not UTF-8: byte 0xe9 at offset 1")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("generate", "x"), "--stop"),
        (("generate", "x"), "--choice"),
        (("generate", "x"), "--regex"),
        (("generate", "x"), "--dry-breakers"),
        (("chat", "x"), "--stop"),
        (("chat", "x"), "--system"),
        (("embed", "x", "--pooling", "mean"), "--instruction"),
        (("inspect", "x", "--html", "a.html"), "--title"),
        (("batch", "in.jsonl", "out.jsonl"), "--stop"),
    ],
)
def test_an_option_that_is_not_utf8(run: Run, command: tuple[str, ...], option: str) -> None:
    """It is a text, too: as a stop string it would never occur."""
    done = run(*command, option, b"a\xe9b")
    assert (done.returncode, error_line(done)) == (1, f"pellucid: {option} is not UTF-8: byte 0xe9 at offset 1")


def test_a_locale_without_the_characters(run: Run) -> None:
    """Text on the command line is UTF-8, as standard input is, whatever the locale."""
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = "caf\u00e9 \u65e5".encode()
    done = run("tokenize", "--ids", text, **ascii_only)
    assert (done.returncode, done.stdout) == (0, run("tokenize", "--ids", "-", stdin=text).stdout)
    done = run("chat", "Hi", "--system", text, "--stop", text, "-n", "1", **ascii_only)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["tokenize", "-"], ["chat", "-"], ["batch", "-", "out.jsonl"]])
def test_a_closed_standard_input(command: list[str], tmp_path: Path) -> None:
    program = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, *command]
    done = subprocess.run(program, capture_output=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and "standard input is closed" in error_line(done)
    assert [*tmp_path.iterdir()] == []


def test_pull(run: Run, smollm2: Path) -> None:
    done = run("pull", "smollm2-135m")
    assert (done.returncode, done.stdout.decode()) == (0, f"{smollm2}\n")
    assert b"Licence: Apache-2.0" in done.stderr
    assert json.loads(run("pull", "--json").stdout)["path"] == str(smollm2)


def test_pull_into_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("pull", PELLUCID_CACHE=str(tmp_path / "file"))
    assert done.returncode == 1
    assert b"PELLUCID_CACHE" in done.stderr.splitlines()[-1]


def test_tokenize(run: Run, smollm2: Path) -> None:
    text = "Grüße 𒀀, <|im_start|>"
    tokenizer = Tokenizer.load(smollm2)
    found = json.loads(run("tokenize", text, "--json").stdout)
    assert found["ids"] == tokenizer.encode(text)
    assert b"".join(map(bytes.fromhex, found["bytes"])).decode() == text
    assert len(found["pieces"]) == len(found["ids"])
    assert lines(run("tokenize", text, "--ids")) == [" ".join(map(str, tokenizer.encode(text)))]
    special = json.loads(run("tokenize", text, "--special", "--json").stdout)
    assert special["ids"] == tokenizer.encode(text, parse_special=True)
    assert special["pieces"][-1] == "<|im_start|>"
    shown = lines(run("tokenize", "-", stdin=text.encode(), PYTHONIOENCODING="utf-8"))
    assert [int(line.split()[0]) for line in shown] == found["ids"]
    assert any(line.endswith("bytes f0") for line in shown)


@pytest.mark.parametrize("command", [["tokenize", "--ids"], ["score", "-"]])
def test_input_without_an_end(call: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Endless input, as from `yes`, is refused before it fills the memory."""
    monkeypatch.setattr("pellucid.cli.options.LONGEST_TEXT", 1000)
    with open("/dev/zero") as endless:
        monkeypatch.setattr("sys.stdin", endless)
        done = call(*command)
    assert done.returncode == 1
    assert error_line(done) == "pellucid: standard input: expected a text of at most 1000 bytes"
    done = call("score", "--file", "/dev/zero")
    assert error_line(done) == "pellucid: /dev/zero: expected a text of at most 1000 bytes"


def test_score_of_a_file_without_a_name(call: Run) -> None:
    assert error_line(call("score", "--file", "")) == "pellucid: '': no such file or directory"


def test_start_is_light() -> None:
    """`generate` loads no modules for tables, templates, or vocabularies of another kind than the model's."""
    code = (
        "import sys; from pellucid.cli import main; code = main(['generate', 'a', '-n', '1']);"
        "print('\\n', code, *[m for m in ('rich.console', 'jinja2', 'sentencepiece', 'safetensors', 'huggingface_hub')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["0"]


@pytest.mark.parametrize("argv", [["--version"], ["pull", "--help"], ["-h"], ["nonsense"], []])
def test_only_what_is_asked_for_loads(argv: list[str]) -> None:
    """A run loads its own command; where it names none, all are known."""
    code = (
        "import sys; from pellucid.cli import app, main; main(sys.argv[1:]);"
        "print('\\n', *[name for name in app.COMMANDS if f'pellucid.cli.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = {"--version": [], "pull": ["pull"]}.get(argv[0] if argv else "", [*COMMANDS])
    assert done.stdout.splitlines()[-1].split() == expected


@pytest.mark.parametrize("server", [False, True], ids=["generate", "serve"])
def test_interrupted_while_fetching(server: bool, tmp_path: Path) -> None:
    """The index never answers; the interrupted download leaves nothing behind (a server's goes with the next one). A
    log in JSON has no other lines."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        env = {
            **os.environ,
            "PELLUCID_CACHE": str(tmp_path),
            "PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple",
            "PIP_CONFIG_FILE": os.devnull,
        }
        command = [*COMMAND, *(["serve", "--port", "0", "--log-json"] if server else ["generate", "The"])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
            index.settimeout(30)
            connection, _ = index.accept()  # pip is waiting for its answer
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
            connection.close()
    said = "downloading smollm2-135m (98.4 MB); licence: Apache-2.0"
    if server:
        (line,) = map(json.loads, stderr.splitlines())
        assert (process.returncode, stdout, line["level"], line["message"]) == (0, b"", "info", said)
    else:
        assert (process.returncode, stdout, stderr.decode()) == (130, b"", f"{said}\n")
        assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("named", "rows", "shown"),
    [
        (
            False,
            [["tokens", "1,234", "scored"], ["bytes", "5,678", "of these"]],
            "tokens 1,234 scored bytes 5,678 of these",
        ),
        (False, [[""], ["tiles"], ["1.000", "chosen", "a 12"]], "tiles 1.000 chosen a 12"),
        (
            True,
            [["A model"], [""], ["limit", "median", "best"], ["read", "123456", "234567"], ["note"], ["f32", "1", "2"]]
            + [[""], ["phase", "tokens", "bound"], ["decode", "345", "memory"]],
            "A model read median 123456 best 234567 note f32 median 1 best 2 decode tokens 345 bound memory",
        ),
    ],
)
def test_tables_in_a_narrow_terminal(
    named: bool,
    rows: list[list[str]],
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each cell is on a line of its own, after its column's name, where columns have names."""
    monkeypatch.setenv("COLUMNS", "12")
    output.table(rows, named=named)
    assert " ".join(capsys.readouterr().out.split()) == shown

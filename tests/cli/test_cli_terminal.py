"""Output that comes from a model, a file or a path is escaped on a terminal and printed byte for byte to a pipe."""

from __future__ import annotations

import _thread
import os
import re
import sys
import threading
import tty
from pathlib import Path

import pytest

from pellucid.cli.output import typed_line, visible
from tests.cli.conftest import Run
from tests.cli.terminal import Terminal, on_terminal
from tests.weights import hostile

PIECES = [
    "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x1b[2J", "\x9b31m", "\x90q\x9c", "\x1b", "]0;", "\u202eabc", "\u2066x",
    "\x7f\x08", "a\rb", "\u200bz", "\ufeffq",
]  # fmt: skip
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f\ud800-\udfff]"
)
NAME = "evil\x1b]0;x\x07\n\u202e\x9b.gguf"


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose pieces, name and path are escape sequences."""
    file = hostile.model()
    names = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % b for b in range(256)), *(p.encode() for p in PIECES)]
    hostile.spm(file)
    file.set_array("tokenizer.ggml.tokens", hostile.STRING, names)
    file.set_array("tokenizer.ggml.scores", hostile.F32, [-float(i) for i in range(len(names))])
    file.set_array("tokenizer.ggml.token_type", hostile.I32, [2, 3, 3, *[6] * 256, *[1] * len(PIECES)])
    file.set("general.name", hostile.STRING, b"name\x1b[31m\nevil")
    path = tmp_path_factory.mktemp("evil") / NAME
    path.write_bytes(file.bytes())
    return path


SAMPLING = ("--temperature", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "5", "-n", "50")


def test_generated_text(run: Run, evil: Path) -> None:
    arguments = ("generate", "ab", "-m", str(evil), *SAMPLING)
    raw = run(*arguments).stdout.decode("utf-8", "surrogateescape")
    sequences = [piece for piece in PIECES if piece in raw]
    assert sequences and len(OBEYED.findall(raw)) > 5
    code, seen = on_terminal(*arguments)
    assert code == 0 and OBEYED.search(seen) is None
    assert "".join(seen.split()).startswith("".join(visible(raw).split()))


def test_chat(run: Run, evil: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[-1].content }}")
    arguments = ("chat", "-m", str(evil), "--template", str(template), "--system", "\x1b[2J", *SAMPLING)
    raw = run(*arguments, "--lines", stdin=b"ab\n").stdout.decode("utf-8", "surrogateescape")
    assert OBEYED.search(raw)
    screen = Terminal(*arguments)
    try:
        start = screen.wait("> ")
        screen.type("ab\n")
        answer = screen.wait("> ")
        screen.type("/system\n")
        system = screen.wait("> ")
        screen.type("/load " + "no\x16\x1bsuch\n")
        loaded = screen.wait("> ")
        screen.type("/quit\n")
        screen.end()
    finally:
        screen.close()
    assert r"name\x1b[31m\nevil" in start
    assert "".join(visible(raw).split()) in "".join(answer.split())
    assert r"system message: \x1b[2J" in system
    assert [OBEYED.findall(text) for text in (start, answer, system)] == [[], [], []]
    assert r"no\x1bsuch: not found" in loaded


@pytest.mark.parametrize(
    "arguments",
    [
        ("info",),
        ("plan",),
        ("tokenize", "".join(PIECES), "--special"),
        ("tokenize", "".join(PIECES), "--json"),
        ("inspect", "".join(PIECES[:4])),
        ("score", "--file", "FILE", "--top", "3"),
        ("score", "--file", "FILE", "--lines"),
        ("score", "--file", "FILE", "--json"),
        ("info", "--isa", "\x1b]0;x\x07\u202e"),
        ("generate", "a", "--stop", "\udc9b"),
        ("no\x1b[2Jcommand\x9b",),
        ("score", "--file", "/no/such\x1b[2J\nfile\u202e"),
    ],
    ids=lambda arguments: " ".join(arguments)[:20].encode("ascii", "replace").decode(),
)
def test_every_command(evil: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(PIECES))
    command, *rest = (str(text) if a == "FILE" else a for a in arguments)
    model = [] if command.startswith("no") else ["-m", str(evil)]
    _, seen = on_terminal(command, *rest, *model)
    assert seen.strip()
    assert OBEYED.findall(seen) == []
    if "pellucid: " in seen:
        assert len(seen.strip().splitlines()) == 1 and len(seen.strip()) <= 500


def test_what_is_visible() -> None:
    assert visible("\x1b]52;c;aGk=\x07\x9b\x7f\r") == r"\x1b]52;c;aGk=\x07\x9b\x7f\r"
    hidden = "\u202e\u2066\u200b\ufeff\u2028\udc9b\U000e0041"
    assert visible(hidden) == "".join(repr(c)[1:-1] for c in hidden)
    # What languages and emoji need: marks of direction, joiners, combining and wide characters, no-break spaces.
    kept = "tab\tline\né e\u0301 \u05d0\u200f\u200e \u0646\u200c\u0627 \U0001f468\u200d\U0001f469 \ufe0f \xa0 \u3000"
    assert visible(kept) == kept
    # A sequence in parts is escaped as it is in one.
    text = "".join(PIECES)
    assert "".join(visible(part) for part in text) == visible(text)


def test_a_long_message_is_one_line_of_500_characters(run: Run) -> None:
    done = run("score", "--file", "/" + "x\x1b" * 2000)
    line = done.stderr.decode()
    assert done.returncode == 1 and line.startswith("pellucid: ") and line.endswith("\n")
    assert len(line) <= 501 and line[:-1].isprintable()


def test_numbers_of_inspect_are_whole_in_40_columns(smollm2: Path) -> None:
    text = "The capital of France is Paris zxq"
    parts = ("--only", "surprise", "--only", "sampling")
    code, seen = on_terminal("inspect", text, "-m", str(smollm2), *parts, columns=40)
    assert code == 0 and "\u2026" not in seen and max(map(len, seen.splitlines())) <= 40
    assert re.search(r"^position +token +surprise +rank$", seen, re.M)
    assert re.search(r"^step +tokens left ", seen, re.M) and re.search(r"^model +49,152 ", seen, re.M)


def test_an_interrupt_that_interrupts_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just before a read begins sets Python's flag and wakes nothing: so does `interrupt_main`."""
    controller, terminal = os.openpty()
    with open(terminal, encoding="utf-8") as stdin, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        timer = threading.Timer(0.3, _thread.interrupt_main)
        timer.start()
        giving_up = threading.Timer(20, os.write, (controller, b"late\n"))
        giving_up.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                typed_line()
            assert giving_up.is_alive()  # nothing was typed
        finally:
            giving_up.cancel()
            timer.join()
    os.close(controller)


@pytest.mark.parametrize("raw", [False, True])
def test_typed_lines(monkeypatch: pytest.MonkeyPatch, raw: bool) -> None:
    """Also of a terminal that hands over several lines at once; as its end, Ctrl-D."""
    controller, terminal = os.openpty()
    if raw:
        tty.setraw(terminal)
    with open(terminal, encoding="utf-8") as stdin, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        os.write(controller, "one \u00e4\ntwo\n".encode())
        assert [typed_line(), typed_line()] == ["one \u00e4\n", "two\n"]
        os.write(controller, b"\xff\n")
        assert typed_line() == "\udcff\n"
        if not raw:
            os.write(controller, b"\x04")
            assert typed_line() == ""
    os.close(controller)

"""`pellucid chat --tools FILE`: which functions a file offers, what is asked before one runs, and rounds of calls."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from pellucid import Model, Piece, ToolCall, ToolCallDelta
from pellucid.cli.chat import Talk
from pellucid.cli.functions import Functions
from pellucid.cli.output import UsageError
from pellucid.cli.session import Session as Conversation

from .conftest import Run, error_line

FILE = """
import math
from json import dumps

ran = []

def add(a: int, b: int = 1) -> int:
    "Adds."
    ran.append((a, b))
    return a + b

def fails() -> None:
    raise ValueError("no luck")

def _hidden(x):
    pass

class Other:
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tools.py"
    path.write_text(FILE)
    return path


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file = tempfile.TemporaryFile("w+", encoding="utf-8")
    file.write(text)
    file.seek(0)
    monkeypatch.setattr(sys, "stdin", file)


def call(name: str, arguments: str) -> ToolCall:
    return ToolCall("call_1", name, arguments)


def test_functions_of_a_file(file: Path) -> None:
    assert list(Functions(str(file), ask=True).known) == ["add", "fails"]


def test_a_file_that_changes_where_modules_are_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file.write_text("import sys\nsys.path.pop(0)\n" + FILE)
    assert list(Functions(str(file), ask=True).known) == ["add", "fails"]
    file.write_text("import sys\nsys.path.pop(0)\nraise KeyError('why')\n")
    with pytest.raises(UsageError, match="KeyError: 'why'"):
        Functions(str(file), ask=True)


@pytest.mark.parametrize(
    ("said", "expected", "asks"),
    [("y\n", "3", True), ("n\n", "Error: the user did not allow it", True), ("", "Error: the user did not", True),
     ("what\nYES\n", "3", True), ("a\n", "3", False)],
)  # fmt: skip
def test_asks_before_it_runs_one(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: str,
    expected: str,
    asks: bool,
) -> None:
    functions = Functions(str(file), ask=True)
    typed(monkeypatch, said)
    message = functions.answer(call("add", '{"a": 1, "b": 2}'))
    assert message["role"] == "tool" and message["tool_call_id"] == "call_1"
    assert message["content"].startswith(expected) and functions.ask == asks
    assert 'run add({"a": 1, "b": 2})? [y]es, [n]o, [a]lways ' in capsys.readouterr().err


def test_what_it_cannot_run_is_told_without_asking(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "")
    functions = Functions(str(file), ask=True)
    assert functions.answer(call("rm", "{}"))["content"].startswith("Error: there is no function rm")
    allowed = Functions(str(file), ask=False)
    assert allowed.answer(call("fails", "{}"))["content"] == "Error: ValueError: no luck"
    assert allowed.answer(call("add", '{"a": "x"}'))["content"].startswith("Error: the arguments do not fit")


def test_what_is_shown_cannot_move_the_cursor(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "n\n")
    Functions(str(file), ask=True).answer(call("add", '{"a": "\x1b[2K\r"}'))
    assert "\x1b" not in capsys.readouterr().err


class Session:
    """Answers in turn: a call, then text."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self.calls: tuple[ToolCall, ...] = ()
        self.finish: Any = "eos"

    def answer(self, asked: list[dict[str, Any]], cancel: Any) -> Iterator[Piece]:
        self.asked.append(asked)
        first = len(self.asked) == 1
        self.calls = (call("add", '{"a": 1}'),) if first else ()
        deltas = (ToolCallDelta(0, "call_1", "add", '{"a": 1}'),) if first else ()
        yield Piece("" if first else "It is 2.", [1], [], self.finish, tool_calls=deltas)

    def drop_calls(self) -> None:
        self.calls = ()


def test_rounds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session()
    talk = Talk(session, False, Functions(str(file), ask=False))
    talk.answer("What is 1 + 1?")
    assert session.asked == [
        [{"role": "user", "content": "What is 1 + 1?"}],
        [{"role": "tool", "tool_call_id": "call_1", "name": "add", "content": "2"}],
    ]
    shown = capsys.readouterr()
    assert shown.out == "It is 2.\n" and '[add({"a": 1})]' in shown.err


def test_ctrl_c_stops_a_function_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    functions = Functions(str(file), ask=False)
    monkeypatch.setattr(functions, "answer", stopped)
    session = Session()
    Talk(session, True, functions).answer("What is 1 + 1?")
    assert session.asked[1][0]["content"] == "Error: the user stopped it"
    with pytest.raises(KeyboardInterrupt):  # where nobody types, the run ends
        Talk(Session(), False, functions).answer("What is 1 + 1?")


class Whole:
    """What `--json` asks: answers in turns, a call, then text."""

    template = None
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, finish: str) -> None:
        self.model = self
        self.finish = finish
        self.asked: list[list[dict[str, Any]]] = []

    def said(self) -> list[dict[str, Any]]:
        return []

    def info(self) -> Any:
        return SimpleNamespace(to_dict=dict)

    def chat(self, messages: list[dict[str, Any]], **_: Any) -> Any:
        calls = () if self.asked else (call("add", '{"a": 1}'),)
        self.asked.append(list(messages))
        message = {"role": "assistant", "content": "" if calls else "It is 2."}
        return SimpleNamespace(
            tool_calls=calls, finish_reason=self.finish, message=lambda: message, to_dict=lambda: {"text": ""}
        )


@pytest.mark.parametrize("finish", ["eos", "stop", "length", "context"])
def test_calls_of_an_answer_that_was_cut_off_are_not_run(
    file: Path, finish: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = finish in ("eos", "stop")
    functions, session, document = Functions(str(file), ask=False), Session(), Whole(finish)
    session.finish = finish
    Talk(session, False, functions).answer("What is 1 + 1?")
    assert len(session.asked) == (2 if whole else 1)
    capsys.readouterr()
    Talk(document, False, functions).document("What is 1 + 1?")
    messages = json.loads(capsys.readouterr().out)["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", *(["tool", "assistant"] if whole else [])]


def test_calls_without_results_leave_the_conversation(smollm2: Path) -> None:
    """Templates expect a result of each."""
    with Model.load(smollm2) as model:
        session = Conversation(model, None, None, {})
        pieces = [Piece("I look.", [1], [], None, tool_calls=(ToolCallDelta(0, "call_1", "add", "{"),))]
        pieces.append(Piece("", [2], [], "length"))
        session.context = cast(Any, SimpleNamespace(chat=lambda *_, **__: (one for one in pieces)))
        Talk(session, False, None).answer("What is 1 + 1?")
        assert session.messages == [
            {"role": "user", "content": "What is 1 + 1?"},
            {"role": "assistant", "content": "I look."},
        ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such file"),
        ("x = 1", "defines no function"),
        ("def f(x): pass", "f(x): expected a type"),
        ("def f(*x: int): pass", "f(x): expected a parameter that has a name"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("def f() -> None: pass\nimport nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "tools.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="--tools: ") as failed:
        Functions(str(path), ask=True)
    assert expected in str(failed.value)


def test_needs_someone_to_ask(run: Run, file: Path) -> None:
    done = run("chat", "--tools", str(file), "Hello")
    assert done.returncode == 2 and "needs a terminal to ask" in error_line(done)


def test_runs_with_the_default_model(run: Run, file: Path) -> None:
    done = run("chat", "--tools", str(file), "--yes", "--json", "-n", "6", "--temperature", "0", "Hello")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["messages"][0] == {"role": "user", "content": "Hello"}
    assert document["messages"][1]["role"] == "assistant"

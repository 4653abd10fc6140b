"""`pellucid chat`: turns from a pipe and at a terminal, commands, and every way in which it can end."""

from __future__ import annotations

import json
import os
import signal
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pellucid import Model
from pellucid.errors import ModelFileError

from .conftest import Run, error_line
from .terminal import Terminal, on_terminal

GREEDY = ("--temperature", "0", "-n", "8")
CUT = "[cut off at the limit of -n]"


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2) as loaded:
        yield loaded


def answers(model: Model, *said: str, system: str | None = None) -> list[str]:
    """The library's answers, turn by turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    context, found = model.context(), []
    for text in said:
        messages.append({"role": "user", "content": text})
        found.append(context.chat(messages, temperature=0, max_tokens=8).text)
        messages.append({"role": "assistant", "content": found[-1]})
    return found


def flat(text: str) -> str:
    """A text without its line ends, which a terminal's width may have added."""
    return " ".join(text.split())


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


# ---- piped ----------------------------------------------------------------------------------------------------


def test_each_line_is_a_turn(run: Run, model: Model) -> None:
    done = run("chat", "--lines", *GREEDY, stdin=lines("Hello", "", "What is the capital of France?"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == lines(*answers(model, "Hello", "What is the capital of France?"))
    assert set(done.stderr.decode().splitlines()) <= {CUT}


def test_last_line_without_an_end(run: Run, model: Model) -> None:
    done = run("chat", "--lines", *GREEDY, "--system", "Be brief.", stdin=b"Hello")
    assert (done.returncode, done.stdout) == (0, lines(*answers(model, "Hello", system="Be brief.")))


def test_nothing_said(run: Run) -> None:
    done = run("chat", "--lines", stdin=b"\n\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_several_lines(run: Run, model: Model) -> None:
    done = run("chat", "--lines", *GREEDY, stdin=b'one \\\ntwo\\\nthree\n"""four\n\nfive"""\n"""six"""\n"""seven')
    assert done.stdout == lines(*answers(model, "one \ntwo\nthree", "four\n\nfive", "six", "seven"))


def test_commands(run: Run, model: Model, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    said = lines(
        "/system Be brief.",
        "Hello",
        f"/save {file}",
        "/reset",
        "/stats",
        f"/load {file}",
        "/system",
        "And you?",
        "/stats",
        "/help",
        "/exit",
        "never said",
    )
    done = run("chat", "--lines", *GREEDY, stdin=said)
    assert done.returncode == 0, done.stderr
    expected = answers(model, "Hello", "And you?", system="Be brief.")
    assert done.stdout == lines(*expected)
    notes = done.stderr.decode()
    assert "system message: Be brief.\n" in notes and "saved 2 messages" in notes and "loaded 2 messages" in notes
    assert "context: 0 of 8192 tokens" in notes and "turns: 2" in notes
    assert all(f"/{name}" in notes for name in ("help", "system", "reset", "save", "load", "stats", "exit"))
    assert max(map(len, notes.splitlines())) <= 60  # fits a narrow terminal
    saved = json.loads(file.read_text())
    assert saved["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": expected[0]},
    ]


def test_statistics_count_the_tokens_of_the_answer(model: Model) -> None:
    """Also of one that has none."""
    from pellucid.cli.session import Session

    session = Session(model, None, None, {"temperature": 0})
    for most, said in ((0, "last answer: 0 tokens"), (1, "last answer: 1 token,"), (3, "last answer: 3 tokens")):
        session.options["max_tokens"] = most
        list(session.answer([{"role": "user", "content": "Tell me a story."}], None))
        notes: list[str] = []
        session.command("/stats", notes.append)
        assert notes[-1].startswith(said), notes


def test_errors_of_commands_end_nothing(run: Run, model: Model, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "wrong.json").write_text('{"messages": [{"role": "user"}]}')
    (tmp_path / "other.json").write_text('{"a": 1}')
    os.mkfifo(tmp_path / "fifo")
    commands = {
        "/surprise": "unknown command /surprise",
        "/save": "/save needs a file name",
        "/load ": "/load needs a file name",
        "/reset now": "/reset takes no argument",
        f"/save {tmp_path}/no/where": "no such file or directory",
        f"/save {tmp_path}": "is not a regular file",
        f"/save {tmp_path}/fifo": "is not a regular file",
        f"/load {tmp_path}/nothing": "not found",
        f"/load {tmp_path}/fifo": "FIFO",
        f"/load {tmp_path}/broken.json": "not JSON",
        f"/load {tmp_path}/wrong.json": 'messages[0]: no "content"',
        f"/load {tmp_path}/other.json": "messages must be a list",
    }
    done = run("chat", "--lines", *GREEDY, stdin=lines(*commands, "Hello"))
    assert done.returncode == 1  # input is piped, so the exit code reports it
    assert done.stdout == lines(*answers(model, "Hello"))
    notes = [line for line in done.stderr.decode().splitlines() if line != CUT]
    assert len(notes) == len(commands)
    for note, words in zip(notes, commands.values(), strict=True):
        assert note.startswith("pellucid: ") and words in note
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.json", "fifo", "other.json", "wrong.json"]


def test_saving_is_all_or_nothing(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.cli.session import Session

    session = Session(model, None, None, {})
    session.messages = [{"role": "user", "content": "ünï"}]
    file = tmp_path / "talk.json"
    link = tmp_path / "link.json"
    file.write_text("before")
    link.symlink_to(file)
    notes: list[str] = []
    session.command(f"/save {link}", notes.append)
    assert link.is_symlink() and json.loads(file.read_text())["messages"] == session.messages
    before = file.read_text()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    session.messages = []
    with pytest.raises(ModelFileError, match="no space left on device") as caught:
        session.command(f"/save {file}", notes.append)
    assert caught.value.file == str(file)
    assert file.read_text() == before and len(list(tmp_path.iterdir())) == 2
    assert notes == ["saved 1 messages"]


def test_what_does_not_fit(run: Run, model: Model) -> None:
    done = run("chat", "--lines", *GREEDY, "--context", "100", stdin=lines("word " * 300, "Hello"))
    assert (done.returncode, done.stdout) == (1, lines(*answers(model, "Hello")))
    first, *_ = done.stderr.decode().splitlines()
    assert first.startswith("pellucid: ") and "100 available" in first and "/reset" in first


def test_context_that_fills(run: Run) -> None:
    said = lines("Tell me a long story.", "And then?", "/reset", "Hello")
    done = run("chat", "--lines", "--temperature", "0", "--context", "64", stdin=said)
    assert done.returncode == 1
    notes = done.stderr.decode().splitlines()
    assert "the context is full, and the answer was cut off; /reset" in notes[0]
    assert "64 available" in notes[1] and "/reset" in notes[1]


def test_line_that_is_not_utf8(run: Run, model: Model) -> None:
    done = run("chat", "--lines", *GREEDY, stdin=b"ab\xff\nHello\n")
    assert (done.returncode, done.stdout) == (1, lines(*answers(model, "Hello")))
    assert "line 1 of standard input is not UTF-8 at byte 2" in done.stderr.decode()


def test_template(run: Run, model: Model, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ raise_exception('no') if 0 }}"
    )
    done = run("chat", "--lines", *GREEDY, "--template", str(file), stdin=lines("Hello"))
    want = model.chat(
        [{"role": "user", "content": "Hello"}], template=file.read_text(), temperature=0, max_tokens=8
    ).text
    assert (done.returncode, done.stdout) == (0, lines(want) if not want.endswith("\n") else want.encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\n{{ x", "(line 2 of the template)"), (b"\xff", "not UTF-8 at byte 0"), (None, "not found")],
)
def test_template_that_is_none(run: Run, tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "t.jinja"
    if content is not None:
        file.write_bytes(content)
    done = run("chat", "--lines", "--template", str(file), stdin=lines("Hello"))
    assert done.returncode == 1
    assert words in error_line(done)


def test_template_that_refuses(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ raise_exception('System role not supported') }}")
    done = run("chat", "--lines", "--template", str(file), stdin=lines("Hello"))
    assert done.returncode == 1
    assert "refuses the conversation: System role not supported" in error_line(done)


def test_model_without_text(run: Run, tiny: Path) -> None:
    done = run("chat", "--lines", "-m", str(tiny), stdin=lines("Hello"))
    assert done.returncode == 1
    assert "no tokenizer" in error_line(done)


@pytest.mark.gemma
def test_model_without_a_template(run: Run, gemma3: Path) -> None:
    done = run("chat", "--lines", "-m", str(gemma3), stdin=lines("Hello"))
    assert done.returncode == 1
    assert "--template FILE" in error_line(done)


def test_wrong_options(call: Run) -> None:
    done = call("chat", "--top-p", "2")
    assert (done.returncode, error_line(done)) == (2, "pellucid: --top-p=2.0: expected 0 to 1")
    for arguments, words in (
        (("--lines", "hello"), "--lines: the turns come from standard input"),
        (("--lines", "--json"), "--json: prints one answer"),
    ):
        done = call("chat", *arguments)
        assert done.returncode == 2 and words in error_line(done)


# ---- one turn -------------------------------------------------------------------------------------------------


def test_a_prompt(run: Run, model: Model) -> None:
    done = run("chat", "Hello", *GREEDY)
    assert (done.returncode, done.stdout) == (0, lines(*answers(model, "Hello")))
    assert done.stderr.decode().splitlines() in ([], [CUT])
    system = run("chat", "--system", "Be brief.", "Hello", *GREEDY)
    assert system.stdout == lines(*answers(model, "Hello", system="Be brief."))
    slash = run("chat", "/help me", *GREEDY)  # a text, not a command
    assert (slash.returncode, slash.stdout) == (0, lines(*answers(model, "/help me")))


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_all_of_a_pipe_is_one_turn(run: Run, model: Model, arguments: tuple[str, ...]) -> None:
    text = 'Hello\n/exit\n"""How\nare\\\nyou?'
    done = run("chat", *arguments, *GREEDY, stdin=f"{text}\n".encode())
    assert (done.returncode, done.stdout) == (0, lines(*answers(model, text)))


def test_a_question_about_a_pipe(run: Run, model: Model) -> None:
    """The input, a blank line, the question."""
    done = run("chat", "--system", "S", "Which city?", *GREEDY, stdin=b"Paris is big.\nSo is Rome.\n")
    assert done.stdout == lines(*answers(model, "Paris is big.\nSo is Rome.\n\nWhich city?", system="S"))
    empty = run("chat", "Which city?", *GREEDY, stdin=b"\n")
    assert empty.stdout == lines(*answers(model, "Which city?"))


@pytest.mark.parametrize("arguments", [("-",), ("Hello",)])
def test_one_document(run: Run, model: Model, arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run("chat", *arguments, "--json", "--seed", "7", *GREEDY, stdin=b"Hello" if arguments == ("-",) else b"")
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    (text,) = answers(model, "Hello")
    assert (found["text"], len(found["ids"]), found["seed"]) == (text, 8, 7)
    assert (found["finish_reason"], found["model"]["architecture"]) == ("length", "llama")
    assert found["messages"] == [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text}]
    (tmp_path / "talk.json").write_bytes(done.stdout)  # which a conversation can go on from
    more = run("chat", "--lines", *GREEDY, stdin=lines(f"/load {tmp_path}/talk.json", "And you?"))
    assert more.stdout == lines(answers(model, "Hello", "And you?")[1])


def test_one_turn_that_does_not_fit(run: Run) -> None:
    done = run("chat", "Tell me a long story.", "--temp", "0", "--context", "64")
    assert done.returncode == 1 and done.stdout.endswith(b"\n")
    assert done.stderr == (b"pellucid: the context is full, and the answer was cut off; --context N makes more room\n")
    found = run("chat", "Tell me a long story.", "--temp", "0", "--context", "64", "--json")
    assert found.returncode == 1 and json.loads(found.stdout)["finish_reason"] == "context"
    long = run("chat", "-", "--context", "100", stdin=b"word " * 300)
    assert long.returncode == 1 and "100 available" in error_line(long)
    assert "/reset" not in error_line(long)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        ((), b"", 1, "standard input contains no text"),
        (("-",), b" \n\n", 1, "standard input contains no text"),
        (("",), b"", 2, "TEXT='': expected something to say"),
        (("-",), b"ab\xff", 1, "standard input is not UTF-8: byte 0xff at offset 2"),
    ],
)
def test_nothing_to_answer(run: Run, arguments: tuple[str, ...], stdin: bytes, code: int, words: str) -> None:
    done = run("chat", *arguments, stdin=stdin)
    assert done.returncode == code and words in error_line(done)


def test_prompts_on_terminals(model: Model) -> None:
    """A prompt is answered and the command ends, though a terminal is there; words wrap whole."""
    (expected,) = answers(model, "Write one long sentence about the sea.")
    for columns, colour in ((40, False), (40, True), (80, False), (120, True)):
        code, seen = on_terminal(
            "chat", "Write one long sentence about the sea.", *GREEDY, columns=columns, colour=colour
        )
        assert code == 0 and flat(expected) in flat(seen)
        assert max(map(len, seen.splitlines())) <= columns
    code, seen = on_terminal("chat", "--json")
    assert code == 2 and "--json: prints one answer" in flat(seen)


# ---- at a terminal --------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        made.append(Terminal("chat", *arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_terminal(terminal: Callable[..., Terminal], model: Model) -> None:
    screen = terminal(*GREEDY)
    assert "/help for commands, Ctrl-D to end" in flat(screen.wait("> "))
    expected = answers(model, "Hello", "one\ntwo", "three\nfour")
    screen.type("Hello\n")
    assert flat(expected[0]) in flat(screen.wait("\n> "))
    screen.type("one\\\n")
    screen.wait(". ")
    screen.type("two\n")
    assert flat(expected[1]) in flat(screen.wait("\n> "))
    screen.type('"""three\n')
    screen.wait('" ')
    screen.type('four"""\n')
    assert flat(expected[2]) in flat(screen.wait("\n> "))
    screen.type("/nothing\n")
    assert "pellucid: unknown command /nothing" in screen.wait("\n> ")
    screen.type("\x04")
    code, rest = screen.end()
    assert (code, "Traceback" in rest) == (0, False)


def test_notes_wrap_whole(terminal: Callable[..., Terminal]) -> None:
    screen = terminal()
    assert screen.wait("> ") == "smollm2-135m: /help for commands, Ctrl-D\nto end\n"
    screen.type("/help\n")
    shown = screen.wait("\n> ")
    assert "    sets the system message (-: removes\n    it), or shows it\n" in shown
    assert max(map(len, shown.splitlines())) <= 40
    screen.type("/exit\n")
    assert screen.end()[0] == 0


def test_ctrl_c_stops_the_answer_alone(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--seed", "1", "--temperature", "0", "--stop", "never ever")
    screen.wait("> ")
    screen.type("Count from one to a thousand, one number per line.\n")
    screen.wait("line.\n")
    while len(screen.seen) < 20:
        screen.seen += os.read(screen.file, 1 << 16).decode()
    screen.type("\x03")
    screen.wait("[stopped]")
    screen.wait("> ")
    screen.type("/stats\n")
    assert "turns: 1" in screen.wait("> ")
    screen.type("/exit\n")
    assert screen.end()[0] == 0


def test_two_ctrl_c_at_the_prompt_end_it(terminal: Callable[..., Terminal]) -> None:
    def interrupt(text: str, words: str) -> None:
        """Sends Ctrl-C once the line editor is ready, that is, has echoed the typed text."""
        screen.type(text)
        screen.wait(text)
        time.sleep(0.2)
        screen.type("\x03")
        screen.wait(words)

    screen = terminal()
    screen.wait("> ")
    interrupt("half a li", "(Ctrl-C again, or Ctrl-D, to end)")
    screen.wait("> ")
    screen.type("/stats\n")  # something else in between: the next one is a first one again
    screen.wait("turns: 0")
    screen.wait("> ")
    interrupt("x", "(Ctrl-C again")
    screen.wait("> ")
    interrupt("y", "\n")
    code, rest = screen.end()
    assert (code, "Traceback" in rest) == (130, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_sets_the_terminal_back(
    terminal: Callable[..., Terminal], number: signal.Signals
) -> None:
    screen = terminal()
    before = termios.tcgetattr(screen.file)
    screen.wait("> ")
    screen.type("half a li")
    screen.wait("half a li")  # the line editor has the terminal
    assert termios.tcgetattr(screen.file) != before
    end = time.monotonic() + 30
    while termios.tcgetattr(screen.file) != before:
        assert time.monotonic() < end
        with suppress(ProcessLookupError):
            os.kill(screen.process, number)  # again, where it came while a key was looked at
        time.sleep(0.3)
    code, rest = screen.end()
    assert (code, "Traceback" in rest) == (-number, False)


def test_ctrl_c_drops_what_was_begun(terminal: Callable[..., Terminal], model: Model) -> None:
    screen = terminal(*GREEDY)
    screen.wait("> ")
    for begun, prompt in (('"""one', '" '), ("one\\", ". ")):
        screen.type(f"{begun}\n")
        screen.wait(f"\n{prompt}")
        time.sleep(0.2)  # the line editor is there
        screen.type("\x03")
        screen.wait("(Ctrl-C again, or Ctrl-D, to end)")
        screen.wait("> ")
        screen.type("/stats\n")
        screen.wait("turns: 0")
        screen.wait("> ")
    screen.type("Hello\n")
    assert flat(answers(model, "Hello")[0]) in flat(screen.wait("\n> "))
    screen.type("/exit\n")
    assert screen.end()[0] == 0


def test_typed_bytes_that_are_not_utf8(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(*GREEDY)
    screen.wait("> ")
    os.write(screen.file, b"ab\xff\n")
    screen.wait("pellucid: what was typed is not UTF-8")
    screen.wait("> ")
    screen.type("/exit\n")
    assert screen.end()[0] == 0

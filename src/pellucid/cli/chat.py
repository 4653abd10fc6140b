"""`pellucid chat`: a conversation, turn by turn."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.cli.flow import Flow
from pellucid.cli.sampling import arguments, sampling_options
from pellucid.errors import ContextFullError, PellucidError
from pellucid.generation import parse_options

_FULL = "/reset starts over, --context N makes more room"
_FULL_AT_ONCE = "--context N makes more room"
_MOST_ROUNDS = 16  # rounds of calls and their results in one turn


@sampling_options
def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT | -",
            show_default=False,
            help="What to say, once; -: all of standard input. If both are given, the model gets the input, a blank"
            " line, and TEXT.",
        ),
    ] = None,
    model: options.ModelName = options.DEFAULT,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system message.")] = None,
    template: options.Template = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--max-tokens",
            metavar="N",
            help="Maximum number of tokens of an answer; default: as many as fit the context.",
        ),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be given several times.")
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A Python file whose functions the model may call. Asks before running one.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run functions without asking.")] = False,
    lines: Annotated[
        bool, typer.Option("--lines", help="Treat each line of standard input as a turn, and run /commands in it.")
    ] = False,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    checkpoints: options.Checkpoints = None,
    quantize: options.Quantize = None,
    draft: options.Draft = None,
    no_speculate: options.NoSpeculate = False,
    prediction: options.Prediction = None,
    raw: options.Raw = False,
    json: options.Json = False,
    **sampling: Any,
) -> None:
    """Chats with a model, or answers one TEXT and exits.

    Without TEXT, at a terminal: a conversation. /help lists its commands; Ctrl-C stops an answer, Ctrl-D quits.
    If standard input is not a terminal, all of it is one turn. Only answers go to stdout.
    """
    from pellucid.cli.functions import Functions
    from pellucid.cli.session import Session

    asked: dict[str, Any] = {"stop": options.arguments(stop, "--stop"), **arguments(sampling)}
    asked |= options.speculation(no_speculate, prediction)
    if max_tokens is not None:
        asked["max_tokens"] = max_tokens
    with options.naming(*asked):  # before anything is downloaded
        parse_options(asked)
    typed = sys.stdin is not None and sys.stdin.isatty()
    talks = lines or (typed and prompt is None)
    if lines and prompt is not None:
        raise output.UsageError("--lines: the turns come from standard input; leave TEXT out")
    if json and talks:
        raise output.UsageError("--json: prints one answer; give TEXT, or - to read it from standard input")
    source = None if template is None else options.read_template(template)
    if tools is not None and not yes and not output.can_ask():
        raise output.UsageError("--tools: needs a terminal to ask before running a function; --yes runs without asking")
    known = None if tools is None else Functions(tools, not yes)
    if known is not None:
        asked["tools"] = list(known.known.values())
    system = None if system is None else options.argument(system, "--system")
    text = "" if talks else _question(prompt, typed, raw)
    with options.load(
        model,
        threads=threads,
        context=context,
        isa=isa,
        kv=kv,
        cache_bytes=cache_bytes,
        checkpoints=checkpoints,
        quantize=quantize,
        draft=draft,
    ) as loaded:
        session = Session(loaded, source, system, asked)
        talk = Talk(session, typed and talks, known)
        if talks:
            failed = talk.run()
        elif json:
            failed = talk.document(text)
        else:
            failed = talk.once(text)
    if failed:
        raise typer.Exit(1)


def _question(text: str | None, typed: bool, raw: bool) -> str:
    """The one turn: TEXT; standard input, unless it is a terminal; or the input followed by TEXT."""
    given = text not in (None, "-")
    text = options.argument(text or "", "TEXT")
    if given and (typed or sys.stdin is None):
        turn = text
    else:
        turn = options.read_text("-", raw=raw)
        if given and text:
            turn = f"{turn}\n\n{text}" if turn.strip() else text
    if not turn.strip():
        if given:
            raise output.UsageError(f"TEXT={text!r}: expected something to say")
        raise PellucidError("standard input contains no text")
    return turn


class Talk:
    """Reads turns and prints answers. typed: whether turns are typed at a terminal. functions: those that the model
    may call."""

    def __init__(self, session: Any, typed: bool, functions: Any) -> None:
        self.session = session
        self.functions = functions
        self.typed = typed
        self.dropped = False  # the turn was interrupted with Ctrl-C
        self.failed = False  # a turn had no answer
        self.full = _FULL  # what the user can do about a full context

    def run(self) -> bool:
        """Runs the conversation -> whether a turn failed and input is piped; the exit code then reports it."""
        if self.typed:
            output.note(f"{self.session.title()}: /help for commands, Ctrl-D to end")
        for text in self.turns():
            try:
                if text.startswith("/"):
                    if not self.session.command(text, output.note):
                        break
                else:
                    self.answer(text)
            except ContextFullError as error:
                self.error(f"{error}; {_FULL}")
            except (PellucidError, ValueError) as error:
                self.error(str(error))
        return self.failed and not self.typed

    def once(self, text: str) -> bool:
        """Answers one text -> whether the answer was cut off by the end of the context."""
        self.full = _FULL_AT_ONCE
        self.answer(text)
        return self.failed

    def document(self, text: str) -> bool:
        """The same, as one JSON document, with the messages in the form that /load reads."""
        session = self.session
        messages = [*session.said(), {"role": "user", "content": text}]
        for round in range(_MOST_ROUNDS):
            done = session.model.chat(messages, template=session.template, **session.options)
            messages.append(done.message())
            if not self.runs(done.tool_calls, done.finish_reason) or round + 1 == _MOST_ROUNDS:
                break
            messages += [self.functions.answer(call) for call in done.tool_calls]
        output.document({**done.to_dict(), "messages": messages, "model": session.model.info().to_dict()})
        return bool(done.finish_reason == "context")

    def error(self, message: str) -> None:
        self.failed = True
        if self.typed:
            output.end_line()
        output.error(message)

    def answer(self, text: str) -> None:
        try:
            self.rounds([{"role": "user", "content": text}])
        finally:
            self.session.drop_calls()

    def rounds(self, asked: list[dict[str, Any]]) -> None:
        """Prints the answer to messages, and the answers to the results of its calls."""
        for _ in range(_MOST_ROUNDS):
            finish = self.say(asked)
            calls = self.session.calls
            if not self.runs(calls, finish):
                return
            asked = [self.result(call) for call in calls]
        output.note(f"[stopped after {_MOST_ROUNDS} rounds of calls]")

    def runs(self, calls: Any, finish: str | None) -> bool:
        """Whether to run the calls of an answer: if it was cut off, its calls may be incomplete."""
        return self.functions is not None and bool(calls) and finish in ("eos", "stop")

    def result(self, call: Any) -> dict[str, Any]:
        """The message with the result of a call. At a terminal, Ctrl-C stops only the function."""
        try:
            message: dict[str, Any] = self.functions.answer(call)
            return message
        except KeyboardInterrupt:
            if not self.typed:
                raise
            output.note("[stopped]")
            return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": "Error: the user stopped it"}

    def say(self, asked: list[dict[str, Any]]) -> str | None:
        """Prints the answer to messages -> its finish reason. At a terminal, reasoning is shown on stderr."""
        with self.stoppable() as cancel, Flow() as flow:
            finish, end, thought = None, "", ""
            for piece in self.session.answer(asked, cancel):
                if piece.reasoning and self.typed:
                    output.aside(piece.reasoning)
                    thought = piece.reasoning
                if piece.text and thought:
                    output.aside("" if thought.endswith("\n") else "\n")
                    thought = ""
                flow.write(piece.text)
                finish, end = piece.finish_reason, piece.text or end
        if not end.endswith("\n") and (end or not self.session.calls):
            output.write("\n")
        if finish == "context":
            self.error(f"the context is full, and the answer was cut off; {self.full}")
        elif self.typed and finish == "cancelled":
            output.note("[stopped]")
        elif finish == "length":
            output.note("[cut off at the limit of -n]")
        return finish

    @contextmanager
    def stoppable(self) -> Iterator[threading.Event | None]:
        """Ctrl-C sets the event; a second one raises KeyboardInterrupt. If input is piped, Ctrl-C ends the run."""
        if not self.typed:
            yield None
            return
        cancel = threading.Event()

        def stop(*_: Any) -> None:
            if cancel.is_set():
                raise KeyboardInterrupt
            cancel.set()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield cancel
        finally:
            signal.signal(signal.SIGINT, before)

    # ---- input ------------------------------------------------------------------------------------------------

    def turns(self) -> Iterator[str]:
        """Yields turns that are not empty. A line that ends in a backslash continues on the next; three quotes begin
        and end a text of several lines."""
        lines = self.typed_lines() if self.typed else self.piped_lines()
        self.prompt = "> "
        for line in lines:
            text = line
            if text.startswith('"""'):
                self.prompt = '" '
                text = text[3:]
                while not (self.dropped or text.rstrip().endswith('"""')):
                    more = next(lines, None)
                    if more is None:
                        break
                    text += "\n" + more
                else:
                    text = text.rstrip()[:-3]
            else:
                self.prompt = ". "
                while text.endswith("\\"):
                    more = next(lines, None)
                    text = text[:-1] + ("" if more is None else "\n" + more)
            self.prompt = "> "
            dropped, self.dropped = self.dropped, False
            if text.strip() and not dropped:
                yield text

    def typed_lines(self) -> Iterator[str]:
        try:
            import readline  # noqa: F401  (adds editing and history to input())
        except ImportError:
            pass
        warned = False
        while True:
            try:
                line = self.ask()
            except EOFError:
                output.note("")
                return
            except UnicodeError:
                self.error("what was typed is not UTF-8")
                continue
            except KeyboardInterrupt:
                output.note("")
                if warned:
                    raise
                warned = True
                output.note("(Ctrl-C again, or Ctrl-D, to end)")
                self.dropped = True
                yield ""
                continue
            warned = False
            yield line

    def ask(self) -> str:
        if sys.stdout is not None and sys.stdout.isatty():
            with _leaving():
                line = input(self.prompt)
        else:
            sys.stderr.write(self.prompt)  # stdout is not the terminal and receives only answers
            sys.stderr.flush()
            line = output.typed_line()
            if not line:
                raise EOFError
        line.encode()  # raises UnicodeError for invalid bytes, which are surrogates
        return line.rstrip("\n")

    def piped_lines(self) -> Iterator[str]:
        if sys.stdin is None:
            raise output.UsageError("standard input is closed: there is nothing to answer")
        for number, data in enumerate(sys.stdin.buffer, 1):
            try:
                yield data.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                self.error(f"line {number} of standard input is not UTF-8 at byte {error.start}; it is skipped")


@contextmanager
def _leaving() -> Iterator[None]:
    """Inside, a signal that would end the process raises an exception first, so that the line editor restores the
    terminal."""
    came = []

    def leave(number: int, _: Any) -> None:
        came.append(number)
        raise SystemExit(128 + number)

    ends = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_DFL]
    for one in ends:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one in ends:
            signal.signal(one, signal.SIG_DFL)
        if came:
            os.kill(os.getpid(), came[0])

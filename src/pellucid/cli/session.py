"""A conversation of `pellucid chat`: its messages, the context that holds them, and the commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pellucid.errors import ChatTemplateError, ModelFileError
from pellucid.markup import count
from pellucid.results import ToolCall, joined

if TYPE_CHECKING:
    from pellucid import Model, Piece

__all__ = ["Session"]

_LARGEST_FILE = 1 << 26  # bytes of a saved conversation


class Session:
    """The state of a conversation. ``messages``: without the system message. Raises ``ChatTemplateError`` if neither
    the model nor the caller has a chat template, or it is broken."""

    def __init__(self, model: Model, template: str | None, system: str | None, options: dict[str, Any]) -> None:
        self.model = model
        self.template = template
        self.system = system
        self.options = options
        self.messages: list[dict[str, Any]] = []
        self.context = model.context()
        self.calls: tuple[ToolCall, ...] = ()  # of the last answer
        self._last: Piece | None = None
        self._new = 0  # tokens of the last answer
        if model.tokenizer is None:
            raise ChatTemplateError("the model file has no tokenizer, so it cannot chat")
        model.tokenizer.chat(template)

    def title(self) -> str:
        """The name under which the model was given or pulled; else the one in its file; else the file's."""
        from pellucid.weights import inventory

        info = self.model.info()
        return inventory.name_of(info.path) or info.name or os.path.basename(info.path)

    def said(self) -> list[dict[str, Any]]:
        """The whole conversation, as the template receives it."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + self.messages

    def answer(self, asked: list[dict[str, Any]], cancel: Any) -> Iterator[Piece]:
        """Adds messages, from the user or with the results of calls, and yields the pieces of the answer. A turn
        without an answer is not kept."""
        pieces = self.context.chat(
            [*self.said(), *asked], template=self.template, stream=True, cancel=cancel, **self.options
        )
        parts: list[Piece] = []
        self._last, self._new, self.calls = None, 0, ()
        try:
            for piece in pieces:
                parts.append(piece)
                self._last = piece
                self._new += len(piece.ids)
                yield piece
        finally:
            pieces.close()
            text, thought = "".join(one.text for one in parts), "".join(one.reasoning for one in parts)
            self.calls = joined(call for one in parts for call in one.tool_calls)
            said = text or thought or self.calls
            if said or (self._last is not None and self._last.finish_reason != "cancelled"):
                message: dict[str, Any] = {"role": "assistant", "content": text}
                if thought:
                    message["reasoning_content"] = thought
                if self.calls:
                    message["tool_calls"] = [call.to_dict() for call in self.calls]
                self.messages += [*asked, message]

    def drop_calls(self) -> None:
        """Removes the calls of the last answer, which get no results: templates expect a result for each call."""
        if self.messages:
            self.messages[-1].pop("tool_calls", None)

    # ---- commands ---------------------------------------------------------------------------------------------

    def command(self, line: str, show: Callable[[str], None]) -> bool:
        """Runs a line that begins with a slash -> whether the conversation continues. ``show`` prints a line.

        Raises ``ValueError`` for a wrong command, ``PellucidError`` for a wrong file.
        """
        name, _, rest = line[1:].partition(" ")
        name, rest = name.strip(), rest.strip()
        if name in ("exit", "quit"):
            return False
        if name not in COMMANDS:
            raise ValueError(
                f"unknown command /{name}: /help lists all; put a space before a text that begins with a slash"
            )
        needs, run, _ = COMMANDS[name]
        if needs is not None and bool(rest) != needs:
            raise ValueError(f"/{name} needs a file name" if needs else f"/{name} takes no argument")
        run(self, rest, show)
        return True

    def help(self, _: str, show: Callable[[str], None]) -> None:
        for name, (needs, _run, text) in COMMANDS.items():
            show(f"/{name}{' FILE' if needs else ' TEXT' if needs is None else ''}\n    {text}")
        show("/exit\n    ends the conversation, as Ctrl-D does")
        show(
            'A line that ends in \\ continues on the next.\n""" begins and ends several lines.\nCtrl-C stops an answer.'
        )

    def set_system(self, text: str, show: Callable[[str], None]) -> None:
        if text:
            self.system = None if text == "-" else text
        show("no system message" if self.system is None else f"system message: {self.system}")

    def reset(self, _: str, show: Callable[[str], None]) -> None:
        self.messages = []
        self._last = None
        self.context.rewind(0)
        show("the conversation is cleared" + ("; the system message stays" if self.system is not None else ""))

    def stats(self, _: str, show: Callable[[str], None]) -> None:
        show(f"turns: {sum(m['role'] == 'user' for m in self.messages)}")
        show(f"context: {self.context.length} of {self.model.context_length} tokens")
        if self._last is not None and self._last.timings is not None:
            t = self._last.timings
            show(f"last prompt: {t.prefill_tokens} new tokens, {t.prefill:.2f} s")
            show(f"last answer: {count(self._new, 'token')}, {t.decode_rate:.0f}/s")

    def save(self, path: str, show: Callable[[str], None]) -> None:
        """Writes the conversation as JSON; if that fails, no file is written."""
        from pellucid.weights.writer import whole_file

        path = os.path.expanduser(path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError(f"{path} is not a regular file")
        text = json.dumps({"messages": self.said()}, ensure_ascii=False, indent=1) + "\n"
        with whole_file(path) as file:
            file.write(text.encode())
        show(f"saved {len(self.messages)} messages")

    def load(self, path: str, show: Callable[[str], None]) -> None:
        """Reads a file that :meth:`save` wrote, or a JSON list of messages. An invalid file changes nothing."""
        from pellucid.text.conversation import Reader, read_messages
        from pellucid.weights.base import read_file

        expected = "a saved conversation"
        path = os.path.expanduser(path)
        try:
            found = json.loads(read_file(path, _LARGEST_FILE, expected))
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"not JSON: {error}", file=path, expected=expected) from None
        if isinstance(found, dict):
            found = found.get("messages")
        try:
            messages = read_messages(found, Reader()) if found != [] else []
        except (ValueError, TypeError) as error:
            raise ModelFileError(str(error), file=path, expected=expected) from None
        first = messages[0] if messages else {}
        own = first.get("role") == "system" and isinstance(first.get("content"), str)
        self.system = first["content"] if own else None
        self.messages = messages[1:] if own else messages
        show(f"loaded {len(self.messages)} messages")


# Name -> (whether it needs a file name; None: a text or nothing; method; text of /help).
COMMANDS: dict[str, tuple[bool | None, Callable[[Session, str, Callable[[str], None]], None], str]] = {
    "help": (False, Session.help, "lists the commands"),
    "system": (None, Session.set_system, "sets the system message (-: removes it), or shows it"),
    "reset": (False, Session.reset, "clears the conversation"),
    "save": (True, Session.save, "writes the conversation as JSON"),
    "load": (True, Session.load, "continues a saved conversation"),
    "stats": (False, Session.stats, "shows tokens and speed"),
}

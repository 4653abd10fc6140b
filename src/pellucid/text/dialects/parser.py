"""The parser of one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.dialect import Dialect, Thinking
from pellucid.text.dialects.reader import CallPart, Reader, Said

__all__ = ["CallPart", "Parser", "Said"]


class Parser:
    """Separates content, reasoning and calls of an answer, as it arrives.

    tools: their schemas by name; None: no calls are read. thinking: the tags of reasoning; None: there is none. begun:
    whether the answer begins within reasoning. most: maximum number of calls, after which the answer ends. either: it
    is calls or content, so that nothing within content is a call.

    The joined results do not depend on where the text is cut. Nothing is lost: anything that is not a call is content.
    """

    def __init__(
        self,
        dialect: Dialect,
        tools: Mapping[str, Any] | None = None,
        *,
        thinking: Thinking | None = None,
        begun: bool = False,
        most: int | None = None,
        either: bool = False,
    ) -> None:
        self._reader = Reader(most, either)
        self._reader.thinking = begun
        self._run = dialect.read(self._reader, tools, thinking)
        self.done = False  # the maximum number of calls was read
        self._advance()

    @property
    def thinking(self) -> bool:
        """Whether the next text is reasoning."""
        return self._reader.thinking

    @property
    def calls(self) -> int:
        """Number of calls so far."""
        return self._reader.calls

    def push(self, text: str) -> Said:
        """Takes more text -> what can be decided after it."""
        if text and not self.done:
            self._reader.feed(text)
            self._advance()
        return self._reader.take()

    def finish(self) -> Said:
        """The rest, at the end of the answer."""
        self._reader.ended = True
        self._advance()
        return self._reader.take()

    def _advance(self) -> None:
        if self.done:
            return
        try:
            next(self._run)
        except StopIteration:
            self.done = True

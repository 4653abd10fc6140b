"""Parts of a choice: one piece of a stream, several together, or a whole completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pellucid.results import Completion, FinishReason, Piece, TokenLogprob, ToolCall, ToolCallDelta, joined

__all__ = ["Part", "merged", "part_of"]

KINDS = ("reasoning", "text", "tool_calls")  # kinds of content in a piece
SLICED = ("reasoning", "text", "ids", "logprobs", "calls")  # fields of a part that grow
NOTHING = (0,) * len(SLICED)


@dataclass(slots=True)
class Part:
    """A part of one choice: one piece, or several together."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    prompt_tokens: int = 0
    stop_string: str | None = None
    reasoning: str = ""
    calls: list[ToolCallDelta] = field(default_factory=list)
    reasoning_tokens: int = 0
    cuts: list[tuple[int, ...]] = field(default_factory=list)  # lengths of SLICED where the kind changes
    _last: str = ""  # the last one of KINDS
    _said: tuple[int, ...] = NOTHING  # lengths of SLICED after it

    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls, whole."""
        return joined(self.calls)

    def deltas(self) -> list[ToolCallDelta]:
        """The parts of calls, joined for each call."""
        found: list[ToolCallDelta] = []
        for one in self.calls:
            if found and one.index == found[-1].index:
                found[-1] = found[-1]._replace(arguments=found[-1].arguments + one.arguments)
            else:
                found.append(one)
        return found

    def rest_and_calls(self) -> tuple[str, list[ToolCallDelta]]:
        """(more arguments of a call that had begun before, the calls that begin in this part)."""
        deltas = self.deltas()
        if deltas and deltas[0].name is None:
            return deltas[0].arguments, deltas[1:]
        return "", deltas

    def runs(self) -> list[Part]:
        """This part as runs, in the order in which they were made. A run is of one kind, or its tokens gave no content:
        they spell a tag, or begin what follows. A piece of several kinds is one run, which has, in this order, more
        arguments of a call, reasoning, text, calls that begin."""
        bounds = sorted({NOTHING, *self.cuts, self._said, self._lengths()})
        runs = []
        for first, end in zip(bounds, bounds[1:]):
            runs.append(Part(**{name: getattr(self, name)[i:j] for name, i, j in zip(SLICED, first, end)}))
        if len(runs) < 2:
            return [self]
        last = runs[-1]
        last.finish, last.stop_string, last.prompt_tokens = self.finish, self.stop_string, self.prompt_tokens
        last.reasoning_tokens = self.reasoning_tokens
        return runs

    def add(self, piece: Piece) -> None:
        """Adds a piece, with the log probability of the token that ended the text, too."""
        kinds = [kind for kind in KINDS if getattr(piece, kind)]
        if kinds and kinds[0] != self._last:
            self.cuts += [self._said, self._lengths()]
        self.text += piece.text
        self.ids += piece.ids
        self.logprobs += piece.logprobs
        self.reasoning += piece.reasoning
        self.calls += piece.tool_calls
        if kinds:
            self._last, self._said = kinds[-1], self._lengths()
        if piece.end is not None:
            self.logprobs.append(piece.end)
        if piece.finish_reason is not None:
            self.finish = piece.finish_reason
            self.prompt_tokens = piece.prompt_tokens
            self.reasoning_tokens = piece.reasoning_tokens
            self.stop_string = piece.stop_string

    def _lengths(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, name)) for name in SLICED)


def merged(pieces: Sequence[tuple[int, Piece]], parts: dict[int, Part] | None = None) -> dict[int, Part]:
    """The pieces of each choice, joined."""
    parts = {} if parts is None else parts
    for index, piece in pieces:
        parts.setdefault(index, Part()).add(piece)
    return parts


def part_of(done: Completion) -> Part:
    """A whole completion."""
    part = Part(done.text, list(done.ids), list(done.logprobs), done.finish_reason, done.prompt_tokens)
    part.reasoning, part.reasoning_tokens = done.reasoning, done.reasoning_tokens
    part.calls = [ToolCallDelta(i, one.id, one.name, one.arguments) for i, one in enumerate(done.tool_calls)]
    if done.end is not None:
        part.logprobs.append(done.end)
    return part

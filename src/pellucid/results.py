"""What generation returns: pieces of a stream, completions, log probabilities, timings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pellucid.errors import one_line
from pellucid.markup import Fragment, Shown, count, token
from pellucid.sampling import SamplingOptions

__all__ = [
    "Completion",
    "FinishReason",
    "Gathered",
    "NextToken",
    "Piece",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "joined",
]

_NOTHING = object()  # marks the absence of a value, since a value may be None
FinishReason = Literal["stop", "eos", "length", "context", "cancelled"]


class TokenLogprob(NamedTuple):
    """Natural log probability of one new token, from the model's logits before sampling.

    ``piece``: its text (U+FFFD for an incomplete character). ``top``: the most probable tokens, [(id, piece, logprob)].
    """

    id: int
    piece: str
    logprob: float
    top: list[tuple[int, str, float]]

    def __repr__(self) -> str:
        others = f", {len(self.top)} likeliest" if self.top else ""
        return f"<TokenLogprob {_short(self.piece)} (id {self.id}): {self.logprob:.4f}{others}>"


class NextToken(NamedTuple):
    """A token that may come next, with its natural log probability, from the model's logits before sampling.

    ``piece``: its text, or a special token's spelling; U+FFFD for an incomplete character.
    """

    id: int
    piece: str
    logprob: float


class ToolCall(NamedTuple):
    """A tool call requested by the model. ``arguments``: JSON text as the model wrote it, which may be malformed or cut
    off; "{}" if it wrote none. A message with the call's result has its ``id`` as "tool_call_id"."""

    id: str
    name: str
    arguments: str

    def __repr__(self) -> str:
        return f"<ToolCall {self.name}({one_line(self.arguments, 60)})>"

    def to_dict(self) -> dict[str, Any]:
        """The call in OpenAI's form, as in the "tool_calls" of a message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class ToolCallDelta(NamedTuple):
    """A part of a tool call in a stream. ``index``: position of the call in the answer; ``id``, ``name``: only in the
    first part of a call; ``arguments``: the next part of their text."""

    index: int  # type: ignore[assignment]  # in place of tuple.index
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Times in seconds, and token counts. ``load``: loading the model; ``first_token``: from the call to the first
    token; ``prefill_tokens``: prompt tokens that were computed; ``cached_tokens``: prompt tokens found in the prefix
    cache; ``drafted_tokens``: guesses at next tokens that passes verified; ``accepted_tokens``: guesses that were
    right. ``tokens``: from the call to each token, as the caller received it, including the token that ended the text
    and those removed with a stop string; a whole completion receives up to eight together. Not in :meth:`to_dict`."""

    load: float
    prefill: float
    decode: float
    first_token: float
    prefill_tokens: int
    decode_tokens: int
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    tokens: tuple[float, ...] = ()

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prefill_tokens / self.prefill if self.prefill > 0 else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second, after the first."""
        return self.decode_tokens / self.decode if self.decode > 0 else 0.0

    def __repr__(self) -> str:
        return (
            f"<Timings: {count(self.prefill_tokens, 'token')} in {self.prefill:.3f} s ({self.prefill_rate:.0f}/s), "
            f"{self.decode_tokens} in {self.decode:.3f} s ({self.decode_rate:.0f}/s)>"
        )

    def to_dict(self) -> dict[str, float]:
        names = (
            "load",
            "prefill",
            "decode",
            "first_token",
            "prefill_tokens",
            "decode_tokens",
            "cached_tokens",
            "drafted_tokens",
            "accepted_tokens",
            "prefill_rate",
            "decode_rate",
        )
        return {name: getattr(self, name) for name in names}


class Piece(NamedTuple):
    """A step of a stream. ``text`` may be "" while a character or a possible stop string is incomplete. While a
    possible stop string is held back, ``ids`` is empty, and the next piece may have several. The last piece has the
    finish reason, timings, the number of prompt tokens and ``end``, which :class:`Completion` describes.

    ``index``: which of the n completions of a request it belongs to. ``stop_string``: the one that ended the text.

    In a chat, ``text`` is only the answer's content; ``reasoning`` and ``tool_calls`` are the new parts of its
    reasoning and tool calls. ``reasoning_tokens``: on the last piece, how many of the new tokens were reasoning."""

    text: str
    ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None = None
    timings: Timings | None = None
    prompt_tokens: int = 0
    end: TokenLogprob | None = None
    index: int = 0  # type: ignore[assignment]  # in place of tuple.index
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    reasoning_tokens: int = 0
    stop_string: str | None = None

    def __repr__(self) -> str:
        end = "" if self.finish_reason is None else f", {self.finish_reason}"
        return f"<Piece {_short(self.text)}: ids {one_line(str(self.ids), 40)}{end}>"


@dataclass(frozen=True, slots=True)
class Completion(Shown):
    """The result of a generation. ``finish_reason``: "stop" | "eos" | "length" | "context" | "cancelled".

    ``ids``: the new tokens without the one that ended the text (end of sequence, stop id). ``text``, ``ids``,
    ``logprobs`` and what a context then holds all end just before a stop string. If a token contains both the end of
    the text and the start of the stop string, it is replaced by tokens that spell only that end.

    ``logprobs``: one per item of ``ids``, if requested; ``end``: that of the token that ended the text, else None.
    ``seed``: the seed used, given or drawn. ``options``: all options including that seed, but without ``cancel``; the
    same prompt with these options gives the same completion again.

    ``prompt_ids``: the tokens that the completion continues, including those that a context already held;
    ``prompt_tokens``: how many of them this call added. ``Model.trace`` accepts a completion and runs ``prompt_ids``
    and ``ids`` once more. ``dropped``: number of messages that ``chat(on_full="trim")`` left out of the prompt.
    ``echoed``: number of characters of ``text`` that are the prompt (``echo``).

    In a chat, ``text`` is only the answer's content: without ``reasoning``, which took ``reasoning_tokens`` tokens, and
    without ``tool_calls``, the tool calls that the model requests. Anything that is neither is content.
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    logprobs: list[TokenLogprob]
    timings: Timings
    prompt_ids: list[int]
    end: TokenLogprob | None
    seed: int
    options: SamplingOptions
    dropped: int = 0
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning_tokens: int = 0
    echoed: int = 0

    def message(self) -> dict[str, Any]:
        """The answer as a message of the assistant, to append to the messages given to ``chat``."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        return message

    @property
    def parsed(self) -> Any:
        """The value of a text generated with ``schema``: what its JSON says, or an instance of the model class that was
        given as the schema. None if there was no schema or the text was cut off, for example by ``max_tokens``.

        Raises what the model class raises if it rejects a value that its schema allows."""
        value, schema = self._value(), self.options.schema
        if value is _NOTHING:
            return None
        validate = getattr(schema, "model_validate_json", None) or getattr(schema, "validate_json", None)
        return value if validate is None else validate(self.text[self.echoed :])

    def _value(self) -> Any:
        """The value of the JSON, or `_NOTHING`."""
        if self.options.schema is None or self.finish_reason not in ("stop", "eos"):
            return _NOTHING
        try:
            return json.loads(self.text[self.echoed :])
        except (ValueError, RecursionError):  # cut off by a stop string; a number with more digits than Python reads
            return _NOTHING

    def _plain(self) -> Any:
        value = self._value()
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):  # `_NOTHING`; a number that JSON cannot write
            return None
        return value

    def __repr__(self) -> str:
        return f"<Completion {_short(self.text)}: {count(len(self.ids), 'token')}, {self.finish_reason}>"

    def _draw(self, fragment: Fragment) -> None:
        new = count(len(self.ids), "token")
        drawn = f"; seed: {self.seed}" if self.options.temperature else ""
        after = f"{new} after a prompt of {len(self.prompt_ids):,}; finish reason: {self.finish_reason}{drawn}."
        if self.dropped:
            fragment.note(f"{count(self.dropped, 'message')} of the conversation left out, to fit the context.")
        fragment.note(f"{after} The stronger its colour, the more probable a token was." if self.logprobs else after)
        # Tokens do not show everything: reasoning, tool calls, a character of several tokens, a stop string.
        if not self.logprobs or self.text != "".join(one.piece for one in self.logprobs):
            _draw_said(fragment, self.reasoning, self.text, self.tool_calls)
        fragment.tokens(token(*one) for one in (*self.logprobs, *([] if self.end is None else [self.end])))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it: everything but ``prompt_ids`` and ``options``."""
        return {
            "text": self.text,
            "ids": self.ids,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "logprobs": [t._asdict() for t in self.logprobs],
            "end": None if self.end is None else self.end._asdict(),
            "seed": self.seed,
            "dropped": self.dropped,
            "echoed": self.echoed,
            "reasoning": self.reasoning,
            "reasoning_tokens": self.reasoning_tokens,
            "tool_calls": [call.to_dict() for call in self.tool_calls],
            "timings": self.timings.to_dict(),
            **({} if self.options.schema is None else {"parsed": self._plain()}),
        }


def _short(text: str) -> str:
    return one_line(repr(text), 60)


@dataclass(slots=True)
class Gathered:
    """The pieces of a generation so far. prompt_ids: the tokens that it continues; options: includes the seed drawn;
    dropped: messages left out of the prompt; echoed: characters of the prompt before the new text."""

    prompt_ids: Sequence[int]
    options: SamplingOptions
    dropped: int = 0
    echoed: int = 0
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: Piece | None = None
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCallDelta] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.text.append(piece.text)
        self.ids += piece.ids
        if piece.logprobs:
            self.logprobs += piece.logprobs
        if piece.reasoning:
            self.reasoning.append(piece.reasoning)
        if piece.tool_calls:
            self.calls += piece.tool_calls
        self.last = piece

    def draw(self, fragment: Fragment) -> None:
        """The whole completion, or what there is so far."""
        done = self.completion()
        if done is not None:
            done._draw(fragment)
            return
        _draw_said(fragment, "".join(self.reasoning), "".join(self.text), joined(self.calls), grows=True)

    def completion(self) -> Completion | None:
        """The whole completion; None before the last piece."""
        last, seed = self.last, self.options.seed
        if last is None or last.finish_reason is None or last.timings is None:
            return None
        assert isinstance(seed, int)
        return Completion(
            "".join(self.text),
            list(self.ids),
            last.finish_reason,
            last.prompt_tokens,
            list(self.logprobs),
            last.timings,
            list(self.prompt_ids),
            last.end,
            seed,
            self.options,
            self.dropped,
            reasoning="".join(self.reasoning),
            tool_calls=joined(self.calls),
            reasoning_tokens=last.reasoning_tokens,
            echoed=self.echoed,
        )


def _draw_said(fragment: Fragment, reasoning: str, text: str, calls: Sequence[ToolCall], grows: bool = False) -> None:
    """Draws an answer. grows: it is not yet complete."""
    if reasoning:
        fragment.note("Reasoning:")
        fragment.text(reasoning, grows)
        fragment.note("Answer:")
    fragment.text(text, grows)
    if calls:
        fragment.table(("tool", "arguments"), [(call.name, call.arguments) for call in calls], what="calls")


def joined(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """Whole calls."""
    calls: dict[int, tuple[str, str, list[str]]] = {}
    for one in deltas:
        if one.index not in calls:
            calls[one.index] = (one.id or "", one.name or "", [])
        calls[one.index][2].append(one.arguments)
    return tuple(ToolCall(id, name, "".join(parts)) for _, (id, name, parts) in sorted(calls.items()))

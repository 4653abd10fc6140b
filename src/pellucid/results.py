"""What generation returns: pieces of a stream, completions, log probabilities, timings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pellucid.errors import one_line
from pellucid.markup import Fragment, Shown, count, token
from pellucid.sampling import SamplingOptions

__all__ = ["Completion", "FinishReason", "Gathered", "NextToken", "Piece", "Timings", "TokenLogprob"]

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
    """A token that may come next, its text and its natural log probability, from the model's logits before sampling.

    ``piece``: its text, or a special token's spelling; U+FFFD for an incomplete character.
    """

    id: int
    piece: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Times in seconds, and numbers of tokens. ``first_token``: from the call to the first token; ``load``: of loading
    the model."""

    load: float
    prefill: float
    decode: float
    first_token: float
    prefill_tokens: int
    decode_tokens: int

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
            "prefill_rate",
            "decode_rate",
        )
        return {name: getattr(self, name) for name in names}


class Piece(NamedTuple):
    """A step of a stream. ``text`` may be "" while a character or a possible stop string is incomplete, and ``ids`` are
    those of no token, or of several, while and after a possible stop string is. The last piece
    has a finish reason, timings, the number of prompt tokens and ``end``, which :class:`Completion` describes."""

    text: str
    ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None = None
    timings: Timings | None = None
    prompt_tokens: int = 0
    end: TokenLogprob | None = None

    def __repr__(self) -> str:
        end = "" if self.finish_reason is None else f", {self.finish_reason}"
        return f"<Piece {_short(self.text)}: ids {one_line(str(self.ids), 40)}{end}>"


@dataclass(frozen=True, slots=True)
class Completion(Shown):
    """What was generated. ``finish_reason``: "stop" | "eos" | "length" | "context" | "cancelled".

    ``ids``: the new tokens without the one that ended the text (end of sequence, stop id). ``text``, ``ids``,
    ``logprobs`` and what a context then holds end before a stop string, all at the same place: where a token holds both
    the end of the text and the beginning of the stop string, tokens of that end alone stand in its place.

    ``logprobs``: one for each of ``ids``, where they were asked for; ``end``: that of the token that ended the text,
    else None. ``seed``: the one used, also where it was drawn. ``options``: all options, that seed included, without
    ``cancel``: with them, the same prompt gives the same completion again.

    ``prompt_ids``: the tokens that it continues, including those that a context already held; ``prompt_tokens``: how
    many of them this call added. ``Model.trace`` takes a completion and runs ``prompt_ids`` and ``ids`` once more.
    ``dropped``: number of messages that ``chat(on_full="trim")`` left out of the prompt.
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

    def __repr__(self) -> str:
        return f"<Completion {_short(self.text)}: {count(len(self.ids), 'token')}, {self.finish_reason}>"

    def _draw(self, fragment: Fragment) -> None:
        new = count(len(self.ids), "token")
        drawn = f"; seed: {self.seed}" if self.options.temperature else ""
        after = f"{new} after a prompt of {len(self.prompt_ids):,}; finish reason: {self.finish_reason}{drawn}."
        if self.dropped:
            fragment.note(f"{count(self.dropped, 'message')} of the conversation left out, to fit the context.")
        fragment.note(f"{after} The stronger its colour, the more probable a token was." if self.logprobs else after)
        if self.text != "".join(one.piece for one in self.logprobs):  # a character of several tokens, a stop string
            fragment.text(self.text)
        fragment.tokens(token(*one) for one in (*self.logprobs, *([] if self.end is None else [self.end])))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it: all but ``prompt_ids`` and ``options``."""
        return {
            "text": self.text,
            "ids": self.ids,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "logprobs": [t._asdict() for t in self.logprobs],
            "end": None if self.end is None else self.end._asdict(),
            "seed": self.seed,
            "dropped": self.dropped,
            "timings": self.timings.to_dict(),
        }


def _short(text: str) -> str:
    return one_line(repr(text), 60)


@dataclass(slots=True)
class Gathered:
    """The pieces of a generation so far. prompt_ids: the tokens that it continues; options: with the seed drawn;
    dropped: messages left out of the prompt."""

    prompt_ids: Sequence[int]
    options: SamplingOptions
    dropped: int = 0
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: Piece | None = None

    def add(self, piece: Piece) -> None:
        self.text.append(piece.text)
        self.ids += piece.ids
        self.logprobs += piece.logprobs
        self.last = piece

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
        )

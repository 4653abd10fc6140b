"""The loop that makes text: prompts in, forward passes, one token at a time out.

Several prompts run as rows of the same passes. What a pass computes for one of them never depends on the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import _engine, sampling
from pellucid.errors import ContextFullError, TokenizerError
from pellucid.sampling import SamplingOptions
from pellucid.text.stream import TextStream

if TYPE_CHECKING:
    from pellucid.look.trace import Trace
    from pellucid.model import Model
    from pellucid.text.breakers import Breakers

__all__ = ["Completion", "Piece", "Timings", "TokenLogprob"]

FinishReason = str  # "stop" | "eos" | "length" | "context" | "cancelled"


class TokenLogprob(NamedTuple):
    """Natural log probabilities of one new token, from the model's raw logits.

    ``piece``: its text (U+FFFD for a part of a character). ``top``: the most probable tokens, [(id, piece, logprob)].
    """

    id: int
    piece: str
    logprob: float
    top: list[tuple[int, str, float]]


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds and tokens per second. ``first_token``: from the call to the first token; ``load``: of the model."""

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
    """A step of a stream. ``text`` may be "" while a character, or what may be a stop string, is incomplete."""

    text: str
    ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None = None
    timings: Timings | None = None  # of the last piece
    prompt_tokens: int = 0  # of the last piece


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated. ``text`` ends before the stop string; ``ids`` are the new tokens, without the one that ended
    it (end of sequence, stop id). ``finish_reason``: "stop" | "eos" | "length" | "context" | "cancelled". ``trace``:
    of the prompt and the new tokens, where one was asked for."""

    text: str
    ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    logprobs: list[TokenLogprob]
    timings: Timings
    trace: Trace | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        return {
            "text": self.text,
            "ids": self.ids,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "logprobs": [t._asdict() for t in self.logprobs],
            "timings": self.timings.to_dict(),
        }


def collect(pieces: Iterable[Piece]) -> Completion:
    """Joins a stream."""
    text, ids, logprobs, last = [], [], [], None
    for piece in pieces:
        text.append(piece.text)
        ids += piece.ids
        logprobs += piece.logprobs
        last = piece
    assert (
        last is not None and last.finish_reason is not None and last.timings is not None
    )  # a stream's last piece has them
    return Completion("".join(text), ids, last.finish_reason, last.prompt_tokens, logprobs, last.timings)


def parse_options(options: dict[str, Any]) -> SamplingOptions:
    """Checks a call's options. Raises ValueError or TypeError naming the option."""
    return SamplingOptions.parse(options)


def canceller(cancel: Any) -> Callable[[], bool] | None:
    """A callable from what `cancel` may be: None, a threading.Event, a callable."""
    cancel = sampling.check_cancel("cancel", cancel)
    return getattr(cancel, "is_set", cancel)


def check_chunk(chunk: Any) -> int:
    """Rows of one forward pass: never changes a result, only how often `cancel` and others get their turn."""
    return sampling.check_chunk("chunk", chunk)


def prefill(engine: Any, sequence: Any, ids: Sequence[int], chunk: int, cancel: Callable[[], bool] | None) -> bool:
    """Computes what a sequence still lacks of `ids`; False when cancelled."""
    step = min(chunk, engine.max_rows)
    while sequence.length < len(ids):
        part = ids[sequence.length : sequence.length + step]
        if cancel is not None and cancel():  # short passes end before they would ask
            return False
        try:
            engine.forward([(sequence, part, len(part))], cancel=cancel)
        except _engine.Cancelled:
            return False
    return True


def pieces(tokenizer: Any, *, special: bool = False) -> Callable[[int], bytes]:
    """id -> its bytes: none for an id beyond the vocabulary, where an embedding has more rows, to pad it."""
    known = 0 if tokenizer is None else tokenizer.vocab_size
    return lambda id: tokenizer.piece(id, special=special) if tokenizer is not None and id < known else b""


@dataclass(eq=False)
class Job:
    """One prompt's way to its completion. `ids` (the caller's list) grows by the new tokens."""

    model: Model
    ids: list[int]
    options: SamplingOptions
    sequence: Any
    prompt_tokens: int
    prompt_text: str = ""  # what `echo` repeats
    new: list[int] = field(default_factory=list)
    finish: FinishReason | None = None

    def __post_init__(self) -> None:
        o = self.options
        self.model.check_ids(o.stop_ids, "stop_ids", empty=True)
        self.model.check_ids(o.logit_bias, "token ids of logit_bias", empty=True)
        if list(o.logit_bias.values()).count(-math.inf) == self.sequence.engine.vocab:
            raise ValueError("logit_bias forbids every token")
        self.sampler = _engine.Sampler(**o.sampler())
        self.looks_back = o.penalised() or o.dry()
        self.seen = 0  # ids that the sampler knows of those it looks back at
        self.start = time.perf_counter()
        self.first = 0.0  # when the first token came
        self.stepped = False  # a token was sampled since the last pass
        tokenizer = self.model.tokenizer
        self.eog = frozenset() if o.ignore_eos or tokenizer is None else tokenizer.eog
        self.stop_ids = frozenset(o.stop_ids)
        self.cache, self.max_tokens, self.room = o.cache, o.max_tokens, self.model.context_length
        if o.stop and tokenizer is None:
            raise TokenizerError("stop strings need a tokenizer, and the model file has none: use stop_ids")
        self.piece = pieces(tokenizer)
        self.text = None if tokenizer is None else TextStream(self.piece, o.stop)
        self.breakers: Breakers | None = None
        if o.dry() and o.dry_breakers and tokenizer is not None:
            from pellucid.text.breakers import Breakers

            self.breakers = Breakers(self.piece, o.dry_breakers)
        if o.max_tokens == 0:
            self.finish = "length"

    def pending(self) -> list[int]:
        """Tokens whose keys and values are not computed yet; at least one."""
        return self.ids[self.sequence.length :]

    def before_pass(self) -> None:
        if self.looks_back:
            new = self.ids[self.seen :]
            self.sampler.extend(new, self.breakers.marks(new) if self.breakers else None)
            self.seen += len(new)
        if self.stepped and not self.cache:
            self.sequence = _engine.Sequence(self.sequence.engine)  # computes everything again, for every token
        self.stepped = False

    def take(self, token: int, logprob: float | None, top: list[tuple[int, float]]) -> Piece:
        """Takes a sampled token -> its piece."""
        if not self.first:
            self.first = time.perf_counter()
        self.stepped = True
        if token in self.eog or token in self.stop_ids:
            self.finish = "eos" if token in self.eog else "stop"
            return self.end("")
        self.ids.append(token)
        self.new.append(token)
        text = self.text.push(token) if self.text else ""
        logprobs = []
        if logprob is not None:
            logprobs.append(
                TokenLogprob(
                    token, self._spelling(token), logprob, [(i, self._spelling(i), p) for i, p in top if i >= 0]
                )
            )
        if self.text and self.text.stopped is not None:
            self.finish = "stop"
        elif len(self.new) >= self.max_tokens:
            self.finish = "length"
        elif len(self.ids) > self.room:
            self._fill()
        if self.finish:
            return self.end(text, [token], logprobs)
        return Piece(text, [token], logprobs)

    def _fill(self) -> None:
        # The last token needs no place of its own until another one is to follow it.
        if self.options.on_full == "error":
            raise ContextFullError(
                "the context filled while generating", needed=len(self.ids), available=self.model.context_length
            )
        self.finish = "context"

    def end(self, text: str, ids: list[int] | None = None, logprobs: list[TokenLogprob] | None = None) -> Piece:
        """The last piece, with all that was held back."""
        if self.text:
            text += self.text.flush()
        return Piece(text, ids or [], logprobs or [], self.finish, self.timings(), self.prompt_tokens)

    def timings(self) -> Timings:
        now = time.perf_counter()
        first = self.first or now
        return Timings(
            load=self.model.load_seconds,
            prefill=first - self.start,
            decode=now - first if self.first else 0.0,
            first_token=first - self.start,
            prefill_tokens=self.prompt_tokens,
            decode_tokens=max(len(self.new) - 1, 0),
        )

    def _spelling(self, id: int) -> str:
        return self.piece(id).decode("utf-8", "replace")


def run(engine: Any, jobs: list[Job], options: SamplingOptions) -> Iterator[Piece]:
    """Runs one job to its end, piece by piece."""
    for _, piece in run_all(engine, jobs, options):
        yield piece


def run_all(engine: Any, jobs: list[Job], options: SamplingOptions) -> Iterator[tuple[Job, Piece]]:
    """Runs jobs side by side: (job, piece) as they come."""
    cancel = canceller(options.cancel)
    rows = min(options.chunk, engine.max_rows)
    for job in jobs:
        if options.echo and job.prompt_text:
            yield job, Piece(job.prompt_text, [], [])
        if job.finish:
            yield job, job.end("")
    active = [job for job in jobs if not job.finish]
    while active:
        parts, samplers, asked, room = [], [], [], rows
        for job in active:
            if not room:
                break
            job.before_pass()
            pending = job.pending()
            part = pending[:room]
            last = len(part) == len(pending)
            parts.append((job.sequence, part, len(part) - 1 if last else len(part)))
            room -= len(part)
            if last:
                samplers.append(job.sampler)
                asked.append(job)
        stopped = cancel is not None and cancel()
        if not stopped:
            try:
                results = engine.forward(parts, samplers=samplers, cancel=cancel)
            except _engine.Cancelled:
                stopped = True
        if stopped:
            for job in active:
                job.finish = "cancelled"
                yield job, job.end("")
            return
        for job, result in zip(asked, results, strict=True):
            yield job, job.take(*result)
        # those that had no room come first next time
        active = [job for job in active[len(parts) :] + active[: len(parts)] if not job.finish]


def logits(engine: Any, sequences: list[tuple[Any, Sequence[int]]], chunk: int) -> list[npt.NDArray[np.float32]]:
    """Logits of every token of several sequences -> [(n, vocab) float32]; rows of all share forward passes."""
    rows = min(chunk, engine.max_rows)
    outs = [np.empty((len(ids), engine.vocab), np.float32) for _, ids in sequences]
    at = [0] * len(sequences)
    while any(a < len(ids) for a, (_, ids) in zip(at, sequences, strict=True)):
        parts, places, room = [], [], rows
        for i, (sequence, ids) in enumerate(sequences):
            n = min(room, len(ids) - at[i])
            if n > 0:
                parts.append((sequence, ids[at[i] : at[i] + n], 0))
                places.append((i, n))
                room -= n
        alone = len(places) == 1
        i, n = places[0]
        out = outs[i][at[i] : at[i] + n] if alone else np.empty((sum(n for _, n in places), engine.vocab), np.float32)
        engine.forward(parts, out=out)
        row = 0
        for i, n in places:
            if not alone:
                outs[i][at[i] : at[i] + n] = out[row : row + n]
            at[i] += n
            row += n
    return outs

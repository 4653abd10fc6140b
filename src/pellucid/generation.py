"""One generation: its tokens, its text and what ends it; and passes over prompts alone.

The scheduler runs generations, in passes that they share (schedule/).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pellucid import _engine, arguments, checks, log, observers, sampling
from pellucid.bound import Bound, Guesses
from pellucid.core import Core
from pellucid.errors import ContextFullError, WrongValue
from pellucid.guide import Guide
from pellucid.options import TEMPLATE_DEFAULTS
from pellucid.reply import Asked, Reply, Spoken, for_template
from pellucid.results import FinishReason, Piece, Timings, TokenLogprob
from pellucid.sampling import SamplingOptions
from pellucid.structure import Structure
from pellucid.text.base import NoTokenizerError
from pellucid.text.stream import TextStream, spell_out
from pellucid.tokenizer import pieces_of

if TYPE_CHECKING:
    from pellucid.text.breakers import Breakers

__all__ = [
    "ChatCall",
    "Job",
    "canceller",
    "check_chunk",
    "parse_chat_options",
    "parse_options",
    "prefill",
]

LONG = 16  # characters per token up to which a prediction is tokenised
FORCED = 32  # rows of new tokens that are decided without a draw, up to which they count as decoding
SOON = 256  # new tokens for which a request must find room to begin


def parse_options(options: Mapping[str, Any]) -> SamplingOptions:
    """Checks the keywords of ``generate``. Raises ValueError or TypeError naming the option."""
    return SamplingOptions.parse(options)


class ChatCall(NamedTuple):
    """The keywords of ``chat``: checked options, those of ``Model.chat_prompt``, and whether to trim."""

    options: SamplingOptions
    own: dict[str, Any]
    trim: bool
    asked: Asked


def parse_chat_options(keywords: Mapping[str, Any]) -> ChatCall:
    """Checks the keywords of ``chat``. Raises as `parse_options`."""
    given = {name: value for name, value in keywords.items() if name in TEMPLATE_DEFAULTS and value is not None}
    asked, own = for_template(given)
    rest = {name: value for name, value in keywords.items() if name not in TEMPLATE_DEFAULTS}
    on_full = rest.pop("on_full", None)
    if on_full is not None:
        on_full = checks.choice("on_full", on_full, ("error", "stop", "trim"))
    trim = on_full == "trim"  # what then fills the context is the answer, which stops there
    options = SamplingOptions.parse({**rest, "on_full": "stop" if trim else on_full}, max_tokens=None)
    return ChatCall(options, own, trim, asked)


def canceller(cancel: Any) -> Callable[[], bool] | None:
    """`cancel` as a callable: from a threading.Event or a callable; None stays None. Raises TypeError for others."""
    cancel = sampling.check_cancel("cancel", cancel)
    asked: Callable[[], bool] | None = getattr(cancel, "is_set", cancel)
    return asked


def check_chunk(chunk: Any) -> int:
    """The rows of a forward pass; None: the default. They change no result, only how often `cancel` is checked and
    other callers run."""
    return sampling.check_chunk("chunk", sampling.DEFAULTS["chunk"] if chunk is None else chunk)


class Passes(Protocol):
    """What computes prompts: an engine, or a call's turns at it."""

    max_rows: int

    def forward(self, parts: Any, *, cancel: Any = None) -> Any: ...


def prefill(
    engine: Passes,
    sequence: _engine.Sequence,
    ids: Sequence[int],
    chunk: int,
    cancel: Callable[[], bool] | None,
    beside: Callable[[int, int], int] = lambda rows, depth: rows,
) -> bool:
    """Computes the keys, values and states of those `ids` that the sequence does not hold yet -> False when
    cancelled. beside: of (rows, tokens that the sequence holds) -> how many of these rows the next pass may have."""
    most = min(chunk, engine.max_rows)
    while sequence.length < len(ids):
        step = beside(most, sequence.length)
        part = ids[sequence.length : sequence.length + sequence.rows(step)]
        if cancel is not None and cancel():  # short passes do not check it
            return False
        try:
            engine.forward([(sequence, part, len(part))], cancel=cancel)
        except _engine.Cancelled:
            return False
    return True


@dataclass(eq=False, slots=True)
class Job:
    """The generation from one prompt. `ids` is the caller's list; new tokens are appended to it."""

    core: Core
    ids: list[int]
    options: SamplingOptions
    sequence: Any  # _engine.Sequence; None: made when the first pass begins
    prompt_tokens: int
    prompt_text: str = ""  # what `echo` returns first
    salt: str = ""  # requests with different salts share nothing in the prefix cache
    cached: int = 0  # tokens of the prompt that had been computed before
    computed: int = field(init=False, default=0)  # rows
    reply: Reply | None = None  # what the answer may have besides text
    chat: bool = False  # it answers a conversation
    opening: int = 0  # tokens of the prompt that others are likely to begin with, too
    leave: Callable[[Callable[[], None]], None] | None = None  # ends its passes; calls back when none uses the sequence
    use: Any = None  # the Use of a context, which lasts at least as long as the job
    held: list[tuple[int, TokenLogprob | None]] = field(default_factory=list)  # new tokens that no piece has yet
    new: int = 0  # tokens drawn, without the one that ended the text
    finish: FinishReason | None = None
    failure: Exception | None = None  # the error that ended it
    bound: Bound | Guide | None = field(init=False)
    sampler: _engine.Sampler = field(init=False)
    looks_back: bool = field(init=False)
    speculates: bool = field(init=False)
    prediction: list[int] = field(init=False)
    drafted: int = field(init=False, default=0)  # guesses that passes verified
    accepted: int = field(init=False, default=0)  # those that were right
    start: float = field(init=False)
    first: float = field(init=False, default=0.0)  # time of the first token
    times: list[float] = field(init=False, default_factory=list)  # seconds from the call to each token that was taken
    stopped_text: str = field(init=False, default="")
    # the last tokens before a stop string, in place of one that holds its beginning, too
    tail: list[int] | None = field(init=False, default=None)
    scores: list[tuple[float, list[tuple[int, float]]]] = field(init=False, default_factory=list)  # of `tail`
    eog: frozenset[int] = field(init=False)
    stop_ids: frozenset[int] = field(init=False)
    cache: bool = field(init=False)
    room: int = field(init=False)
    root: str | None = field(init=False)
    max_tokens: float = field(init=False)
    text: TextStream | None = field(init=False, default=None)
    spoken: Spoken | None = field(init=False, default=None)
    breakers: Breakers | None = field(init=False, default=None)
    tokens: list[int] = field(init=False)
    begun: int = field(init=False)
    drawn: list[tuple[int, float | None, list[tuple[int, float]]]] = field(init=False, default_factory=list)
    taken: int = field(init=False, default=0)
    more: bool = field(init=False, default=True)
    observer: Any = None  # False: none is wanted

    def __post_init__(self) -> None:
        o = self.options
        self.core.check_ids(o.stop_ids, "stop_ids", empty=True)
        vocab = self.core.config.vocab
        if max(o.logit_bias, default=0) >= vocab:
            limits = f"token ids go from 0 to {vocab - 1} (vocabulary size {vocab})"
            raise WrongValue("logit_bias", f"[{max(o.logit_bias)}]: {limits}")
        bias = {**dict.fromkeys(self.core.facts.suppressed, -math.inf), **o.logit_bias}
        if list(bias.values()).count(-math.inf) == vocab:
            raise ValueError("logit_bias forbids every token")
        structure = o.structure()
        self.bound = self._bound(structure)
        mask = None if self.bound is None else self.bound.words
        self.sampler = _engine.Sampler(**{**o.sampler(), "bias": bias}, mask=mask)
        self.looks_back = o.penalised() or o.dry()
        # Mirostat and DRY draw one token after another.
        self.speculates = bool(o.speculate and o.cache and not o.mirostat and not o.dry())
        self.prediction = self._prediction()
        self.start = time.perf_counter()
        tokenizer = self.core.tokenizer
        ignores = o.ignore_eos and self.bound is None  # a grammar's end is one
        self.eog = frozenset() if ignores or tokenizer is None else tokenizer.eog
        self.stop_ids = frozenset(o.stop_ids)
        self.cache, self.room = o.cache, self.core.context_length
        self.root = self.salt if o.cache and self.sequence is None else None
        self.max_tokens = math.inf if o.max_tokens is None else o.max_tokens
        if o.stop and tokenizer is None:
            raise NoTokenizerError("stop strings need a tokenizer, and the model file has none: use stop_ids")
        if tokenizer is not None:
            self.text = TextStream(pieces_of(tokenizer) if self.reply is None else self.reply.piece, o.stop)
        if self.reply is not None:
            self.spoken = Spoken(self.reply, self.ids, o.seed, structure is not None)
        if o.dry() and o.dry_breakers and tokenizer is not None:
            from pellucid.text.breakers import Breakers

            self.breakers = Breakers(self.core.piece, o.dry_breakers)
        self.tokens = list(self.ids)
        self.begun = len(self.ids)
        if o.max_tokens == 0:
            self.finish = "length"
        elif self.bound is not None:
            self.bound.follow(self.drawn)
            if self.bound.complete and not self.bound.ids:
                self.finish = "stop"
        self.observer = None if observers.begun is None or self.observer is False else observers.begun(self)

    def _bound(self, structure: Structure | None) -> Bound | Guide | None:
        o, reply = self.options, self.reply
        guided = reply is not None and reply.guided(structure is not None)
        if structure is None and not guided:
            return None
        tokenizer = self.core.need_tokenizer()
        ends, may_end, scored = tokenizer.eog | set(o.stop_ids), not o.ignore_eos, o.logprobs > 0
        if reply is not None and guided:
            return Guide(self.core, reply, structure, ends, may_end, scored)
        assert structure is not None
        return Bound(tokenizer.grammars(self.core.engine.vocab).compile(structure), ends, may_end, scored)

    def _prediction(self) -> list[int]:
        """The tokens that the answer is expected to resemble, no more than fit the context."""
        given, most = self.options.prediction, self.core.context_length
        if not given:
            return []
        if isinstance(given, str):
            with arguments.named("prediction"):
                return self.core.tokenize(given[: LONG * most], add_special=False)[:most]
        return self.core.check_ids(given, "prediction")[:most]

    # ---- for the scheduler, which may be some tokens ahead of the reader -----------------------------------------

    def advance(self) -> bool:
        """Adds the tokens that are decided to `tokens` -> whether a pass is to follow."""
        tokens, drawn, bound, new = self.tokens, self.drawn, self.bound, len(self.tokens) - self.begun
        if bound is not None:
            bound.follow(drawn)
        while self.more and new < (len(drawn) if bound is None else max(len(bound.ids), len(drawn))):
            token = drawn[new][0] if new < len(drawn) else bound.ids[new]  # type: ignore[union-attr]
            if token in self.eog or token in self.stop_ids:
                self.more = False
                break
            if not self.cache:  # everything is computed again for every token
                self.sequence = _engine.Sequence(self.sequence.engine)
            tokens.append(token)
            new += 1
            self.more = new < self.max_tokens and len(tokens) <= self.room
            if bound is not None and bound.complete and new == len(bound.ids):
                self.more = False
        return self.more or new > len(drawn)  # their log probabilities are wanted

    def rows(self) -> int:
        """How many of the tokens that the sequence lacks one pass should take."""
        rows: int = len(self.tokens) - self.sequence.length - (not self.more)
        if rows < 2:
            return rows
        some: int = self.sequence.rows(rows)
        # A prompt's last token has a pass of its own where layers recur, so that the state before it is kept.
        prompt = self.sequence.length < self.begun - 1
        return rows - 1 if some == rows and prompt and self.sequence.engine.recurs else some

    def soon(self) -> int:
        """How many tokens the sequence will hold before long: those it has, and the next SOON, if so many follow."""
        left = min(self.max_tokens - (len(self.tokens) - self.begun), SOON)
        return min(len(self.tokens) + int(max(left, 0)), self.room)

    def fresh(self, rows: int) -> bool:
        """Whether it decodes, that is, wants so many rows for new tokens."""
        return rows == 1 or (rows <= FORCED and len(self.tokens) - rows >= self.begun)

    def before_pass(self) -> None:
        sampler = self.sampler
        new = len(self.tokens) - self.begun
        if sampler.step != new:  # guesses were right, tokens had to follow, or an interrupt lost a draw
            sampler.advance(new - sampler.step)
        if self.looks_back:
            recent = self.tokens[sampler.length :]
            sampler.extend(recent, self.breakers.marks(recent) if self.breakers else None)

    def verifiable(self, ids: list[int]) -> list[int]:
        """The guesses at its next tokens up to the first that would end it, and so few that one more may follow."""
        most = self._follow(len(ids))
        for i, id in enumerate(ids):
            if i >= most or id in self.eog or id in self.stop_ids:
                return ids[:i]
        return ids

    def _follow(self, most: int) -> int:
        """How many of so many tokens may follow, with one more after them."""
        n = len(self.tokens)
        return int(min(most, self.room - n, self.max_tokens - (n - self.begun) - 1))

    @property
    def ends(self) -> frozenset[int]:
        return self.eog | self.stop_ids

    def passes(self, most: int) -> int:
        """How many passes in a row, at most so many, may each draw a token with nothing done between them, as long as
        none is in `ends`."""
        return 1 if self.looks_back else self._follow(most - 1) + 1

    def guesses(self, most: int) -> Guesses | None:
        """Empty Guesses, for at most so many tokens with those that must follow each, if it is bound; None if there can
        be no guesses."""
        new = len(self.tokens) - self.begun
        if self.bound is None or not self.bound.at(new):
            return None
        return Guesses(self.bound, self._follow(most), self.eog | self.stop_ids)

    def guess(self, ids: list[int]) -> None:
        if self.looks_back:
            self.sampler.draft(ids)

    def verified(self, guesses: int, right: int) -> None:
        self.drafted += guesses
        self.accepted += right

    # ---- for the reader ------------------------------------------------------------------------------------------

    def next(self) -> Piece | None:
        """The piece of the next token that was drawn; None: see `take`."""
        result = self.drawn[self.taken]
        self.taken += 1
        return self.take(*result)

    def settle(self) -> None:
        """Ends its passes, and returns when none uses the sequence any more."""
        if (leave := self.leave) is not None:  # read once: another thread may free it
            done: SimpleQueue[None] = SimpleQueue()  # which a finalizer may fill, and more than once
            leave(partial(done.put, None))
            done.get()

    def free(self) -> None:
        """Called when no pass uses the sequence any more."""
        self.sequence = self.leave = None

    def take(self, token: int, logprob: float | None, top: list[tuple[int, float]]) -> Piece | None:
        """Takes a sampled token -> its piece; None at a stop string: the reader calls `stop` when no pass uses the
        sequence."""
        self.times.append(time.perf_counter() - self.start)
        if not self.first:
            self.first = self.start + self.times[0]
        spelled = None if logprob is None else self._spelled(token, logprob, top)
        if token in self.eog or token in self.stop_ids:
            self.finish = "eos" if token in self.eog else "stop"
            return self.end("")._replace(end=spelled)
        self.ids.append(token)
        self.held.append((token, spelled))
        self.new += 1
        text = self.text.push(token) if self.text else ""
        if self.text and self.text.stopped is not None:
            self.finish, self.stopped_text = "stop", text
            return None
        if self.bound is not None and self.bound.complete and self.new == len(self.bound.ids):
            self.finish = "stop"
        elif self.new >= self.max_tokens:
            self.finish = "length"
        elif len(self.ids) > self.room:
            self._fill()
        if self.finish:
            return self.end(text)
        piece = Piece(text, *self._release())
        if self.spoken is None:
            return piece
        piece = self.spoken.piece(piece)
        return self._end_after_calls(piece) if self.spoken.done else piece

    def _end_after_calls(self, piece: Piece) -> Piece:
        """The last piece, once there are as many calls as there may be."""
        self.finish = "stop"
        last = self.end("")
        return last._replace(
            text=piece.text + last.text,
            ids=piece.ids + last.ids,
            logprobs=piece.logprobs + last.logprobs,
            reasoning=piece.reasoning + last.reasoning,
            tool_calls=piece.tool_calls + last.tool_calls,
        )

    def stop(self) -> Piece | None:
        """The last piece, before a stop string; None: `score` must be called first. No pass may use the sequence."""
        if self.tail is None:
            self._cut()
        if self.tail is None or self.unscored:
            return None
        scores: Sequence[Any] = self.scores or [None] * len(self.tail)
        for id, one in zip(self.tail, scores, strict=True):
            self.held.append((id, None if one is None else self._spelled(id, *one)))
        self.ids += self.tail
        self.tokens = list(self.ids)  # what the sequence holds
        return self.end(self.stopped_text)

    @property
    def unscored(self) -> bool:
        """Whether `score` is to be called."""
        return bool(self.tail) and self.options.logprobs > 0 and not self.scores

    def score(self, passes: Passes, beside: Callable[[int, int], int]) -> None:
        """Computes the log probabilities of the last tokens before a stop string. beside: see `prefill`. Raises
        Cancelled. May be called again."""
        ids, tail, sequence = self.ids, self.tail, self.sequence
        assert tail
        if sequence.length >= len(ids):  # it was interrupted after its pass
            sequence.rewind(len(ids) - 1)
        if not prefill(passes, sequence, ids[:-1], passes.max_rows, None, beside):
            raise _engine.Cancelled("the call was cancelled")
        forward: Any = passes.forward
        self.scores = forward([(sequence, [ids[-1], *tail[:-1]], 0)], targets=tail, top=self.options.logprobs)

    def _spelled(self, token: int, logprob: float, top: list[tuple[int, float]]) -> TokenLogprob:
        spell = self.core.spell
        return TokenLogprob(token, spell(token), logprob, [(i, spell(i), p) for i, p in top if i >= 0])

    def _release(self) -> tuple[list[int], list[TokenLogprob]]:
        """The tokens, and their log probabilities, that a stop string cannot reach any more; at the end, all."""
        out, waiting = self.held, 0 if self.finish or not self.text else self.new - self.text.settled
        if not waiting:
            self.held = []
        else:
            out, self.held = out[:-waiting], out[len(out) - waiting :]
        if len(out) == 1:  # nearly always
            ((token, spelled),) = out
            return [token], [] if spelled is None else [spelled]
        return [token for token, _ in out], [logprob for _, logprob in out if logprob is not None]

    def _cut(self) -> None:
        """Drops the tokens of the stop string. One that also holds the end of the text is replaced by tokens of that
        end, if the vocabulary has any."""
        text, sequence = self.text, self.sequence
        assert text is not None
        dropped = self.new - text.settled
        del self.held[len(self.held) - dropped :], self.ids[len(self.ids) - dropped :]
        n = len(self.ids)
        tail = spell_out(self.core.need_tokenizer(), text.tail) if text.tail else []
        tail = tail if n + len(tail) <= self.room + 1 else []
        scored = bool(tail) and self.options.logprobs > 0
        if sequence is not None and sequence.length > n - scored:  # all may be decided before it begins
            sequence.rewind(n - scored)
        self.tail, self.tokens = tail, list(self.ids)

    def _fill(self) -> None:
        # The last token needs no room in the context until another one follows it.
        if self.options.on_full == "error":
            raise ContextFullError(
                "the context filled while generating", needed=len(self.ids), available=self.core.context_length
            )
        self.finish = "context"

    def end(self, text: str) -> Piece:
        """The last piece, with everything that was held back."""
        if self.text:
            text += self.text.flush()
        stop_string = self.text.stopped if self.text and self.finish == "stop" else None
        observer, self.observer = self.observer, None
        if observer is not None:
            observer.ended(self)
        took = self.timings()
        log.debug(
            "%.1f and %.1f tokens/s: a prompt of %d tokens (%d cached), %d new ones, until: %s",
            took.prefill_rate, took.decode_rate, self.prompt_tokens, took.cached_tokens, self.new, self.finish,
        )  # fmt: skip
        piece = Piece(text, *self._release(), self.finish, took, self.prompt_tokens)
        piece = piece._replace(stop_string=stop_string)
        return piece if self.spoken is None else self.spoken.piece(piece)

    def cancelled(self) -> Piece:
        """The last piece of a generation that is cancelled."""
        self.finish = "cancelled"
        return self.end("")

    def failed(self, error: Exception | None) -> None:
        """Called if it ends without a last piece. error: None if nobody reads it any more."""
        observer, self.observer = self.observer, None
        if observer is not None:
            observer.failed(error)

    def timings(self) -> Timings:
        now = time.perf_counter()
        first = self.first or now
        return Timings(
            load=self.core.load_seconds,
            prefill=first - self.start,
            decode=now - first if self.first else 0.0,
            first_token=first - self.start,
            prefill_tokens=min(self.prompt_tokens - self.cached, self.computed),
            decode_tokens=max(self.new - 1, 0),
            cached_tokens=self.cached,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            tokens=tuple(self.times),
        )

"""The generation loop: runs forward passes over prompts and samples one token at a time.

Several prompts share the same passes. What a pass computes for one of them never depends on the others.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, checks, sampling
from pellucid.core import Core
from pellucid.errors import BatchError, ContextFullError, NumericsError, TokenizerError, WrongValue, out_of_memory
from pellucid.options import TEMPLATE_DEFAULTS
from pellucid.results import FinishReason, Gathered, Piece, Timings, TokenLogprob
from pellucid.sampling import SamplingOptions
from pellucid.streams import BatchStream, Stream
from pellucid.text.stream import TextStream, spell_out
from pellucid.trimming import trimmed

if TYPE_CHECKING:
    from pellucid.text.breakers import Breakers

__all__ = [
    "Job",
    "canceller",
    "chat",
    "check_chunk",
    "launch",
    "logits",
    "parse_chat_options",
    "parse_options",
    "prefill",
    "run_all",
    "start_chat",
    "stream",
]

MOST_COPIES = 2**16  # completions per prompt


def parse_options(options: Mapping[str, Any]) -> SamplingOptions:
    """Checks the keywords of ``generate``. Raises ValueError or TypeError naming the option."""
    return SamplingOptions.parse(options)


class ChatCall(NamedTuple):
    """The keywords of ``chat``: checked options, those of ``Model.chat_prompt``, and whether to trim."""

    options: SamplingOptions
    own: dict[str, Any]
    trim: bool


def parse_chat_options(keywords: Mapping[str, Any]) -> ChatCall:
    """Checks the keywords of ``chat``. Raises as `parse_options`."""
    own = {name: value for name, value in keywords.items() if name in TEMPLATE_DEFAULTS and value is not None}
    rest = {name: value for name, value in keywords.items() if name not in TEMPLATE_DEFAULTS}
    on_full = rest.pop("on_full", None)
    if on_full is not None:
        on_full = checks.choice("on_full", on_full, ("error", "stop", "trim"))
    trim = on_full == "trim"  # what then fills the context is the answer, which stops there
    options = SamplingOptions.parse({**rest, "on_full": "stop" if trim else on_full}, max_tokens=None)
    return ChatCall(options, own, trim)


def canceller(cancel: Any) -> Callable[[], bool] | None:
    """`cancel` as a callable: from a threading.Event or a callable; None stays None. Raises TypeError for anything
    else."""
    cancel = sampling.check_cancel("cancel", cancel)
    asked: Callable[[], bool] | None = getattr(cancel, "is_set", cancel)
    return asked


def check_chunk(chunk: Any) -> int:
    """The rows of a forward pass; None: the default. They change no result, only how often `cancel` is asked and other
    callers run."""
    return sampling.check_chunk("chunk", sampling.DEFAULTS["chunk"] if chunk is None else chunk)


def prefill(
    engine: _engine.Engine,
    sequence: _engine.Sequence,
    ids: Sequence[int],
    chunk: int,
    cancel: Callable[[], bool] | None,
) -> bool:
    """Computes the keys and values of those `ids` that the sequence does not hold yet -> False when cancelled."""
    step = min(chunk, engine.max_rows)
    while sequence.length < len(ids):
        part = ids[sequence.length : sequence.length + step]
        if cancel is not None and cancel():  # short passes end without asking
            return False
        try:
            engine.forward([(sequence, part, len(part))], cancel=cancel)
        except _engine.Cancelled:
            return False
    return True


@dataclass(eq=False)
class Job:
    """The generation from one prompt. `ids` is the caller's list; new tokens are appended to it."""

    core: Core
    ids: list[int]
    options: SamplingOptions
    sequence: _engine.Sequence
    prompt_tokens: int
    prompt_text: str = ""  # what `echo` returns first
    held: list[tuple[int, TokenLogprob | None]] = field(default_factory=list)  # new tokens that no piece has yet
    new: int = 0  # tokens drawn, without the one that ended the text
    finish: FinishReason | None = None
    failure: Exception | None = None  # the error that ended it

    def __post_init__(self) -> None:
        o = self.options
        self.core.check_ids(o.stop_ids, "stop_ids", empty=True)
        self.core.check_ids(o.logit_bias, "token ids of logit_bias", empty=True)
        if list(o.logit_bias.values()).count(-math.inf) == self.sequence.engine.vocab:
            raise ValueError("logit_bias forbids every token")
        self.sampler = _engine.Sampler(**o.sampler())
        self.looks_back = o.penalised() or o.dry()
        self.seen = 0  # how many ids the sampler has received
        self.start = time.perf_counter()
        self.first = 0.0  # time of the first token
        self.stepped = False  # whether a token was sampled since the last pass
        tokenizer = self.core.tokenizer
        self.eog = frozenset() if o.ignore_eos or tokenizer is None else tokenizer.eog
        self.stop_ids = frozenset(o.stop_ids)
        self.cache, self.room = o.cache, self.core.context_length
        self.max_tokens = math.inf if o.max_tokens is None else o.max_tokens
        if o.stop and tokenizer is None:
            raise TokenizerError("stop strings need a tokenizer, and the model file has none: use stop_ids")
        self.text = None if tokenizer is None else TextStream(self.core.piece, o.stop)
        self.breakers: Breakers | None = None
        if o.dry() and o.dry_breakers and tokenizer is not None:
            from pellucid.text.breakers import Breakers

            self.breakers = Breakers(self.core.piece, o.dry_breakers)
        if o.max_tokens == 0:
            self.finish = "length"

    def pending(self) -> list[int]:
        """Tokens whose keys and values have not been computed yet; at least one."""
        return self.ids[self.sequence.length :]

    def before_pass(self) -> None:
        if self.looks_back:
            new = self.ids[self.seen :]
            self.sampler.extend(new, self.breakers.marks(new) if self.breakers else None)
            self.seen += len(new)
        if self.stepped and not self.cache:
            self.sequence = _engine.Sequence(self.sequence.engine)  # everything is recomputed for every token
        self.stepped = False

    def take(self, token: int, logprob: float | None, top: list[tuple[int, float]]) -> Piece:
        """Takes a sampled token -> its piece."""
        if not self.first:
            self.first = time.perf_counter()
        self.stepped = True
        spelled = None if logprob is None else self._spelled(token, logprob, top)
        if token in self.eog or token in self.stop_ids:
            self.finish = "eos" if token in self.eog else "stop"
            return self.end("")._replace(end=spelled)
        self.ids.append(token)
        self.held.append((token, spelled))
        self.new += 1
        text = self.text.push(token) if self.text else ""
        if self.text and self.text.stopped is not None:
            self.finish = "stop"
            self._end_before_the_stop_string(self.text)
        elif self.new >= self.max_tokens:
            self.finish = "length"
        elif len(self.ids) > self.room:
            self._fill()
        return self.end(text) if self.finish else Piece(text, *self._release())

    def _spelled(self, token: int, logprob: float, top: list[tuple[int, float]]) -> TokenLogprob:
        spell = self.core.spell
        return TokenLogprob(token, spell(token), logprob, [(i, spell(i), p) for i, p in top if i >= 0])

    def _release(self) -> tuple[list[int], list[TokenLogprob]]:
        """The tokens, and their log probabilities, that a stop string cannot reach any more; at the end, all."""
        waiting = 0 if self.finish or not self.text else self.new - self.text.settled
        out = self.held[: len(self.held) - waiting]
        del self.held[: len(out)]
        return [token for token, _ in out], [logprob for _, logprob in out if logprob is not None]

    def _end_before_the_stop_string(self, text: TextStream) -> None:
        """Drops the tokens of the stop string. In place of one that also holds the end of the text, tokens of that end,
        if the vocabulary has any."""
        dropped = self.new - text.settled
        del self.held[len(self.held) - dropped :], self.ids[len(self.ids) - dropped :]
        n, sequence = len(self.ids), self.sequence
        tail = spell_out(self.core.need_tokenizer(), text.tail) if text.tail else []
        if n + len(tail) > self.room + 1:
            tail = []
        scored = bool(tail) and self.options.logprobs > 0
        if sequence.length > n - scored:
            sequence.rewind(n - scored)
        if scored:
            engine = sequence.engine
            prefill(engine, sequence, self.ids[:-1], engine.max_rows, None)
            rows = [(sequence, [self.ids[-1], *tail[:-1]], 0)]
            found = engine.forward(rows, targets=tail, top=self.options.logprobs)
            self.held += [(id, self._spelled(id, *one)) for id, one in zip(tail, found, strict=True)]
        else:
            self.held += [(id, None) for id in tail]
        self.ids += tail

    def _fill(self) -> None:
        # The last token needs no room in the context until another one follows it.
        if self.options.on_full == "error":
            raise ContextFullError(
                "the context filled while generating", needed=len(self.ids), available=self.core.context_length
            )
        self.finish = "context"

    def end(self, text: str) -> Piece:
        """The last piece, with all that was held back."""
        if self.text:
            text += self.text.flush()
        return Piece(text, *self._release(), self.finish, self.timings(), self.prompt_tokens)

    def timings(self) -> Timings:
        now = time.perf_counter()
        first = self.first or now
        return Timings(
            load=self.core.load_seconds,
            prefill=first - self.start,
            decode=now - first if self.first else 0.0,
            first_token=first - self.start,
            prefill_tokens=self.prompt_tokens,
            decode_tokens=max(self.new - 1, 0),
        )


# ---- starting -----------------------------------------------------------------------------------------------------


class Begun(NamedTuple):
    """A prompt: its tokens, and the text that `echo` returns first."""

    ids: list[int]
    text: str
    dropped: int = 0  # messages that were left out


def stream(core: Core, prompt: Any, keywords: Mapping[str, Any], n: Any = None) -> Any:
    """``Model.stream``: a Stream; for several prompts, or with n, a BatchStream."""
    options = parse_options(keywords)
    several, prompts = arguments.prompts(prompt, "prompt")
    names = _names("prompt", prompts, several)
    begun = []
    with out_of_memory("to generate"):
        for one, name in zip(prompts, names, strict=True):
            ids = core.prompt(one, name)
            text = "" if not options.echo else one if isinstance(one, str) else core.detokenize(ids)
            begun.append(Begun(ids, text))
    return _start(core, begun, names, options, n, several)


def chat(core: Core, messages: Any, keywords: Mapping[str, Any], n: Any = None) -> Any:
    """``Model.chat``, streaming."""
    call = parse_chat_options(keywords)
    several, conversations = arguments.conversations(messages)
    names = _names("messages", conversations, several)
    begun = [_conversation(core, one, name, call) for one, name in zip(conversations, names, strict=True)]
    return _start(core, begun, names, call.options, n, several)


def start_chat(core: Core, messages: Any, keywords: Mapping[str, Any]) -> tuple[Begun, SamplingOptions]:
    """(a conversation's prompt, checked options)."""
    call = parse_chat_options(keywords)
    several, found = arguments.conversations(messages)
    return _conversation(core, found if several else found[0], "messages", call), call.options


def _conversation(core: Core, messages: Any, name: str, call: ChatCall) -> Begun:
    if call.trim:
        prompt, dropped = trimmed(core, messages, name, call.options.max_tokens, call.own)
        return Begun(prompt.ids, prompt.text, dropped)
    prompt = core.conversation(messages, name, **call.own)
    return Begun(prompt.ids, prompt.text)


def _names(name: str, values: list[Any], several: bool) -> list[str]:
    return [f"{name}[{i}]" for i in range(len(values))] if several else [name]


@out_of_memory("to generate")
def _start(
    core: Core, begun: list[Begun], names: list[str], options: SamplingOptions, n: Any, several: bool
) -> Stream | BatchStream:
    copies = 1 if n is None else checks.integer("n", n, 1, MOST_COPIES)
    if len(begun) * copies > arguments.MOST_PROMPTS:
        raise WrongValue("n", f"={copies}: expected at most {arguments.MOST_PROMPTS} completions in all")
    engine = core.open()
    jobs = []
    for i, seed in enumerate(options.seeds(len(begun), copies)):
        ids, text, _ = begun[i // copies]
        jobs.append(Job(core, list(ids), options.settled(seed), _engine.Sequence(engine), len(ids), text))
    if not several and n is None:
        return launch(jobs[0], options, dropped=begun[0].dropped)
    closing = threading.Event()
    pieces = _run_batch(engine, jobs, names, options, closing.is_set)
    prompts = [begun[i // copies] for i in range(len(jobs))]
    gathered = [Gathered(p.ids, job.options, p.dropped) for p, job in zip(prompts, jobs, strict=True)]
    return BatchStream(pieces, gathered, closing.set)


def launch(
    job: Job,
    options: SamplingOptions,
    release: Callable[[], None] | None = None,
    undo: Callable[[], None] | None = None,
    dropped: int = 0,
) -> Stream:
    """The stream of one job. release: called when the stream ends or is closed. undo: called where it fails before its
    first new token. dropped: messages left out of its prompt."""
    closing = threading.Event()
    gathered = Gathered(list(job.ids), job.options, dropped)
    return Stream(_run_one(job, options, closing.is_set, undo), gathered, closing.set, release)


# ---- running ------------------------------------------------------------------------------------------------------


def _run_one(
    job: Job, options: SamplingOptions, closing: Callable[[], bool], undo: Callable[[], None] | None
) -> Generator[Piece, None, None]:
    try:
        for _, piece in run_all(job.core.open(), [job], options, closing):
            yield piece
        if job.failure is not None:
            raise job.failure
    except BaseException as e:
        if undo is not None and not job.new and not isinstance(e, GeneratorExit):
            undo()
        raise


def _run_batch(
    engine: _engine.Engine, jobs: list[Job], names: list[str], options: SamplingOptions, closing: Callable[[], bool]
) -> Generator[tuple[int, Piece], None, None]:
    """The pieces of several jobs, equally many per prompt, with their indices. names: of the prompts, for errors."""
    copies = len(jobs) // max(len(names), 1)
    if copies > 1 and options.cache and not closing():
        _share_prompts(engine, [jobs[i : i + copies] for i in range(0, len(jobs), copies)], options)
    index = {id(job): i for i, job in enumerate(jobs)}
    for job, piece in run_all(engine, jobs, options, closing):
        yield index[id(job)], piece
    failures = {i: job.failure for i, job in enumerate(jobs) if job.failure is not None}
    if failures:
        first, what = min(failures), "prompts" if copies == 1 else "completions"
        text = f"{names[first // copies]}: {failures[first]} ({len(failures)} of {len(jobs)} {what} failed)"
        raise BatchError(text, errors=failures, completions=[])  # the stream has the completions


def _share_prompts(engine: _engine.Engine, groups: list[list[Job]], options: SamplingOptions) -> None:
    """Computes the prompt of each group of jobs once, but for its last token, whose logits each job needs."""
    cancel = canceller(options.cancel)
    for group in groups:
        first = group[0]
        try:
            if not prefill(engine, first.sequence, first.ids[:-1], options.chunk, cancel):
                return  # cancelled
        except NumericsError as error:
            for job in group:
                job.failure = error
            continue
        for job in group[1:]:
            job.sequence = first.sequence.fork()


def run_all(
    engine: _engine.Engine, jobs: list[Job], options: SamplingOptions, closing: Callable[[], bool]
) -> Iterator[tuple[Job, Piece]]:
    """Runs jobs in the same passes and yields (job, piece) as they come. An error of one job becomes its `failure` and
    ends it; the others continue. An error of a whole pass is raised. closing: whether to end without computing."""
    cancel = canceller(options.cancel)
    rows = min(options.chunk, engine.max_rows)
    for job in jobs:
        if options.echo and job.prompt_text:
            yield job, Piece(job.prompt_text, [], [])
        if job.finish:
            yield job, job.end("")
    active = [job for job in jobs if not job.finish and job.failure is None]
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
        stopped = closing() or (cancel is not None and cancel())
        failed: dict[int, Exception] = {}
        if not stopped:
            try:
                results = engine.forward(parts, samplers=samplers, cancel=cancel, failed=failed)
            except _engine.Cancelled:
                stopped = True
        if stopped:
            for job in active:
                job.finish = "cancelled"
                yield job, job.end("")
            return
        for i, error in failed.items():
            active[i].failure = error
        for job, result in zip(asked, results, strict=True):
            if result is None:  # job.failure says why
                continue
            try:
                piece = job.take(*result)
            except (ContextFullError, NumericsError) as e:
                job.failure = e
            else:
                yield job, piece
        # jobs that had no room in this pass come first in the next
        waiting = active[len(parts) :] + active[: len(parts)]
        active = [job for job in waiting if not job.finish and job.failure is None]


def logits(
    engine: _engine.Engine, sequences: list[tuple[_engine.Sequence, Sequence[int]]], chunk: int
) -> list[npt.NDArray[np.float32]]:
    """Logits of every token of several sequences, which share forward passes -> [(n, vocab) float32]."""
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
        failed: dict[int, Exception] = {}
        engine.forward(parts, out=out, failed=failed)
        for part, error in failed.items():
            raise NumericsError(f"ids[{places[part][0]}]: {error}") if len(sequences) > 1 else error
        row = 0
        for i, n in places:
            if not alone:
                outs[i][at[i] : at[i] + n] = out[row : row + n]
            at[i] += n
            row += n
    return outs

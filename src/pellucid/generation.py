"""The generation loop: runs forward passes over prompts and samples one token at a time.

Several prompts share the same passes. What a pass computes for one of them never depends on the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, sampling
from pellucid.core import Core, Tables
from pellucid.errors import BatchError, ContextFullError, NumericsError, TokenizerError, out_of_memory
from pellucid.results import FinishReason, Piece, Timings, TokenLogprob, collect
from pellucid.sampling import SamplingOptions
from pellucid.text.stream import TextStream

if TYPE_CHECKING:
    from pellucid.text.breakers import Breakers
    from pellucid.text.chat import ChatPrompt

__all__ = [
    "Job",
    "canceller",
    "generate",
    "logits",
    "parse_options",
    "prefill",
    "run",
    "run_all",
    "start",
    "start_chat",
]

CHAT_OPTIONS = frozenset({"tools", "template", "documents", "variables", "add_generation_prompt"})


def parse_options(options: dict[str, Any]) -> SamplingOptions:
    """Checks a call's options. Raises ValueError or TypeError naming the option."""
    return SamplingOptions.parse(options)


def canceller(cancel: Any) -> Callable[[], bool] | None:
    """`cancel` as a callable: from a threading.Event or a callable; None stays None. Raises TypeError for anything
    else."""
    cancel = sampling.check_cancel("cancel", cancel)
    asked: Callable[[], bool] | None = getattr(cancel, "is_set", cancel)
    return asked


def check_chunk(chunk: Any) -> int:
    """The rows of a forward pass. They change no result, only how often `cancel` is asked and other callers run."""
    return sampling.check_chunk("chunk", chunk)


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
    new: list[int] = field(default_factory=list)
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
        self.cache, self.max_tokens, self.room = o.cache, o.max_tokens, self.core.context_length
        if o.stop and tokenizer is None:
            raise TokenizerError("stop strings need a tokenizer, and the model file has none: use stop_ids")
        self.text = None if tokenizer is None else TextStream(self.core.piece, o.stop)
        self.breakers: Breakers | None = None
        if o.dry() and o.dry_breakers and tokenizer is not None:
            from pellucid.text.breakers import Breakers

            self.breakers = Breakers(self.core.piece, o.dry_breakers)
        if o.max_tokens == 0:
            self.finish = "length"

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens that the new ones continue."""
        return self.ids[: len(self.ids) - len(self.new)]

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
        if token in self.eog or token in self.stop_ids:
            self.finish = "eos" if token in self.eog else "stop"
            return self.end("")
        self.ids.append(token)
        self.new.append(token)
        text = self.text.push(token) if self.text else ""
        logprobs = []
        if logprob is not None:
            spell = self.core.spell
            logprobs.append(TokenLogprob(token, spell(token), logprob, [(i, spell(i), p) for i, p in top if i >= 0]))
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
        # The last token needs no room in the context until another one follows it.
        if self.options.on_full == "error":
            raise ContextFullError(
                "the context filled while generating", needed=len(self.ids), available=self.core.context_length
            )
        self.finish = "context"

    def end(self, text: str, ids: list[int] | None = None, logprobs: list[TokenLogprob] | None = None) -> Piece:
        """The last piece, with all text that was held back."""
        if self.text:
            text += self.text.flush()
        return Piece(text, ids or [], logprobs or [], self.finish, self.timings(), self.prompt_tokens)

    def timings(self) -> Timings:
        now = time.perf_counter()
        first = self.first or now
        return Timings(
            load=self.core.load_seconds,
            prefill=first - self.start,
            decode=now - first if self.first else 0.0,
            first_token=first - self.start,
            prefill_tokens=self.prompt_tokens,
            decode_tokens=max(len(self.new) - 1, 0),
        )


@out_of_memory("to generate")
def start(core: Core, prompt: Any, options: SamplingOptions, name: str = "prompt") -> Job:
    """A job for a prompt (text or ids), in a new sequence. name: of the argument, for errors."""
    ids = core.prompt(prompt, name)
    echo = ""
    if options.echo:
        echo = prompt if isinstance(prompt, str) else core.detokenize(ids)
    return Job(core, ids, options, _engine.Sequence(core.open()), len(ids), echo)


def start_chat(core: Core, messages: Tables, options: dict[str, Any]) -> tuple[ChatPrompt, SamplingOptions]:
    """(a conversation's prompt, checked sampling options). options: of ``Model.chat_prompt`` and ``Model.generate``;
    the former are removed from it. Raises what both raise."""
    own = {name: options.pop(name) for name in CHAT_OPTIONS & options.keys()}
    parsed = parse_options(options)
    return core.conversation(messages, **own), parsed


@out_of_memory("to generate")
def generate(core: Core, prompt: Any, options: dict[str, Any]) -> Any:
    """``Model.generate``: a Completion; for a list of prompts, a list of completions."""
    parsed = parse_options(options)
    several = arguments.several(prompt)
    prompts = list(prompt) if several else [prompt]
    engine = core.open()
    names = [f"prompt[{i}]" for i in range(len(prompts))] if several else ["prompt"]
    own = options.get("seed") is None  # then each prompt gets its own random seed
    draws = [parsed, *(replace(parsed, seed=None) if own else parsed for _ in prompts[1:])]
    jobs = [start(core, p, o, name) for p, name, o in zip(prompts, names, draws, strict=True)]
    pieces: dict[int, list[Piece]] = {id(job): [] for job in jobs}
    for job, piece in run_all(engine, jobs, parsed):
        pieces[id(job)].append(piece)
    done = [None if job.failure else collect(pieces[id(job)], job.prompt_ids) for job in jobs]
    failures = {i: job.failure for i, job in enumerate(jobs) if job.failure}
    if failures and several:
        first = min(failures)
        text = f"{names[first]}: {failures[first]} ({len(failures)} of {len(jobs)} prompts failed)"
        raise BatchError(text, errors=failures, completions=done)
    for failure in failures.values():
        raise failure
    return done if several else done[0]


def run(engine: _engine.Engine, jobs: list[Job], options: SamplingOptions) -> Iterator[Piece]:
    """Runs jobs to their end, yields their pieces, and raises the error of a job that failed."""
    for _, piece in run_all(engine, jobs, options):
        yield piece
    for job in jobs:
        if job.failure is not None:
            raise job.failure


def run_all(engine: _engine.Engine, jobs: list[Job], options: SamplingOptions) -> Iterator[tuple[Job, Piece]]:
    """Runs jobs in the same passes and yields (job, piece) as they come. An error of one job becomes its `failure` and
    ends it; the others continue. An error of a whole pass is raised."""
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
            except ContextFullError as e:
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

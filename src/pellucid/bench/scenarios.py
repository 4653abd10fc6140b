"""The phases that are timed, each with the memory bandwidth measured right before and after it.

Prompts are random token ids, new ones each time, so that no cache holds them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.bench import moments, operations, work
from pellucid.bench.kernels import Kernels
from pellucid.bench.limits import Limits, Prober
from pellucid.bench.work import Cost, Part, Pass, Product, Work
from pellucid.context import Context
from pellucid.errors import PellucidError, one_line
from pellucid.model import Model
from pellucid.results import Completion

__all__ = ["Bench", "Once", "Op", "Phase", "Run", "phases"]

STEPS = 16  # tokens of a decode phase: few, since the limits of a shared machine change quickly
SEQUENCES = (4, 16)
DEMO_PROMPT, DEMO_TOKENS = 5, 100
COLD_PROMPT = "The capital of France is"

_COLD = """
import json, sys
from pellucid import Model
source, prompt, options = json.loads(sys.argv[1])
with Model.load(source, **options) as model:
    next(iter(model.stream(prompt, max_tokens=1, temperature=0)))
    print("token", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Phase:
    """Something to time. run: runs it once -> seconds. passes: its forward passes; None: not compared with a limit.
    tokens: number of tokens, for tokens/s."""

    name: str
    about: str
    tokens: int
    passes: list[Pass] | None
    run: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Once:
    """One run of a phase. around: the better of the reads measured before and after it. read: GB/s right beside it;
    None if the bandwidth changed in between."""

    seconds: float
    around: Limits
    read: float | None


@dataclass(slots=True)
class Run:
    """The measurements of a phase, and the limits that they are compared with: the reads at each time, and `best`, the
    highest peaks of the session."""

    phase: Phase
    work: Work | None
    huge: bool
    once: list[Once] = field(default_factory=list)
    best: Limits | None = None

    @property
    def seconds(self) -> list[float]:
        return [one.seconds for one in self.once]

    def least(self, one: Once, read: float | None = None) -> tuple[float, float]:
        """The least seconds of reading and of computing; read: GB/s; default: those around the run."""
        assert self.work is not None and self.best is not None
        reading, computing = self.work.seconds(one.around.computing(self.best), self.huge)
        return (reading if read is None else self.work.bytes / (read * 1e9)), computing


@dataclass(frozen=True, slots=True)
class Op:
    """All operations of one name in a pass: their number, total nanoseconds and least work. read: GB/s beside the pass;
    kernel_ns: of their products with only the kernels; None if they have no products."""

    phase: str
    kind: str
    name: str
    count: int
    ns: int
    work: Work
    read: float
    kernel_ns: float | None


@dataclass(frozen=True, slots=True)
class TimedPass:
    """The fastest pass of a kind: nanoseconds of each operation, and GB/s beside it."""

    name: str
    parts: Pass
    ns: npt.NDArray[np.int64]
    read: float


class Bench:
    """Times a loaded model. seed: of the prompts."""

    def __init__(self, model: Model, seed: int = 0) -> None:
        self.model = model
        self.engine = model.core.decoder()
        self.info = model.info()
        self._rng = np.random.default_rng(seed)
        self._deep: dict[int, Context] = {}
        groups = self.engine.plan.caches
        numbers = sum(g.n_layers * g.n_kv * (g.dk + g.dv) for g in groups)
        self.cost = Cost(
            kv=self.info.kv,
            kv_bytes=self.info.cache_bytes_per_token / max(numbers, 1),
            least_terms=2 if self.info.precision == "high" else 1,
        )

    def ids(self, n: int) -> list[int]:
        """n random tokens."""
        ids: list[int] = self._rng.integers(0, self.info.vocab, n).tolist()
        return ids

    # ---- each runs its phase once and returns seconds ------------------------------------------------------------

    def prefill(self, n: int) -> float:
        """Processes a prompt of n tokens, up to the first new token."""
        return self._generate(self.ids(n), 1).timings.prefill

    def decode(self, depth: int, n: int) -> float:
        """Decodes n tokens, one after another; the first is computed at slot `depth` + 1."""
        if depth not in self._deep:
            context = self.model.context()
            context.append(self.ids(depth))
            self._deep[depth] = context
        done = (
            self._deep[depth]
            .fork()
            .generate(self.ids(1), max_tokens=n + 1, temperature=0, ignore_eos=True, speculate=False)
        )
        return done.timings.decode

    def together(self, sequences: int, n: int) -> float:
        """Decodes n tokens of each of several sequences, in the same passes."""
        prompts = [self.ids(1) for _ in range(sequences)]
        done = self.model.generate(prompts, max_tokens=n + 1, temperature=0, ignore_eos=True, speculate=False)
        return max(one.timings.decode for one in done)

    def demonstration(self, cache: bool) -> float:
        """Processes a short prompt and decodes 100 tokens; without the cache, everything is recomputed for each of
        them."""
        t = self._generate(self.ids(DEMO_PROMPT), DEMO_TOKENS, cache=cache).timings
        return t.prefill + t.decode

    def cold_start(self) -> float:
        """Runs a new process, from its start to the first token of a short prompt."""
        info = self.info
        prompt: Any = COLD_PROMPT if self.model.tokenizer is not None else self.ids(DEMO_PROMPT)
        options = {"threads": info.threads, "isa": info.isa, "kv": info.kv, "precision": info.precision}
        start = time.perf_counter()
        # -P: no module of the current folder is imported. In its own process group, so that Ctrl-C interrupts only this
        # process, which then ends the other one.
        command = [sys.executable, "-P", "-c", _COLD, json.dumps([info.path, prompt, options])]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                seconds = time.perf_counter() - start
                process.wait()
            except BaseException:
                process.kill()
                raise
        if line != b"token\n":
            raise PellucidError(
                f"cold start: a new process could not generate from {one_line(info.path, 80)} "
                f"(exit code {process.returncode})"
            )
        return seconds

    def _generate(self, ids: list[int], n: int, **options: Any) -> Completion:
        done: Completion = self.model.generate(
            ids, max_tokens=n, temperature=0, ignore_eos=True, speculate=False, **options
        )
        return done

    # ---- all phases ----------------------------------------------------------------------------------------------

    def measure(
        self, chosen: Sequence[Phase], prober: Prober, repeat: int, progress: Callable[[str], None]
    ) -> tuple[list[Run], list[Limits]]:
        """Runs `repeat` rounds over all phases -> (runs, limits). Limits are measured before and after each phase, and
        the bandwidth once more right beside it. A phase that fails, for example because its keys and values do not fit,
        is left out; if an earlier run succeeded, only that run is. Raises the error of the last one if all do."""
        huge = self.info.huge_pages
        runs = [Run(p, None if p.passes is None else self.count(p.passes), huge) for p in chosen]
        limits = [prober.measure()]
        for round in range(repeat):
            for run in list(runs):
                progress(f"{round + 1}/{repeat} {run.phase.name}")
                before = prober.read()
                try:
                    seconds = self._run(run.phase)
                except PellucidError as error:
                    if run.once:
                        progress(f"{run.phase.name} is left out of round {round + 1}: {error}")
                        continue
                    runs.remove(run)
                    if not runs:
                        raise
                    progress(f"{run.phase.name} is left out: {error}")
                    continue
                after = prober.read()
                limits.append(prober.measure())
                around = Limits.better(*limits[-2:])
                run.once.append(Once(seconds, around, moments.steady(before, after)))
        for run in runs:
            run.best = prober.best
        self._drop_contexts()
        return runs, limits

    def _run(self, phase: Phase) -> float:
        """Runs a phase; if it fails, once more without the contexts left by other runs."""
        try:
            return phase.run()
        except PellucidError:
            if not self._deep:
                raise
        self._drop_contexts()
        return phase.run()

    def _drop_contexts(self) -> None:
        for context in self._deep.values():
            context.close()
        self._deep.clear()

    def count(self, passes: Sequence[Pass]) -> Work:
        """The least work of passes of this model."""
        return work.count(self.engine.plan, passes, self.cost)

    def timed_passes(self, prober: Prober, progress: Callable[[str], None], repeat: int = 5) -> list[TimedPass]:
        """The fastest pass of each kind: a decode step, one of several sequences, and a full pass of prefill. One that
        fails, for example because its keys and values do not fit, is left out."""
        found = []
        for name, parts in self.passes():
            progress(f"operations: {name}")
            ids = [self.ids(part.n) for part in parts]
            try:
                runs = operations.passes(self.engine, ids, prober.read, repeat=repeat)
            except PellucidError as error:
                progress(f"operations: {name} is left out: {error}")
                continue
            found.append(TimedPass(name, parts, *min(runs, key=lambda run: run[0].sum())))
        return found

    def operations(self, timed: Sequence[TimedPass], kernels: Kernels, progress: Callable[[str], None]) -> list[Op]:
        """The operations of these passes, and their products with only the kernels."""
        plan, found = self.engine.plan, []
        for one in timed:
            progress(f"kernels alone: {one.name}")
            groups: dict[tuple[str, str], list[int]] = {}
            for i, op in enumerate(plan.ops):
                groups.setdefault((op.kind.name.lower(), op.name), []).append(i)
            alone = self._alone(kernels, one.parts)
            for (kind, op_name), numbers in groups.items():
                least = sum((work.count(plan, [one.parts], self.cost, i) for i in numbers), Work())
                ns = [alone[i] for i in numbers if i in alone]
                taken, kernel = int(one.ns[numbers].sum()), sum(ns) if ns else None
                found.append(Op(one.name, kind, op_name, len(numbers), taken, least, one.read, kernel))
        return found

    def passes(self) -> list[tuple[str, list[Part]]]:
        """The passes whose operations are timed, by name."""
        rows = min(self.engine.max_rows, self.model.context_length)
        together = [(f"{n} sequences", [Part(0, 1, 1)] * n) for n in SEQUENCES if n <= self.engine.max_rows]
        return [("decode", [Part(0, 1, 1)]), *together, ("prefill", [Part(0, rows, 1)])]

    def _alone(self, kernels: Kernels, parts: Pass) -> dict[int, float]:
        """Operation -> nanoseconds of its products with only the kernels."""
        found: dict[int, float] = {}
        known: dict[Product, float] = {}
        each = [
            (product, i)
            for i, op in enumerate(self.engine.plan.ops)
            for _, product in work.products(self.engine.plan, op, parts, self.cost)
        ]
        each.sort(key=lambda one: (one[0].format, one[0].k))  # so that equal weights are made only once
        for product, i in each:
            if product not in known:
                known[product] = kernels.fastest(product)
            found[i] = found.get(i, 0.0) + known[product]
        return found


def phases(bench: Bench) -> list[Phase]:
    """The phases that fit the model's context."""
    rows = bench.engine.max_rows
    found: list[tuple[int, Phase]] = []  # (tokens of context that the phase needs, phase)

    def add(need: int, *fields: Any) -> None:
        found.append((need, Phase(*fields)))

    for n in (512, 4096):
        passes: list[Pass] = work.prefill_passes(n, rows)
        add(n, f"prefill {n}", f"a prompt of {n} tokens, to the first new one", n, passes, partial(bench.prefill, n))
    for depth in (0, 4096):
        passes = work.decode_passes(depth + 1, STEPS)
        about = f"one token at a time after {depth}"
        add(depth + STEPS + 2, f"decode at {depth}", about, STEPS, passes, partial(bench.decode, depth, STEPS))
    for n in SEQUENCES:
        passes = work.decode_passes(1, STEPS, n)
        about = f"one token of each of {n} sequences at a time"
        add(STEPS + 2, f"{n} sequences", about, STEPS * n, passes, partial(bench.together, n, STEPS))
    need = DEMO_PROMPT + DEMO_TOKENS
    passes = [[Part(0, DEMO_PROMPT, 1)], *work.decode_passes(DEMO_PROMPT, DEMO_TOKENS - 1)]
    about = "a short prompt and 100 tokens"
    add(need, "100 tokens", about, DEMO_TOKENS, passes, partial(bench.demonstration, True))
    passes = [[Part(0, DEMO_PROMPT + i, 1)] for i in range(DEMO_TOKENS)]
    about = "the same, with everything recomputed for each token"
    add(need, "100 tokens, no cache", about, DEMO_TOKENS, passes, partial(bench.demonstration, False))
    add(DEMO_PROMPT + 1, "cold start", "a new process, to its first token", 1, None, bench.cold_start)
    return [phase for need, phase in found if need <= bench.model.context_length]

"""Drives a whole model from several threads at once, for the thread sanitizer: passes of one plan and of a view of it,
sequences that are forked, rewound and dropped, cancelled passes, samplers, partial passes, loads and closes; and the
scheduler with requests that come, end and are cancelled, a permanent driver and prefix caches. Every huge page counts
as slow, so that threads gather pages meanwhile.

Prints "fine" when every thread computed the same results as a single one.

    python -m tests.sanitizers.callers [ROUNDS]
"""

from __future__ import annotations

import functools
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pellucid import Model, _engine
from tests.engine import models

OPTIONS: dict[str, Any] = {
    "seed": 3,
    "max_tokens": 6,
    "temperature": 1.0,
    "repeat_penalty": 1.1,
    "logprobs": 2,
    "top_k": 20,
}


def main(rounds: int) -> None:
    _engine.Engine = functools.partial(_engine.Engine, slow_page_ns=1)  # type: ignore[assignment,misc]
    folder = Path(tempfile.mkdtemp())
    paths = [models.write(folder, "wide", "K"), models.write(folder, "gemma3")]
    loaded = [Model.load(path, threads=2, context=models.CONTEXT) for path in paths]
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 90, 150)]
    expected = [(m.generate(ids, **OPTIONS).ids, m.logits(ids[:70])) for m in loaded]
    shared = [m.context() for m in loaded]
    for context in shared:
        context.append(ids[:100])
    cached = [Model.load(path, threads=2, context=models.CONTEXT, prefix_cache=True, max_gap=0.0) for path in paths]
    cached[1].drive()
    asked = [[*ids[:100], i] for i in range(3)]
    answers = [[m.generate(prompt, **OPTIONS).ids for prompt in asked] for m in loaded]
    wrong: list[str] = []

    def check(ok: bool, what: str) -> None:
        if not ok:
            wrong.append(what)

    def generate(i: int) -> None:
        model, (tokens, logits) = loaded[i % 2], expected[i % 2]
        check(model.generate(ids, **OPTIONS).ids == tokens, "generate")
        check(np.array_equal(model.logits(ids[:70], chunk=9), logits), "logits")
        side = model.generate([ids, ids[:5], ids[:80]], **OPTIONS)
        check(side[0].ids == tokens, "side by side")

    def contexts(i: int) -> None:
        with lock[i % 2]:
            mine = shared[i % 2].fork()
        other = mine.fork()
        mine.rewind(70)
        mine.append(ids[70:])
        other.append(ids[100:])
        check(mine.generate(**OPTIONS).ids == other.generate(**OPTIONS).ids == expected[i % 2][0], "forks")

    def cancel(i: int) -> None:
        polls = iter(range(10**9))
        done = loaded[i % 2].generate(ids * 4, cancel=lambda: next(polls) >= i % 5, chunk=50, **OPTIONS)
        check(done.finish_reason in ("cancelled", "length"), "cancelled")

    def submit(i: int) -> None:
        model = cached[i % 2]
        running = [model.submit(prompt, key=str(i), **OPTIONS) for prompt in asked]
        model.submit(ids, n=2, **OPTIONS).cancel()
        model.submit(ids * 2, **OPTIONS)  # nobody reads it
        done: list[Any] = [request.result() for request in running]
        check([one.ids for one in done] == answers[i % 2], "submitted")
        check(np.array_equal(model.logits(ids[:70]), expected[i % 2][1]), "logits beside requests")
        if i % 3 == 0:
            model.clear_cache()

    def look(i: int) -> None:
        trace = loaded[i % 2].trace(ids[:20], ("hidden", "attention", "logits"))
        check(np.array_equal(trace.logits, expected[i % 2][1][:20]), "trace")
        with loaded[i % 2].edit() as edited:
            edited.scale_head(0, 0, 1.0)
            edited.generate(ids[:30], **OPTIONS)

    def reload(i: int) -> None:
        with Model.load(paths[i % 2], threads=1 + i % 3, context=models.CONTEXT, share=True) as model:
            check(model.generate(ids, **OPTIONS).ids == expected[i % 2][0], "a load")

    lock = [threading.Lock(), threading.Lock()]

    def work(fn: Callable[[int], None], seed: int) -> None:
        try:
            for i in range(rounds):
                fn(seed + i)
        except BaseException as e:
            wrong.append(f"{fn.__name__}: {e!r}")

    jobs = (generate, generate, contexts, contexts, cancel, look, reload, reload, submit, submit, submit)
    threads = [threading.Thread(target=work, args=(fn, i)) for i, fn in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in (*loaded, *cached):
        model.close()
    print("fine" if not wrong else f"wrong: {sorted(set(wrong))}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)

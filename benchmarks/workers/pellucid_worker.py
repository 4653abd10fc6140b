"""Pellucid, through its public interface; and the limits, measured by its own threads."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from protocol import Runtime, serve

import pellucid


class Pellucid(Runtime):
    def load(self, path: str, threads: int, context: int) -> dict[str, Any]:
        self.model = pellucid.Model.load(path, threads=threads, context=context)
        self.deep: dict[int, Any] = {}
        self.bench: Any = None
        info = self.model.info()
        return {"version": pellucid.__version__, "vocab": info.vocab, "isa": info.isa, "kv": info.kv}

    def prefill(self, ids: list[int]) -> float:
        return self.model.generate(ids, max_tokens=1, temperature=0, ignore_eos=True, speculate=False).timings.prefill

    def decode(self, depth: int, ids: list[int], n: int) -> float:
        if depth not in self.deep:
            self.deep[depth] = self.model.context()
            self.deep[depth].append(ids[:depth])
        done = (
            self.deep[depth]
            .fork()
            .generate(ids[depth:], max_tokens=n + 1, temperature=0, ignore_eos=True, speculate=False)
        )
        return done.timings.decode

    def together(self, prompts: list[list[int]], n: int) -> float:
        done = self.model.generate(prompts, max_tokens=n + 1, temperature=0, ignore_eos=True, speculate=False)
        return max(one.timings.decode for one in done)

    def serve(self, count: int, prompt: int, n: int) -> float:
        """Tokens per second of `count` prompts of random ids at once (one alone: streamed), n new tokens each."""
        prompts = np.random.default_rng().integers(0, self.model.info().vocab, (count, prompt)).tolist()
        options = {"max_tokens": n, "temperature": 0, "ignore_eos": True, "speculate": False}
        start = time.perf_counter()
        if count == 1:
            for _ in self.model.stream(prompts[0], **options):
                pass
        else:
            self.model.generate(prompts, **options)
        return count * n / (time.perf_counter() - start)

    def map(self, count: int, prompt: int, n: int) -> float:
        """As `serve`, by `Model.map`."""
        prompts = np.random.default_rng().integers(0, self.model.info().vocab, (count, prompt)).tolist()
        start = time.perf_counter()
        for _ in self.model.map(prompts, max_tokens=n, temperature=0, ignore_eos=True, speculate=False):
            pass
        return count * n / (time.perf_counter() - start)

    def logits(self, ids: list[int]) -> Any:
        return self.model.logits(ids)

    def limit(self, phase: str, tokens: int, depth: int) -> float:
        """The least seconds that a phase could take: the bandwidth of this moment, the best peaks so far."""
        from pellucid.bench import scenarios, work
        from pellucid.bench.limits import Prober

        if self.bench is None:
            self.bench = scenarios.Bench(self.model)
            self.prober = Prober(self.bench.info.isa, self.bench.info.threads)
        if phase == "prefill":
            passes = work.prefill_passes(tokens, self.bench.engine.max_rows)
        elif phase == "decode":
            passes = work.decode_passes(depth + 1, tokens)
        else:
            passes = work.decode_passes(1, tokens, depth)  # depth: sequences
        return max(self.bench.count(passes).seconds(self.prober.holding(), self.bench.info.huge_pages))


if __name__ == "__main__":
    serve(Pellucid())

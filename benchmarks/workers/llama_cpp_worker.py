"""llama.cpp through llama-cpp-python's binding of its C interface: no Python between a token and the next but argmax.

pip install --no-binary llama-cpp-python llama-cpp-python, with CMAKE_ARGS="-DGGML_NATIVE=ON".
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import llama_cpp as c
import numpy as np
from protocol import Runtime, serve

BATCH = 512


@c.llama_log_callback
def quiet(level: int, text: bytes, data: Any) -> None:
    pass


class LlamaCpp(Runtime):
    def load(self, path: str, threads: int, context: int) -> dict[str, Any]:
        c.llama_log_set(quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.threads = threads
        self.batch = c.llama_batch_init(BATCH, 0, 1)
        self.ctx = self.context(context, 1)
        self.depth = 0  # tokens at the start of the context that `decode` put there
        self.many: tuple[int, Any] | None = None
        return {"version": f"(llama-cpp-python {c.__version__})", "vocab": self.vocab}

    def context(self, size: int, sequences: int) -> Any:
        p = c.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = size, BATCH, BATCH, sequences
        p.n_threads = p.n_threads_batch = self.threads
        ctx = c.llama_init_from_model(self.model, p)
        if not ctx:
            raise RuntimeError("llama.cpp made no context")
        return ctx

    def run(self, ctx: Any, rows: list[tuple[int, int, int, bool]]) -> None:
        """One batch of (token, position, sequence, wants logits)."""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (token, position, sequence, wants) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, wants
            b.seq_id[i][0] = sequence
        code = c.llama_decode(ctx, b)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")

    def row(self, ctx: Any, i: int) -> Any:
        return np.ctypeslib.as_array(c.llama_get_logits_ith(ctx, i), (self.vocab,))

    def feed(self, ids: list[int], start: int, *, last: bool = True) -> None:
        for at in range(0, len(ids), BATCH):
            part = ids[at : at + BATCH]
            end = at + len(part)
            rows = [(t, start + at + i, 0, last and at + i + 1 == len(ids)) for i, t in enumerate(part)]
            self.run(self.ctx, rows)
            if end == len(ids) and last:
                self.row(self.ctx, -1)  # waits

    def prefill(self, ids: list[int]) -> float:
        c.llama_memory_clear(c.llama_get_memory(self.ctx), True)
        self.depth = 0
        start = time.perf_counter()
        self.feed(ids, 0)
        int(self.row(self.ctx, -1).argmax())
        return time.perf_counter() - start

    def decode(self, depth: int, ids: list[int], n: int) -> float:
        memory = c.llama_get_memory(self.ctx)
        # A cache with a sliding window cannot be cut back: then everything is computed again.
        if not (0 < depth == self.depth and c.llama_memory_seq_rm(memory, 0, depth, -1)):
            c.llama_memory_clear(memory, True)
            self.feed(ids[:depth], 0)
            self.depth = depth
        self.feed(ids[depth:], depth)
        token, position = int(self.row(self.ctx, -1).argmax()), len(ids)
        start = time.perf_counter()
        for i in range(n):
            self.run(self.ctx, [(token, position + i, 0, True)])
            token = int(self.row(self.ctx, 0).argmax())
        return time.perf_counter() - start

    def together(self, prompts: list[list[int]], n: int) -> float:
        count = len(prompts)
        if self.many is None or self.many[0] != count:
            if self.many:
                c.llama_free(self.many[1])
            self.many = (count, self.context(count * 256, count))
        ctx = self.many[1]
        c.llama_memory_clear(c.llama_get_memory(ctx), True)
        self.run(ctx, [(ids[0], 0, s, True) for s, ids in enumerate(prompts)])
        tokens = [int(self.row(ctx, s).argmax()) for s in range(count)]
        start = time.perf_counter()
        for i in range(n):
            self.run(ctx, [(t, 1 + i, s, True) for s, t in enumerate(tokens)])
            tokens = [int(self.row(ctx, s).argmax()) for s in range(count)]
        return time.perf_counter() - start

    def logits(self, ids: list[int]) -> Any:
        c.llama_memory_clear(c.llama_get_memory(self.ctx), True)
        self.depth = 0
        out = np.empty((len(ids), self.vocab), np.float32)
        for at in range(0, len(ids), BATCH):
            part = ids[at : at + BATCH]
            self.run(self.ctx, [(t, at + i, 0, True) for i, t in enumerate(part)])
            for i in range(len(part)):
                out[at + i] = self.row(self.ctx, i)
        return out


if __name__ == "__main__":
    serve(LlamaCpp())

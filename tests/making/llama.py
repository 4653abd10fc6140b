"""Runs llama.cpp (llama-cpp-python) on a file, in a process of its own: where it cannot run a model, it aborts.

python -m tests.making.llama MODEL IDS.npy OUT.npy: logits of the ids; with --embed: the pooled embedding of each row of
ids; with --score: their scores.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


def run(path: Path, ids: Any, *options: str) -> Any:
    """What llama.cpp gives for the ids. Raises AssertionError with its last words where it fails."""
    given, out = path.with_suffix(".ids.npy"), path.with_suffix(".out.npy")
    np.save(given, np.asarray(ids, np.int32))
    command = [sys.executable, "-m", "tests.making.llama", str(path), str(given), str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)


def main(path: str, given: str, out: str, *options: str) -> None:
    llama_cpp: Any = importlib.import_module("llama_cpp")

    ids = np.load(given)
    texts = ids if ids.ndim == 2 else ids[None]
    more: dict[str, Any] = {"logits_all": True}
    if options:
        more = {"embedding": True, "pooling_type": -1}
    # Its default is to round keys and values to float16, and flash attention rounds more.
    model = llama_cpp.Llama(path, n_ctx=512, n_batch=512, n_ubatch=512, n_threads=1, verbose=True, type_k=0, type_v=0,
                            flash_attn=False, **more)  # fmt: skip
    if not options:
        model.eval([int(i) for i in ids])
        np.save(out, np.array(model.scores[: len(ids)], np.float32))
        return
    found = []
    for row in texts:
        batch = llama_cpp.llama_batch_init(len(row), 0, 1)
        batch.n_tokens = len(row)
        for i, one in enumerate(row):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(one), i, 1, 1
            batch.seq_id[i][0] = 0
        context = model._ctx.ctx
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        assert llama_cpp.llama_decode(context, batch) == 0
        values = llama_cpp.llama_get_embeddings_seq(context, 0)
        n = 1 if "--score" in options else llama_cpp.llama_model_n_embd(model._model.model)
        found.append([values[i] for i in range(n)])
        llama_cpp.llama_batch_free(batch)
    np.save(out, np.array(found, np.float32))


if __name__ == "__main__":
    main(*sys.argv[1:])

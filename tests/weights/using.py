"""Uses a model file as a user would, within bounds of time and memory."""

from __future__ import annotations

import gc
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError, PellucidError

ROOM = 512 << 20  # bytes of address space beyond what is taken: the engine's thread alone reserves some 150 MB
IDS = [104, 101, 108, 257, 3]


@contextmanager
def bounded(seconds: float = 1.0) -> Iterator[None]:
    """Fails where computing takes more than a second or more memory than ROOM, or nothing happens for long."""

    def late(*_: object) -> None:
        raise AssertionError("it hangs")

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, limits[1]))
    signal.alarm(60)
    gc.freeze()  # a search for cycles in all that earlier tests left would count
    start = time.process_time()  # a busy machine does not make it longer
    try:
        yield
        assert time.process_time() - start < seconds
    finally:
        gc.unfreeze()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def use(path: Path) -> None:
    """Uses a model as a user would; raises the errors that a user would see."""
    with Model.load(path, threads=1) as model:
        if model.tokenizer is not None:
            assert model.detokenize(model.tokenize("hello \u00e9 he\0llo", add_special=False))
            model.tokenize("hello<|end|>", parse_special=True)
        ids = [i % model.info().vocab for i in IDS]
        logits = model.logits(ids)
        assert np.isfinite(logits).all() and np.array_equal(model.logits(ids, chunk=2), logits)
        done = model.generate(ids, max_tokens=3, seed=1)
        assert all(0 <= i < logits.shape[1] for i in done.ids)
        model.info().to_dict()
        str(model.plan())


def refused(path: Path, error: type[PellucidError] = ModelFileError) -> Any:
    with bounded(), pytest.raises(error) as caught:
        use(path)
    message = str(caught.value)
    assert type(caught.value) is error and "\n" not in message and len(message) < 1000, message
    return caught.value

"""An engine that "generates" given tokens: all else of the way from a request to its answer is real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from pellucid import Model
from pellucid._engine import Known
from pellucid.guide import Guide
from pellucid.schedule.run import of

__all__ = ["replaying", "script"]


class Replayer:
    """Passes of an engine, whose draws are replaced. scripts: by the length of the prompt, what is drawn after it; when
    that is at an end, the model draws."""

    def __init__(self, engine: Any, scripts: dict[int, Sequence[int]]) -> None:
        self._engine = engine
        self._scripts = scripts
        # By sequence, which is kept so that its id is its own: the length of its prompt.
        self._known: dict[int, tuple[Any, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward(self, parts: Any, *, samplers: Any = None, found: Any = None, **options: Any) -> Any:
        if samplers is None or found is None:
            return self._engine.forward(parts, **options)
        before = len(found)
        result = self._engine.forward(parts, samplers=samplers, found=found, **options)
        rows = [(one, one.length - len(ids) + row) for one, ids, first in parts for row in range(first, len(ids))]
        for i, (sequence, row) in enumerate(rows, before):
            _, prompt = self._known.setdefault(id(sequence), (sequence, sequence.length))
            script, at = self._scripts[prompt], row + 1 - prompt
            if found[i] is not None and at < len(script) and not isinstance(samplers[i - before], Known):
                found[i] = (script[at], *found[i][1:])
        return result


def script(model: Model, text: str) -> list[int]:
    """The tokens of an answer, with the one that ends it."""
    tokenizer = model.tokenizer
    assert tokenizer is not None and tokenizer.eos is not None
    return [*tokenizer.encode(text, add_special=False), tokenizer.eos]


@contextmanager
def replaying(model: Model, scripts: dict[int, Sequence[int]], *, bound: bool = False) -> Iterator[None]:
    """Within it, a prompt of so many tokens is answered with these tokens. bound: calls are bound to schemas."""
    scheduler: Any = of(model.core)
    opens = scheduler._open
    replayer = Replayer(opens(), scripts)
    scheduler._open = lambda: replayer
    free: Any = nullcontext() if bound else patch.object(Guide, "_after_triggers", lambda guide: {})
    try:
        with free:
            yield
    finally:
        scheduler._open = opens

"""An engine that counts its passes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pellucid import _engine


class Counting(_engine.Engine):
    """Counts the rows of each pass. Use: ``monkeypatch.setattr(_engine, "Engine", Counting)`` before a model is loaded,
    then ``Counting.reset()``."""

    passes: list[int] = []
    threads: set[int] = set()  # that passes were asked for in
    before: Callable[[], object] | None = None  # called before each pass

    def forward(self, parts: Any, **options: Any) -> Any:
        self.passes.append(sum(len(ids) for _, ids, _ in parts))
        self.threads.add(threading.get_ident())
        if Counting.before is not None:
            Counting.before()
        return super().forward(parts, **options)

    @classmethod
    def reset(cls) -> None:
        cls.passes.clear()
        cls.threads.clear()
        cls.before = None

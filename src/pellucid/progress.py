"""A progress bar for loading, drawn by tqdm: in a notebook by default, elsewhere if requested."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pellucid.errors import WrongType, shown
from pellucid.markup import in_notebook

if TYPE_CHECKING:
    from pellucid.weights.store import Progress

__all__ = ["reporting"]


@contextmanager
def reporting(progress: Any) -> Iterator[Progress | None]:
    """Yields a callable to report progress to, or None. progress: a callable; True: a bar, which raises ImportError
    without tqdm; None: a bar in a notebook, if tqdm is installed; False: nothing. Raises TypeError for anything else.
    """
    if progress is not None and not isinstance(progress, bool):
        if not callable(progress):
            expected = "expected True, False or a callable"
            raise WrongType("progress", f"={shown(progress)}: {expected}, not {type(progress).__name__}")
        yield progress
        return
    tqdm = _tqdm(needed=progress is True) if progress or (progress is None and in_notebook()) else None
    if tqdm is None:
        yield None
        return
    bars = _Bars(tqdm)
    try:
        yield bars.show
    finally:
        bars.close()


class _Bars:
    """Bars one after another, one for each kind of work."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None
        self._what = ""

    def show(self, done: int, total: int, what: str) -> None:
        if self._bar is None or what != self._what:
            self.close()
            self._what = what
            self._bar = self._tqdm(desc=what, total=total, unit="B", unit_scale=True)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _tqdm(needed: bool) -> Any:
    """tqdm's class for this kind of session, or None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning that a notebook has no ipywidgets: the bar is then text
            from tqdm.auto import tqdm
    except ImportError:
        if needed:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from None
        return None
    return tqdm

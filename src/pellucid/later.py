"""A value that another thread computes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pellucid.errors import again
from pellucid.native import native

__all__ = ["Later"]

T = TypeVar("T")


class Later(Generic[T]):
    """A value computed by another thread; an error in it is raised by :meth:`get`, each time."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T
        self._error: BaseException | None = None
        # Not a daemon thread: the native code of `tokenizers` panics if it still runs when the interpreter exits.
        self._thread: threading.Thread | None = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with native:
                self._value = self._make()
        except BaseException as e:
            self._error = e
        finally:
            del self._make

    def wait(self) -> None:
        if (thread := self._thread) is not None:
            thread.join()
            self._thread = None

    def made(self) -> T | None:
        """The value, if it is available."""
        return getattr(self, "_value", None)

    def get(self) -> T:
        self.wait()
        if self._error is not None:
            raise again(self._error) if isinstance(self._error, Exception) else self._error
        return self._value

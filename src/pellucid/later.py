"""A value that is made on the side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Later:
    """A value computed by another thread; an error in it is raised where the value is asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._value: Any = None
        self._error: BaseException | None = None
        # No daemon: the tokenizers' native code must not be running when the interpreter ends (it would panic).
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._make()
        except BaseException as e:
            self._error = e
        finally:
            del self._make

    def wait(self) -> None:
        self._thread.join()

    def get(self) -> Any:
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value

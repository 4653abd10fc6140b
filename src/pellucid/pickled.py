"""Pickles of models, as sent by pools of processes, Dask or joblib, and how they are loaded again.

Weights stay in their files. A process holds a model once, however many pickles of it are opened; adapters share models
through the same table.
"""

from __future__ import annotations

import os
import platform
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from pellucid.errors import ModelFileError, one_line

__all__ = ["Recipe", "identity", "kept", "loaded", "remember"]

_lock = threading.RLock()
_models: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


def identity(path: str) -> tuple[str, int, int, int]:
    """Equal for the same file as long as it is not replaced or written to. Raises OSError."""
    path = os.path.abspath(path)
    stat = os.stat(path)
    return path, stat.st_mtime_ns, stat.st_size, stat.st_ino


class Recipe:
    """How a model was loaded. path: absolute; arguments: those of ``Model.load`` that were given."""

    __slots__ = ("arguments", "host", "path")

    def __init__(self, path: str, arguments: Mapping[str, Any]) -> None:
        self.path = os.path.abspath(path)
        self.arguments = {name: _lasting(name, value) for name, value in arguments.items() if value is not None}
        self.host = platform.node()

    def key(self) -> Any:
        """Equal for the same file and arguments. Raises OSError."""
        given = tuple((name, type(value), value) for name, value in sorted(self.arguments.items()))
        return *identity(self.path), given


def _lasting(name: str, value: Any) -> Any:
    """An argument in a form that means the same anywhere: a draft's path becomes absolute, a name stays. NumPy numbers
    become Python's, which can be part of a key."""
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        return value.item()
    if name == "draft" and isinstance(value, (str, os.PathLike)) and os.path.exists(value):
        return os.path.abspath(value)
    return value


def remember(model: Any, recipe: Recipe) -> None:
    """Registers a model that this process has: pickles of it will open as this one."""
    try:
        key = recipe.key()
    except OSError:  # the file is gone already
        return
    with _lock:
        _models[key] = model


def loaded(load: Callable[..., Any], path: str, host: str, arguments: dict[str, Any]) -> Any:
    """The model of a pickle. Raises ModelFileError if its file is not on this machine."""
    recipe = Recipe(path, arguments)
    try:
        key = recipe.key()
    except OSError as error:
        raise ModelFileError(
            f"{os.strerror(error.errno or 0)}: the model was pickled on {one_line(host, 60)}; its file is read again "
            f"where the pickle is opened, which is {one_line(platform.node(), 60)}",
            file=path,
        ) from None
    return kept(key, lambda: load(path, **arguments))


def kept(key: Hashable, load: Callable[[], Any]) -> Any:
    """The model that this process holds for a key; else the one that `load` returns, which it then holds. Only one
    thread loads at a time."""
    with _lock:
        found = _models.get(key)
        if found is None or found.core.closed:
            found = _models[key] = load()
        return found


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

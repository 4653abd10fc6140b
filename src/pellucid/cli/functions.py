"""Functions of a Python file that a model may call: `pellucid chat --tools FILE`."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pellucid import functions
from pellucid.cli import output
from pellucid.errors import WrongType, WrongValue, one_line
from pellucid.results import ToolCall

__all__ = ["Functions"]


class Functions:
    """The public functions that a file defines. ask: whether to ask the user before running one.

    Raises UsageError if the file cannot be run, defines no function, or a function has no types.
    """

    def __init__(self, path: str, ask: bool) -> None:
        self.known = _load(path)
        self.ask = ask
        for name, function in self.known.items():
            try:
                functions.declare(function)
            except (WrongType, WrongValue) as error:
                raise output.UsageError(f"--tools: {one_line(path)}{str(error).removeprefix('tools')}") from None
            if not name.isascii():
                raise output.UsageError(f"--tools: {one_line(path)}: {name}: expected a name of ASCII letters")

    def answer(self, call: ToolCall) -> dict[str, Any]:
        """The message that answers a call: what the function returned, or that the user did not allow it."""
        allowed = call.name not in self.known or not self.ask or self._allowed(call)
        if not self.ask:
            output.note(f"[{_shown(call)}]")
        text = functions.run(self.known, call.name, call.arguments) if allowed else "Error: the user did not allow it"
        return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}

    def _allowed(self, call: ToolCall) -> bool:
        while True:
            output.end_line()
            sys.stderr.write(f"run {_shown(call)}? [y]es, [n]o, [a]lways ")
            sys.stderr.flush()
            line = output.typed_line()
            if not line:  # Ctrl-D
                output.note("")
                return False
            said = line.strip().lower()
            if said in ("a", "always"):
                self.ask = False
            if said in ("y", "yes", "n", "no", "a", "always"):
                return said[0] != "n"


def _shown(call: ToolCall) -> str:
    return output.visible(one_line(f"{call.name}({call.arguments})", 2000))


def _load(path: str) -> dict[str, Callable[..., Any]]:
    name = "pellucid_tools"
    if not os.path.isfile(path):
        raise output.UsageError(f"--tools: {one_line(path)}: no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise output.UsageError(f"--tools: {one_line(path)}: expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up a module's types here
    folder = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise output.UsageError(f"--tools: {one_line(path)}: {type(error).__name__}: {one_line(str(error))}") from None
    finally:
        with suppress(ValueError):  # the file changed it
            sys.path.remove(folder)
    found: dict[str, Callable[..., Any]] = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == name and not key.startswith("_") and key == value.__name__
    }
    if not found:
        raise output.UsageError(f"--tools: {one_line(path)}: defines no function")
    return found

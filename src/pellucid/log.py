"""The logger "pellucid": how models load, what takes a slower path, and, at DEBUG, the speed of each text. It never
logs users' texts.

It is silent unless the program configures logging.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["debug", "info", "is_on", "warn_once"]

_warned: set[str] = set()
_known: logging.Logger | None = None


def is_on() -> bool:
    """Whether any handler may be listening."""
    return _logger() is not None


def debug(message: str, *values: object) -> None:
    logger = _logger()
    if logger is not None:
        logger.debug(message, *values)


def info(message: str, *values: object) -> None:
    logger = _logger()
    if logger is not None:
        logger.info(message, *values)


def warn_once(message: str, *values: object) -> None:
    """A warning; the same one is logged only once in a process."""
    logger = _logger()
    if logger is not None and (text := message % values if values else message) not in _warned:
        _warned.add(text)
        logger.warning("%s", text)


def _logger() -> logging.Logger | None:
    """The logger; None if the program has not imported logging, which takes milliseconds: then nothing listens."""
    global _known
    if "logging" not in sys.modules:
        return None
    import logging

    logger = _known
    if logger is None:  # obtained once: getting it takes a lock, which a signal handler may leave locked
        logger = _known = logging.getLogger("pellucid")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())  # without any handler, warnings would go to stderr
    return logger

"""A field that is refused."""

from __future__ import annotations

from pellucid.errors import WrongValue

__all__ = ["Refused", "refused"]


class Refused(WrongValue):
    """A field that would change the answer, and cannot be kept. ``code``: OpenAI's word for why, or None."""

    code: str | None = None


def refused(field: str, found: str, code: str | None = None) -> Refused:
    """found: follows the field's name, as in "=3: expected at most 2"."""
    error = Refused(field, found)
    error.code = code
    return error

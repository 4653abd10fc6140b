"""Ids of calls."""

from __future__ import annotations

import hashlib
import re

__all__ = ["short_id", "spell"]

_SHORT = re.compile(r"[A-Za-z0-9]{9}")
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def short_id(id: object) -> str:
    """An id of nine letters and digits for any id; the same one if it already has that form."""
    if isinstance(id, str) and _SHORT.fullmatch(id):
        return id
    return spell(hashlib.blake2b(str(id).encode("utf-8", "replace"), digest_size=8).digest(), 9)


def spell(digest: bytes, n: int) -> str:
    """n letters and digits derived from bytes."""
    number, text = int.from_bytes(digest, "little"), ""
    for _ in range(n):
        number, digit = divmod(number, len(_LETTERS))
        text += _LETTERS[digit]
    return text

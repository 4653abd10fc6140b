"""Arrays that touch unmapped pages, so that a kernel that reads or writes beyond them crashes."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_PROT_NONE = 0


def _room(n_bytes: int) -> tuple[np.ndarray[Any, Any], int]:
    """Whole pages for n_bytes between two unmapped pages; (all bytes, bytes of the accessible middle)."""
    middle = max(1, -(-n_bytes // PAGE)) * PAGE
    area = mmap.mmap(-1, middle + 2 * PAGE)
    whole = np.frombuffer(area, np.uint8)  # keeps the mapping alive
    for start in (0, PAGE + middle):
        if _libc.mprotect(whole.ctypes.data + start, PAGE, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    return whole, middle


def at_end(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of `a` whose last byte is the last before an unmapped page."""
    whole, middle = _room(a.nbytes)
    copy = whole[PAGE + middle - a.nbytes : PAGE + middle].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def at_start(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of `a` whose first byte is the first after an unmapped page."""
    whole, _ = _room(a.nbytes)
    copy = whole[PAGE : PAGE + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy

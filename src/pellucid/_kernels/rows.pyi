from collections.abc import Sequence
from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]
ACTIVATIONS: tuple[str, ...]

def quantize(
    isa: str, x: _Array, terms: int = 1, out: tuple[_Array, _Array, _Array] | None = None, repeat: int = 1
) -> tuple[_Array, _Array, _Array]: ...
def to_bf16(isa: str, x: _Array, out: _Array | None = None, repeat: int = 1) -> _Array: ...
def rms_norm(
    isa: str, x: _Array, w: _Array | None, eps: float, out: _Array | None = None, repeat: int = 1
) -> _Array: ...
def layer_norm(
    isa: str, x: _Array, w: _Array | None, b: _Array | None, eps: float, out: _Array | None = None, repeat: int = 1
) -> _Array: ...
def add(isa: str, x: _Array, y: _Array, out: _Array | None = None, repeat: int = 1) -> _Array: ...
def scale(isa: str, x: _Array, a: float, out: _Array | None = None, repeat: int = 1) -> _Array: ...
def glu(
    isa: str,
    act: str,
    g: _Array,
    u: _Array | None,
    out: _Array | None = None,
    p: _Array | None = None,
    repeat: int = 1,
) -> _Array: ...
def clip(isa: str, x: _Array, least: float, most: float, out: _Array | None = None, repeat: int = 1) -> _Array: ...
def rope(isa: str, x: _Array, cos: _Array, sin: _Array, halves: bool, repeat: int = 1) -> None: ...
def softcap(isa: str, x: _Array, cap: float, out: _Array | None = None, repeat: int = 1) -> _Array: ...

KINDS: tuple[str, ...]
GROUPS: int

def from_f16(isa: str, x: _Array, out: _Array | None = None) -> _Array | None: ...
def from_bf16(isa: str, x: _Array, out: _Array | None = None) -> _Array: ...
def fit(
    isa: str,
    x: _Array,
    kind: str,
    lo: int,
    hi: int,
    spread: Sequence[float],
    repeats: int = 1,
    out: _Array | None = None,
    table: Sequence[float] | None = None,
    centred: bool = False,
) -> tuple[_Array, _Array, bool]: ...
def fit_whole(isa: str, v: _Array, largest: int, lo: int, hi: int) -> tuple[_Array, _Array, bool]: ...
def fit_codes(
    isa: str,
    x: _Array,
    lo: int,
    hi: int,
    d: _Array,
    m: _Array,
    out: _Array | None = None,
    table: Sequence[float] | None = None,
) -> _Array: ...

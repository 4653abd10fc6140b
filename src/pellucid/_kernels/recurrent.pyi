from collections.abc import Sequence
from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]
COLUMNS: int
MOST_TAPS: int

def conv(
    isa: str,
    x: Sequence[_Array],
    by: Sequence[_Array | None],
    w: _Array,
    bias: _Array | None,
    out: _Array | None = None,
) -> _Array: ...
def scan(
    isa: str,
    q: _Array,
    k: _Array,
    v: _Array,
    gates: _Array,
    skip: float,
    delta: bool,
    state: _Array,
    out: _Array | None = None,
) -> tuple[_Array, bool]: ...

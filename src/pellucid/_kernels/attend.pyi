from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]
KV: tuple[str, ...]
PAGE: int
TOP_NONE: np.float32

def page_bytes(isa: str, kv: str, dk: int, dv: int) -> tuple[int, int]: ...
def scratch_bytes(isa: str, kv: str) -> int: ...
def kv_append(isa: str, kv: str, k: _Array, v: _Array, slot: int, kpage: _Array, vpage: _Array) -> None: ...
def attend(
    isa: str,
    kv: str,
    q: _Array,
    k: _Array,
    v: _Array,
    lo: _Array,
    hi: _Array,
    scale: float,
    top: _Array,
    sum: _Array,
    acc: _Array,
    scratch: _Array | None = None,
    repeat: int = 1,
    cap: float = 0,
) -> None: ...
def attend_merge(
    isa: str, top_a: _Array, sum_a: _Array, acc_a: _Array, top_b: _Array, sum_b: _Array, acc_b: _Array
) -> None: ...

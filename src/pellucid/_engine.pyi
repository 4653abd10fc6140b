from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Sequence_
from enum import IntEnum
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from pellucid.plan import Plan

Parts = Iterable[tuple["Sequence", Sequence_[int] | npt.NDArray[np.int32], int]]
Cancel = Callable[[], bool] | None
Samplers = (
    list["Sampler"]
    | list[tuple["Sampler", int]]
    | list["Sampler | tuple[Sampler, int]"]
    | list["Sampler | tuple[Sampler, int, npt.NDArray[np.uint32]]"]
    | list["Sampler | Known"]
)
Scored = tuple[float, list[tuple[int, float]]]
Sampled = tuple[int, float | None, list[tuple[int, float]]]

KV_TYPES: tuple[str, ...]
STEPS: tuple[str, ...]

ACTIVATIONS: dict[str, int]
NORMS: dict[str, int]
ROUTES: dict[str, int]
MOST_TAPS: int
FLAGS: dict[str, int]

class Kind(IntEnum):
    EMBED = ...
    NORM = ...
    LINEAR = ...
    HEAD_NORM = ...
    ROPE_APPEND = ...
    ATTEND = ...
    LINEAR_ADD = ...
    GLU = ...
    HEAD = ...
    ROUTE = ...
    EXPERTS = ...
    EXPERTS_ADD = ...
    SCALE_ADD = ...
    GATE = ...
    CONV = ...
    SCAN = ...
    REORDER = ...
    REATTEND = ...
    @property
    def lookup(self) -> bool: ...
    @property
    def stores(self) -> bool: ...
    @property
    def attends(self) -> bool: ...
    @property
    def recurs(self) -> bool: ...
    @property
    def adds(self) -> bool: ...
    @property
    def routes(self) -> bool: ...
    @property
    def routed(self) -> bool: ...
    @property
    def wanted(self) -> bool: ...
    @property
    def least_terms(self) -> int: ...

class Cancelled(Exception): ...

def isas() -> list[tuple[str, bool, bool]]: ...
def find_isa(name: str | None) -> str: ...
def cpu_name() -> str: ...
def topology() -> tuple[int, str]: ...
def processors() -> float: ...
def format_number(name: str) -> int: ...
def format_wide(name: str) -> bool: ...
def format_names() -> list[str]: ...
def quantizers() -> dict[str, tuple[int, int, int]]: ...
def quantize(
    source: str,
    data: npt.NDArray[np.uint8],
    k: int,
    to: str,
    *,
    importance: npt.ArrayLike | None = None,
    quick: bool = False,
    threads: int = 1,
    progress: Callable[[float], object] | None = None,
) -> npt.NDArray[np.uint8]: ...
def make_fp8(
    codes: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    block: tuple[int, int],
    first: int,
    out: npt.NDArray[np.float32],
) -> None: ...
def make_integers(
    to: str,
    codes: npt.NDArray[np.uint8],
    bits: int,
    step_column: int,
    step_row: int,
    columns: int,
    rows_of_word: int,
    flip: int,
    order: npt.NDArray[np.int32] | None,
    group: npt.NDArray[np.int32],
    scale: npt.NDArray[np.float32],
    zero: npt.NDArray[np.int16],
    first: int,
    end: int,
) -> npt.NDArray[np.uint8]: ...

class Sampler:
    step: int
    length: int
    def __init__(
        self,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        top_n_sigma: float = 0.0,
        xtc_probability: float = 0.0,
        xtc_threshold: float = 0.1,
        dynatemp_range: float = 0.0,
        dynatemp_exponent: float = 1.0,
        repeat_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_last: int = -1,
        dry_multiplier: float = 0.0,
        dry_base: float = 1.75,
        dry_allowed_length: int = 2,
        dry_range: int = -1,
        mirostat: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        seed: int = 0,
        bias: dict[int, float] | None = None,
        logprobs: int = -1,
        mask: npt.ArrayLike | None = None,
        order: Iterable[str] | None = None,
    ) -> None: ...
    @property
    def mirostat_mu(self) -> float: ...
    def extend(self, ids: npt.ArrayLike, breaks: bytes | None = None) -> None: ...
    def draft(self, ids: npt.ArrayLike) -> None: ...
    def advance(self, n: int) -> None: ...

class Known:
    def __init__(self, id: int, logprobs: int) -> None: ...

class Sequence:
    engine: Engine
    def __init__(self, engine: Engine) -> None: ...
    @property
    def length(self) -> int: ...
    def fork(self) -> Sequence: ...
    def state(self) -> npt.NDArray[np.float32]: ...
    def keys(self, cache: int, layer: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...
    def rewind(self, n: int) -> int: ...
    def reaches(self, n: int) -> bool: ...
    def reach(self, n: int) -> int: ...
    def extents(self) -> list[tuple[int, int, int, list[int]]]: ...
    def blocks(self) -> list[memoryview]: ...
    def restore(self, length: int, extents: Iterable[tuple[int, int, int, list[int]]]) -> None: ...
    def pages(self) -> list[tuple[int, int]]: ...
    def rows(self, n: int) -> int: ...

def tuning_limits() -> dict[str, tuple[int, int]]: ...
def default_tuning(isa: str) -> dict[str, int]: ...
def packed_bytes(plan: Plan) -> int: ...
def share_huge(fd: int, size: int) -> bool: ...

class Shared(Protocol):
    fd: int
    packed: bool
    def finish(self) -> None: ...

class Engine:
    plan: Plan
    spare: Callable[[], bool] | None
    max_rows: int
    vocab: int
    dim: int
    kv: str
    @overload
    def __init__(
        self,
        plan: Plan,
        *,
        isa: str,
        threads: int,
        kv: str,
        least_terms: int,
        max_rows: int,
        cache_bytes: int = 0,
        checkpoints: int = 0,
        tuning: Mapping[str, int] | None = None,
        share: Shared | None = None,
        slow_page_ns: int = 0,
    ) -> None: ...
    @overload
    def __init__(self, plan: Plan, *, base: Engine) -> None: ...
    @property
    def recurs(self) -> bool: ...
    def close(self) -> None: ...
    def tune(self, values: Mapping[str, int] | None) -> None: ...
    def pack(self, progress: Callable[[float], None] | None = None) -> None: ...
    def info(self) -> dict[str, Any]: ...
    def matrix_bytes(self, matrix: int) -> int: ...
    def read_matrix(self, matrix: int, function: Callable[[memoryview], object]) -> None: ...
    def matrix(self, matrix: int, rows: tuple[int, int] | None = None) -> npt.NDArray[np.float32]: ...
    @overload
    def forward(
        self, parts: Parts, *, samplers: Samplers, cancel: Cancel = None, failed: None = None
    ) -> list[Sampled]: ...
    @overload
    def forward(
        self,
        parts: Parts,
        *,
        samplers: Samplers,
        cancel: Cancel = None,
        failed: dict[int, Exception],
        found: list[Sampled | None] | None = None,
        meanwhile: Callable[[], None] | None = None,
        masks: Callable[[], None] | None = None,
    ) -> list[Sampled | None]: ...  # None for a row that failed
    @overload
    def forward(self, parts: Parts, *, targets: npt.ArrayLike, top: int = 0, cancel: Cancel = None) -> list[Scored]: ...
    @overload
    def forward(
        self,
        parts: Parts,
        *,
        out: npt.NDArray[np.float32] | None = None,
        cancel: Cancel = None,
        failed: dict[int, Exception] | None = None,
    ) -> None: ...
    @overload
    def forward(
        self,
        parts: Parts,
        *,
        hidden: npt.NDArray[np.float32],
        positions: Sequence_[npt.NDArray[np.int32] | None] | None = None,
        cancel: Cancel = None,
        failed: dict[int, Exception] | None = None,
    ) -> None: ...
    def observe(
        self,
        parts: Parts,
        *,
        ops: tuple[int, int] | None = None,
        feeds: Mapping[int, npt.NDArray[np.float32]] | None = None,
        taps: Sequence_[tuple[int, int]] = (),
        times: bool = False,
        out: npt.NDArray[np.float32] | None = None,
        hidden: npt.NDArray[np.float32] | None = None,
        targets: npt.ArrayLike | None = None,
        top: int = 0,
        samplers: Samplers | None = None,
        found: list[Scored] | list[Sampled | None] | None = None,
        cancel: Cancel = None,
        at: int = -1,
    ) -> tuple[dict[tuple[int, int], npt.NDArray[np.float32]], npt.NDArray[np.int64] | None]: ...
    def attention(
        self,
        q: npt.NDArray[np.float32],
        k: npt.NDArray[np.float32],
        groups: Sequence_[int],
        positions: npt.ArrayLike,
        *,
        scale: float,
        window: int = 0,
        causal: bool = True,
        cap: float = 0,
        sinks: npt.ArrayLike | None = None,
        scores: npt.NDArray[np.float32] | None = None,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> None: ...

PROBES: tuple[str, ...]

class Probe:
    def __init__(self, *, isa: str, threads: int, size: int, small: bool = True) -> None: ...
    def has(self, kind: str) -> bool: ...
    def run(self, kind: str, n: int) -> tuple[float, int]: ...
    def products(self, products: Sequence_[Mapping[str, Any]], *, seconds: float = 60.0) -> list[int]: ...

def row_bytes(format: str, k: int) -> int: ...
def tile_bytes(format: str, k: int) -> int: ...
def pack_rows(format: str, raw: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.uint8]: ...

class Trial:
    def __init__(
        self,
        isa: str,
        format: str,
        x: npt.NDArray[np.float32],
        *,
        terms: int = 1,
        tuning: Mapping[str, int] | None = None,
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...
    def run(
        self,
        packed: npt.NDArray[np.uint8],
        out: npt.NDArray[np.float32],
        scratch: npt.NDArray[np.uint8],
        times: int = 1,
    ) -> None: ...
